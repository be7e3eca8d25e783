//! Waiting on a key space: for a revision, for what etcd knows, for a condition, for the load, the end.
//!
//! Owns the public forms of waiting. Must not wake anybody: that is `wait`.

use std::future::Future;

use super::KeySpace;
use crate::error::StopReason;
use crate::event::Revision;
use crate::guard::ReadGuard;
use crate::snapshot::Snapshot;
use crate::view::View;
use crate::wait::{AtLeast, Awaited, WaitError};

impl<T: Send + Sync + 'static> KeySpace<T> {
    /// Waits until the view is known complete through `revision`, by an event or by progress, also
    /// when that revision touched nothing in the range; gives the confirmed revision.
    ///
    /// A revision already met returns at once. There is no built-in deadline: wrap it in a timeout.
    ///
    /// # Errors
    /// [`WaitError::Stopped`] when the mirror stopped; [`WaitError::HistoryChanged`] when the store
    /// was replaced by an older one meanwhile.
    ///
    /// # Panics
    /// When it would have to wait while this thread holds a read guard of the same key space, or
    /// runs one of its observers: the wait could never end.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn wait_for_revision(&self, revision: Revision) -> Result<Revision, WaitError> {
        let epoch = self.shared.waits.published().awaited_epoch();
        self.shared.wait(Awaited::Revision { revision, epoch }).await
    }

    /// [`wait_for_revision`](KeySpace::wait_for_revision), then a guard whose view has met it.
    ///
    /// Takes a revision, or a [`Token`](crate::Token) that also says of which cluster it is.
    ///
    /// # Errors
    /// As [`wait_for_revision`](KeySpace::wait_for_revision); for a token also
    /// [`WaitError::OtherCluster`], and [`WaitError::HistoryChanged`] when it was made by this key
    /// space in an earlier epoch.
    ///
    /// # Panics
    /// # Cancel safety
    /// As [`wait_for_revision`](KeySpace::wait_for_revision).
    pub async fn read_at(
        &self,
        at_least: impl Into<AtLeast>,
    ) -> Result<ReadGuard<'_, T>, WaitError> {
        let AtLeast { revision, cluster_id, epoch } = at_least.into();
        let made_here = epoch.filter(|(space, _)| *space == self.shared.id());
        let epoch = match made_here {
            Some((_, epoch)) => Some(epoch),
            None => self.shared.waits.published().awaited_epoch(),
        };
        if cluster_id.is_some() {
            // Which cluster it is, is known with the first load.
            self.loaded().await?;
            check_cluster(cluster_id, &self.read())?;
        }
        self.shared.wait(Awaited::Revision { revision, epoch }).await?;
        let view = self.read();
        check_cluster(cluster_id, &view)?;
        // Within the epoch `confirmed` never goes back (C6), so the guard has met the revision.
        self.shared.waits.published().check_epoch(epoch, view.epoch())?;
        Ok(view)
    }

    /// [`wait_for_revision`](KeySpace::wait_for_revision), then a snapshot that has met it.
    ///
    /// # Errors
    /// # Panics
    /// # Cancel safety
    /// As [`wait_for_revision`](KeySpace::wait_for_revision).
    pub async fn snapshot_at(
        &self,
        at_least: impl Into<AtLeast>,
    ) -> Result<Snapshot<T>, WaitError> {
        Ok(Snapshot::new(self.read_at(at_least).await?.share()))
    }

    /// Asks etcd for its revision now, linearizably, and waits for it: afterwards the view shows
    /// every write that was finished before the call. Gives the revision asked for.
    ///
    /// Concurrent calls share requests to etcd, but never one that began before the call.
    ///
    /// # Errors
    /// # Panics
    /// # Cancel safety
    /// As [`wait_for_revision`](KeySpace::wait_for_revision). A request that fails is repeated by
    /// the mirror until one succeeds, so bound the call with a timeout.
    pub async fn sync(&self) -> Result<Revision, WaitError> {
        let epoch = self.shared.waits.published().awaited_epoch();
        let ticket = self.shared.waits.ticket();
        let revision = self.shared.wait(Awaited::Sync { ticket, epoch }).await?;
        self.shared.wait(Awaited::Revision { revision, epoch }).await?;
        Ok(revision)
    }

    /// Waits until `predicate` gives something for the view, and gives that.
    ///
    /// It is called once at first and then after every step and every progress, under the read
    /// lock, so it should be quick.
    ///
    /// # Errors
    /// [`WaitError::Stopped`] when the mirror stopped before.
    ///
    /// # Panics
    /// # Cancel safety
    /// As [`wait_for_revision`](KeySpace::wait_for_revision).
    pub async fn wait_until<R>(
        &self,
        mut predicate: impl FnMut(&View<T>) -> Option<R>,
    ) -> Result<R, WaitError> {
        loop {
            // Counted before the look, so a step in between is not missed.
            let after = self.shared.waits.published().publications;
            if let Some(found) = predicate(&self.read()) {
                return Ok(found);
            }
            self.shared.wait(Awaited::Publication { after }).await?;
        }
    }

    /// Waits for the next step that changes entries, counted from this call, not from the first
    /// poll; gives the revision after it.
    ///
    /// # Errors
    /// The future fails with [`WaitError::Stopped`] when the mirror stopped before.
    ///
    /// # Panics
    /// # Cancel safety
    /// As [`wait_for_revision`](KeySpace::wait_for_revision).
    pub fn updated(&self) -> impl Future<Output = Result<Revision, WaitError>> + Send + '_ {
        let after = self.shared.waits.published().changes;
        self.shared.wait(Awaited::Change { after })
    }

    /// Waits for the first load; gives its revision. Returns at once when it is done.
    ///
    /// # Errors
    /// [`WaitError::Stopped`] when the mirror stopped before.
    ///
    /// # Panics
    /// # Cancel safety
    /// As [`wait_for_revision`](KeySpace::wait_for_revision).
    pub async fn loaded(&self) -> Result<Revision, WaitError> {
        self.shared.wait(Awaited::Loaded).await
    }

    /// Waits for the end of the mirror, whatever brings it about, and gives the reason.
    ///
    /// # Panics
    /// # Cancel safety
    /// As [`wait_for_revision`](KeySpace::wait_for_revision).
    pub async fn closed(&self) -> StopReason {
        loop {
            if let Some(reason) = self.shared.waits.ended() {
                return reason;
            }
            // Ends only by the end; the reason is read in the next turn.
            let _ = self.shared.wait(Awaited::Ended).await;
        }
    }
}

/// Fails when a revision is of another cluster than the view.
fn check_cluster<T>(asked: Option<u64>, view: &View<T>) -> Result<(), WaitError> {
    match (asked, view.cluster_id()) {
        (Some(asked), Some(mirrored)) if asked != mirrored => {
            Err(WaitError::OtherCluster { asked, mirrored })
        }
        _ => Ok(()),
    }
}
