//! What the handles and the writer of one key space share: the lock around the data.
//!
//! Owns the only places where the lock is taken for writing: publishing a view, moving `confirmed`,
//! registering and removing observers. Must not know where views come from.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;

use crate::model::{Change, Delta, DeltaOrigin, KeyRange, Revision, StopReason, Trace};
use crate::publish::current::{Current, PublishedView};
use crate::publish::cut::CutCell;
use crate::publish::feed::FeedState;
use crate::publish::guard::{LockTimes, Locked, ReadGuard, WriteGuard};
use crate::publish::history::{History, Step};
use crate::publish::hold::HoldCell;
use crate::publish::observer::{Observer, Observers, RemoveObservers, Slot};
use crate::publish::reentry::{self, Counted, Hold, SpaceId};
use crate::publish::snapshot::Snapshot;
use crate::publish::status::ReportCell;
use crate::publish::subscriptions::Subscriptions;
use crate::publish::timer::Timer;
use crate::publish::wait::{Awaited, Wait, Waits};
use crate::view::View;

/// What all handles, guards and the writer of one key space share.
pub(crate) struct Core<T> {
    locked: RwLock<Locked<T>>,
    /// The same view as in `locked`, for readers that do not lock. It is stored only under the write lock, after the
    /// observers (C4), so that a guard and a snapshot never contradict each other.
    pub(crate) current: Current<T>,
    pub(crate) waits: Waits,
    pub(crate) report: ReportCell,
    pub(crate) holds: HoldCell,
    pub(crate) cuts: CutCell<T>,
    pub(crate) interests: Subscriptions,
    pub(crate) history: History<T>,
    /// The way to whoever stores what is taken in.
    pub(crate) feed_state: OnceLock<Arc<FeedState>>,
    pub(crate) times: LockTimes,
    pub(crate) timers: Timers,
    #[cfg(feature = "metrics")]
    pub(crate) gauge: std::sync::OnceLock<Box<dyn super::gauge::Gauge>>,
    pub(crate) mirrored: Arc<KeyRange>,
    /// Turns true when the last handle is gone or somebody asked for the end.
    pub(crate) shutdown: watch::Sender<bool>,
    /// Whether a mirror drives the writer, so that it is the mirror who ends the key space.
    pub(crate) driven: AtomicBool,
    /// Whether the mirror is a task of its own, which may give its thread away.
    pub(crate) spawned: AtomicBool,
}

/// What is timed beside the lock and the waits.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    pub(crate) load: Timer,
    pub(crate) apply: Timer,
}

/// How long to wait for readers before the mirror's thread is given to others, or a removed observer is
/// left to the next step.
#[cfg(not(shuttle))]
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(1);

#[cfg(not(shuttle))]
fn try_write<T>(lock: &RwLock<T>) -> Option<RwLockWriteGuard<'_, T>> {
    lock.try_write_for(PATIENCE)
}

#[cfg(shuttle)]
fn try_write<T>(lock: &RwLock<T>) -> Option<RwLockWriteGuard<'_, T>> {
    Some(lock.write())
}

/// Whether this thread belongs to a runtime that has others to give its work to.
fn on_many_threads() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// How the changes of a step are known to the one who publishes it.
pub(crate) enum Changes<T> {
    /// Worked out while the view was built.
    Known(Vec<Change<T>>),
    /// Nothing was shown before, so everything is added: listed only if anybody observes.
    AllAdded,
}

impl<T: Send + Sync + 'static> Core<T> {
    pub(crate) fn new(mirrored: KeyRange) -> Arc<Self> {
        let mirrored = Arc::new(mirrored);
        let view = View::empty(Arc::clone(&mirrored));
        Arc::new(Core {
            current: Current::new(PublishedView::plain(view.share())),
            locked: RwLock::new(Locked { view, observers: Observers::new() }),
            waits: Waits::new(),
            report: ReportCell::new(),
            holds: HoldCell::default(),
            cuts: CutCell::new(),
            interests: Subscriptions::default(),
            history: History::default(),
            feed_state: OnceLock::new(),
            times: LockTimes::new(),
            timers: Timers::default(),
            #[cfg(feature = "metrics")]
            gauge: std::sync::OnceLock::new(),
            mirrored,
            shutdown: watch::Sender::new(false),
            driven: AtomicBool::new(false),
            spawned: AtomicBool::new(false),
        })
    }

    pub(crate) fn id(&self) -> SpaceId {
        std::ptr::from_ref(self).addr()
    }

    /// Panics where this thread would wait for itself.
    #[track_caller]
    fn refuse(&self, what: &str) {
        reentry::forbid_in_observer(self.id(), what);
        reentry::forbid_under_guard(self.id(), what);
    }

    /// Takes the lock for writing, or panics where this thread would wait for itself.
    #[track_caller]
    fn write(&self, what: &str) -> WriteGuard<'_, T> {
        self.refuse(what);
        let locked = self.times.wait_to_write(|| self.locked.write());
        WriteGuard::new(locked, &self.times)
    }

    /// Takes the lock for the mirror, which runs on a thread of the runtime.
    ///
    /// A guard that somebody holds for long would block that thread, and with it whatever runs
    /// there: other mirrors, or all sockets when it was the one that waits for them. So the runtime
    /// is told, and moves its work to another thread.
    #[track_caller]
    fn write_to_apply(&self) -> WriteGuard<'_, T> {
        self.refuse("applying");
        let locked = self.times.wait_to_write(|| match try_write(&self.locked) {
            Some(locked) => locked,
            // Elsewhere, in a local set say, the runtime refuses it by a panic.
            None if self.spawned.load(Ordering::Acquire) && on_many_threads() => {
                tokio::task::block_in_place(|| self.locked.write())
            }
            None => self.locked.write(),
        });
        WriteGuard::new(locked, &self.times)
    }

    /// Publishes `next` in one step: swap, observers, snapshots, unlock, drop the old, wake (C3, C4, C5).
    ///
    /// Only the writer calls it, so the view that is replaced is the one `next` was built from.
    /// `effects` are those of the events that lead to it, if each is to be kept.
    #[track_caller]
    pub(crate) fn publish(
        &self,
        mut next: View<T>,
        changes: Changes<T>,
        origin: DeltaOrigin,
        effects: Option<Trace<T>>,
    ) {
        // Before any lock: here even a read would wait for this thread itself.
        self.refuse("applying");
        let published = self.current.load_full();
        let before = &published.view;
        next.step = before.step + 1;
        let first = !self.waits.published().loaded;
        let (from, to, epoch) = (before.revision, next.revision, next.epoch);
        let (changed, mut delta) = match changes {
            Changes::Known(changes) => {
                (!changes.is_empty(), Some(Delta { changes, origin, from, to, epoch }))
            }
            Changes::AllAdded => (!next.is_empty(), None),
        };
        let kept = self.history.is_kept().then(|| next.share());
        let shown = published.followed_by(next.share());
        let mut locked = self.write_to_apply();
        if delta.is_none() && !locked.observers.is_empty() {
            // The list may be long, so it is made outside the lock. Whoever registers meanwhile is
            // shown the view before, so the list is theirs too.
            locked.unlock();
            delta = Some(Delta { changes: all_added(&next), origin, from, to, epoch });
            locked = self.write_to_apply();
        }
        locked.publishes();
        let mut removed = locked.observers.purge();
        let Locked { view, observers } = &mut *locked;
        let old = std::mem::replace(view, next);
        if let Some(delta) = delta.as_ref().filter(|delta| !delta.is_empty()) {
            observers.run(self.id(), delta, view);
        }
        let (confirmed, step) = (view.confirmed, view.step);
        // Those that were removed meanwhile.
        removed.extend(observers.purge());
        let replaced = self.store(&locked, shown);
        locked.unlock();
        self.wake_subscribers(delta.as_ref().filter(|_| !first && before.epoch == epoch));
        let kept = kept.and_then(|view| Step::leading_to(&view, before, origin, delta, effects));
        self.history.push(step, kept);
        // Also if a value panics when it is dropped: waiters must not miss what is published (C8).
        let waits = OnDrop(|| self.waits.publish(to, confirmed, epoch, first || changed));
        drop((old, replaced, published, removed));
        drop(waits);
    }

    /// Wakes the subscribers of the ranges that changed; all of them where the changes are not known.
    fn wake_subscribers(&self, delta: Option<&Delta<T>>) {
        match delta {
            Some(delta) => self.interests.wake(&delta.changes, Change::key),
            None => self.interests.wake_all(),
        }
    }

    /// Stores the locked view for readers that do not lock; returns the one before, to be dropped after
    /// the unlock. `next` has the same view.
    fn store(
        &self,
        locked: &WriteGuard<'_, T>,
        mut next: Arc<PublishedView<T>>,
    ) -> Arc<PublishedView<T>> {
        if let Some(next) = Arc::get_mut(&mut next) {
            next.states.fill(&locked.observers);
        }
        self.current.swap(next)
    }

    /// Stores the locked view again, since shared states were added or removed.
    fn store_again(&self, locked: &WriteGuard<'_, T>) -> Arc<PublishedView<T>> {
        self.store(locked, PublishedView::plain(locked.view.share()))
    }

    /// Moves `confirmed` alone; the caller has proof (C2).
    #[track_caller]
    pub(crate) fn confirm(&self, confirmed: Revision) {
        self.refuse("applying");
        // Only the writer changes the view, so it stays the same until the lock is taken.
        let published = self.current.load_full();
        let mut next = published.view.share();
        next.confirmed = next.confirmed.max(confirmed);
        let (revision, confirmed, epoch) = (next.revision, next.confirmed, next.epoch);
        let shown = published.followed_by(next);
        let mut locked = self.write_to_apply();
        let removed = locked.observers.purge();
        locked.view.confirmed = confirmed;
        let replaced = self.store(&locked, shown);
        locked.unlock();
        let waits = OnDrop(|| self.waits.publish(revision, confirmed, epoch, false));
        drop((replaced, published, removed));
        drop(waits);
    }

    /// Registers an observer and shows it what is already there.
    #[track_caller]
    pub(crate) fn register(self: &Arc<Self>, slot: Slot<T>) -> Observer {
        self.refuse("registering an observer");
        let space: Weak<Self> = Arc::downgrade(self);
        let handle = slot.observer(space);
        #[cfg(feature = "metrics")]
        if let Some(gauge) = self.gauge.get() {
            slot.pass_times_on(|registered| gauge.observer(registered));
        }
        let mut slot = Some(slot);
        for attempt in 0.. {
            let published = self.current.load_full();
            let seen = &published.view;
            let everything = everything(seen);
            let mut locked = self.write("registering an observer");
            let same = (locked.view.epoch, locked.view.revision) == (seen.epoch, seen.revision);
            // Equal revisions mean equal entries (C1). Under constant writes the last attempt
            // builds the list under the lock.
            let everything = match (same, attempt) {
                (true, _) => everything,
                (false, 3..) => self::everything(&locked.view),
                (false, _) => continue,
            };
            let Locked { view, observers } = &mut *locked;
            let Some(slot) = slot.take() else { break };
            let initial = slot.shared_state();
            observers.add(self.id(), slot, &everything, view);
            let replaced = initial.is_some().then(|| self.store_again(&locked));
            locked.unlock();
            // The initial state may have been replaced already.
            drop((replaced, initial));
            break;
        }
        handle
    }

    /// A read that goes past a waiting writer. Shuttle's lock has none; nothing nests under it.
    fn read_past_writers(&self) -> RwLockReadGuard<'_, Locked<T>> {
        #[cfg(not(shuttle))]
        return self.locked.read_recursive();
        #[cfg(shuttle)]
        self.locked.read()
    }

    /// A read of everything behind the lock, which waits behind a waiting writer unless this thread holds a
    /// guard.
    pub(crate) fn read_locked(&self) -> RwLockReadGuard<'_, Locked<T>> {
        if reentry::held(self.id()) > 0 { self.read_past_writers() } else { self.locked.read() }
    }

    /// Ends the key space; the first reason stays.
    pub(crate) fn end(&self, reason: StopReason) {
        self.holds.withdraw();
        self.waits.end(reason);
        self.cuts.end();
        self.interests.wake_all();
        self.history.interests.wake_all();
        #[cfg(feature = "metrics")]
        if let Some(gauge) = self.gauge.get() {
            gauge.ended();
        }
    }

    /// Tells that a batch was applied.
    #[cfg_attr(not(feature = "metrics"), allow(clippy::unused_self, reason = "nobody to tell"))]
    pub(crate) fn applied(&self, events: usize) {
        #[cfg(feature = "metrics")]
        if let Some(gauge) = self.gauge.get() {
            gauge.applied(events);
        }
        #[cfg(not(feature = "metrics"))]
        let _ = events;
    }

    /// Tells the figures of now: those of the view the writer has just shown, and of `report`.
    #[cfg(feature = "metrics")]
    pub(crate) fn show(&self, report: &crate::publish::status::Report, view: &View<T>) {
        let Some(gauge) = self.gauge.get() else { return };
        gauge.show(&super::gauge::Figures {
            report,
            revision: view.revision(),
            confirmed: view.confirmed(),
            keys: view.len(),
            key_bytes: view.entries.key_bytes(),
            heap_bytes: &|| view.entries.heap_bytes() + view.rejected.heap_bytes(),
            rejected: view.rejected.len(),
            waits: self.waits.pending(),
            followers: self.interests.len() + self.history.interests.len(),
            kept_events: self.history.len(),
            resyncs: self.history.behind.load(Ordering::Relaxed),
            ended: self.waits.ended().is_some(),
        });
    }

    /// Panics where waiting would never end.
    #[track_caller]
    pub(crate) fn forbid_waiting(&self) {
        self.refuse("waiting");
    }

    /// A wait, refused once it would be pending where it could never end.
    pub(crate) fn wait(&self, awaited: Awaited) -> Wait<'_> {
        Wait::new(&self.waits, awaited, || self.forbid_waiting())
    }

    #[inline]
    #[track_caller]
    pub(crate) fn read(&self) -> ReadGuard<'_, T> {
        let Counted { hold, nested, sampled } = Hold::count(self.id());
        // A plain read may queue behind a waiting writer; with a guard in hand that would be for
        // ever, so a nested read goes past it.
        let locked = if nested { self.read_past_writers() } else { self.locked.read() };
        ReadGuard::new(locked, &self.current, &self.times, hold, sampled)
    }

    /// The newest published view, without the lock.
    #[inline]
    #[track_caller]
    pub(crate) fn snapshot(&self) -> Snapshot<T> {
        reentry::forbid_in_observer(self.id(), "reading");
        Snapshot::new(self.current.load())
    }
}

/// Calls a function when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// All entries of a view, as added.
fn all_added<T>(view: &View<T>) -> Vec<Change<T>> {
    view.iter().map(|entry| Change::Added(Arc::clone(entry))).collect()
}

/// What an observer is shown when it is registered.
fn everything<T>(view: &View<T>) -> Delta<T> {
    let origin = DeltaOrigin::Registration;
    Delta { changes: all_added(view), origin, from: 0, to: view.revision, epoch: view.epoch }
}

impl<T: Send + Sync + 'static> RemoveObservers for Core<T> {
    fn purge(&self) {
        if reentry::in_observer(self.id()) || reentry::held(self.id()) > 0 {
            return;
        }
        // Waiting for it could deadlock: the caller may hold a lock that an observer or a reader waits for.
        let Some(locked) = try_write(&self.locked) else { return };
        let mut locked = WriteGuard::new(locked, &self.times);
        let removed = locked.observers.purge();
        let shared = removed.iter().any(Slot::is_shared);
        let replaced = shared.then(|| self.store_again(&locked));
        locked.unlock();
        drop((replaced, removed));
    }
}
