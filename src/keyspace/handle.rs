//! The handle everybody in the process shares: reading, observing, waiting.
//!
//! Owns [`KeySpace`]; its forms of waiting are in `waiting`, its figures in `inspect`.

use std::fmt;
use std::panic::Location;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use crate::model::{Delta, KeyRange, StopReason};
use crate::publish::{Core, Derived, Earlier, Observer, ReadGuard, SharedDerived, Slot, Snapshot};
use crate::view::View;

/// Does what is due when the last handle is gone: as a rule, tells the mirror.
struct OnLastDrop(Option<Box<dyn FnOnce() + Send + Sync>>);

impl OnLastDrop {
    fn new(last: impl FnOnce() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(OnLastDrop(Some(Box::new(last))))
    }
}

impl Drop for OnLastDrop {
    fn drop(&mut self) {
        if let Some(last) = self.0.take() {
            last();
        }
    }
}

/// A live, complete, typed replica of one range of etcd keys: the handle to read, observe and wait.
///
/// Cheap to clone and to send anywhere; all clones are the same key space. When the last one is
/// dropped the mirror's task ends. Start one with [`KeySpace::builder`].
pub struct KeySpace<T> {
    pub(super) core: Arc<Core<T>>,
    lifeline: Arc<OnLastDrop>,
}

impl<T> Clone for KeySpace<T> {
    fn clone(&self) -> Self {
        KeySpace { core: Arc::clone(&self.core), lifeline: Arc::clone(&self.lifeline) }
    }
}

impl<T: Send + Sync + 'static> KeySpace<T> {
    pub(crate) fn new(core: Arc<Core<T>>) -> Self {
        let shutdown = core.shutdown.clone();
        let lifeline = OnLastDrop::new(move || {
            shutdown.send_replace(true);
        });
        KeySpace { core, lifeline }
    }

    /// A handle whose clones keep this one's mirror alive, and which says when the last is gone.
    ///
    /// `returned` runs wherever that one is dropped, so it must neither block nor take other locks.
    pub(crate) fn with_own_count(&self, returned: impl FnOnce() + Send + Sync + 'static) -> Self {
        let owner = Arc::clone(&self.lifeline);
        let lifeline = OnLastDrop::new(move || {
            returned();
            drop(owner);
        });
        KeySpace { core: Arc::clone(&self.core), lifeline }
    }

    pub(crate) fn core(&self) -> &Core<T> {
        &self.core
    }

    /// The newest view as a value: owned, `Send`, never changing, in O(1). The way to read in handlers.
    ///
    /// It takes no lock and writes no memory that threads share, so it scales with the cores, blocks neither
    /// the mirror nor other readers, and may be kept across an `.await`. While a batch is being published it
    /// returns the view before, until the observers have run. After a wait it has met what was waited for.
    /// Entries that it shares with later views cost nothing; those replaced since stay in memory while it lives.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use etcd_keyspace::{Entry, KeySpace, KeyRange};
    ///
    /// let limits = KeySpace::from_entries(KeyRange::prefix("/limits/"), [Entry::new("/limits/eu", 20, 7)])?;
    /// let view = limits.snapshot();
    /// assert_eq!(view.get("/limits/eu").map(|entry| *entry.value()), Some(20));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// Inside an observer of the same key space, naming the observer: it would see the view before the one it
    /// is given.
    #[inline]
    #[must_use]
    #[track_caller]
    pub fn snapshot(&self) -> Snapshot<T> {
        self.core.snapshot()
    }

    /// The newest view, locked: nothing changes while the guard lives. For state derived in place, by
    /// reference ([`derive`](KeySpace::derive)).
    ///
    /// Readers do not block one another. Waits while a batch is being published, which takes a pointer
    /// swap and the observers.
    ///
    /// # Panics
    /// Inside an observer of the same key space, naming the observer: it runs under the write lock.
    #[inline]
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, T> {
        self.core.read()
    }

    /// Registers `observer` to run on every step that changes entries, under the write lock.
    ///
    /// It gets the net delta and the view after it. Observers run in the order of registration,
    /// once per step, after the data is in place and before any reader or waiter sees it (C4). One
    /// registered late is first shown everything as added. It should be quick, since readers wait,
    /// and must not read, wait on or register with the same key space: that panics. A panic in it
    /// is contained: it is logged, reported by [`status`](KeySpace::status), and that observer is
    /// not called again. A lock that it takes must not be held by others while they read, register or wait
    /// for the same key space: each would wait for the other.
    ///
    /// # Panics
    /// Inside an observer, and while this thread holds a read guard, of the same key space.
    #[track_caller]
    pub fn observe<F>(&self, mut observer: F) -> Observer
    where
        F: FnMut(&Delta<T>, &View<T>, &Earlier<'_, T>) + Send + 'static,
    {
        let run = move |(): &mut (), delta: &Delta<T>, view: &View<T>, earlier: &Earlier<'_, T>| {
            observer(delta, view, earlier);
        };
        self.core.register(Slot::new(Location::caller(), (), run))
    }

    /// Registers an observer that keeps `state` up to date, to be read together with the data.
    ///
    /// As [`observe`](KeySpace::observe); the state is reached with the token through a read guard
    /// ([`ReadGuard::derived`]) or a later observer ([`Earlier::derived`]), so nobody ever sees it
    /// apart from the data it was derived from.
    ///
    /// Changes come in key order, so an index by value needs two passes over a delta: first all old
    /// entries, then all new ones. Handled one change after the other, a value that moves to a lower key
    /// within one transaction is added first and then deleted.
    ///
    /// ```
    /// # #[cfg(feature = "test-util")]
    /// # use etcd_keyspace::{KeySpace, testing::{FakeEtcd, Op}};
    /// # #[cfg(not(feature = "test-util"))]
    /// # fn main() {}
    /// # #[cfg(feature = "test-util")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let etcd = FakeEtcd::new();
    /// # let ks = KeySpace::builder("/hosts/")?.bytes().start(etcd.clone()).await?;
    /// use std::collections::HashMap;
    ///
    /// // Each address belongs to one host.
    /// let by_address = ks.derive(HashMap::new(), |index, delta, _view, _earlier| {
    ///     for old in delta.old_entries() {
    ///         index.remove(old.value());
    ///     }
    ///     for new in delta.new_entries() {
    ///         index.insert(new.value().clone(), new.key_str().into_owned());
    ///     }
    /// });
    /// etcd.put("/hosts/b", "10.0.0.1");
    /// let moved = etcd.txn([Op::delete("/hosts/b"), Op::put("/hosts/a", "10.0.0.1")]);
    /// let view = ks.read_at(moved).await?;
    /// assert_eq!(view.derived(&by_address)[b"10.0.0.1".as_slice()], "/hosts/a");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// As [`observe`](KeySpace::observe).
    #[track_caller]
    pub fn derive<S, F>(&self, state: S, update: F) -> Derived<S>
    where
        S: Send + Sync + 'static,
        F: FnMut(&mut S, &Delta<T>, &View<T>, &Earlier<'_, T>) + Send + 'static,
    {
        Derived::new(self.core.register(Slot::new(Location::caller(), state, update)))
    }

    /// Registers an observer that keeps an immutable state, published with each view for snapshots.
    ///
    /// As [`derive`](KeySpace::derive), but the observer gets the old state and returns the next one:
    /// the same `Arc` where nothing changed. The state is reached without a lock by
    /// [`Snapshot::derived`], of exactly the snapshot's view. A read guard and later observers take
    /// the token as well.
    ///
    /// Use it for state that handlers keep across an `.await`: a configuration, a routing table. Readers wait
    /// while the observer runs, so it must not copy a large state. Keep a persistent map (of a crate such as
    /// `imbl`), which copies only what changes; or store only what the changes need and build the rest
    /// outside the lock, from a snapshot. `Arc::make_mut` copies everything as long as a reader holds the old
    /// state.
    ///
    /// ```
    /// # #[cfg(feature = "test-util")]
    /// # use etcd_keyspace::{KeySpace, testing::FakeEtcd};
    /// # #[cfg(not(feature = "test-util"))]
    /// # fn main() {}
    /// # #[cfg(feature = "test-util")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let etcd = FakeEtcd::new();
    /// # etcd.put("/config/eu", "20");
    /// # let ks = KeySpace::<u32>::builder("/config/")?.json().start(etcd.clone()).await?;
    /// use std::sync::Arc;
    ///
    /// #[derive(Default)]
    /// struct Config {
    ///     limit: u32,
    /// }
    /// let config = ks.derive_shared(Arc::new(Config::default()), |_, _, view, _| {
    ///     Arc::new(Config { limit: view.iter().map(|entry| entry.value()).sum() })
    /// });
    /// let snapshot = ks.snapshot();
    /// tokio::task::yield_now().await;
    /// assert_eq!(snapshot.derived(&config).limit, 20);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// As [`observe`](KeySpace::observe).
    #[track_caller]
    pub fn derive_shared<S, F>(&self, state: Arc<S>, next: F) -> SharedDerived<S>
    where
        S: Send + Sync + 'static,
        F: FnMut(&Arc<S>, &Delta<T>, &View<T>, &Earlier<'_, T>) -> Arc<S> + Send + 'static,
    {
        let slot = Slot::shared(Location::caller(), state, next);
        SharedDerived::new(Derived::new(self.core.register(slot)))
    }

    /// Stops the mirror and waits until it has: afterwards no observer runs any more. What arrived
    /// whole is applied first. The last data stays readable, waits fail with
    /// [`WaitError::Stopped`](crate::WaitError::Stopped). Idempotent.
    ///
    /// # Panics
    /// # Cancel safety
    /// As [`wait_for_revision`](KeySpace::wait_for_revision); the mirror stops all the same.
    pub async fn shutdown(&self) {
        self.core.shutdown.send_replace(true);
        if !self.core.driven.load(Ordering::Acquire) {
            self.core.end(StopReason::Shutdown);
        }
        self.closed().await;
    }

    /// The range that is mirrored.
    #[must_use]
    pub fn mirrored(&self) -> &KeyRange {
        &self.core.mirrored
    }

    /// A handle that does not keep the mirror alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakKeySpace<T> {
        WeakKeySpace { core: Arc::downgrade(&self.core), lifeline: Arc::downgrade(&self.lifeline) }
    }
}

impl<T> fmt::Debug for KeySpace<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let published = self.core.waits.published();
        f.debug_struct("KeySpace")
            .field("mirrored", &self.core.mirrored)
            .field("revision", &published.revision)
            .field("confirmed", &published.confirmed)
            .finish_non_exhaustive()
    }
}

/// A handle that does not keep the mirror alive.
pub struct WeakKeySpace<T> {
    core: Weak<Core<T>>,
    lifeline: Weak<OnLastDrop>,
}

impl<T> WeakKeySpace<T> {
    /// The key space, while a real handle is left.
    #[must_use]
    pub fn upgrade(&self) -> Option<KeySpace<T>> {
        Some(KeySpace { lifeline: self.lifeline.upgrade()?, core: self.core.upgrade()? })
    }
}

impl<T> Clone for WeakKeySpace<T> {
    fn clone(&self) -> Self {
        WeakKeySpace { core: Weak::clone(&self.core), lifeline: Weak::clone(&self.lifeline) }
    }
}

impl<T> fmt::Debug for WeakKeySpace<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakKeySpace").finish_non_exhaustive()
    }
}
