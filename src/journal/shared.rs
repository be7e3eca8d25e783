//! What the journal's writer, its handles and its readers share.
//!
//! Owns the words of it and nothing else. Must not open, read or write the storage.

use std::collections::HashSet;
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};
use redb::Database;
use tokio::sync::watch;

use super::cache::Cache;
use super::error::StorageFault;
use super::options::JournalOptions;
use super::position::Extent;
use super::queue::Queue;

/// What readers wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) next: u64,
    /// Changes too when the storage fails or is open again, so that readers look anew.
    pub(super) turns: u64,
}

/// What the writer knows, for everybody to see without a read.
#[derive(Debug, Clone)]
pub(super) struct Figures {
    pub(super) extent: Extent,
    pub(super) bytes: u64,
    /// The next sequence number as of the last durable commit.
    pub(super) durable_next: u64,
    pub(super) off: Option<(StorageFault, SystemTime)>,
    pub(super) failures: u64,
}

/// The storage, or why it is off.
#[derive(Debug)]
pub(super) enum Slot {
    Open(Database),
    Off(StorageFault),
}

/// What the writer shares with handles and readers.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: JournalOptions,
    pub(super) queue: Queue,
    pub(super) slot: RwLock<Slot>,
    pub(super) head: watch::Sender<Head>,
    pub(super) figures: Mutex<Figures>,
    pub(super) cache: Mutex<Cache>,
    /// The ids of all watchers there are, since each has one checkpoint.
    pub(super) watchers: Mutex<HashSet<String>>,
    pub(super) ended: watch::Sender<Option<Result<(), StorageFault>>>,
}

impl Shared {
    pub(super) fn turn(&self, next: u64) {
        self.head.send_modify(|head| *head = Head { next, turns: head.turns + 1 });
    }
}
