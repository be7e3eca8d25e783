//! The published view, for readers that take no lock.
//!
//! Owns the cell that holds it, and what a load of the cell returns. Only `core` stores into the cell,
//! under the write lock; see docs/storage.md, "Reading without a lock".

use std::ops::Deref;
use std::sync::Arc;

#[cfg(not(shuttle))]
use arc_swap::{ArcSwap, Guard};
#[cfg(shuttle)]
use parking_lot::Mutex;

use crate::publish::observer::SharedStates;
use crate::view::View;

/// A view, and the shared states that were derived from exactly it.
pub(crate) struct PublishedView<T> {
    pub(crate) view: View<T>,
    pub(crate) states: SharedStates,
}

impl<T> PublishedView<T> {
    /// A view without states.
    pub(crate) fn plain(view: View<T>) -> Arc<Self> {
        Arc::new(PublishedView { view, states: SharedStates::default() })
    }

    /// The next view, with room for the same number of states.
    pub(crate) fn followed_by(&self, view: View<T>) -> Arc<Self> {
        Arc::new(PublishedView { view, states: self.states.room() })
    }
}

/// The cell that holds the newest published view. Shuttle cannot schedule `arc-swap`, so a mutex stands in.
pub(crate) struct Current<T> {
    #[cfg(not(shuttle))]
    cell: ArcSwap<PublishedView<T>>,
    #[cfg(shuttle)]
    cell: Mutex<Arc<PublishedView<T>>>,
}

/// A published view that is kept: borrowed through a slot of the loading thread until the next store
/// turns it into a reference count, or a reference count from the start.
pub(crate) struct Kept<T> {
    #[cfg(not(shuttle))]
    published: Guard<Arc<PublishedView<T>>>,
    #[cfg(shuttle)]
    published: Arc<PublishedView<T>>,
}

impl<T> Current<T> {
    pub(crate) fn new(published: Arc<PublishedView<T>>) -> Self {
        #[cfg(not(shuttle))]
        return Current { cell: ArcSwap::new(published) };
        #[cfg(shuttle)]
        Current { cell: Mutex::new(published) }
    }

    /// The newest published view, without a write to memory that threads share.
    #[inline]
    pub(crate) fn load(&self) -> Kept<T> {
        #[cfg(not(shuttle))]
        return Kept { published: self.cell.load() };
        #[cfg(shuttle)]
        Kept { published: Arc::clone(&self.cell.lock()) }
    }

    /// The same as a reference count, for a long time.
    pub(crate) fn load_full(&self) -> Arc<PublishedView<T>> {
        #[cfg(not(shuttle))]
        return self.cell.load_full();
        #[cfg(shuttle)]
        Arc::clone(&self.cell.lock())
    }

    /// Stores a view and returns the one before, to be dropped outside the lock.
    pub(crate) fn swap(&self, next: Arc<PublishedView<T>>) -> Arc<PublishedView<T>> {
        #[cfg(not(shuttle))]
        return self.cell.swap(next);
        #[cfg(shuttle)]
        std::mem::replace(&mut self.cell.lock(), next)
    }
}

impl<T> Deref for Kept<T> {
    type Target = Arc<PublishedView<T>>;

    #[inline]
    fn deref(&self) -> &Arc<PublishedView<T>> {
        &self.published
    }
}

impl<T> From<Arc<PublishedView<T>>> for Kept<T> {
    fn from(published: Arc<PublishedView<T>>) -> Self {
        #[cfg(not(shuttle))]
        let published = Guard::from_inner(published);
        Kept { published }
    }
}
