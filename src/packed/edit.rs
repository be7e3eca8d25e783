//! A new version from an old one and a batch of edits.
//!
//! Owns what is copied and what is shared, and the bounds on occupancy. The old version is only
//! read: nothing here needs to own it, and whoever holds it sees no change.

use std::iter::Peekable;
use std::sync::Arc;
use std::vec;

use super::root::{Page, Root, Tally};
use super::run::{Run, even_parts, runs_of};
use super::{Builder, PAGE_FILL, PAGE_MAX, PAGE_MIN, Packed, RUN_MIN};
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
        let mut editor = Editor {
            edits: edits.into_iter().peekable(),
            tally: root.tally(),
            changes: Vec::new(),
        };
        let mut pages = Vec::with_capacity(root.pages().len() + 1);
        let mut next = 0;
        let mut changed = false;
        while let Some(at) = editor.edits.peek().map(|edit| root.locate(edit.key())) {
            let page = &root.pages()[at];
            if let Some(runs) = editor.edit_page(page, |key| root.locate(key) == at) {
                settle_shared(&mut pages, &root.pages()[next..at]);
                for part in pages_of(runs, Some(page)) {
                    settle(&mut pages, part);
                }
                next = at + 1;
                changed = true;
            }
        }
        if !changed {
            return self.clone();
        }
        settle_shared(&mut pages, &root.pages()[next..]);
        Packed { root: Arc::new(Root::new(pages, Some(root), editor.tally)) }
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

/// One change of a run: the index it applies to, or inserts before, and the new entry.
struct Change<T> {
    place: Result<usize, usize>,
    entry: Option<Arc<Entry<T>>>,
}

/// What goes along while the pieces of a version are visited.
struct Editor<T> {
    edits: Peekable<vec::IntoIter<Edit<T>>>,
    tally: Tally,
    /// Scratch of the run being edited.
    changes: Vec<Change<T>>,
}

impl<T> Editor<T> {
    /// Takes the edits that fall into `page`, and gives its new runs unless they changed nothing.
    fn edit_page(
        &mut self,
        page: &Page<T>,
        in_page: impl Fn(&[u8]) -> bool,
    ) -> Option<Vec<Arc<Run<T>>>> {
        let mut runs = Vec::with_capacity(page.runs().len() + 1);
        let mut next = 0;
        let mut changed = false;
        while let Some(edit) = self.edits.peek().filter(|edit| in_page(edit.key())) {
            let at = page.locate(edit.key());
            let run = &page.runs()[at];
            while let Some(edit) =
                self.edits.next_if(|edit| in_page(edit.key()) && page.locate(edit.key()) == at)
            {
                self.note(run, edit);
            }
            if !self.changes.is_empty() {
                settle_shared(&mut runs, &page.runs()[next..at]);
                self.edit_run(run, &mut runs);
                next = at + 1;
                changed = true;
            }
        }
        changed.then(|| {
            settle_shared(&mut runs, &page.runs()[next..]);
            runs
        })
    }

    /// Turns an edit into a change of `run`.
    fn note(&mut self, run: &Run<T>, edit: Edit<T>) {
        let place = run.search(edit.key());
        if let Ok(index) = place {
            self.tally.subtract(run.entry(index));
        }
        let entry = match edit {
            Edit::Put(entry) => {
                self.tally.add(&entry);
                Some(entry)
            }
            Edit::Remove(_) if place.is_err() => return,
            Edit::Remove(_) => None,
        };
        self.changes.push(Change { place, entry });
    }

    /// Applies the noted changes to `run`.
    fn edit_run(&mut self, run: &Run<T>, out: &mut Vec<Arc<Run<T>>>) {
        let values_only = |change: &Change<T>| change.place.is_ok() && change.entry.is_some();
        if self.changes.iter().all(values_only) {
            settle(out, Arc::new(self.replace_values(run)));
            return;
        }
        let entries = self.merge(run);
        for part in runs_of(&entries) {
            settle(out, part);
        }
    }

    /// The run with other values: the same keys, so the same heads.
    fn replace_values(&mut self, run: &Run<T>) -> Run<T> {
        let mut groups = run.groups().clone();
        for change in self.changes.drain(..) {
            if let (Ok(index), Some(entry)) = (change.place, change.entry) {
                let group = index / super::GROUP;
                Arc::make_mut(&mut groups[group])[index % super::GROUP] = entry;
            }
        }
        Run::from_parts(run.skip(), Arc::clone(run.heads()), groups)
    }

    /// The entries of `run` after the noted changes.
    fn merge(&mut self, run: &Run<T>) -> Vec<Arc<Entry<T>>> {
        let mut entries = Vec::with_capacity(run.len() + self.changes.len());
        let mut old = run.entries().cloned();
        let mut taken = 0;
        for change in self.changes.drain(..) {
            let (Ok(place) | Err(place)) = change.place;
            entries.extend(old.by_ref().take(place - taken));
            taken = place;
            if change.place.is_ok() {
                old.next();
                taken += 1;
            }
            entries.extend(change.entry);
        }
        entries.extend(old);
        entries
    }
}

/// A piece of a level, with a lower bound on its size.
trait Piece: Sized {
    fn is_small(&self) -> bool;

    /// Puts the content of two neighbours into `out`: one piece, or pieces that are not small.
    fn join(&self, right: &Self, out: &mut Vec<Self>);
}

/// Appends a piece. All pieces of `out` stay large enough, unless there is only one.
fn settle<P: Piece>(out: &mut Vec<P>, piece: P) {
    match out.pop_if(|last| last.is_small() || piece.is_small()) {
        Some(last) => last.join(&piece, out),
        None => out.push(piece),
    }
}

fn settle_shared<P: Piece + Clone>(out: &mut Vec<P>, pieces: &[P]) {
    let mut pieces = pieces.iter();
    while out.last().is_some_and(P::is_small) {
        let Some(piece) = pieces.next() else { return };
        settle(out, piece.clone());
    }
    for piece in pieces {
        settle(out, piece.clone());
    }
}

impl<T> Piece for Arc<Run<T>> {
    fn is_small(&self) -> bool {
        self.len() < RUN_MIN
    }

    fn join(&self, right: &Self, out: &mut Vec<Self>) {
        let entries: Vec<_> = self.entries().chain(right.entries()).cloned().collect();
        out.extend(runs_of(&entries));
    }
}

impl<T> Piece for Arc<Page<T>> {
    fn is_small(&self) -> bool {
        self.runs().len() < PAGE_MIN
    }

    /// A page that is small may have a small run; with the runs of a neighbour around it that run
    /// is joined too. At most one run goes away by that, so a page that was large enough still is.
    fn join(&self, right: &Self, out: &mut Vec<Self>) {
        let mut runs = Vec::with_capacity(self.runs().len() + right.runs().len());
        for run in self.runs().iter().chain(right.runs()) {
            settle(&mut runs, Arc::clone(run));
        }
        out.extend(pages_of(runs, None));
    }
}

/// Cuts runs into pages of even length.
pub(super) fn pages_of<'a, T>(
    runs: Vec<Arc<Run<T>>>,
    like: Option<&'a Page<T>>,
) -> impl Iterator<Item = Arc<Page<T>>> + use<'a, T> {
    let parts = even_parts(runs.len(), PAGE_FILL, PAGE_MAX);
    let mut runs = runs.into_iter();
    parts.map(move |part| Arc::new(Page::new(runs.by_ref().take(part.len()).collect(), like)))
}
