//! What differs between two versions.
//!
//! Owns the walk over two versions side by side. Must not compare values: two entries are equal
//! when they are the same allocation.

use std::cmp::Ordering;
use std::sync::Arc;

use super::group::Group;
use super::root::{Page, Root};
use super::run::Run;
use super::{Packed, load_entry, load_lines};
use crate::model::Entry;

/// One key whose entry differs between two versions; at least one side is there.
pub(crate) struct Difference<'a, T> {
    pub(crate) old: Option<&'a Arc<Entry<T>>>,
    pub(crate) new: Option<&'a Arc<Entry<T>>>,
}

impl<T> Packed<T> {
    /// The keys whose entries differ from `older`, ascending.
    ///
    /// Pages, runs and groups that both versions share are skipped whole.
    pub(crate) fn diff<'a>(&'a self, older: &'a Packed<T>) -> Vec<Difference<'a, T>> {
        let mut found = Vec::new();
        if Arc::ptr_eq(&self.root, &older.root) {
            return found;
        }
        let (mut old, mut new) = (Cursor::new(&older.root), Cursor::new(&self.root));
        loop {
            if old.entry == 0 && new.entry == 0 {
                skip_shared(&mut old, &mut new);
                if let ([before, ..], [after, ..]) = (old.groups_ahead(), new.groups_ahead())
                    && same_keys(before, after, &mut found)
                {
                    old.skip_groups(1);
                    new.skip_groups(1);
                    continue;
                }
            }
            let order = match (old.entry(), new.entry()) {
                (None, None) => return found,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) if Arc::ptr_eq(old, new) => Ordering::Equal,
                (Some(old), Some(new)) => old.key().cmp(new.key()),
            };
            let old = if order.is_le() { old.advance() } else { None };
            let new = if order.is_ge() { new.advance() } else { None };
            match (old, new) {
                (Some(old), Some(new)) if Arc::ptr_eq(old, new) => {}
                (old, new) => found.push(Difference { old, new }),
            }
        }
    }
}

/// Moves two cursors that are at groups past all they have in common, the largest pieces first.
fn skip_shared<T>(old: &mut Cursor<'_, T>, new: &mut Cursor<'_, T>) {
    loop {
        let (before, after) = (old.pages_ahead(), new.pages_ahead());
        let pages = shared(before, after);
        if pages > 0 {
            old.skip_pages(pages);
            new.skip_pages(pages);
            continue;
        }
        if let ([before, ..], [after, ..]) = (before, after) {
            load_differing(before, after);
        }
        let runs = shared(old.runs_ahead(), new.runs_ahead());
        if runs > 0 {
            old.skip_runs(runs);
            new.skip_runs(runs);
            continue;
        }
        let groups = shared(old.groups_ahead(), new.groups_ahead());
        if groups == 0 {
            return;
        }
        old.skip_groups(groups);
        new.skip_groups(groups);
    }
}

/// How many pieces two lists begin with in common.
fn shared<P>(old: &[Arc<P>], new: &[Arc<P>]) -> usize {
    old.iter().zip(new).take_while(|(old, new)| Arc::ptr_eq(old, new)).count()
}

/// Loads what the comparison of two pages will look at, level by level: the cache misses of one
/// level do not wait for each other then.
fn load_differing<T>(old: &Page<T>, new: &Page<T>) {
    if old.runs().len() != new.runs().len() {
        // Runs do not stand beside their counterparts.
        return;
    }
    let runs = || differing(old.runs(), new.runs());
    runs().for_each(|(old, new)| {
        load_lines(old.groups());
        load_lines(new.groups());
    });
    let groups = || runs().flat_map(|(old, new)| differing(old.groups(), new.groups()));
    groups().for_each(|(old, new)| {
        load_lines(old.entries());
        load_lines(new.entries());
    });
    let entries = groups().flat_map(|(old, new)| differing(old.entries(), new.entries()));
    let loaded = entries.fold(0, |sum, (old, new)| sum ^ load_entry(old) ^ load_entry(new));
    std::hint::black_box(loaded);
}

fn differing<'a, P>(old: &'a [Arc<P>], new: &'a [Arc<P>]) -> impl Iterator<Item = (&'a P, &'a P)> {
    let pairs = old.iter().zip(new).filter(|(old, new)| !Arc::ptr_eq(old, new));
    pairs.map(|(old, new)| (&**old, &**new))
}

/// Compares two groups if they hold the same keys, as after writes of keys that were there; else
/// finds nothing.
fn same_keys<'a, T>(
    old: &'a Group<T>,
    new: &'a Group<T>,
    found: &mut Vec<Difference<'a, T>>,
) -> bool {
    let known = found.len();
    let mut same = old.len() == new.len();
    for (old, new) in old.entries().iter().zip(new.entries()) {
        if same && !Arc::ptr_eq(old, new) {
            same = old.key() == new.key();
            found.push(Difference { old: Some(old), new: Some(new) });
        }
    }
    if !same {
        found.truncate(known);
    }
    same
}

/// A place between two entries, or the end.
struct Cursor<'a, T> {
    pages: &'a [Arc<Page<T>>],
    page: usize,
    run: usize,
    group: usize,
    entry: usize,
}

impl<'a, T> Cursor<'a, T> {
    fn new(root: &'a Root<T>) -> Self {
        Cursor { pages: root.pages(), page: 0, run: 0, group: 0, entry: 0 }
    }

    /// The pages from here on, if one begins here.
    fn pages_ahead(&self) -> &'a [Arc<Page<T>>] {
        let starts = (self.run, self.group, self.entry) == (0, 0, 0);
        if starts { &self.pages[self.page..] } else { &[] }
    }

    /// The runs of this page from here on, if one begins here.
    fn runs_ahead(&self) -> &'a [Arc<Run<T>>] {
        let starts = (self.group, self.entry) == (0, 0);
        match self.pages.get(self.page) {
            Some(page) if starts => &page.runs()[self.run..],
            _ => &[],
        }
    }

    /// The groups of this run from here on, if one begins here.
    fn groups_ahead(&self) -> &'a [Arc<Group<T>>] {
        match self.pages.get(self.page) {
            Some(page) if self.entry == 0 => &page.runs()[self.run].groups()[self.group..],
            _ => &[],
        }
    }

    /// The entry behind this place.
    fn entry(&self) -> Option<&'a Arc<Entry<T>>> {
        let run = &self.pages.get(self.page)?.runs()[self.run];
        Some(&run.groups()[self.group].entries()[self.entry])
    }

    fn advance(&mut self) -> Option<&'a Arc<Entry<T>>> {
        let run = &self.pages.get(self.page)?.runs()[self.run];
        let group = run.groups()[self.group].entries();
        let entry = &group[self.entry];
        self.entry += 1;
        if self.entry == group.len() {
            self.skip_groups(1);
        }
        Some(entry)
    }

    fn skip_groups(&mut self, count: usize) {
        (self.group, self.entry) = (self.group + count, 0);
        if self.group == self.pages[self.page].runs()[self.run].width() {
            self.skip_runs(1);
        }
    }

    fn skip_runs(&mut self, count: usize) {
        (self.run, self.group, self.entry) = (self.run + count, 0, 0);
        if self.run == self.pages[self.page].runs().len() {
            self.skip_pages(1);
        }
    }

    fn skip_pages(&mut self, count: usize) {
        (self.page, self.run, self.group, self.entry) = (self.page + count, 0, 0, 0);
    }
}
