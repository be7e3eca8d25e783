//! Waiting on a key space: for a revision, for what etcd knows, for a condition, for the load, the end.
//!
//! Owns the public forms of waiting. Must not wake anybody: that is `wait`.

use std::future::Future;
use std::sync::atomic::Ordering;

use super::KeySpace;
use crate::model::{AtLeast, Revision, StopReason, Token};
use crate::publish::{Awaited, ReadGuard, Snapshot, WaitError};
use crate::view::View;

impl<T: Send + Sync + 'static> KeySpace<T> {
    /// Waits until the view is known complete through a revision, by an event or by progress, also
    /// when that revision touched nothing in the range; returns the confirmed revision.
    ///
    /// Accepts a revision, a [`Token`], or the header of etcd's response to a write. A revision already
    /// met returns at once. There is no built-in deadline: wrap it in a timeout.
    ///
    /// # Read your writes
    /// Pass the header (`put.header().ok_or(..)?`, a `&etcd_client::ResponseHeader`). A store that was
    /// restored from a backup, or wiped, assigns revisions a second time. A plain revision from such a
    /// store is met at once by the old data, until the mirror finds out. The header's raft term closes that
    /// gap. A wait may begin while the mirror is not live, or with a revision and term that contradict
    /// the answers that the mirror has seen. Such a wait is met only by a linearizable read that began after
    /// it, and all of them share one read. One gap remains: a broken connection that the mirror has not
    /// noticed yet, which takes at most two [check intervals](crate::Builder::check_interval).
    ///
    /// While the mirror doubts that the store still has the history it knows, no revision is met.
    ///
    /// # Errors
    /// [`WaitError::Stopped`] when the mirror stopped; [`WaitError::HistoryChanged`] when the store
    /// was replaced by an older one meanwhile, or when a token was made by this key space in an earlier
    /// epoch; [`WaitError::OtherCluster`] when a token or a header comes from another cluster.
    ///
    /// # Panics
    /// When it would have to wait while this thread holds a read guard of the same key space, or
    /// runs one of its observers: the wait could never end. Inside an observer also for every token and
    /// header, whose cluster is compared with the view's.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn wait_for_revision(
        &self,
        at_least: impl Into<AtLeast>,
    ) -> Result<Revision, WaitError> {
        Ok(self.reach(at_least.into().0).await?.0)
    }

    /// [`wait_for_revision`](KeySpace::wait_for_revision), then a guard whose view has met it.
    ///
    /// # Errors
    /// # Panics
    /// # Cancel safety
    /// As [`wait_for_revision`](KeySpace::wait_for_revision).
    pub async fn read_at(
        &self,
        at_least: impl Into<AtLeast>,
    ) -> Result<ReadGuard<'_, T>, WaitError> {
        let token = at_least.into().0;
        let (_, epoch) = self.reach(token).await?;
        let view = self.read_in(epoch)?;
        check_cluster(token, &view)?;
        Ok(view)
    }

    /// Waits for a token; returns the confirmed revision that met it, and the epoch of the wait.
    async fn reach(&self, token: Token) -> Result<(Revision, Option<u64>), WaitError> {
        let waits = &self.core.waits;
        let made_here = token.epoch.filter(|(space, _)| *space == self.core.id());
        let epoch = made_here.map(|(_, epoch)| epoch);
        let epoch = epoch.or_else(|| waits.published().awaited_epoch());
        // Without a mirror nothing is read from etcd, and nothing can contradict the term.
        let driven = self.core.driven.load(Ordering::Acquire);
        let awaited = waits.reach(token.revision(), if driven { token.term() } else { 0 }, epoch);
        if token.cluster_id() > 0 {
            // The cluster is known with the first load.
            self.loaded().await?;
            check_cluster(token, &self.snapshot())?;
        }
        Ok((self.core.wait(awaited).await?, epoch))
    }

    /// A guard, if the view still belongs to the epoch in which a wait was met. Within the epoch
    /// `confirmed` never goes back (C6), so the view has met the revision too.
    pub(crate) fn read_in(&self, epoch: Option<u64>) -> Result<ReadGuard<'_, T>, WaitError> {
        let view = self.read();
        self.core.waits.published().check_epoch(epoch, view.epoch())?;
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
        Ok(self.read_at(at_least).await?.snapshot())
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
        Ok(self.synced().await?.0)
    }

    /// [`sync`](KeySpace::sync); returns the revision and the epoch of the wait.
    pub(crate) async fn synced(&self) -> Result<(Revision, Option<u64>), WaitError> {
        let epoch = self.core.waits.published().awaited_epoch();
        let ticket = self.core.waits.ticket();
        let revision = self.core.wait(Awaited::Sync { ticket, epoch }).await?;
        self.core.wait(Awaited::Revision { revision, epoch, ticket: None }).await?;
        Ok((revision, epoch))
    }

    /// Waits until `predicate` returns something for a view, and returns that.
    ///
    /// It is called once at first and then after steps and progress, with a snapshot: it holds up neither the
    /// mirror nor readers. While it runs, steps may pass that it is not called for; the newest is not missed.
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
            let after = self.core.waits.published().publications;
            if let Some(found) = predicate(&self.snapshot()) {
                return Ok(found);
            }
            self.core.wait(Awaited::Publication { after }).await?;
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
        let after = self.core.waits.published().changes;
        self.core.wait(Awaited::Change { after })
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
        self.core.wait(Awaited::Loaded).await
    }

    /// Waits for the end of the mirror, whatever brings it about, and gives the reason.
    ///
    /// # Panics
    /// # Cancel safety
    /// As [`wait_for_revision`](KeySpace::wait_for_revision).
    pub async fn closed(&self) -> StopReason {
        loop {
            if let Some(reason) = self.core.waits.ended() {
                return reason;
            }
            // Ends only by the end; the reason is read in the next turn.
            let _ = self.core.wait(Awaited::Ended).await;
        }
    }
}

/// Fails when a token comes from another cluster than the view. Zero is no cluster.
fn check_cluster<T>(token: Token, view: &View<T>) -> Result<(), WaitError> {
    let asked = token.cluster_id();
    match view.cluster_id() {
        Some(mirrored) if asked > 0 && mirrored > 0 && asked != mirrored => {
            Err(WaitError::OtherCluster { asked, mirrored })
        }
        _ => Ok(()),
    }
}
