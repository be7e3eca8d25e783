//! Many keys looked up at once.
//!
//! Goes level by level, so that the loads of different keys overlap.

use std::sync::Arc;

use super::run::Run;
use super::{Packed, load_entry};
use crate::model::Entry;

/// The number of keys that are looked up side by side. A core has fewer loads in flight, and what
/// is kept of each key is on the stack.
const TOGETHER: usize = 128;

impl<T> Packed<T> {
    /// Appends the entries of `keys` to `found`, in the order of the keys.
    pub(crate) fn get_many<'a, K: AsRef<[u8]>>(
        &'a self,
        keys: &[K],
        found: &mut Vec<Option<&'a Arc<Entry<T>>>>,
    ) {
        for keys in keys.chunks(TOGETHER) {
            match self.root.pages() {
                [] => found.extend(keys.iter().map(|_| None)),
                [page] => {
                    get_by_levels::<false, T, K>(page.runs(), |key| page.run_of(key), keys, found);
                }
                [any, ..] => {
                    let page_of = |key: &[u8]| self.root.page_of(key).unwrap_or(any);
                    let run_of = |key: &[u8]| page_of(key).run_of(key);
                    get_by_levels::<true, T, K>(any.runs(), run_of, keys, found);
                }
            }
        }
    }
}

/// `FAR` is whether the pieces are too many to stay in the cache, so that lines are loaded ahead.
#[inline(always)]
fn get_by_levels<'a, const FAR: bool, T, K: AsRef<[u8]>>(
    any: &'a [Arc<Run<T>>],
    run_of: impl Fn(&[u8]) -> &'a Run<T>,
    keys: &[K],
    found: &mut Vec<Option<&'a Arc<Entry<T>>>>,
) {
    let mut runs = [&*any[0]; TOGETHER];
    for (run, key) in runs.iter_mut().zip(keys) {
        *run = run_of(key.as_ref());
    }
    let runs = &runs[..keys.len()];
    if FAR {
        runs.iter().for_each(|run| run.load());
    }
    let mut groups = [any[0].groups()[0].as_ref(); TOGETHER];
    for ((group, run), key) in groups.iter_mut().zip(runs).zip(keys) {
        (*group, _) = run.guess(key.as_ref());
    }
    let groups = &groups[..keys.len()];
    if FAR {
        groups.iter().for_each(|group| group.load());
    }
    let mut entries = [None; TOGETHER];
    for ((entry, group), key) in entries.iter_mut().zip(groups).zip(keys) {
        *entry = group.guess(key.as_ref());
    }
    let entries = &entries[..keys.len()];
    if FAR {
        let loaded = entries.iter().flatten().fold(0, |sum, entry| sum ^ load_entry(entry));
        std::hint::black_box(loaded);
    }
    let all = keys.iter().zip(entries).zip(runs);
    found.extend(all.map(|((key, entry), run)| match entry {
        Some(entry) if entry.key() == key.as_ref() => Some(*entry),
        // Absent, or among ties.
        _ => run.get::<false>(key.as_ref()),
    }));
}
