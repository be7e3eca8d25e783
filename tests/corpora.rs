//! Replays the corpus of every fuzz target: what was once found, or covers the code, on stable.
//!
//! The bodies of the targets are the files of `fuzz/bodies`; cargo-fuzz runs the same ones.

#[path = "../fuzz/bodies/lib.rs"]
mod bodies;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// Runs `body` on each file of a target's corpus, which must not be empty.
fn replay(target: &str, body: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", dir.display());
    for file in files {
        let bytes = fs::read(&file).unwrap();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(&bytes))) {
            eprintln!("broken by {}", file.display());
            resume_unwind(panic);
        }
    }
}

#[test]
fn honest_histories_equal_the_model() {
    replay("edits", bodies::edits::run);
}

#[test]
fn made_up_responses_are_refused_whole_or_applied_as_the_model_says() {
    replay("apply", bodies::apply::run);
}

#[test]
fn ranges_and_queries_answer_as_defined() {
    replay("ranges", bodies::ranges::run);
}

#[cfg(feature = "test-util")]
#[test]
fn the_mirror_survives_any_messages() {
    replay("wire", bodies::wire::run);
}

#[cfg(feature = "journal")]
#[test]
fn any_file_is_refused_as_a_journal_or_read_without_a_gap() {
    replay("journal_open", bodies::journal_open::run);
}
