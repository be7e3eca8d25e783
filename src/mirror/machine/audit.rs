//! The periodic audit: is what is shown what etcd has?
//!
//! Owns when an audit begins, the pages it asks for, and what follows from a difference. The watch
//! goes on meanwhile: both sides are compared at one revision of the past.

use super::{Action, Instant, Machine, Phase, Purpose, Reload, SourceError, SourceErrorKind};
use crate::entry::{Numbers, ValueHash};
use crate::event::Revision;
use crate::known::Differing;
use crate::mirror::pager::{Pager, Step};
use crate::source::{RangePage, RangeRequest};
use crate::writer::LoadError;

/// Bytes of keys in one page: an audit is not urgent, and the server reads the values too.
const PAGE_BYTES: u64 = 1 << 20;

/// The audit under way, and when the next one is due.
#[derive(Debug, Default)]
pub(super) struct Audit {
    due: Option<Instant>,
    /// Tells the answers of one audit from those of an abandoned one.
    number: u64,
    begun: bool,
    pager: Option<Pager>,
    differing: Differing,
}

/// A page of an audit: keys with their numbers, and the hashes of their values if those were read.
pub(crate) type AuditKeys = Vec<(Vec<u8>, Numbers, Option<ValueHash>)>;

/// Whether a failure says nothing about the connection: the revision was compacted meanwhile, or the
/// page was too much for the server.
fn is_about_the_page(kind: SourceErrorKind) -> bool {
    use SourceErrorKind::{Compacted, FutureRevision, Timeout, TooLarge};
    matches!(kind, Compacted | FutureRevision | Timeout | TooLarge)
}

impl Machine {
    /// Plans the first audit; one that is overdue waits until a new watch has caught up.
    pub(super) fn plan_audit(&mut self, now: Instant) {
        let soon = now + self.options.check_interval;
        self.audit.due = match self.audit.due {
            Some(due) => Some(due.max(soon)),
            None => self.next_audit(now),
        };
    }

    /// Processes that were started together must not read everything together, again and again.
    fn next_audit(&mut self, now: Instant) -> Option<Instant> {
        self.options.audit_interval.map(|interval| now + self.jitter.shorten(interval))
    }

    /// Forgets the audit under way; it stays due.
    pub(super) fn abandon_audit(&mut self) {
        let Audit { due, number, .. } = self.audit;
        self.audit = Audit { due, number, ..Audit::default() };
    }

    /// Puts the audit under way off: it could not be made now.
    fn postpone_audit(&mut self, now: Instant, error: &SourceError) {
        tracing::debug!(name = %self.options.name, %error, "the audit is put off");
        self.abandon_audit();
        self.audit.due = self.next_audit(now);
    }

    pub(super) fn audit_deadline(&self) -> Option<Instant> {
        self.audit.due.filter(|_| !self.audit.begun)
    }

    pub(super) fn check_audit(&mut self, now: Instant) {
        if self.audit_deadline().is_some_and(|due| due <= now) {
            self.audit.begun = true;
            self.audit.number += 1;
            self.audit.differing = Differing::default();
            self.act(Action::BeginAudit);
        }
    }

    /// The view to compare is kept aside; it is of `revision`.
    pub(super) fn audit_begun(&mut self, revision: Revision) {
        if self.phase == Phase::Live && self.audit.begun {
            // The server reads the values too, so pages are bounded by what the last load weighed.
            let load = self.report.load.unwrap_or_default();
            let keys = self.options.page_bytes.saturating_mul(load.keys) / load.bytes.max(1);
            let pager = Pager::new(self.range.clone(), revision, PAGE_BYTES, 0);
            self.audit.pager = Some(pager.at_most(keys));
            self.ask_audit();
        }
    }

    fn ask_audit(&mut self) {
        let Some(pager) = &self.audit.pager else { return };
        let request = RangeRequest { keys_only: true, ..pager.request() };
        let number = self.audit.number;
        self.ask(Purpose::Audit { number }, request);
    }

    pub(super) fn audit_page(
        &mut self,
        now: Instant,
        number: u64,
        result: Result<RangePage, SourceError>,
    ) {
        let live = self.phase == Phase::Live && number == self.audit.number;
        let Some(pager) = self.audit.pager.as_mut().filter(|_| live) else { return };
        let ours = self.known.cluster_id;
        let page = result.and_then(|page| {
            let cluster = page.header.map(|header| header.cluster_id);
            let kind = SourceErrorKind::Malformed;
            if cluster == ours { Ok(page) } else { Err(SourceError::new(kind, "another cluster")) }
        });
        let (kvs, last) = match page.and_then(|page| pager.page(page)) {
            Ok(Step::More(kvs)) => (kvs, false),
            Ok(Step::Done(kvs, _)) => (kvs, true),
            Err(error) if error.kind() == SourceErrorKind::TooLarge && pager.shrink() => {
                return self.ask_audit();
            }
            Err(error) if is_about_the_page(error.kind()) => {
                return self.postpone_audit(now, &error);
            }
            Err(error) => return self.fail(now, error),
        };
        if !last {
            self.ask_audit();
        }
        let keys = kvs.into_iter().map(|kv| (Numbers::from(&kv), kv.key));
        let keys = keys.map(|(numbers, key)| (key, numbers, None)).collect();
        self.act(Action::AuditKeys { keys, last });
    }

    /// A page was compared.
    pub(super) fn audited(
        &mut self,
        now: Instant,
        result: Result<Differing, LoadError>,
        last: bool,
    ) {
        if self.phase == Phase::Proving {
            return self.compared(now, result, last);
        }
        if self.phase != Phase::Live || self.audit.pager.is_none() {
            return;
        }
        match result {
            Ok(differing) => self.audit.differing += differing,
            Err(error) => {
                let kind = SourceErrorKind::Malformed;
                return self.fail(now, SourceError::new(kind, "a page").with_cause(error));
            }
        }
        if !last {
            return;
        }
        let differing = self.audit.differing;
        self.report.counters.audits += 1;
        self.report.counters.drift += differing.keys + differing.values;
        self.abandon_audit();
        self.audit.due = self.next_audit(now);
        if !differing.is_none() {
            let name = &self.options.name;
            tracing::error!(%name, differing = differing.keys, "the audit found other keys in etcd; they are read again");
            let kind = SourceErrorKind::Malformed;
            let error = SourceError::new(kind, "an audit found that the watch had lost history");
            self.report.last_error = Some(std::sync::Arc::new(error));
            self.schedule_reload(now, Reload::GAPS);
        }
    }
}
