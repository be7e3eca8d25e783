//! A run: some dozens of consecutive entries with their column of heads.
//!
//! Owns the layout of a run and the search inside it. Must not know what stands around a run;
//! changes of one are made in `edit`.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::heads::{below, common_prefix, end_of_equal, head};
use super::{GROUP, RUN_FILL, RUN_MAX};
use crate::entry::Entry;

/// Consecutive entries shared as one.
pub(super) type Group<T> = Arc<[Arc<Entry<T>>]>;

/// The groups of a run; every group but the last is full.
pub(super) type Groups<T> = SmallVec<[Group<T>; RUN_MAX / GROUP]>;

/// At least one entry, at most [`RUN_MAX`].
pub(super) struct Run<T> {
    /// The bytes that all keys of the run share, as many as there are.
    skip: usize,
    /// Shared with the versions of the run that differ in values only.
    heads: Arc<[u64]>,
    groups: Groups<T>,
}

impl<T> Run<T> {
    /// A run of `entries`, ascending.
    pub(super) fn new(entries: &[Arc<Entry<T>>]) -> Self {
        let skip = common_skip(entries);
        let heads = entries.iter().map(|entry| head(entry.key(), skip)).collect();
        Run { skip, heads, groups: entries.chunks(GROUP).map(Arc::from).collect() }
    }

    /// A run of groups whose heads behind `skip` bytes are known.
    pub(super) fn from_parts(skip: usize, heads: Arc<[u64]>, groups: Groups<T>) -> Self {
        Run { skip, heads, groups }
    }

    pub(super) fn len(&self) -> usize {
        self.heads.len()
    }

    pub(super) fn skip(&self) -> usize {
        self.skip
    }

    pub(super) fn heads(&self) -> &Arc<[u64]> {
        &self.heads
    }

    pub(super) fn groups(&self) -> &Groups<T> {
        &self.groups
    }

    #[inline]
    pub(super) fn entry(&self, index: usize) -> &Arc<Entry<T>> {
        &self.groups[index / GROUP][index % GROUP]
    }

    pub(super) fn first(&self) -> &Arc<Entry<T>> {
        self.entry(0)
    }

    pub(super) fn last(&self) -> &Arc<Entry<T>> {
        self.entry(self.len() - 1)
    }

    pub(super) fn first_key(&self) -> &[u8] {
        self.first().key()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<Entry<T>>> {
        self.groups.iter().flat_map(|group| group.iter())
    }

    /// The entries of one group from `start` on.
    pub(super) fn chunk_from(&self, start: usize) -> &[Arc<Entry<T>>] {
        &self.groups[start / GROUP][start % GROUP..]
    }

    /// The entries of one group up to, not including, `end`, which is not zero.
    pub(super) fn chunk_to(&self, end: usize) -> &[Arc<Entry<T>>] {
        &self.groups[(end - 1) / GROUP][..(end - 1) % GROUP + 1]
    }

    /// The entry of `key`, if `key` lies in the run.
    ///
    /// A key without the run's prefix is found out by the comparison of the whole key.
    #[inline]
    pub(super) fn get(&self, key: &[u8]) -> Option<&Arc<Entry<T>>> {
        let head = head(key, self.skip);
        let start = below(&self.heads, head);
        if self.heads.get(start) != Some(&head) {
            return None;
        }
        let entry = self.entry(start);
        if entry.key() == key {
            return Some(entry);
        }
        self.among_ties(start, head, key).ok().map(|index| self.entry(index))
    }

    /// The index of `key`, or where it would be inserted.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let prefix = &self.first_key()[..self.skip];
        match key[..self.skip.min(key.len())].cmp(prefix) {
            Ordering::Less => return Err(0),
            Ordering::Greater => return Err(self.len()),
            Ordering::Equal => {}
        }
        let head = head(key, self.skip);
        self.among_ties(below(&self.heads, head), head, key)
    }

    /// Searches the entries whose head is `head`; the first of them, if any, is at `start`.
    fn among_ties(&self, start: usize, head: u64, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (start, end_of_equal(&self.heads, start, head));
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.entry(middle).key().cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Heap bytes of the run itself and what it owns besides entries.
    pub(super) fn heap_bytes(&self) -> usize {
        let groups = self.groups.iter().map(|group| ARC_COUNTS + size_of_val(&**group));
        ARC_COUNTS
            + size_of::<Self>()
            + ARC_COUNTS
            + size_of_val(&*self.heads)
            + groups.sum::<usize>()
    }

    #[cfg(test)]
    pub(super) fn validate(&self) {
        assert!(self.len() >= 1 && self.len() <= RUN_MAX, "a run of {} entries", self.len());
        assert!(!self.groups.spilled(), "a run has too many groups");
        for (index, group) in self.groups.iter().enumerate() {
            let full = index + 1 < self.groups.len();
            assert!(!group.is_empty() && group.len() <= GROUP, "a group of {}", group.len());
            assert!(!full || group.len() == GROUP, "a hole inside a run");
        }
        let entries: Vec<_> = self.entries().cloned().collect();
        assert_eq!(entries.len(), self.len(), "heads and entries differ in number");
        assert!(entries.is_sorted_by(|a, b| a.key() < b.key()), "keys of a run do not ascend");
        assert_eq!(self.skip, common_skip(&entries), "a run has the wrong prefix");
        let heads: Vec<_> = entries.iter().map(|entry| head(entry.key(), self.skip)).collect();
        assert_eq!(*heads, *self.heads, "a run has wrong heads");
    }
}

/// What an `Arc` allocates besides its content.
pub(super) const ARC_COUNTS: usize = 2 * size_of::<usize>();

/// The length of the prefix that ascending entries share: that of the first and the last.
pub(super) fn common_skip<T>(entries: &[Arc<Entry<T>>]) -> usize {
    match entries {
        [] => 0,
        [first, .., last] => common_prefix(first.key(), last.key()),
        [only] => only.key().len(),
    }
}

/// Cuts `entries` into runs of even length.
pub(super) fn runs_of<T>(entries: &[Arc<Entry<T>>]) -> impl Iterator<Item = Arc<Run<T>>> + '_ {
    even_parts(entries.len(), RUN_FILL, RUN_MAX).map(|part| Arc::new(Run::new(&entries[part])))
}

/// Cuts `0..len` into parts of even length: one if `max` allows it, else parts of up to `fill`.
pub(super) fn even_parts(
    len: usize,
    fill: usize,
    max: usize,
) -> impl Iterator<Item = Range<usize>> {
    let parts = if len == 0 {
        0
    } else if len <= max {
        1
    } else {
        len.div_ceil(fill)
    };
    (0..parts).map(move |part| part * len / parts..(part + 1) * len / parts)
}
