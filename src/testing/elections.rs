//! Leader and raft term of the fake cluster.
//!
//! A member learns a term by applying an entry of it, so a member that lags or lost its leader shows an
//! older term (etcd: `EtcdServer.setTerm`). There is no quorum: one healthy member can lead.

use super::member::Member;

/// The term of the first leader of a new or restored cluster (measured on etcd 3.4 and 3.5).
pub(super) const FIRST_TERM: u64 = 2;

#[derive(Debug)]
pub(super) struct Elections {
    term: u64,
    /// Absent while no member can lead.
    leader: Option<usize>,
    /// The next election is the first one of a new store and has `term`.
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

    /// Removes the leader; [`settle`](Elections::settle) elects one.
    pub(super) fn depose(&mut self) {
        self.leader = None;
    }

    /// Elects a leader if there is none, and passes the term on to every member that can lead.
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
