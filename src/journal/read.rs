//! Reading events: from memory when they are recent, else from the file, and waiting for more.
//!
//! Owns the long poll, which subscribes before it looks so that no event is missed (BW-12), and the
//! cache of recent events. Reads block on the disk, so they run where blocking is allowed.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};
use tokio::time::Instant;

use super::error::{ReadError, StorageFault};
use super::event::StoredEvent;
use super::filter::Filter;
use super::format;
use super::position::{Beyond, Extent, Position};
use super::store::{self, contained};
use super::writer::{Shared, Slot};

/// How to read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReadOptions {
    /// The most events to give, at least one; 100 unless set. Fewer come when they are large, or
    /// when finding them takes long.
    pub limit: usize,
    /// Which events.
    pub filter: Filter,
    /// How long to wait for the first; the journal's long poll unless set. Zero looks once.
    pub timeout: Option<Duration>,
    /// What a position beyond the end means.
    pub beyond: Beyond,
}

impl Default for ReadOptions {
    fn default() -> Self {
        let (filter, beyond) = (Filter::all(), Beyond::default());
        ReadOptions { limit: 100, filter, timeout: None, beyond }
    }
}

/// Events, and where to read on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The events, in order; empty when none came in time.
    pub events: Vec<Arc<StoredEvent>>,
    /// Behind all that was looked at, events that the filter left out included. When nothing was
    /// looked at, it is the position asked for.
    pub next: Position,
}

/// The most that one look at the file reads before it lets others have their turn.
const SCAN_EVENTS: usize = 4096;
const PAGE_BYTES: usize = 8 << 20;

/// Part of a page: what was found before `next`.
struct Found {
    events: Vec<Arc<StoredEvent>>,
    next: u64,
}

/// Runs something that blocks where that is allowed.
pub(super) async fn blocking<R: Send + 'static>(
    run: impl FnOnce() -> Result<R, ReadError> + Send + 'static,
) -> Result<R, ReadError> {
    match tokio::task::spawn_blocking(move || contained(run)).await {
        Ok(done) => done?,
        // Only a runtime that shuts down does this.
        Err(error) => Err(StorageFault::Io(Arc::new(std::io::Error::other(error))).into()),
    }
}

/// What is there to read, as of now.
pub(super) fn extent_of(database: &Database) -> Result<Extent, StorageFault> {
    let transaction = database.begin_read()?;
    let events = transaction.open_table(format::EVENTS)?;
    store::extent(&events, log_in(&transaction)?)
}

fn log_in(transaction: &ReadTransaction) -> Result<format::Log, StorageFault> {
    let meta = transaction.open_table(format::META)?;
    let log = ReadableTable::get(&meta, format::META_LOG)?;
    format::read_log(log.ok_or_else(|| StorageFault::damaged("no counters"))?.value())
}

impl Shared {
    pub(super) fn begin_read(&self) -> Result<ReadTransaction, StorageFault> {
        match &*self.slot.read() {
            Slot::Open(database) => Ok(database.begin_read()?),
            Slot::Off(fault) => Err(fault.clone()),
        }
    }

    /// Why nothing can be read, or what is there.
    pub(super) fn readable(&self) -> Result<Extent, StorageFault> {
        let figures = self.figures.lock();
        match &figures.off {
            Some((fault, _)) => Err(fault.clone()),
            None => Ok(figures.extent),
        }
    }

    pub(super) async fn events(
        self: &Arc<Self>,
        position: Position,
        options: &ReadOptions,
    ) -> Result<Page, ReadError> {
        let timeout = options.timeout.unwrap_or(self.options.long_poll);
        let deadline = Instant::now().checked_add(timeout);
        let mut head = self.head.subscribe();
        let mut next = position.resolve(self.readable()?, options.beyond)?;
        let asked = next;
        loop {
            head.borrow_and_update();
            let extent = self.readable()?;
            if next < extent.next {
                let found = self.look(next..extent.next, options).await?;
                next = found.next;
                if !found.events.is_empty() {
                    return Ok(Page { events: found.events, next: Position::After(next - 1) });
                }
            } else if next > extent.next && options.beyond == Beyond::Error {
                let asked = Position::At(next);
                return Err(ReadError::BeyondEnd { asked, next: extent.next });
            }
            let timed_out = match deadline {
                Some(deadline) if next < self.readable()?.next => deadline <= Instant::now(),
                Some(deadline) => tokio::time::timeout_at(deadline, head.changed()).await.is_err(),
                None => head.changed().await.is_err(),
            };
            if timed_out {
                let named = matches!(position, Position::At(_) | Position::After(_));
                let unmoved = named && next == asked;
                let next = if unmoved { position } else { Position::After(next - 1) };
                return Ok(Page { events: Vec::new(), next });
            }
        }
    }

    /// Looks no further than what the figures say: what is committed and not told yet must not be
    /// seen by one call and be beyond the end for the next.
    async fn look(
        self: &Arc<Self>,
        what: Range<u64>,
        options: &ReadOptions,
    ) -> Result<Found, ReadError> {
        let limit = options.limit.max(1);
        if let Some(found) = self.cache.lock().look(what.clone(), limit, &options.filter) {
            return Ok(found);
        }
        let (shared, filter) = (Arc::clone(self), options.filter.clone());
        blocking(move || scan(&shared.begin_read()?, what, limit, &filter)).await
    }
}

fn scan(
    transaction: &ReadTransaction,
    what: Range<u64>,
    limit: usize,
    filter: &Filter,
) -> Result<Found, ReadError> {
    let from = what.start;
    let table = transaction.open_table(format::EVENTS).map_err(StorageFault::from)?;
    let extent = store::extent(&table, log_in(transaction)?)?;
    if from < extent.oldest {
        return Err(ReadError::Collected { asked: from, oldest: extent.oldest });
    }
    let end = what.end.min(extent.next);
    let (mut next, mut events, mut bytes) = (from, Vec::new(), 0);
    for item in table.range(what).map_err(StorageFault::from)?.take(SCAN_EVENTS) {
        let (sequence, record) = item.map_err(StorageFault::from)?;
        let sequence = sequence.value();
        if sequence != next {
            return Err(StorageFault::damaged(format!("event {next} is missing")).into());
        }
        next += 1;
        let wanted = |object_type: &str, operation| filter.matches(object_type, operation);
        if let Some(event) = format::read_event(sequence, record.value(), wanted)? {
            bytes += event.bytes();
            events.push(Arc::new(event));
            if events.len() >= limit || bytes >= PAGE_BYTES {
                break;
            }
        }
    }
    let full = events.len() >= limit || bytes >= PAGE_BYTES || next - from == SCAN_EVENTS as u64;
    if !full && next < end {
        return Err(StorageFault::damaged(format!("event {next} is missing")).into());
    }
    Ok(Found { events, next })
}

/// The newest events, in order and without a gap.
#[derive(Debug)]
pub(super) struct Cache {
    events: VecDeque<Arc<StoredEvent>>,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
}

impl Cache {
    pub(super) fn new(max_events: usize, max_bytes: usize) -> Self {
        Cache { events: VecDeque::new(), bytes: 0, max_events, max_bytes }
    }

    /// Takes the next event; what is between it and the last one was not kept.
    pub(super) fn push(&mut self, event: Arc<StoredEvent>) {
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
    pub(super) fn append(&mut self, newer: Cache) {
        newer.events.into_iter().for_each(|event| self.push(event));
    }

    pub(super) fn clear(&mut self) {
        self.events.clear();
        self.bytes = 0;
    }

    /// `None` when events from `from` on are not all here.
    fn look(&self, what: Range<u64>, limit: usize, filter: &Filter) -> Option<Found> {
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
