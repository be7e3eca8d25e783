//! The storage against a `BTreeMap`, with every invariant checked after every step.
//!
//! Owns the model and the comparisons; `random` draws histories, `cases` has single situations.

mod cases;
mod random;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Edit, Packed, PackedBuilder, Slice};
use crate::model::Entry;

type Model = BTreeMap<Vec<u8>, Arc<Entry<u64>>>;
type Batch = Vec<(Vec<u8>, Option<u64>)>;

fn entry(key: &[u8], value: u64) -> Arc<Entry<u64>> {
    Arc::new(Entry::new(key, value, 1))
}

/// The version after edits whose places are still to be found.
fn edited(packed: &Packed<u64>, edits: Vec<Edit<u64>>) -> Packed<u64> {
    let keys: Vec<_> = edits.iter().map(Edit::key).collect();
    let places = packed.places(&keys);
    packed.edit(places.into_iter().zip(edits).collect())
}

/// Applies a batch to both sides; the last write of a key in the batch counts.
fn apply(packed: &Packed<u64>, model: &mut Model, batch: &Batch) -> Packed<u64> {
    let batch: BTreeMap<_, _> = batch.iter().cloned().collect();
    let mut edits = Vec::new();
    for (key, value) in batch {
        if let Some(value) = value {
            let entry = entry(&key, value);
            model.insert(key, Arc::clone(&entry));
            edits.push(Edit::Put(entry));
        } else {
            model.remove(&key);
            edits.push(Edit::Remove(key.into()));
        }
    }
    let after = edited(packed, edits);
    after.validate();
    after
}

#[track_caller]
fn check_same(packed: &Packed<u64>, model: &Model) {
    assert_eq!(packed.len(), model.len());
    assert_eq!(packed.all().len(), model.len());
    assert!(packed.all().iter().map(Arc::as_ptr).eq(model.values().map(Arc::as_ptr)));
    assert_eq!(packed.key_bytes(), model.keys().map(Vec::len).sum::<usize>());
}

fn built<'k>(keys: impl IntoIterator<Item = &'k Vec<u8>>) -> (Packed<u64>, Model) {
    let (mut builder, mut model) = (PackedBuilder::new(), Model::new());
    for key in keys {
        let entry = entry(key, 0);
        model.insert(key.clone(), Arc::clone(&entry));
        assert!(builder.push(entry).is_ok());
    }
    let packed = builder.finish();
    packed.validate();
    (packed, model)
}

/// Every query of a slice over the half-open range, against the model.
fn check_slice(
    slice: Slice<'_, u64>,
    model: &Model,
    lower: &[u8],
    upper: Option<&[u8]>,
    probe: &[u8],
) {
    let inside = |key: &[u8]| key >= lower && upper.is_none_or(|upper| key < upper);
    let wanted: Vec<_> = model.values().filter(|entry| inside(entry.key())).collect();
    assert_eq!(slice.len(), wanted.len());
    assert_eq!(slice.is_empty(), wanted.is_empty());
    assert!(slice.iter().eq_by_ptr(wanted.iter().copied()));
    assert!(slice.iter().rev().eq_by_ptr(wanted.iter().rev().copied()));
    let same = |a: Option<&Arc<Entry<u64>>>, b: Option<&&Arc<Entry<u64>>>| {
        a.map(Arc::as_ptr) == b.map(|b| Arc::as_ptr(b))
    };
    assert!(same(slice.first(), wanted.first()));
    assert!(same(slice.last(), wanted.last()));
    for rank in [0, 1, wanted.len() / 2, wanted.len().wrapping_sub(1), wanted.len()] {
        assert!(same(slice.nth(rank), wanted.get(rank)), "nth({rank})");
    }
    let rank = wanted.binary_search_by(|entry| entry.key().cmp(probe));
    assert_eq!(slice.search(probe), rank);
    assert!(same(slice.get(probe), rank.ok().map(|rank| &wanted[rank])));
}

trait EqByPtr<'a>: Iterator<Item = &'a Arc<Entry<u64>>> + Sized {
    fn eq_by_ptr(self, other: impl Iterator<Item = &'a Arc<Entry<u64>>>) -> bool {
        self.map(Arc::as_ptr).eq(other.map(Arc::as_ptr))
    }
}
impl<'a, I: Iterator<Item = &'a Arc<Entry<u64>>>> EqByPtr<'a> for I {}

fn check_diff(new: &Packed<u64>, new_model: &Model, old: &Packed<u64>, old_model: &Model) {
    let mut wanted = BTreeMap::new();
    for (key, entry) in old_model {
        wanted.insert(key, (Some(Arc::as_ptr(entry)), None));
    }
    for (key, entry) in new_model {
        wanted.entry(key).or_default().1 = Some(Arc::as_ptr(entry));
    }
    wanted.retain(|_, (old, new)| old != new);
    let found = new.diff(old);
    let sides = |side: Option<&Arc<Entry<u64>>>| side.map(Arc::as_ptr);
    let found: Vec<_> = found.iter().map(|d| (sides(d.old), sides(d.new))).collect();
    assert_eq!(found, wanted.into_values().collect::<Vec<_>>());
}
