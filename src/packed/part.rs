//! The part of a version that covers a range of keys, as a version of its own.
//!
//! Owns which pieces cover a range, and what is known of all entries in a piece. Shares the runs, so
//! it keeps alive what covers the range and nothing else. Must not copy entries.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Packed;
use super::root::{Page, Root, Tally};
use super::run::Run;
use crate::entry::Entry;

/// What stays the same as long as the same keys have the same revisions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// The greatest `mod_revision`.
    pub(crate) newest: i64,
    pub(crate) count: u64,
    /// Of the entries' hashes, wrapping.
    pub(crate) sum: u64,
}

impl Fingerprint {
    /// Stable across processes and releases, since validators are kept by others.
    pub(super) fn of<T>(entry: &Entry<T>) -> Self {
        let (create, newest) = (entry.create_revision(), entry.mod_revision());
        let seed = (create as u64).rotate_left(32) ^ newest as u64;
        Fingerprint { newest, count: 1, sum: xxh3_64_with_seed(entry.key(), seed) }
    }

    pub(super) fn add(&mut self, other: Fingerprint) {
        self.newest = self.newest.max(other.newest);
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

impl<T> Packed<T> {
    /// The runs that cover the range from `lower` up to, not including, `upper`: all entries of the
    /// range, and some beside it. **O(pages)** of the part.
    pub(crate) fn part(&self, lower: &[u8], upper: Option<&[u8]>) -> Packed<T> {
        let root = &self.root;
        if root.len() == 0 || upper.is_some_and(|upper| upper <= lower) {
            return Packed::default();
        }
        let first = root.locate(lower);
        let last = upper.map_or(root.pages().len() - 1, |upper| root.locate(upper));
        let pages: Vec<_> = (first..=last)
            .map(|at| {
                let page = &root.pages()[at];
                let from = if at == first { page.locate(lower) } else { 0 };
                let to = match upper {
                    Some(upper) if at == last => page.locate(upper),
                    _ => page.runs().len() - 1,
                };
                if to - from + 1 == page.runs().len() {
                    Arc::clone(page)
                } else {
                    Arc::new(Page::new(page.runs()[from..=to].to_vec(), None))
                }
            })
            .collect();
        let whole = pages.len() == root.pages().len()
            && pages.iter().zip(root.pages()).all(|(mine, all)| Arc::ptr_eq(mine, all));
        if whole {
            return self.clone();
        }
        // Nobody asks a part for the sums over its entries.
        Packed { root: Arc::new(Root::new(pages, None, Tally::default())) }
    }

    /// The fingerprint of the entries from `lower` up to, not including, `upper`: **O(runs)** for runs
    /// that were asked before, else **O(entries)** of the others.
    pub(crate) fn fingerprint(&self, lower: &[u8], upper: Option<&[u8]>) -> Fingerprint {
        let mut all = Fingerprint::default();
        let part = self.part(lower, upper);
        let within = |run: &Run<T>| {
            run.first_key() >= lower && upper.is_none_or(|upper| run.last().key() < upper)
        };
        for run in part.root.pages().iter().flat_map(|page| page.runs()) {
            if within(run) {
                all.add(run.fingerprint());
                continue;
            }
            let entries = run.groups().iter().flat_map(|group| group.entries());
            let inside = entries.filter(|entry| {
                entry.key() >= lower && upper.is_none_or(|upper| entry.key() < upper)
            });
            inside.for_each(|entry| all.add(Fingerprint::of(entry)));
        }
        all
    }
}
