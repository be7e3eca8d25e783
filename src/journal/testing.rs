//! Doubles for the tests of applications' handlers (BW-22, feature `test-util`).
//!
//! Owns [`Recorder`], a handler that records and fails as told, and [`replay`], which calls a handler
//! without a journal. For a journal itself there is [`Journal::in_memory`](super::Journal::in_memory),
//! and [`MemoryStorage`](super::MemoryStorage) for one that is opened again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::error::HandlingError;
use super::event::{NewEvent, StoredEvent};
use super::watch::handler::{AnyHandler, Handler};
use crate::view::BoxError;

/// A handler that records each call, and fails or waits as told. Clones share what they record.
///
/// ```
/// # use etcd_keyspace::journal::{Journal, JournalOptions, NewEvent, Operation, Recorder};
/// # use etcd_keyspace::journal::{Registry, WatcherOptions};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let journal = Journal::in_memory(JournalOptions::new()).await?;
/// let recorder = Recorder::new();
/// recorder.fail_next(1);
/// let options = WatcherOptions::new().handler(recorder.clone()).auto_start(true);
/// let watcher = Registry::new(&journal).watch("tested", options).await?;
/// journal.store_event(NewEvent::new(Operation::Create, "job", "1")).await?;
/// recorder.called(2).await;
/// assert_eq!(recorder.sequences(), [1, 1]);
/// assert_eq!(watcher.stats().failures, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    calls: Mutex<Vec<Arc<StoredEvent>>>,
    /// Errors for the next calls; `None` for one that succeeds.
    script: Mutex<VecDeque<Option<String>>>,
    count: watch::Sender<usize>,
    held: watch::Sender<bool>,
}

impl Default for Recorder {
    fn default() -> Self {
        let shared = Shared {
            calls: Mutex::default(),
            script: Mutex::default(),
            count: watch::Sender::new(0),
            held: watch::Sender::new(false),
        };
        Recorder { shared: Arc::new(shared) }
    }
}

impl Recorder {
    /// One that succeeds until told otherwise.
    #[must_use]
    pub fn new() -> Self {
        Recorder::default()
    }

    /// The next calls fail, after those told of before.
    pub fn fail_next(&self, calls: usize) {
        let failures = std::iter::repeat_n(Some("the recorder was told to fail".to_owned()), calls);
        self.shared.script.lock().extend(failures);
    }

    /// The next calls succeed, after those told of before.
    pub fn succeed_next(&self, calls: usize) {
        self.shared.script.lock().extend(std::iter::repeat_n(None, calls));
    }

    /// Calls are recorded and then wait until [`release`](Recorder::release).
    pub fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    /// Calls wait no longer.
    pub fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// Waits until it was called so many times in all.
    pub async fn called(&self, times: usize) {
        let mut count = self.shared.count.subscribe();
        // The sender is in `self`.
        let _ = count.wait_for(|count| *count >= times).await;
    }

    /// The events of all calls, in order, repetitions included.
    #[must_use]
    pub fn events(&self) -> Vec<Arc<StoredEvent>> {
        self.shared.calls.lock().clone()
    }

    /// Their sequence numbers.
    #[must_use]
    pub fn sequences(&self) -> Vec<u64> {
        self.shared.calls.lock().iter().map(|event| event.sequence).collect()
    }
}

impl Handler for Recorder {
    async fn handle(&self, event: &Arc<StoredEvent>) -> Result<(), BoxError> {
        let calls = {
            let mut calls = self.shared.calls.lock();
            calls.push(Arc::clone(event));
            calls.len()
        };
        let told = self.shared.script.lock().pop_front().flatten();
        self.shared.count.send_if_modified(|count| {
            let more = *count < calls;
            *count = calls.max(*count);
            more
        });
        let mut held = self.shared.held.subscribe();
        let _ = held.wait_for(|held| !*held).await;
        told.map_or(Ok(()), |message| Err(message.into()))
    }
}

/// Calls a handler for events as a watcher would, numbered from one, each once; stops at the first
/// failure. A panic of the handler counts as one.
///
/// ```
/// # use etcd_keyspace::journal::{NewEvent, Operation, handler_fn, replay};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let handler = handler_fn(|event| match event.operation {
///     Operation::Delete => Err("cannot forget"),
///     _ => Ok(()),
/// });
/// let created = NewEvent::new(Operation::Create, "job", "1");
/// let deleted = NewEvent::new(Operation::Delete, "job", "1");
/// let failure = replay(handler, [created, deleted]).await.unwrap_err();
/// assert_eq!(failure.sequence, 2);
/// # }
/// ```
///
/// # Errors
/// The failure, with the event's number.
pub async fn replay(
    handler: impl Handler,
    events: impl IntoIterator<Item = NewEvent>,
) -> Result<(), HandlingError> {
    let handler = AnyHandler::new(handler);
    for (event, sequence) in events.into_iter().zip(1..) {
        let event = Arc::new(event.stored(sequence, SystemTime::now()));
        handler.handle(&event).await.map_err(|source| HandlingError {
            watcher: "replay".to_owned(),
            sequence,
            source,
        })?;
    }
    Ok(())
}
