//! What the fake counted, for assertions such as "no tight loop".
//!
//! Owns the numbers only; the server half moves them.

use std::time::Duration;

use crate::source::RangeRequest;

/// How often the fake was asked for what, refused and unanswered requests included.
///
/// Only `watchers` can fall; everything else counts from the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Connections asked for.
    pub connects: u64,
    /// Questions for the server's version.
    pub versions: u64,
    /// Range reads of values at "now": a load's first page.
    pub loads: u64,
    /// Range reads of values at an explicit revision: a load's further pages, probes of one key.
    pub pages: u64,
    /// Range reads of keys without values.
    pub keys_only: u64,
    /// Range reads of the number of keys only.
    pub counts: u64,
    /// Range reads with a least mod_revision: count barriers.
    pub barriers: u64,
    /// Range reads of all kinds, of which an answer may have more than one key.
    pub many: u64,
    /// Range streams asked for.
    pub range_streams: u64,
    /// Watch streams asked for.
    pub watches: u64,
    /// Watchers alive now.
    pub watchers: u64,
    /// Progress notifications asked for.
    pub progress_requests: u64,
    /// Progress notifications handed to clients, requested and periodic.
    pub progress_answers: u64,
    /// Watch messages handed to clients, fragments counted one by one.
    pub messages: u64,
    /// Events handed to clients.
    pub events: u64,
    /// Events that were swallowed: by [`lose_events`](super::Faults::lose_events), and by a
    /// [`Bug`](super::Bug), which are those of a gap, and deletes at a compaction unless it is at the
    /// watch's own start revision.
    pub lost: u64,
    /// Tokens fetched after a refusal.
    pub token_refreshes: u64,
    /// The longest that an answer had to wait for its turn, itself included, while the
    /// [capacity](super::Faults::capacity) was bounded.
    pub longest_queue: Duration,
    /// Polls of a watch stream after its error or end. A client must never do that: the real client
    /// library then reads payload as messages.
    pub polls_after_end: u64,
}

impl Counts {
    /// Requests that read keys, of every kind.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.loads + self.pages + self.keys_only + self.counts + self.barriers + self.range_streams
    }

    pub(super) fn count_range(&mut self, request: &RangeRequest) {
        self.many += u64::from(request.limit != 1 && !request.count_only);
        let counter = if request.count_only {
            &mut self.counts
        } else if request.min_mod_revision > 0 {
            &mut self.barriers
        } else if request.keys_only {
            &mut self.keys_only
        } else if request.revision > 0 {
            &mut self.pages
        } else {
            &mut self.loads
        };
        *counter += 1;
    }

    pub(super) fn add(&mut self, other: &Counts) {
        self.connects += other.connects;
        self.versions += other.versions;
        self.loads += other.loads;
        self.pages += other.pages;
        self.keys_only += other.keys_only;
        self.counts += other.counts;
        self.barriers += other.barriers;
        self.many += other.many;
        self.range_streams += other.range_streams;
        self.watches += other.watches;
        self.watchers += other.watchers;
        self.progress_requests += other.progress_requests;
        self.progress_answers += other.progress_answers;
        self.messages += other.messages;
        self.events += other.events;
        self.lost += other.lost;
        self.token_refreshes += other.token_refreshes;
        self.longest_queue = self.longest_queue.max(other.longest_queue);
        self.polls_after_end += other.polls_after_end;
    }
}
