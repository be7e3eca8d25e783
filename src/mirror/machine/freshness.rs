//! Knowing that the watch is alive, how far it reaches, and how old the data is.
//!
//! Owns what is asked of a live watch and of the store beside it: progress, the count barrier, the
//! store's revision, gaps; and the watchdog. Must not read the watch's messages.

use std::time::Duration;

use super::{Action, Instant, Machine, Phase, Purpose, Reload, SourceError, timeout};
use crate::model::{KeyRange, Revision};
use crate::publish::{CutAbort, ProgressBy};
use crate::source::{RangePage, RangeRequest, ServerVersion, SourceErrorKind};

/// Silence is called death after this many check intervals without an answer.
const CHECKS_UNTIL_DEAD: u32 = 2;

/// How far the watch may be ahead of every revision known otherwise. No store makes so many between two
/// reads; after a long pause it can, and then one read clears it.
const LEAP_MAX: Revision = 1 << 20;

/// What is asked about how current the data is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Checks {
    /// The watcher's id, from its `created` answer.
    pub(super) watch_id: Option<i64>,
    /// Since when an answer of the watch is awaited.
    pub(super) awaiting: Option<Instant>,
    /// When progress, or a count, was last asked for.
    pub(super) last_asked: Option<Instant>,
    /// When progress is asked for next in silence.
    pub(super) next_check: Option<Instant>,
    /// When the store's revision is asked for next, events or not: the data's age hangs on it.
    pub(super) next_read: Option<Instant>,
    /// The ticket that the revision read under way covers.
    pub(super) reading: Option<u64>,
    pub(super) counting: bool,
    /// The greatest raft term that was known when the watch became live.
    pub(super) term: u64,
    /// The lowest revision waited for when progress was last asked for.
    pub(super) asked_for: Option<Revision>,
    /// Since when counts have found another state in the store than here.
    pub(super) behind_since: Option<Instant>,
    /// The watch has answered a progress request.
    pub(super) answered: bool,
    /// The watch has answered, or told of its progress unasked.
    pub(super) proven: bool,
    /// Progress requests are taken to be swallowed, but no count has shown that the rest works.
    suspecting: bool,
    /// Linearizable revisions and when they were asked for, until the cursor reaches them: the oldest,
    /// and the newest after it.
    as_of: [Option<(Revision, Instant)>; 2],
    /// Progress to be published once what was queued before it is applied (C2).
    pub(super) pending_confirm: Option<Revision>,
    /// The watch brought this revision, far beyond what is known of the store: until a read shows that
    /// the store is there, nothing is applied or confirmed.
    pub(super) leap: Option<Revision>,
}

impl Checks {
    /// Forgets what was asked on a watch that is gone; the store's revision stays true.
    /// Gives whether it was only suspected that progress requests are swallowed.
    pub(super) fn reset(&mut self) -> bool {
        let suspecting = self.suspecting;
        *self = Checks { as_of: self.as_of, ..Checks::default() };
        suspecting
    }
}

impl Machine {
    /// Keeps a linearizable revision until the cursor reaches it.
    pub(super) fn note_read(&mut self, revision: Revision, asked: Instant) {
        let slot = usize::from(self.fresh.as_of[0].is_some());
        self.fresh.as_of[slot] = Some((revision, asked));
    }

    /// The data is as of the newest revision read that the cursor has reached.
    pub(super) fn settle_as_of(&mut self) {
        let cursor = self.known.cursor;
        for slot in &mut self.fresh.as_of {
            if let Some((_, asked)) = slot.take_if(|(revision, _)| *revision <= cursor) {
                self.report.current_as_of = self.report.current_as_of.max(Some(asked));
            }
        }
        if self.fresh.as_of[0].is_none() {
            self.fresh.as_of.swap(0, 1);
        }
    }

    /// Whether something that the watch brings at `revision`, or brought before, has to wait for a read.
    pub(super) fn awaits_read(&mut self, now: Instant, revision: Revision) -> bool {
        if self.is_leap(revision) {
            self.fresh.leap = self.fresh.leap.max(Some(revision));
            self.fresh.next_read = Some(now);
        }
        self.fresh.leap.is_some()
    }

    fn is_leap(&self, revision: Revision) -> bool {
        revision > self.greatest_shown().max(self.known.cursor).saturating_add(LEAP_MAX)
    }

    /// Whether `revision` takes progress to be reached: queued events reach it by themselves.
    fn needs_progress(&self, revision: Revision) -> bool {
        revision > self.known.cursor && !self.queue.reaches(revision)
    }

    /// Asks what has to be asked: for those who wait, and in silence for the data's age.
    pub(super) fn check_freshness(&mut self, now: Instant) {
        let demanded = self.demand.lowest.filter(|revision| *revision > self.known.cursor);
        let queued = demanded.is_some_and(|revision| self.queue.reaches(revision));
        if queued && !self.holds_back() && self.fresh.leap.is_none() {
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
            self.fresh.next_read = Some(now + self.jitter.shorten(self.options.check_interval));
            if self.fresh.reading.is_none() {
                self.read_revision(now, 0);
            }
            self.ask_for_gaps();
        }
        if self.age_due().is_some_and(|due| due <= now) {
            self.ask_progress(now);
        }
        if self.fresh.next_check.is_some_and(|due| due <= now) {
            self.fresh.next_check = Some(now + self.pause_between_checks());
            self.ask_progress(now);
        }
        if self.dead_at().is_some_and(|dead| dead <= now) {
            self.silent(now);
        }
    }

    /// A new watch drops requests until it has caught up, and what it brings first may be known
    /// already, which proves nothing: so it is asked until it answers.
    /// Mirrors of many processes see the same event at the same time, so that chance keeps them from
    /// asking at the same time after it.
    pub(super) fn pause_between_checks(&mut self) -> Duration {
        let counts = self.progress_by() == ProgressBy::Count;
        let quiet = self.fresh.proven || counts;
        if quiet {
            self.jitter.shorten(self.options.check_interval)
        } else {
            self.options.demand_interval
        }
    }

    /// When progress may be asked for again on behalf of those who wait: at once for a new demand,
    /// else at intervals, since a server drops requests while it has events to send.
    fn ask_due(&self) -> Option<Instant> {
        let repeated = self.fresh.asked_for == self.demand.lowest;
        self.fresh.last_asked.filter(|_| repeated).map(|asked| asked + self.options.demand_interval)
    }

    /// When progress is asked for again on behalf of the data's age: if an answer was not enough, as
    /// after events, before which a server drops requests. A watch that does not answer is not pressed.
    fn age_due(&self) -> Option<Instant> {
        let fresh = &self.fresh;
        let needed = fresh.as_of[0].is_some_and(|(revision, _)| self.needs_progress(revision));
        let coming = fresh.pending_confirm.is_some() || self.holds_back();
        let asking = fresh.awaiting.is_some() || fresh.counting || fresh.behind_since.is_some();
        let again = needed && !coming && !asking;
        fresh.last_asked.filter(|_| again).map(|asked| asked + self.options.demand_interval)
    }

    fn dead_at(&self) -> Option<Instant> {
        let limit = self.options.check_interval * CHECKS_UNTIL_DEAD;
        self.fresh.awaiting.map(|since| since + limit)
    }

    pub(super) fn freshness_deadline(&self) -> Option<Instant> {
        let demanded = self.demand.lowest.is_some_and(|revision| revision > self.known.cursor);
        let ask = if demanded { self.ask_due() } else { None };
        let dues = [self.fresh.next_check, self.fresh.next_read, self.audit_deadline()];
        dues.into_iter().chain([ask, self.age_due(), self.dead_at()]).flatten().min()
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
        self.ask(Purpose::Revision { asked: now, ticket }, request);
    }

    pub(super) fn revision_read(
        &mut self,
        now: Instant,
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
        if self.fresh.leap.is_some_and(|leap| self.is_leap(leap)) {
            let kind = SourceErrorKind::Malformed;
            let message = "the watch is far beyond the store's revision";
            return self.fail(now, SourceError::new(kind, message));
        }
        // Progress that came meanwhile was not believed, so it is needed again.
        let doubted = self.fresh.leap.take().is_some();
        self.note_read(header.revision, asked);
        self.settle_as_of();
        if ticket > 0 {
            self.demand.sync = self.demand.sync.filter(|wanted| *wanted > ticket);
            self.act(Action::Synced { ticket, revision: header.revision });
        }
        if doubted || self.needs_progress(header.revision) {
            // Writes elsewhere move the store on; only progress shows that none of them is missing here.
            self.ask_progress(now);
        }
    }

    /// Servers whose progress is not believed also skip what is compacted before they have sent it
    /// (F40), and the events behind such a gap move the cursor past it. They have skipped nothing
    /// as long as the revision up to which that is proven can still be read: a compaction that
    /// made them skip is beyond it.
    fn ask_for_gaps(&mut self) {
        if self.version.is_some_and(ServerVersion::progress_is_trusted) {
            return;
        }
        let (since, cursor) = (self.gapless, self.known.cursor);
        let request = RangeRequest { revision: since, ..self.revision_request() };
        self.ask(Purpose::GapCheck { since, cursor }, request);
    }

    pub(super) fn gapless_read(
        &mut self,
        now: Instant,
        since: Revision,
        cursor: Revision,
        result: Result<RangePage, SourceError>,
    ) {
        if self.phase != Phase::Live || self.gapless != since {
            return;
        }
        match result {
            Ok(_) => self.gapless = cursor,
            Err(error) if error.kind() == SourceErrorKind::Compacted => {
                self.report.counters.compactions += 1;
                tracing::info!(name = %self.options.name, since, "this server may have skipped what was compacted");
                self.schedule_reload(now, Reload::LOST_EVENTS);
            }
            Err(error) => self.fail(now, error),
        }
    }

    /// The count barrier (B13): if no live key is newer than the cursor, the store's keys are a
    /// subset of the known ones unchanged; if there are as many, they are the same.
    fn count(&mut self, now: Instant) {
        self.fresh.counting = true;
        let cursor = self.known.cursor;
        let at = self.cut_at();
        let request = RangeRequest {
            revision: at.unwrap_or(0),
            min_mod_revision: cursor.saturating_add(1),
            keys_only: true,
            limit: 1,
            ..RangeRequest::new(KeyRange::clone(&self.range))
        };
        self.ask(Purpose::CountBarrier { cursor, asked: now, at }, request);
    }

    pub(super) fn barrier(
        &mut self,
        now: Instant,
        cursor: Revision,
        asked: Instant,
        at: Option<Revision>,
        result: Result<RangePage, SourceError>,
    ) {
        if self.phase != Phase::Live || !self.fresh.counting {
            return;
        }
        self.fresh.counting = false;
        if !self.believes_count(at) {
            return;
        }
        let page = match result {
            Ok(page) => page,
            Err(error) if at.is_some() && error.kind() == SourceErrorKind::Compacted => {
                return self.give_up_cut(now, CutAbort::Interrupted);
            }
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
        if header.raft_term > self.fresh.term {
            // An election, or another store that answers before the end of the watch is seen. A new
            // watch comes with a comparison of content, which tells them apart.
            let kind = SourceErrorKind::Unavailable;
            let message = "the raft term rose since the watch began";
            return self.fail(now, SourceError::new(kind, message));
        }
        if page.kvs.is_empty() && usize::try_from(page.count) == Ok(self.known.keys) {
            self.counted_the_same(now, cursor, at.unwrap_or(header.revision));
        } else {
            self.counted_others(now, asked, page.kvs.is_empty());
        }
    }

    /// The store has the known keys unchanged at `revision`.
    fn counted_the_same(&mut self, now: Instant, cursor: Revision, revision: Revision) {
        self.fresh.behind_since = None;
        self.fresh.awaiting = None;
        self.fresh.suspecting = false;
        self.fresh.next_check = Some(now + self.pause_between_checks());
        self.mark_healthy();
        if self.gapless == cursor {
            // Nothing was skipped before, and what is skipped since the count would have shown.
            self.gapless = revision;
        }
        self.confirm(now, revision);
    }

    /// The store has more than is known here. Its events may be on their way; if none comes, the watch is
    /// dead or has lost history (F35, F47).
    fn counted_others(&mut self, now: Instant, asked: Instant, nothing_newer: bool) {
        if !self.behind_for_too_long(now, asked) {
            return;
        }
        if nothing_newer {
            // Nothing to deliver, yet the keys are not as many: history was lost before.
            self.report.counters.discontinuities += 1;
            let name = &self.options.name;
            tracing::warn!(%name, "the store counts other keys; everything is read again");
            self.schedule_reload(now, Reload::LOST_EVENTS);
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
        let name = &self.options.name;
        tracing::warn!(%name, "progress requests are not answered; completeness is found by counting");
        self.endpoints[self.endpoint].1.no_progress = true;
        self.fresh.suspecting = true;
        self.report.progress_by = ProgressBy::Count;
        self.fresh.awaiting = None;
        self.count(now);
    }
}
