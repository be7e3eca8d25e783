//! Any file opened as a journal.
//!
//! Owns the entry point only; the body is `bodies::journal_open`, which stable replays as well.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| bodies::journal_open::run(bytes));
