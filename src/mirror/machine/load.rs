//! Reading everything, beside what is shown.
//!
//! Owns the phase `Loading`: pages or a stream, restarts, and what ends it.

use std::sync::Arc;

use super::{Action, Checks, Instant, LoadReason, Machine, Phase, Purpose, Reload, State};
use crate::mirror::pager::{Pager, Step};
use crate::model::{Header, RawKeyValue, StopReason};
use crate::publish::{Applied, LoadError};
use crate::source::{RangeChunk, RangePage, ServerVersion, SourceError, SourceErrorKind};

/// The first server with range streams.
const RANGE_STREAM_SINCE: ServerVersion = ServerVersion { major: 3, minor: 7, patch: 0 };
/// After this many restarts each further one waits.
const RESTARTS_AT_ONCE: u32 = 4;

impl Machine {
    pub(super) fn begin_load(&mut self, now: Instant, reload: Reload) {
        self.reload = Some(reload);
        self.phase = Phase::Loading;
        if self.known.loaded {
            self.enter(now, State::Reloading);
        }
        // The revision asked for is that of the first load; later loads are of now.
        let at = if self.known.loaded { 0 } else { self.options.load_at };
        let pager = Pager::new(self.range.clone(), at, self.options.page_bytes, self.load_restarts);
        let has_stream = self.version.is_some_and(|version| version >= RANGE_STREAM_SINCE)
            && !self.endpoints[self.endpoint].1.no_range_stream;
        self.streaming = has_stream && at == 0;
        self.pager = Some(pager);
        self.proof = None;
        self.load_asked = (at == 0).then_some(now);
        self.show_load();
        let Reload { same_history, doubted, reason } = reload;
        self.act(Action::BeginLoad { same_history, doubted, reason });
        self.ask_for_more(now);
    }

    fn ask_for_more(&mut self, now: Instant) {
        let Some(pager) = &self.pager else { return };
        if self.streaming {
            self.chunk_deadline = Some(now + self.options.page_timeout);
            if !pager.has_begun() && pager.progress().0 == 0 {
                self.act(Action::RangeStream);
            }
        } else {
            let request = pager.request();
            self.ask(Purpose::Page, request);
        }
    }

    pub(super) fn page(&mut self, now: Instant, result: Result<RangePage, SourceError>) {
        if self.phase != Phase::Loading || self.streaming {
            return;
        }
        let Some(pager) = &mut self.pager else { return };
        match result.and_then(|page| pager.page(page)) {
            Ok(Step::More(kvs)) => {
                // The next page is on its way while this one is decoded.
                self.ask_for_more(now);
                self.take_keys(kvs);
            }
            Ok(Step::Done(kvs, header)) => {
                self.take_keys(kvs);
                self.finish_load(header, self.options.hold_above);
            }
            Err(error) => self.load_failed(now, error),
        }
    }

    pub(super) fn chunk(&mut self, now: Instant, result: Result<Option<RangeChunk>, SourceError>) {
        if self.phase != Phase::Loading || !self.streaming {
            return;
        }
        if result.is_ok() {
            self.report.last_contact = Some(now);
        }
        let Some(pager) = &mut self.pager else { return };
        match result.and_then(|chunk| pager.chunk(chunk)) {
            Ok(Step::More(kvs)) => {
                self.chunk_deadline = Some(now + self.options.page_timeout);
                self.take_keys(kvs);
            }
            Ok(Step::Done(kvs, header)) => {
                self.take_keys(kvs);
                self.finish_load(header, self.options.hold_above);
            }
            Err(error) => self.load_failed(now, error),
        }
    }

    fn take_keys(&mut self, kvs: Vec<RawKeyValue>) {
        self.show_load();
        if !kvs.is_empty() {
            self.act(Action::TakeKeys(kvs));
        }
    }

    pub(super) fn finish_load(&mut self, header: Header, hold_above: Option<f64>) {
        let same_history = self.reload.is_none_or(|reload| reload.same_history);
        self.chunk_deadline = None;
        self.load_header = Some(header);
        self.act(Action::FinishLoad { header, same_history, hold_above });
    }

    pub(super) fn keys_taken(&mut self, now: Instant, result: Result<(), LoadError>) {
        if let (Err(error), Phase::Loading) = (result, self.phase) {
            let kind = SourceErrorKind::Malformed;
            self.load_failed(now, SourceError::new(kind, "a page").with_cause(error));
        }
    }

    pub(super) fn loaded(&mut self, now: Instant, result: Result<Applied, LoadError>) {
        if self.phase != Phase::Loading {
            return;
        }
        self.pager = None;
        let was_held = std::mem::take(&mut self.was_held);
        match result {
            Ok(applied) => {
                self.held_since = None;
                self.report.counters.rejected += applied.rejected as u64;
                let reload = self.reload.take().unwrap_or(Reload::FIRST);
                self.count_load(reload.reason);
                if !reload.same_history {
                    // Revisions of the old history say nothing about the new one.
                    self.fresh = Checks::default();
                }
                if let Some(header) = self.load_header.take().filter(|_| !was_held) {
                    self.clear_suspicion(&header);
                }
                self.report.current_as_of = self.report.current_as_of.max(self.load_asked);
                self.gapless = applied.confirmed;
                self.unproven = true;
                // A read that was held may be hours old.
                self.just_loaded = !was_held;
                self.queue.clear();
                tracing::info!(
                    name = %self.options.name, revision = applied.revision, keys = self.known.keys,
                    "loaded"
                );
                self.cursor_moved();
                if was_held {
                    // Nothing was watched meanwhile, and the client may have connected again by itself.
                    self.enter(now, State::Reconnecting);
                    return self.identify(now);
                }
                self.open_watch();
            }
            Err(LoadError::ClusterMismatch { expected, got }) => {
                let error = Arc::new(LoadError::ClusterMismatch { expected, got });
                self.other_cluster(now, expected, got, error);
            }
            // A stream, whose header comes last; of pages the first one shows it.
            Err(LoadError::Behind { .. }) => self.went_back(now),
            Err(error) => {
                let kind = SourceErrorKind::Malformed;
                self.fail(now, SourceError::new(kind, "a load").with_cause(error));
            }
        }
    }

    fn count_load(&mut self, reason: LoadReason) {
        let counters = &mut self.report.counters;
        counters.loads += 1;
        match reason {
            LoadReason::Initial => {}
            LoadReason::Compacted => counters.loads_compacted += 1,
            LoadReason::Gap => counters.loads_gap += 1,
            LoadReason::Oversized => counters.loads_oversized += 1,
            LoadReason::History => counters.loads_history += 1,
            LoadReason::Stored => counters.loads_stored += 1,
        }
    }

    pub(super) fn load_failed(&mut self, now: Instant, error: SourceError) {
        match error.kind() {
            SourceErrorKind::Compacted if self.options.load_at > 0 && !self.known.loaded => {
                let revision = self.options.load_at;
                self.stop(StopReason::Compacted { revision, cause: Arc::new(error) });
            }
            SourceErrorKind::Compacted => self.restart_load(now, error),
            SourceErrorKind::Unimplemented if self.streaming => {
                self.endpoints[self.endpoint].1.no_range_stream = true;
                self.load_in_pages(now);
            }
            SourceErrorKind::TooLarge if self.streaming => self.load_in_pages(now),
            SourceErrorKind::TooLarge if self.pager.as_mut().is_some_and(Pager::shrink) => {
                self.ask_for_more(now);
            }
            _ => self.fail(now, error),
        }
    }

    /// The revision of the load was compacted between two pages: begin anew at a newer one.
    fn restart_load(&mut self, now: Instant, error: SourceError) {
        self.load_restarts += 1;
        self.report.counters.load_restarts += 1;
        if self.load_restarts > RESTARTS_AT_ONCE {
            return self.fail(now, error);
        }
        let name = &self.options.name;
        tracing::info!(%name, restarts = self.load_restarts, "the load's revision was compacted");
        let reload = self.reload.unwrap_or(Reload::FIRST);
        self.abandon_load();
        self.begin_load(now, reload);
    }

    fn load_in_pages(&mut self, now: Instant) {
        let reload = self.reload.unwrap_or(Reload::FIRST);
        self.abandon_load();
        self.endpoints[self.endpoint].1.no_range_stream = true;
        self.begin_load(now, reload);
    }

    /// Forgets a load under way; what is shown stays (T-26).
    pub(super) fn abandon_load(&mut self) {
        self.chunk_deadline = None;
        self.streaming = false;
        self.hold = None;
        if self.pager.take().is_some() {
            self.report.load = None;
            self.act(Action::AbandonLoad);
        }
    }
}
