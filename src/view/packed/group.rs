//! A group: a handful of consecutive entries with their heads.
//!
//! Owns the place of an entry's pointer and the last step of a search. Must not know what stands
//! around a group.

use std::cmp::Ordering;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::heads::{Heads, common_prefix, first_above};
use super::sizes::GROUP_MAX;
use crate::model::Entry;

/// Pointers to at most [`GROUP_MAX`] entries.
pub(super) type Entries<T> = ArrayVec<Arc<Entry<T>>, GROUP_MAX>;

/// At least one entry, at most [`GROUP_MAX`].
#[repr(C)]
pub(super) struct Group<T> {
    heads: Heads<i32, GROUP_MAX>,
    entries: Entries<T>,
}

impl<T> Group<T> {
    /// A group of `entries`, ascending.
    pub(super) fn new(entries: Entries<T>) -> Self {
        let skip = common_skip(&entries);
        let heads = Heads::new(skip, entries.iter().map(|entry| entry.key()));
        Group { heads, entries }
    }

    /// The group with other entries for the same keys.
    pub(super) fn with_values(&self, entries: Entries<T>) -> Self {
        Group { heads: self.heads, entries }
    }

    pub(super) fn len(&self) -> usize {
        self.heads.len()
    }

    pub(super) fn entries(&self) -> &[Arc<Entry<T>>] {
        &self.entries
    }

    pub(super) fn first_key(&self) -> &[u8] {
        self.entries[0].key()
    }

    /// The entry of `key`.
    ///
    /// A key without the group's prefix is found out by the comparison of the whole key. Always
    /// inlined, since a call would cost a tenth of a look-up.
    #[inline(always)]
    pub(super) fn get(&self, key: &[u8]) -> Option<&Arc<Entry<T>>> {
        let (start, tie) = self.heads.find(key);
        let entry = self.entries.get(start).filter(|_| tie)?;
        if entry.key() == key { Some(entry) } else { self.get_among_ties(start, key) }
    }

    /// The first entry with the head of `key`. If there is none, `key` is absent.
    #[inline(always)]
    pub(super) fn guess(&self, key: &[u8]) -> Option<&Arc<Entry<T>>> {
        let (start, tie) = self.heads.find(key);
        self.entries.get(start).filter(|_| tie)
    }

    /// Loads what a search reads without waiting for it.
    #[inline]
    pub(super) fn load(&self) {
        self.heads.load();
        super::load_lines(&self.entries);
    }

    #[cold]
    fn get_among_ties(&self, start: usize, key: &[u8]) -> Option<&Arc<Entry<T>>> {
        let ties = &self.entries[start..self.heads.end_of_ties(start)];
        ties.binary_search_by(|entry| entry.key().cmp(key)).ok().map(|index| &ties[index])
    }

    /// The entry that a search for `key` compares with it.
    #[inline]
    pub(super) fn candidate(&self, key: &[u8]) -> &Entry<T> {
        let (start, _) = self.heads.find(key);
        &self.entries[start.min(self.len() - 1)]
    }

    /// The index of `key`, or where it would be inserted.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (start, tie) = self.heads.find(key);
        let candidate = self.entries[start.min(self.len() - 1)].key();
        if tie && candidate == key {
            return Ok(start);
        }
        let skip = self.heads.skip();
        match key[..skip.min(key.len())].cmp(&candidate[..skip]) {
            Ordering::Less => return Err(0),
            Ordering::Greater => return Err(self.len()),
            Ordering::Equal if !tie => return Err(start),
            Ordering::Equal => {}
        }
        let end = self.heads.end_of_ties(start);
        let above = first_above(start, end, key, |index| self.entries[index].key());
        match above.checked_sub(1).filter(|index| self.entries[*index].key() == key) {
            Some(index) => Ok(index),
            None => Err(above),
        }
    }

    #[cfg(test)]
    pub(super) fn validate(&self) {
        let len = self.entries.len();
        assert!((1..=GROUP_MAX).contains(&len), "a group of {len} entries");
        assert!(self.entries.is_sorted_by(|a, b| a.key() < b.key()), "a group does not ascend");
        let fresh = Heads::new(common_skip(&self.entries), self.entries.iter().map(|e| e.key()));
        assert_eq!(self.heads, fresh, "a group has wrong heads");
    }
}

/// The length of the prefix that ascending entries share: that of the first and the last.
fn common_skip<T>(entries: &[Arc<Entry<T>>]) -> usize {
    match entries {
        [] => 0,
        [first, .., last] => common_prefix(first.key(), last.key()),
        [only] => only.key().len(),
    }
}
