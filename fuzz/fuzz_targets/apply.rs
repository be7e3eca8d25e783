//! Made-up watch responses against a model.
//!
//! Owns the entry point only; the body is `bodies::apply`, which stable replays as well.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| bodies::apply::run(bytes));
