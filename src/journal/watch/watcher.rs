//! A named consumer of the journal with its own task, position and pace.
//!
//! Owns starting, stopping, seeking and checkpoints. The loop itself is `delivery`. Must not touch
//! another watcher.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::JoinHandle;

use super::delivery::{self, Delivery};
use super::handler::{AnyHandler, Handler};
use super::options::{WatcherError, WatcherOptions, WatcherState, WatcherStats};
use super::state::Inner;
use crate::journal::engine::journal::Journal;
use crate::journal::error::{CheckpointError, ReadError};
use crate::journal::position::{Beyond, Position};

/// How long [`seek`](Watcher::seek) and a registry's stop give a handler to return, unless told.
pub(in crate::journal) const STOP_WITHIN: Duration = Duration::from_secs(30);
/// How long a task that was aborted gets to end; one that blocks its thread cannot.
const ABORT_WITHIN: Duration = Duration::from_millis(100);

/// A named watcher of a [`Registry`](crate::journal::Registry). A handle, cheap to clone; the registry holds
/// one too. With the last one the watcher is told to stop.
#[derive(Debug, Clone)]
pub struct Watcher {
    handle: Arc<Handle>,
}

/// What handles share; the task has only what is inside, so that it does not keep itself going.
#[derive(Debug)]
struct Handle {
    inner: Arc<Inner>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inner.tell_to_stop();
    }
}

impl Watcher {
    /// The id was claimed in the journal before.
    pub(in crate::journal) fn new(
        id: String,
        journal: Journal,
        mut options: WatcherOptions,
    ) -> Self {
        let inner = Inner {
            handler: Mutex::new(options.handler.take()),
            state: watch::Sender::new(WatcherState::Idle),
            progress: Mutex::default(),
            stop: Mutex::new(None),
            control: AsyncMutex::new(None),
            id,
            journal,
            options,
        };
        Watcher { handle: Arc::new(Handle { inner: Arc::new(inner) }) }
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.handle.inner.id
    }

    /// Whether it runs.
    #[must_use]
    pub fn state(&self) -> WatcherState {
        *self.handle.inner.state.borrow()
    }

    /// Sets the handler.
    ///
    /// # Errors
    /// [`WatcherError::HandlerSet`] when it has one.
    pub fn set_handler(&self, handler: impl Handler) -> Result<(), WatcherError> {
        let mut slot = self.handle.inner.handler.lock();
        if slot.is_some() {
            return Err(WatcherError::HandlerSet { id: self.handle.inner.id.clone() });
        }
        *slot = Some(AnyHandler::new(handler));
        Ok(())
    }

    /// How it is doing, at any time, also after its stop.
    #[must_use]
    pub fn stats(&self) -> WatcherStats {
        let state = self.state();
        let progress = self.handle.inner.progress.lock();
        let next = progress.next.map(|next| Position::After(next - 1));
        WatcherStats {
            id: self.handle.inner.id.clone(),
            state,
            next: next.unwrap_or(self.handle.inner.options.initial),
            last_processed: progress.last_processed,
            last_fetch: progress.last_fetch,
            handled: progress.handled,
            skipped: progress.skipped,
            missed: progress.missed,
            failures: progress.failures,
            last_failure: progress.last_failure.clone(),
            fetch_failure: progress.fetch_failure.clone(),
        }
    }

    // ---- Starting and stopping -----------------------------------------------------------------------

    /// Starts it: after its checkpoint, or at its initial position when it has none.
    ///
    /// # Errors
    /// [`WatcherError`], when it has no handler, is not idle or stopped, or cannot begin where it
    /// should.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(&self) -> Result<(), WatcherError> {
        let mut control = self.handle.inner.control.lock().await;
        self.start_at(&mut control, None).await
    }

    async fn start_at(
        &self,
        control: &mut Option<JoinHandle<()>>,
        after: Option<u64>,
    ) -> Result<(), WatcherError> {
        let inner = &self.handle.inner;
        let id = || inner.id.clone();
        let handler = inner.handler.lock().clone();
        let handler = handler.ok_or_else(|| WatcherError::NoHandler { id: id() })?;
        let state = self.state();
        if !matches!(state, WatcherState::Idle | WatcherState::Stopped) {
            return Err(WatcherError::NotStartable { id: id(), state });
        }
        let (first, oldest) = match after {
            Some(after) => (after.saturating_add(1), false),
            None => self.beginning().await?,
        };
        *control = Some(self.run(handler, first, oldest));
        Ok(())
    }

    fn run(&self, handler: AnyHandler, first: u64, oldest: bool) -> JoinHandle<()> {
        let inner = &self.handle.inner;
        inner.progress.lock().next = Some(first);
        inner.state.send_replace(WatcherState::Running);
        let (stop, stopping) = watch::channel(false);
        let delivery = Delivery { inner: Arc::clone(inner), handler, first, oldest, stopping };
        *inner.stop.lock() = Some(stop);
        tokio::spawn(delivery::run(delivery))
    }

    /// The first event to handle, and whether it is just the oldest one there is.
    async fn beginning(&self) -> Result<(u64, bool), WatcherError> {
        let inner = &self.handle.inner;
        let begin = |cause| WatcherError::Begin { id: inner.id.clone(), cause };
        let extent = inner.journal.shared().readable().map_err(|fault| begin(fault.into()))?;
        if !inner.options.ephemeral {
            let stored = inner.journal.checkpoint(&inner.id).await.map_err(begin)?;
            if let Some(checkpoint) = stored {
                let position = Position::After(checkpoint.sequence);
                return match position.resolve(extent, inner.options.beyond) {
                    // The loop counts what it misses, and goes on at the oldest.
                    Err(ReadError::Collected { asked, .. }) => Ok((asked, false)),
                    resolved => resolved.map(|first| (first, false)).map_err(begin),
                };
            }
        }
        let first = inner.options.initial.resolve(extent, inner.options.beyond).map_err(begin)?;
        if !inner.options.ephemeral {
            // From here on a restart goes on here, and no collection runs ahead.
            let stored = self.handle.inner.store_checkpoint(first - 1, false).await;
            stored.map_err(|cause| WatcherError::Checkpoint {
                id: inner.id.clone(),
                cause: Box::new(cause),
            })?;
        }
        Ok((first, inner.options.initial == Position::Oldest))
    }

    /// Stops it and waits until its handler has returned, `within` the given time. Idempotent.
    ///
    /// # Errors
    /// [`WatcherError::StopTimeout`]; the handler is then cut off at its next await, and its event
    /// will come again.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn stop(&self, within: Duration) -> Result<(), WatcherError> {
        let late = || WatcherError::StopTimeout { id: self.handle.inner.id.clone(), within };
        let deadline = tokio::time::Instant::now() + within;
        let turn = tokio::time::timeout_at(deadline, self.handle.inner.control.lock()).await;
        let mut control = turn.map_err(|_| late())?;
        self.stop_in_turn(&mut control, deadline).await.map_err(|()| late())
    }

    async fn stop_in_turn(
        &self,
        control: &mut Option<JoinHandle<()>>,
        deadline: tokio::time::Instant,
    ) -> Result<(), ()> {
        let Some(task) = control else { return Ok(()) };
        self.handle.inner.state.send_if_modified(|state| {
            let runs = *state == WatcherState::Running;
            if runs {
                *state = WatcherState::Stopping;
            }
            runs
        });
        self.handle.inner.tell_to_stop();
        if tokio::time::timeout_at(deadline, &mut *task).await.is_ok() {
            *control = None;
            return Ok(());
        }
        task.abort();
        if tokio::time::timeout(ABORT_WITHIN, task).await.is_ok() {
            *control = None;
        }
        Err(())
    }

    // ---- Checkpoints ---------------------------------------------------------------------------------

    /// Stores that everything up to `sequence`, inclusive, is done: a restart goes on strictly after
    /// it. Gives the checkpoint that is stored now; one below it changes nothing.
    ///
    /// # Errors
    /// [`CheckpointError::Ephemeral`], [`CheckpointError::Ahead`] of what the handler has returned
    /// from, and [`CheckpointError::Store`].
    pub async fn checkpoint(&self, sequence: u64) -> Result<u64, CheckpointError> {
        let id = || self.handle.inner.id.clone();
        if self.handle.inner.options.ephemeral {
            return Err(CheckpointError::Ephemeral { id: id() });
        }
        let processed = self.handle.inner.progress.lock().next.map_or(0, |next| next - 1);
        if sequence > processed {
            return Err(CheckpointError::Ahead { id: id(), asked: sequence, processed });
        }
        self.handle.inner.store_checkpoint(sequence, false).await
    }

    /// Goes to another place: stops, stores `sequence` as the checkpoint unless it is ephemeral, and
    /// starts strictly after it.
    ///
    /// # Errors
    /// [`WatcherError::Begin`] for a place that cannot be read, before anything is done; else what
    /// [`stop`](Watcher::stop) and [`start`](Watcher::start) give.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn seek(&self, sequence: u64) -> Result<(), WatcherError> {
        let inner = &self.handle.inner;
        let id = || inner.id.clone();
        let extent = inner.journal.shared().readable().map_err(ReadError::from);
        let resolved =
            extent.and_then(|extent| Position::After(sequence).resolve(extent, Beyond::Error));
        resolved.map_err(|cause| WatcherError::Begin { id: id(), cause })?;
        if inner.handler.lock().is_none() {
            return Err(WatcherError::NoHandler { id: id() });
        }
        let deadline = tokio::time::Instant::now() + STOP_WITHIN;
        let mut control = inner.control.lock().await;
        let stopped = self.stop_in_turn(&mut control, deadline).await;
        stopped.map_err(|()| WatcherError::StopTimeout { id: id(), within: STOP_WITHIN })?;
        inner.progress.lock().next = Some(sequence.saturating_add(1));
        if !inner.options.ephemeral {
            let stored = inner.store_checkpoint(sequence, true).await;
            stored
                .map_err(|cause| WatcherError::Checkpoint { id: id(), cause: Box::new(cause) })?;
        }
        self.start_at(&mut control, Some(sequence)).await
    }
}

#[cfg(test)]
pub(in crate::journal) mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::journal::{JournalOptions, NewEvent, Operation, Retention, StoredEvent, handler_fn};

    /// A journal of ten events, of which a collection removes four.
    pub(in crate::journal) async fn ten_events() -> Journal {
        let retention = Retention {
            age: Some(Duration::ZERO),
            every: None,
            max_records: 4,
            ..Retention::default()
        };
        let options = JournalOptions::new().retention(retention).cache(0, 0);
        let journal = Journal::in_memory(options).await.unwrap();
        let events = (0..10).map(|_| NewEvent::new(Operation::Create, "t", "x"));
        journal.store_batch(events.collect()).await.unwrap();
        journal
    }

    /// Events that were collected between the start and the first fetch were never asked for.
    #[tokio::test]
    async fn h61_a_watcher_from_the_oldest_misses_nothing_by_a_collection() {
        let journal = ten_events().await;
        let (sender, mut handled) = tokio::sync::mpsc::unbounded_channel();
        let handler = handler_fn(move |event: &StoredEvent| sender.send(event.sequence));
        let options = WatcherOptions::new().ephemeral(true).handler(handler);
        let watcher = Watcher::new("w".to_owned(), journal.clone(), options);
        let (first, oldest) = watcher.beginning().await.unwrap();
        assert_eq!((first, oldest), (1, true));
        journal.collect(SystemTime::now() + Duration::from_secs(60)).await.unwrap();
        let handler = watcher.handle.inner.handler.lock().clone().unwrap();
        *watcher.handle.inner.control.lock().await = Some(watcher.run(handler, first, oldest));
        for sequence in 5..=10 {
            assert_eq!(handled.recv().await, Some(sequence));
        }
        watcher.stop(STOP_WITHIN).await.unwrap();
        assert_eq!((watcher.stats().missed, watcher.stats().handled), (0, 6));
    }
}
