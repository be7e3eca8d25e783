//! The raft term of the fake cluster, and who leads it.
//!
//! A member knows a term once it has applied an entry of it, so one that lags or is cut off shows an older
//! term (etcd: `EtcdServer.setTerm`). There is no quorum: one member that is well is enough to lead.

use super::member::Member;

/// The term of the first leader of a new or restored cluster (measured on etcd 3.4 and 3.5).
pub(super) const FIRST_TERM: u64 = 2;

#[derive(Debug)]
pub(super) struct Elections {
    term: u64,
    /// Absent while no member can lead.
    leader: Option<usize>,
    /// The next election is the first one of a new store, whose term is known already.
    first: bool,
}

impl Elections {
    pub(super) fn new() -> Self {
        Elections { term: FIRST_TERM, leader: Some(0), first: false }
    }

    pub(super) fn term(&self) -> u64 {
        self.term
    }

    /// All members begin with a new store, whose first leader has `term`.
    pub(super) fn begin(&mut self, term: u64, members: &mut [Member]) {
        *self = Elections { term, leader: None, first: true };
        for member in &mut *members {
            (member.term, member.late_term) = (term, None);
        }
        self.settle(members);
    }

    /// Takes the leader away; [`settle`](Elections::settle) elects one.
    pub(super) fn depose(&mut self) {
        self.leader = None;
    }

    /// Elects a leader if there is none, and lets every member that is well know the term.
    pub(super) fn settle(&mut self, members: &mut [Member]) {
        if !self.leader.is_some_and(|leader| members[leader].can_lead()) {
            self.leader = members.iter().position(Member::can_lead);
            if self.leader.is_some() && !std::mem::take(&mut self.first) {
                self.term += 1;
            }
        }
        for member in members.iter_mut().filter(|member| member.can_lead()) {
            member.learn_term(self.term);
        }
    }
}
