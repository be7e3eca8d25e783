//! Derived states that are published with each view, for readers that take no lock.
//!
//! Owns the list that is published, and the token that finds a state in it.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::{Derived, DerivedError, Observers, PoisonedObserver, State};

/// One shared state, or why there is none.
struct SharedState {
    observer: u64,
    state: Result<Arc<dyn Any + Send + Sync>, Arc<PoisonedObserver>>,
}

/// The shared states as of one view, in the order of registration.
#[derive(Default)]
pub(crate) struct SharedStates(Vec<SharedState>);

impl SharedStates {
    /// An empty list with room for as many states as `self` has.
    pub(crate) fn room(&self) -> Self {
        SharedStates(Vec::with_capacity(self.0.len()))
    }

    /// Takes in the states of `observers`; allocates only if there are more than there is room for.
    pub(crate) fn fill<T>(&mut self, observers: &Observers<T>) {
        self.0.extend(observers.kept().filter_map(|slot| {
            let State::Shared(state) = &slot.state else { return None };
            let state = match &slot.poisoned {
                Some(poisoned) => Err(Arc::clone(poisoned)),
                None => Ok(Arc::clone(state)),
            };
            Some(SharedState { observer: slot.id, state })
        }));
    }

    /// The state of `token`.
    pub(crate) fn get<S: Send + Sync + 'static>(
        &self,
        token: &SharedDerived<S>,
    ) -> Result<&Arc<S>, DerivedError> {
        let found = self.0.iter().find(|shared| shared.observer == token.observer.id);
        match &found.ok_or(DerivedError::NotHere)?.state {
            Ok(state) => state.downcast_ref().ok_or(DerivedError::NotHere),
            Err(poisoned) => Err(DerivedError::from(&**poisoned)),
        }
    }
}

/// The token of a derived state that snapshots carry. Dropping it keeps the observer and its state.
///
/// It is also a [`Derived`] of the `Arc`, so that a read guard and later observers take it too.
pub struct SharedDerived<S>(Derived<Arc<S>>);

impl<S> SharedDerived<S> {
    pub(crate) fn new(token: Derived<Arc<S>>) -> Self {
        SharedDerived(token)
    }
}

impl<S> Deref for SharedDerived<S> {
    type Target = Derived<Arc<S>>;

    fn deref(&self) -> &Derived<Arc<S>> {
        &self.0
    }
}

impl<S> Clone for SharedDerived<S> {
    fn clone(&self) -> Self {
        SharedDerived(self.0.clone())
    }
}

impl<S> fmt::Debug for SharedDerived<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
