//! Stopping at one revision on the way, for a cut through several mirrors.
//!
//! Owns holding back what arrives until the revision is known, showing what is at or below it, and
//! the proof that this is all. Messages are taken in as always; only their showing waits, within the
//! bounds of the queue and of time. Must not choose the revision.

use std::time::Duration;

use super::{Action, Instant, Machine, Phase};
use crate::model::Revision;
use crate::publish::{CutAbort, CutRequest, Demand};

/// Longer than anybody may hold back, whatever was wished.
const HOLD_MAX: Duration = Duration::from_secs(60);

/// The wish that is being met, or was last.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cutting {
    number: u64,
    hold: Option<Hold>,
}

#[derive(Debug, Clone, Copy)]
struct Hold {
    until: Instant,
    /// Whoever asked knows that nothing more is shown.
    told: bool,
    /// Progress that came behind what is held back; it counts once that is shown (C2).
    proved: Revision,
}

impl Machine {
    /// Whether what arrives must not be shown now.
    pub(super) fn holds_back(&self) -> bool {
        self.cutting.hold.is_some()
    }

    pub(super) fn cut_deadline(&self) -> Option<Instant> {
        self.cutting.hold.map(|hold| hold.until)
    }

    /// The revision to stop at, once it is known.
    pub(super) fn cut_at(&self) -> Option<Revision> {
        self.cut_request.filter(|_| self.holds_back()).and_then(|cut_request| cut_request.at)
    }

    /// Whether a count barrier as of `at` may be believed now.
    ///
    /// A count of now proves the state of its own revision and of none before: what was written and
    /// taken back in between is not seen. So while the revision of a cut may lie before it, only a
    /// count as of that revision will do.
    pub(super) fn believes_count(&self, at: Option<Revision>) -> bool {
        if self.holds_back() { at.is_some() && at == self.cut_at() } else { at.is_none() }
    }

    /// A revision to stop at is waited for like any other.
    pub(super) fn with_wish(&self, demand: Demand) -> Demand {
        let lowest = [demand.lowest, self.cut_at()].into_iter().flatten().min();
        Demand { lowest, ..demand }
    }

    /// Keeps progress behind events that are held back; whether it did.
    pub(super) fn keep_progress(&mut self, revision: Revision) -> bool {
        let behind = !self.queue.is_empty();
        match self.cutting.hold.as_mut().filter(|_| behind) {
            Some(hold) => {
                hold.proved = hold.proved.max(revision);
                true
            }
            None => false,
        }
    }

    /// Does what a wish asks for now.
    pub(super) fn check_cut(&mut self, now: Instant) {
        match self.cut_request {
            None => return self.go_on(now),
            Some(cut_request) if cut_request.number != self.cutting.number => {
                self.begin_cut(now, cut_request)
            }
            Some(_) => {}
        }
        let (Some(cut_request), Some(hold)) = (self.cut_request, self.cutting.hold) else { return };
        if self.phase != Phase::Live {
            self.give_up_cut(now, CutAbort::Interrupted);
        } else if hold.until <= now {
            self.give_up_cut(now, CutAbort::TooLong);
        } else if self.applying == 0 && self.fresh.leap.is_none() {
            self.hold_back(now, cut_request, hold);
        }
    }

    fn begin_cut(&mut self, now: Instant, cut_request: CutRequest) {
        self.go_on(now);
        self.cutting.number = cut_request.number;
        if self.phase != Phase::Live {
            return self
                .act(Action::CutGivenUp { number: cut_request.number, why: CutAbort::NotLive });
        }
        // What is here is older than the revision that will be asked for.
        self.flush(Some(now));
        let until = now + cut_request.hold_max.min(HOLD_MAX);
        self.cutting.hold = Some(Hold { until, told: false, proved: 0 });
    }

    /// Nothing is on its way to be shown.
    fn hold_back(&mut self, now: Instant, cut_request: CutRequest, hold: Hold) {
        let number = cut_request.number;
        if !hold.told {
            self.cutting.hold = Some(Hold { told: true, ..hold });
            self.act(Action::CutHeld(number));
        }
        let Some(at) = cut_request.at else {
            if self.queue.is_full() {
                self.give_up_cut(now, CutAbort::Full);
            }
            return;
        };
        let batch = self.queue.take_through(at, now);
        if !batch.is_empty() {
            // The answer to it brings us here again.
            return self.apply(batch);
        }
        // Revisions come in order, so an event beyond it says as much as progress does.
        let proved = self.known.cursor.max(hold.proved) >= at;
        if proved || self.queue.reaches(at.saturating_add(1)) {
            self.publish_confirmed(at);
            self.act(Action::TakeCut { number, at });
            self.go_on(now);
        }
    }

    pub(super) fn give_up_cut(&mut self, now: Instant, why: CutAbort) {
        let name = &self.options.name;
        tracing::debug!(%name, ?why, "a cut was given up");
        self.act(Action::CutGivenUp { number: self.cutting.number, why });
        self.go_on(now);
    }

    /// Holds nothing back any more.
    fn go_on(&mut self, now: Instant) {
        let Some(hold) = self.cutting.hold.take() else { return };
        // Without its watch what was held back is being applied or was thrown away.
        if self.phase == Phase::Live && hold.proved > self.known.cursor {
            self.confirm(now, hold.proved);
        }
    }
}
