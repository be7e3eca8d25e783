//! A new version from an old one and a batch of edits.
//!
//! Owns what is copied and what is shared. The old version is only read: nothing here needs to own
//! it, and whoever holds it sees no change.

use std::sync::Arc;
use std::vec;

use super::balance::{groups_of, pages_of, runs_of, settle, settle_shared};
use super::group::Group;
use super::place::Place;
use super::root::{Page, Root, Tally};
use super::run::Run;
use super::{Packed, PackedBuilder, touch};
use crate::model::Entry;

/// One change of a batch.
pub(crate) enum Edit<T> {
    /// Adds the entry, or replaces the one of the same key.
    Put(Arc<Entry<T>>),
    /// Removes the entry of this key, if there is one.
    Remove(Box<[u8]>),
}

impl<T> Edit<T> {
    pub(super) fn key(&self) -> &[u8] {
        match self {
            Edit::Put(entry) => entry.key(),
            Edit::Remove(key) => key,
        }
    }
}

impl<T> Packed<T> {
    /// The version after `edits`, which ascend strictly by key; their places are of this version.
    ///
    /// Removing an absent key changes nothing. A batch that changes nothing gives this version.
    pub(crate) fn edit(&self, mut edits: Vec<(Place, Edit<T>)>) -> Packed<T> {
        debug_assert!(edits.is_sorted_by(|a, b| a.1.key() < b.1.key()), "edits do not ascend");
        if self.len() == 0 {
            return built(edits);
        }
        edits.retain(|(place, edit)| place.index.is_ok() || matches!(edit, Edit::Put(_)));
        if edits.is_empty() {
            return self.clone();
        }
        let tally = self.tally_after(&edits);
        let editor = Editor { edits: edits.into_iter(), groups: Vec::new(), entries: Vec::new() };
        let pages = editor.edit_root(&self.root);
        Packed { root: Arc::new(Root::new(pages, Some(&self.root), tally)) }
    }

    /// The sums over the entries of the new version.
    fn tally_after(&self, edits: &[(Place, Edit<T>)]) -> Tally {
        let mut tally = self.root.tally();
        for (place, edit) in edits {
            if let Some(old) = self.at(place) {
                tally.subtract(old);
            }
            if let Edit::Put(entry) = edit {
                tally.add(entry);
            }
        }
        tally
    }
}

/// The entries that a batch puts into an empty version.
fn built<T>(edits: Vec<(Place, Edit<T>)>) -> Packed<T> {
    let mut builder = PackedBuilder::new();
    for (_, edit) in edits {
        if let Edit::Put(entry) = edit {
            // The order is the caller's contract, asserted above.
            let _ = builder.push(entry);
        }
    }
    builder.finish()
}

/// Takes the edits of a batch in order while it visits the pieces they fall into.
struct Editor<T> {
    edits: vec::IntoIter<(Place, Edit<T>)>,
    /// Room for the pieces of one run and one group at a time.
    groups: Vec<Arc<Group<T>>>,
    entries: Vec<Arc<Entry<T>>>,
}

impl<T> Editor<T> {
    fn next_place(&self) -> Option<Place> {
        self.edits.as_slice().first().map(|(place, _)| *place)
    }

    fn edit_root(mut self, root: &Root<T>) -> Vec<Arc<Page<T>>> {
        let mut pages = Vec::with_capacity(root.pages().len() + 1);
        let mut next = 0;
        while let Some(Place { page: at, .. }) = self.next_place() {
            settle_shared(&mut pages, &root.pages()[next..at]);
            let page = &root.pages()[at];
            let mut runs = self.edit_page(at, page);
            for part in pages_of(&mut runs, Some(page)) {
                settle(&mut pages, part);
            }
            next = at + 1;
        }
        settle_shared(&mut pages, &root.pages()[next..]);
        pages
    }

    fn edit_page(&mut self, at_page: usize, page: &Page<T>) -> Vec<Arc<Run<T>>> {
        self.touch_pieces_of(at_page, page);
        let mut runs = Vec::with_capacity(page.runs().len() + 1);
        let mut next = 0;
        while let Some(place) = self.next_place().filter(|place| place.page == at_page) {
            let at = place.run;
            settle_shared(&mut runs, &page.runs()[next..at]);
            let run = &page.runs()[at];
            self.edit_run((at_page, at), run);
            for part in runs_of(&mut self.groups, Some(run)) {
                settle(&mut runs, part);
            }
            next = at + 1;
        }
        settle_shared(&mut runs, &page.runs()[next..]);
        runs
    }

    /// Loads the counts of all that the edits of a page will copy.
    fn touch_pieces_of(&self, at_page: usize, page: &Page<T>) {
        touch(page.runs());
        let here = self.edits.as_slice().iter().map(|(place, _)| place);
        for place in here.take_while(|place| place.page == at_page) {
            let groups = page.runs()[place.run].groups();
            touch(groups);
            touch(groups[place.group].entries());
        }
    }

    /// Leaves the new groups of a run in `groups`.
    fn edit_run(&mut self, at_run: (usize, usize), run: &Run<T>) {
        let mut next = 0;
        while let Some(place) = self.next_place().filter(|place| (place.page, place.run) == at_run)
        {
            let at = place.group;
            settle_shared(&mut self.groups, &run.groups()[next..at]);
            self.edit_group((at_run, at), &run.groups()[at]);
            next = at + 1;
        }
        settle_shared(&mut self.groups, &run.groups()[next..]);
    }

    /// Appends what becomes of a group to `groups`.
    fn edit_group(&mut self, at_group: ((usize, usize), usize), group: &Group<T>) {
        let mut old = group.entries();
        let mut values_only = true;
        let here = |place: Place| ((place.page, place.run), place.group) == at_group;
        while self.next_place().is_some_and(here) {
            let Some((place, edit)) = self.edits.next() else { break };
            let (Ok(index) | Err(index)) = place.index;
            let kept = index - (group.len() - old.len());
            self.entries.extend_from_slice(&old[..kept]);
            old = &old[kept + usize::from(place.index.is_ok())..];
            match edit {
                Edit::Put(entry) => {
                    values_only &= place.index.is_ok();
                    self.entries.push(entry);
                }
                Edit::Remove(_) => values_only = false,
            }
        }
        self.entries.extend_from_slice(old);
        if values_only {
            let same_keys = group.with_values(self.entries.drain(..).collect());
            settle(&mut self.groups, Arc::new(same_keys));
        } else {
            for part in groups_of(&mut self.entries) {
                settle(&mut self.groups, part);
            }
        }
    }
}
