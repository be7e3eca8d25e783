//! Following the watch: what its messages mean.
//!
//! Owns the phases `Opening`, `Creating` and `Live`, and what moves `confirmed`. Must not ask for
//! anything: what is asked, and when, is the business of `freshness`.

use std::sync::Arc;

use super::{Action, Instant, Machine, Phase, SourceError, State};
use crate::model::{Event, Header, Revision, WatchResponse};
use crate::publish::ProgressBy;
use crate::source::{SourceErrorKind, classify_cancel_reason};

/// The id in messages that are about no watcher, or about all of a stream (etcd: `InvalidWatchID`).
const WHOLE_STREAM: i64 = -1;

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
        let open = matches!(self.phase, Phase::Live | Phase::Creating { .. });
        if !open && !self.proves_watch() {
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
        if self.is_foreign(&response) {
            return self.foreign(now, &response);
        }
        self.fresh.awaiting = None;
        self.fresh.proven |= response.is_progress();
        self.fresh.next_check = Some(now + self.pause_between_checks());
        if response.compact_revision > 0 {
            self.compacted(now);
        } else if response.canceled {
            self.canceled(now, &response);
        } else if response.created {
            self.created(now, &response);
        } else if response.is_progress() {
            self.progress(now, &response);
        } else if !response.events.is_empty() || response.fragment {
            if self.fresh.watch_id.is_none() {
                let kind = SourceErrorKind::Malformed;
                let message = "events came before the watch was created";
                return self.fail(now, SourceError::new(kind, message));
            }
            self.fresh.behind_since = None;
            let revision = response.events.last().map_or(0, Event::mod_revision);
            let doubted = self.awaits_read(now, revision);
            self.queue.push(response);
            if doubted && self.queue.is_full() {
                let message = "too many events came before the store's revision was read";
                return self.fail(now, SourceError::new(SourceErrorKind::Timeout, message));
            }
            if self.queue.partial_bytes() > self.options.response_bytes {
                let kind = SourceErrorKind::TooLarge;
                let error = SourceError::new(kind, "a response in fragments exceeds its bound");
                self.reload_oversized(now, Arc::new(error));
            }
        }
    }

    /// Whether a message is about another watcher, although the stream has only ours.
    ///
    /// The id -1 stands for the whole stream in progress on request, and for no watcher in a
    /// cancellation, which is ours then; events always name their watcher. Before `created` no id is
    /// known.
    fn is_foreign(&self, response: &WatchResponse) -> bool {
        let Some(ours) = self.fresh.watch_id else { return false };
        let whole_stream =
            response.watch_id == WHOLE_STREAM && (response.is_progress() || response.canceled);
        response.watch_id != ours && !whole_stream
    }

    /// A message of another watcher says nothing about our events, nor that our watch lives (B2).
    /// Only its end is acted on: the id may be wrong, and a new watch loses nothing.
    fn foreign(&mut self, now: Instant, response: &WatchResponse) {
        if response.canceled || response.compact_revision > 0 {
            let error = "a watch with another id was cancelled on this stream";
            self.fail(now, SourceError::new(SourceErrorKind::Malformed, error));
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
        if response.watch_id < 0 {
            let kind = SourceErrorKind::Malformed;
            return self.fail(now, SourceError::new(kind, "the watch was created without an id"));
        }
        self.fresh.watch_id = Some(response.watch_id);
        self.report.counters.watches += 1;
        self.prove(None);
    }

    /// The watch is open, and its store has the known content.
    pub(super) fn live(&mut self, now: Instant) {
        self.phase = Phase::Live;
        self.fresh.term = self.greatest_term();
        self.just_loaded = false;
        self.load_deadline = None;
        self.enter(now, State::Live);
        self.act(Action::Watching);
        // Asked at once: the answer is the proof that the watch works.
        self.fresh.next_check = Some(now);
        self.fresh.next_read = Some(now);
        self.plan_audits(now);
    }

    /// A progress notification: complete through the header's revision, once everything that was
    /// queued before it is applied.
    fn progress(&mut self, now: Instant, response: &WatchResponse) {
        let Some(Header { revision, cluster_id, .. }) = response.header else { return };
        if self.known.cluster_id != Some(cluster_id) {
            let kind = SourceErrorKind::Malformed;
            return self.fail(now, SourceError::new(kind, "progress of another cluster"));
        }
        let requested = response.watch_id == WHOLE_STREAM;
        self.fresh.answered |= requested;
        // A requested one may run ahead of events on old servers; a periodic one never does.
        if requested && self.progress_by() != ProgressBy::Request {
            return;
        }
        if self.phase != Phase::Live {
            return;
        }
        if self.queue.is_partial() {
            // A response's pieces come without anything between them. Confirming now would claim
            // what the missing pieces hold (C2).
            let kind = SourceErrorKind::Malformed;
            return self.fail(now, SourceError::new(kind, "progress inside a fragmented response"));
        }
        if self.awaits_read(now, revision) {
            return;
        }
        self.mark_healthy();
        if !self.keep_progress(revision) {
            self.confirm(now, revision);
        }
    }

    pub(super) fn confirm(&mut self, now: Instant, revision: Revision) {
        if self.fresh.leap.is_some() {
            // What is queued waits, and must come first (C2).
            return;
        }
        self.flush(Some(now));
        if self.applying == 0 {
            self.publish_confirmed(revision);
        } else {
            self.fresh.pending_confirm = self.fresh.pending_confirm.max(Some(revision));
        }
    }

    pub(super) fn publish_confirmed(&mut self, revision: Revision) {
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
}
