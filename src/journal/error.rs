//! Errors of the journal, typed by operation, with their causes.
//!
//! Owns the error types of opening, storing, reading and checkpoints, and how the storage engine's
//! errors map to them. Must not decide what to do about one: the writer and the watchers do.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::mirror_batch::Cursor;
use super::position::Position;

/// What went wrong below the journal: in the file, on the disk or in the storage engine.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StorageFault {
    /// No room is left. Free some; a journal that retries goes on by itself.
    #[error("the disk is full")]
    DiskFull(#[source] Arc<io::Error>),
    /// The file or its folder may not be written. Fix the rights or the mount.
    #[error("the journal may not be written")]
    ReadOnly(#[source] Arc<io::Error>),
    /// Another failure of the system. Retry; look at the disk when it stays.
    #[error("the storage failed")]
    Io(#[source] Arc<io::Error>),
    /// What is stored is not what was written. Set the file aside, and begin a new one.
    #[error("the journal is damaged: {what}")]
    Damaged {
        /// What was found.
        what: String,
    },
    /// The journal was closed, or closed its storage after a fault while this was read from it. Read
    /// again, or open the journal anew.
    #[error("the journal is closed")]
    Closed,
}

impl StorageFault {
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        StorageFault::Damaged { what: what.into() }
    }

    /// Bytes that are not there, or not as they should be, are damage and not a failing disk.
    pub(super) fn of_io(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => {
                StorageFault::DiskFull(Arc::new(error))
            }
            Kind::ReadOnlyFilesystem | Kind::PermissionDenied => {
                StorageFault::ReadOnly(Arc::new(error))
            }
            Kind::UnexpectedEof | Kind::InvalidData => StorageFault::damaged(error.to_string()),
            _ => StorageFault::Io(Arc::new(error)),
        }
    }
}

impl From<redb::StorageError> for StorageFault {
    fn from(error: redb::StorageError) -> Self {
        match error {
            redb::StorageError::Io(error) => StorageFault::of_io(error),
            redb::StorageError::Corrupted(what) => StorageFault::Damaged { what },
            redb::StorageError::DatabaseClosed => StorageFault::Closed,
            other => StorageFault::Io(Arc::new(io::Error::other(other))),
        }
    }
}

impl From<redb::TableError> for StorageFault {
    fn from(error: redb::TableError) -> Self {
        match error {
            redb::TableError::Storage(error) => error.into(),
            other => StorageFault::damaged(other.to_string()),
        }
    }
}

impl From<redb::CursorError> for StorageFault {
    fn from(error: redb::CursorError) -> Self {
        match error {
            redb::CursorError::Storage(error) => error.into(),
            // Records are given in order, so what lies there already does not belong there.
            other => StorageFault::damaged(other.to_string()),
        }
    }
}

impl From<redb::TransactionError> for StorageFault {
    fn from(error: redb::TransactionError) -> Self {
        match error {
            redb::TransactionError::Storage(error) => error.into(),
            other => StorageFault::Io(Arc::new(io::Error::other(other))),
        }
    }
}

impl From<redb::CommitError> for StorageFault {
    fn from(error: redb::CommitError) -> Self {
        match error {
            redb::CommitError::Storage(error) => error.into(),
            other => StorageFault::Io(Arc::new(io::Error::other(other))),
        }
    }
}

/// A journal could not be opened. The file is as it was, but for what a crash had left unfinished.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Options contradict each other. Fix the caller.
    #[error(transparent)]
    Options(#[from] super::options::OptionsError),
    /// Another handle, of this process or another one, has the file open. Close it, or use another
    /// file: one journal belongs to one process.
    #[error("the journal {path:?} is in use by another process or another handle of this one")]
    Locked {
        /// The file; `None` for a storage of the caller's.
        path: Option<PathBuf>,
    },
    /// The file was written in another format. Use the version of the crate that knows it, or set
    /// the file aside.
    #[error("the journal has format {found}, and this version knows format {known}")]
    OtherFormat {
        /// The format of the file.
        found: u32,
        /// The format that this version reads and writes.
        known: u32,
    },
    /// The storage engine's own format is another one. As [`OtherFormat`](OpenError::OtherFormat).
    #[error("the file has format {found} of the storage engine, which this version does not know")]
    OtherEngineFormat {
        /// The engine's format of the file.
        found: u8,
    },
    /// A file of something else. Fix the path.
    #[error("the file is no journal")]
    NotAJournal,
    /// The file could not be read or written, or is damaged; the cause says what to do.
    #[error("the journal could not be opened")]
    Storage(#[source] StorageFault),
}

impl From<StorageFault> for OpenError {
    fn from(fault: StorageFault) -> Self {
        OpenError::Storage(fault)
    }
}

impl From<redb::DatabaseError> for OpenError {
    fn from(error: redb::DatabaseError) -> Self {
        use redb::DatabaseError as Engine;
        match error {
            Engine::DatabaseAlreadyOpen | Engine::LockProtocolMismatch => {
                OpenError::Locked { path: None }
            }
            Engine::UpgradeRequired(found) => OpenError::OtherEngineFormat { found },
            Engine::Storage(error) => OpenError::Storage(error.into()),
            other => OpenError::Storage(StorageFault::Io(Arc::new(io::Error::other(other)))),
        }
    }
}

/// Something could not be stored.
///
/// Unless the variant is [`Storage`](StoreError::Storage) nothing was stored. After a storage fault
/// the outcome is open: whole or not at all, and [`Journal::cursor`](super::Journal::cursor) or a
/// read tells once the journal is open again.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The storage failed. Retry as the cause says.
    #[error("nothing was acknowledged")]
    Storage(#[source] StorageFault),
    /// The batch does not continue what is stored of the mirror. Read the cursor, and go on from it.
    #[error("the batch of mirror {mirror:?} continues {expected:?}, and {stored:?} is stored")]
    CursorMismatch {
        /// The mirror.
        mirror: String,
        /// What the batch continues.
        expected: Option<Cursor>,
        /// What is stored.
        stored: Option<Cursor>,
    },
    /// A name is empty or too long, or an object too large. Fix the caller.
    #[error("{what} of {len} bytes is outside of {min} to {max}")]
    Size {
        /// Which part.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
}

impl From<StorageFault> for StoreError {
    fn from(fault: StorageFault) -> Self {
        StoreError::Storage(fault)
    }
}

/// Events could not be read. The position is as it was.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The storage failed. Retry as the cause says.
    #[error("the journal could not be read")]
    Storage(#[source] StorageFault),
    /// The position lies beyond the end, and the caller chose to be told. Fix the caller, or find
    /// out where the events went.
    #[error("position {asked} lies beyond the end: the next event will be {next}")]
    BeyondEnd {
        /// The position.
        asked: Position,
        /// The sequence number that the next event will get.
        next: u64,
    },
    /// Events at the position were removed by garbage collection. Go on at the oldest, knowing that
    /// some are missed.
    #[error("events from {asked} on were collected: the oldest is {oldest}")]
    Collected {
        /// The first event asked for.
        asked: u64,
        /// The oldest event there is, or the next when there is none.
        oldest: u64,
    },
}

impl From<StorageFault> for ReadError {
    fn from(fault: StorageFault) -> Self {
        ReadError::Storage(fault)
    }
}

/// A checkpoint could not be set. The stored one is as it was, unless the storage failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// An ephemeral watcher has none. Fix the caller.
    #[error("watcher {id:?} is ephemeral and keeps no checkpoint")]
    Ephemeral {
        /// The watcher.
        id: String,
    },
    /// It would run ahead of what was handled. Checkpoint after handling.
    #[error("checkpoint {asked} of watcher {id:?} runs ahead of {processed}, the last processed")]
    Ahead {
        /// The watcher.
        id: String,
        /// The checkpoint.
        asked: u64,
        /// The last event that was handled or filtered out.
        processed: u64,
    },
    /// It could not be stored. As the cause says.
    #[error("the checkpoint of watcher {id:?} could not be stored")]
    Store {
        /// The watcher.
        id: String,
        /// Why.
        #[source]
        cause: StoreError,
    },
}

/// A handler failed on an event.
#[derive(Debug, thiserror::Error)]
#[error("watcher {watcher:?} could not handle event {sequence}")]
pub struct HandlingError {
    /// The watcher.
    pub watcher: String,
    /// The event.
    pub sequence: u64,
    /// What the handler gave.
    #[source]
    pub source: Box<dyn StdError + Send + Sync>,
}
