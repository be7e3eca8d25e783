//! One key of a view: the decoded value with etcd's own numbers beside it.
//!
//! Owns the entry's layout: what a look-up reads comes first, and a short key lies inside the
//! entry's allocation (see `key`). Must not know where entries are stored or how values are decoded.

use std::borrow::Cow;
use std::fmt;

use crate::event::{RawKeyValue, Revision};
use crate::key::Key;

/// One key of the mirrored range with its decoded value. Immutable once made.
///
/// Entries are handed out borrowed from a view, or as `Arc<Entry<T>>` that can be kept for ever:
/// an update of the key makes a new entry and leaves old ones as they are.
#[repr(C)]
pub struct Entry<T> {
    key: Key,
    value: T,
    mod_revision: Revision,
    create_revision: Revision,
    version: i64,
    lease: i64,
}

impl<T> Entry<T> {
    /// An entry made by hand, for fixtures; mirrors make theirs from what etcd sends.
    ///
    /// The entry is as after its creating write: `create_revision` is `mod_revision`, the version
    /// is 1, and there is no lease.
    pub fn new(key: impl AsRef<[u8]>, value: T, mod_revision: Revision) -> Self {
        Entry {
            key: Key::new(key.as_ref()),
            value,
            create_revision: mod_revision,
            mod_revision,
            version: 1,
            lease: 0,
        }
    }

    /// An entry with the numbers of `numbers` and a decoded value.
    pub(crate) fn decoded(key: &[u8], numbers: Numbers, value: T) -> Self {
        Entry {
            key: Key::new(key),
            value,
            create_revision: numbers.create_revision,
            mod_revision: numbers.mod_revision,
            version: numbers.version,
            lease: numbers.lease,
        }
    }

    /// The key's bytes.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.key.as_slice()
    }

    /// The key as text; bytes that are not UTF-8 are shown as replacement characters.
    #[must_use]
    pub fn key_str(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.key())
    }

    /// The decoded value.
    #[must_use]
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The revision at which the key was created (etcd: `mvccpb.KeyValue.create_revision`).
    #[must_use]
    pub fn create_revision(&self) -> Revision {
        self.create_revision
    }

    /// The revision of the last write of the key (etcd: `mvccpb.KeyValue.mod_revision`).
    #[must_use]
    pub fn mod_revision(&self) -> Revision {
        self.mod_revision
    }

    /// Writes since creation, the creating one included (etcd: `mvccpb.KeyValue.version`).
    #[must_use]
    pub fn version(&self) -> i64 {
        self.version
    }

    /// The lease the key is attached to, zero for none.
    #[must_use]
    pub fn lease(&self) -> i64 {
        self.lease
    }

    pub(crate) fn numbers(&self) -> Numbers {
        Numbers {
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            lease: self.lease,
        }
    }

    /// Heap bytes of the key beyond the entry itself.
    pub(crate) fn key_heap_bytes(&self) -> usize {
        self.key.heap_bytes()
    }
}

impl<T: fmt::Debug> fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &format_args!("{}", self.key().escape_ascii()))
            .field("value", &self.value)
            .field("create_revision", &self.create_revision)
            .field("mod_revision", &self.mod_revision)
            .field("version", &self.version)
            .field("lease", &self.lease)
            .finish()
    }
}

/// The numbers etcd keeps beside a key: what continuity is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) create_revision: Revision,
    pub(crate) mod_revision: Revision,
    pub(crate) version: i64,
    pub(crate) lease: i64,
}

impl Numbers {
    /// Whether both are of the same write; versions count only where the server keeps them.
    pub(crate) fn is_same_write(self, other: Numbers) -> bool {
        let versions = self.version == other.version || self.version == 0 || other.version == 0;
        self.create_revision == other.create_revision
            && self.mod_revision == other.mod_revision
            && versions
    }
}

impl From<&RawKeyValue> for Numbers {
    fn from(kv: &RawKeyValue) -> Self {
        Numbers {
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }
}
