//! A version from entries that come in order.
//!
//! Owns the packing of a first load. Must not look at entries that are already packed.

use std::sync::Arc;

use super::Packed;
use super::balance::{groups_of, pages_of, runs_of};
use super::root::{Root, Tally};
use super::run::Run;
use super::sizes::{GROUP_FILL, RUN_FILL, RUN_MIN};
use crate::model::Entry;

/// Packs entries pushed in ascending order, **O(1)** each.
///
/// Nothing is packed before the end: the pieces then lie close together in memory, not scattered
/// among the entries, and a search stays within few pages of it.
pub(crate) struct PackedBuilder<T> {
    entries: Vec<Arc<Entry<T>>>,
    tally: Tally,
}

impl<T> PackedBuilder<T> {
    pub(crate) fn new() -> Self {
        PackedBuilder { entries: Vec::new(), tally: Tally::default() }
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
        Ok(())
    }

    /// Packs what was pushed. **O(n)**.
    pub(crate) fn finish(mut self) -> Packed<T> {
        let mut groups = Vec::with_capacity(RUN_FILL + RUN_MIN);
        let mut runs = Vec::with_capacity(self.entries.len() / (GROUP_FILL * RUN_FILL) + 1);
        for group in groups_of(&mut self.entries) {
            groups.push(group);
            if groups.len() == RUN_FILL + RUN_MIN {
                runs.push(Arc::new(Run::new(groups.drain(..RUN_FILL).collect(), None)));
            }
        }
        runs.extend(runs_of(&mut groups, None));
        let pages = pages_of(&mut runs, None).collect();
        Packed { root: Arc::new(Root::new(pages, None, self.tally)) }
    }
}
