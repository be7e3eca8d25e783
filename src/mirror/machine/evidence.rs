//! Evidence of the history: what linearizable answers show of the store's revision and raft term.
//!
//! Within one history neither goes down. Cluster and member ids survive a restored backup and a wiped
//! data directory, so an answer that shows less opens a suspicion. It stays open, whichever endpoint
//! answers next, until content clears it: a comparison of everything at the cursor, or a load.
//!
//! Only answers to linearizable range requests count. A lagging member may head its watch responses with
//! anything, `StatusResponse.raft_term` is another number, and a term of zero is no term. An answer is
//! compared with what was known when it was asked for, since answers overtake one another.

use std::sync::Arc;
use std::time::Duration;

use super::{Action, Asked, Instant, Machine, Purpose, SourceError, SourceErrorKind, State};
use crate::model::{Header, Revision};
use crate::publish::Contact;
use crate::source::RangeRequest;

/// So many answers in a row must be behind before the store counts as another one: a member that was
/// stopped for a while may answer from its old state once (etcd issue 20418).
const ANSWERS_BEHIND: u32 = 3;

/// A store that may be another one is asked again this soon, whatever the backoff.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// So many members are told apart; a cluster has fewer.
const MEMBERS_MAX: usize = 32;

const WENT_BACK: &str = "the store's revision went back";
const OLDER_TERM: &str = "the store's raft term went back";

/// When an answer was asked for, and the revision that it cannot be below within one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Floor {
    revision: Revision,
    number: u64,
}

/// A term that a member has shown, known to requests from this number on.
#[derive(Debug, Clone, Copy)]
struct Term {
    member_id: u64,
    term: u64,
    since: u64,
}

impl Term {
    fn is_of(&self, header: &Header) -> bool {
        (self.member_id, self.term) == (header.member_id, header.raft_term)
    }
}

/// A member that has shown a lower term than was known, at this endpoint.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    lower: Term,
    endpoint: usize,
}

/// What linearizable answers have shown.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// Requests so far.
    asked: u64,
    /// The greatest revision.
    revision: Revision,
    /// The greatest term.
    greatest: Option<Term>,
    /// Lower terms that content was proven under. A member that was sent a snapshot keeps the term of
    /// before until the next write.
    proven: Vec<Term>,
    /// The newest answer with a term.
    newest: Option<(Revision, u64)>,
    /// Members are doubted one by one: behind a proxy each answer may come from the next member.
    doubts: Vec<Doubt>,
    /// Answers in a row that were behind.
    behind: u32,
    suspected: bool,
}

impl Evidence {
    fn note(&mut self, header: &Header) {
        self.revision = self.revision.max(header.revision);
        self.behind = 0;
        let &Header { member_id, raft_term: term, .. } = header;
        if term == 0 {
            return;
        }
        let since = self.asked + 1;
        self.doubts.retain(|doubt| doubt.lower.member_id != member_id);
        self.newest = Some((header.revision, term));
        if self.greatest.is_none_or(|greatest| greatest.term < term) {
            self.greatest = Some(Term { member_id, term, since });
        }
        self.proven.retain(|proven| proven.member_id != member_id || proven.is_of(header));
    }

    /// Records that the answer to request `number` has a lower term than was known; returns whether the
    /// request was made after another such answer from the same member.
    fn doubt(&mut self, header: &Header, number: u64, endpoint: usize) -> bool {
        let &Header { member_id, raft_term: term, .. } = header;
        if let Some(doubt) = self.doubts.iter_mut().find(|d| d.lower.member_id == member_id) {
            (doubt.lower.term, doubt.endpoint) = (doubt.lower.term.min(term), endpoint);
            return doubt.lower.since <= number;
        }
        let lower = Term { member_id, term, since: self.asked + 1 };
        push_bounded(&mut self.doubts, Doubt { lower, endpoint });
        false
    }

    /// Forgets what was known before content was proven equal at `endpoint`.
    ///
    /// The lower terms that members have shown at that endpoint are known from here on. Otherwise a member
    /// that keeps its lower term, and that a proxy alternates with others, would be doubted again and again.
    fn clear(&mut self, header: &Header, endpoint: usize) {
        let Evidence { asked, proven, doubts, .. } = std::mem::take(self);
        (self.asked, self.proven) = (asked, proven);
        self.note(header);
        for Doubt { lower, .. } in doubts.into_iter().filter(|doubt| doubt.endpoint == endpoint) {
            self.proven.retain(|proven| proven.member_id != lower.member_id);
            push_bounded(&mut self.proven, lower);
        }
    }

    /// Whether the answer to request `number` has a lower term than was known when it was asked for.
    fn is_older_term(&self, header: &Header, number: u64) -> bool {
        let lower = |known: Term| known.since <= number && header.raft_term < known.term;
        let proven = self.proven.iter().any(|proven| proven.is_of(header));
        header.raft_term != 0 && !proven && self.greatest.is_some_and(lower)
    }
}

fn push_bounded<V>(members: &mut Vec<V>, member: V) {
    if members.len() >= MEMBERS_MAX {
        members.remove(0);
    }
    members.push(member);
}

impl Machine {
    /// Asks for a range; the answer will be evidence.
    pub(super) fn ask(&mut self, purpose: Purpose, request: RangeRequest) {
        let anew = self.reload.is_some_and(|reload| !reload.same_history);
        let cursor = if anew { 0 } else { self.known.cursor };
        self.evidence.asked += 1;
        let Evidence { asked: number, revision, .. } = self.evidence;
        let floor = Floor { revision: revision.max(cursor), number };
        self.act(Action::Range(Asked { purpose, floor }, Box::new(request)));
    }

    /// Examines the header of an answer; false when it must not be used further.
    pub(super) fn examine(&mut self, now: Instant, asked: Asked, header: Option<Header>) -> bool {
        let Asked { purpose, floor } = asked;
        let Some(header) = header.filter(|header| header.revision > 0) else {
            let kind = SourceErrorKind::Malformed;
            self.fail(now, SourceError::new(kind, "an answer without a header"));
            return false;
        };
        if self.known.cluster_id.is_some_and(|known| known != header.cluster_id) {
            let judged = matches!(purpose, Purpose::Identify { .. } | Purpose::Page);
            if !judged {
                // Which cluster it is, is judged when connecting.
                let kind = SourceErrorKind::Malformed;
                self.fail(now, SourceError::new(kind, "an answer of another cluster"));
            }
            return judged;
        }
        if self.known.loaded && header.revision < floor.revision {
            self.went_back(now);
            return false;
        }
        if self.known.loaded && self.evidence.is_older_term(&header, floor.number) {
            let asked_again = self.evidence.doubt(&header, floor.number, self.endpoint);
            return self.older_term(now, purpose, asked_again);
        }
        self.evidence.note(&header);
        true
    }

    /// The greatest raft term that a linearizable answer has shown; 0 for none.
    pub(super) fn greatest_term(&self) -> u64 {
        self.evidence.greatest.map_or(0, |greatest| greatest.term)
    }

    /// The greatest revision that a linearizable answer has shown.
    pub(super) fn greatest_shown(&self) -> Revision {
        self.evidence.revision
    }

    /// What waits are judged by.
    pub(crate) fn contact(&self) -> Contact {
        let Evidence { suspected, newest: seen, .. } = self.evidence;
        Contact { live: self.report.state == State::Live, suspected, seen }
    }

    /// Whether the store may have another history than the data.
    pub(super) fn is_suspected(&self) -> bool {
        self.evidence.suspected
    }

    /// The data is what the store had, by content. From `header` on it is followed.
    pub(super) fn clear_suspicion(&mut self, header: &Header) {
        self.evidence.clear(header, self.endpoint);
    }

    /// What was known of the store is void, but not that it is another one.
    pub(super) fn forget_evidence(&mut self) {
        let asked = self.evidence.asked;
        self.evidence = Evidence { asked, suspected: true, ..Evidence::default() };
    }

    fn suspect(&mut self, what: &'static str) {
        if !self.evidence.suspected {
            tracing::warn!(name = %self.options.name, what, cursor = self.known.cursor,
                "the store may have another history; its content is compared");
        }
        self.evidence.suspected = true;
    }

    /// An answer is behind what is known.
    pub(super) fn went_back(&mut self, now: Instant) {
        self.suspect(WENT_BACK);
        self.evidence.behind += 1;
        if self.evidence.behind >= ANSWERS_BEHIND {
            return self.history_changed(now, WENT_BACK);
        }
        self.fail_soon(now, WENT_BACK);
    }

    /// etcd moves its applied index before its term, so one answer may show the old term. Only an
    /// answer that was asked for after it counts.
    fn older_term(&mut self, now: Instant, purpose: Purpose, asked_again: bool) -> bool {
        if asked_again {
            self.suspect(OLDER_TERM);
        }
        match purpose {
            // Content is compared or loaded, whatever the term.
            Purpose::Page | Purpose::Compared | Purpose::Newest { .. } | Purpose::CountAtCursor => {
                true
            }
            Purpose::Identify { .. } if asked_again => true,
            Purpose::Identify { .. } => {
                self.identify(now);
                false
            }
            _ => {
                self.fail_soon(now, OLDER_TERM);
                false
            }
        }
    }

    /// Gives up this connection and asks the next endpoint soon.
    fn fail_soon(&mut self, now: Instant, message: &'static str) {
        let error = SourceError::new(SourceErrorKind::Unavailable, message);
        let delay = self.jitter.shorten(ASK_AGAIN);
        self.note_failure(&error, delay);
        self.report.last_error = Some(Arc::new(error));
        self.retreat(now, delay, false);
    }
}
