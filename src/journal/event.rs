//! Events as they are given to the journal and as they come out of it.
//!
//! Owns the plain types. Must not know how they are laid out in the file: that is `format`.

use std::fmt;
use std::time::SystemTime;

use crate::model::Revision;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// It appeared.
    Create,
    /// It changed.
    Update,
    /// It went.
    Delete,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Create => "create",
            Operation::Update => "update",
            Operation::Delete => "delete",
        })
    }
}

/// An event to be stored. The journal gives it a sequence number, and a time unless it has one.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewEvent {
    /// What happened.
    pub operation: Operation,
    /// The object's type, a name of the application's; 1 to 255 bytes.
    pub object_type: String,
    /// The object, in bytes that the application understands (see [`Types`](super::Types)).
    pub object: Vec<u8>,
    /// When; the time of storing unless set.
    pub time: Option<SystemTime>,
    /// The key in etcd, of a mirrored event; `None` in one that stands for
    /// [all keys of the type](crate::Builder::journal).
    pub key: Option<Vec<u8>>,
    /// The revision in etcd, of a mirrored event.
    pub revision: Option<Revision>,
    /// The event was not sent by etcd but made from the difference that a reload found, and
    /// `revision` is that of the reload.
    pub synthesized: bool,
}

impl NewEvent {
    /// An event of the application's.
    pub fn new(
        operation: Operation,
        object_type: impl Into<String>,
        object: impl Into<Vec<u8>>,
    ) -> Self {
        let (object_type, object) = (object_type.into(), object.into());
        NewEvent {
            operation,
            object_type,
            object,
            time: None,
            key: None,
            revision: None,
            synthesized: false,
        }
    }

    /// The same, of a key and revision of etcd.
    #[must_use]
    pub fn mirrored(mut self, key: impl Into<Vec<u8>>, revision: Revision) -> Self {
        self.key = Some(key.into());
        self.revision = Some(revision);
        self
    }

    /// The same, made from the difference that a reload found.
    #[must_use]
    pub fn synthesized(mut self) -> Self {
        self.synthesized = true;
        self
    }

    /// The same, of this time.
    #[must_use]
    pub fn at(mut self, time: SystemTime) -> Self {
        self.time = Some(time);
        self
    }

    /// Bytes of all its parts; what queues are bounded by.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.object_type.len() + self.object.len() + self.key.as_ref().map_or(0, Vec::len)
    }

    /// The event as it comes out of a journal.
    #[must_use]
    pub fn stored(self, sequence: u64, time: SystemTime) -> StoredEvent {
        StoredEvent {
            sequence,
            operation: self.operation,
            object_type: self.object_type,
            object: self.object,
            time: self.time.unwrap_or(time),
            key: self.key,
            revision: self.revision,
            synthesized: self.synthesized,
        }
    }
}

impl fmt::Debug for NewEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewEvent({} {:?}, {} bytes)", self.operation, self.object_type, self.bytes())
    }
}

/// An event of the journal.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredEvent {
    /// Its place: one more than that of the event before.
    pub sequence: u64,
    /// What happened.
    pub operation: Operation,
    /// The object's type.
    pub object_type: String,
    /// The object's bytes.
    pub object: Vec<u8>,
    /// When, to the nanosecond.
    pub time: SystemTime,
    /// The key in etcd, of a mirrored event.
    pub key: Option<Vec<u8>>,
    /// The revision in etcd, of a mirrored event.
    pub revision: Option<Revision>,
    /// Made from the difference that a reload found.
    pub synthesized: bool,
}

impl StoredEvent {
    /// Bytes of all its parts; what the cache is bounded by.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.object_type.len() + self.object.len() + self.key.as_ref().map_or(0, Vec::len)
    }
}

impl fmt::Debug for StoredEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sequence, operation) = (self.sequence, self.operation);
        write!(f, "StoredEvent({sequence}: {operation} {:?}", self.object_type)?;
        if let Some(key) = &self.key {
            write!(f, ", {} @{}", key.escape_ascii(), self.revision.unwrap_or_default())?;
        }
        write!(f, ", {} bytes{})", self.object.len(), if self.synthesized { ", made" } else { "" })
    }
}
