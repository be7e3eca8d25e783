//! The read surface: everything that can be asked of the mirrored keys at one point in time.
//!
//! Owns [`View`] and its queries. Pure: a view is a value that never changes, and knows no lock, so the same
//! methods serve guards, snapshots and observers. `next` makes the next view, `packed` stores the entries.

mod decode;
mod next;
mod outside;
mod packed;
mod range;

#[cfg(feature = "json")]
pub use self::decode::json;
pub use self::decode::{BadValues, BoxError, DecodeError, Decoder, bytes};
pub(crate) use self::decode::{FormerRejection, caught_message};
pub use self::next::continuity::{ApplyError, Break, Continuity, Tolerated};
pub(crate) use self::next::edits::{Decoding, Loading, NextView, after_batch};
pub(crate) use self::next::judge::{Known, judge};
pub(crate) use self::next::walk::{
    BadRecord, Comparison, Differing, Write, bytes_within, newest_writes,
};
pub use self::outside::OutsideRange;
pub(crate) use self::packed::{Fingerprint, Packed, PackedBuilder};

use std::fmt;
use std::sync::Arc;

use crate::model::{Change, Entry, KeyRange, Numbers, Revision};
use crate::view::decode::Rejection;
use crate::view::packed::Place;

pub use self::range::{Entries, Range};

/// The mirrored keys at one revision.
///
/// Reached through a read guard, a [`Snapshot`](crate::Snapshot) or an observer. Results borrow
/// from the view and copy nothing; an `Arc<Entry<T>>` among them can be cloned and kept for ever.
///
/// Costs: n is the number of entries in the view, k the number of results.
///
/// # Keys outside the mirrored range
/// A view knows nothing about them, so answering "absent" would be a lie. `get`, `prefix`, `range`
/// and their like panic with the caller's location; the `try_` forms return [`OutsideRange`] for
/// keys that come from users. Unbounded ends, and the empty prefix, mean everything mirrored.
pub struct View<T> {
    pub(crate) entries: Packed<T>,
    /// Keys whose newest value could not be decoded (C10), with its numbers.
    pub(crate) rejected: Packed<Rejection>,
    /// Rejected keys without an entry: known keys are `entries` plus these.
    pub(crate) rejected_without_entry: usize,
    pub(crate) mirrored: Arc<KeyRange>,
    pub(crate) revision: Revision,
    pub(crate) confirmed: Revision,
    /// The revision of the newest complete read. When it changed nothing it is beyond `revision`, and
    /// what was done and undone between the two is not known.
    pub(crate) loaded: Revision,
    pub(crate) cluster_id: Option<u64>,
    pub(crate) epoch: u64,
    /// How many views were shown before.
    pub(crate) step: u64,
}

impl<T> View<T> {
    /// A view of nothing, as before the first load.
    pub(crate) fn empty(mirrored: Arc<KeyRange>) -> Self {
        View {
            entries: Packed::default(),
            rejected: Packed::default(),
            rejected_without_entry: 0,
            mirrored,
            revision: 0,
            confirmed: 0,
            loaded: 0,
            cluster_id: None,
            epoch: 1,
            step: 0,
        }
    }

    /// The same view again: a few reference counts, not the entries.
    pub(crate) fn share(&self) -> Self {
        View {
            entries: self.entries.clone(),
            rejected: self.rejected.clone(),
            rejected_without_entry: self.rejected_without_entry,
            mirrored: Arc::clone(&self.mirrored),
            revision: self.revision,
            confirmed: self.confirmed,
            loaded: self.loaded,
            cluster_id: self.cluster_id,
            epoch: self.epoch,
            step: self.step,
        }
    }

    /// The numbers of a known key: those of its newest value, decoded or not. `place` is that of
    /// the key among the entries.
    pub(crate) fn known(&self, key: &[u8], place: &Place) -> Option<Numbers> {
        if self.rejected.len() > 0
            && let Some(rejected) = self.rejected.get(key)
        {
            return Some(rejected.numbers());
        }
        self.entries.at(place).map(|entry| entry.numbers())
    }

    /// Entries plus rejected keys that show none: as many keys as etcd has in the range.
    pub(crate) fn known_keys(&self) -> usize {
        self.entries.len() + self.rejected_without_entry
    }

    /// The greatest `mod_revision` applied, deletions included; after a load, the load's revision
    /// (C1). Zero before the first load.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The greatest store revision through which the view is known to be complete (C1, C2): never
    /// below [`revision`](View::revision), and above it when etcd reported progress.
    #[must_use]
    pub fn confirmed(&self) -> Revision {
        self.confirmed
    }

    /// The cluster the keys are from; `None` before the first load.
    #[must_use]
    pub fn cluster_id(&self) -> Option<u64> {
        self.cluster_id
    }

    /// Counts from one, up by one whenever the store's history was found to be another one (a
    /// restored backup), or other entries than those shown were found at the very same revision
    /// (a server had lost events). Revisions compare only within an epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The range of keys the view is of.
    #[must_use]
    pub fn mirrored(&self) -> &KeyRange {
        &self.mirrored
    }

    /// The number of entries, in O(1).
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.len() == 0
    }

    /// Everything mirrored, ascending by key.
    #[must_use]
    pub fn all(&self) -> Range<'_, T> {
        Range::of(self.entries.all())
    }

    /// Everything mirrored, ascending by key; the same as `all().iter()`.
    pub fn iter(&self) -> Entries<'_, T> {
        self.all().iter()
    }

    /// The entry of `key`, in O(log n).
    ///
    /// # Panics
    /// When `key` is outside the mirrored range.
    #[must_use]
    #[inline]
    #[track_caller]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<&Arc<Entry<T>>> {
        let key = key.as_ref();
        match self.entries.get(key) {
            Some(entry) => Some(entry),
            None => self.absent(key),
        }
    }

    /// Returns `None` for a key of the range. Out of line, so that a hit does not pay for it.
    #[cold]
    #[track_caller]
    fn absent(&self, key: &[u8]) -> Option<&Arc<Entry<T>>> {
        ok(self.check_key(key));
        None
    }

    /// The entries of `keys`, in the order of the keys, each `None` if the key is absent. For k keys
    /// in O(k log n).
    ///
    /// The keys need no order, and a key may occur twice. Waits for memory overlap: with a million keys this
    /// takes 0.4 of the time of as many [`get`](View::get)s, with a thousand 0.8. Beyond the result it
    /// needs a fixed amount of memory.
    ///
    /// # Panics
    /// When one of the keys is outside the mirrored range.
    ///
    /// ```
    /// use etcd_keyspace::{Entry, KeyRange, KeySpace};
    ///
    /// let entries = ["/limits/a", "/limits/c"].map(|key| Entry::new(key, 5, 1));
    /// let limits = KeySpace::from_entries(KeyRange::prefix("/limits/"), entries)?;
    /// let view = limits.snapshot();
    ///
    /// let found = view.get_many(&["/limits/c", "/limits/b"]);
    /// assert_eq!(found[0].map(|entry| *entry.value()), Some(5));
    /// assert!(found[1].is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    #[track_caller]
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Option<&Arc<Entry<T>>>> {
        ok(self.try_get_many(keys))
    }

    /// Whether `key` has an entry, in O(log n).
    ///
    /// # Panics
    /// When `key` is outside the mirrored range.
    #[must_use]
    #[track_caller]
    pub fn contains(&self, key: impl AsRef<[u8]>) -> bool {
        self.get(key).is_some()
    }

    /// The rank of `key` among all entries, or `Err` with the rank it would have, in O(log n).
    ///
    /// # Errors
    /// `Err` holds the insertion point of an absent key.
    ///
    /// # Panics
    /// When `key` is outside the mirrored range.
    #[track_caller]
    pub fn search(&self, key: impl AsRef<[u8]>) -> Result<usize, usize> {
        ok(self.check_key(key.as_ref()));
        self.entries.all().search(key.as_ref())
    }

    /// The entry of rank `rank`, counted from zero in key order, in O(log n).
    #[must_use]
    pub fn nth(&self, rank: usize) -> Option<&Arc<Entry<T>>> {
        self.entries.all().nth(rank)
    }

    /// The entry with the smallest key.
    #[must_use]
    pub fn first(&self) -> Option<&Arc<Entry<T>>> {
        self.entries.all().first()
    }

    /// The entry with the greatest key.
    #[must_use]
    pub fn last(&self) -> Option<&Arc<Entry<T>>> {
        self.entries.all().last()
    }

    /// The entries of a half-open range (`from..to`, `from..`, `..to`, `..`, or a [`KeyRange`]), in
    /// O(log n); empty when reversed.
    ///
    /// # Panics
    /// When a bound is outside the mirrored range.
    #[must_use]
    #[track_caller]
    pub fn range(&self, range: impl Into<KeyRange>) -> Range<'_, T> {
        ok(self.try_range(range))
    }

    /// The entries whose keys begin with `prefix`, in O(log n).
    ///
    /// # Panics
    /// When keys with the prefix may lie outside the mirrored range.
    #[must_use]
    #[track_caller]
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Range<'_, T> {
        ok(self.try_prefix(prefix))
    }

    /// How many keys begin with `prefix`, in O(log n).
    ///
    /// # Panics
    /// When keys with the prefix may lie outside the mirrored range.
    #[must_use]
    #[track_caller]
    pub fn count(&self, prefix: impl AsRef<[u8]>) -> usize {
        self.prefix(prefix).len()
    }

    /// [`get`](View::get) for a key that comes from a user.
    ///
    /// # Errors
    /// [`OutsideRange`] when the view cannot know the key.
    pub fn try_get(&self, key: impl AsRef<[u8]>) -> Result<Option<&Arc<Entry<T>>>, OutsideRange> {
        // A key that is there is within the range, so only a miss has to be judged.
        match self.entries.get(key.as_ref()) {
            Some(entry) => Ok(Some(entry)),
            None => self.check_key(key.as_ref()).map(|()| None),
        }
    }

    /// [`get_many`](View::get_many) for keys that come from a user.
    ///
    /// # Errors
    /// [`OutsideRange`] for the first key that the view cannot know.
    pub fn try_get_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
    ) -> Result<Vec<Option<&Arc<Entry<T>>>>, OutsideRange> {
        let mut found = Vec::with_capacity(keys.len());
        self.entries.get_many(keys, &mut found);
        // As in `try_get`, only a miss has to be judged.
        for (key, _) in keys.iter().zip(&found).filter(|(_, found)| found.is_none()) {
            self.check_key(key.as_ref())?;
        }
        Ok(found)
    }

    /// [`range`](View::range) for bounds that come from a user.
    ///
    /// # Errors
    /// [`OutsideRange`] when the view cannot know all keys of the range.
    pub fn try_range(&self, range: impl Into<KeyRange>) -> Result<Range<'_, T>, OutsideRange> {
        let asked = OutsideRange::check(range.into(), &self.mirrored)?;
        Ok(Range::of(self.entries.slice(asked.start(), asked.end())))
    }

    /// [`prefix`](View::prefix) for a prefix that comes from a user.
    ///
    /// # Errors
    /// [`OutsideRange`] when the view cannot know all keys with the prefix.
    pub fn try_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Range<'_, T>, OutsideRange> {
        let asked = KeyRange::prefix(prefix.as_ref());
        if prefix.as_ref().is_empty() || self.mirrored.covers(&asked) {
            Ok(Range::of(self.entries.slice(asked.start(), asked.end())))
        } else {
            Err(self.outside(asked))
        }
    }

    fn check_key(&self, key: &[u8]) -> Result<(), OutsideRange> {
        if self.mirrored.contains(key) { Ok(()) } else { Err(self.outside(KeyRange::key(key))) }
    }

    fn outside(&self, asked: KeyRange) -> OutsideRange {
        OutsideRange { asked, mirrored: KeyRange::clone(&self.mirrored) }
    }

    /// The net changes that lead from `older` to this view, ascending by key.
    pub(crate) fn changes_since(&self, older: &View<T>) -> Vec<Change<T>> {
        let differences = self.entries.diff(&older.entries);
        differences.into_iter().filter_map(|d| Change::between(d.old, d.new)).collect()
    }
}

impl<T> fmt::Debug for View<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("mirrored", &self.mirrored)
            .field("len", &self.len())
            .field("revision", &self.revision)
            .field("confirmed", &self.confirmed)
            .field("epoch", &self.epoch)
            .finish()
    }
}

impl<'a, T> IntoIterator for &'a View<T> {
    type Item = &'a Arc<Entry<T>>;
    type IntoIter = Entries<'a, T>;

    fn into_iter(self) -> Entries<'a, T> {
        self.iter()
    }
}

#[track_caller]
fn ok<V>(result: Result<V, OutsideRange>) -> V {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}; use the `try_` form for keys that come from users"),
    }
}
