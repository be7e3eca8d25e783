//! A piece of a view, and its entries one by one.
//!
//! Owns queries within a piece. Must not look beyond it: whoever narrows step by step stays inside.

use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

use crate::model::{Entry, KeyRange};
use crate::view::packed::{self, Slice};

/// A contiguous piece of a view, ascending by key, borrowed without a copy.
///
/// It can be asked further, so a handler can narrow step by step; a query that reaches beyond the
/// piece is clipped to it.
pub struct Range<'a, T> {
    slice: Slice<'a, T>,
}

impl<'a, T> Range<'a, T> {
    pub(crate) fn of(slice: Slice<'a, T>) -> Self {
        Range { slice }
    }

    /// The number of entries, in O(log n) at most.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slice.len()
    }

    /// Whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slice.is_empty()
    }

    /// The entry of `key` if it lies in this piece, in O(log n).
    #[must_use]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<&'a Arc<Entry<T>>> {
        self.slice.get(key.as_ref())
    }

    /// Whether `key` has an entry in this piece, in O(log n).
    #[must_use]
    pub fn contains(&self, key: impl AsRef<[u8]>) -> bool {
        self.get(key).is_some()
    }

    /// The rank of `key` within this piece, or `Err` with the rank it would have, in O(log n).
    ///
    /// # Errors
    /// `Err` holds the insertion point of an absent key, between zero and [`len`](Range::len).
    pub fn search(&self, key: impl AsRef<[u8]>) -> Result<usize, usize> {
        self.slice.search(key.as_ref())
    }

    /// The entry of rank `rank` within this piece, in O(log n).
    #[must_use]
    pub fn nth(&self, rank: usize) -> Option<&'a Arc<Entry<T>>> {
        self.slice.nth(rank)
    }

    /// The entry with the smallest key.
    #[must_use]
    pub fn first(&self) -> Option<&'a Arc<Entry<T>>> {
        self.slice.first()
    }

    /// The entry with the greatest key.
    #[must_use]
    pub fn last(&self) -> Option<&'a Arc<Entry<T>>> {
        self.slice.last()
    }

    /// The part of this piece in a half-open range, in O(log n); empty when reversed.
    #[must_use]
    pub fn range(&self, range: impl Into<KeyRange>) -> Range<'a, T> {
        let range = range.into();
        Range { slice: self.slice.slice(range.start(), range.end()) }
    }

    /// The part of this piece whose keys begin with `prefix`, in O(log n).
    #[must_use]
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Range<'a, T> {
        self.range(KeyRange::prefix(prefix))
    }

    /// How many keys of this piece begin with `prefix`, in O(log n).
    #[must_use]
    pub fn count(&self, prefix: impl AsRef<[u8]>) -> usize {
        self.prefix(prefix).len()
    }

    /// The entries, ascending by key, from both ends.
    #[must_use]
    pub fn iter(&self) -> Entries<'a, T> {
        Entries { inner: self.slice.iter() }
    }

    /// Whether both pieces hold the same keys at the same `mod_revision`s, in O(k).
    ///
    /// Within one history that means equal values too, so it tells whether anything derived from
    /// the piece must be computed anew.
    #[must_use]
    pub fn equal_key_revisions<U>(&self, other: &Range<'_, U>) -> bool {
        self.len() == other.len()
            && self
                .iter()
                .zip(other.iter())
                .all(|(a, b)| a.mod_revision() == b.mod_revision() && a.key() == b.key())
    }
}

impl<T> Clone for Range<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Range<'_, T> {}

impl<T> fmt::Debug for Range<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Range").field("len", &self.len()).finish()
    }
}

impl<'a, T> IntoIterator for Range<'a, T> {
    type Item = &'a Arc<Entry<T>>;
    type IntoIter = Entries<'a, T>;

    fn into_iter(self) -> Entries<'a, T> {
        self.iter()
    }
}

impl<'a, T> IntoIterator for &Range<'a, T> {
    type Item = &'a Arc<Entry<T>>;
    type IntoIter = Entries<'a, T>;

    fn into_iter(self) -> Entries<'a, T> {
        self.iter()
    }
}

/// Iterates over entries in key order; double-ended and of known length.
pub struct Entries<'a, T> {
    inner: packed::Iter<'a, T>,
}

impl<'a, T> Iterator for Entries<'a, T> {
    type Item = &'a Arc<Entry<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.inner.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }

    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        self.inner.nth(n)
    }
}

impl<T> DoubleEndedIterator for Entries<'_, T> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.inner.next_back()
    }
}

impl<T> ExactSizeIterator for Entries<'_, T> {}
impl<T> FusedIterator for Entries<'_, T> {}

impl<T> Clone for Entries<'_, T> {
    fn clone(&self) -> Self {
        Entries { inner: self.inner.clone() }
    }
}

impl<T> fmt::Debug for Entries<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").field("left", &self.inner.len()).finish()
    }
}
