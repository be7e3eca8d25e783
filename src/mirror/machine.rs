//! The mirror's decisions: answers, errors, time and demands in; actions out.
//!
//! Owns what the loop knows and the phase it is in. No I/O, no clock of its own, no task, no lock,
//! nothing generic in the value type: so one logic runs by hand, under simulation and for real.
//! The phases are in `connect` (reach an endpoint), `proof` (compare its content with the data), `load`
//! (read everything), `held` (wait for a decision) and `watch` (follow it; `freshness` says what is
//! asked of it meanwhile), with `audit` and `cut` beside it. `evidence` examines every linearizable
//! answer; `retreat` and `reload` are the ways back. Must not execute anything.

mod audit;
mod connect;
mod cut;
mod evidence;
mod freshness;
mod held;
mod io;
mod load;
mod phase;
mod proof;
mod reload;
mod retreat;
mod watch;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::mirror::backoff::Backoff;
use crate::mirror::jitter::Jitter;
use crate::mirror::options::{OnBadStore, OnHistoryChange, OnHold, Options};
use crate::mirror::pager::Pager;
use crate::mirror::queue::{Due, Queue};
use crate::mirror::restore::Cause;
use crate::model::{Header, KeyRange, Revision, StopReason, WatchResponse};
use crate::publish::{Applied, CutRequest, Demand, LoadProgress, ProgressBy, Report, State};
use crate::source::{RangePage, ServerVersion, SourceError, SourceErrorKind};
use crate::view::ApplyError;

pub(crate) use self::audit::AuditKeys;
use self::evidence::Evidence;
use self::freshness::Checks;
pub(crate) use self::held::removes_too_much;
pub(crate) use self::io::{Action, Asked, Input, Known, LoadReason, Purpose};
use self::phase::{EndpointMemory, Phase, Reload};
pub(crate) use self::proof::Basis;
use self::proof::Proof;

/// The decisions of one mirror.
#[derive(Debug)]
pub(crate) struct Machine {
    options: Options,
    range: KeyRange,
    endpoints: Vec<(Arc<str>, EndpointMemory)>,
    endpoint: usize,
    phase: Phase,
    pub(crate) known: Known,
    evidence: Evidence,
    proof: Option<Proof>,
    /// The header of the load that was asked to be shown.
    load_header: Option<Header>,
    version: Option<ServerVersion>,
    /// A token was fetched on this connection since the last proof of health.
    token_refreshed: bool,
    backoff: Backoff,
    jitter: Jitter,
    queue: Queue,
    /// Batches asked to be applied that were not answered yet.
    applying: usize,
    reload: Option<Reload>,
    /// Through this revision nothing was skipped; kept for servers that skip without a word (F40).
    gapless: Revision,
    /// No event and no progress since the last load, so a reload now would be a loop.
    unproven: bool,
    /// Everything was read on this connection, just before the watch that is opened.
    just_loaded: bool,
    pager: Option<Pager>,
    streaming: bool,
    load_restarts: u32,
    hold: Option<held::Hold>,
    /// Since when reloads have been held, one after the other.
    held_since: Option<Instant>,
    /// The load that is to be shown was held: nobody knows what the store is now.
    was_held: bool,
    audit: audit::Audit,
    /// What somebody wants for a cut, told before every input.
    pub(crate) cut_request: Option<CutRequest>,
    cutting: cut::Cutting,
    /// The cursor of a watch whose response was too large.
    too_large_at: Option<Revision>,
    /// The cursor at which a response was last too large. While it stays there the response comes again.
    oversized_at: Option<Revision>,
    /// When the mirror is given up unless it has loaded and begun to watch; absent from then on.
    load_deadline: Option<Instant>,
    /// When the present or last connection was begun.
    dialed: Option<Instant>,
    load_asked: Option<Instant>,
    /// When the answer that the load waits for must have come.
    chunk_deadline: Option<Instant>,
    fresh: Checks,
    demand: Demand,
    pub(crate) report: Report,
    actions: VecDeque<Action>,
}

impl Machine {
    pub(crate) fn new(
        options: Options,
        range: KeyRange,
        endpoints: Vec<String>,
        first_endpoint: usize,
        seed: u64,
        report: Report,
    ) -> Self {
        let backoff = Backoff::new(options.backoff_min, options.backoff_max, seed);
        let queue = Queue::new(options.apply_delay, options.queue);
        let endpoints: Vec<_> = endpoints
            .into_iter()
            .map(|name| (Arc::from(name), EndpointMemory::default()))
            .collect();
        Machine {
            endpoint: first_endpoint % endpoints.len().max(1),
            options,
            range,
            endpoints,
            phase: Phase::Connecting,
            known: Known::default(),
            evidence: Evidence::default(),
            proof: None,
            load_header: None,
            version: None,
            token_refreshed: false,
            backoff,
            jitter: Jitter::new(seed),
            queue,
            applying: 0,
            reload: None,
            gapless: 0,
            unproven: false,
            just_loaded: false,
            pager: None,
            streaming: false,
            load_restarts: 0,
            hold: None,
            held_since: None,
            was_held: false,
            audit: audit::Audit::default(),
            cut_request: None,
            cutting: cut::Cutting::default(),
            too_large_at: None,
            oversized_at: None,
            load_deadline: None,
            dialed: None,
            load_asked: None,
            chunk_deadline: None,
            fresh: Checks::default(),
            demand: Demand::default(),
            report,
            actions: VecDeque::new(),
        }
    }

    /// The next thing to do, if there is one.
    pub(crate) fn action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Takes in what happened at `now`, and what is waited for. Time passes with every input, so a busy watch cannot starve
    /// what is due.
    pub(crate) fn handle(&mut self, now: Instant, demand: Demand, input: Input) {
        if self.phase == Phase::Stopped {
            return;
        }
        self.demand = self.with_wish(demand);
        match input {
            Input::Start => {
                // Stored data is served already, so nothing is given up for want of etcd.
                let limit = self.options.load_timeout.filter(|_| !self.known.loaded);
                self.load_deadline = limit.map(|limit| now + limit);
                self.connect(now);
            }
            Input::Restoring(stored_at) => self.restoring(now, stored_at),
            Input::Restored => self.restored(),
            Input::NotRestored(cause) => self.not_restored(cause),
            Input::ReloadRequested => self.reload_requested(now),
            Input::Connected(result) => self.connected(now, result),
            Input::Version(result) => self.versioned(now, result),
            Input::TokenRefreshed(result) => self.token_refreshed(now, result),
            Input::Range(asked, result) => self.ranged(now, asked, result),
            Input::Chunk(result) => self.chunk(now, result),
            Input::WatchOpened(result) => self.watch_opened(now, result),
            Input::Message(result) => self.message(now, result),
            Input::KeysTaken(result) => self.keys_taken(now, result),
            Input::Loaded(result) => self.loaded(now, result),
            Input::Contradicted(header) => self.contradicted(header),
            Input::ProofBegun(basis) => self.proof_begun(now, basis),
            Input::Held { header, removed, known } => self.held(now, header, removed, known),
            Input::Decided(verdict) => self.decided(now, verdict),
            Input::AuditBegun(revision) => self.audit_begun(revision),
            Input::Audited { result, last } => self.audited(now, result, last),
            Input::Applied(result) => self.applied(now, result),
            Input::RequestPanicked(message) => {
                self.fail(now, SourceError::new(SourceErrorKind::Malformed, message));
            }
            Input::Shutdown => {
                self.flush(None);
                self.stop(StopReason::Shutdown);
            }
            Input::Tick => {}
        }
        self.tick(now);
    }

    fn restoring(&mut self, now: Instant, stored_at: SystemTime) {
        self.enter(now, State::Restored);
        self.report.stored_at = Some(stored_at);
    }

    /// What a former mirror stored is shown; etcd will be asked whether it is of its history.
    fn restored(&mut self) {
        self.gapless = self.known.cursor;
        self.cursor_moved();
    }

    fn not_restored(&mut self, cause: Cause) {
        if self.options.on_bad_store == OnBadStore::Stop {
            return self.stop(StopReason::NotRestored { cause });
        }
        let name = &self.options.name;
        tracing::warn!(%name, error = %cause, "what is stored cannot be used; everything is read");
        self.report.last_error = Some(cause);
    }

    /// Whoever stores what is taken in has lost its place.
    fn reload_requested(&mut self, now: Instant) {
        match self.phase {
            Phase::Live | Phase::Opening | Phase::Creating { .. } => {
                self.schedule_reload(now, Reload::STORED);
            }
            // A load that is under way, or not begun yet, serves as well.
            _ if self.known.loaded && self.reload.is_none() => self.reload = Some(Reload::STORED),
            _ => {}
        }
    }

    fn ranged(&mut self, now: Instant, asked: Asked, result: Result<RangePage, SourceError>) {
        if let Ok(page) = &result {
            self.report.last_contact = Some(now);
            if !self.examine(now, asked, page.header) {
                return;
            }
        }
        match asked.purpose {
            Purpose::Identify { asked } => self.identified(now, asked, result),
            Purpose::Compared => self.compared_page(now, result),
            Purpose::Newest { index } => self.newest_read(now, index, result),
            Purpose::CountAtCursor => self.census_taken(now, result),
            Purpose::Page => self.page(now, result),
            Purpose::HeldCount => self.held_counted(now, result),
            Purpose::Audit { number } => self.audit_page(now, number, result),
            Purpose::Revision { asked, ticket } => self.revision_read(now, asked, ticket, result),
            Purpose::GapCheck { since, cursor } => self.gapless_read(now, since, cursor, result),
            Purpose::CountBarrier { cursor, asked, at } => {
                self.barrier(now, cursor, asked, at, result)
            }
        }
    }

    /// Does what is due at `now`.
    fn tick(&mut self, now: Instant) {
        if self.load_deadline.is_some_and(|deadline| deadline <= now) {
            let cause = self.report.last_error.clone();
            return self.stop(StopReason::LoadTimeout { cause });
        }
        self.check_cut(now);
        if self.queue.due().is_some_and(|due| due.is_past(now)) && !self.holds_back() {
            self.flush(Some(now));
        }
        match self.phase {
            Phase::Waiting { .. } if self.dial_at().is_some_and(|at| at <= now) => {
                self.connect(now)
            }
            Phase::Proving => self.check_proof(now),
            Phase::Creating { until } if until <= now => {
                self.fail(now, timeout("the watch was not created in time"));
            }
            Phase::Loading if self.chunk_deadline.is_some_and(|deadline| deadline <= now) => {
                self.load_failed(now, timeout("the range stream stalled"));
            }
            Phase::Live => {
                self.check_freshness(now);
                self.check_audit(now);
            }
            Phase::Held => self.check_held(now),
            _ => {}
        }
    }

    /// When something is due next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let proving = self.phase == Phase::Proving;
        let waits = self.holds_back() || self.fresh.leap.is_some() || proving;
        let queue = self.queue.due().filter(|_| !waits).and_then(|due| match due {
            Due::At(at) => Some(at),
            // Taken at the end of the input that made it due.
            Due::Now => None,
        });
        let phase = match self.phase {
            Phase::Waiting { .. } => self.dial_at(),
            Phase::Creating { until } => Some(until),
            Phase::Proving => self.proof_deadline(),
            Phase::Loading => self.chunk_deadline,
            Phase::Live => self.freshness_deadline(),
            Phase::Held => self.held_deadline(),
            _ => None,
        };
        [queue, self.load_deadline, phase, self.cut_deadline()].into_iter().flatten().min()
    }

    fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// Asks for everything queued to be applied, unless the store must be proven or read first.
    fn flush(&mut self, now: Option<Instant>) {
        let proving = self.phase == Phase::Proving;
        if self.queue.is_empty() || self.fresh.leap.is_some() || proving {
            return;
        }
        let batch = self.queue.take(now);
        self.apply(batch);
    }

    /// Asks for whole responses to be applied.
    fn apply(&mut self, batch: Vec<WatchResponse>) {
        self.applying += 1;
        self.act(Action::Apply(batch));
    }

    fn applied(&mut self, now: Instant, result: Result<Applied, ApplyError>) {
        let counters = &mut self.report.counters;
        self.applying = self.applying.saturating_sub(1);
        if result.is_err() {
            // What was asked for after the refused batch would show or confirm a state without it.
            self.fresh.pending_confirm = None;
            self.actions.retain(|action| !matches!(action, Action::Apply(_) | Action::Confirm(_)));
            self.applying = 0;
        }
        match result {
            Ok(applied) => {
                counters.batches += u64::from(applied.events > 0);
                counters.events += applied.events as u64;
                counters.deletes += applied.deletes as u64;
                counters.duplicates += applied.duplicates as u64;
                counters.changes += applied.changes as u64;
                counters.rejected += applied.rejected as u64;
                if applied.events > 0 {
                    self.unproven = false;
                    if self.phase == Phase::Live {
                        // After a break the rest of the queue is applied too, which is no sign of health.
                        self.mark_healthy();
                    }
                }
                self.cursor_moved();
            }
            Err(error @ ApplyError::Discontinuity { .. }) => {
                counters.discontinuities += 1;
                let name = &self.options.name;
                tracing::warn!(%name, %error, "the watch lost history; everything is read again");
                // What is queued continues what was refused, and the load brings it all.
                self.queue.clear();
                self.report.last_error = Some(Arc::new(error));
                self.schedule_reload(now, Reload::LOST_EVENTS);
            }
            // Another cluster among them: identity is judged when connecting, by more than one answer.
            Err(error) => {
                let kind = SourceErrorKind::Malformed;
                self.queue.clear();
                self.fail(now, SourceError::new(kind, "a watch response").with_cause(error));
            }
        }
    }

    /// An event or a progress notification: the watch works.
    fn mark_healthy(&mut self) {
        if self.oversized_at != Some(self.known.cursor) {
            self.backoff.reset();
            self.unproven = false;
        }
        self.token_refreshed = false;
        self.load_restarts = 0;
        self.report.last_error = None;
    }

    fn stop(&mut self, reason: StopReason) {
        self.act(Action::Disconnect);
        self.act(Action::Stop(reason));
        self.phase = Phase::Stopped;
    }

    fn enter(&mut self, now: Instant, state: State) {
        if self.report.state == State::Restored && state == State::Reconnecting {
            // It has not been connected yet.
            return;
        }
        if self.report.state != state {
            tracing::info!(name = %self.options.name, from = %self.report.state, to = %state,
                revision = self.known.cursor, "key space changed state");
            self.report.state = state;
            self.report.state_since = now;
        }
    }

    fn progress_by(&self) -> ProgressBy {
        let swallowed = self.endpoints[self.endpoint].1.no_progress;
        let trusted = self.version.is_some_and(ServerVersion::progress_is_trusted);
        if trusted && !swallowed { ProgressBy::Request } else { ProgressBy::Count }
    }

    fn show_load(&mut self) {
        self.report.load = self.pager.as_ref().map(|pager| {
            let (keys, expected, bytes) = pager.progress();
            LoadProgress { keys, expected, bytes }
        });
    }
}

fn timeout(message: &str) -> SourceError {
    SourceError::new(SourceErrorKind::Timeout, message)
}
