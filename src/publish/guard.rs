//! Guards: the lock of a key space while it is held, for reading or for writing.
//!
//! Owns [`ReadGuard`], [`WriteGuard`], what the lock protects, and the measuring of how long it is held.
//! Must not change what it protects.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{RwLockReadGuard, RwLockWriteGuard};

use crate::publish::current::Current;
use crate::publish::observer::{Derived, DerivedError, Observers};
use crate::publish::reentry::Hold;
use crate::publish::snapshot::Snapshot;
use crate::view::View;

/// What the lock of a key space protects.
pub(crate) struct Locked<T> {
    pub(crate) view: View<T>,
    pub(crate) observers: Observers<T>,
}

/// The longest times the lock was held by readers and waited for by the writer, in nanoseconds.
#[derive(Debug)]
pub(crate) struct LockTimes {
    begun: Instant,
    /// Since when the writer has waited for readers, in nanoseconds since `begun`; zero while it does not.
    writer_waits_since: AtomicU64,
    pub(crate) longest_read_hold: AtomicU64,
    pub(crate) longest_write_wait: AtomicU64,
    pub(crate) longest_write_hold: AtomicU64,
    pub(crate) last_write_hold: AtomicU64,
}

impl LockTimes {
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        LockTimes {
            begun: Instant::now(),
            writer_waits_since: zero(),
            longest_read_hold: zero(),
            longest_write_wait: zero(),
            longest_write_hold: zero(),
            last_write_hold: zero(),
        }
    }

    /// Calls `lock`, and records how long it took.
    pub(crate) fn wait_to_write<L>(&self, lock: impl FnOnce() -> L) -> L {
        let start = Instant::now();
        let since = nanos(start - self.begun).max(1);
        self.writer_waits_since.store(since, Ordering::Relaxed);
        let locked = lock();
        self.writer_waits_since.store(0, Ordering::Relaxed);
        record(&self.longest_write_wait, start);
        locked
    }

    /// A writer that waits has waited for readers from now on only; before, another writer had the lock.
    fn unlocked_by_writer(&self) {
        let since = self.writer_waits_since.load(Ordering::Relaxed);
        if since > 0 {
            let now = nanos(self.begun.elapsed()).max(1);
            let (ok, failed) = (Ordering::Relaxed, Ordering::Relaxed);
            // It has just been replaced, or taken back: both are as new as this.
            let _ = self.writer_waits_since.compare_exchange(since, now, ok, failed);
        }
    }

    /// Records that a read guard was held for as long as the writer has waited, at least.
    fn note_writer_wait(&self) {
        let since = self.writer_waits_since.load(Ordering::Relaxed);
        if since > 0 {
            let waited = nanos(self.begun.elapsed()).saturating_sub(since);
            self.longest_read_hold.fetch_max(waited, Ordering::Relaxed);
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Raises `longest` to the time since `start`; returns that time.
pub(crate) fn record(longest: &AtomicU64, start: Instant) -> u64 {
    let nanos = nanos(start.elapsed());
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
/// [`Snapshot`], or clone single `Arc<Entry<T>>`s.
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
    current: &'a Current<T>,
    times: &'a LockTimes,
    /// Of sampled guards only: two clock reads cost more than a look-up.
    since: Option<Instant>,
    _hold: Hold,
    /// parking_lot's own guards become `Send` when any crate asks for it; this one must not.
    _not_send: PhantomData<*const ()>,
}

impl<'a, T> ReadGuard<'a, T> {
    #[inline]
    pub(crate) fn new(
        locked: RwLockReadGuard<'a, Locked<T>>,
        current: &'a Current<T>,
        times: &'a LockTimes,
        hold: Hold,
        sampled: bool,
    ) -> Self {
        let since = sampled.then(Instant::now);
        ReadGuard { locked, current, times, since, _hold: hold, _not_send: PhantomData }
    }

    /// This view as a value, to be kept without the lock; in O(1).
    ///
    /// So a handler can read several states derived in place under the guard, and keep the data of
    /// exactly the same step.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot<T> {
        // Nothing is published while a read guard lives.
        Snapshot::new(self.current.load())
    }

    /// Records how long the guard was held.
    #[cold]
    fn note(&self) {
        match self.since {
            Some(since) => drop(record(&self.times.longest_read_hold, since)),
            None => self.times.note_writer_wait(),
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

/// Whether the writer waits for this guard. It marks the lock first, and then waits for readers.
#[cfg(not(shuttle))]
#[inline]
fn writer_waits<T>(guard: &RwLockReadGuard<'_, T>) -> bool {
    RwLockReadGuard::rwlock(guard).is_locked_exclusive()
}

#[cfg(shuttle)]
fn writer_waits<T>(_: &RwLockReadGuard<'_, T>) -> bool {
    false
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = View<T>;

    #[inline]
    fn deref(&self) -> &View<T> {
        &self.locked.view
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if self.since.is_some() || writer_waits(&self.locked) {
            self.note();
        }
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
        hold.times.unlocked_by_writer();
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
