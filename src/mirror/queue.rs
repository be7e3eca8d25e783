//! The batch queue: a throttle between what arrives and what is shown.
//!
//! Owns joining fragments and the decision when queued responses are due. Pure: time is an
//! argument. Must not judge responses.

use std::time::Duration;

use tokio::time::Instant;

use crate::event::{Event, Revision, WatchResponse};

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
        for response in &self.fragments {
            self.events += response.events.len();
            self.bytes += response.bytes();
            let last = response.events.last().map_or(0, Event::mod_revision);
            self.last_revision = self.last_revision.max(last);
        }
        self.complete.append(&mut self.fragments);
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

    /// When the queue is due; at or before now means at once.
    pub(crate) fn due(&self) -> Option<Due> {
        if self.complete.is_empty() {
            return None;
        }
        let full = self.events >= self.bounds.events || self.bytes >= self.bounds.bytes;
        match self.last_taken.filter(|_| !full && !self.delay.is_zero()) {
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
}
