//! A key space without a source, for tests of code that reads one.

use std::sync::Arc;

use super::handle::KeySpace;
use crate::model::{DeltaOrigin, Entry, KeyRange, StopReason};
use crate::publish::{Changes, Core, LoadError};
use crate::view::{PackedBuilder, View};

impl<T: Send + Sync + 'static> KeySpace<T> {
    /// A key space of fixed entries, for tests of code that reads one. Nothing feeds it: waits for
    /// more than its revision, the greatest among the entries, fail at once.
    ///
    /// ```
    /// use etcd_keyspace::{Entry, KeyRange, KeySpace};
    ///
    /// let entries = [Entry::new("/weights/a", 3, 10), Entry::new("/weights/b", 5, 11)];
    /// let ks = KeySpace::from_entries(KeyRange::prefix("/weights/"), entries)?;
    /// assert_eq!(*ks.read().get("/weights/b").unwrap().value(), 5);
    /// # Ok::<_, etcd_keyspace::LoadError>(())
    /// ```
    ///
    /// # Errors
    /// [`LoadError::Unordered`] for a key that is given twice or lies outside `range`.
    pub fn from_entries(
        range: KeyRange,
        entries: impl IntoIterator<Item = Entry<T>>,
    ) -> Result<Self, LoadError> {
        let mut entries: Vec<_> = entries.into_iter().map(Arc::new).collect();
        entries.sort_by(|a, b| a.key().cmp(b.key()));
        let core = Core::new(range);
        let mut view = View::empty(Arc::clone(&core.mirrored));
        let mut packed = PackedBuilder::new();
        view.revision = 1;
        for entry in entries {
            view.revision = view.revision.max(entry.mod_revision());
            let refused =
                if core.mirrored.contains(entry.key()) { packed.push(entry) } else { Err(entry) };
            if let Err(entry) = refused {
                return Err(LoadError::Unordered { key: entry.key().to_vec() });
            }
        }
        view.entries = packed.finish();
        view.confirmed = view.revision;
        core.publish(view, Changes::AllAdded, DeltaOrigin::Load, None);
        core.end(StopReason::Shutdown);
        Ok(KeySpace::new(core))
    }
}
