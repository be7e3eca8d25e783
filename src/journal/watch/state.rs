//! What the handles of a watcher and its task share.
//!
//! Owns its state, progress and checkpoint. Must not start or end the task.

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::JoinHandle;

use super::handler::AnyHandler;
use super::options::{WatcherOptions, WatcherState};
use crate::journal::engine::journal::Journal;
use crate::journal::engine::work::{Answer, Work};
use crate::journal::error::{CheckpointError, HandlingError, ReadError, StoreError};

#[derive(Debug)]
pub(in crate::journal) struct Inner {
    pub(in crate::journal) id: String,
    pub(in crate::journal) journal: Journal,
    pub(in crate::journal) options: WatcherOptions,
    pub(in crate::journal) handler: Mutex<Option<AnyHandler>>,
    pub(in crate::journal) state: watch::Sender<WatcherState>,
    pub(in crate::journal) progress: Mutex<Progress>,
    /// Tells the task that runs to stop.
    pub(in crate::journal) stop: Mutex<Option<watch::Sender<bool>>>,
    /// Held while starting, stopping or seeking, so that they take turns. The task, while there is one.
    pub(in crate::journal) control: AsyncMutex<Option<JoinHandle<()>>>,
}

/// What changes while it runs.
#[derive(Debug, Default)]
pub(in crate::journal) struct Progress {
    /// The next event; `None` until it was started.
    pub(in crate::journal) next: Option<u64>,
    pub(in crate::journal) last_processed: Option<(u64, SystemTime)>,
    pub(in crate::journal) last_fetch: Option<SystemTime>,
    pub(in crate::journal) handled: u64,
    pub(in crate::journal) skipped: u64,
    pub(in crate::journal) missed: u64,
    pub(in crate::journal) failures: u64,
    pub(in crate::journal) last_failure: Option<Arc<HandlingError>>,
    pub(in crate::journal) fetch_failure: Option<ReadError>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.journal.shared().watchers.lock().remove(&self.id);
    }
}

impl Inner {
    /// Tells the task to stop, without waiting.
    pub(in crate::journal) fn tell_to_stop(&self) {
        if let Some(stop) = &*self.stop.lock() {
            stop.send_replace(true);
        }
    }

    pub(in crate::journal) async fn store_checkpoint(
        &self,
        sequence: u64,
        back: bool,
    ) -> Result<u64, CheckpointError> {
        let work = Work::Checkpoint { id: self.id.clone(), sequence, back };
        let stored = self.journal.call(work).await.map(|answer| match answer {
            Answer::Checkpoint(stored) => stored,
            other => unreachable!("{other:?} for a checkpoint"),
        });
        stored.map_err(|cause: StoreError| CheckpointError::Store { id: self.id.clone(), cause })
    }
}
