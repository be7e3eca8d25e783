//! The mirror's loop under made-up messages.
//!
//! Owns the entry point only; the body is `bodies::wire`, which stable replays as well.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| bodies::wire::run(bytes));
