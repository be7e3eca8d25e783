//! Holding a reload back until somebody decides.
//!
//! Owns the phase `Held`: what is done meanwhile, and the ways out of it. The read stays complete
//! beside what is shown; nothing is watched, so the state says that the data grows old.

use std::time::Duration;

use super::{
    Action, Instant, Machine, OnHold, Phase, Purpose, Reload, SourceError, State, StopReason,
};
use crate::model::{Header, KeyRange};
use crate::publish::{Held, Verdict};
use crate::source::{RangePage, RangeRequest};

/// The reload that is held.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hold {
    header: Header,
    held: Held,
    accept_at: Option<Instant>,
    /// When the store's keys are counted next; absent while the answer is awaited.
    next_count: Option<Instant>,
}

impl Machine {
    /// A finished read would remove too much.
    pub(super) fn held(&mut self, now: Instant, header: Header, removed: usize, known: usize) {
        if self.phase != Phase::Loading {
            return;
        }
        let keys = self.pager.as_ref().map_or(0, |pager| pager.progress().0);
        let held = Held { revision: header.revision, removed, known, keys };
        let since = *self.held_since.get_or_insert(now);
        let mut hold = Hold { header, held, accept_at: None, next_count: None };
        match self.options.on_hold {
            OnHold::Stop => {
                let revision = header.revision;
                return self.stop(StopReason::RemovesTooMuch { removed, known, revision });
            }
            // Counted from the first of a row of reads that were held.
            OnHold::AcceptAfter(delay) => hold.accept_at = Some(since + delay),
            OnHold::Wait => {}
        }
        hold.next_count = Some(now + self.count_pause());
        let name = &self.options.name;
        tracing::warn!(%name, removed, known, revision = header.revision,
            "a reload would remove too much; it is held until it is accepted or refused");
        self.report.counters.holds += 1;
        self.phase = Phase::Held;
        self.hold = Some(hold);
        self.enter(now, State::Held);
        self.act(Action::Hold(held));
    }

    fn count_pause(&self) -> Duration {
        self.options.check_interval.max(self.options.backoff_max)
    }

    /// Somebody has decided.
    pub(super) fn decided(&mut self, now: Instant, verdict: Verdict) {
        let Some(hold) = self.hold.take_if(|_| self.phase == Phase::Held) else { return };
        tracing::info!(name = %self.options.name, ?verdict, "the held reload was decided");
        match verdict {
            Verdict::Accept => {
                self.phase = Phase::Loading;
                self.was_held = true;
                self.finish_load(hold.header, None);
            }
            Verdict::Refuse => {
                self.held_since = None;
                self.retreat(now, self.options.backoff_max, true);
            }
        }
    }

    /// Does what is due while a reload is held.
    pub(super) fn check_held(&mut self, now: Instant) {
        let Some(hold) = &mut self.hold else { return };
        if hold.accept_at.is_some_and(|at| at <= now) {
            return self.decided(now, Verdict::Accept);
        }
        if hold.next_count.take_if(|due| *due <= now).is_some() {
            // The keys may come back, as when somebody restores them: then nothing has to be decided.
            let range = KeyRange::clone(&self.range);
            let request = RangeRequest { count_only: true, ..RangeRequest::new(range) };
            self.ask(Purpose::HeldCount, request);
        }
    }

    pub(super) fn held_deadline(&self) -> Option<Instant> {
        let hold = self.hold.as_ref()?;
        [hold.accept_at, hold.next_count].into_iter().flatten().min()
    }

    pub(super) fn held_counted(&mut self, now: Instant, result: Result<RangePage, SourceError>) {
        if self.phase != Phase::Held {
            return;
        }
        let count = match result {
            Ok(page) => u64::try_from(page.count).unwrap_or(0),
            Err(error) => return self.fail(now, error),
        };
        let next = now + self.count_pause();
        let Some(hold) = &mut self.hold else { return };
        hold.next_count = Some(next);
        // Keys that came since may be those that were missing.
        let came = count.saturating_sub(hold.held.keys);
        let missing = (hold.held.removed as u64).saturating_sub(came);
        if !removes_too_much(missing, hold.held.known, self.options.hold_above) {
            let name = &self.options.name;
            tracing::info!(%name, count, "the store has more keys again; everything is read anew");
            let reload = self.reload.unwrap_or(Reload::FIRST);
            self.abandon_load();
            self.begin_load(now, reload);
        }
    }
}

/// Whether `removed` of `known` keys are more than the share that may go without a question.
#[allow(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
pub(crate) fn removes_too_much(removed: u64, known: usize, above: Option<f64>) -> bool {
    above.is_some_and(|above| removed > 0 && removed as f64 > above * known as f64)
}
