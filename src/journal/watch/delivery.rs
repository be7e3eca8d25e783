//! The loop of a running watcher: fetch ahead, handle in order, checkpoint behind.
//!
//! Owns retries, back-off and progress. Must not end but by being told to (BW-11): a failing fetch or
//! handler is tried again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::handler::AnyHandler;
use super::options::{Checkpoints, Retry, WatcherState};
use super::state::Inner;
use crate::journal::engine::read::ReadOptions;
use crate::journal::error::{HandlingError, ReadError};
use crate::journal::event::StoredEvent;
use crate::journal::position::{Beyond, Position};

/// How often a checkpoint is moved past events that the filter left out, when nothing was handled.
const FILTERED_EVERY: Duration = Duration::from_secs(1);

/// What a run needs.
pub(in crate::journal) struct Delivery {
    pub(in crate::journal) inner: Arc<Inner>,
    pub(in crate::journal) handler: AnyHandler,
    pub(in crate::journal) first: u64,
    /// It begins at the oldest event there is, whatever its number is by then: `first`, or a later one
    /// when a collection ran since.
    pub(in crate::journal) oldest: bool,
    pub(in crate::journal) stopping: watch::Receiver<bool>,
}

/// From the fetching side to the handling side.
enum Item {
    Event(Arc<StoredEvent>),
    /// Everything before this was sent, or left out by the filter.
    Through(u64),
}

/// Says that the watcher is stopped, however its task ends.
struct Ended(Arc<Inner>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.state.send_replace(WatcherState::Stopped);
    }
}

pub(in crate::journal) async fn run(delivery: Delivery) {
    let Delivery { inner, handler, first, oldest, stopping } = delivery;
    let _ended = Ended(Arc::clone(&inner));
    let (feed, items) = mpsc::channel(inner.options.buffer_size);
    let handling = Handling {
        checkpointed: first - 1,
        checkpointed_at: Instant::now(),
        handled_since: false,
        inner: &inner,
        handler,
        stopping: stopping.clone(),
    };
    let start = if oldest { Position::Oldest } else { Position::At(first) };
    tokio::join!(fetch(&inner, first, start, feed, stopping), handling.run(items));
}

/// Waits until it is told to stop; for ever when nobody can tell any more.
async fn told_to_stop(stopping: &mut watch::Receiver<bool>) {
    if stopping.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Fetches as far ahead as the buffer allows.
async fn fetch(
    inner: &Inner,
    first: u64,
    start: Position,
    feed: mpsc::Sender<Item>,
    mut stopping: watch::Receiver<bool>,
) {
    let (min, max) = inner.options.backoff;
    let mut options = ReadOptions {
        limit: inner.options.batch_size.min(inner.options.buffer_size),
        filter: inner.options.filter.clone(),
        timeout: None,
        beyond: inner.options.beyond,
    };
    let (mut next, mut position, mut delay) = (first, start, min);
    loop {
        let read = tokio::select! {
            biased;
            () = told_to_stop(&mut stopping) => return,
            read = inner.journal.events_with(position, &options) => read,
        };
        match after_fetch(inner, next, read) {
            Fetched::Items(items, then) => {
                (next, position, delay) = (then, Position::At(then), min);
                // Past its beginning, an end before `next` means that the journal went back.
                options.beyond = Beyond::Error;
                for item in items {
                    let sent = tokio::select! {
                        biased;
                        () = told_to_stop(&mut stopping) => return,
                        sent = feed.send(item) => sent,
                    };
                    if sent.is_err() {
                        return;
                    }
                }
            }
            Fetched::Nothing => delay = min,
            Fetched::Failed => {
                tokio::select! {
                    biased;
                    () = told_to_stop(&mut stopping) => return,
                    () = sleep(delay) => {}
                }
                delay = (delay * 2).min(max);
            }
        }
    }
}

enum Fetched {
    Items(Vec<Item>, u64),
    Nothing,
    Failed,
}

fn after_fetch(
    inner: &Inner,
    next: u64,
    read: Result<crate::journal::engine::read::Page, ReadError>,
) -> Fetched {
    let mut progress = inner.progress.lock();
    match read {
        Ok(page) => {
            progress.last_fetch = Some(SystemTime::now());
            progress.fetch_failure = None;
            let then = match page.next {
                Position::After(sequence) => sequence.saturating_add(1),
                _ => next,
            };
            if then == next {
                return Fetched::Nothing;
            }
            let mut items: Vec<_> = page.events.into_iter().map(Item::Event).collect();
            items.push(Item::Through(then));
            Fetched::Items(items, then)
        }
        Err(ReadError::Collected { oldest, .. }) => {
            tracing::warn!(watcher = inner.id, from = next, oldest, "events were collected unseen");
            progress.missed += oldest - next;
            Fetched::Items(vec![Item::Through(oldest)], oldest)
        }
        Err(ReadError::BeyondEnd { next: end, .. }) => {
            tracing::warn!(watcher = inner.id, from = next, end, "the journal went back");
            Fetched::Items(vec![Item::Through(end)], end)
        }
        Err(error) => {
            if progress.fetch_failure.is_none() {
                tracing::warn!(watcher = inner.id, %error, "events cannot be fetched");
            }
            progress.fetch_failure = Some(error);
            Fetched::Failed
        }
    }
}

/// The handling side.
struct Handling<'a> {
    inner: &'a Inner,
    handler: AnyHandler,
    stopping: watch::Receiver<bool>,
    checkpointed: u64,
    checkpointed_at: Instant,
    /// Whether an event was handled since the last checkpoint.
    handled_since: bool,
}

impl Handling<'_> {
    async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        loop {
            let item = tokio::select! {
                biased;
                () = told_to_stop(&mut self.stopping) => break,
                item = items.recv() => item,
            };
            match item {
                Some(Item::Event(event)) => {
                    if !self.deliver(&event).await {
                        break;
                    }
                }
                Some(Item::Through(next)) => {
                    self.inner.progress.lock().next = Some(next);
                    if self.handled_since || self.checkpointed_at.elapsed() >= FILTERED_EVERY {
                        self.checkpoint().await;
                    }
                }
                None => break,
            }
        }
        self.checkpoint().await;
    }

    /// Handles one event, with all its tries; false when it was told to stop before it is done.
    async fn deliver(&mut self, event: &Arc<StoredEvent>) -> bool {
        let (min, max) = self.inner.options.backoff;
        let (mut delay, mut tries) = (min, 0);
        let handled = loop {
            let Err(source) = self.handler.handle(event).await else { break true };
            tries += 1;
            let gives_up = match self.inner.options.retry {
                Retry::Block => false,
                Retry::Skip { max_retries } => tries > max_retries,
            };
            self.note_failure(event, source, gives_up);
            if gives_up {
                break false;
            }
            tokio::select! {
                biased;
                () = told_to_stop(&mut self.stopping) => return false,
                () = sleep(delay) => {}
            }
            delay = (delay * 2).min(max);
        };
        let mut progress = self.inner.progress.lock();
        progress.next = Some(event.sequence + 1);
        if handled {
            progress.last_processed = Some((event.sequence, event.time));
            progress.handled += 1;
        }
        self.handled_since = true;
        true
    }

    fn note_failure(&self, event: &StoredEvent, source: crate::view::BoxError, gives_up: bool) {
        let (watcher, sequence) = (self.inner.id.clone(), event.sequence);
        tracing::warn!(watcher, sequence, error = %source, gives_up, "an event was not handled");
        let mut progress = self.inner.progress.lock();
        progress.failures += 1;
        progress.skipped += u64::from(gives_up);
        progress.last_failure = Some(Arc::new(HandlingError { watcher, sequence, source }));
    }

    /// Stores how far it has come, if that is its task. A failure is mended by the next one: until
    /// then a restart repeats more.
    async fn checkpoint(&mut self) {
        let options = &self.inner.options;
        if options.ephemeral || options.checkpoints == Checkpoints::Manual {
            return;
        }
        let Some(next) = self.inner.progress.lock().next else { return };
        if next - 1 == self.checkpointed {
            return;
        }
        // Not back: a journal that went back has taken the checkpoint with it.
        match self.inner.store_checkpoint(next - 1, false).await {
            Ok(stored) => {
                (self.checkpointed, self.handled_since) = (stored, false);
                self.checkpointed_at = Instant::now();
            }
            Err(error) => {
                tracing::debug!(watcher = self.inner.id, %error, "no checkpoint for now");
            }
        }
    }
}
