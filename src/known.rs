//! The known keys of a view, walked beside an ascending read of the same range.
//!
//! Owns which known keys the read has, with which numbers, and which it has not. Pure. Known keys are
//! entries and rejected values alike (C10). Must not decide what a difference means.

use smallvec::SmallVec;

use crate::entry::{Entry, Numbers};
use crate::event::Revision;
use crate::packed::Packed;
use crate::view::View;

/// A key of the read does not ascend, or is not of the range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {} does not ascend within the range", key.escape_ascii())]
pub(crate) struct Unordered {
    pub(crate) key: Vec<u8>,
}

/// A walk over a view's known keys; the read's keys are given to it one by one.
pub(crate) struct Walk<T> {
    pub(crate) base: View<T>,
    /// Ranks of the first known keys that were not passed yet.
    next_entry: usize,
    next_rejected: usize,
    last: Option<Vec<u8>>,
}

/// What a view knows of a key: the rank of its entry and the numbers of its newest value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownKey {
    pub(crate) entry: Option<usize>,
    pub(crate) numbers: Numbers,
}

impl<T> Walk<T> {
    pub(crate) fn new(base: View<T>) -> Self {
        Walk { base, next_entry: 0, next_rejected: 0, last: None }
    }

    /// Takes the next key of the read.
    pub(crate) fn advance(&mut self, key: &[u8]) -> Result<(), Unordered> {
        let ascends = self.last.as_ref().is_none_or(|last| last.as_slice() < key);
        if !ascends || !self.base.mirrored.contains(key) {
            return Err(Unordered { key: key.to_vec() });
        }
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        Ok(())
    }

    /// Passes the next known key below `key` (of all left, without one): the read does not have it.
    pub(crate) fn missing(&mut self, key: Option<&[u8]>) -> Option<SmallVec<[u8; 64]>> {
        let below = |candidate: &&[u8]| key.is_none_or(|key| *candidate < key);
        let entry = key_at(&self.base.entries, self.next_entry).filter(below);
        let rejected = key_at(&self.base.rejected, self.next_rejected).filter(below);
        let missing = match (entry, rejected) {
            (Some(entry), Some(rejected)) => entry.min(rejected),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return None,
        };
        let (had_entry, had_rejected) = (entry == Some(missing), rejected == Some(missing));
        let missing = SmallVec::from_slice(missing);
        self.next_entry += usize::from(had_entry);
        self.next_rejected += usize::from(had_rejected);
        Some(missing)
    }

    /// Passes `key`, below which nothing is left, and tells what is known of it.
    pub(crate) fn pass(&mut self, key: &[u8]) -> Option<KnownKey> {
        let entry = numbers_at(&self.base.entries, self.next_entry, key);
        let rejected = numbers_at(&self.base.rejected, self.next_rejected, key);
        let rank = entry.map(|_| self.next_entry);
        self.next_entry += usize::from(entry.is_some());
        self.next_rejected += usize::from(rejected.is_some());
        rejected.or(entry).map(|numbers| KnownKey { entry: rank, numbers })
    }
}

fn key_at<E>(packed: &Packed<E>, rank: usize) -> Option<&[u8]> {
    packed.all().nth(rank).map(|entry| entry.key())
}

fn numbers_at<E>(packed: &Packed<E>, rank: usize, key: &[u8]) -> Option<Numbers> {
    let entry = packed.all().nth(rank).filter(|entry| entry.key() == key);
    entry.map(|entry: &std::sync::Arc<Entry<E>>| entry.numbers())
}

/// Compares a view's keys and numbers with a read of keys alone at the view's confirmed revision.
pub(crate) struct Comparison<T> {
    walk: Walk<T>,
}

impl<T> Comparison<T> {
    pub(crate) fn new(view: View<T>) -> Self {
        Comparison { walk: Walk::new(view) }
    }

    /// The revision at which the view must equal the store.
    pub(crate) fn confirmed(&self) -> Revision {
        self.walk.base.confirmed
    }

    /// Takes the next keys of the read and gives how many known keys and keys of the read differ;
    /// with `last`, what the view has beyond them too.
    pub(crate) fn page<'a>(
        &mut self,
        keys: impl IntoIterator<Item = (&'a [u8], Numbers)>,
        last: bool,
    ) -> Result<u64, Unordered> {
        let mut differing = 0;
        for (key, numbers) in keys {
            self.walk.advance(key)?;
            while self.walk.missing(Some(key)).is_some() {
                differing += 1;
            }
            let known = self.walk.pass(key);
            differing += u64::from(known.is_none_or(|known| !known.numbers.is_same_write(numbers)));
        }
        while last && self.walk.missing(None).is_some() {
            differing += 1;
        }
        Ok(differing)
    }
}
