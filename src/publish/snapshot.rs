//! Views that outlive the lock.
//!
//! Owns [`Snapshot`]: a view by value, with the shared states derived from it. Must not lock.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::model::Change;
use crate::publish::current::Kept;
use crate::publish::observer::{DerivedError, SharedDerived};
use crate::view::View;

/// A view as an owned value: it never changes, holds no lock, and can be sent anywhere.
///
/// Take one in each request handler: it costs about as much as the load of one atomic pointer, blocks neither
/// the mirror nor other readers, and may be kept across an `.await`. It shares its storage with the key
/// space. Only the entries that the key space replaces later stay in memory while it lives.
///
/// The first eight snapshots that a thread holds at once cost no reference count. Each further one costs one,
/// 40 ns instead of 13, and more when threads take it at the same time: a task that keeps a snapshot for long
/// keeps a `clone` and drops the original.
/// A thread that dropped its snapshots keeps no view in memory, whether it idles or ends.
pub struct Snapshot<T> {
    kept: Kept<T>,
}

impl<T> Snapshot<T> {
    #[inline]
    pub(crate) fn new(kept: impl Into<Kept<T>>) -> Self {
        Snapshot { kept: kept.into() }
    }

    /// The exact net changes that lead from `older` to this snapshot, ascending by key.
    ///
    /// Costs what changed, not what is there, when both are of one key space; otherwise O(n).
    #[must_use]
    pub fn diff(&self, older: &Snapshot<T>) -> Vec<Change<T>> {
        self.changes_since(older)
    }

    /// The state derived under `token` by [`KeySpace::derive_shared`](crate::KeySpace::derive_shared), as of
    /// exactly this view; in O(s) for s shared states.
    ///
    /// Clone the `Arc` to keep the state without the snapshot.
    ///
    /// # Panics
    /// When the observer panicked, belongs to another key space, was registered after this view was published,
    /// or was removed before that.
    ///
    /// A removal that finds the lock taken takes effect with the next step or progress; until then snapshots
    /// have the state.
    #[must_use]
    #[track_caller]
    pub fn derived<S: Send + Sync + 'static>(&self, token: &SharedDerived<S>) -> &Arc<S> {
        match self.try_derived(token) {
            Ok(state) => state,
            Err(error) => panic!("{error}"),
        }
    }

    /// The state derived under `token`, as of exactly this view.
    ///
    /// # Errors
    /// [`DerivedError::Poisoned`] after a panic of its observer: it no longer follows the data.
    /// [`DerivedError::NotHere`] when it belongs to another key space, was registered after this view was
    /// published, or was removed before that.
    pub fn try_derived<S: Send + Sync + 'static>(
        &self,
        token: &SharedDerived<S>,
    ) -> Result<&Arc<S>, DerivedError> {
        self.kept.states.get(token)
    }
}

impl<T> Deref for Snapshot<T> {
    type Target = View<T>;

    #[inline]
    fn deref(&self) -> &View<T> {
        &self.kept.view
    }
}

impl<T> Clone for Snapshot<T> {
    fn clone(&self) -> Self {
        Snapshot::new(Arc::clone(&self.kept))
    }
}

impl<T> fmt::Debug for Snapshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Snapshot").field(&**self).finish()
    }
}
