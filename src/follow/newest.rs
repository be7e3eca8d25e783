//! Following one key.
//!
//! Owns [`WatchKey`]: the version told last. A thin form of `changes`; must not keep more than that.

use std::fmt;
use std::sync::Arc;

use super::changes::Changes;
use crate::keyspace::KeySpace;
use crate::model::{Entry, KeyRange, StopReason};

/// The versions of one key, each when it is asked for; those that were replaced meanwhile are passed
/// over.
///
/// Made by [`KeySpace::watch_key`]. It counts as a handle of the key space.
pub struct WatchKey<T: Send + Sync + 'static> {
    changes: Changes<T>,
    current: Option<Arc<Entry<T>>>,
}

impl<T: Send + Sync + 'static> KeySpace<T> {
    /// Follows one key, present or not.
    ///
    /// # Panics
    /// When the key is outside the mirrored range.
    #[track_caller]
    pub fn watch_key(&self, key: impl Into<Vec<u8>>) -> WatchKey<T> {
        WatchKey { changes: self.changes(KeyRange::key(key)), current: None }
    }
}

impl<T: Send + Sync + 'static> WatchKey<T> {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.changes.range().start()
    }

    /// What the last [`next`](WatchKey::next) gave; nothing before the first.
    #[must_use]
    pub fn current(&self) -> Option<&Arc<Entry<T>>> {
        self.current.as_ref()
    }

    /// The key's entry, or `None` while it is absent: the first time as it is, then as soon as it is
    /// another one than was given last.
    ///
    /// # Errors
    /// # Panics
    /// # Cancel safety
    /// As [`Changes::next`].
    pub async fn next(&mut self) -> Result<Option<&Arc<Entry<T>>>, StopReason> {
        let delta = self.changes.next().await?;
        self.current = delta.changes().first().and_then(|change| change.new().cloned());
        Ok(self.current.as_ref())
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for WatchKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchKey").field("key", &self.key().escape_ascii().to_string()).finish()
    }
}
