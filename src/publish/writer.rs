//! The only way to change a key space: batches of events, loads, and proof of progress.
//!
//! Owns the order judge, decode, build, publish, with everything but the publishing outside the
//! lock. Must not do I/O or decide when: the mirror or a fixture calls it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use super::outcome::{Applied, LoadError};
use crate::model::{DeltaOrigin, Header, RawKeyValue, Revision, StopReason, Trace, WatchResponse};
use crate::publish::core::{Changes, Core};
use crate::publish::cores::{Cores, Worker};
use crate::publish::feed::{FeedItem, FeedSender, Refused, Through};
use crate::publish::reentry;
use crate::view::{
    ApplyError, BadRecord, Comparison, Continuity, Decoding, Known, Loading, NextView, View,
    after_batch, judge,
};

/// The writing side of a key space: not `Clone`, so there is one writer by type.
///
/// A mirror owns one; tests get one from [`Builder::writer`](crate::Builder::writer) to play etcd
/// by hand. Dropping it ends the key space: waits fail, the last data stays readable.
pub struct Writer<T: Send + Sync + 'static> {
    core: Arc<Core<T>>,
    decoding: Decoding<T>,
    /// The threads that decode a load.
    cores: Cores,
    continuity: Continuity,
    /// The writer's own hold on the view it published last.
    view: View<T>,
    member: Option<(u64, u64)>,
    /// When the read under way was begun.
    load_began: Option<Instant>,
    tap: Option<FeedSender>,
}

impl<T: Send + Sync + 'static> Writer<T> {
    pub(crate) fn new(core: Arc<Core<T>>, decoding: Decoding<T>, cores: Cores) -> Self {
        let view = View::empty(Arc::clone(&core.mirrored));
        Writer {
            core,
            decoding,
            cores,
            continuity: Continuity::Strict,
            view,
            member: None,
            load_began: None,
            tap: None,
        }
    }

    /// The view as last published.
    #[must_use]
    pub fn view(&self) -> &View<T> {
        &self.view
    }

    pub(crate) fn core(&self) -> &Arc<Core<T>> {
        &self.core
    }

    /// Sends everything to the feed too, as it arrives.
    pub(crate) fn attach_feed(&mut self, tap: FeedSender) {
        // There is one writer, and its feed is attached before anything else.
        let _ = self.core.feed_state.set(tap.shared());
        self.tap = Some(tap);
    }

    /// Sends nothing more to the feed.
    pub(crate) fn close_feed(&mut self) {
        self.tap = None;
    }

    pub(crate) fn tap(&self) -> Option<&FeedSender> {
        self.tap.as_ref()
    }

    /// Sets how strictly events must continue what is known; strict unless set.
    pub fn set_continuity(&mut self, continuity: Continuity) {
        self.continuity = continuity;
    }

    /// Applies responses of one watch as one batch: visible whole or not at all (C3).
    ///
    /// Events at or below the confirmed revision were delivered before: they are dropped and
    /// counted. Fragments are joined; a response without events changes nothing, a progress
    /// notification included (its meaning depends on the server; see [`confirm`](Writer::confirm)).
    /// Costs O(m log m + m log n) for m events outside the lock, a pointer swap and the observers
    /// within it.
    ///
    /// # Errors
    /// Any [`ApplyError`]; then nothing was applied.
    ///
    /// # Panics
    /// While this thread holds a read guard, or runs an observer, of the same key space.
    #[track_caller]
    pub fn apply(&mut self, responses: Vec<WatchResponse>) -> Result<Applied, ApplyError> {
        let began = Instant::now();
        let header = responses.iter().rev().find_map(|response| response.header);
        let view = &self.view;
        let mut places = Vec::new();
        let known = Known {
            range: &view.mirrored,
            cluster_id: view.cluster_id,
            confirmed: view.confirmed,
            numbers: |keys: &[&[u8]]| {
                places = view.entries.places(keys);
                keys.iter().zip(&places).map(|(key, place)| view.known(key, place)).collect()
            },
            continuity: self.continuity,
        };
        let mut batch = judge(known, responses)?;
        self.note_member(header);
        let tolerated = std::mem::take(&mut batch.tolerated);
        let (events, deletes, duplicates) = (batch.events, batch.deletes, batch.duplicates);
        let (revision, cluster_id) = (batch.revision, batch.cluster_id);
        let mut applied = Applied { events, deletes, duplicates, tolerated, ..Applied::default() };
        if events > 0 {
            let feed_state = self.tap.is_some().then(|| batch.arrivals());
            let from = Through::of(&self.view);
            let mut effects = self.core.history.is_kept().then(Trace::default);
            let now = SystemTime::now();
            let mut next =
                after_batch(&self.view, batch, &places, &self.decoding, now, effects.as_mut());
            next.view.revision = next.view.revision.max(revision);
            next.view.confirmed = next.view.confirmed.max(revision);
            next.view.cluster_id = next.view.cluster_id.or(cluster_id);
            applied.rejected = next.rejected;
            applied.changes = self.publish(next, DeltaOrigin::Events, effects);
            self.core.timers.apply.since(began);
            self.core.applied(events);
            if let (Some(tap), Some(events)) = (&self.tap, feed_state) {
                let (to, refused) = (Through::of(&self.view), Refused::among(&self.view, &events));
                tap.send(FeedItem::Events { from, to, events, refused });
            }
        }
        applied.revision = self.view.revision;
        applied.confirmed = self.view.confirmed;
        Ok(applied)
    }

    /// Replaces everything by a complete read of the range at `header.revision`.
    ///
    /// The keys ascend. Entries whose numbers and raw value are unchanged are kept as they are and not
    /// decoded again; the delta is the exact difference, deletions included (C6).
    ///
    /// A new [epoch](View::epoch) begins when the read contradicts what is known, which one history cannot.
    /// A key's newest write is older than the known one, or has the known `mod_revision` with other numbers
    /// or another value. Or it is at or below the confirmed revision and not known, which is not judged
    /// under [`Continuity::Lenient`], as that lets events be lost. A new epoch also begins when the read is at
    /// the revision of the view and has another state.
    ///
    /// Without a mirror it makes the key space [`Live`](crate::State::Live) and current as of now, so that
    /// readiness checks can be tested: [`Status::is_fresh`](crate::Status::is_fresh) holds until the age
    /// passes its limit, and again after the next load or [`confirm`](Writer::confirm).
    ///
    /// # Errors
    /// Any [`LoadError`]; then nothing was changed.
    ///
    /// # Panics
    /// As [`apply`](Writer::apply).
    #[track_caller]
    pub fn load(&mut self, header: Header, kvs: Vec<RawKeyValue>) -> Result<Applied, LoadError> {
        reentry::forbid_under_guard(self.core.id(), "applying");
        let doubted = self.continuity == Continuity::Lenient;
        let mut loading = self.begin_load(true, doubted);
        self.load_page(&mut loading, kvs)?;
        self.finish_load(loading, header, true)
    }

    /// Begins to take in a complete read beside what is shown. `doubted`: events are known to be lost.
    pub(crate) fn begin_load(&mut self, same_history: bool, doubted: bool) -> Loading<T> {
        self.load_began = Some(Instant::now());
        let (decoding, now) = (self.decoding.clone(), SystemTime::now());
        Loading::new(&self.view, decoding, same_history, doubted, now)
    }

    /// Takes the next keys of a read in, which continue the former ones in ascending order.
    ///
    /// Decodes on several threads where that pays; what it leads to is the same as on one.
    #[track_caller]
    pub(crate) fn load_page(
        &self,
        loading: &mut Loading<T>,
        kvs: Vec<RawKeyValue>,
    ) -> Result<(), BadRecord> {
        // A decoder that reads the key space on another thread would wait for this one.
        reentry::forbid_in_observer(self.core.id(), "applying");
        let (mut chunks, deciding, booked) = loading.page(kvs);
        self.cores.in_order(
            &mut chunks,
            |chunk, worker| match worker {
                Worker::Caller => deciding.decide(chunk),
                Worker::Helper => deciding.decide_copied(chunk),
            },
            |chunk| booked.book(chunk),
        );
        chunks.end()
    }

    /// Shows what was stored of a former mirror of the range, complete through `through`.
    #[track_caller]
    pub(crate) fn restore(
        &mut self,
        loading: Loading<T>,
        through: Through,
    ) -> Result<(), LoadError> {
        let Through { cluster_id, epoch, revision } = through;
        let header = Header { cluster_id, revision, ..Header::default() };
        self.check_load(&loading, header, false)?;
        let mut next = loading.finish(revision);
        (next.view.cluster_id, next.view.epoch) = (Some(cluster_id), epoch);
        self.publish(next, DeltaOrigin::Load, None);
        if let Some(tap) = &self.tap {
            tap.send(FeedItem::Restored);
        }
        Ok(())
    }

    /// Keeps the view aside to be compared with etcd.
    pub(crate) fn begin_audit(&self) -> Comparison<T> {
        Comparison::new(self.view.share())
    }

    /// Whether a complete read may be shown.
    pub(crate) fn check_load(
        &self,
        loading: &Loading<T>,
        header: Header,
        same_history: bool,
    ) -> Result<(), LoadError> {
        if header.revision <= 0 {
            return Err(LoadError::NoRevision { got: header.revision });
        }
        if same_history {
            let confirmed = self.view.confirmed;
            if header.revision < confirmed {
                return Err(LoadError::Behind { confirmed, got: header.revision });
            }
            if let Some(expected) = self.view.cluster_id.filter(|id| *id != header.cluster_id) {
                return Err(LoadError::ClusterMismatch { expected, got: header.cluster_id });
            }
        }
        if loading.newest() > header.revision {
            let (header, entry) = (header.revision, loading.newest());
            return Err(LoadError::HeaderBehind { header, entry });
        }
        Ok(())
    }

    /// Shows a complete read in one step; under a new epoch when history is another one or contradicted,
    /// or when the read is of the revision shown and yet another state.
    #[track_caller]
    pub(crate) fn finish_load(
        &mut self,
        loading: Loading<T>,
        header: Header,
        same_history: bool,
    ) -> Result<Applied, LoadError> {
        self.check_load(&loading, header, same_history)?;
        self.note_member(Some(header));
        let (confirmed, contradicted) = (self.view.confirmed, loading.contradicted());
        let mut next = loading.finish(header.revision);
        let changed = next.changes.as_ref().map_or(!next.view.is_empty(), |all| !all.is_empty());
        // The view was wrong at this revision, which must not name two states (C1): readers know it by the
        // revision, and tokens by the confirmed one.
        let repaired = confirmed == header.revision && changed;
        next.view.cluster_id = Some(header.cluster_id);
        next.view.epoch += u64::from(!same_history || contradicted || repaired);
        let rejected = next.rejected;
        self.note_current();
        let changes = self.publish(next, DeltaOrigin::Load, None);
        if let Some(began) = self.load_began.take() {
            self.core.timers.load.since(began);
        }
        if let Some(tap) = &self.tap {
            let (to, refused) = (Through::of(&self.view), Refused::all(&self.view));
            tap.send(FeedItem::LoadEnds { to, refused });
        }
        Ok(Applied {
            changes,
            rejected,
            revision: self.view.revision,
            confirmed: self.view.confirmed,
            ..Applied::default()
        })
    }

    /// Moves the confirmed revision, for which the caller must have proof (C2): that every change
    /// of the range through `revision` has been applied. A lower one changes nothing. Without a mirror,
    /// and after the first load, one that is not lower also renews
    /// [`Status::current_as_of`](crate::Status::current_as_of).
    ///
    /// # Panics
    /// As [`apply`](Writer::apply).
    #[track_caller]
    pub fn confirm(&mut self, revision: Revision) {
        if self.view.revision > 0 && revision >= self.view.confirmed {
            self.note_current();
        }
        if revision > self.view.confirmed {
            self.core.confirm(revision);
            let from = Through::of(&self.view);
            self.view.confirmed = revision;
            if let Some(tap) = &self.tap {
                tap.send(FeedItem::Progress { from, to: Through::of(&self.view) });
            }
        }
    }

    /// Without a mirror the writer reports the state, before it wakes waiters.
    fn note_current(&self) {
        if !self.core.driven.load(Ordering::Acquire) {
            self.core.report.current();
        }
    }

    /// Ends the key space with a reason; its data stays readable.
    pub(crate) fn end(&mut self, reason: StopReason) {
        self.core.end(reason);
    }

    /// Shows the next view and gives how many entries changed.
    #[track_caller]
    fn publish(
        &mut self,
        next: NextView<T>,
        origin: DeltaOrigin,
        effects: Option<Trace<T>>,
    ) -> usize {
        let changed = next.changes.as_ref().map_or(next.view.len(), Vec::len);
        let changes = next.changes.map_or(Changes::AllAdded, Changes::Known);
        reentry::forbid_in_observer(self.core.id(), "applying");
        reentry::forbid_under_guard(self.core.id(), "applying");
        // Set before, so that it is right even if a replaced value panics when it is dropped.
        let before = std::mem::replace(&mut self.view, next.view.share());
        self.core.publish(next.view, changes, origin, effects);
        drop(before);
        changed
    }

    /// Logs a change of member or term once (both are harmless).
    fn note_member(&mut self, header: Option<Header>) {
        let Some(header) = header else { return };
        let member = Some((header.member_id, header.raft_term));
        if self.member != member {
            if self.member.is_some() {
                tracing::info!(
                    member_id = header.member_id,
                    raft_term = header.raft_term,
                    "responses come from another member or term"
                );
            }
            self.member = member;
        }
    }
}

impl<T: Send + Sync + 'static> Drop for Writer<T> {
    fn drop(&mut self) {
        self.end(StopReason::Shutdown);
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Writer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("view", &self.view).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
