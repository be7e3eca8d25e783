//! Comparisons of views, pieces and differences with what they are defined to be.
//!
//! Owns the assertions that several targets make. Must not change anything.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use etcd_keyspace::{Change, Entry, Range, RawKeyValue, Revision, View};

use super::input::Input;
use super::store::Keys;

type Found<'a> = Option<&'a Arc<Entry<Vec<u8>>>>;

pub fn is_of(entry: &Entry<Vec<u8>>, kv: &RawKeyValue) -> bool {
    entry.key() == kv.key
        && *entry.value() == kv.value
        && entry.create_revision() == kv.create_revision
        && entry.mod_revision() == kv.mod_revision
        && entry.version() == kv.version
        && entry.lease() == kv.lease
}

fn found_is(found: Found<'_>, wanted: Option<&&RawKeyValue>) -> bool {
    match (found, wanted) {
        (None, None) => true,
        (Some(entry), Some(kv)) => is_of(entry, kv),
        _ => false,
    }
}

/// The view shows exactly these keys, at this revision and confirmed revision.
#[track_caller]
pub fn shows(view: &View<Vec<u8>>, keys: &Keys, at: (Revision, Revision)) {
    assert_eq!((view.revision(), view.confirmed()), at);
    assert_eq!((view.len(), view.is_empty()), (keys.len(), keys.is_empty()));
    let mut entries = view.iter();
    assert_eq!(entries.len(), keys.len());
    for kv in keys.values() {
        assert!(entries.next().is_some_and(|entry| is_of(entry, kv)), "{kv:?}");
    }
    assert!(entries.next().is_none());
    let mut backwards = view.iter().rev().zip(keys.values().rev());
    assert!(backwards.all(|(entry, kv)| is_of(entry, kv)));
}

/// Every query of a piece that holds exactly `wanted`; `probe` is any key.
#[track_caller]
pub fn piece(piece: Range<'_, Vec<u8>>, wanted: &[&RawKeyValue], probe: &[u8]) {
    assert_eq!((piece.len(), piece.is_empty()), (wanted.len(), wanted.is_empty()));
    assert!(found_is(piece.first(), wanted.first()));
    assert!(found_is(piece.last(), wanted.last()));
    let rank = wanted.binary_search_by(|kv| kv.key.as_slice().cmp(probe));
    assert_eq!(piece.search(probe), rank);
    assert!(found_is(piece.get(probe), rank.ok().map(|rank| &wanted[rank])));
    assert_eq!(piece.contains(probe), rank.is_ok());
    let near = rank.unwrap_or_else(|rank| rank);
    for rank in [0, near.wrapping_sub(1), near, near + 1, wanted.len(), usize::MAX] {
        assert!(found_is(piece.nth(rank), wanted.get(rank)), "nth({rank})");
    }
    assert_eq!(piece.count(probe), wanted.iter().filter(|kv| kv.key.starts_with(probe)).count());
}

/// The iterator of a piece, walked from both ends in steps that the input chooses.
#[track_caller]
pub fn walk(piece: Range<'_, Vec<u8>>, wanted: &[&RawKeyValue], input: &mut Input<'_>) {
    let mut wanted: VecDeque<_> = wanted.iter().copied().collect();
    let mut entries = piece.iter();
    for _ in 0..input.below(12) {
        let n = input.below(20);
        let (found, wanted) = match input.below(4) {
            0 => (entries.next(), wanted.pop_front()),
            1 => (entries.next_back(), wanted.pop_back()),
            2 => (entries.nth(n), wanted.drain(..wanted.len().min(n + 1)).nth(n)),
            _ => {
                let kept = wanted.len().saturating_sub(n + 1);
                let passed = wanted.split_off(kept);
                (entries.nth_back(n), if passed.len() > n { passed.front().copied() } else { None })
            }
        };
        assert!(found_is(found, wanted.as_ref()));
    }
    assert_eq!(entries.len(), wanted.len());
    assert_eq!(entries.clone().count(), wanted.len());
    assert!(entries.zip(&wanted).all(|(entry, kv)| is_of(entry, kv)));
}

/// The keys that differ between two states, with both sides.
pub fn difference<'a>(
    old: &'a Keys,
    new: &'a Keys,
) -> BTreeMap<&'a [u8], (Option<&'a RawKeyValue>, Option<&'a RawKeyValue>)> {
    let mut sides: BTreeMap<&[u8], (Option<&RawKeyValue>, Option<&RawKeyValue>)> = BTreeMap::new();
    for (key, kv) in old {
        if !new.get(key).is_some_and(|new| new == kv) {
            sides.entry(key).or_default().0 = Some(kv);
        }
    }
    for (key, kv) in new {
        if !old.get(key).is_some_and(|old| old == kv) {
            sides.entry(key).or_default().1 = Some(kv);
        }
    }
    sides
}

/// The changes are exactly the difference of the two states, ascending by key.
#[track_caller]
pub fn changes(changes: &[Change<Vec<u8>>], old: &Keys, new: &Keys) {
    let wanted = difference(old, new);
    assert_eq!(changes.len(), wanted.len());
    for (change, (key, (old, new))) in changes.iter().zip(wanted) {
        assert_eq!(change.key(), key);
        assert!(found_is(change.old(), old.as_ref()), "old of {change:?}");
        assert!(found_is(change.new(), new.as_ref()), "new of {change:?}");
        let one_life = old.map(|kv| kv.create_revision) == new.map(|kv| kv.create_revision);
        let named_well = match change {
            Change::Added(_) => old.is_none(),
            Change::Removed(_) => new.is_none(),
            Change::Updated { .. } => one_life,
            Change::Replaced { .. } => !one_life,
        };
        assert!(named_well, "{change:?}");
    }
}
