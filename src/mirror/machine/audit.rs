//! The periodic audit: is what is shown what etcd has?
//!
//! Owns when an audit begins, the pages it asks for, and what follows from a difference. The watch
//! goes on meanwhile: both sides are compared at one revision of the past.

use super::{Action, Instant, Machine, Phase, Purpose, Reload, SourceError, SourceErrorKind};
use crate::entry::Numbers;
use crate::event::Revision;
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
    differing: u64,
}

/// A page of an audit: keys with their numbers.
pub(crate) type AuditKeys = Vec<(Vec<u8>, Numbers)>;

impl Machine {
    /// Plans the first audit of a watch.
    pub(super) fn plan_audit(&mut self, now: Instant) {
        self.audit.due = self.options.audit_interval.map(|interval| now + interval);
    }

    /// Forgets the audit under way; the connection it was made on is given up.
    pub(super) fn abandon_audit(&mut self) {
        self.audit = Audit { number: self.audit.number, ..Audit::default() };
    }

    pub(super) fn audit_deadline(&self) -> Option<Instant> {
        self.audit.due.filter(|_| !self.audit.begun)
    }

    pub(super) fn check_audit(&mut self, now: Instant) {
        if self.audit_deadline().is_some_and(|due| due <= now) {
            self.audit.begun = true;
            self.audit.number += 1;
            self.audit.differing = 0;
            self.act(Action::BeginAudit);
        }
    }

    /// The view to compare is kept aside; it is of `revision`.
    pub(super) fn audit_begun(&mut self, revision: Revision) {
        if self.phase == Phase::Live && self.audit.begun {
            self.audit.pager = Some(Pager::new(self.range.clone(), revision, PAGE_BYTES, 0));
            self.ask_audit();
        }
    }

    fn ask_audit(&mut self) {
        let Some(pager) = &self.audit.pager else { return };
        let request = RangeRequest { keys_only: true, ..pager.request() };
        let number = self.audit.number;
        self.act(Action::Range(Purpose::Audit { number }, request));
    }

    pub(super) fn audit_page(
        &mut self,
        now: Instant,
        number: u64,
        result: Result<RangePage, SourceError>,
    ) {
        let live = self.phase == Phase::Live && number == self.audit.number;
        let Some(pager) = self.audit.pager.as_mut().filter(|_| live) else { return };
        let (kvs, last) = match result.and_then(|page| pager.page(page)) {
            Ok(Step::More(kvs)) => (kvs, false),
            Ok(Step::Done(kvs, _)) => (kvs, true),
            Err(error) if error.kind() == SourceErrorKind::TooLarge && pager.shrink() => {
                return self.ask_audit();
            }
            // The revision was compacted meanwhile: begin anew at a newer one, but not in a loop.
            Err(error) if error.kind() == SourceErrorKind::Compacted => {
                self.abandon_audit();
                self.audit.due = Some(now + self.options.check_interval);
                return;
            }
            Err(error) => return self.fail(now, error),
        };
        if !last {
            self.ask_audit();
        }
        let keys = kvs.into_iter().map(|kv| (Numbers::from(&kv), kv.key));
        let keys = keys.map(|(numbers, key)| (key, numbers)).collect();
        self.act(Action::AuditKeys { keys, last });
    }

    /// A page was compared.
    pub(super) fn audited(&mut self, now: Instant, result: Result<u64, LoadError>, last: bool) {
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
        self.report.counters.drift += differing;
        self.abandon_audit();
        self.plan_audit(now);
        if differing > 0 {
            let name = &self.options.name;
            tracing::error!(%name, differing, "the audit found other keys in etcd; they are read again");
            let kind = SourceErrorKind::Malformed;
            let error = SourceError::new(kind, "an audit found that the watch had lost history");
            self.report.last_error = Some(std::sync::Arc::new(error));
            self.schedule_reload(now, Reload { same_history: true });
        }
    }
}
