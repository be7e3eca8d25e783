//! Reads that are as fresh as the caller demands, and the token of what was read.

use std::time::Duration;

use crate::keyspace::KeySpace;
use crate::model::Token;
use crate::publish::{ReadGuard, State, WaitError};

impl<T: Send + Sync + 'static> KeySpace<T> {
    /// The token of the current view: a reader elsewhere that waits for it sees at least this view.
    ///
    /// Before the first load it asks for nothing, and every cluster accepts it: there is nothing yet that
    /// a later read could fall behind. Its text form is `0.0`.
    ///
    /// It carries no [term](Token::term). A view advances by events and by progress, and their headers
    /// prove no term. So a token of a view is met without asking etcd, also while etcd cannot be reached.
    ///
    /// # Panics
    /// Inside an observer of the same key space.
    #[must_use]
    #[track_caller]
    pub fn token(&self) -> Token {
        let view = self.snapshot();
        if view.revision() == 0 {
            return Token::NOTHING;
        }
        let cluster_id = view.cluster_id().unwrap_or_default();
        Token::in_epoch(cluster_id, view.confirmed(), (self.core().id(), view.epoch()))
    }

    /// [`sync`](KeySpace::sync), then a guard whose view has met its revision: a linearizable read.
    ///
    /// # Errors
    /// # Panics
    /// # Cancel safety
    /// As [`sync`](KeySpace::sync).
    pub async fn read_linearizable(&self) -> Result<ReadGuard<'_, T>, WaitError> {
        let (_, epoch) = self.synced().await?;
        self.read_in(epoch)
    }

    /// A guard whose view was current not longer than `max_stale` ago, by
    /// [`Status::current_as_of`](crate::Status::current_as_of); asks etcd only if it was not.
    ///
    /// The age counts while the mirror is live or reconnects. In every other state, and while the
    /// mirror doubts that the store still has the history it knows, etcd is asked whatever the age is.
    ///
    /// # Errors
    /// # Panics
    /// # Cancel safety
    /// As [`sync`](KeySpace::sync). While etcd cannot be asked it waits: bound it with a timeout.
    pub async fn read_fresh(&self, max_stale: Duration) -> Result<ReadGuard<'_, T>, WaitError> {
        let published = self.core().waits.published();
        let report = self.core().report.read();
        // A broken connection does not refute what was known; a reload may.
        let believed = matches!(report.state, State::Live | State::Reconnecting)
            && !published.contact.suspected
            && published.ended().is_none();
        let as_of = report.current_as_of.filter(|_| believed);
        if as_of.is_some_and(|asked| asked.elapsed() <= max_stale) {
            return Ok(self.read());
        }
        self.read_linearizable().await
    }
}
