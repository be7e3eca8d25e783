//! A version from entries that come in order.
//!
//! Owns the packing of a first load. Must not look at entries that are already packed.

use std::sync::Arc;

use super::edit::pages_of;
use super::root::{Root, Tally};
use super::run::{Run, runs_of};
use super::{Packed, RUN_FILL, RUN_MIN};
use crate::entry::Entry;

/// Packs entries pushed in ascending order, **O(1)** each.
pub(crate) struct Builder<T> {
    runs: Vec<Arc<Run<T>>>,
    /// The entries behind the last run. Two runs' worth is kept back, so that the last run is
    /// never cut too small.
    pending: Vec<Arc<Entry<T>>>,
    tally: Tally,
}

impl<T> Builder<T> {
    pub(crate) fn new() -> Self {
        Builder { runs: Vec::new(), pending: Vec::new(), tally: Tally::default() }
    }

    /// Appends an entry.
    ///
    /// # Errors
    /// Gives the entry back when its key is not above the last one's.
    pub(crate) fn push(&mut self, entry: Arc<Entry<T>>) -> Result<(), Arc<Entry<T>>> {
        if self.pending.last().is_some_and(|last| last.key() >= entry.key()) {
            return Err(entry);
        }
        self.tally.add(&entry);
        self.pending.push(entry);
        if self.pending.len() == RUN_FILL + RUN_MIN {
            self.runs.push(Arc::new(Run::new(&self.pending[..RUN_FILL])));
            self.pending.drain(..RUN_FILL);
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Packed<T> {
        self.runs.extend(runs_of(&self.pending));
        let pages = pages_of(self.runs, None).collect();
        Packed { root: Arc::new(Root::new(pages, None, self.tally)) }
    }
}
