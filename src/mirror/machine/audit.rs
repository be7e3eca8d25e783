//! Periodic audits: does the view equal what etcd has, in its keys or also in its values?
//!
//! Owns when an audit begins, the pages it requests, and what follows from a difference. One audit runs at
//! a time, beside the watch: both sides are compared at one revision of the past.

use std::sync::Arc;

use super::{Action, Instant, Machine, Phase, Purpose, Reload, SourceError, SourceErrorKind};
use crate::mirror::pager::{Pager, Step};
use crate::model::{Numbers, RawKeyValue, Revision, ValueHash};
use crate::publish::LoadError;
use crate::source::{RangePage, RangeRequest};
use crate::view::Differing;

/// Bytes of keys, or of keys and values, in one page: an audit is not urgent, and the server reads the
/// values in either case.
const PAGE_BYTES: u64 = 1 << 20;

/// What an audit compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Keys and their numbers: finds lost events.
    Keys,
    /// The same with values: finds another history with equal numbers too.
    Values,
}

impl Scope {
    const ALL: [Scope; 2] = [Scope::Keys, Scope::Values];
}

/// The audit in progress, and when the next ones are due.
#[derive(Debug, Default)]
pub(super) struct Audit {
    /// By scope.
    due: [Option<Instant>; 2],
    /// Distinguishes the pages of one audit from those of an abandoned one.
    number: u64,
    begun: Option<Scope>,
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
    /// Plans the first audits; one that is overdue waits until a new watch has caught up.
    pub(super) fn plan_audits(&mut self, now: Instant) {
        let soon = now + self.options.check_interval;
        for scope in Scope::ALL {
            match &mut self.audit.due[scope as usize] {
                Some(due) => *due = soon.max(*due),
                None => self.plan_next(now, scope),
            }
        }
    }

    /// Plans the audit after one of this scope, at a random time: processes that were started together
    /// must not read everything together, again and again.
    fn plan_next(&mut self, now: Instant, scope: Scope) {
        let interval = match scope {
            Scope::Keys => self.options.audit_interval,
            Scope::Values => self.options.audit_values,
        };
        let due = interval.map(|interval| now + self.jitter.shorten(interval));
        self.audit.due[scope as usize] = due;
    }

    /// Plans what comes after the audit in progress, and forgets that one.
    fn end_audit(&mut self, now: Instant) {
        match self.audit.begun {
            // It compared the keys as well.
            Some(Scope::Values) => {
                Scope::ALL.into_iter().for_each(|scope| self.plan_next(now, scope))
            }
            Some(Scope::Keys) => self.plan_next(now, Scope::Keys),
            None => {}
        }
        self.abandon_audit();
    }

    /// Forgets the audit in progress; it stays due.
    pub(super) fn abandon_audit(&mut self) {
        let Audit { due, number, .. } = self.audit;
        self.audit = Audit { due, number, ..Audit::default() };
    }

    /// Puts the audit in progress off: it could not be made now.
    fn postpone_audit(&mut self, now: Instant, error: &SourceError) {
        tracing::debug!(name = %self.options.name, %error, "the audit is put off");
        self.end_audit(now);
        self.act(Action::EndProof);
    }

    pub(super) fn audit_deadline(&self) -> Option<Instant> {
        let due = self.audit.due.into_iter().flatten().min();
        due.filter(|_| self.audit.begun.is_none())
    }

    pub(super) fn check_audit(&mut self, now: Instant) {
        if self.audit_deadline().is_some_and(|due| due <= now) {
            // Of two that are due the one that compares more serves for both.
            let values = self.audit.due[Scope::Values as usize].is_some_and(|due| due <= now);
            self.audit.begun = Some(if values { Scope::Values } else { Scope::Keys });
            self.audit.number += 1;
            self.audit.differing = Differing::default();
            self.act(Action::BeginAudit);
        }
    }

    /// The view to compare is kept aside; it is of `revision`.
    pub(super) fn audit_begun(&mut self, revision: Revision) {
        if self.phase != Phase::Live {
            return;
        }
        let Some(scope) = self.audit.begun else { return };
        // Pages are bounded by the sizes of the last load, if there was one.
        let load = self.report.load.unwrap_or_default();
        let keys_in = |bytes: u64| bytes.saturating_mul(load.keys) / load.bytes.max(1);
        let pager = Pager::new(self.range.clone(), revision, PAGE_BYTES, 0);
        self.audit.pager = Some(match scope {
            // The server reads the values too.
            Scope::Keys => pager.at_most(keys_in(self.options.page_bytes)),
            Scope::Values => pager.begin_with(keys_in(PAGE_BYTES)),
        });
        self.ask_audit();
    }

    fn ask_audit(&mut self) {
        let Some(pager) = &self.audit.pager else { return };
        let keys_only = self.audit.begun == Some(Scope::Keys);
        let request = RangeRequest { keys_only, ..pager.request() };
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
        let values = self.audit.begun == Some(Scope::Values);
        // The values end here: hashes are compared.
        let compared = |kv: RawKeyValue| {
            let hash = values.then(|| ValueHash::of(&kv.value));
            (Numbers::from(&kv), hash, kv.key)
        };
        let keys = kvs.into_iter().map(compared).map(|(numbers, hash, key)| (key, numbers, hash));
        self.act(Action::AuditKeys { keys: keys.collect(), last });
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
        self.end_audit(now);
        if !differing.is_none() {
            self.drifted(now, differing);
        }
    }

    /// An audit found differences. The same write has one value within one history, so another value
    /// shows another history; other keys are lost events.
    fn drifted(&mut self, now: Instant, differing: Differing) {
        let (name, Differing { keys, values }) = (&self.options.name, differing);
        tracing::error!(%name, keys, values, "an audit found differences; everything is read again");
        let what = match values {
            0 => "an audit found that the watch had lost history",
            _ => "an audit found another value of the same write",
        };
        let error = SourceError::new(SourceErrorKind::Malformed, what);
        self.report.last_error = Some(Arc::new(error));
        match values {
            0 => self.schedule_reload(now, Reload::LOST_EVENTS),
            _ => self.history_changed(now, what),
        }
    }
}
