//! The storage of a view: entries in key order, packed, persistent.
//!
//! Owns the order of the entries and the memory they are kept in. Must not know revisions, events
//! or ranges of a mirror, and holds no lock, clock or thread.
//!
//! The page `docs/storage.md`, in the crate's documentation as `guide::storage`, explains shape, costs and
//! invariants (P1 to P5) once for all files here.

mod balance;
mod build;
mod diff;
mod edit;
mod group;
mod heads;
mod many;
mod part;
mod place;
mod root;
mod run;
mod sizes;
mod slice;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::root::Root;
use crate::model::Entry;

pub(crate) use self::build::PackedBuilder;
pub(crate) use self::edit::Edit;
pub(crate) use self::part::Fingerprint;
pub(crate) use self::place::Place;
pub(crate) use self::slice::{Iter, Slice};

/// Entries ascending by key, each key once. A clone is **O(1)** and never changes.
pub(crate) struct Packed<T> {
    root: Arc<Root<T>>,
}

impl<T> Clone for Packed<T> {
    fn clone(&self) -> Self {
        Packed { root: Arc::clone(&self.root) }
    }
}

impl<T> Default for Packed<T> {
    fn default() -> Self {
        Packed { root: Arc::new(Root::default()) }
    }
}

impl<T> Packed<T> {
    /// The number of entries.
    pub(crate) fn len(&self) -> usize {
        self.root.len()
    }

    /// The entries from `lower` up to, not including, `upper`; empty when that is reversed.
    pub(crate) fn slice(&self, lower: &[u8], upper: Option<&[u8]>) -> Slice<'_, T> {
        self.all().slice(lower, upper)
    }

    /// All entries.
    pub(crate) fn all(&self) -> Slice<'_, T> {
        Slice::all(&self.root)
    }

    /// The entry of `key`.
    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Arc<Entry<T>>> {
        self.root.get(key)
    }

    /// Heap bytes of the storage, of the entries, and of keys and numbers outside their entry; what values
    /// keep on the heap is not known here. Visits every run, no entry.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.root.heap_bytes()
    }

    /// The sum of the keys' lengths. **O(1)**.
    pub(crate) fn key_bytes(&self) -> usize {
        self.root.tally().key_bytes
    }

    /// Panics with the reason if an invariant does not hold.
    #[cfg(test)]
    pub(crate) fn validate(&self) {
        self.root.validate();
    }
}

/// Loads the counts of `pieces`, all at once. Counting up or down, which comes next, would load
/// them one after another.
fn touch<P>(pieces: &[Arc<P>]) {
    std::hint::black_box(pieces.iter().map(Arc::strong_count).sum::<usize>());
}

/// Loads the lines that `pieces` lie on without waiting for them: what a search reads after the
/// column is there when the column is.
#[inline]
fn load_lines<P>(pieces: &[Arc<P>]) {
    let word = |at: usize| pieces.get(at).map_or(0, |piece| Arc::as_ptr(piece).addr());
    std::hint::black_box(word(0) ^ word(8));
}

/// Reads of an entry what a comparison will read, its numbers and its key, which lie on two lines.
/// Combine the results and give them to `black_box`, so that none is left out.
#[inline]
fn load_entry<T>(entry: &Entry<T>) -> u64 {
    entry.words()
}
