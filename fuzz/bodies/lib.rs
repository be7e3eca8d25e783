//! The bodies of the fuzz targets: each takes any bytes and panics when a promise is broken.
//!
//! Owns the list of targets. Must need neither nightly nor cargo-fuzz, since the crate's own test
//! `corpora` includes these files to replay the corpus, and must use the crate's public surface only.
#![allow(dead_code, unreachable_pub, reason = "a library here, a module of a test there")]

pub mod apply;
mod check;
pub mod edits;
mod input;
#[cfg(feature = "journal")]
pub mod journal_open;
mod keys;
pub mod ranges;
mod store;
#[cfg(feature = "test-util")]
pub mod wire;
