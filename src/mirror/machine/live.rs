//! Following the watch, and knowing that it is alive and how far it reaches.
//!
//! Owns the phases `Opening`, `Creating` and `Live`: messages, progress, the count barrier, the
//! watchdog and the age of the data.

use std::sync::Arc;

use super::{Action, Instant, Machine, Phase, Purpose, Reload, SourceError, State, timeout};
use crate::event::{Header, Revision, WatchResponse};
use crate::range::KeyRange;
use crate::source::{RangePage, RangeRequest, SourceErrorKind, classify::classify_cancel_reason};
use crate::status::ProgressBy;

/// Silence is called death after this many check intervals without an answer.
const CHECKS_UNTIL_DEAD: u32 = 2;

/// What is asked about how current the data is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Freshness {
    /// The watcher's id, from its `created` answer.
    watch_id: Option<i64>,
    /// Since when an answer of the watch is awaited.
    awaiting: Option<Instant>,
    /// When progress, or a count, was last asked for.
    last_asked: Option<Instant>,
    /// When progress is asked for next in silence.
    next_check: Option<Instant>,
    /// When the store's revision is asked for next, events or not: the data's age hangs on it.
    next_read: Option<Instant>,
    /// The ticket that the revision read under way covers.
    reading: Option<u64>,
    counting: bool,
    /// The lowest revision waited for when progress was last asked for.
    asked_for: Option<Revision>,
    /// Since when counts have found another state in the store than here.
    behind_since: Option<Instant>,
    /// The watch has answered a progress request.
    answered: bool,
    /// The watch has brought an event or an answer.
    proven: bool,
    /// Progress requests are taken to be swallowed, but no count has shown that the rest works.
    suspecting: bool,
    /// A linearizable revision and when it was asked for, until the cursor reaches it.
    pub(super) as_of: Option<(Revision, Instant)>,
    /// Progress to be published once what was queued before it is applied (C2).
    pub(super) pending_confirm: Option<Revision>,
}

impl Freshness {
    /// Forgets what was asked on a watch that is gone; the store's revision stays true.
    /// Gives whether it was only suspected that progress requests are swallowed.
    pub(super) fn reset(&mut self) -> bool {
        let suspecting = self.suspecting;
        *self = Freshness { as_of: self.as_of, ..Freshness::default() };
        suspecting
    }
}

impl Machine {
    pub(super) fn watch_opened(&mut self, now: Instant, result: Result<(), SourceError>) {
        if self.phase != Phase::Opening {
            return;
        }
        match result {
            Ok(()) => {
                self.phase = Phase::Creating { until: now + self.options.request_timeout };
            }
            Err(error) => self.fail(now, error),
        }
    }

    pub(super) fn message(
        &mut self,
        now: Instant,
        result: Result<Option<WatchResponse>, SourceError>,
    ) {
        if !matches!(self.phase, Phase::Live | Phase::Creating { .. }) {
            return;
        }
        let response = match result {
            Ok(Some(response)) => response,
            Ok(None) => {
                let kind = SourceErrorKind::Unavailable;
                return self.fail(now, SourceError::new(kind, "the watch ended"));
            }
            Err(error) if error.kind() == SourceErrorKind::Compacted => return self.compacted(now),
            Err(error) if error.kind() == SourceErrorKind::TooLarge => {
                return self.too_large(now, error);
            }
            Err(error) => return self.fail(now, error),
        };
        self.report.last_contact = Some(now);
        let ours = response.watch_id == -1 || self.fresh.watch_id == Some(response.watch_id);
        if response.is_progress() && !ours {
            // Of another watcher, so it says nothing about our events, nor that ours lives (B2).
            return;
        }
        self.fresh.awaiting = None;
        self.fresh.next_check = Some(now + self.options.check_interval);
        self.fresh.proven |= !response.created;
        if response.compact_revision > 0 {
            self.compacted(now);
        } else if response.canceled {
            self.canceled(now, &response);
        } else if response.created {
            self.created(now, &response);
        } else if response.is_progress() {
            self.progress(now, &response);
        } else if !response.events.is_empty() || response.fragment {
            self.fresh.behind_since = None;
            self.queue.push(response);
            if self.queue.partial_bytes() > self.options.response_bytes {
                let kind = SourceErrorKind::TooLarge;
                let error = SourceError::new(kind, "a response in fragments exceeds its bound");
                self.read_instead(now, Arc::new(error));
            }
        }
    }

    fn canceled(&mut self, now: Instant, response: &WatchResponse) {
        let kind = classify_cancel_reason(&response.cancel_reason);
        if kind == SourceErrorKind::Compacted {
            return self.compacted(now);
        }
        let reason = match response.cancel_reason.as_str() {
            "" => "the watch was cancelled without a reason",
            reason => reason,
        };
        self.fail(now, SourceError::new(kind, reason));
    }

    fn created(&mut self, now: Instant, response: &WatchResponse) {
        if !matches!(self.phase, Phase::Creating { .. }) {
            return;
        }
        if let (Some(expected), Some(header)) = (self.known.cluster_id, response.header)
            && header.cluster_id != expected
        {
            let kind = SourceErrorKind::Malformed;
            return self.fail(now, SourceError::new(kind, "the watch is of another cluster"));
        }
        self.phase = Phase::Live;
        self.fresh.watch_id = Some(response.watch_id);
        self.report.counters.watches += 1;
        self.enter(now, State::Live);
        self.act(Action::Watching);
        // Asked at once: the answer is the proof that the watch works.
        self.fresh.next_check = Some(now);
        self.fresh.next_read = Some(now);
        self.plan_audit(now);
    }

    /// A progress notification: complete through the header's revision, once everything that was
    /// queued before it is applied.
    fn progress(&mut self, now: Instant, response: &WatchResponse) {
        let Some(Header { revision, cluster_id, .. }) = response.header else { return };
        if self.known.cluster_id != Some(cluster_id) {
            let kind = SourceErrorKind::Malformed;
            return self.fail(now, SourceError::new(kind, "progress of another cluster"));
        }
        let requested = response.watch_id == -1;
        self.fresh.answered |= requested;
        // A requested one may run ahead of events on old servers; a periodic one never does.
        if requested && self.progress_by() != ProgressBy::Request {
            return;
        }
        if matches!(self.phase, Phase::Creating { .. }) {
            return;
        }
        if self.queue.is_partial() {
            // A response's pieces come without anything between them. Confirming now would claim
            // what the missing pieces hold (C2).
            let kind = SourceErrorKind::Malformed;
            return self.fail(now, SourceError::new(kind, "progress inside a fragmented response"));
        }
        self.proven();
        self.confirm(now, revision);
    }

    fn confirm(&mut self, now: Instant, revision: Revision) {
        self.flush(Some(now));
        if self.applying == 0 {
            self.publish_confirmed(revision);
        } else {
            self.fresh.pending_confirm = self.fresh.pending_confirm.max(Some(revision));
        }
    }

    fn publish_confirmed(&mut self, revision: Revision) {
        if revision > self.known.cursor {
            self.report.counters.progress += 1;
            self.known.cursor = revision;
            self.act(Action::Confirm(revision));
        }
        self.settle_as_of();
    }

    /// The cursor moved by a load or a batch: what waited for that may follow.
    pub(super) fn cursor_moved(&mut self) {
        match self.fresh.pending_confirm.take_if(|_| self.applying == 0) {
            Some(revision) => self.publish_confirmed(revision),
            None => self.settle_as_of(),
        }
    }

    fn settle_as_of(&mut self) {
        if let Some((_, asked)) = self.fresh.as_of.filter(|(rev, _)| *rev <= self.known.cursor) {
            self.report.current_as_of = self.report.current_as_of.max(Some(asked));
            self.fresh.as_of = None;
        }
    }

    /// Asks what has to be asked: for those who wait, and in silence for the data's age.
    pub(super) fn check_freshness(&mut self, now: Instant) {
        let demanded = self.demand.lowest.filter(|revision| *revision > self.known.cursor);
        if demanded.is_some_and(|revision| self.queue.reaches(revision)) {
            // Somebody waits for what is queued, so the delay is over (T-47).
            self.flush(Some(now));
        } else if demanded.is_some() && self.ask_due().is_none_or(|due| due <= now) {
            self.fresh.asked_for = demanded;
            self.ask_progress(now);
        }
        if let Some(ticket) = self.demand.sync.filter(|_| self.fresh.reading.is_none()) {
            self.read_revision(now, ticket);
            self.ask_progress(now);
        }
        if self.fresh.next_read.is_some_and(|due| due <= now) {
            self.fresh.next_read = Some(now + self.options.check_interval);
            if self.fresh.reading.is_none() {
                self.read_revision(now, 0);
            }
        }
        if self.fresh.next_check.is_some_and(|due| due <= now) {
            // A new watch drops requests until it has caught up, so it is asked until it speaks.
            let counts = self.progress_by() == ProgressBy::Count;
            let quiet = self.fresh.proven || counts;
            let pause =
                if quiet { self.options.check_interval } else { self.options.demand_interval };
            self.fresh.next_check = Some(now + pause);
            self.ask_progress(now);
        }
        if self.dead_at().is_some_and(|dead| dead <= now) {
            self.silent(now);
        }
    }

    /// When progress may be asked for again on behalf of those who wait: at once for a new demand,
    /// else at intervals, since a server drops requests while it has events to send.
    fn ask_due(&self) -> Option<Instant> {
        let repeated = self.fresh.asked_for == self.demand.lowest;
        self.fresh.last_asked.filter(|_| repeated).map(|asked| asked + self.options.demand_interval)
    }

    fn dead_at(&self) -> Option<Instant> {
        let limit = self.options.check_interval * CHECKS_UNTIL_DEAD;
        self.fresh.awaiting.map(|since| since + limit)
    }

    pub(super) fn freshness_deadline(&self) -> Option<Instant> {
        let demanded = self.demand.lowest.is_some_and(|revision| revision > self.known.cursor);
        let ask = if demanded { self.ask_due() } else { None };
        let dues = [self.fresh.next_check, self.fresh.next_read, self.audit_deadline()];
        dues.into_iter().chain([ask, self.dead_at()]).flatten().min()
    }

    fn ask_progress(&mut self, now: Instant) {
        self.fresh.last_asked = Some(now);
        match self.progress_by() {
            ProgressBy::Request => {
                self.fresh.awaiting.get_or_insert(now);
                self.act(Action::RequestProgress);
            }
            _ if !self.fresh.counting => self.count(now),
            _ => {}
        }
    }

    /// Asks for the store's revision now, for all tickets up to `ticket`.
    fn read_revision(&mut self, now: Instant, ticket: u64) {
        self.fresh.reading = Some(ticket);
        let request = self.revision_request();
        let cursor = self.known.cursor;
        self.act(Action::Range(Purpose::Revision { cursor, asked: now, ticket }, request));
    }

    pub(super) fn revision_read(
        &mut self,
        now: Instant,
        cursor: Revision,
        asked: Instant,
        ticket: u64,
        result: Result<RangePage, SourceError>,
    ) {
        if self.phase != Phase::Live || self.fresh.reading != Some(ticket) {
            return;
        }
        self.fresh.reading = None;
        let header = match result.map(|page| page.header) {
            Ok(Some(header)) if header.revision > 0 => header,
            Ok(_) => {
                let kind = SourceErrorKind::Malformed;
                return self.fail(now, SourceError::new(kind, "an answer without header"));
            }
            Err(error) => return self.fail(now, error),
        };
        // The cursor of then: events may have come before this answer.
        if self.known.cluster_id != Some(header.cluster_id) || header.revision < cursor {
            // Identity is judged when connecting, by more than this one answer.
            let kind = SourceErrorKind::Unavailable;
            let message = "the store's identity or revision does not fit what is known";
            return self.fail(now, SourceError::new(kind, message));
        }
        self.fresh.as_of.get_or_insert((header.revision, asked));
        self.settle_as_of();
        if ticket > 0 {
            self.demand.sync = self.demand.sync.filter(|wanted| *wanted > ticket);
            self.act(Action::Synced { ticket, revision: header.revision });
            if header.revision > self.known.cursor {
                self.ask_progress(now);
            }
        }
    }

    /// The count barrier (B13): if no live key is newer than the cursor, the store's keys are a
    /// subset of the known ones unchanged; if there are as many, they are the same.
    fn count(&mut self, now: Instant) {
        self.fresh.counting = true;
        let cursor = self.known.cursor;
        let request = RangeRequest {
            min_mod_revision: cursor.saturating_add(1),
            keys_only: true,
            limit: 1,
            ..RangeRequest::new(KeyRange::clone(&self.range))
        };
        self.act(Action::Range(Purpose::Barrier { cursor, asked: now }, request));
    }

    pub(super) fn barrier(
        &mut self,
        now: Instant,
        cursor: Revision,
        asked: Instant,
        result: Result<RangePage, SourceError>,
    ) {
        if self.phase != Phase::Live || !self.fresh.counting {
            return;
        }
        self.fresh.counting = false;
        let page = match result {
            Ok(page) => page,
            Err(error) => return self.fail(now, error),
        };
        let Some(header) = page.header.filter(|header| header.revision > 0) else {
            let kind = SourceErrorKind::Malformed;
            return self.fail(now, SourceError::new(kind, "a count without header"));
        };
        if cursor != self.known.cursor || !self.queue.is_empty() || self.applying > 0 {
            // Events came meanwhile. The count is of a state at or after them, and applying only
            // some of them would be neither state; the next count will tell.
            return;
        }
        if self.queue.is_partial() {
            // The same, for the pieces of a response. Each further piece renews the patience.
            if self.behind_for_too_long(now, asked) {
                self.fail(now, timeout("the rest of a response does not come"));
            }
            return;
        }
        if page.kvs.is_empty() && usize::try_from(page.count) == Ok(self.known.keys) {
            self.fresh.behind_since = None;
            self.fresh.awaiting = None;
            self.fresh.suspecting = false;
            self.proven();
            return self.confirm(now, header.revision);
        }
        // The store has more than is known here. Its events may be on their way; if none comes,
        // the watch is dead or has lost history (F35, F47).
        if !self.behind_for_too_long(now, asked) {
            return;
        }
        if page.kvs.is_empty() {
            // Nothing newer to deliver, yet the keys are not as many: history was lost before.
            self.report.counters.discontinuities += 1;
            tracing::warn!("the store counts other keys; everything is read again");
            self.schedule_reload(now, Reload::GAPS);
        } else {
            self.fail(now, timeout("the store has changes that the watch does not deliver"));
        }
    }

    /// Whether counts have been waiting for the watch to bring the rest for too long.
    fn behind_for_too_long(&mut self, now: Instant, asked: Instant) -> bool {
        let since = *self.fresh.behind_since.get_or_insert(asked);
        now - since >= self.options.check_interval * CHECKS_UNTIL_DEAD
    }

    /// The watch has not answered for too long.
    fn silent(&mut self, now: Instant) {
        if self.fresh.answered || self.fresh.counting {
            return self.fail(now, timeout("the watch stopped answering"));
        }
        // It never answered: a gRPC proxy swallows the requests. Count from now on.
        tracing::warn!("progress requests are not answered; completeness is found by counting");
        self.endpoints[self.endpoint].1.no_progress = true;
        self.fresh.suspecting = true;
        self.report.progress_by = ProgressBy::Count;
        self.fresh.awaiting = None;
        self.count(now);
    }
}
