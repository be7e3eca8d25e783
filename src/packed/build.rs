//! A version from entries that come in order.
//!
//! Owns the packing of a first load. Must not look at entries that are already packed.

use std::sync::Arc;

use super::group::Group;
use super::pieces::{groups_of, pages_of, runs_of};
use super::root::{Root, Tally};
use super::run::Run;
use super::{GROUP_FILL, GROUP_MIN, Packed, RUN_FILL, RUN_MIN};
use crate::entry::Entry;

/// Packs entries pushed in ascending order, **O(1)** each.
///
/// A piece is closed when enough is behind it that the last piece is never too small.
pub(crate) struct Builder<T> {
    runs: Vec<Arc<Run<T>>>,
    /// The groups behind the last run.
    groups: Vec<Arc<Group<T>>>,
    /// The entries behind the last group.
    entries: Vec<Arc<Entry<T>>>,
    tally: Tally,
}

impl<T> Builder<T> {
    pub(crate) fn new() -> Self {
        Builder {
            runs: Vec::new(),
            groups: Vec::new(),
            entries: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Appends an entry.
    ///
    /// # Errors
    /// Gives the entry back when its key is not above the last one's.
    pub(crate) fn push(&mut self, entry: Arc<Entry<T>>) -> Result<(), Arc<Entry<T>>> {
        if self.entries.last().is_some_and(|last| last.key() >= entry.key()) {
            return Err(entry);
        }
        self.tally.add(&entry);
        self.entries.push(entry);
        if self.entries.len() == GROUP_FILL + GROUP_MIN {
            self.groups.push(Arc::new(Group::new(self.entries.drain(..GROUP_FILL).collect())));
        }
        if self.groups.len() == RUN_FILL + RUN_MIN {
            let run = Run::new(self.groups.drain(..RUN_FILL).collect(), None);
            self.runs.push(Arc::new(run));
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Packed<T> {
        self.groups.extend(groups_of(self.entries));
        self.runs.extend(runs_of(self.groups, None));
        let pages = pages_of(self.runs, None).collect();
        Packed { root: Arc::new(Root::new(pages, None, self.tally)) }
    }
}
