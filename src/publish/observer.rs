//! Observers: user code that runs under the write lock, and the state it derives.
//!
//! Owns registration order, the running of observers with their panics contained, and the tokens
//! derived state is reached by. Must not lock: whoever holds the lock calls in.

mod shared;

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use crate::model::Delta;
use crate::publish::reentry::{ObserverScope, SpaceId};
use crate::publish::timer::{Timer, Timing};
use crate::view::{View, caught_message};

pub use self::shared::SharedDerived;
pub(crate) use self::shared::SharedStates;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

type Run<T> = dyn FnMut(&mut State, &Delta<T>, &View<T>, &Earlier<'_, T>) + Send;

/// What an observer keeps: a value that it changes in place, or an `Arc` that is published with each view.
enum State {
    Owned(Box<dyn Any + Send + Sync>),
    Shared(Arc<dyn Any + Send + Sync>),
}

impl State {
    fn downcast_ref<S: 'static>(&self) -> Option<&S> {
        match self {
            State::Owned(state) => state.downcast_ref(),
            State::Shared(state) => state.downcast_ref(),
        }
    }
}

/// A registered observer with its state.
pub(crate) struct Slot<T> {
    id: u64,
    registered: &'static Location<'static>,
    removed: Arc<AtomicBool>,
    poisoned: Option<Arc<PoisonedObserver>>,
    timer: Timer,
    state: State,
    /// Only ever reached through `get_mut`: the mutex makes the slot `Sync` without asking the
    /// closure to be.
    run: Mutex<Box<Run<T>>>,
}

/// The observers of a key space in registration order.
pub(crate) struct Observers<T> {
    slots: Vec<Slot<T>>,
}

impl<T> Observers<T> {
    pub(crate) fn new() -> Self {
        Observers { slots: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Adds an observer and, when there is something to see, shows it everything (C4).
    pub(crate) fn add(
        &mut self,
        space: SpaceId,
        slot: Slot<T>,
        everything: &Delta<T>,
        view: &View<T>,
    ) {
        self.slots.push(slot);
        if !everything.is_empty() {
            self.run_one(self.slots.len() - 1, space, everything, view);
        }
    }

    /// Runs every observer in order. A panic ends only the observer that made it.
    pub(crate) fn run(&mut self, space: SpaceId, delta: &Delta<T>, view: &View<T>) {
        for index in 0..self.slots.len() {
            self.run_one(index, space, delta, view);
        }
    }

    fn run_one(&mut self, index: usize, space: SpaceId, delta: &Delta<T>, view: &View<T>) {
        let (earlier, rest) = self.slots.split_at_mut(index);
        let Some(Slot { registered, poisoned, timer, state, run, .. }) = rest.first_mut() else {
            return;
        };
        if poisoned.is_some() {
            return;
        }
        let scope = ObserverScope::enter(space, registered);
        let earlier = Earlier { slots: earlier };
        let run = run.get_mut();
        let start = Instant::now();
        let ran = catch_unwind(AssertUnwindSafe(|| run(state, delta, view, &earlier)));
        timer.since(start);
        drop(scope);
        if let Err(payload) = ran {
            let message = caught_message(payload);
            tracing::error!(observer = %registered, %message, "observer panicked; it is not called again");
            *poisoned = Some(Arc::new(PoisonedObserver { registered, message }));
        }
    }

    /// Takes out the observers that were removed, to be dropped after the unlock.
    pub(crate) fn purge(&mut self) -> Vec<Slot<T>> {
        if self.slots.iter().all(|slot| !slot.removed.load(Ordering::Acquire)) {
            return Vec::new();
        }
        let (gone, kept) =
            self.slots.drain(..).partition(|slot| slot.removed.load(Ordering::Acquire));
        self.slots = kept;
        gone
    }

    /// The observers that panicked: where they were registered, and the message.
    pub(crate) fn poisoned(&self) -> Vec<PoisonedObserver> {
        self.kept().filter_map(|slot| slot.poisoned.as_deref().cloned()).collect()
    }

    /// Where each observer was registered, and its times.
    pub(crate) fn times(&self) -> impl Iterator<Item = (&'static Location<'static>, Timing)> {
        self.kept().map(|slot| (slot.registered, slot.timer.read()))
    }

    /// Those that were not removed.
    fn kept(&self) -> impl Iterator<Item = &Slot<T>> {
        self.slots.iter().filter(|slot| !slot.removed.load(Ordering::Acquire))
    }

    /// The state of `token`, as a reader sees it: a removed observer is gone at once.
    pub(crate) fn derived<S: 'static>(&self, token: &Derived<S>) -> Result<&S, DerivedError> {
        if token.observer.removed.load(Ordering::Acquire) {
            return Err(DerivedError::NotHere);
        }
        find(&self.slots, token)
    }
}

fn find<'a, T, S: 'static>(
    slots: &'a [Slot<T>],
    token: &Derived<S>,
) -> Result<&'a S, DerivedError> {
    let slot = slots.iter().find(|slot| slot.id == token.observer.id);
    let slot = slot.ok_or(DerivedError::NotHere)?;
    if let Some(poisoned) = &slot.poisoned {
        return Err(DerivedError::from(&**poisoned));
    }
    slot.state.downcast_ref().ok_or(DerivedError::NotHere)
}

impl<T> Slot<T> {
    /// A slot for `run` with its state, not yet registered.
    pub(crate) fn new<S, F>(registered: &'static Location<'static>, state: S, mut run: F) -> Self
    where
        S: Send + Sync + 'static,
        F: FnMut(&mut S, &Delta<T>, &View<T>, &Earlier<'_, T>) + Send + 'static,
    {
        let run =
            move |state: &mut State, delta: &Delta<T>, view: &View<T>, earlier: &Earlier<'_, T>| {
                // The state was boxed right here as an `S`, and nothing replaces it.
                if let State::Owned(state) = state
                    && let Some(state) = state.downcast_mut::<S>()
                {
                    run(state, delta, view, earlier);
                }
            };
        Slot::with(registered, State::Owned(Box::new(state)), Box::new(run))
    }

    /// A slot whose state is published with each view; `run` returns the next state.
    pub(crate) fn shared<S, F>(
        registered: &'static Location<'static>,
        state: Arc<S>,
        mut run: F,
    ) -> Self
    where
        S: Send + Sync + 'static,
        F: FnMut(&Arc<S>, &Delta<T>, &View<T>, &Earlier<'_, T>) -> Arc<S> + Send + 'static,
    {
        let run =
            move |state: &mut State, delta: &Delta<T>, view: &View<T>, earlier: &Earlier<'_, T>| {
                let State::Shared(shared) = state else { return };
                let Some(old) = shared.downcast_ref::<Arc<S>>() else { return };
                let next = run(old, delta, view, earlier);
                if !Arc::ptr_eq(old, &next) {
                    // The published view, or the one who registers, still holds the old one, so it is not
                    // dropped under the lock (C5).
                    *shared = Arc::new(next);
                }
            };
        Slot::with(registered, State::Shared(Arc::new(state)), Box::new(run))
    }

    fn with(registered: &'static Location<'static>, state: State, run: Box<Run<T>>) -> Self {
        Slot {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            registered,
            removed: Arc::new(AtomicBool::new(false)),
            poisoned: None,
            timer: Timer::default(),
            state,
            run: Mutex::new(run),
        }
    }

    /// The state, if it is published with each view.
    pub(crate) fn shared_state(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        match &self.state {
            State::Shared(state) => Some(Arc::clone(state)),
            State::Owned(_) => None,
        }
    }

    /// Whether the state is published with each view.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.state, State::Shared(_))
    }

    /// Has the observer's times passed on to whom `tell` names.
    #[cfg(feature = "metrics")]
    pub(crate) fn pass_times_on(
        &self,
        tell: impl FnOnce(&'static Location<'static>) -> crate::publish::timer::OnRecord,
    ) {
        self.timer.pass_on(tell(self.registered));
    }

    /// The handle of this slot in the key space `space`.
    pub(crate) fn observer(&self, space: Weak<dyn RemoveObservers>) -> Observer {
        Observer {
            id: self.id,
            registered: self.registered,
            removed: Arc::clone(&self.removed),
            space,
        }
    }
}

/// A key space that can take out removed observers now, if its lock is free.
pub(crate) trait RemoveObservers: Send + Sync {
    fn purge(&self);
}

/// The derived states of the observers registered before the one that is running.
pub struct Earlier<'a, T> {
    slots: &'a [Slot<T>],
}

impl<T> Earlier<'_, T> {
    /// The state an earlier observer derived from the same step.
    ///
    /// # Panics
    /// When that observer panicked, was removed, is registered later, or is of another key space.
    #[must_use]
    #[track_caller]
    pub fn derived<S: 'static>(&self, token: &Derived<S>) -> &S {
        match self.try_derived(token) {
            Ok(state) => state,
            Err(error) => panic!("{error}"),
        }
    }

    /// The state an earlier observer derived from the same step.
    ///
    /// # Errors
    /// [`DerivedError::Poisoned`] after a panic of that observer; [`DerivedError::NotHere`] when it
    /// was removed, is registered later, or is of another key space.
    pub fn try_derived<S: 'static>(&self, token: &Derived<S>) -> Result<&S, DerivedError> {
        // Removed during this step, it is here to its end: removal takes effect after the step.
        find(self.slots, token)
    }
}

impl<T> fmt::Debug for Earlier<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Earlier").field("observers", &self.slots.len()).finish()
    }
}

/// Derived state cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DerivedError {
    /// The observer panicked, so its state no longer follows the data. Fix the observer; register
    /// it anew to have its state computed from everything.
    #[error("the observer registered at {registered} panicked: {message}")]
    Poisoned {
        /// Where the observer was registered.
        registered: &'static Location<'static>,
        /// The panic's message.
        message: String,
    },
    /// The observer was removed, or is not one of those asked. Fix the caller.
    #[error(
        "there is no such derived state here: its observer was removed or is another key space's"
    )]
    NotHere,
}

/// An observer that panicked and is not called any more.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoisonedObserver {
    /// Where it was registered.
    pub registered: &'static Location<'static>,
    /// The panic's message.
    pub message: String,
}

impl From<&PoisonedObserver> for DerivedError {
    fn from(poisoned: &PoisonedObserver) -> Self {
        let PoisonedObserver { registered, message } = poisoned.clone();
        DerivedError::Poisoned { registered, message }
    }
}

/// The handle of a registered observer. Dropping it keeps the observer.
#[derive(Clone)]
pub struct Observer {
    id: u64,
    registered: &'static Location<'static>,
    removed: Arc<AtomicBool>,
    space: Weak<dyn RemoveObservers>,
}

impl Observer {
    /// Removes the observer with its state; removing twice does nothing.
    ///
    /// Waits a millisecond at most, so it may be called under any lock, also one that the observer takes.
    /// No step that begins later calls the observer, and guards taken later do not have its derived
    /// state. A step that is being published at this moment still calls it, at most once.
    ///
    /// To wait for that step, take a read guard afterwards, `drop(ks.read())`: then the observer does
    /// not run any more. Hold no lock meanwhile that an observer takes.
    ///
    /// The closure and the state are dropped before this returns, on this thread. If a step or a reader
    /// holds the lock of the key space for longer, the thread that publishes drops them: after that step,
    /// or with the next step or progress.
    pub fn remove(&self) {
        self.removed.store(true, Ordering::Release);
        if let Some(space) = self.space.upgrade() {
            space.purge();
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").field("registered", &self.registered).finish()
    }
}

/// The token of derived state of type `S`. Dropping it keeps the observer and its state.
pub struct Derived<S> {
    observer: Observer,
    state: PhantomData<fn() -> S>,
}

impl<S> Derived<S> {
    pub(crate) fn new(observer: Observer) -> Self {
        Derived { observer, state: PhantomData }
    }

    /// Removes the observer with its state; see [`Observer::remove`].
    pub fn remove(&self) {
        self.observer.remove();
    }
}

impl<S> Clone for Derived<S> {
    fn clone(&self) -> Self {
        Derived::new(self.observer.clone())
    }
}

impl<S> fmt::Debug for Derived<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derived").field("registered", &self.observer.registered).finish()
    }
}
