//! A new version from an old one and a batch of edits.
//!
//! Owns what is copied and what is shared. The old version is only read: nothing here needs to own
//! it, and whoever holds it sees no change.

use std::iter::Peekable;
use std::sync::Arc;
use std::vec;

use super::group::{Entries, Group};
use super::pieces::{groups_of, pages_of, runs_of, settle, settle_shared};
use super::root::{Page, Root, Tally};
use super::run::{Place, Run};
use super::{Builder, Packed, touch};
use crate::entry::Entry;

/// One change of a batch.
pub(crate) enum Edit<T> {
    /// Adds the entry, or replaces the one of the same key.
    Put(Arc<Entry<T>>),
    /// Removes the entry of this key, if there is one.
    Remove(Box<[u8]>),
}

impl<T> Edit<T> {
    fn key(&self) -> &[u8] {
        match self {
            Edit::Put(entry) => entry.key(),
            Edit::Remove(key) => key,
        }
    }
}

impl<T> Packed<T> {
    /// The version after `edits`, which ascend strictly by key.
    ///
    /// Removing an absent key changes nothing. A batch that changes nothing gives this version.
    pub(crate) fn edit(&self, edits: Vec<Edit<T>>) -> Packed<T> {
        debug_assert!(edits.is_sorted_by(|a, b| a.key() < b.key()), "edits do not ascend");
        if self.len() == 0 {
            return built(edits);
        }
        let root = &*self.root;
        let steps = steps_of(root, edits);
        if steps.is_empty() {
            return self.clone();
        }
        let tally = tally_after(root, &steps);
        let pages = Editor { steps: steps.into_iter().peekable() }.edit_root(root);
        Packed { root: Arc::new(Root::new(pages, Some(root), tally)) }
    }
}

/// The entries that a batch puts into an empty version.
fn built<T>(edits: Vec<Edit<T>>) -> Packed<T> {
    let mut builder = Builder::new();
    for edit in edits {
        if let Edit::Put(entry) = edit {
            // The order is the caller's contract, asserted above.
            let _ = builder.push(entry);
        }
    }
    builder.finish()
}

/// An edit and where it applies in the old version.
struct Step<T> {
    page: usize,
    run: usize,
    place: Place,
    edit: Edit<T>,
}

/// Finds the places of the edits; drops those that change nothing.
///
/// Goes level by level, not edit by edit: the cache misses of different edits do not wait for each
/// other then.
fn steps_of<T>(root: &Root<T>, edits: Vec<Edit<T>>) -> Vec<Step<T>> {
    let mut steps: Vec<Step<T>> = Vec::with_capacity(edits.len());
    for edit in edits {
        let page = root.locate(edit.key());
        let run = root.pages()[page].locate(edit.key());
        steps.push(Step { page, run, place: (0, Err(0)), edit });
    }
    for step in &mut steps {
        step.place.0 = root.pages()[step.page].runs()[step.run].locate(step.edit.key());
    }
    for step in &mut steps {
        let run = &root.pages()[step.page].runs()[step.run];
        step.place = run.place(step.place.0, step.edit.key());
    }
    steps.retain(|step| step.place.1.is_ok() || matches!(step.edit, Edit::Put(_)));
    steps
}

/// The sums over the entries of the new version.
fn tally_after<T>(root: &Root<T>, steps: &[Step<T>]) -> Tally {
    let mut tally = root.tally();
    for step in steps {
        if let (group, Ok(index)) = step.place {
            let run = &root.pages()[step.page].runs()[step.run];
            tally.subtract(&run.groups()[group].entries()[index]);
        }
        if let Edit::Put(entry) = &step.edit {
            tally.add(entry);
        }
    }
    tally
}

/// Takes the steps of a batch in order while it visits the pieces they fall into.
struct Editor<T> {
    steps: Peekable<vec::IntoIter<Step<T>>>,
}

impl<T> Editor<T> {
    fn edit_root(&mut self, root: &Root<T>) -> Vec<Arc<Page<T>>> {
        let mut pages = Vec::with_capacity(root.pages().len() + 1);
        let mut next = 0;
        while let Some(at) = self.steps.peek().map(|step| step.page) {
            settle_shared(&mut pages, &root.pages()[next..at]);
            let page = &root.pages()[at];
            for part in pages_of(self.edit_page(at, page), Some(page)) {
                settle(&mut pages, part);
            }
            next = at + 1;
        }
        settle_shared(&mut pages, &root.pages()[next..]);
        pages
    }

    fn edit_page(&mut self, at_page: usize, page: &Page<T>) -> Vec<Arc<Run<T>>> {
        let mut runs = Vec::with_capacity(page.runs().len() + 1);
        touch(page.runs());
        let mut next = 0;
        while let Some(step) = self.steps.peek().filter(|step| step.page == at_page) {
            let at = step.run;
            settle_shared(&mut runs, &page.runs()[next..at]);
            let run = &page.runs()[at];
            for part in runs_of(self.edit_run((at_page, at), run), Some(run)) {
                settle(&mut runs, part);
            }
            next = at + 1;
        }
        settle_shared(&mut runs, &page.runs()[next..]);
        runs
    }

    fn edit_run(&mut self, at_run: (usize, usize), run: &Run<T>) -> Vec<Arc<Group<T>>> {
        let mut groups = Vec::with_capacity(run.groups().len() + 1);
        touch(run.groups());
        let mut next = 0;
        while let Some(step) = self.steps.peek().filter(|step| (step.page, step.run) == at_run) {
            let at = step.place.0;
            settle_shared(&mut groups, &run.groups()[next..at]);
            self.edit_group((at_run, at), &run.groups()[at], &mut groups);
            next = at + 1;
        }
        settle_shared(&mut groups, &run.groups()[next..]);
        groups
    }

    fn edit_group(
        &mut self,
        at_group: ((usize, usize), usize),
        group: &Group<T>,
        out: &mut Vec<Arc<Group<T>>>,
    ) {
        let mut entries = Entries::new();
        let mut old = group.entries();
        touch(old);
        let mut values_only = true;
        let here = |step: &Step<T>| ((step.page, step.run), step.place.0) == at_group;
        while let Some(step) = self.steps.next_if(here) {
            let (Ok(index) | Err(index)) = step.place.1;
            let kept = index - (group.len() - old.len());
            entries.extend(old[..kept].iter().cloned());
            old = &old[kept + usize::from(step.place.1.is_ok())..];
            match step.edit {
                Edit::Put(entry) => {
                    values_only &= step.place.1.is_ok();
                    entries.push(entry);
                }
                Edit::Remove(_) => values_only = false,
            }
        }
        entries.extend(old.iter().cloned());
        if values_only {
            settle(out, Arc::new(group.with_values(entries)));
        } else {
            for part in groups_of(entries.into_vec()) {
                settle(out, part);
            }
        }
    }
}
