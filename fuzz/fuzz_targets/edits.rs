//! Batches and loads against a model.
//!
//! Owns the entry point only; the body is `bodies::edits`, which stable replays as well.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| bodies::edits::run(bytes));
