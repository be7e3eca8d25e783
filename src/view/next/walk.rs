//! The known keys of a view, walked beside an ascending read of the same range.
//!
//! Owns which known keys the read has, with which numbers, and which it has not. Pure. Known keys are
//! entries and rejected values alike (C10). Must not decide what a difference means.

use std::ops::AddAssign;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::model::{Entry, Numbers, RawKeyValue, Revision, ValueHash};
use crate::view::View;
use crate::view::packed::Packed;

/// A record that no read of the range can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRecord {
    #[error("key {} does not ascend within the range", key.escape_ascii())]
    Unordered { key: Vec<u8> },
    #[error("key {} has impossible numbers: {numbers:?}", key.escape_ascii())]
    Impossible { key: Vec<u8>, numbers: Numbers },
}

/// A walk over a view's known keys; the read's keys are given to it one by one.
pub(crate) struct MergeWalk<T> {
    pub(crate) base: View<T>,
    /// Ranks of the first known keys that were not passed yet.
    next_entry: usize,
    next_rejected: usize,
    last: Option<Vec<u8>>,
}

/// What a view knows of a key: the rank of its entry, and the numbers and the hash of its newest value,
/// decodable or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownKey {
    pub(crate) entry: Option<usize>,
    /// Whether the newest value is rejected; the entry then has an older one.
    pub(crate) rejected: bool,
    pub(crate) numbers: Numbers,
    pub(crate) value: ValueHash,
}

impl<T> MergeWalk<T> {
    pub(crate) fn new(base: View<T>) -> Self {
        MergeWalk { base, next_entry: 0, next_rejected: 0, last: None }
    }

    /// Takes the next key of the read, which has these numbers.
    pub(crate) fn advance(&mut self, key: &[u8], numbers: Numbers) -> Result<(), BadRecord> {
        let ascends = self.last.as_ref().is_none_or(|last| last.as_slice() < key);
        if !ascends || !self.base.mirrored.contains(key) {
            return Err(BadRecord::Unordered { key: key.to_vec() });
        }
        if !numbers.is_possible() {
            return Err(BadRecord::Impossible { key: key.to_vec(), numbers });
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
        let entry = newest_at(&self.base.entries, self.next_entry, key);
        let rejected = newest_at(&self.base.rejected, self.next_rejected, key);
        let rank = entry.map(|_| self.next_entry);
        self.next_entry += usize::from(entry.is_some());
        self.next_rejected += usize::from(rejected.is_some());
        let (numbers, value) = rejected.or(entry)?;
        Some(KnownKey { entry: rank, rejected: rejected.is_some(), numbers, value })
    }
}

fn key_at<E>(packed: &Packed<E>, rank: usize) -> Option<&[u8]> {
    packed.all().nth(rank).map(|entry| entry.key())
}

fn newest_at<E>(packed: &Packed<E>, rank: usize, key: &[u8]) -> Option<(Numbers, ValueHash)> {
    let entry = packed.all().nth(rank).filter(|entry| entry.key() == key);
    entry.map(|entry: &Arc<Entry<E>>| (entry.numbers(), entry.value_hash()))
}

/// How many keys differ between a view and a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Differing {
    /// Keys that only one side has, or whose newest write is another one.
    pub(crate) keys: u64,
    /// Keys with the same newest write and another value or lease: two histories.
    pub(crate) values: u64,
}

impl Differing {
    pub(crate) fn is_none(self) -> bool {
        self == Differing::default()
    }
}

impl AddAssign for Differing {
    fn add_assign(&mut self, more: Differing) {
        self.keys += more.keys;
        self.values += more.values;
    }
}

/// Compares a view with a read of the range at the view's confirmed revision: keys and numbers, and
/// values where the read has them.
pub(crate) struct Comparison<T> {
    walk: MergeWalk<T>,
}

impl<T> Comparison<T> {
    pub(crate) fn new(view: View<T>) -> Self {
        Comparison { walk: MergeWalk::new(view) }
    }

    /// The revision at which the view must equal the store.
    pub(crate) fn confirmed(&self) -> Revision {
        self.walk.base.confirmed
    }

    /// Compares the next keys of the read, each with its numbers and, to compare its value too, the hash
    /// of that; returns how many differ. With `last` the view's keys beyond them count as missing.
    pub(crate) fn page<'a>(
        &mut self,
        keys: impl IntoIterator<Item = (&'a [u8], Numbers, Option<ValueHash>)>,
        last: bool,
    ) -> Result<Differing, BadRecord> {
        let mut differing = Differing::default();
        for (key, numbers, value) in keys {
            self.walk.advance(key, numbers)?;
            while self.walk.missing(Some(key)).is_some() {
                differing.keys += 1;
            }
            match self.walk.pass(key).filter(|known| known.numbers.is_same_write(numbers)) {
                Some(known) => {
                    let same = |value| value == known.value && known.numbers.lease == numbers.lease;
                    differing.values += u64::from(value.is_some_and(|value| !same(value)));
                }
                None => differing.keys += 1,
            }
        }
        while last && self.walk.missing(None).is_some() {
            differing.keys += 1;
        }
        Ok(differing)
    }
}

/// A live write that a view knows: what a store of the same history must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) key: Vec<u8>,
    pub(crate) numbers: Numbers,
    value: ValueHash,
}

impl Write {
    fn of<E>(entry: &Entry<E>) -> Self {
        let (numbers, value) = (entry.numbers(), entry.value_hash());
        Write { key: entry.key().to_vec(), numbers, value }
    }

    /// Whether `found` is this write, with this value.
    pub(crate) fn is(&self, found: Option<&RawKeyValue>) -> bool {
        found.is_some_and(|found| {
            self.key == found.key
                && self.numbers.is_same_write(Numbers::from(found))
                && self.numbers.lease == found.lease
                && self.value == ValueHash::of(&found.value)
        })
    }
}

/// An upper bound for the bytes of all known keys and values, if they are within `keys` and `bytes`;
/// costs O(keys).
pub(crate) fn bytes_within<T>(view: &View<T>, keys: usize, bytes: u64) -> Option<u64> {
    if view.known_keys() > keys {
        return None;
    }
    let mut sum = 0_u64;
    let entries = view.entries.all().iter().map(|entry| size(entry));
    let rejected = view.rejected.all().iter().map(|entry| size(entry));
    for size in entries.chain(rejected) {
        sum = sum.saturating_add(size);
        if sum > bytes {
            return None;
        }
    }
    Some(sum)
}

fn size<E>(entry: &Entry<E>) -> u64 {
    entry.key().len() as u64 + entry.value_hash().bytes_at_most()
}

/// The `count` newest live writes, the newest first; costs O(n).
pub(crate) fn newest_writes<T>(view: &View<T>, count: usize) -> Vec<Write> {
    let mut newest: Vec<Write> = Vec::with_capacity(count + 1);
    for entry in view.rejected.all().iter() {
        consider(&mut newest, count, entry, || true);
    }
    for entry in view.entries.all().iter() {
        // An entry that is kept in place of a rejected value is not the newest write of its key.
        consider(&mut newest, count, entry, || view.rejected.get(entry.key()).is_none());
    }
    newest
}

fn consider<E>(newest: &mut Vec<Write>, count: usize, entry: &Entry<E>, live: impl Fn() -> bool) {
    let revision = entry.mod_revision();
    let full = newest.len() >= count;
    let older = newest.last().is_some_and(|last| revision <= last.numbers.mod_revision);
    if full && older || !live() {
        return;
    }
    let at = newest.partition_point(|write| write.numbers.mod_revision >= revision);
    newest.insert(at, Write::of(entry));
    newest.truncate(count);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::keyspace::KeySpace;
    use crate::model::{Header, KeyRange};

    #[test]
    fn h73_audits_refuse_impossible_numbers() {
        let audit = |numbers: [i64; 3]| {
            let [create_revision, mod_revision, version] = numbers;
            let numbers = Numbers { create_revision, mod_revision, version, lease: 0 };
            let view: View<()> = View::empty(Arc::new(KeyRange::prefix("/")));
            Comparison::new(view).page([(b"/a".as_slice(), numbers, None)], true)
        };
        for possible in [[2, 2, 1], [2, 2, 0], [2, 5, 0], [2, 5, 2], [2, 2, 2], [2, 5, i64::MAX]] {
            assert_eq!(audit(possible), Ok(Differing { keys: 1, values: 0 }), "{possible:?}");
        }
        let impossible = [
            [0, 2, 1],
            [-1, 2, 2],
            [0, 0, 0],
            [3, 2, 1],
            [2, 2, -1],
            [2, 5, i64::MIN],
            [2, 5, 1],
            [i64::MIN, i64::MIN, 1],
        ];
        for numbers in impossible {
            let error = audit(numbers).unwrap_err();
            assert!(matches!(error, BadRecord::Impossible { .. }), "{numbers:?}: {error}");
        }
    }
    /// A key with its value, create and mod revision.
    type Kv<'a> = (&'a str, &'a str, Revision, Revision);

    /// The view after these complete reads; values that begin with `!` are rejected.
    fn view(reads: &[&[Kv<'_>]]) -> View<String> {
        let decoder = |kv: RawKeyValue| match kv.value.first() {
            Some(b'!') => Err("rejected".to_owned()),
            _ => String::from_utf8(kv.value).map_err(|error| error.to_string()),
        };
        let (_ks, mut writer) = KeySpace::builder("/").unwrap().decoder(decoder).writer();
        for read in reads {
            let kv = |&(key, value, create_revision, mod_revision): &Kv<'_>| RawKeyValue {
                key: key.into(),
                value: value.into(),
                create_revision,
                mod_revision,
                version: 1 + i64::from(mod_revision > create_revision),
                lease: 0,
            };
            let revision = read.iter().map(|kv| kv.3).max().unwrap();
            let header = Header { cluster_id: 1, revision, ..Header::default() };
            writer.load(header, read.iter().map(kv).collect()).unwrap();
        }
        writer.view().share()
    }

    #[test]
    fn h12_a_budget_bounds_keys_and_bytes() {
        let view = view(&[&[("/a", "12345678", 2, 2), ("/b", "!234", 3, 3), ("/c", "", 4, 4)]]);
        // A value counts as its size class allows, below twice its length.
        let bytes = 3 * 2 + 15 + 7;
        assert_eq!(bytes_within(&view, 3, bytes), Some(bytes));
        assert_eq!(bytes_within(&view, usize::MAX, u64::MAX), Some(bytes));
        assert_eq!(bytes_within(&view, 3, bytes - 1), None);
        assert_eq!(bytes_within(&view, 2, bytes), None, "a rejected value is a known key");
    }

    #[test]
    fn h12_the_newest_writes_are_those_of_live_keys_decodable_or_not() {
        let all = [("/a", "1", 7, 7), ("/b", "!", 3, 9), ("/c", "1", 5, 5), ("/d", "1", 8, 8)];
        let view = view(&[&[("/b", "1", 3, 3)], &all]);
        assert_eq!((view.entries.len(), view.rejected.len()), (4, 1), "one stands in");
        let newest = |count| -> Vec<_> {
            let writes = newest_writes(&view, count);
            writes.into_iter().map(|write| write.numbers.mod_revision).collect()
        };
        assert_eq!([newest(0), newest(1), newest(3)], [vec![], vec![9], vec![9, 8, 7]]);
        assert_eq!(newest(9), [9, 8, 7, 5]);
    }

    #[test]
    fn h12_a_write_is_known_by_numbers_value_and_lease() {
        let view = view(&[&[("/a", "1", 7, 7)]]);
        let found = RawKeyValue {
            key: b"/a".into(),
            value: b"1".into(),
            create_revision: 7,
            mod_revision: 7,
            version: 1,
            lease: 0,
        };
        let write = newest_writes(&view, 1).remove(0);
        let audit = |kv: &RawKeyValue| {
            let (numbers, value) = (Numbers::from(kv), ValueHash::of(&kv.value));
            let page = [(kv.key.as_slice(), numbers, Some(value))];
            Comparison::new(view.share()).page(page, true).unwrap()
        };
        assert!(write.is(Some(&found)) && audit(&found).is_none());
        let others = [
            RawKeyValue { value: b"2".into(), ..found.clone() },
            RawKeyValue { lease: 3, ..found.clone() },
        ];
        for other in others {
            assert!(!write.is(Some(&other)), "{other:?}");
            assert_eq!(audit(&other), Differing { keys: 0, values: 1 }, "{other:?}");
        }
        let newer = RawKeyValue { mod_revision: 8, version: 2, ..found };
        assert!(!write.is(Some(&newer)) && !write.is(None));
        // The page has another write of the key in place of the known one.
        assert_eq!(audit(&newer), Differing { keys: 1, values: 0 });
    }
}
