//! Read guards, and what each thread holds: so that a mistake panics instead of hanging.
//!
//! Owns [`ReadGuard`] and the per-thread counts of guards and running observers. Must not touch the
//! data itself.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::RwLockReadGuard;
use smallvec::SmallVec;

use crate::observer::{Derived, DerivedError, Observers};
use crate::view::View;

/// What the lock of a key space protects.
pub(crate) struct Locked<T> {
    pub(crate) view: View<T>,
    pub(crate) observers: Observers<T>,
}

/// Identifies a key space among those alive: the address of its shared state.
pub(crate) type SpaceId = usize;

thread_local! {
    /// How many guards of each key space this thread holds. A guard cannot change threads.
    static HELD: RefCell<SmallVec<[(SpaceId, u32); 4]>> = const { RefCell::new(SmallVec::new_const()) };
    /// The observers this thread is running, innermost last.
    static OBSERVING: RefCell<SmallVec<[(SpaceId, &'static Location<'static>); 2]>> =
        const { RefCell::new(SmallVec::new_const()) };
}

/// How many guards of `space` this thread holds.
pub(crate) fn held(space: SpaceId) -> u32 {
    HELD.try_with(|held| {
        held.borrow().iter().find(|(id, _)| *id == space).map_or(0, |(_, count)| *count)
    })
    .unwrap_or(0)
}

/// Panics when this thread runs an observer of `space`, which has the write lock.
#[track_caller]
pub(crate) fn refuse_in_observer(space: SpaceId, what: &str) {
    let observer = OBSERVING
        .try_with(|all| all.borrow().iter().find(|(id, _)| *id == space).map(|(_, at)| *at))
        .ok()
        .flatten();
    if let Some(at) = observer {
        panic!(
            "{what} inside an observer of the same key space would never end: the observer \
             registered at {at} runs under the write lock; use the view it is given"
        );
    }
}

/// Panics when this thread holds a guard of `space`, for which a writer would wait for ever.
#[track_caller]
pub(crate) fn refuse_under_guard(space: SpaceId, what: &str) {
    if held(space) > 0 {
        panic!(
            "{what} while this thread holds a read guard of the same key space would never end: \
             drop the guard first"
        );
    }
}

/// Whether this thread runs an observer of `space`.
pub(crate) fn in_observer(space: SpaceId) -> bool {
    OBSERVING.try_with(|all| all.borrow().iter().any(|(id, _)| *id == space)).unwrap_or(false)
}

/// Marks this thread as running an observer until dropped.
pub(crate) struct ObserverScope(());

impl ObserverScope {
    pub(crate) fn enter(space: SpaceId, registered: &'static Location<'static>) -> Self {
        OBSERVING.with(|all| all.borrow_mut().push((space, registered)));
        ObserverScope(())
    }
}

impl Drop for ObserverScope {
    fn drop(&mut self) {
        OBSERVING.with(|all| all.borrow_mut().pop());
    }
}

/// Counts one guard of this thread until dropped.
struct Hold(SpaceId);

impl Hold {
    fn new(space: SpaceId) -> Self {
        HELD.with(|held| {
            let mut held = held.borrow_mut();
            match held.iter_mut().find(|(id, _)| *id == space) {
                Some((_, count)) => *count += 1,
                None => held.push((space, 1)),
            }
        });
        Hold(space)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // A guard may outlive the thread's own storage; nothing is left to count then.
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(index) = held.iter().position(|(id, _)| *id == self.0) {
                held[index].1 -= 1;
                if held[index].1 == 0 {
                    held.swap_remove(index);
                }
            }
        });
    }
}

/// The longest times the lock was held by readers and waited for by the writer, in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct LockTimes {
    pub(crate) longest_read_hold: AtomicU64,
    pub(crate) longest_write_wait: AtomicU64,
    pub(crate) longest_write_hold: AtomicU64,
}

/// Raises `longest` to the time since `start`.
pub(crate) fn record(longest: &AtomicU64, start: Instant) {
    let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    if nanos > longest.load(Ordering::Relaxed) {
        longest.fetch_max(nanos, Ordering::Relaxed);
    }
}

/// A locked view: while it lives, nothing changes.
///
/// The mirror waits for it before the next batch is shown, so keep it short: do not hold it while
/// streaming to a client, and never across an `.await` (it is `!Send` by its own type, so in a
/// spawned task the compiler refuses that). To keep data longer take a
/// [`Snapshot`](crate::Snapshot), or clone single `Arc<Entry<T>>`s.
///
/// A second guard of the same key space on the same thread is fine.
///
/// ```compile_fail
/// fn assert_send<S: Send>(_: S) {}
/// fn check(ks: &etcd_keyspace::KeySpace<u32>) {
///     assert_send(ks.read());
/// }
/// ```
///
/// ```compile_fail
/// async fn other() {}
/// async fn handler(ks: etcd_keyspace::KeySpace<u32>) {
///     let view = ks.read();
///     other().await; // the guard would be held across this
///     println!("{}", view.len());
/// }
/// fn spawn(ks: etcd_keyspace::KeySpace<u32>) {
///     tokio::spawn(handler(ks));
/// }
/// ```
#[must_use = "the guard is the view; dropping it at once reads nothing"]
pub struct ReadGuard<'a, T> {
    locked: RwLockReadGuard<'a, Locked<T>>,
    times: &'a LockTimes,
    since: Instant,
    _hold: Hold,
    /// parking_lot's own guards become `Send` when any crate asks for it; this one must not.
    _not_send: PhantomData<*const ()>,
}

impl<'a, T> ReadGuard<'a, T> {
    pub(crate) fn new(
        locked: RwLockReadGuard<'a, Locked<T>>,
        times: &'a LockTimes,
        space: SpaceId,
    ) -> Self {
        ReadGuard {
            locked,
            times,
            since: Instant::now(),
            _hold: Hold::new(space),
            _not_send: PhantomData,
        }
    }

    /// The state derived under `token`, as of exactly this view.
    ///
    /// # Panics
    /// When the observer that keeps it panicked, was removed, or is of another key space.
    #[must_use]
    #[track_caller]
    pub fn derived<S: 'static>(&self, token: &Derived<S>) -> &S {
        match self.try_derived(token) {
            Ok(state) => state,
            Err(error) => panic!("{error}"),
        }
    }

    /// The state derived under `token`, as of exactly this view.
    ///
    /// # Errors
    /// [`DerivedError::Poisoned`] after a panic of its observer: it no longer follows the data.
    /// [`DerivedError::NotHere`] when it was removed or is of another key space.
    pub fn try_derived<S: 'static>(&self, token: &Derived<S>) -> Result<&S, DerivedError> {
        self.locked.observers.derived(token)
    }
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = View<T>;

    fn deref(&self) -> &View<T> {
        &self.locked.view
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        record(&self.times.longest_read_hold, self.since);
    }
}

impl<T> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadGuard").field(&**self).finish()
    }
}
