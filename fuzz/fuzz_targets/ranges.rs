//! Ranges, prefixes and queries against their definitions.
//!
//! Owns the entry point only; the body is `bodies::ranges`, which stable replays as well.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| bodies::ranges::run(bytes));
