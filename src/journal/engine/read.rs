//! Reading events: from memory when they are recent, else from the file, and waiting for more.
//!
//! Owns the long poll, which subscribes before it looks so that no event is missed (BW-12). Reads block on the disk, so they run where blocking is allowed.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use redb::{ReadTransaction, ReadableDatabase};
use tokio::time::Instant;

use super::shared::{Shared, Slot};
use crate::journal::error::{ReadError, StorageFault};
use crate::journal::event::StoredEvent;
use crate::journal::file::cache::{Found, PAGE_BYTES};
use crate::journal::file::format;
use crate::journal::file::open::{self, contained};
use crate::journal::filter::Filter;
use crate::journal::position::{Beyond, Extent, Position};

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

/// Runs something that blocks where that is allowed.
pub(in crate::journal) async fn blocking<R: Send + 'static>(
    run: impl FnOnce() -> Result<R, ReadError> + Send + 'static,
) -> Result<R, ReadError> {
    match tokio::task::spawn_blocking(move || contained(run)).await {
        Ok(done) => done?,
        // Only a runtime that shuts down does this.
        Err(error) => Err(StorageFault::Io(Arc::new(std::io::Error::other(error))).into()),
    }
}

impl Shared {
    pub(in crate::journal) fn begin_read(&self) -> Result<ReadTransaction, StorageFault> {
        match &*self.slot.read() {
            Slot::Open(database) => Ok(database.begin_read()?),
            Slot::Off(fault) => Err(fault.clone()),
        }
    }

    /// Why nothing can be read, or what is there.
    pub(in crate::journal) fn readable(&self) -> Result<Extent, StorageFault> {
        let figures = self.figures.lock();
        match &figures.off {
            Some((fault, _)) => Err(fault.clone()),
            None => Ok(figures.extent),
        }
    }

    pub(in crate::journal) async fn events(
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
                let oldest = position == Position::Oldest;
                let found = self.look(next..extent.next, oldest, options).await?;
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
    ///
    /// With `oldest` it begins at the oldest event there is, should a collection have passed the start.
    async fn look(
        self: &Arc<Self>,
        what: Range<u64>,
        oldest: bool,
        options: &ReadOptions,
    ) -> Result<Found, ReadError> {
        let limit = options.limit.max(1);
        if let Some(found) = self.cache.lock().look(what.clone(), limit, &options.filter) {
            return Ok(found);
        }
        let (shared, filter) = (Arc::clone(self), options.filter.clone());
        blocking(move || scan(&shared.begin_read()?, what, oldest, limit, &filter)).await
    }
}

fn scan(
    transaction: &ReadTransaction,
    what: Range<u64>,
    oldest: bool,
    limit: usize,
    filter: &Filter,
) -> Result<Found, ReadError> {
    let table = transaction.open_table(format::EVENTS).map_err(StorageFault::from)?;
    let extent = open::extent(&table, open::log_in(transaction)?)?;
    let from = match what.start {
        // Within `what`: the figures may not have the newest events yet.
        start if oldest => extent.oldest.clamp(start, what.end),
        start if start < extent.oldest => {
            return Err(ReadError::Collected { asked: start, oldest: extent.oldest });
        }
        start => start,
    };
    let end = what.end.min(extent.next);
    let (mut next, mut events, mut bytes) = (from, Vec::new(), 0);
    for item in table.range(from..what.end).map_err(StorageFault::from)?.take(SCAN_EVENTS) {
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

impl Position {
    /// The sequence number of the first event asked for.
    pub(in crate::journal) fn resolve(
        self,
        extent: Extent,
        beyond: Beyond,
    ) -> Result<u64, ReadError> {
        let first = match self {
            Position::Oldest => extent.oldest,
            Position::Latest => extent.next,
            Position::At(sequence) => sequence,
            // What comes after the last number there can be is that number, which is never given.
            Position::After(sequence) => sequence.saturating_add(1),
        };
        // The first event of all has number one, so asking from zero misses nothing.
        let first = first.max(1);
        if first > extent.next && beyond == Beyond::Error {
            return Err(ReadError::BeyondEnd { asked: self, next: extent.next });
        }
        if first < extent.oldest {
            return Err(ReadError::Collected { asked: first, oldest: extent.oldest });
        }
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::journal::watch::watcher::tests::ten_events;

    const EXTENT: Extent = Extent { oldest: 4, next: 9 };

    #[test]
    fn bw2_positions_resolve_and_print() {
        let cases = [
            (Position::Oldest, 4, "oldest"),
            (Position::Latest, 9, "latest"),
            (Position::At(5), 5, "at 5"),
            (Position::At(9), 9, "at 9"),
            (Position::After(5), 6, "after 5"),
            (Position::After(8), 9, "after 8"),
            (Position::After(3), 4, "after 3"),
        ];
        for (position, first, printed) in cases {
            assert_eq!(position.resolve(EXTENT, Beyond::Error).unwrap(), first, "{position}");
            assert_eq!(position.to_string(), printed);
        }
    }

    /// What a read does whose figures are those from before a collection.
    #[tokio::test]
    async fn h61_the_oldest_event_is_read_though_a_collection_came_between() {
        let (journal, later) = (ten_events().await, SystemTime::now() + Duration::from_secs(60));
        let before = journal.shared().readable().unwrap();
        assert_eq!(before, Extent { oldest: 1, next: 11 });
        journal.collect(later).await.unwrap();
        let options = ReadOptions { limit: 3, ..ReadOptions::default() };
        let look = |what, oldest| journal.shared().look(what, oldest, &options);
        let found = look(1..11, true).await.unwrap();
        let numbers: Vec<_> = found.events.iter().map(|event| event.sequence).collect();
        assert_eq!((numbers, found.next), (vec![5, 6, 7], 8));
        // All that was known is gone: what came since is left to the next look.
        let found = look(1..4, true).await.unwrap();
        assert_eq!((found.events.len(), found.next), (0, 4));
        let named = look(1..11, false).await;
        assert!(matches!(named, Err(ReadError::Collected { asked: 1, oldest: 5 })));
    }

    #[test]
    fn bw4_beyond_the_end_is_an_error_or_a_wait_never_silent() {
        for position in [Position::At(10), Position::After(9), Position::After(u64::MAX)] {
            let refused = position.resolve(EXTENT, Beyond::Error);
            assert!(matches!(refused, Err(ReadError::BeyondEnd { next: 9, .. })), "{refused:?}");
            assert!(position.resolve(EXTENT, Beyond::Wait).unwrap() > 9);
        }
    }

    #[test]
    fn bw20_what_was_collected_is_said() {
        for position in [Position::At(3), Position::After(2), Position::At(0)] {
            let refused = position.resolve(EXTENT, Beyond::Error);
            assert!(matches!(refused, Err(ReadError::Collected { oldest: 4, .. })), "{refused:?}");
        }
        let whole = Extent { oldest: 1, next: 1 };
        assert_eq!(Position::At(0).resolve(whole, Beyond::Error).unwrap(), 1);
        assert_eq!(Position::After(0).resolve(whole, Beyond::Error).unwrap(), 1);
    }
}
