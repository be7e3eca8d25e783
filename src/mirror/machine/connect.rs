//! Reaching an endpoint, and proving that it serves the history the data is of.
//!
//! Owns the phases from `Connecting` to the decision between loading and watching.

use std::sync::Arc;

use super::{Action, Instant, Machine, Phase, Purpose, Reload, State};
use crate::range::KeyRange;
use crate::source::{RangePage, RangeRequest, ServerVersion, SourceError, SourceErrorKind};

/// So many connections in a row must find the store behind what it was, before that counts as another
/// history: a member that was away for a while may answer from its old state (etcd issue 20418).
const ASKED_WHEN_BEHIND: u32 = 3;

impl Machine {
    pub(super) fn connect(&mut self, now: Instant) {
        self.phase = Phase::Connecting;
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
        if !self.known.loaded {
            return self.begin_load(now, Reload::FIRST);
        }
        self.phase = Phase::Identifying;
        let request = self.revision_request();
        self.act(Action::Range(Purpose::Identify { asked: now }, request));
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
        if self.reload.is_some_and(|reload| !reload.same_history) {
            // Found on an earlier attempt, whose load did not succeed.
            return self.proceed(now);
        }
        // What was told counts like what came: somebody may wait for it.
        if header.revision < self.known.cursor.max(self.told) {
            self.went_back += 1;
            let message = "the store's revision went back";
            if self.went_back < ASKED_WHEN_BEHIND {
                return self.fail(now, SourceError::new(SourceErrorKind::Unavailable, message));
            }
            return self.history_changed(now, message);
        }
        (self.told, self.went_back) = (header.revision, 0);
        self.fresh.as_of = self.fresh.as_of.or(Some((header.revision, asked)));
        self.phase = Phase::Probing;
        match &self.probe {
            Some(probe) => {
                // With gaps only the change itself is certain, not that it was the last of its key.
                let gaps = self.reload.is_some_and(|reload| reload.doubted);
                let request = RangeRequest {
                    revision: if gaps { probe.revision } else { self.known.cursor },
                    limit: 1,
                    ..RangeRequest::new(KeyRange::key(probe.key.as_slice()))
                };
                self.act(Action::Range(Purpose::Probe, request));
            }
            None => self.take_census(now),
        }
    }

    /// A restored backup keeps its cluster id and may be past the cursor, but it cannot show the
    /// newest known change as of the cursor (B16).
    pub(super) fn probed(&mut self, now: Instant, result: Result<RangePage, SourceError>) {
        if self.phase != Phase::Probing {
            return;
        }
        match result {
            Ok(page) => {
                let found = page.kvs.first();
                if self.probe.as_ref().is_some_and(|probe| !probe.matches(found)) {
                    return self.history_changed(now, "the last known change is another one");
                }
                self.take_census(now);
            }
            Err(error) if error.kind() == SourceErrorKind::Compacted => self.compacted(now),
            Err(error) => self.fail(now, error),
        }
    }

    /// The last known change proves the history up to its own revision. Where the cursor went on by
    /// progress, an older backup has that change too and may have others after it: then the keys as
    /// of the cursor are counted, as by the count barrier (B13).
    fn take_census(&mut self, now: Instant) {
        let proven = self.probe.as_ref().map_or(0, |probe| probe.revision);
        let gaps = self.reload.is_some_and(|reload| reload.doubted);
        if gaps || proven >= self.known.cursor {
            return self.proceed(now);
        }
        let request = RangeRequest {
            revision: self.known.cursor,
            min_mod_revision: proven.saturating_add(1),
            keys_only: true,
            limit: 1,
            ..RangeRequest::new(KeyRange::clone(&self.range))
        };
        self.act(Action::Range(Purpose::Census, request));
    }

    pub(super) fn census_taken(&mut self, now: Instant, result: Result<RangePage, SourceError>) {
        if self.phase != Phase::Probing {
            return;
        }
        match result {
            Ok(page) => {
                if !page.kvs.is_empty() || usize::try_from(page.count) != Ok(self.known.keys) {
                    return self.history_changed(now, "there are other keys at the known revision");
                }
                self.proceed(now);
            }
            Err(error) if error.kind() == SourceErrorKind::Compacted => self.compacted(now),
            Err(error) => self.fail(now, error),
        }
    }

    fn proceed(&mut self, now: Instant) {
        match self.reload {
            Some(reload) => self.begin_load(now, reload),
            None => self.open_watch(),
        }
    }

    pub(super) fn open_watch(&mut self) {
        self.phase = Phase::Opening;
        // Inclusive: what was applied is delivered again and dropped, while an exclusive start at
        // a compacted revision can lose a deletion for ever (B8).
        self.act(Action::Watch(self.known.cursor));
    }
}
