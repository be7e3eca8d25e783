//! What the handles of a watcher and its task share.
//!
//! Owns its state, progress and checkpoint. Must not start or end the task.

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::JoinHandle;

use super::error::{CheckpointError, HandlingError, ReadError, StoreError};
use super::handle::Journal;
use super::handler::AnyHandler;
use super::watching::{WatcherOptions, WatcherState};
use super::work::{Answer, Work};

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) id: String,
    pub(super) journal: Journal,
    pub(super) options: WatcherOptions,
    pub(super) handler: Mutex<Option<AnyHandler>>,
    pub(super) state: watch::Sender<WatcherState>,
    pub(super) progress: Mutex<Progress>,
    /// Tells the task that runs to stop.
    pub(super) stop: Mutex<Option<watch::Sender<bool>>>,
    /// Held while starting, stopping or seeking, so that they take turns. The task, while there is one.
    pub(super) control: AsyncMutex<Option<JoinHandle<()>>>,
}

/// What changes while it runs.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The next event; `None` until it was started.
    pub(super) next: Option<u64>,
    pub(super) last_processed: Option<(u64, SystemTime)>,
    pub(super) last_fetch: Option<SystemTime>,
    pub(super) handled: u64,
    pub(super) skipped: u64,
    pub(super) missed: u64,
    pub(super) failures: u64,
    pub(super) last_failure: Option<Arc<HandlingError>>,
    pub(super) fetch_failure: Option<ReadError>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.journal.shared().watchers.lock().remove(&self.id);
    }
}

impl Inner {
    /// Tells the task to stop, without waiting.
    pub(super) fn tell_to_stop(&self) {
        if let Some(stop) = &*self.stop.lock() {
            stop.send_replace(true);
        }
    }

    pub(super) async fn store_checkpoint(
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
