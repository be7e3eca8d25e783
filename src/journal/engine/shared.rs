//! What the journal's writer, its handles and its readers share.
//!
//! Owns the words of it and nothing else. Must not open, read or write the storage.

use std::collections::HashSet;
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};
use redb::Database;
use tokio::sync::watch;

use super::queue::Queue;
use crate::journal::error::StorageFault;
use crate::journal::file::cache::Cache;
use crate::journal::options::JournalOptions;
use crate::journal::position::Extent;

/// What readers wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) struct Head {
    pub(in crate::journal) next: u64,
    /// Changes too when the storage fails or is open again, so that readers look anew.
    pub(in crate::journal) turns: u64,
}

/// What the writer knows, for everybody to see without a read.
#[derive(Debug, Clone)]
pub(in crate::journal) struct Figures {
    pub(in crate::journal) extent: Extent,
    pub(in crate::journal) bytes: u64,
    /// The next sequence number as of the last durable commit.
    pub(in crate::journal) durable_next: u64,
    pub(in crate::journal) off: Option<(StorageFault, SystemTime)>,
    pub(in crate::journal) failures: u64,
}

/// The storage, or why it is off.
#[derive(Debug)]
pub(in crate::journal) enum Slot {
    Open(Database),
    Off(StorageFault),
}

/// What the writer shares with handles and readers.
#[derive(Debug)]
pub(in crate::journal) struct Shared {
    pub(in crate::journal) options: JournalOptions,
    pub(in crate::journal) queue: Queue,
    pub(in crate::journal) slot: RwLock<Slot>,
    pub(in crate::journal) head: watch::Sender<Head>,
    pub(in crate::journal) figures: Mutex<Figures>,
    pub(in crate::journal) cache: Mutex<Cache>,
    /// The ids of all watchers there are, since each has one checkpoint.
    pub(in crate::journal) watchers: Mutex<HashSet<String>>,
    pub(in crate::journal) ended: watch::Sender<Option<Result<(), StorageFault>>>,
}

impl Shared {
    pub(in crate::journal) fn turn(&self, next: u64) {
        self.head.send_modify(|head| *head = Head { next, turns: head.turns + 1 });
    }
}
