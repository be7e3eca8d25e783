//! Part of a version: the entries between two ranks.
//!
//! Owns queries by key range and rank, and iteration. Must not change or copy anything.

use std::iter::FusedIterator;
use std::slice;
use std::sync::Arc;

use super::load_lines;
use super::root::{Near, Root};
use crate::model::Entry;

/// Consecutive entries of a version, borrowed. Ranks count from the start of the slice.
pub(crate) struct Slice<'a, T> {
    root: &'a Root<T>,
    start: usize,
    end: usize,
}

impl<T> Clone for Slice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slice<'_, T> {}

impl<'a, T> Slice<'a, T> {
    pub(super) fn all(root: &'a Root<T>) -> Self {
        Slice { root, start: 0, end: root.len() }
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The entry of `key`, if it lies in the slice.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&'a Arc<Entry<T>>> {
        if self.len() == self.root.len() {
            return self.root.get(key);
        }
        self.search(key).ok().and_then(|rank| self.nth(rank))
    }

    /// The rank of `key`, or the rank it would have in the slice.
    pub(crate) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        match self.root.search(key) {
            Ok(rank) if rank < self.start => Err(0),
            Ok(rank) if rank >= self.end => Err(self.len()),
            Ok(rank) => Ok(rank - self.start),
            Err(rank) => Err(rank.clamp(self.start, self.end) - self.start),
        }
    }

    /// The entry of a rank.
    pub(crate) fn nth(&self, rank: usize) -> Option<&'a Arc<Entry<T>>> {
        if rank >= self.len() {
            return None;
        }
        let rank = self.start + rank;
        self.root.group_at(rank).map(|(near, first)| &near.entries()[rank - first])
    }

    pub(crate) fn first(&self) -> Option<&'a Arc<Entry<T>>> {
        self.nth(0)
    }

    pub(crate) fn last(&self) -> Option<&'a Arc<Entry<T>>> {
        self.nth(self.len().checked_sub(1)?)
    }

    /// The part from `lower` up to, not including, `upper`; empty when that is reversed.
    pub(crate) fn slice(&self, lower: &[u8], upper: Option<&[u8]>) -> Slice<'a, T> {
        let (Ok(from) | Err(from)) = self.search(lower);
        let to = upper.map_or(self.len(), |upper| {
            let (Ok(to) | Err(to)) = self.search(upper);
            to
        });
        let start = self.start + from;
        Slice { root: self.root, start, end: start.max(self.start + to) }
    }

    pub(crate) fn iter(&self) -> Iter<'a, T> {
        Iter {
            root: self.root,
            front: [].iter(),
            near_front: None,
            start: self.start,
            end: self.end,
            near_back: None,
            back: [].iter(),
        }
    }
}

/// Entries ascending by key, from both ends.
pub(crate) struct Iter<'a, T> {
    root: &'a Root<T>,
    /// Comes first.
    front: slice::Iter<'a, Arc<Entry<T>>>,
    /// The group that ends at `start`, if it is known.
    near_front: Option<Near<'a, T>>,
    /// The ranks between `front` and `back`.
    start: usize,
    end: usize,
    /// The group that begins at `end`, if it is known.
    near_back: Option<Near<'a, T>>,
    /// Comes last.
    back: slice::Iter<'a, Arc<Entry<T>>>,
}

impl<T> Clone for Iter<'_, T> {
    fn clone(&self) -> Self {
        Iter { front: self.front.clone(), back: self.back.clone(), ..*self }
    }
}

impl<'a, T> Iter<'a, T> {
    /// Takes the next group into `front`, which is used up.
    fn refill_front(&mut self) -> Option<()> {
        if self.start == self.end {
            return None;
        }
        let (near, first) = match self.near_front.and_then(Near::next) {
            Some(near) => (near, self.start),
            None => self.root.group_at(self.start)?,
        };
        if let Some(next) = near.next() {
            // While this group is read, the pointers of the next one are on their way.
            load_lines(next.entries());
        }
        let group = &near.entries()[self.start - first..];
        let group = &group[..group.len().min(self.end - self.start)];
        self.start += group.len();
        self.near_front = Some(near);
        self.front = group.iter();
        Some(())
    }

    /// Takes the last group into `back`, which is used up.
    fn refill_back(&mut self) -> Option<()> {
        if self.start == self.end {
            return None;
        }
        let group = match self.near_back.and_then(Near::previous) {
            Some(near) => {
                self.near_back = Some(near);
                near.entries()
            }
            None => {
                let (near, first) = self.root.group_at(self.end - 1)?;
                self.near_back = Some(near);
                &near.entries()[..self.end - first]
            }
        };
        let group = &group[group.len().saturating_sub(self.end - self.start)..];
        self.end -= group.len();
        self.back = group.iter();
        Some(())
    }
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a Arc<Entry<T>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.front.next() {
                return Some(entry);
            }
            if self.refill_front().is_none() {
                return self.back.next();
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = self.front.len() + (self.end - self.start) + self.back.len();
        (len, Some(len))
    }

    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        let Some(beyond) = n.checked_sub(self.front.len()) else { return self.front.nth(n) };
        (self.front, self.near_front) = ([].iter(), None);
        let skipped = beyond.min(self.end - self.start);
        self.start += skipped;
        if self.start < self.end { self.next() } else { self.back.nth(beyond - skipped) }
    }

    fn count(self) -> usize {
        self.len()
    }

    fn last(mut self) -> Option<Self::Item> {
        self.next_back()
    }
}

impl<T> DoubleEndedIterator for Iter<'_, T> {
    fn next_back(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.back.next_back() {
                return Some(entry);
            }
            if self.refill_back().is_none() {
                return self.front.next_back();
            }
        }
    }

    fn nth_back(&mut self, n: usize) -> Option<Self::Item> {
        let Some(beyond) = n.checked_sub(self.back.len()) else { return self.back.nth_back(n) };
        (self.back, self.near_back) = ([].iter(), None);
        let skipped = beyond.min(self.end - self.start);
        self.end -= skipped;
        if self.start < self.end { self.next_back() } else { self.front.nth_back(beyond - skipped) }
    }
}

impl<T> ExactSizeIterator for Iter<'_, T> {}
impl<T> FusedIterator for Iter<'_, T> {}
