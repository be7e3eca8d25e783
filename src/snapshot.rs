//! Views that outlive the lock.
//!
//! Owns [`Snapshot`]: a view by value. Must not lock.

use std::fmt;
use std::ops::Deref;

use crate::delta::Change;
use crate::view::View;

/// A view as an owned value: it never changes, holds no lock and can be sent anywhere.
///
/// Taking and cloning one is O(1): it shares the storage with the key space, and only what the key
/// space replaces later stays in memory for its sake.
pub struct Snapshot<T> {
    view: View<T>,
}

impl<T> Snapshot<T> {
    pub(crate) fn new(view: View<T>) -> Self {
        Snapshot { view }
    }

    /// The exact net changes that lead from `older` to this snapshot, ascending by key.
    ///
    /// Costs what changed, not what is there, when both are of one key space; otherwise O(n).
    #[must_use]
    pub fn diff(&self, older: &Snapshot<T>) -> Vec<Change<T>> {
        self.view.changes_since(&older.view)
    }
}

impl<T> Deref for Snapshot<T> {
    type Target = View<T>;

    fn deref(&self) -> &View<T> {
        &self.view
    }
}

impl<T> Clone for Snapshot<T> {
    fn clone(&self) -> Self {
        Snapshot { view: self.view.share() }
    }
}

impl<T> fmt::Debug for Snapshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Snapshot").field(&self.view).finish()
    }
}
