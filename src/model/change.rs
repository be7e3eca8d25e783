//! What one step changed: the net effect on each key, with the entries before and after.
//!
//! Owns [`Delta`] and [`Change`], and the same of a single event. Pure data; must not know who made a step or who sees it.

use std::fmt;
use std::sync::Arc;

use crate::model::entry::Entry;
use crate::model::event::Revision;

/// The net effect of one step on one key. The key is the same on both sides.
pub enum Change<T> {
    /// The key was absent and is present.
    Added(Arc<Entry<T>>),
    /// The key was written; it is the same key since its creation.
    Updated {
        /// The entry before the step.
        old: Arc<Entry<T>>,
        /// The entry after the step.
        new: Arc<Entry<T>>,
    },
    /// The key was deleted and created again within the step: `create_revision` differs.
    Replaced {
        /// The entry before the step.
        old: Arc<Entry<T>>,
        /// The entry after the step.
        new: Arc<Entry<T>>,
    },
    /// The key was present and is absent.
    Removed(Arc<Entry<T>>),
}

impl<T> Change<T> {
    /// The change from `old` to `new`; `None` when both are absent or the same allocation.
    pub(crate) fn between(
        old: Option<&Arc<Entry<T>>>,
        new: Option<&Arc<Entry<T>>>,
    ) -> Option<Self> {
        match (old, new) {
            (None, None) => None,
            (None, Some(new)) => Some(Change::Added(Arc::clone(new))),
            (Some(old), None) => Some(Change::Removed(Arc::clone(old))),
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) => None,
            (Some(old), Some(new)) => {
                let (old, new) = (Arc::clone(old), Arc::clone(new));
                Some(if old.create_revision() == new.create_revision() {
                    Change::Updated { old, new }
                } else {
                    Change::Replaced { old, new }
                })
            }
        }
    }

    /// The key's bytes.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Change::Added(entry) | Change::Removed(entry) => entry.key(),
            Change::Updated { new, .. } | Change::Replaced { new, .. } => new.key(),
        }
    }

    /// The entry before the step.
    #[must_use]
    pub fn old(&self) -> Option<&Arc<Entry<T>>> {
        match self {
            Change::Added(_) => None,
            Change::Updated { old, .. } | Change::Replaced { old, .. } | Change::Removed(old) => {
                Some(old)
            }
        }
    }

    /// The entry after the step.
    #[must_use]
    #[allow(clippy::new_ret_no_self, reason = "the counterpart of `old`")]
    pub fn new(&self) -> Option<&Arc<Entry<T>>> {
        match self {
            Change::Removed(_) => None,
            Change::Added(new) | Change::Updated { new, .. } | Change::Replaced { new, .. } => {
                Some(new)
            }
        }
    }
}

impl<T> Clone for Change<T> {
    fn clone(&self) -> Self {
        match self {
            Change::Added(new) => Change::Added(Arc::clone(new)),
            Change::Removed(old) => Change::Removed(Arc::clone(old)),
            Change::Updated { old, new } => {
                Change::Updated { old: Arc::clone(old), new: Arc::clone(new) }
            }
            Change::Replaced { old, new } => {
                Change::Replaced { old: Arc::clone(old), new: Arc::clone(new) }
            }
        }
    }
}

impl<T> fmt::Debug for Change<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Change::Added(_) => "Added",
            Change::Updated { .. } => "Updated",
            Change::Replaced { .. } => "Replaced",
            Change::Removed(_) => "Removed",
        };
        write!(f, "{kind}({})", self.key().escape_ascii())
    }
}

/// What one event changed, where events are told one by one.
#[derive(Debug)]
pub(crate) struct EventChange<T> {
    /// The event's place in its batch, by which they are in order once the batch is whole.
    pub(crate) at: u32,
    pub(crate) revision: Revision,
    pub(crate) change: Change<T>,
}

/// What each event of a batch changed.
#[derive(Debug)]
pub(crate) struct Trace<T> {
    pub(crate) effects: Vec<EventChange<T>>,
    /// Bytes of the keys and values in them, as etcd sent them.
    pub(crate) bytes: usize,
}

impl<T> Default for Trace<T> {
    fn default() -> Self {
        Trace { effects: Vec::new(), bytes: 0 }
    }
}

/// Where a delta comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeltaOrigin {
    /// Events of the watch.
    Events,
    /// A load: the first one, or a reload, whose delta is the exact difference (C6).
    Load,
    /// Somebody registered late: everything that is there, as added.
    Registration,
    /// What came together since a follower asked last, by events or by loads.
    Difference,
}

/// The net changes of one step, ascending by key, each key at most once.
///
/// # Indexes by value
/// Key order is not the order of a transaction. When a value moves from key `b` to key `a`, the change of
/// `a` comes first. An index by value that handles one change after the other then deletes the entry it has
/// just added. Two passes are right for every index: remove [all old entries](Delta::old_entries), then add
/// [all new entries](Delta::new_entries). See [`KeySpace::derive`](crate::KeySpace::derive) for an example.
pub struct Delta<T> {
    pub(crate) changes: Vec<Change<T>>,
    pub(crate) origin: DeltaOrigin,
    pub(crate) from: Revision,
    pub(crate) to: Revision,
    pub(crate) epoch: u64,
}

impl<T> Delta<T> {
    /// The changes, ascending by key.
    #[must_use]
    pub fn changes(&self) -> &[Change<T>] {
        &self.changes
    }

    /// Where the delta comes from.
    #[must_use]
    pub fn origin(&self) -> DeltaOrigin {
        self.origin
    }

    /// The view's revision before the step; zero before the first load and for a registration.
    #[must_use]
    pub fn from_revision(&self) -> Revision {
        self.from
    }

    /// The view's revision after the step.
    #[must_use]
    pub fn to_revision(&self) -> Revision {
        self.to
    }

    /// The [epoch](crate::View::epoch) of the view after the step.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The entries before the step of all keys that it changed, ascending by key: removed, updated and
    /// replaced ones.
    pub fn old_entries(&self) -> impl Iterator<Item = &Arc<Entry<T>>> {
        self.changes.iter().filter_map(Change::old)
    }

    /// The entries after the step of all keys that it changed, ascending by key: added, updated and
    /// replacing ones.
    pub fn new_entries(&self) -> impl Iterator<Item = &Arc<Entry<T>>> {
        self.changes.iter().filter_map(Change::new)
    }

    /// The number of changed keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes, ascending by key.
    pub fn iter(&self) -> std::slice::Iter<'_, Change<T>> {
        self.changes.iter()
    }
}

impl<'a, T> IntoIterator for &'a Delta<T> {
    type Item = &'a Change<T>;
    type IntoIter = std::slice::Iter<'a, Change<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.changes.iter()
    }
}

impl<T> fmt::Debug for Delta<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delta")
            .field("origin", &self.origin)
            .field("from", &self.from)
            .field("to", &self.to)
            .field("changes", &self.changes.len())
            .finish()
    }
}
