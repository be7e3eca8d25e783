//! The words of the crate: what etcd sends, ranges, entries, changes, positions and ends.
//!
//! Plain data. Must not know views, locks, sources or tasks.

pub(crate) mod change;
pub(crate) mod entry;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod key;
pub(crate) mod range;
pub(crate) mod token;
