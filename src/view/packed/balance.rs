//! Bounds on occupancy: pieces that are neither too full nor too empty.
//!
//! Owns how entries, groups and runs are cut into pieces of the next level, and how a piece that
//! got too small is joined with its neighbour. Must not know why pieces changed.

use std::ops::Range;
use std::sync::Arc;

use super::group::Group;
use super::root::Page;
use super::run::Run;
use super::sizes::{GROUP_FILL, GROUP_MAX, GROUP_MIN};
use super::sizes::{PAGE_FILL, PAGE_MAX, PAGE_MIN, RUN_FILL, RUN_MAX, RUN_MIN};
use crate::model::Entry;

/// A piece of a level, with a lower bound on its size.
pub(super) trait Piece: Sized {
    fn is_small(&self) -> bool;

    /// Puts the content of two neighbours into `out`: one piece, or pieces that are not small.
    fn join(&self, right: &Self, out: &mut Vec<Self>);
}

/// Appends a piece. All pieces of `out` stay large enough, unless there is only one.
pub(super) fn settle<P: Piece>(out: &mut Vec<P>, piece: P) {
    match out.pop_if(|last| last.is_small() || piece.is_small()) {
        Some(last) => last.join(&piece, out),
        None => out.push(piece),
    }
}

/// Appends pieces of an old version, which it keeps too.
pub(super) fn settle_shared<P: Piece + Clone>(out: &mut Vec<P>, pieces: &[P]) {
    for piece in pieces {
        settle(out, piece.clone());
    }
}

impl<T> Piece for Arc<Group<T>> {
    fn is_small(&self) -> bool {
        self.len() < GROUP_MIN
    }

    fn join(&self, right: &Self, out: &mut Vec<Self>) {
        let mut entries = [self.entries(), right.entries()].concat();
        out.extend(groups_of(&mut entries));
    }
}

// A small run, or page, that is the only one of its level may consist of a single small piece of
// the level below. Between the pieces of a neighbour that piece is joined as well. At most one
// piece goes away by that, so a neighbour that was large enough still is.

impl<T> Piece for Arc<Run<T>> {
    fn is_small(&self) -> bool {
        self.width() < RUN_MIN
    }

    fn join(&self, right: &Self, out: &mut Vec<Self>) {
        let mut groups = Vec::with_capacity(2 * RUN_MAX);
        settle_shared(&mut groups, self.groups());
        settle_shared(&mut groups, right.groups());
        out.extend(runs_of(&mut groups, None));
    }
}

impl<T> Piece for Arc<Page<T>> {
    fn is_small(&self) -> bool {
        self.runs().len() < PAGE_MIN
    }

    fn join(&self, right: &Self, out: &mut Vec<Self>) {
        let mut runs = Vec::with_capacity(2 * PAGE_MAX);
        settle_shared(&mut runs, self.runs());
        settle_shared(&mut runs, right.runs());
        out.extend(pages_of(&mut runs, None));
    }
}

/// Cuts entries into groups, and leaves none.
pub(super) fn groups_of<T>(
    entries: &mut Vec<Arc<Entry<T>>>,
) -> impl Iterator<Item = Arc<Group<T>>> {
    let parts = even_parts(entries.len(), GROUP_FILL, GROUP_MAX);
    let mut entries = entries.drain(..);
    parts.map(move |part| Arc::new(Group::new(entries.by_ref().take(part.len()).collect())))
}

/// Cuts groups into runs, and leaves none. What comes from the run `like` may keep its heads.
pub(super) fn runs_of<T>(
    groups: &mut Vec<Arc<Group<T>>>,
    like: Option<&Run<T>>,
) -> impl Iterator<Item = Arc<Run<T>>> {
    let parts = even_parts(groups.len(), RUN_FILL, RUN_MAX);
    let mut groups = groups.drain(..);
    parts.map(move |part| Arc::new(Run::new(groups.by_ref().take(part.len()).collect(), like)))
}

/// Cuts runs into pages, and leaves none. What comes from the page `like` may keep its fence.
pub(super) fn pages_of<T>(
    runs: &mut Vec<Arc<Run<T>>>,
    like: Option<&Page<T>>,
) -> impl Iterator<Item = Arc<Page<T>>> {
    let parts = even_parts(runs.len(), PAGE_FILL, PAGE_MAX);
    let mut runs = runs.drain(..);
    parts.map(move |part| Arc::new(Page::new(runs.by_ref().take(part.len()).collect(), like)))
}

/// Cuts `0..len` into parts of even length: one if `max` allows it, else parts of up to `fill`.
fn even_parts(len: usize, fill: usize, max: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = if len <= max { len.min(1) } else { len.div_ceil(fill) };
    (0..parts).map(move |part| part * len / parts..(part + 1) * len / parts)
}
