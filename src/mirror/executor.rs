//! Where the mirror's data goes: the writer and the load under way.
//!
//! Owns executing the actions that change the key space. They end at once and answer the machine.
//! Must not do I/O.

use std::sync::atomic::Ordering;

use tracing::Span;
use tracing::field::Empty;

use crate::mirror::aside::{aside, is_long};
use crate::mirror::machine::{
    Action, AuditKeys, Basis, Input, Known, LoadReason, removes_too_much,
};
use crate::mirror::options::Budget;
use crate::model::{Header, RawKeyValue, Revision, WatchResponse};
use crate::publish::{CutAbort, FeedItem, LoadError, Position, Snapshot, Writer};
use crate::view::{Comparison, Loading, bytes_within, newest_writes};

/// The number of newest live writes that are compared where not everything is.
const NEWEST: usize = 4;

pub(crate) struct Executor<T: Send + Sync + 'static> {
    pub(crate) writer: Writer<T>,
    loading: Option<Loading<T>>,
    /// Whether one of its pages was long work, so that its end is too.
    long: bool,
    auditing: Option<Comparison<T>>,
    /// What the application calls the key space.
    name: String,
    /// The load under way, for whoever traces.
    span: Span,
}

impl<T: Send + Sync + 'static> Executor<T> {
    pub(crate) fn new(writer: Writer<T>, name: String) -> Self {
        Executor { writer, loading: None, long: false, auditing: None, name, span: Span::none() }
    }

    /// Whether the mirror runs as a task of its own.
    pub(crate) fn spawned(&self) -> bool {
        self.writer.core().spawned.load(Ordering::Acquire)
    }

    /// What the machine is told of the view.
    pub(crate) fn known(&self) -> Known {
        let view = self.writer.view();
        Known {
            loaded: view.revision() > 0,
            cursor: view.confirmed(),
            cluster_id: view.cluster_id(),
            keys: view.known_keys(),
        }
    }

    /// Executes an action on the key space and gives its answer; gives other actions back.
    pub(crate) fn execute(&mut self, action: Action) -> Result<Option<Input>, Action> {
        let waits = &self.writer.core().waits;
        Ok(match action {
            Action::Watching => {
                waits.watching();
                None
            }
            Action::Synced { ticket, revision } => {
                waits.synced(ticket, revision);
                None
            }
            Action::BeginLoad { same_history, doubted, reason } => {
                self.span = self.load_span(reason);
                self.loading = Some(self.writer.begin_load(same_history, doubted));
                self.long = false;
                self.tell(|| FeedItem::LoadBegins);
                None
            }
            Action::TakeKeys(kvs) => {
                let span = self.span.clone();
                let long = is_long(&kvs);
                self.long |= long;
                let spawned = self.spawned();
                Some(Input::KeysTaken(aside(spawned && long, || {
                    span.in_scope(|| self.take_keys(kvs))
                })))
            }
            Action::FinishLoad { header, same_history, hold_above } => {
                let span = self.span.clone();
                aside(self.spawned() && self.long, || {
                    span.in_scope(|| self.finish_load(header, same_history, hold_above))
                })
            }
            Action::Hold(held) => {
                self.writer.core().holds.offer(held);
                None
            }
            Action::BeginAudit => {
                let comparison = self.auditing.insert(self.writer.begin_audit());
                Some(Input::AuditBegun(comparison.confirmed()))
            }
            Action::AuditKeys { keys, last } => self.audit(&keys, last),
            Action::BeginProof(budget) => Some(Input::ProofBegun(self.begin_proof(budget))),
            Action::EndProof => {
                self.end_audit();
                None
            }
            Action::Apply(batch) => Some(self.apply(batch)),
            Action::CutHeld(number) => {
                self.cut_held(number);
                None
            }
            Action::TakeCut { number, at } => {
                self.take_cut(number, at);
                None
            }
            Action::CutGivenUp { number, why } => {
                self.writer.core().cuts.gave_up(number, why);
                None
            }
            Action::Confirm(revision) => {
                self.writer.confirm(revision);
                Some(Input::Tick)
            }
            other => return Err(other),
        })
    }

    /// Forgets a load and an audit under way.
    pub(crate) fn abandon(&mut self) {
        self.forget_load();
        self.close_span("ERROR");
        self.writer.core().holds.withdraw();
        self.end_audit();
    }

    fn forget_load(&mut self) {
        if self.loading.take().is_some() {
            self.tell(|| FeedItem::LoadAbandoned);
        }
    }

    /// Gives on what was taken in, if anybody stores it.
    fn tell(&self, tapped: impl FnOnce() -> FeedItem) {
        if let Some(tap) = self.writer.tap() {
            tap.send(tapped());
        }
    }

    /// Lets go of the view that was kept aside.
    pub(crate) fn end_audit(&mut self) {
        self.auditing = None;
    }

    /// Keeps the view aside where it fits the budget; else names its newest writes.
    fn begin_proof(&mut self, budget: Option<Budget>) -> Basis {
        let view = self.writer.view();
        match budget.and_then(|budget| bytes_within(view, budget.keys, budget.bytes)) {
            Some(bytes) => {
                self.auditing = Some(self.writer.begin_audit());
                Basis::Everything { bytes }
            }
            None => Basis::Newest(newest_writes(view, NEWEST)),
        }
    }

    fn cut_held(&self, number: u64) {
        let view = self.writer.view();
        let (confirmed, epoch, cluster_id) = (view.confirmed(), view.epoch(), view.cluster_id());
        self.writer.core().cuts.held(number, Position { confirmed, epoch, cluster_id });
    }

    fn take_cut(&self, number: u64, at: Revision) {
        let view = self.writer.view();
        let cuts = &self.writer.core().cuts;
        if view.revision() <= at && at <= view.confirmed() {
            cuts.taken(number, Snapshot::new(self.writer.core().current.load_full()));
        } else {
            cuts.gave_up(number, CutAbort::Gone);
        }
    }

    fn finish_load(
        &mut self,
        header: Header,
        same_history: bool,
        hold_above: Option<f64>,
    ) -> Option<Input> {
        let loading = self.loading.as_mut()?;
        let fits = self.writer.check_load(loading, header, same_history).is_ok();
        let (removed, known) = loading.removed();
        if fits && same_history && loading.contradicted() {
            return Some(Input::Contradicted(header));
        }
        if fits && removes_too_much(removed as u64, known, hold_above) {
            self.tell(|| FeedItem::LoadHeld);
            return Some(Input::Held { header, removed, known });
        }
        self.writer.core().holds.withdraw();
        let loading = self.loading.take()?;
        let loaded = self.writer.finish_load(loading, header, same_history);
        if let Ok(applied) = &loaded {
            self.span.record("db.response.returned_rows", self.writer.view().known_keys());
            self.span.record("revision", applied.revision);
        }
        if loaded.is_err() {
            self.tell(|| FeedItem::LoadAbandoned);
        }
        self.close_span(if loaded.is_ok() { "OK" } else { "ERROR" });
        Some(Input::Loaded(loaded))
    }

    /// The span of a load: from its first request until it is shown or given up.
    fn load_span(&self, reason: LoadReason) -> Span {
        tracing::info_span!(
            "keyspace.load",
            otel.kind = "client",
            otel.status_code = Empty,
            db.system.name = "etcd",
            db.operation.name = "Range",
            db.response.returned_rows = Empty,
            keyspace.name = self.name,
            reason = reason.as_str(),
            revision = Empty,
        )
    }

    fn close_span(&mut self, status: &'static str) {
        self.span.record("otel.status_code", status);
        self.span = Span::none();
    }

    /// Applies a batch, in a span that observers run in too.
    fn apply(&mut self, batch: Vec<WatchResponse>) -> Input {
        let span = tracing::debug_span!(
            "keyspace.apply",
            otel.kind = "consumer",
            otel.status_code = Empty,
            db.system.name = "etcd",
            db.operation.name = "Watch",
            db.operation.batch.size = Empty,
            keyspace.name = self.name,
            revision = Empty,
        );
        let applied = span.in_scope(|| self.writer.apply(batch));
        match &applied {
            Ok(applied) => {
                span.record("db.operation.batch.size", applied.events);
                span.record("revision", applied.revision);
                span.record("otel.status_code", "OK");
            }
            Err(_) => {
                span.record("otel.status_code", "ERROR");
            }
        }
        Input::Applied(applied)
    }

    fn audit(&mut self, keys: &AuditKeys, last: bool) -> Option<Input> {
        let comparison = self.auditing.as_mut()?;
        let keys = keys.iter().map(|(key, numbers, value)| (key.as_slice(), *numbers, *value));
        let compared = comparison.page(keys, last);
        if last {
            self.end_audit();
        }
        Some(Input::Audited { result: compared.map_err(LoadError::from), last })
    }

    fn take_keys(&mut self, kvs: Vec<RawKeyValue>) -> Result<(), LoadError> {
        if self.loading.is_some() {
            self.tell(|| FeedItem::Page(kvs.clone()));
        }
        let Some(loading) = &mut self.loading else { return Ok(()) };
        let taken = self.writer.load_page(loading, kvs);
        if taken.is_err() {
            // The end of this read may be asked for already; without its keys it is no load.
            self.forget_load();
        }
        taken.map_err(LoadError::from)
    }
}
