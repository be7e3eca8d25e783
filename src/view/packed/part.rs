//! The part of a version that covers a range of keys, as a version of its own.
//!
//! Owns which pieces cover a range, and what is known of all entries in a piece. Shares the runs, so
//! it keeps alive what covers the range and nothing else. Must not copy entries.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Packed;
use super::root::{Page, Root, Tally};
use super::run::Run;
use crate::model::Entry;

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
    /// The pages that cover the range from `lower` up to, not including, `upper`, each with the first
    /// and the last of its runs that do.
    fn cover<'a>(
        &'a self,
        lower: &'a [u8],
        upper: Option<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a Arc<Page<T>>, usize, usize)> {
        let root = &self.root;
        let nothing = root.len() == 0 || upper.is_some_and(|upper| upper <= lower);
        let first = if nothing { 0 } else { root.locate(lower) };
        let end = match upper {
            _ if nothing => 0,
            Some(upper) => root.locate(upper) + 1,
            None => root.pages().len(),
        };
        (first..end).map(move |at| {
            let page = &root.pages()[at];
            let from = if at == first { page.locate(lower) } else { 0 };
            let to = match upper {
                Some(upper) if at + 1 == end => page.locate(upper),
                _ => page.runs().len() - 1,
            };
            (page, from, to)
        })
    }

    /// The runs that cover the range from `lower` up to, not including, `upper`: all entries of the
    /// range, and some beside it. **O(pages)** of the part.
    pub(crate) fn part(&self, lower: &[u8], upper: Option<&[u8]>) -> Packed<T> {
        let pages = self.cover(lower, upper).map(|(page, from, to)| {
            if to - from + 1 == page.runs().len() {
                Arc::clone(page)
            } else {
                Arc::new(Page::new(page.runs()[from..=to].to_vec(), None))
            }
        });
        let pages: Vec<_> = pages.collect();
        if pages.is_empty() {
            return Packed::default();
        }
        let all = self.root.pages();
        let whole = pages.len() == all.len()
            && pages.iter().zip(all).all(|(mine, all)| Arc::ptr_eq(mine, all));
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
        let mut cover = self.cover(lower, upper).peekable();
        let mut lower = Some(lower);
        while let Some((page, from, to)) = cover.next() {
            let last_page = cover.peek().is_none();
            for (at, run) in page.runs()[from..=to].iter().enumerate() {
                // Only the runs at the ends can reach beyond the range.
                let upper = upper.filter(|_| last_page && from + at == to);
                all.add(fingerprint_of(run, lower.take(), upper));
            }
        }
        all
    }
}

/// The fingerprint of a run's entries between the bounds that are given.
fn fingerprint_of<T>(run: &Run<T>, lower: Option<&[u8]>, upper: Option<&[u8]>) -> Fingerprint {
    let rank = |key: &[u8]| run.search(key).unwrap_or_else(|rank| rank);
    let (start, end) = (lower.map_or(0, rank), upper.map_or(run.len(), rank));
    if end - start == run.len() {
        return run.fingerprint();
    }
    let mut all = Fingerprint::default();
    let entries = run.groups().iter().flat_map(|group| group.entries());
    entries.take(end).skip(start).for_each(|entry| all.add(Fingerprint::of(entry)));
    all
}
