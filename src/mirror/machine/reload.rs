//! Why everything is read again, and when.
//!
//! Owns the reasons for a reload: compaction, lost history, another history or cluster, a response
//! that cannot be had. Must not read: that is the business of `load`.

use std::error::Error as StdError;
use std::sync::Arc;

use super::{
    Action, Instant, Machine, OnHistoryChange, Phase, Reload, SourceError, State, StopReason,
};
use crate::model::Header;

impl Machine {
    /// Has everything read again: at once, or after a delay when the last load proved nothing.
    pub(super) fn schedule_reload(&mut self, now: Instant, reload: Reload) {
        self.reload = Some(reload);
        if !self.is_connected() {
            return;
        }
        self.close_watch();
        if self.unproven {
            let delay = self.backoff.next();
            tracing::debug!(name = %self.options.name, ?delay, "a reload right after a load waits");
            return self.retreat(now, delay, true);
        }
        self.enter(now, State::Reloading);
        self.identify(now);
    }

    /// The endpoints serve another cluster than the data is of.
    pub(super) fn other_cluster(
        &mut self,
        now: Instant,
        expected: u64,
        got: u64,
        cause: Arc<dyn StdError + Send + Sync>,
    ) {
        match self.options.on_other_cluster {
            OnHistoryChange::Stop => self.stop(StopReason::AnotherCluster { expected, got }),
            OnHistoryChange::Reload => {
                self.report.last_error = Some(cause);
                self.reload_new_history(now, "another cluster answers");
            }
        }
    }

    /// The store's history is not the one the data is of (a restored backup, a lost write).
    pub(super) fn history_changed(&mut self, now: Instant, what: &'static str) {
        match self.options.on_history_change {
            OnHistoryChange::Stop => self.stop(StopReason::HistoryChanged { what }),
            OnHistoryChange::Reload => self.reload_new_history(now, what),
        }
    }

    /// Has everything loaded under a new epoch.
    fn reload_new_history(&mut self, now: Instant, what: &'static str) {
        self.count_history_change(what);
        self.reload = Some(Reload::NEW_HISTORY);
        self.queue.clear();
        self.forget_evidence();
        if self.is_connected() {
            self.abandon_load();
            self.close_watch();
            self.begin_load(now, Reload::NEW_HISTORY);
        }
    }

    /// A complete read has other content where the known content must still be.
    pub(super) fn contradicted(&mut self, header: Header) {
        if self.phase != Phase::Loading {
            return;
        }
        let what = super::proof::OTHER_VALUE;
        if self.options.on_history_change == OnHistoryChange::Stop {
            return self.stop(StopReason::HistoryChanged { what });
        }
        self.count_history_change(what);
        self.reload = Some(Reload::NEW_HISTORY);
        self.forget_evidence();
        // It was read whole, and is compared with the known content in any case.
        self.finish_load(header, self.options.hold_above);
    }

    /// Found again on a later attempt it counts once.
    fn count_history_change(&mut self, what: &'static str) {
        if self.reload.is_none_or(|reload| reload.same_history) {
            self.report.counters.history_changes += 1;
            let name = &self.options.name;
            tracing::warn!(%name, what, "the store's history changed; everything is loaded under a new epoch");
        }
    }

    /// History up to the cursor is gone, so what was missed can only be had by reading everything.
    pub(super) fn compacted(&mut self, now: Instant) {
        // Told by the watch and again by the probe, it is one compaction.
        self.report.counters.compactions += u64::from(self.reload.is_none());
        if self.phase == Phase::Proving && !self.proves_watch() {
            self.act(Action::EndProof);
            self.enter(now, State::Reloading);
            // What was doubted stays so, should this load fail.
            return self.begin_load(now, self.reload.unwrap_or(Reload::COMPACTED));
        }
        let name = &self.options.name;
        tracing::info!(%name, revision = self.known.cursor, "the watch's revision is compacted");
        self.schedule_reload(now, Reload::COMPACTED);
    }

    /// A response of the watch is larger than the client accepts. The next watch asks for fragments;
    /// when that does not help either, the state is read instead of the change (B4, T-13).
    pub(super) fn too_large(&mut self, now: Instant, error: SourceError) {
        let cursor = self.known.cursor;
        if self.too_large_at.replace(cursor) != Some(cursor) {
            return self.fail(now, error);
        }
        self.reload_oversized(now, Arc::new(error));
    }

    /// Reads everything, since a response of the watch cannot be had or held (C9).
    ///
    /// A watch begins with the cursor's own revision, so the response comes again until the store has a newer
    /// one; the delays grow meanwhile.
    pub(super) fn reload_oversized(
        &mut self,
        now: Instant,
        cause: Arc<dyn StdError + Send + Sync>,
    ) {
        self.report.counters.oversized += 1;
        let name = &self.options.name;
        tracing::warn!(%name, error = %cause, "a response is too large; everything is read instead");
        self.report.last_error = Some(cause);
        self.too_large_at = None;
        self.oversized_at = Some(self.known.cursor);
        self.queue.drop_fragments();
        self.schedule_reload(now, Reload::OVERSIZED);
    }
}
