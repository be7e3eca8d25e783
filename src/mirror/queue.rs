//! The batch queue: a throttle between what arrives and what is shown.
//!
//! Owns joining fragments and the decision when queued responses are due. Pure: time is an
//! argument. Must not judge responses.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Event, Revision, WatchResponse};

/// When queued responses must be applied whatever the delay says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// Responses waiting to be applied as one batch.
///
/// The first response after a quiet `delay` is due at once; what follows within it is due when the
/// delay since the last apply is over. Later arrivals never extend it.
#[derive(Debug)]
pub(crate) struct Queue {
    delay: Duration,
    bounds: Bounds,
    /// The beginning of a response whose last fragment has not come.
    fragments: Vec<WatchResponse>,
    complete: Vec<WatchResponse>,
    events: usize,
    bytes: usize,
    last_revision: Revision,
    /// Bytes of the fragments held.
    partial_bytes: usize,
    last_taken: Option<Instant>,
}

impl Queue {
    pub(crate) fn new(delay: Duration, bounds: Bounds) -> Self {
        Queue {
            delay,
            bounds,
            fragments: Vec::new(),
            complete: Vec::new(),
            events: 0,
            bytes: 0,
            last_revision: 0,
            partial_bytes: 0,
            last_taken: None,
        }
    }

    /// Adds one message; a fragment counts only when its response is whole (C3).
    pub(crate) fn push(&mut self, response: WatchResponse) {
        let whole = !response.fragment;
        self.partial_bytes += response.bytes();
        self.fragments.push(response);
        if !whole {
            return;
        }
        self.partial_bytes = 0;
        let mut whole = std::mem::take(&mut self.fragments);
        whole.iter().for_each(|response| self.count(response));
        self.complete.append(&mut whole);
        self.fragments = whole;
    }

    /// Forgets a response that will never be whole: its stream is gone and resends it.
    pub(crate) fn drop_fragments(&mut self) {
        self.fragments.clear();
        self.partial_bytes = 0;
    }

    /// Forgets everything, for a load that replaces it.
    pub(crate) fn clear(&mut self) {
        self.drop_fragments();
        self.take(None);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.complete.is_empty()
    }

    /// Whether the beginning of a response is queued whose end has not come.
    pub(crate) fn is_partial(&self) -> bool {
        !self.fragments.is_empty()
    }

    /// Bytes of the response whose end has not come.
    pub(crate) fn partial_bytes(&self) -> usize {
        self.partial_bytes
    }

    /// Whether a whole response is queued that reaches `revision`.
    pub(crate) fn reaches(&self, revision: Revision) -> bool {
        !self.complete.is_empty() && self.last_revision >= revision
    }

    /// Whether as much is queued as may be.
    pub(crate) fn is_full(&self) -> bool {
        self.events >= self.bounds.events || self.bytes >= self.bounds.bytes
    }

    /// When the queue is due; at or before now means at once.
    pub(crate) fn due(&self) -> Option<Due> {
        if self.complete.is_empty() {
            return None;
        }
        match self.last_taken.filter(|_| !self.is_full() && !self.delay.is_zero()) {
            Some(last) => Some(Due::At(last + self.delay)),
            None => Some(Due::Now),
        }
    }

    /// Takes all whole responses as one batch; `now` starts the next delay.
    pub(crate) fn take(&mut self, now: Option<Instant>) -> Vec<WatchResponse> {
        self.events = 0;
        self.bytes = 0;
        self.last_revision = 0;
        self.last_taken = now.or(self.last_taken);
        std::mem::take(&mut self.complete)
    }

    /// Takes the part of the whole responses that is at or below `revision`, as one batch; the rest
    /// stays. No revision is split, since all its events stand in one response, in order.
    pub(crate) fn take_through(&mut self, revision: Revision, now: Instant) -> Vec<WatchResponse> {
        let mut taken: Vec<WatchResponse> = Vec::new();
        let mut rest = Vec::new();
        // Inside a response whose rest stays: so do its further fragments.
        let mut cut = false;
        for mut response in self.take(None) {
            let ends = !response.fragment;
            let first = response.events.iter().position(|e| e.mod_revision() > revision);
            match first.or(cut.then_some(0)) {
                None => taken.push(response),
                Some(at) => {
                    let at = if cut { 0 } else { at };
                    let mut events = std::mem::take(&mut response.events);
                    let beyond = events.split_off(at);
                    if at > 0 {
                        taken.push(WatchResponse { events, fragment: false, ..response.clone() });
                    } else if let Some(previous) = taken.last_mut() {
                        // Its rest is not part of the batch.
                        previous.fragment = false;
                    }
                    rest.push(WatchResponse { events: beyond, ..response });
                    cut = true;
                }
            }
            cut &= !ends;
        }
        rest.iter().for_each(|response| self.count(response));
        self.complete = rest;
        if !taken.is_empty() {
            self.last_taken = Some(now);
        }
        taken
    }

    fn count(&mut self, response: &WatchResponse) {
        self.events += response.events.len();
        self.bytes += response.bytes();
        let last = response.events.last().map_or(0, Event::mod_revision);
        self.last_revision = self.last_revision.max(last);
    }
}

/// When a queue is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Now,
    At(Instant),
}

impl Due {
    pub(crate) fn is_past(self, now: Instant) -> bool {
        match self {
            Due::Now => true,
            Due::At(at) => at <= now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(30);

    fn events(revision: Revision, count: usize) -> WatchResponse {
        let event = Event::Delete { key: b"key".to_vec(), mod_revision: revision };
        WatchResponse { events: vec![event; count], ..WatchResponse::default() }
    }

    fn queue(delay: Duration) -> Queue {
        Queue::new(delay, Bounds { events: 10, bytes: 1000 })
    }

    #[test]
    fn gz15_first_after_quiet_is_due_at_once_and_a_burst_once_per_delay() {
        let start = Instant::now();
        let mut queue = queue(DELAY);
        assert_eq!(queue.due(), None);
        queue.push(events(1, 1));
        assert_eq!(queue.due(), Some(Due::Now));
        assert_eq!(queue.take(Some(start)).len(), 1);
        queue.push(events(2, 1));
        assert_eq!(queue.due(), Some(Due::At(start + DELAY)));
        // T-43: a throttle, not a debounce. Later arrivals do not move the time.
        queue.push(events(3, 1));
        assert_eq!(queue.due(), Some(Due::At(start + DELAY)));
        assert!(!queue.due().unwrap().is_past(start + DELAY / 2));
        assert!(queue.due().unwrap().is_past(start + DELAY));
        assert_eq!(queue.take(Some(start + DELAY)).len(), 2);
        // After a quiet time the delay since the last apply is over, so the next one is due.
        queue.push(events(4, 1));
        assert!(queue.due().unwrap().is_past(start + DELAY * 3));
    }

    #[test]
    fn t45_without_delay_every_response_is_due_but_never_half_a_revision() {
        let mut queue = queue(Duration::ZERO);
        queue.take(Some(Instant::now()));
        queue.push(WatchResponse { fragment: true, ..events(1, 1) });
        assert_eq!(queue.due(), None);
        assert!(!queue.reaches(1));
        queue.push(events(1, 1));
        assert_eq!(queue.due(), Some(Due::Now));
        assert!(queue.reaches(1));
        assert_eq!(queue.take(None).len(), 2);
    }

    #[test]
    fn t12_fragments_of_a_broken_stream_are_forgotten_whole_responses_are_not() {
        let mut queue = queue(DELAY);
        queue.push(events(1, 1));
        queue.push(WatchResponse { fragment: true, ..events(2, 1) });
        queue.drop_fragments();
        let batch = queue.take(None);
        assert_eq!(batch, vec![events(1, 1)]);
    }

    #[test]
    fn t44_bounds_make_it_due_before_the_delay() {
        let now = Instant::now();
        let mut queue = queue(DELAY);
        queue.take(Some(now));
        queue.push(events(1, 9));
        assert_eq!(queue.due(), Some(Due::At(now + DELAY)));
        queue.push(events(2, 1));
        assert_eq!(queue.due(), Some(Due::Now));
    }

    /// A response of one event per revision.
    fn series(revisions: &[Revision], fragment: bool) -> WatchResponse {
        let events = revisions.iter().flat_map(|revision| events(*revision, 1).events).collect();
        WatchResponse { events, fragment, ..WatchResponse::default() }
    }

    #[test]
    fn c3_a_cut_takes_whole_revisions_and_closes_the_response_it_splits() {
        let now = Instant::now();
        let held = || {
            let mut queue = queue(DELAY);
            queue.push(series(&[1, 2], false));
            queue.push(series(&[3, 4], true));
            queue.push(series(&[4, 5], true));
            queue.push(series(&[], false));
            queue.push(series(&[6], false));
            queue
        };
        let revisions = |batch: &[WatchResponse]| -> Vec<(Vec<Revision>, bool)> {
            let of = |response: &WatchResponse| {
                response.events.iter().map(Event::mod_revision).collect::<Vec<_>>()
            };
            batch.iter().map(|response| (of(response), response.fragment)).collect()
        };
        let all = revisions(&held().take(None));
        for at in 0..8 {
            let mut queue = held();
            let taken = revisions(&queue.take_through(at, now));
            let events = |batch: &[(Vec<Revision>, bool)]| {
                batch.iter().flat_map(|(revisions, _)| revisions.clone()).collect::<Vec<_>>()
            };
            assert!(events(&taken).iter().all(|revision| *revision <= at), "{at}: {taken:?}");
            assert!(taken.last().is_none_or(|(_, fragment)| !fragment), "{at}: {taken:?}");
            assert_eq!(queue.reaches(at + 1), at < 6);
            assert_eq!(queue.events, events(&all).len() - events(&taken).len());
            let rest = revisions(&queue.take(None));
            assert!(events(&rest).iter().all(|revision| *revision > at), "{at}: {rest:?}");
            assert!(rest.last().is_none_or(|(_, fragment)| !fragment), "{at}: {rest:?}");
            assert_eq!([events(&taken), events(&rest)].concat(), events(&all), "{at}");
        }
        assert_eq!(revisions(&held().take_through(3, now)).last(), Some(&(vec![3], false)));
        assert_eq!(queue(DELAY).take_through(3, now), vec![]);
    }

    #[test]
    fn c9_what_a_cut_leaves_counts_against_the_bounds() {
        let now = Instant::now();
        let mut queue = queue(DELAY);
        queue.push(events(1, 9));
        queue.push(events(2, 9));
        assert!(queue.is_full());
        queue.take_through(1, now);
        assert!(!queue.is_full());
        assert_eq!(queue.due(), Some(Due::At(now + DELAY)));
        queue.take_through(2, now);
        assert!(queue.is_empty() && !queue.reaches(1));
    }
}
