//! Net changes of a range, at the consumer's own pace.
//!
//! Owns [`Changes`]: what its consumer was told last, and the difference to what is there now. Keeps
//! no queue: while nobody asks, it holds the runs that cover its range as they were, and nothing else.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::{FusedStream, Stream};

use super::subscription::Subscription;
use super::validator::Validator;
use crate::keyspace::KeySpace;
use crate::model::{Change, Delta, DeltaOrigin, KeyRange, Revision, StopReason};
use crate::view::{OutsideRange, Packed, Range};

/// What the consumer was told last.
struct Told<T> {
    entries: Packed<T>,
    revision: Revision,
    epoch: u64,
    cluster_id: Option<u64>,
}

/// The net changes of a range: what is there first, then differences, each when it is asked for.
///
/// Made by [`KeySpace::changes`]. A [`Stream`], with an inherent [`next`](Changes::next). It counts as
/// a handle of the key space, so the mirror lives on while it does.
pub struct Changes<T: Send + Sync + 'static> {
    interested: Subscription<T>,
    told: Option<Told<T>>,
    nothing: Packed<T>,
    /// The stream has given its end.
    finished: bool,
}

impl<T: Send + Sync + 'static> KeySpace<T> {
    /// Follows the net changes of a range: `from..to`, a [`KeyRange`], or `..` for everything.
    ///
    /// The first item is everything in the range, as added; while nothing is loaded, it waits for the
    /// load. Each further item is the exact difference to the one before: whole revisions (C3), and a
    /// key that changed and changed back within it is left out. Reloads and new epochs are
    /// differences like any other. Folding the items gives the range as of
    /// [`Delta::to_revision`].
    ///
    /// Changes come in key order: an index by value is folded in two passes, [`Delta::old_entries`] and
    /// then [`Delta::new_entries`]. One pass breaks it when one item moves a value to a lower key.
    ///
    /// A consumer that is slow, or never asks, costs the runs of its range that were replaced since
    /// its last item; it delays nobody and is never cut off (C9). It is woken when a key of its range
    /// changed and not otherwise. An item costs O(k + pages of the range) for k changes in the runs
    /// that differ, outside every lock. Subscribing costs O(log m) comparisons for m subscriptions,
    /// with no gap and nothing twice.
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
    /// let mut changes = ks.changes(..);
    /// assert!(changes.next().await?.is_empty(), "nothing is there yet");
    ///
    /// etcd.put("/app/a", "1");
    /// let delta = changes.next().await?;
    /// assert_eq!(delta.changes()[0].key(), b"/app/a");
    /// assert_eq!(delta.to_revision(), etcd.revision());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// When a bound is outside the mirrored range; see [`try_changes`](KeySpace::try_changes).
    #[track_caller]
    pub fn changes(&self, range: impl Into<KeyRange>) -> Changes<T> {
        match self.try_changes(range) {
            Ok(changes) => changes,
            Err(error) => panic!("{error}; use `try_changes` for ranges that come from users"),
        }
    }

    /// [`changes`](KeySpace::changes) for a range that comes from a user.
    ///
    /// # Errors
    /// [`OutsideRange`] when the key space cannot know all keys of the range.
    pub fn try_changes(&self, range: impl Into<KeyRange>) -> Result<Changes<T>, OutsideRange> {
        let range = OutsideRange::check(range.into(), self.mirrored())?;
        let interested = Subscription::new(self, range);
        Ok(Changes { interested, told: None, nothing: Packed::default(), finished: false })
    }
}

impl<T: Send + Sync + 'static> Changes<T> {
    /// The next item, as soon as there is one. At the end what is left is given first, then the
    /// reason, again and again.
    ///
    /// # Errors
    /// The reason when the key space stopped: nothing changes any more.
    ///
    /// # Panics
    /// When it would have to wait while this thread holds a read guard of the same key space, or
    /// runs one of its observers: the wait could never end.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the item is given by the next call.
    pub async fn next(&mut self) -> Result<Delta<T>, StopReason> {
        poll_fn(|cx| self.poll_delta(cx)).await
    }

    /// The range that is followed.
    #[must_use]
    pub fn range(&self) -> &KeyRange {
        self.interested.range()
    }

    /// The range as it was told last: what all items so far fold to. Nothing before the first item.
    #[must_use]
    pub fn entries(&self) -> Range<'_, T> {
        let range = self.interested.range();
        let told = self.told.as_ref().map_or(&self.nothing, |told| &told.entries);
        Range::of(told.slice(range.start(), range.end()))
    }

    /// The validator of the range as it was told last: what a consumer shows that stores the fold of the
    /// items, and goes on elsewhere or later where its range is still the same. `None` before the
    /// first item.
    #[must_use]
    pub fn validator(&self) -> Option<Validator> {
        let told = self.told.as_ref()?;
        let range = self.interested.range();
        let fingerprint = told.entries.fingerprint(range.start(), range.end());
        Some(Validator::new(told.cluster_id, fingerprint))
    }

    /// Passes over what has not been told yet.
    pub(super) fn catch_up(&mut self) {
        drop(self.difference());
    }

    /// The revision, and its epoch, that was told last.
    pub(super) fn told(&self) -> (Revision, u64) {
        self.told.as_ref().map_or((0, 0), |told| (told.revision, told.epoch))
    }

    /// How often a waiting consumer of this stream was woken.
    #[must_use]
    pub fn wake_ups(&self) -> u64 {
        self.interested.wake_ups()
    }

    fn poll_delta(&mut self, cx: &mut Context<'_>) -> Poll<Result<Delta<T>, StopReason>> {
        loop {
            // Asked before the look: what was shown before the end is found by the look.
            let ended = self.interested.ended();
            if ended.is_none() {
                ready!(self.interested.poll_touched(cx));
            }
            if let Some(delta) = self.difference() {
                return Poll::Ready(Ok(delta));
            }
            if let Some(reason) = ended {
                return Poll::Ready(Err(reason));
            }
        }
    }

    /// What the consumer has not been told yet; the first time that may be nothing.
    fn difference(&mut self) -> Option<Delta<T>> {
        let view = self.interested.ks.snapshot();
        if view.revision() == 0 {
            return None;
        }
        let range = self.interested.range();
        let entries = view.entries.part(range.start(), range.end());
        let (origin, from, before) = match self.told.take() {
            Some(told) => (DeltaOrigin::Difference, told.revision, told.entries),
            None => (DeltaOrigin::Registration, 0, Packed::default()),
        };
        let differences = entries.diff(&before).into_iter();
        let changes = differences.filter_map(|d| Change::between(d.old, d.new));
        // The runs at both ends hold keys beside the range.
        let changes: Vec<_> = changes.filter(|change| range.contains(change.key())).collect();
        let (to, epoch) = (view.revision(), view.epoch());
        let cluster_id = view.cluster_id();
        self.told = Some(Told { entries, revision: to, epoch, cluster_id });
        let owed = origin == DeltaOrigin::Registration || !changes.is_empty();
        owed.then_some(Delta { changes, origin, from, to, epoch })
    }
}

impl<T: Send + Sync + 'static> Stream for Changes<T> {
    type Item = Result<Delta<T>, StopReason>;

    /// As [`next`](Changes::next), but the reason is given once, and then the stream ends.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.finished {
            return Poll::Ready(None);
        }
        let item = ready!(self.poll_delta(cx));
        self.finished = item.is_err();
        Poll::Ready(Some(item))
    }
}

impl<T: Send + Sync + 'static> FusedStream for Changes<T> {
    fn is_terminated(&self) -> bool {
        self.finished
    }
}

impl<T: Send + Sync + 'static> Unpin for Changes<T> {}

impl<T: Send + Sync + 'static> fmt::Debug for Changes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes")
            .field("range", self.range())
            .field("told", &self.told.as_ref().map(|told| (told.epoch, told.revision)))
            .finish()
    }
}
