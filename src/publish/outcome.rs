//! What a writer did with a batch or a complete read, or why nothing.

use crate::model::Revision;
use crate::view::{BadRecord, Tolerated};

/// What one applied batch did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// Events applied, before they were summed up per key.
    pub events: usize,
    /// Those of them that delete.
    pub deletes: usize,
    /// Events that were delivered before and dropped.
    pub duplicates: usize,
    /// Entries changed.
    pub changes: usize,
    /// Values that could not be decoded; those overwritten in the same batch do not count.
    pub rejected: usize,
    /// The view's revision now.
    pub revision: Revision,
    /// The confirmed revision now.
    pub confirmed: Revision,
    /// Breaks tolerated by [`Continuity::Lenient`](crate::Continuity::Lenient), in key order; empty when strict.
    pub tolerated: Vec<Tolerated>,
}

/// A complete read could not be taken in. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A key is not above the one before it, or outside the range. Fix the caller, or distrust the
    /// server.
    #[error("key {} does not ascend within the range", key.escape_ascii())]
    Unordered {
        /// The key.
        key: Vec<u8>,
    },
    /// The read's revision is not above zero, which stands for "nothing loaded". Give the header of the read
    /// its revision; etcd's begin at one.
    #[error("read at revision {got}, which no store has")]
    NoRevision {
        /// The revision of the read.
        got: Revision,
    },
    /// etcd gives no key such numbers. Revisions are positive, and a key is modified no earlier than it is
    /// created. Versions are not negative, and only a creation has version 1. Version 0 is accepted,
    /// for servers that keep none. Read again elsewhere; report the server.
    #[error(
        "key {} has impossible numbers: created at {create_revision}, modified at {mod_revision}, \
         version {version}",
        key.escape_ascii()
    )]
    Impossible {
        /// The key.
        key: Vec<u8>,
        /// Its create revision.
        create_revision: Revision,
        /// Its mod revision.
        mod_revision: Revision,
        /// Its version.
        version: i64,
    },
    /// The read's revision is below that of a key in it. Read again elsewhere; report the server.
    #[error("read at revision {header} has a key of revision {entry}")]
    HeaderBehind {
        /// The revision of the read.
        header: Revision,
        /// The revision of the key.
        entry: Revision,
    },
    /// The read is older than what is confirmed, and nothing may go back within an epoch (C6). Read
    /// at a newer revision.
    #[error("read at revision {got} is behind {confirmed}")]
    Behind {
        /// The confirmed revision.
        confirmed: Revision,
        /// The revision of the read.
        got: Revision,
    },
    /// The read is of another cluster. Give up, or load anew under a new epoch.
    #[error("read of cluster {got:x}, expected {expected:x}")]
    ClusterMismatch {
        /// The cluster the view is of.
        expected: u64,
        /// The cluster that answered.
        got: u64,
    },
}

impl From<BadRecord> for LoadError {
    fn from(bad: BadRecord) -> Self {
        match bad {
            BadRecord::Unordered { key } => LoadError::Unordered { key },
            BadRecord::Impossible { key, numbers } => LoadError::Impossible {
                key,
                create_revision: numbers.create_revision,
                mod_revision: numbers.mod_revision,
                version: numbers.version,
            },
        }
    }
}
