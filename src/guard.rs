//! Guards: the lock of a key space while it is held, for reading or for writing.
//!
//! Owns [`ReadGuard`], [`WriteGuard`], what the lock protects, and the measuring of how long it is held.
//! Must not change what it protects.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{RwLockReadGuard, RwLockWriteGuard};

use crate::observer::{Derived, DerivedError, Observers};
use crate::reentry::{Hold, SpaceId};
use crate::view::View;

/// What the lock of a key space protects.
pub(crate) struct Locked<T> {
    pub(crate) view: View<T>,
    pub(crate) observers: Observers<T>,
}

/// The longest times the lock was held by readers and waited for by the writer, in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct LockTimes {
    pub(crate) longest_read_hold: AtomicU64,
    pub(crate) longest_write_wait: AtomicU64,
    pub(crate) longest_write_hold: AtomicU64,
    pub(crate) last_write_hold: AtomicU64,
}

/// Raises `longest` to the time since `start`; gives that time.
pub(crate) fn record(longest: &AtomicU64, start: Instant) -> u64 {
    let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    if nanos > longest.load(Ordering::Relaxed) {
        longest.fetch_max(nanos, Ordering::Relaxed);
    }
    nanos
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
/// ```compile_fail,E0277
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
///
/// In a scope of its own it is no obstacle (a mere `drop` before the `.await` is not enough for the
/// compiler):
///
/// ```
/// async fn other() {}
/// async fn handler(ks: etcd_keyspace::KeySpace<u32>) {
///     let len = {
///         let view = ks.read();
///         view.len()
///     };
///     other().await;
///     println!("{len}");
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

/// The lock held for writing. Every exclusive hold is one of these, so that readers' longest pause is
/// measured whatever made it.
pub(crate) struct WriteGuard<'a, T> {
    // Dropped first, so that it measures up to the unlock.
    hold: WriteHold<'a>,
    locked: RwLockWriteGuard<'a, Locked<T>>,
}

struct WriteHold<'a> {
    times: &'a LockTimes,
    since: Instant,
    step: bool,
}

impl Drop for WriteHold<'_> {
    fn drop(&mut self) {
        let held = record(&self.times.longest_write_hold, self.since);
        if self.step {
            self.times.last_write_hold.store(held, Ordering::Relaxed);
        }
    }
}

impl<'a, T> WriteGuard<'a, T> {
    pub(crate) fn new(locked: RwLockWriteGuard<'a, Locked<T>>, times: &'a LockTimes) -> Self {
        WriteGuard { hold: WriteHold { times, since: Instant::now(), step: false }, locked }
    }

    /// This hold is the one that publishes a step.
    pub(crate) fn publishes(&mut self) {
        self.hold.step = true;
    }

    /// Unlocks; waiting readers are served before the next writer.
    pub(crate) fn unlock(self) {
        let WriteGuard { hold, locked } = self;
        drop(hold);
        RwLockWriteGuard::unlock_fair(locked);
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = Locked<T>;

    fn deref(&self) -> &Locked<T> {
        &self.locked
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut Locked<T> {
        &mut self.locked
    }
}

impl<T> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadGuard").field(&**self).finish()
    }
}
