//! Callbacks for the objects of a filtered view.
//!
//! Owns [`Follower`], its order of calls, and its end. Holds no objects of its own: what was in the
//! view before is what the difference says. Must not call anything under a lock.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, ready};
use std::sync::Arc;

use crate::keyspace::KeySpace;
use crate::model::{Change, Delta, Entry, KeyRange, Revision, StopReason};

/// Keeps something up to date with the objects of a range that pass a filter: its view.
///
/// Run by [`KeySpace::follow`]. All methods but the callbacks have defaults, and callbacks may be
/// written as `async fn`: the next one is called when one is done, and what changes meanwhile comes
/// together with the next batch. Entries can be kept for ever.
///
/// A batch is a difference of two states of the range: whole revisions, each key at most once. First
/// objects that are new in the view or changed, ascending by key, then objects that left it, ascending
/// by key, then [`batch_done`](Follower::batch_done). An object that leaves the view and comes back is
/// added again.
///
/// So a value that moves from one object to another within a batch is added under its new object before it
/// leaves the old one. An index by value must remove an old value only if it still belongs to that object:
///
/// ```
/// # use std::{collections::HashMap, convert::Infallible, sync::{Arc, Mutex}};
/// # use etcd_keyspace::{Entry, SimpleFollower};
/// type ByAddress = HashMap<String, Vec<u8>>;
///
/// fn leave(index: &mut ByAddress, old: &Entry<String>) {
///     if index.get(old.value()).is_some_and(|key| key == old.key()) {
///         index.remove(old.value());
///     }
/// }
///
/// # let index = Arc::new(Mutex::new(ByAddress::new()));
/// let (upserts, deletes) = (Arc::clone(&index), Arc::clone(&index));
/// let follower = SimpleFollower::<String>::new()
///     .upserted(move |old, new| {
///         let mut index = upserts.lock().unwrap();
///         old.into_iter().for_each(|old| leave(&mut index, old));
///         index.insert(new.value().clone(), new.key().to_vec());
///         Ok(())
///     })
///     .deleted(move |old| Ok(leave(&mut deletes.lock().unwrap(), old)));
/// ```
pub trait Follower<T: Send + Sync + 'static>: Send {
    /// What callbacks fail with; it ends the follower.
    type Error: Send;

    /// Whether an object is in the view. It must depend on the entry alone: it is asked again about
    /// the old object when an object changes.
    fn filter(&self, entry: &Entry<T>) -> bool {
        let _ = entry;
        true
    }

    /// Whether a change makes no difference to this follower. The next one is told from `new` on.
    ///
    /// Not called for an object that was deleted and created again within a batch: that is another
    /// object, so it always reaches [`updated`](Follower::updated).
    fn equals(&self, old: &Entry<T>, new: &Entry<T>) -> bool {
        let _ = (old, new);
        false
    }

    /// An object is new in the view: created, or it passes the filter now.
    fn added(
        &mut self,
        new: &Arc<Entry<T>>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// An object was in the view, is in it, and is not equal. One that was deleted and created again
    /// within a batch comes here too, with another create revision.
    fn updated(
        &mut self,
        old: &Arc<Entry<T>>,
        new: &Arc<Entry<T>>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// An object left the view: deleted, or it does not pass the filter any more.
    fn deleted(
        &mut self,
        old: &Arc<Entry<T>>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// A batch is over, also one that led to no call; the view is as of `revision`. The first batch is
    /// everything there is.
    fn batch_done(
        &mut self,
        revision: Revision,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        let _ = revision;
        ready(Ok(()))
    }
}

/// Which call of a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FollowPhase {
    /// [`Follower::added`].
    Added,
    /// [`Follower::updated`].
    Updated,
    /// [`Follower::deleted`].
    Deleted,
    /// [`Follower::batch_done`].
    BatchDone,
}

impl fmt::Display for FollowPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FollowPhase::Added => "added",
            FollowPhase::Updated => "updated",
            FollowPhase::Deleted => "deleted",
            FollowPhase::BatchDone => "batch done",
        })
    }
}

/// A follower ended.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError<E> {
    /// The key space stopped. What was left has been told. Give up; the reason says what to do.
    #[error("the key space stopped")]
    Stopped(#[source] StopReason),
    /// A callback failed. Whatever the follower keeps is as it was left: mend the cause, then follow
    /// anew from nothing.
    #[error("{phase} {}: a callback of the follower failed", key.escape_ascii())]
    Callback {
        /// Which one.
        phase: FollowPhase,
        /// The key it was about; empty at the end of a batch.
        key: Vec<u8>,
        /// What it gave.
        #[source]
        error: E,
    },
}

impl<T: Send + Sync + 'static> KeySpace<T> {
    /// Runs a follower of a range (`from..to`, a [`KeyRange`], or `..`) until it fails or the key
    /// space stops.
    ///
    /// As [`changes`](KeySpace::changes): first everything in the range, then differences, at the
    /// follower's own pace. For an index by value mind the [order of calls](Follower).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # #[cfg(feature = "test-util")]
    /// # use etcd_keyspace::{Entry, FollowError, KeySpace, SimpleFollower, testing::FakeEtcd};
    /// # #[cfg(not(feature = "test-util"))]
    /// # fn main() {}
    /// # #[cfg(feature = "test-util")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let etcd = FakeEtcd::new();
    /// # let ks = KeySpace::builder("/app/")?.bytes().start(etcd.clone()).await?;
    /// etcd.put("/app/a", "on");
    /// let follower = SimpleFollower::new()
    ///     .filter(|entry: &Entry<Vec<u8>>| entry.value() == b"on")
    ///     .upserted(|_old, new: &Arc<Entry<Vec<u8>>>| Err(new.key_str().into_owned()));
    /// let FollowError::Callback { error, .. } = ks.follow("/app/".."/app0", follower).await else {
    ///     panic!("the callback fails");
    /// };
    /// assert_eq!(error, "/app/a");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// When a bound is outside the mirrored range.
    ///
    /// # Cancel safety
    /// Dropping the future ends the follower, between two awaits of its callbacks.
    pub async fn follow<F: Follower<T>>(
        &self,
        range: impl Into<KeyRange>,
        mut follower: F,
    ) -> FollowError<F::Error> {
        let mut changes = self.changes(range);
        loop {
            let delta = match changes.next().await {
                Ok(delta) => delta,
                Err(reason) => return FollowError::Stopped(reason),
            };
            if let Err(error) = tell(&mut follower, &delta).await {
                return error;
            }
        }
    }
}

/// Tells a follower of one batch.
async fn tell<T: Send + Sync + 'static, F: Follower<T>>(
    follower: &mut F,
    delta: &Delta<T>,
) -> Result<(), FollowError<F::Error>> {
    let failed = |phase, key: &[u8], error| FollowError::Callback { phase, key: key.into(), error };
    let mut left = Vec::new();
    for change in delta {
        let old = change.old().filter(|old| follower.filter(old));
        let new = change.new().filter(|new| follower.filter(new));
        let (phase, told) = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => {
                left.push(old);
                continue;
            }
            (None, Some(new)) => (FollowPhase::Added, follower.added(new).await),
            (Some(old), Some(new)) if !recreated(change) && follower.equals(old, new) => continue,
            (Some(old), Some(new)) => (FollowPhase::Updated, follower.updated(old, new).await),
        };
        told.map_err(|error| failed(phase, change.key(), error))?;
    }
    for old in left {
        let told = follower.deleted(old).await;
        told.map_err(|error| failed(FollowPhase::Deleted, old.key(), error))?;
    }
    let told = follower.batch_done(delta.to_revision()).await;
    told.map_err(|error| failed(FollowPhase::BatchDone, b"", error))
}

fn recreated<T>(change: &Change<T>) -> bool {
    matches!(change, Change::Replaced { .. })
}

type Filter<T> = Box<dyn Fn(&Entry<T>) -> bool + Send + Sync>;
type Equals<T> = Box<dyn Fn(&Entry<T>, &Entry<T>) -> bool + Send + Sync>;
type Upserted<T, E> =
    Box<dyn FnMut(Option<&Arc<Entry<T>>>, &Arc<Entry<T>>) -> Result<(), E> + Send>;
type Deleted<T, E> = Box<dyn FnMut(&Arc<Entry<T>>) -> Result<(), E> + Send>;
type BatchDone<E> = Box<dyn FnMut(Revision) -> Result<(), E> + Send>;

/// A [`Follower`] of closures. What is not given passes everything, or does nothing.
pub struct SimpleFollower<T, E = Infallible> {
    filter: Option<Filter<T>>,
    equals: Option<Equals<T>>,
    upserted: Option<Upserted<T, E>>,
    deleted: Option<Deleted<T, E>>,
    batch_done: Option<BatchDone<E>>,
}

impl<T, E> Default for SimpleFollower<T, E> {
    fn default() -> Self {
        SimpleFollower::new()
    }
}

impl<T, E> SimpleFollower<T, E> {
    /// A follower of everything that does nothing.
    #[must_use]
    pub fn new() -> Self {
        SimpleFollower {
            filter: None,
            equals: None,
            upserted: None,
            deleted: None,
            batch_done: None,
        }
    }

    /// Which objects are in the view: [`Follower::filter`].
    #[must_use]
    pub fn filter(mut self, f: impl Fn(&Entry<T>) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Box::new(f));
        self
    }

    /// Which changes make no difference: [`Follower::equals`].
    #[must_use]
    pub fn equals(
        mut self,
        f: impl Fn(&Entry<T>, &Entry<T>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.equals = Some(Box::new(f));
        self
    }

    /// For objects that are new in the view, without an old one, and for those that changed.
    #[must_use]
    pub fn upserted(
        mut self,
        f: impl FnMut(Option<&Arc<Entry<T>>>, &Arc<Entry<T>>) -> Result<(), E> + Send + 'static,
    ) -> Self {
        self.upserted = Some(Box::new(f));
        self
    }

    /// For objects that left the view.
    #[must_use]
    pub fn deleted(
        mut self,
        f: impl FnMut(&Arc<Entry<T>>) -> Result<(), E> + Send + 'static,
    ) -> Self {
        self.deleted = Some(Box::new(f));
        self
    }

    /// For the end of each batch, with the revision that the view is as of.
    #[must_use]
    pub fn batch_done(mut self, f: impl FnMut(Revision) -> Result<(), E> + Send + 'static) -> Self {
        self.batch_done = Some(Box::new(f));
        self
    }

    fn upsert(&mut self, old: Option<&Arc<Entry<T>>>, new: &Arc<Entry<T>>) -> Result<(), E> {
        self.upserted.as_mut().map_or(Ok(()), |f| f(old, new))
    }
}

impl<T: Send + Sync + 'static, E: Send> Follower<T> for SimpleFollower<T, E> {
    type Error = E;

    fn filter(&self, entry: &Entry<T>) -> bool {
        self.filter.as_ref().is_none_or(|f| f(entry))
    }

    fn equals(&self, old: &Entry<T>, new: &Entry<T>) -> bool {
        self.equals.as_ref().is_some_and(|f| f(old, new))
    }

    fn added(&mut self, new: &Arc<Entry<T>>) -> impl Future<Output = Result<(), E>> + Send {
        ready(self.upsert(None, new))
    }

    fn updated(
        &mut self,
        old: &Arc<Entry<T>>,
        new: &Arc<Entry<T>>,
    ) -> impl Future<Output = Result<(), E>> + Send {
        ready(self.upsert(Some(old), new))
    }

    fn deleted(&mut self, old: &Arc<Entry<T>>) -> impl Future<Output = Result<(), E>> + Send {
        ready(self.deleted.as_mut().map_or(Ok(()), |f| f(old)))
    }

    fn batch_done(&mut self, revision: Revision) -> impl Future<Output = Result<(), E>> + Send {
        ready(self.batch_done.as_mut().map_or(Ok(()), |f| f(revision)))
    }
}

impl<T, E> fmt::Debug for SimpleFollower<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimpleFollower").finish_non_exhaustive()
    }
}
