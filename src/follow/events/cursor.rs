//! From event to event: where a consumer begins, what it is told next, and when it is told everything.
//!
//! Owns the moves of [`Events`] through the kept steps. Must not wait: it looks, and says what is there.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::Events;
use super::event::{EventsError, KeyEvent, SyncReason, SyncSet};
use crate::model::Change;
use crate::publish::{Lookup, NextRecord, Place, Snapshot, Step, WaitError, What};
use crate::view::Packed;

type Waiting<T> = Pin<Box<dyn Future<Output = Result<Snapshot<T>, WaitError>> + Send + Sync>>;

/// What is left to be done before the first event.
pub(super) enum Begin<T> {
    /// The first load may have to be waited for.
    Sync,
    /// The place to begin after may have to be waited for.
    After(Place, Waiting<T>),
    /// The key space stopped before that place was reached.
    Never,
}

/// A `Sync` at intervals.
pub(super) struct Resync<T> {
    pub(super) every: Duration,
    pub(super) due: Pin<Box<Sleep>>,
    /// Taken when it was due; told when everything before it was told.
    pub(super) taken: Option<Snapshot<T>>,
}

impl<T: Send + Sync + 'static> Events<T> {
    pub(super) fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<KeyEvent<T>, EventsError>> {
        loop {
            if self.stopped.load(Ordering::Acquire) {
                return Poll::Ready(Err(self.ended(EventsError::Stopped)));
            }
            // Asked before the look: what was shown before the end is found by the look.
            let ended = self.interested.ended();
            if let Some(event) = self.look(cx) {
                return Poll::Ready(Ok(event));
            }
            if let Some(reason) = ended {
                return Poll::Ready(Err(self.ended(EventsError::KeySpace(reason))));
            }
            ready!(self.interested.poll_touched(cx));
        }
    }

    /// What never was synced never will be.
    fn ended(&self, error: EventsError) -> EventsError {
        self.synced.send_if_modified(|synced| synced.is_none() && synced.insert(false) == &false);
        error
    }

    /// What is to be told now.
    fn look(&mut self, cx: &mut Context<'_>) -> Option<KeyEvent<T>> {
        if let Some(begin) = self.begin.take() {
            let first = self.begin(begin, cx);
            if first.is_some() || self.begin.is_some() {
                return first;
            }
        }
        self.poll_resync(cx);
        loop {
            if let Some(event) = self.go_on() {
                return Some(event);
            }
            let told = self.told;
            let due = self.resync.as_mut().and_then(|resync| {
                let due = resync.taken.as_ref().is_some_and(|taken| taken.step <= told);
                resync.taken.take_if(|_| due)
            });
            if let Some(due) = due {
                let now = self.interested.ks.snapshot();
                // Of one step both have the same entries, and `token` may have returned the newer progress.
                let snapshot = if now.step == due.step { now } else { due };
                return Some(self.sync(&snapshot, SyncReason::Periodic));
            }
            match self.interested.ks.core().history.after(self.told) {
                NextRecord::Nothing => return None,
                NextRecord::Step(step) => self.telling = Some((step, 0)),
                NextRecord::Gone => {
                    let now = self.interested.ks.snapshot();
                    return Some(self.sync(&now, SyncReason::Behind));
                }
            }
        }
    }

    /// Begins, if it can; puts back what is to be waited for.
    fn begin(&mut self, begin: Begin<T>, cx: &mut Context<'_>) -> Option<KeyEvent<T>> {
        let ks = &self.interested.ks;
        match begin {
            Begin::Sync => {
                let now = ks.snapshot();
                if now.revision() > 0 {
                    return Some(self.sync(&now, SyncReason::Start));
                }
                self.begin = Some(Begin::Sync);
                None
            }
            Begin::After(place, mut reached) => match reached.as_mut().poll(cx) {
                Poll::Pending | Poll::Ready(Err(WaitError::Stopped(_)))
                    if self.begins_in_the_view() =>
                {
                    let now = ks.snapshot();
                    self.resume(Place { epoch: now.epoch(), ..place }, &now)
                }
                Poll::Pending => {
                    self.begin = Some(Begin::After(place, reached));
                    None
                }
                Poll::Ready(Ok(now)) => self.resume(Place { epoch: now.epoch(), ..place }, &now),
                Poll::Ready(Err(WaitError::Stopped(_))) => {
                    self.begin = Some(Begin::Never);
                    None
                }
                Poll::Ready(Err(_)) => {
                    let now = ks.snapshot();
                    Some(self.sync(&now, SyncReason::NewEpoch))
                }
            },
            Begin::Never => {
                self.begin = Some(Begin::Never);
                None
            }
        }
    }

    /// Whether this key space made the token from a view that it still has. A suspicion against the
    /// store, which no wait for a revision passes, takes nothing back of that.
    fn begins_in_the_view(&self) -> bool {
        let ks = &self.interested.ks;
        let now = ks.snapshot();
        let here = (ks.core().id(), now.epoch());
        self.start.epoch == Some(here) && now.confirmed() >= self.start.revision()
    }

    /// Goes on after a place that `now` has reached, or with a `Sync` when that is not kept.
    fn resume(&mut self, place: Place, now: &Snapshot<T>) -> Option<KeyEvent<T>> {
        let shown = Place::of(now);
        // Before a complete read that changed nothing, something may have been done and undone.
        if place == shown || (place > shown && place.revision >= now.loaded) {
            self.told = now.step;
        } else {
            match self.interested.ks.core().history.passing(place) {
                Lookup::By(step) => {
                    self.told = step.number - 1;
                    self.telling = Some((step, 0));
                }
                // It is told when it is noted.
                Lookup::NotYet(newest) => self.told = newest,
                Lookup::Gone => return Some(self.sync(now, SyncReason::Behind)),
            }
        }
        self.place = place;
        self.cluster_id = now.cluster_id().unwrap_or_default();
        self.synced.send_replace(Some(true));
        None
    }

    /// The next event of the range in the step that is being delivered.
    fn go_on(&mut self) -> Option<KeyEvent<T>> {
        while let Some((event, last)) = self.next_effect() {
            if last {
                // Not at the next poll: until then, idle progress could not raise the token.
                self.end_step();
            }
            if event.is_some() {
                return event;
            }
        }
        let (step, before) = self.end_step()?;
        let What::Load { entries, cluster_id, delta } = &step.what else { return None };
        let range = self.interested.range();
        let within = |change: &Change<T>| range.contains(change.key());
        let difference = match delta {
            _ if !step.begins_at(before) => None,
            Some(delta) => Some(delta.iter().filter(|c| within(c)).cloned().collect()),
            None => {
                let all = entries.slice(range.start(), range.end());
                Some(all.iter().map(|entry| Change::Added(Arc::clone(entry))).collect())
            }
        };
        let reason = match step.from {
            Place { revision: 0, .. } => SyncReason::Start,
            from if from.epoch == step.to.epoch => SyncReason::Reload,
            _ => SyncReason::NewEpoch,
        };
        self.cluster_id = cluster_id.unwrap_or_default();
        Some(self.set(entries, reason, difference))
    }

    /// The next effect of the range in the step, and whether it is the last.
    fn next_effect(&mut self) -> Option<(Option<KeyEvent<T>>, bool)> {
        let (step, at) = self.telling.as_mut()?;
        let What::Events(events) = &step.what else { return None };
        let (range, after) = (self.interested.range(), self.place.revision);
        let mut rest = events.effects.iter().enumerate().skip(*at).filter(|(_, effect)| {
            // Effects at or below were delivered, to a consumer that resumes within the step.
            effect.revision > after && range.contains(effect.change.key())
        });
        let (_, effect) = rest.next()?;
        let following = rest.next();
        *at = following.map_or(events.effects.len(), |(index, _)| index);
        // Through it only when no other effect of the revision is left to be delivered.
        let more = following.is_some_and(|(_, other)| other.revision == effect.revision);
        self.place.revision = effect.revision - i64::from(more);
        Some((KeyEvent::of(&effect.change, effect.revision), following.is_none()))
    }

    /// Ends the step that is being delivered; returns it with the position before its end.
    fn end_step(&mut self) -> Option<(Arc<Step<T>>, Place)> {
        let (step, _) = self.telling.take()?;
        self.told = step.number;
        let before = std::mem::replace(&mut self.place, step.reach);
        Some((step, before))
    }

    /// Tells what a snapshot shows, and goes on after it.
    fn sync(&mut self, now: &Snapshot<T>, reason: SyncReason) -> KeyEvent<T> {
        if reason == SyncReason::Behind {
            let history = &self.interested.ks.core().history;
            history.behind.fetch_add(1, Ordering::Relaxed);
        }
        (self.told, self.place, self.telling) = (now.step, Place::confirmed(now), None);
        self.cluster_id = now.cluster_id().unwrap_or_default();
        self.set(&now.entries, reason, None)
    }

    /// The range among `entries`, as of the place.
    fn set(
        &mut self,
        entries: &Packed<T>,
        reason: SyncReason,
        difference: Option<Vec<Change<T>>>,
    ) -> KeyEvent<T> {
        if let Some(resync) = &mut self.resync {
            resync.due.as_mut().reset(Instant::now() + resync.every);
            resync.taken = None;
        }
        self.synced.send_replace(Some(true));
        let range = self.interested.range().clone();
        let entries = entries.part(range.start(), range.end());
        let Place { epoch, revision } = self.place;
        KeyEvent::Sync(SyncSet { range, entries, revision, epoch, reason, difference })
    }

    /// Takes the snapshot of a `Sync` that is due.
    fn poll_resync(&mut self, cx: &mut Context<'_>) {
        if let Some(resync) = &mut self.resync
            && resync.taken.is_none()
            && resync.due.as_mut().poll(cx).is_ready()
        {
            resync.taken = Some(self.interested.ks.snapshot());
        }
    }
}
