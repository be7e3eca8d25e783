//! Waiting without polling: who waits for what, and waking exactly those.
//!
//! Owns the published numbers that waits are judged by, the wakers and the future all waits are
//! made of. Must not hold the data lock: publishing happens after the data is in place and
//! unlocked, so whoever is woken finds at least what it waited for.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::StopReason;
use crate::event::Revision;
use crate::timing::Timer;

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

/// A revision that a read has to have met: a plain one, or a [`Token`](crate::Token).
#[derive(Debug, Clone, Copy)]
pub struct AtLeast {
    pub(crate) revision: Revision,
    pub(crate) cluster_id: Option<u64>,
    /// Of which key space, and in which epoch.
    pub(crate) epoch: Option<(usize, u64)>,
}

impl From<Revision> for AtLeast {
    fn from(revision: Revision) -> Self {
        AtLeast { revision, cluster_id: None, epoch: None }
    }
}

/// What a wait waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Awaited {
    /// `confirmed` at or above a revision, in an epoch; `None` is that of what is shown first, for those
    /// who begin to wait before.
    Revision { revision: Revision, epoch: Option<u64> },
    /// More changing steps than this.
    Change { after: u64 },
    /// More publications (changes or progress) than this.
    Publication { after: u64 },
    /// A linearizable read that began after this ticket was drawn, in an epoch; gives its revision.
    Sync { ticket: u64, epoch: Option<u64> },
    /// The first load.
    Loaded,
    /// The first watch after it.
    Watching,
    /// The end.
    Ended,
}

/// The published state that waits are judged by.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) revision: Revision,
    pub(crate) confirmed: Revision,
    pub(crate) epoch: u64,
    /// The epoch of what was shown first.
    first_epoch: Option<u64>,
    pub(crate) loaded: bool,
    pub(crate) watching: bool,
    /// Steps that changed entries.
    pub(crate) changes: u64,
    /// All publications, progress included.
    pub(crate) publications: u64,
    /// The newest ticket that a finished linearizable read covers, and the read's revision.
    synced: (u64, Revision),
    ended: Option<StopReason>,
}

impl Published {
    /// The epoch that a wait which begins now is of.
    pub(crate) fn awaited_epoch(&self) -> Option<u64> {
        self.loaded.then_some(self.epoch)
    }

    /// Whether the epoch `now` is still that one.
    pub(crate) fn check_epoch(&self, awaited: Option<u64>, now: u64) -> Result<(), WaitError> {
        match awaited.or(self.first_epoch) {
            Some(was) if was != now => Err(WaitError::HistoryChanged { was, now }),
            _ => Ok(()),
        }
    }
}

/// What somebody waits for that the mirror can hasten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// The lowest revision somebody waits for.
    pub(crate) lowest: Option<Revision>,
    /// The newest ticket that somebody waits with.
    pub(crate) sync: Option<u64>,
}

impl Demand {
    /// Whether anybody waits for something that the mirror can hasten.
    pub(crate) fn is_any(self) -> bool {
        self.lowest.is_some() || self.sync.is_some()
    }
}

#[derive(Debug)]
struct State {
    published: Published,
    tickets: u64,
    /// Waits for revisions, so that a publication wakes those it satisfies and no others.
    by_revision: BTreeMap<(Revision, u64), Waker>,
    /// Waits for linearizable reads, by ticket.
    by_ticket: BTreeMap<(u64, u64), Waker>,
    /// All other waits.
    others: BTreeMap<u64, (Awaited, Waker)>,
    next_id: u64,
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
        let published = Published {
            revision: 0,
            confirmed: 0,
            epoch: 1,
            first_epoch: None,
            loaded: false,
            watching: false,
            changes: 0,
            publications: 0,
            synced: (0, 0),
            ended: None,
        };
        let state = State {
            published,
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
        Demand {
            lowest: state.by_revision.keys().next().map(|(revision, _)| *revision),
            sync: state.by_ticket.keys().next_back().map(|(ticket, _)| *ticket),
        }
    }

    /// Draws a ticket for a linearizable read that begins after now.
    pub(crate) fn ticket(&self) -> u64 {
        let mut state = self.state.lock();
        state.tickets += 1;
        state.tickets
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
            } else if published.loaded {
                let met = (published.confirmed.saturating_add(1), 0);
                take_below(&mut state.by_revision, met, &mut woken);
                take_below(&mut state.by_ticket, (published.synced.0 + 1, 0), &mut woken);
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

/// The result of a wait, once there is one.
fn judge(published: &Published, awaited: Awaited) -> Option<Result<Revision, WaitError>> {
    if let Awaited::Revision { epoch, .. } | Awaited::Sync { epoch, .. } = awaited
        && let Err(changed) = published.check_epoch(epoch, published.epoch)
    {
        return Some(Err(changed));
    }
    let met = match awaited {
        Awaited::Revision { revision, .. } => {
            (published.loaded && published.confirmed >= revision).then_some(published.confirmed)
        }
        Awaited::Change { after } => (published.changes > after).then_some(published.revision),
        Awaited::Publication { after } => {
            (published.publications > after).then_some(published.revision)
        }
        Awaited::Sync { ticket, .. } => {
            (published.synced.0 >= ticket).then_some(published.synced.1)
        }
        Awaited::Watching => published.watching.then_some(published.revision),
        Awaited::Loaded => published.loaded.then_some(published.revision),
        Awaited::Ended => published.ended.is_some().then_some(published.revision),
    };
    match (met, &published.ended) {
        (Some(revision), _) => Some(Ok(revision)),
        (None, Some(reason)) => Some(Err(WaitError::Stopped(reason.clone()))),
        (None, None) => None,
    }
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
            match self.awaited {
                Awaited::Revision { revision, .. } => {
                    state.by_revision.remove(&(revision, id));
                }
                Awaited::Sync { ticket, .. } => {
                    state.by_ticket.remove(&(ticket, id));
                }
                _ => {
                    state.others.remove(&id);
                }
            }
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
        let first = this.id.is_none();
        let id = *this.id.get_or_insert_with(|| {
            state.next_id += 1;
            state.next_id
        });
        let waker = cx.waker().clone();
        match this.awaited {
            Awaited::Revision { revision, .. } => {
                state.by_revision.insert((revision, id), waker);
            }
            Awaited::Sync { ticket, .. } => {
                state.by_ticket.insert((ticket, id), waker);
            }
            awaited => {
                state.others.insert(id, (awaited, waker));
            }
        }
        drop(state);
        (this.before_pending)();
        if first && matches!(this.awaited, Awaited::Revision { .. } | Awaited::Sync { .. }) {
            this.since = Some(Instant::now());
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
