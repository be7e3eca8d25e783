//! When a connection is given up, and what comes then.
//!
//! Owns failures, their delays and their one line in the log, and the retreat from a connection.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use super::{Action, Instant, Machine, Phase, SourceError, SourceErrorKind, State, StopReason};

/// While somebody waits, a connection is tried this often.
const DIAL_FOR_WAITS: Duration = Duration::from_secs(1);

impl Machine {
    /// Gives up this connection and tries again after a delay, on the next endpoint.
    pub(super) fn fail(&mut self, now: Instant, error: SourceError) {
        let refused =
            matches!(error.kind(), SourceErrorKind::Denied | SourceErrorKind::Unauthenticated);
        if refused && !self.token_refreshed && self.is_connected() {
            // A token may have expired; some servers report that as a denial (B26).
            self.token_refreshed = true;
            self.abandon_load();
            self.close_watch();
            self.phase = Phase::RefreshingToken;
            if self.report.state == State::Live {
                // The watch is closed, and the store may prove to be another one.
                self.enter(now, State::Reconnecting);
            }
            return self.act(Action::RefreshToken);
        }
        if !self.is_connected() && self.phase != Phase::Connecting {
            // Already on the retreat; what was queued turned out bad as well.
            return self.report.last_error = Some(Arc::new(error));
        }
        let hopeless = refused || error.kind() == SourceErrorKind::InvalidRequest;
        if hopeless && !self.known.loaded {
            return self.stop(StopReason::Refused { cause: Arc::new(error) });
        }
        if self.phase == Phase::Live && self.queue.reaches(self.known.cursor.saturating_add(1)) {
            // The connection brought something new before it broke, so this is the first failure.
            self.mark_healthy();
        }
        let delay = if hopeless {
            // The rights of many processes end, and come back, at the same moment.
            self.jitter.shorten(self.options.backoff_max)
        } else {
            self.backoff.next()
        };
        self.note_failure(&error, delay);
        self.report.last_error = Some(Arc::new(error));
        // A load costs etcd more than a dial, so that no wait has it repeated sooner.
        let fixed = hopeless || self.phase == Phase::Loading;
        self.retreat(now, delay, fixed);
    }

    /// Whether there is a connection to ask on.
    pub(super) fn is_connected(&self) -> bool {
        !matches!(self.phase, Phase::Waiting { .. } | Phase::Connecting | Phase::Stopped)
    }

    /// Logs the first of a row of failures; the rest are counted.
    pub(super) fn note_failure(&mut self, error: &SourceError, delay: Duration) {
        self.report.counters.failures += 1;
        let kinds = &mut self.report.counters.failures_by_kind;
        *match error.kind() {
            SourceErrorKind::Timeout => &mut kinds.timeout,
            SourceErrorKind::Unauthenticated
            | SourceErrorKind::Denied
            | SourceErrorKind::InvalidRequest
            | SourceErrorKind::Unimplemented => &mut kinds.refused,
            SourceErrorKind::Malformed | SourceErrorKind::TooLarge => &mut kinds.malformed,
            SourceErrorKind::Unavailable
            | SourceErrorKind::Compacted
            | SourceErrorKind::FutureRevision => &mut kinds.unavailable,
        } += 1;
        let name = &self.options.name;
        let endpoint = &self.endpoints[self.endpoint].0;
        let cause = error.source().map(ToString::to_string);
        if self.report.last_error.is_none() {
            tracing::warn!(%name, %endpoint, %error, cause, ?delay, "the mirror lost etcd; retrying");
        } else {
            tracing::debug!(%name, %endpoint, %error, cause, ?delay, "the mirror failed again");
        }
    }

    /// Drops the connection, keeps what arrived whole, and waits; unless the delay is fixed, less long
    /// while somebody waits for a revision.
    pub(super) fn retreat(&mut self, now: Instant, delay: Duration, fixed: bool) {
        self.close_watch();
        self.abandon_load();
        self.act(Action::Disconnect);
        self.endpoint = (self.endpoint + 1) % self.endpoints.len();
        self.proof = None;
        self.phase = Phase::Waiting { until: now + delay, since: now, fixed };
        if self.known.loaded {
            let reloading = self.reload.is_some();
            self.enter(now, if reloading { State::Reloading } else { State::Reconnecting });
        }
    }

    /// When the next connection is begun. Pending waits have it begun a second after the last one,
    /// whatever the backoff, but never after a shorter pause than the last one lasted: it may have
    /// failed in the middle of a load.
    pub(super) fn dial_at(&self) -> Option<Instant> {
        let Phase::Waiting { until, since, fixed } = self.phase else { return None };
        let hurried = self.dialed.filter(|_| !fixed && self.demand.is_any());
        let Some(dialed) = hurried else { return Some(until) };
        let took = since.saturating_duration_since(dialed);
        let pause = took.max(DIAL_FOR_WAITS.saturating_sub(took));
        Some(until.min(since + pause))
    }

    pub(super) fn close_watch(&mut self) {
        self.queue.drop_fragments();
        self.abandon_audit();
        self.flush(None);
        // Events that still waited for a read are delivered again.
        self.queue.clear();
        self.act(Action::CloseWatch);
        if self.fresh.reset() {
            // The whole endpoint was silent, which says nothing about its progress requests.
            self.endpoints[self.endpoint].1.no_progress = false;
        }
    }
}
