//! Waiting without polling: who waits for what, and waking exactly those.
//!
//! Owns the published numbers that waits are judged by, the wakers and the future all waits are
//! made of; `published` says which of them are met. Must not hold the data lock: publishing happens
//! after the data is in place and unlocked, so a woken waiter finds at least what it waited for.

mod published;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::{Revision, StopReason};
use crate::publish::timer::Timer;

use self::published::judge;
pub(crate) use self::published::{Awaited, Contact, Published};

/// A wait ended without what it waited for.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The key space is no longer kept current. Give up; the reason says what to do.
    #[error("the key space stopped")]
    Stopped(#[source] StopReason),
    /// The store's history was found to be another one (a restored backup), or what was shown of it
    /// was wrong, so the awaited revision has lost its meaning. Read again and decide anew.
    #[error("the store's history changed: epoch {was} is now {now}")]
    HistoryChanged {
        /// The epoch in which the wait began.
        was: u64,
        /// The epoch now.
        now: u64,
    },
    /// The revision is of another cluster than the one mirrored. Find out who gave it: it means
    /// nothing here.
    #[error("the awaited revision is of cluster {asked:x}, and the key space mirrors {mirrored:x}")]
    OtherCluster {
        /// The cluster of the revision.
        asked: u64,
        /// The cluster that is mirrored.
        mirrored: u64,
    },
}

/// The pending waits that the mirror can hasten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// The lowest awaited revision that is not confirmed.
    pub(crate) lowest: Option<Revision>,
    /// The newest ticket that no finished read covers.
    pub(crate) sync: Option<u64>,
    /// Something is awaited that only a cleared suspicion can meet.
    pub(crate) clearing: bool,
}

impl Demand {
    /// Whether a wait is pending that the mirror can hasten.
    pub(crate) fn is_any(self) -> bool {
        self.lowest.is_some() || self.sync.is_some() || self.clearing
    }
}

#[derive(Debug)]
struct State {
    published: Published,
    tickets: u64,
    /// Waits for revisions, so that a publication wakes those it satisfies and no others.
    by_revision: BTreeMap<(Revision, u64), Waker>,
    /// Waits for linearizable reads by ticket, and waits for revisions until their ticket is covered.
    by_ticket: BTreeMap<(u64, u64), Waker>,
    /// All other waits.
    others: BTreeMap<u64, (Awaited, Waker)>,
    next_id: u64,
}

impl State {
    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Registers the waker of a wait where the publication that may meet it looks. Returns whether that
    /// is a new demand on the mirror.
    fn register(&mut self, awaited: Awaited, id: u64, waker: Waker) -> bool {
        let covered = |ticket| self.published.covers(ticket);
        match awaited {
            Awaited::Revision { revision, ticket, .. } if ticket.is_none_or(covered) => {
                // A read that ends while a suspicion is open covers tickets and wakes no wait.
                if let Some(ticket) = ticket {
                    self.by_ticket.remove(&(ticket, id));
                }
                self.by_revision.insert((revision, id), waker).is_none()
            }
            Awaited::Revision { ticket: Some(ticket), .. } | Awaited::Sync { ticket, .. } => {
                self.by_ticket.insert((ticket, id), waker).is_none()
            }
            awaited => {
                self.others.insert(id, (awaited, waker));
                false
            }
        }
    }

    fn forget(&mut self, awaited: Awaited, id: u64) {
        match awaited {
            Awaited::Revision { revision, ticket, .. } => {
                self.by_revision.remove(&(revision, id));
                if let Some(ticket) = ticket {
                    self.by_ticket.remove(&(ticket, id));
                }
            }
            Awaited::Sync { ticket, .. } => {
                self.by_ticket.remove(&(ticket, id));
            }
            _ => {
                self.others.remove(&id);
            }
        }
    }
}

/// The waits of one key space.
#[derive(Debug)]
pub(crate) struct Waits {
    state: Mutex<State>,
    /// Tells the mirror that a new demand is there.
    pub(crate) demanded: Notify,
    pub(crate) timers: WaitTimers,
}

/// How long waits for a revision or a linearizable read took, by how they ended.
#[derive(Debug, Default)]
pub(crate) struct WaitTimers {
    pub(crate) met: Timer,
    pub(crate) failed: Timer,
    pub(crate) dropped: Timer,
}

impl Waits {
    pub(crate) fn new() -> Self {
        let state = State {
            published: Published::default(),
            tickets: 0,
            by_revision: BTreeMap::new(),
            by_ticket: BTreeMap::new(),
            others: BTreeMap::new(),
            next_id: 0,
        };
        Waits { state: Mutex::new(state), demanded: Notify::new(), timers: WaitTimers::default() }
    }

    /// What was last published.
    pub(crate) fn published(&self) -> Published {
        self.state.lock().published.clone()
    }

    /// Why the key space stopped, if it did.
    pub(crate) fn ended(&self) -> Option<StopReason> {
        self.state.lock().published.ended.clone()
    }

    /// Publishes a step whose data is in place and unlocked (C4: observers have run).
    pub(crate) fn publish(
        &self,
        revision: Revision,
        confirmed: Revision,
        epoch: u64,
        changed: bool,
    ) {
        self.update(|published| {
            published.revision = revision;
            published.confirmed = confirmed;
            published.epoch = epoch;
            published.first_epoch.get_or_insert(epoch);
            published.loaded = true;
            published.publications += 1;
            published.changes += u64::from(changed);
        });
    }

    /// Publishes a linearizable read of `revision` that began after `ticket` was drawn.
    pub(crate) fn synced(&self, ticket: u64, revision: Revision) {
        self.update(|published| {
            if ticket > published.synced.0 {
                // A later read never gives less, except across a restore, which the epoch tells.
                published.synced = (ticket, revision);
            }
        });
    }

    /// Publishes what the mirror knows about its contact with the store.
    pub(crate) fn contact(&self, contact: Contact) {
        // Only the mirror publishes it, so nothing comes between.
        if self.state.lock().published.contact != contact {
            self.update(|published| published.contact = contact);
        }
    }

    /// Publishes that the watch works.
    pub(crate) fn watching(&self) {
        self.update(|published| published.watching = true);
    }

    /// Publishes the end; the first reason stays.
    pub(crate) fn end(&self, reason: StopReason) {
        self.update(|published| {
            published.ended.get_or_insert(reason);
        });
    }

    /// What the mirror should hasten.
    pub(crate) fn demand(&self) -> Demand {
        let state = self.state.lock();
        // Under suspicion, waits for confirmed revisions and covered tickets are pending too. Progress
        // cannot meet them, but a connection can.
        let pending = !state.by_revision.is_empty() || !state.by_ticket.is_empty();
        let open = (state.published.confirmed.saturating_add(1), 0);
        let newest = state.by_ticket.keys().next_back().map(|(ticket, _)| *ticket);
        Demand {
            lowest: state.by_revision.range(open..).next().map(|((revision, _), _)| *revision),
            sync: newest.filter(|ticket| !state.published.covers(*ticket)),
            clearing: state.published.contact.suspected && pending,
        }
    }

    /// Draws a ticket for a linearizable read that begins after now.
    pub(crate) fn ticket(&self) -> u64 {
        self.state.lock().ticket()
    }

    /// A wait for a revision that begins now. `term` is that of the response which carried the revision;
    /// zero if it is unknown, or if no mirror reads linearizably here.
    pub(crate) fn reach(&self, revision: Revision, term: u64, epoch: Option<u64>) -> Awaited {
        let mut state = self.state.lock();
        let ticket = state.published.doubts(revision, term).then(|| state.ticket());
        Awaited::Revision { revision, epoch, ticket }
    }

    /// How many waits are pending.
    pub(crate) fn pending(&self) -> usize {
        let state = self.state.lock();
        state.by_revision.len() + state.by_ticket.len() + state.others.len()
    }

    /// Changes the published state and wakes whom it satisfies, outside the mutex.
    fn update(&self, change: impl FnOnce(&mut Published)) {
        let mut woken = Vec::new();
        {
            let mut state = self.state.lock();
            let epoch = state.published.awaited_epoch();
            change(&mut state.published);
            let state = &mut *state;
            let published = &state.published;
            let changed = epoch.is_some_and(|epoch| epoch != published.epoch);
            if published.ended.is_some() || changed {
                woken.extend(std::mem::take(&mut state.by_revision).into_values());
                woken.extend(std::mem::take(&mut state.by_ticket).into_values());
            } else if published.loaded && !published.contact.suspected {
                let met = (published.confirmed.saturating_add(1), 0);
                take_below(&mut state.by_revision, met, &mut woken);
                take_below(
                    &mut state.by_ticket,
                    (published.synced.0.saturating_add(1), 0),
                    &mut woken,
                );
            }
            let done = |awaited: &Awaited| judge(published, *awaited).is_some();
            state.others.retain(|_, (awaited, waker)| {
                let done = done(awaited);
                if done {
                    woken.push(waker.clone());
                }
                !done
            });
        }
        for waker in woken {
            waker.wake();
        }
    }
}

/// Moves the wakers with keys below `bound` to `woken`.
fn take_below<K: Ord>(wakers: &mut BTreeMap<K, Waker>, bound: K, woken: &mut Vec<Waker>) {
    let later = wakers.split_off(&bound);
    woken.extend(std::mem::replace(wakers, later).into_values());
}

/// The future all waits are made of. Dropping it takes its waker out.
pub(crate) struct Wait<'a> {
    waits: &'a Waits,
    awaited: Awaited,
    id: Option<u64>,
    /// Since when it has been pending, for waits that are timed.
    since: Option<Instant>,
    /// Called before the wait would return pending: it may refuse by panicking.
    before_pending: Box<dyn Fn() + Send + Sync + 'a>,
}

impl<'a> Wait<'a> {
    pub(crate) fn new(
        waits: &'a Waits,
        awaited: Awaited,
        before_pending: impl Fn() + Send + Sync + 'a,
    ) -> Self {
        Wait { waits, awaited, id: None, since: None, before_pending: Box::new(before_pending) }
    }

    fn forget(&mut self, state: &mut State) {
        if let Some(id) = self.id.take() {
            state.forget(self.awaited, id);
        }
    }
}

impl Future for Wait<'_> {
    type Output = Result<Revision, WaitError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.waits.state.lock();
        // Judging and registering under one lock leaves no gap in which a wake-up could be lost.
        if let Some(result) = judge(&state.published, this.awaited) {
            this.forget(&mut state);
            drop(state);
            if let Some(since) = this.since.take() {
                let timers = &this.waits.timers;
                if result.is_ok() { &timers.met } else { &timers.failed }.since(since);
            }
            return Poll::Ready(result);
        }
        let id = *this.id.get_or_insert_with(|| {
            state.next_id += 1;
            state.next_id
        });
        let demands = state.register(this.awaited, id, cx.waker().clone());
        drop(state);
        (this.before_pending)();
        if demands {
            this.since.get_or_insert_with(Instant::now);
            this.waits.demanded.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let waits = self.waits;
        self.forget(&mut waits.state.lock());
        if let Some(since) = self.since.take() {
            waits.timers.dropped.since(since);
        }
    }
}

impl fmt::Debug for Wait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait").field("awaited", &self.awaited).finish()
    }
}

#[cfg(test)]
mod tests;
