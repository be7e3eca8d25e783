//! Many watches into one channel that the caller owns.
//!
//! Owns the task of each watch and what an update carries. A slow receiver holds up the tasks that
//! send to it and nothing else. Must not buffer: the channel is the caller's bound.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::changes::Changes;
use crate::keyspace::KeySpace;
use crate::model::{Entry, KeyRange, Revision, StopReason};
use crate::view::OutsideRange;

/// What a watch made by [`KeySpace::notify`] sends.
pub struct Update<T> {
    /// The id that was given with the watch; it means nothing here.
    pub correlation_id: Arc<str>,
    /// All entries of the range, ascending by key; or why there will be no further update.
    pub result: Result<Vec<Arc<Entry<T>>>, StopReason>,
    /// How to place the result.
    pub meta: UpdateMeta,
}

/// Where and when the result of an [`Update`] was so.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct UpdateMeta {
    /// The revision the entries are as of; zero before the first load. It grows from update to update
    /// of a watch, except into a new epoch.
    pub revision: Revision,
    /// The [epoch](crate::View::epoch) of the revision.
    pub epoch: u64,
    /// How long ago a linearizable revision was asked for that is known to be shown, by
    /// [`Status::current_as_of`](crate::Status::current_as_of).
    pub age: Option<Duration>,
    /// How many loads there have been: the entries are of the last one, and of events after it.
    pub loads: u64,
}

impl<T> Clone for Update<T> {
    fn clone(&self) -> Self {
        Update {
            correlation_id: Arc::clone(&self.correlation_id),
            result: self.result.clone(),
            meta: self.meta,
        }
    }
}

impl<T> fmt::Debug for Update<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Update")
            .field("correlation_id", &self.correlation_id)
            .field("result", &self.result.as_ref().map(Vec::len))
            .field("meta", &self.meta)
            .finish()
    }
}

/// A watch that sends to a channel. Dropping it ends the watch.
#[derive(Debug)]
#[must_use = "the watch ends when this is dropped"]
pub struct Notify {
    task: JoinHandle<()>,
}

impl Notify {
    /// Ends the watch, also while it waits for room in the channel. Idempotent; an update that was
    /// sent before may still be received.
    pub fn cancel(&self) {
        self.task.abort();
    }

    /// Whether the watch has ended: cancelled, its channel closed, or the key space stopped.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T: Send + Sync + 'static> KeySpace<T> {
    /// Sends a range to a channel: at once, as soon as something is loaded, and again whenever it
    /// changed.
    ///
    /// Many watches, of many key spaces, may share a channel; `correlation_id` tells their updates
    /// apart. Each update is as new as the channel had room for it: while the receiver is slow, what
    /// changes meanwhile comes in one. The last one says why the key space stopped. The watch ends with
    /// that, when the channel's receiver is gone, and when the returned handle is dropped; then
    /// nothing of it is left. An update costs O(entries of the range).
    ///
    /// ```
    /// # #[cfg(feature = "test-util")]
    /// # use etcd_keyspace::{KeySpace, testing::FakeEtcd};
    /// # #[cfg(not(feature = "test-util"))]
    /// # fn main() {}
    /// # #[cfg(feature = "test-util")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let etcd = FakeEtcd::new();
    /// # let ks = KeySpace::builder("/app/")?.bytes().start(etcd.clone()).await?;
    /// let (sender, mut updates) = tokio::sync::mpsc::channel(16);
    /// let _flags = ks.notify("/app/flags/".."/app/flags0", "flags", sender.clone())?;
    /// let _hosts = ks.notify("/app/hosts/".."/app/hosts0", "hosts", sender)?;
    /// let update = updates.recv().await.unwrap();
    /// println!("{}: {} entries", update.correlation_id, update.result?.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`OutsideRange`] when the key space cannot know all keys of the range.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn notify(
        &self,
        range: impl Into<KeyRange>,
        correlation_id: impl Into<Arc<str>>,
        sender: mpsc::Sender<Update<T>>,
    ) -> Result<Notify, OutsideRange> {
        let changes = self.try_changes(range)?;
        let correlation_id = correlation_id.into();
        let task = tokio::spawn(run(changes, self.clone(), correlation_id, sender));
        Ok(Notify { task })
    }
}

async fn run<T: Send + Sync + 'static>(
    mut changes: Changes<T>,
    ks: KeySpace<T>,
    correlation_id: Arc<str>,
    sender: mpsc::Sender<Update<T>>,
) {
    loop {
        let next = tokio::select! {
            // What changed is not kept while there is no room.
            next = changes.next() => next.map(drop),
            () = sender.closed() => return,
        };
        let Ok(room) = sender.reserve().await else { return };
        // Other changes may have come while there was no room.
        changes.catch_up();
        let (revision, epoch) = changes.told();
        let status = ks.status();
        let age = status.current_as_of;
        let meta = UpdateMeta { revision, epoch, age, loads: status.counters.loads };
        let ended = next.as_ref().is_err();
        let result = next.map(|()| changes.entries().iter().map(Arc::clone).collect());
        room.send(Update { correlation_id: Arc::clone(&correlation_id), result, meta });
        if ended {
            return;
        }
    }
}
