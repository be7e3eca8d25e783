//! The two levels above the runs: pages, and the root over them.
//!
//! Owns the way from a key or a rank to a run. Must not know how a version comes from another.

use std::sync::Arc;

use super::heads::Fence;
use super::run::{ARC_COUNTS, Run, same_key};
use crate::model::Entry;

/// Consecutive runs, at least one.
pub(super) struct Page<T> {
    fence: Fence,
    /// Entries up to the end of each run.
    ends: Box<[usize]>,
    runs: Box<[Arc<Run<T>>]>,
}

impl<T> Page<T> {
    /// A page of `runs`, ascending and not empty. The fence of `like` is taken if it fits.
    pub(super) fn new(runs: Vec<Arc<Run<T>>>, like: Option<&Page<T>>) -> Self {
        let same = like.filter(|like| same_bounds(&like.runs, &runs));
        let fence = match same {
            Some(like) => like.fence.clone(),
            None => fence_over(&runs),
        };
        let ends = cumulative(runs.iter().map(|run| run.len()));
        Page { fence, ends, runs: runs.into() }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    pub(super) fn runs(&self) -> &[Arc<Run<T>>] {
        &self.runs
    }

    pub(super) fn first(&self) -> &Arc<Entry<T>> {
        self.runs[0].first()
    }

    /// The run in or behind which `key` belongs.
    pub(super) fn locate(&self, key: &[u8]) -> usize {
        self.fence.locate_any(key, |run| self.runs[run].first_key())
    }

    /// The run that holds `key`, if `key` is present.
    #[inline]
    pub(super) fn run_of(&self, key: &[u8]) -> &Run<T> {
        &self.runs[self.fence.locate(key, |run| self.runs[run].first_key())]
    }

    fn heap_bytes(&self) -> usize {
        ARC_COUNTS
            + size_of::<Self>()
            + self.fence.heap_bytes()
            + size_of_val(&*self.ends)
            + size_of_val(&*self.runs)
            + self.runs.iter().map(|run| run.heap_bytes()).sum::<usize>()
    }
}

/// A group in its run, so that its neighbours are found without a search.
pub(super) struct Near<'a, T> {
    run: &'a Run<T>,
    group: usize,
}

impl<T> Clone for Near<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Near<'_, T> {}

impl<'a, T> Near<'a, T> {
    pub(super) fn entries(&self) -> &'a [Arc<Entry<T>>] {
        self.run.groups()[self.group].entries()
    }

    /// The next group of the same run.
    pub(super) fn next(self) -> Option<Self> {
        let group = self.group + 1;
        (group < self.run.width()).then_some(Near { group, ..self })
    }

    /// The group before, of the same run.
    pub(super) fn previous(self) -> Option<Self> {
        Some(Near { group: self.group.checked_sub(1)?, ..self })
    }
}

/// Sums over all entries, kept so that nobody has to visit them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) key_bytes: usize,
    /// Heap bytes of keys and numbers that do not lie in their entry.
    pub(super) heap_bytes: usize,
}

impl Tally {
    pub(super) fn add<T>(&mut self, entry: &Entry<T>) {
        self.key_bytes += entry.key().len();
        self.heap_bytes += entry.heap_bytes();
    }

    pub(super) fn subtract<T>(&mut self, entry: &Entry<T>) {
        self.key_bytes -= entry.key().len();
        self.heap_bytes -= entry.heap_bytes();
    }
}

/// One version: all pages.
pub(super) struct Root<T> {
    fence: Fence,
    /// Entries up to the end of each page.
    ends: Box<[usize]>,
    pages: Box<[Arc<Page<T>>]>,
    tally: Tally,
}

impl<T> Default for Root<T> {
    fn default() -> Self {
        Root {
            fence: Fence::default(),
            ends: Box::default(),
            pages: Box::default(),
            tally: Tally::default(),
        }
    }
}

impl<T> Root<T> {
    /// A root over `pages`, ascending. The fence of `like` is taken if it fits.
    pub(super) fn new(pages: Vec<Arc<Page<T>>>, like: Option<&Root<T>>, tally: Tally) -> Self {
        let same = like.filter(|like| same_bounds(&like.pages, &pages));
        let fence = match same {
            Some(like) => like.fence.clone(),
            None => fence_over(&pages),
        };
        let ends = cumulative(pages.iter().map(|page| page.len()));
        Root { fence, ends, pages: pages.into(), tally }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    pub(super) fn pages(&self) -> &[Arc<Page<T>>] {
        &self.pages
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// The page in or behind which `key` belongs.
    pub(super) fn locate(&self, key: &[u8]) -> usize {
        self.fence.locate_any(key, |page| self.pages[page].first().key())
    }

    /// The page that holds `key`, if `key` is present.
    #[inline]
    pub(super) fn page_of(&self, key: &[u8]) -> Option<&Arc<Page<T>>> {
        self.pages.get(self.fence.locate(key, |page| self.pages[page].first().key()))
    }

    #[inline]
    pub(super) fn get(&self, key: &[u8]) -> Option<&Arc<Entry<T>>> {
        match &*self.pages {
            // Up to some 20,000 entries.
            [only] => only.run_of(key).get::<false>(key),
            _ => self.page_of(key)?.run_of(key).get::<true>(key),
        }
    }

    /// The rank of `key`, or the rank it would have.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let at_page = self.locate(key);
        let Some(page) = self.pages.get(at_page) else { return Err(0) };
        let at_run = page.locate(key);
        let before = start_of(&self.ends, at_page) + start_of(&page.ends, at_run);
        match page.runs[at_run].search(key) {
            Ok(index) => Ok(before + index),
            Err(index) => Err(before + index),
        }
    }

    /// The group that holds the entry of `rank`, and the rank of its first entry.
    pub(super) fn group_at(&self, rank: usize) -> Option<(Near<'_, T>, usize)> {
        let at_page = self.ends.partition_point(|end| *end <= rank);
        let page = self.pages.get(at_page)?;
        let before = start_of(&self.ends, at_page);
        let at_run = page.ends.partition_point(|end| before + *end <= rank);
        let before = before + start_of(&page.ends, at_run);
        let run = &page.runs[at_run];
        let (group, start) = run.group_at(rank - before);
        Some((Near { run, group }, before + start))
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let entries = self.len() * (ARC_COUNTS + size_of::<Entry<T>>());
        ARC_COUNTS
            + size_of::<Self>()
            + self.fence.heap_bytes()
            + size_of_val(&*self.ends)
            + size_of_val(&*self.pages)
            + self.pages.iter().map(|page| page.heap_bytes()).sum::<usize>()
            + entries
            + self.tally.heap_bytes
    }
}

/// The count before the piece at `index`.
fn start_of(ends: &[usize], index: usize) -> usize {
    index.checked_sub(1).map_or(0, |previous| ends[previous])
}

fn cumulative(lengths: impl Iterator<Item = usize>) -> Box<[usize]> {
    let sums = lengths.scan(0, |sum, len| {
        *sum += len;
        Some(*sum)
    });
    sums.collect()
}

/// A piece that a fence can stand over.
trait Bounded<T> {
    fn first(&self) -> &Arc<Entry<T>>;
    fn last(&self) -> &Arc<Entry<T>>;
}

impl<T> Bounded<T> for Run<T> {
    fn first(&self) -> &Arc<Entry<T>> {
        self.first()
    }

    fn last(&self) -> &Arc<Entry<T>> {
        self.last()
    }
}

impl<T> Bounded<T> for Page<T> {
    fn first(&self) -> &Arc<Entry<T>> {
        self.first()
    }

    fn last(&self) -> &Arc<Entry<T>> {
        self.runs[self.runs.len() - 1].last()
    }
}

fn fence_over<T, P: Bounded<T>>(pieces: &[Arc<P>]) -> Fence {
    let Some(last) = pieces.last() else { return Fence::default() };
    Fence::over(pieces.iter().map(|piece| piece.first().key()), last.last().key())
}

/// Whether a fence over the old pieces fits the new ones.
///
/// Looks into a piece only where the two sides differ, and at a key only where entries do.
fn same_bounds<T, P: Bounded<T>>(old: &[Arc<P>], new: &[Arc<P>]) -> bool {
    let same_first =
        |old: &Arc<P>, new: &Arc<P>| Arc::ptr_eq(old, new) || same_key(old.first(), new.first());
    old.len() == new.len()
        && old.iter().zip(new).all(|(old, new)| same_first(old, new))
        && old
            .last()
            .zip(new.last())
            .is_none_or(|(old, new)| Arc::ptr_eq(old, new) || same_key(old.last(), new.last()))
}

#[cfg(test)]
impl<T> Root<T> {
    pub(super) fn validate(&self) {
        use super::sizes::{PAGE_MAX, PAGE_MIN, RUN_MIN};

        let mut tally = Tally::default();
        let mut previous: Option<&[u8]> = None;
        for page in &self.pages {
            let alone = self.pages.len() == 1;
            assert!(!page.runs.is_empty() && page.runs.len() <= PAGE_MAX, "a page out of bounds");
            assert!(alone || page.runs.len() >= PAGE_MIN, "a page of {} runs", page.runs.len());
            let last = page.runs[page.runs.len() - 1].last().key();
            page.fence.validate(page.runs.iter().map(|run| run.first_key()), last);
            assert_eq!(page.ends, cumulative(page.runs.iter().map(|run| run.len())));
            for run in &page.runs {
                let alone = alone && page.runs.len() == 1;
                run.validate(alone);
                assert!(alone || run.groups().len() >= RUN_MIN, "a run of {}", run.groups().len());
                for group in run.groups() {
                    assert!(previous.is_none_or(|last| last < group.first_key()), "no ascent");
                    previous = group.entries().last().map(|entry| entry.key());
                    group.entries().iter().for_each(|entry| tally.add(entry));
                }
            }
        }
        let last = self.pages.last().map_or(&b""[..], |page| Bounded::last(&**page).key());
        self.fence.validate(self.pages.iter().map(|page| page.first().key()), last);
        assert_eq!(self.ends, cumulative(self.pages.iter().map(|page| page.len())));
        assert_eq!(self.tally, tally, "the sums over the entries are wrong");
    }
}
