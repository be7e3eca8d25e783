//! The watchers of a process, by id.
//!
//! Owns registering, looking up and stopping all. Must not know how a watcher works.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::options::{WatcherError, WatcherOptions};
use super::watcher::{STOP_WITHIN, Watcher};
use crate::journal::engine::journal::Journal;

/// The watchers of a journal. A handle, cheap to clone; with the last one the watchers that nobody
/// else holds are told to stop.
///
/// ```
/// # use etcd_keyspace::journal::{Journal, JournalOptions, NewEvent, Operation, Registry};
/// # use etcd_keyspace::journal::{WatcherOptions, handler_fn};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let journal = Journal::in_memory(JournalOptions::new()).await?;
/// let registry = Registry::new(&journal);
/// let (seen, mut sight) = tokio::sync::mpsc::unbounded_channel();
/// let options = WatcherOptions::new()
///     .handler(handler_fn(move |event| seen.send(event.sequence)))
///     .auto_start(true);
/// let watcher = registry.watch("mailer", options).await?;
/// journal.store_event(NewEvent::new(Operation::Create, "job", "{}")).await?;
/// assert_eq!(sight.recv().await, Some(1));
/// registry.stop_all(None).await?;
/// assert_eq!(watcher.stats().handled, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    journal: Journal,
    watchers: Mutex<BTreeMap<String, Watcher>>,
}

impl Registry {
    /// An empty one.
    #[must_use]
    pub fn new(journal: &Journal) -> Self {
        let watchers = Mutex::default();
        Registry { inner: Arc::new(Inner { journal: journal.clone(), watchers }) }
    }

    /// Registers a watcher, and starts it if its options say so.
    ///
    /// # Errors
    /// [`WatcherError::Options`] with all that is wrong; [`WatcherError::AlreadyExists`] for an id
    /// that a watcher of this journal has; else what [`Watcher::start`] gives. After an error there is
    /// no such watcher.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn watch(
        &self,
        id: impl Into<String>,
        options: WatcherOptions,
    ) -> Result<Watcher, WatcherError> {
        let id = id.into();
        if let Err(cause) = options.check(&id) {
            return Err(WatcherError::Options { id, cause });
        }
        let auto_start = options.auto_start;
        let watcher = {
            let mut claimed = self.inner.journal.shared().watchers.lock();
            if !claimed.insert(id.clone()) {
                return Err(WatcherError::AlreadyExists { id });
            }
            Watcher::new(id.clone(), self.inner.journal.clone(), options)
        };
        self.inner.watchers.lock().insert(id.clone(), watcher.clone());
        if auto_start && let Err(error) = watcher.start().await {
            self.inner.watchers.lock().remove(&id);
            return Err(error);
        }
        Ok(watcher)
    }

    /// The watcher of an id.
    ///
    /// # Errors
    /// [`WatcherError::NotFound`].
    pub fn get(&self, id: &str) -> Result<Watcher, WatcherError> {
        let found = self.inner.watchers.lock().get(id).cloned();
        found.ok_or_else(|| WatcherError::NotFound { id: id.to_owned() })
    }

    /// All ids, ascending.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.inner.watchers.lock().keys().cloned().collect()
    }

    /// Stops a watcher and takes it out. Its id is free once nobody holds the watcher any more; its
    /// checkpoint stays until it is [forgotten](Journal::forget_checkpoint).
    ///
    /// # Errors
    /// [`WatcherError::NotFound`], and what [`Watcher::stop`] gives; then it stays.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn remove(&self, id: &str, within: Duration) -> Result<(), WatcherError> {
        self.get(id)?.stop(within).await?;
        self.inner.watchers.lock().remove(id);
        Ok(())
    }

    /// Stops all watchers at once, within the given time or 30 s.
    ///
    /// # Errors
    /// The first [`WatcherError::StopTimeout`]; all were told to stop.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn stop_all(&self, within: Option<Duration>) -> Result<(), WatcherError> {
        let within = within.unwrap_or(STOP_WITHIN);
        let watchers: Vec<_> = self.inner.watchers.lock().values().cloned().collect();
        let mut stops = JoinSet::new();
        for watcher in watchers {
            stops.spawn(async move { watcher.stop(within).await });
        }
        stops.join_all().await.into_iter().collect()
    }
}
