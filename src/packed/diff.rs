//! What differs between two versions.
//!
//! Owns the walk over two versions side by side. Must not compare values: two entries are equal
//! when they are the same allocation.

use std::cmp::Ordering;
use std::sync::Arc;

use super::Packed;
use super::group::Group;
use super::root::{Page, Root};
use super::run::Run;
use crate::entry::Entry;

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
            skip_shared(&mut old, &mut new);
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

/// Moves two cursors past everything they have in common, the largest pieces first.
fn skip_shared<T>(old: &mut Cursor<'_, T>, new: &mut Cursor<'_, T>) {
    loop {
        if same(old.page(), new.page()) {
            old.next_page();
            new.next_page();
        } else if same(old.run(), new.run()) {
            old.next_run();
            new.next_run();
        } else if same(old.group(), new.group()) {
            old.next_group();
            new.next_group();
        } else {
            return;
        }
    }
}

fn same<P: ?Sized>(old: Option<&Arc<P>>, new: Option<&Arc<P>>) -> bool {
    old.zip(new).is_some_and(|(old, new)| Arc::ptr_eq(old, new))
}

/// A place between two entries, or the end.
struct Cursor<'a, T> {
    root: &'a Root<T>,
    page: usize,
    run: usize,
    group: usize,
    entry: usize,
}

impl<'a, T> Cursor<'a, T> {
    fn new(root: &'a Root<T>) -> Self {
        Cursor { root, page: 0, run: 0, group: 0, entry: 0 }
    }

    /// The page that begins here.
    fn page(&self) -> Option<&'a Arc<Page<T>>> {
        let starts = self.run == 0 && self.group == 0 && self.entry == 0;
        self.root.pages().get(self.page).filter(|_| starts)
    }

    /// The run that begins here.
    fn run(&self) -> Option<&'a Arc<Run<T>>> {
        let starts = self.group == 0 && self.entry == 0;
        Some(&self.root.pages().get(self.page)?.runs()[self.run]).filter(|_| starts)
    }

    /// The group that begins here.
    fn group(&self) -> Option<&'a Arc<Group<T>>> {
        let run = &self.root.pages().get(self.page)?.runs()[self.run];
        Some(&run.groups()[self.group]).filter(|_| self.entry == 0)
    }

    /// The entry behind this place.
    fn entry(&self) -> Option<&'a Arc<Entry<T>>> {
        let run = &self.root.pages().get(self.page)?.runs()[self.run];
        Some(&run.groups()[self.group].entries()[self.entry])
    }

    fn advance(&mut self) -> Option<&'a Arc<Entry<T>>> {
        let run = &self.root.pages().get(self.page)?.runs()[self.run];
        let group = run.groups()[self.group].entries();
        let entry = &group[self.entry];
        self.entry += 1;
        if self.entry == group.len() {
            self.next_group();
        }
        Some(entry)
    }

    fn next_group(&mut self) {
        self.entry = 0;
        self.group += 1;
        if self.group == self.root.pages()[self.page].runs()[self.run].groups().len() {
            self.next_run();
        }
    }

    fn next_run(&mut self) {
        (self.group, self.entry) = (0, 0);
        self.run += 1;
        if self.run == self.root.pages()[self.page].runs().len() {
            self.next_page();
        }
    }

    fn next_page(&mut self) {
        (self.run, self.group, self.entry) = (0, 0, 0);
        self.page += 1;
    }
}
