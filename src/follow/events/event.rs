//! What a follower of every event is told, and how it wants to be told.
//!
//! Owns [`KeyEvent`] and the [`SyncSet`] in it, [`Start`] and [`EventsOptions`]. Plain data; must not
//! know where events come from.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{AtLeast, Change, Entry, KeyRange, Revision, StopReason};
use crate::publish::MAX_DURATION;
use crate::view::{Packed, Range};

/// One event of a followed range, or everything at once.
///
/// Folding the events from a `Sync` on gives the range at the revision of each. A write whose value
/// could not be decoded is told by what it changed in the view: mostly nothing.
pub enum KeyEvent<T> {
    /// The complete range: what was told before is replaced by it.
    Sync(SyncSet<T>),
    /// The key was absent and was written.
    Added(Arc<Entry<T>>),
    /// The key was written again.
    Updated {
        /// The entry before.
        old: Arc<Entry<T>>,
        /// The entry as written.
        new: Arc<Entry<T>>,
    },
    /// The key was deleted.
    Deleted {
        /// The entry before.
        old: Arc<Entry<T>>,
        /// The revision of the deletion.
        revision: Revision,
    },
}

/// The kinds of [`KeyEvent`]; displayed as their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// [`KeyEvent::Sync`].
    Sync,
    /// [`KeyEvent::Added`].
    Added,
    /// [`KeyEvent::Updated`].
    Updated,
    /// [`KeyEvent::Deleted`].
    Deleted,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            EventKind::Sync => "sync",
            EventKind::Added => "added",
            EventKind::Updated => "updated",
            EventKind::Deleted => "deleted",
        })
    }
}

impl<T> KeyEvent<T> {
    /// What a change of one key is as an event, if it is one.
    pub(super) fn of(change: &Change<T>, revision: Revision) -> Option<Self> {
        Some(match change {
            Change::Added(new) => KeyEvent::Added(Arc::clone(new)),
            Change::Updated { old, new } => {
                KeyEvent::Updated { old: Arc::clone(old), new: Arc::clone(new) }
            }
            Change::Removed(old) => KeyEvent::Deleted { old: Arc::clone(old), revision },
            // One event does not do both; two of them are told as two.
            Change::Replaced { .. } => return None,
        })
    }

    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        match self {
            KeyEvent::Sync(_) => EventKind::Sync,
            KeyEvent::Added(_) => EventKind::Added,
            KeyEvent::Updated { .. } => EventKind::Updated,
            KeyEvent::Deleted { .. } => EventKind::Deleted,
        }
    }

    /// The key it is about; none for a `Sync`.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        match self {
            KeyEvent::Sync(_) => None,
            KeyEvent::Added(entry)
            | KeyEvent::Updated { new: entry, .. }
            | KeyEvent::Deleted { old: entry, .. } => Some(entry.key()),
        }
    }

    /// The revision at which it happened; for a `Sync` that of the range.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            KeyEvent::Sync(set) => set.revision,
            KeyEvent::Added(entry) | KeyEvent::Updated { new: entry, .. } => entry.mod_revision(),
            KeyEvent::Deleted { revision, .. } => *revision,
        }
    }
}

impl<T> Clone for KeyEvent<T> {
    fn clone(&self) -> Self {
        match self {
            KeyEvent::Sync(set) => KeyEvent::Sync(set.clone()),
            KeyEvent::Added(entry) => KeyEvent::Added(Arc::clone(entry)),
            KeyEvent::Updated { old, new } => {
                KeyEvent::Updated { old: Arc::clone(old), new: Arc::clone(new) }
            }
            KeyEvent::Deleted { old, revision } => {
                KeyEvent::Deleted { old: Arc::clone(old), revision: *revision }
            }
        }
    }
}

impl<T> fmt::Debug for KeyEvent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key() {
            Some(key) => {
                write!(f, "{}({} at {})", self.kind(), key.escape_ascii(), self.revision())
            }
            None => write!(f, "sync(at {})", self.revision()),
        }
    }
}

/// Why a range is told as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SyncReason {
    /// It is the first event, as [`Start::Now`] asks for.
    Start,
    /// The history does not reach back to what was told last, or to where the follower wanted to
    /// start.
    Behind,
    /// The mirror has read everything again, since etcd had lost history; events in between are
    /// unknown, their sum is [`SyncSet::difference`].
    Reload,
    /// The store is another one, or was replaced by a backup: a new epoch.
    NewEpoch,
    /// It was due by [`EventsOptions::resync`].
    Periodic,
}

/// A complete range at one revision: holds the storage it shares with the key space, no copy.
pub struct SyncSet<T> {
    pub(super) range: KeyRange,
    pub(super) entries: Packed<T>,
    pub(super) revision: Revision,
    pub(super) epoch: u64,
    pub(super) reason: SyncReason,
    pub(super) difference: Option<Vec<Change<T>>>,
}

impl<T> SyncSet<T> {
    /// The entries of the range, ascending by key.
    #[must_use]
    pub fn entries(&self) -> Range<'_, T> {
        Range::of(self.entries.slice(self.range.start(), self.range.end()))
    }

    /// The revision through which the range is complete: never below a revision that the consumer has
    /// seen before, within an epoch.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The [epoch](crate::View::epoch) of that revision.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Why it is told.
    #[must_use]
    pub fn reason(&self) -> SyncReason {
        self.reason
    }

    /// The exact net changes since what was told before, deletions included, where they are known:
    /// after a reload or a new epoch, for a follower that had not fallen behind.
    ///
    /// Without them compare with what you have, or follow with
    /// [`changes`](crate::KeySpace::changes), which always knows.
    #[must_use]
    pub fn difference(&self) -> Option<&[Change<T>]> {
        self.difference.as_deref()
    }
}

impl<T> Clone for SyncSet<T> {
    fn clone(&self) -> Self {
        SyncSet {
            range: self.range.clone(),
            entries: self.entries.clone(),
            difference: self.difference.clone(),
            ..*self
        }
    }
}

impl<T> fmt::Debug for SyncSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncSet")
            .field("revision", &self.revision)
            .field("reason", &self.reason)
            .field("entries", &self.entries().len())
            .finish_non_exhaustive()
    }
}

/// Where to begin to follow.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub enum Start {
    /// With a `Sync` of what is there now.
    #[default]
    Now,
    /// With the first event after a revision, if the history reaches back to it, else with a `Sync`.
    ///
    /// A revision that is not reached yet is waited for. For a token of another cluster, or of an
    /// earlier epoch, the first event is a `Sync` too, with the reason
    /// [`NewEpoch`](SyncReason::NewEpoch): there is nothing to go on from.
    After(AtLeast),
}

impl Start {
    /// [`Start::After`] a revision, a [`Token`](crate::Token), or the header of a response.
    pub fn after(revision: impl Into<AtLeast>) -> Self {
        Start::After(revision.into())
    }
}

/// How events are told; the default suits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventsOptions {
    pub(super) resync: Option<Duration>,
}

impl EventsOptions {
    /// Tells a `Sync` whenever none was told for so long, at least a millisecond; off by default.
    ///
    /// For consumers that heal what they derived by going over everything at times. It is told in its
    /// place among the events: none is left out for it.
    #[must_use]
    pub fn resync(mut self, every: Duration) -> Self {
        self.resync = Some(every.clamp(Duration::from_millis(1), MAX_DURATION));
        self
    }
}

/// No more events.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EventsError {
    /// Somebody called [`EventsStop::stop`](crate::EventsStop::stop). Nothing to do.
    #[error("the events were stopped")]
    Stopped,
    /// The key space is no longer kept current. Give up; the reason says what to do.
    #[error("the key space stopped")]
    KeySpace(#[source] StopReason),
}
