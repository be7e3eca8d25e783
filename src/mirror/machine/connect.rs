//! Reaching an endpoint, and finding out which cluster it serves and how far its store is.
//!
//! Owns the phases from `Connecting` to the decision between loading and proving.

use std::sync::Arc;

use super::{Action, Instant, Machine, Phase, Purpose, Reload, State};
use crate::model::KeyRange;
use crate::source::{RangePage, RangeRequest, ServerVersion, SourceError, SourceErrorKind};

impl Machine {
    pub(super) fn connect(&mut self, now: Instant) {
        self.phase = Phase::Connecting;
        self.dialed = Some(now);
        self.version = None;
        // A client that is shared keeps its dead token, and the last refresh may have failed.
        self.token_refreshed = false;
        self.report.endpoint = Some(Arc::clone(&self.endpoints[self.endpoint].0));
        if !self.known.loaded {
            self.enter(now, State::Loading);
        }
        self.act(Action::Connect(self.endpoint));
    }

    pub(super) fn connected(&mut self, now: Instant, result: Result<(), SourceError>) {
        if self.phase != Phase::Connecting {
            return;
        }
        match result {
            Ok(()) => {
                self.report.counters.connects += 1;
                self.phase = Phase::Versioning;
                self.act(Action::Version);
            }
            Err(error) => self.fail(now, error),
        }
    }

    pub(super) fn versioned(&mut self, now: Instant, result: Result<ServerVersion, SourceError>) {
        if self.phase != Phase::Versioning {
            return;
        }
        match result {
            Ok(version) => self.version = Some(version),
            Err(error) => match error.kind() {
                // A server may keep its version to itself; then its progress is not believed.
                SourceErrorKind::Denied
                | SourceErrorKind::Unauthenticated
                | SourceErrorKind::Unimplemented
                | SourceErrorKind::InvalidRequest
                | SourceErrorKind::Malformed => {}
                _ => return self.fail(now, error),
            },
        }
        self.report.progress_by = self.progress_by();
        self.identify(now);
    }

    pub(super) fn token_refreshed(&mut self, now: Instant, result: Result<(), SourceError>) {
        if self.phase != Phase::RefreshingToken {
            return;
        }
        match result {
            Ok(()) => self.identify(now),
            Err(error) => self.fail(now, error),
        }
    }

    /// Asks who answers and how far its store is; without data there is nothing to compare.
    pub(super) fn identify(&mut self, now: Instant) {
        self.just_loaded = false;
        if !self.known.loaded {
            return self.begin_load(now, Reload::FIRST);
        }
        self.phase = Phase::Identifying;
        let request = self.revision_request();
        self.ask(Purpose::Identify { asked: now }, request);
    }

    /// The cheapest linearizable read of the range: the store's revision comes with any answer.
    ///
    /// A key of the range itself, since a user's rights may end at the range.
    pub(super) fn revision_request(&self) -> RangeRequest {
        let key = KeyRange::key(self.range.start());
        RangeRequest { count_only: true, limit: 1, ..RangeRequest::new(key) }
    }

    pub(super) fn identified(
        &mut self,
        now: Instant,
        asked: Instant,
        result: Result<RangePage, SourceError>,
    ) {
        if self.phase != Phase::Identifying {
            return;
        }
        let header = match result.map(|page| page.header) {
            Ok(Some(header)) if header.revision > 0 => header,
            Ok(_) => {
                let error =
                    SourceError::new(SourceErrorKind::Malformed, "an answer without header");
                return self.fail(now, error);
            }
            Err(error) => return self.fail(now, error),
        };
        if let Some(expected) = self.known.cluster_id.filter(|id| *id != header.cluster_id) {
            let error = SourceError::new(SourceErrorKind::Malformed, "another cluster");
            return self.other_cluster(now, expected, header.cluster_id, Arc::new(error));
        }
        match self.reload {
            // It was another history at an earlier attempt, and cannot be the known one yet.
            Some(reload) if !reload.same_history && header.revision < self.known.cursor => {
                self.begin_load(now, reload);
            }
            None if !self.is_suspected() => {
                self.note_read(header.revision, asked);
                self.open_watch();
            }
            _ => self.prove(Some(header)),
        }
    }

    pub(super) fn open_watch(&mut self) {
        self.phase = Phase::Opening;
        // Inclusive: what was applied is delivered again and dropped, while an exclusive start at
        // a compacted revision can lose a deletion for ever (B8).
        self.act(Action::Watch(self.known.cursor));
    }
}
