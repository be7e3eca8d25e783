//! Where keys are in a version, or belong: many searches at once.
//!
//! Owns the order in which a batch visits memory. Must not change anything.

use std::sync::Arc;

use super::root::Root;
use super::{Packed, load_entry};
use crate::model::Entry;

/// Where a key is in one version, or would be inserted. Means nothing in another version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(super) page: usize,
    pub(super) run: usize,
    pub(super) group: usize,
    /// The index in the group, or where to insert.
    pub(super) index: Result<usize, usize>,
}

/// The place of every key in an empty version.
const NOWHERE: Place = Place { page: 0, run: 0, group: 0, index: Err(0) };

impl<T> Packed<T> {
    /// The places of `keys`, in their order.
    ///
    /// Goes level by level, not key by key: the cache misses of different keys do not wait for each
    /// other then, which makes a batch several times faster than as many single searches.
    pub(crate) fn places<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Place> {
        let root = &*self.root;
        if root.len() == 0 {
            return vec![NOWHERE; keys.len()];
        }
        let mut places = vec![NOWHERE; keys.len()];
        locate(root, keys, &mut places);
        places
    }

    /// The place of one key.
    pub(crate) fn place(&self, key: &[u8]) -> Place {
        let mut place = [NOWHERE];
        if self.root.len() > 0 {
            locate(&self.root, &[key], &mut place);
        }
        place[0]
    }

    /// The entry at a place of this version, if the key was found.
    pub(crate) fn at(&self, place: &Place) -> Option<&Arc<Entry<T>>> {
        let run = &self.root.pages().get(place.page)?.runs()[place.run];
        place.index.ok().map(|index| &run.groups()[place.group].entries()[index])
    }
}

/// Finds the places of keys in a version that is not empty.
fn locate<T, K: AsRef<[u8]>>(root: &Root<T>, keys: &[K], places: &mut [Place]) {
    for (place, key) in places.iter_mut().zip(keys) {
        place.page = root.locate(key.as_ref());
        place.run = root.pages()[place.page].locate(key.as_ref());
    }
    for (place, key) in places.iter_mut().zip(keys) {
        place.group = root.pages()[place.page].runs()[place.run].locate(key.as_ref());
    }
    if let [_, _, ..] = keys {
        let mut loaded = 0;
        for (place, key) in places.iter().zip(keys) {
            let run = &root.pages()[place.page].runs()[place.run];
            loaded ^= load_entry(run.groups()[place.group].candidate(key.as_ref()));
        }
        std::hint::black_box(loaded);
    }
    for (place, key) in places.iter_mut().zip(keys) {
        let run = &root.pages()[place.page].runs()[place.run];
        (place.group, place.index) = run.place(place.group, key.as_ref());
    }
}
