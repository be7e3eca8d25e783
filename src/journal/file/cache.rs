//! The newest events, in memory.
//!
//! Owns its bounds (J7). Must not have a gap, so that what is not here is read from the file.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::journal::event::StoredEvent;
use crate::journal::filter::Filter;

/// A page ends when it has this many bytes.
pub(in crate::journal) const PAGE_BYTES: usize = 8 << 20;

/// Part of a page: what was found before `next`.
pub(in crate::journal) struct Found {
    pub(in crate::journal) events: Vec<Arc<StoredEvent>>,
    pub(in crate::journal) next: u64,
}

/// The newest events, in order and without a gap.
#[derive(Debug)]
pub(in crate::journal) struct Cache {
    events: VecDeque<Arc<StoredEvent>>,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
}

impl Cache {
    pub(in crate::journal) fn new(max_events: usize, max_bytes: usize) -> Self {
        Cache { events: VecDeque::new(), bytes: 0, max_events, max_bytes }
    }

    /// Takes the next event; what is between it and the last one was not kept.
    pub(in crate::journal) fn push(&mut self, event: Arc<StoredEvent>) {
        if self.events.back().is_some_and(|last| last.sequence + 1 != event.sequence) {
            self.clear();
        }
        self.bytes += event.bytes();
        self.events.push_back(event);
        while self.events.len() > self.max_events || self.bytes > self.max_bytes {
            let Some(dropped) = self.events.pop_front() else { break };
            self.bytes -= dropped.bytes();
        }
    }

    /// Takes the events of a newer one.
    pub(in crate::journal) fn append(&mut self, newer: Cache) {
        newer.events.into_iter().for_each(|event| self.push(event));
    }

    pub(in crate::journal) fn clear(&mut self) {
        self.events.clear();
        self.bytes = 0;
    }

    /// `None` when events from `from` on are not all here.
    pub(in crate::journal) fn look(
        &self,
        what: Range<u64>,
        limit: usize,
        filter: &Filter,
    ) -> Option<Found> {
        let from = what.start;
        let oldest = self.events.front()?.sequence;
        let begin = usize::try_from(from.checked_sub(oldest)?).ok()?;
        if begin >= self.events.len() {
            return None;
        }
        let (mut next, mut events, mut bytes) = (from, Vec::new(), 0);
        let events_from = self.events.range(begin..);
        for event in events_from.take_while(|event| event.sequence < what.end) {
            next += 1;
            if filter.matches(&event.object_type, event.operation) {
                bytes += event.bytes();
                events.push(Arc::clone(event));
                if events.len() >= limit || bytes >= PAGE_BYTES {
                    break;
                }
            }
        }
        Some(Found { events, next })
    }
}
