//! Every event of a range, one by one, at the consumer's own pace.
//!
//! Owns [`Events`]; `cursor` goes from event to event. It holds the step that it reads and nothing else. A
//! consumer that falls behind the history gets the whole range.

mod cursor;
mod event;

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use futures_core::{FusedStream, Stream};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use self::cursor::{Begin, Resync};
use super::subscription::Subscription;
use crate::keyspace::KeySpace;
use crate::model::{KeyRange, Token};
use crate::publish::{Bell, Place, Step};
use crate::view::OutsideRange;

pub use self::event::{
    EventKind, EventsError, EventsOptions, KeyEvent, Start, SyncReason, SyncSet,
};

/// Every event of a range, in order.
///
/// Made by [`KeySpace::events`]. A [`Stream`], with an inherent [`next`](Events::next). It counts as a
/// handle of the key space, so the mirror lives on while it does.
pub struct Events<T: Send + Sync + 'static> {
    interested: Subscription<T>,
    begin: Option<Begin<T>>,
    /// The token while `begin` is pending: the position that these events start after.
    start: Token,
    /// The number of the step that was told last, whole.
    told: u64,
    /// All events through it were told.
    place: Place,
    /// The highest position that `token` returned. Idle progress is not in `place`, and a later token
    /// must not be below it.
    highest: Mutex<Place>,
    cluster_id: u64,
    /// The step that is being told, and how many of its events were looked at.
    telling: Option<(Arc<Step<T>>, usize)>,
    resync: Option<Resync<T>>,
    /// Whether the consumer was told where it begins; unknown until it is or never will be.
    synced: watch::Sender<Option<bool>>,
    stopped: Arc<AtomicBool>,
    /// The stream has given its end.
    finished: bool,
}

impl<T: Send + Sync + 'static> KeySpace<T> {
    /// Follows every event of a range, in etcd's order and not summed up: `from..to`, a [`KeyRange`],
    /// or `..` for everything.
    ///
    /// By default the first event is a `Sync`: the complete range and its revision. Then come
    /// `Added`, `Updated` and `Deleted`, each with its revision, whole revisions (C3); idle progress
    /// tells nothing. Breaks of the connection tell nothing either, nothing is lost or told twice by
    /// them. When etcd has lost history the mirror reads everything again, and a `Sync` carries what
    /// changed.
    ///
    /// Events are kept from the time somebody follows, or
    /// [`Builder::event_history`](crate::Builder::event_history) asks for it, up to a bound. A consumer
    /// that is slow is told from there; once it has fallen behind that, it is told a `Sync`. It delays
    /// nobody (C9). Where no event may be missed whatever happens, use a journal.
    ///
    /// Where progress is [counted](crate::ProgressBy::Count) (old servers, a gRPC proxy), a count proves
    /// that nothing is missing from what is shown, not that nothing else happened: a key that was
    /// created and deleted before the count, and whose events come after it, is not told.
    ///
    /// While events are kept, every value of a batch is decoded, not only the last of each key. An
    /// event costs O(1), one of another range O(log k) key comparisons; all outside every lock.
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
    /// use etcd_keyspace::{EventKind, EventsOptions, Start};
    ///
    /// let mut events = ks.events(.., Start::Now, EventsOptions::default());
    /// assert_eq!(events.next().await?.kind(), EventKind::Sync);
    ///
    /// etcd.put("/app/a", "1");
    /// etcd.delete("/app/a");
    /// assert_eq!(events.next().await?.kind(), EventKind::Added);
    /// assert_eq!(events.next().await?.kind(), EventKind::Deleted);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// When a bound is outside the mirrored range; see [`try_events`](KeySpace::try_events). With
    /// [`EventsOptions::resync`], outside a Tokio runtime.
    #[track_caller]
    pub fn events(
        &self,
        range: impl Into<KeyRange>,
        start: Start,
        options: EventsOptions,
    ) -> Events<T> {
        match self.try_events(range, start, options) {
            Ok(events) => events,
            Err(error) => panic!("{error}; use `try_events` for ranges that come from users"),
        }
    }

    /// [`events`](KeySpace::events) for a range that comes from a user.
    ///
    /// # Errors
    /// [`OutsideRange`] when the key space cannot know all keys of the range.
    ///
    /// # Panics
    /// With [`EventsOptions::resync`], outside a Tokio runtime.
    pub fn try_events(
        &self,
        range: impl Into<KeyRange>,
        start: Start,
        options: EventsOptions,
    ) -> Result<Events<T>, OutsideRange> {
        let range = OutsideRange::check(range.into(), self.mirrored())?;
        let interested = Subscription::in_history(self, range);
        let (start, begin) = match start {
            Start::Now => (Token::NOTHING, Begin::Sync),
            Start::After(at_least) => {
                let place = Place { epoch: 0, revision: at_least.0.revision() };
                let ks = self.clone();
                let reached = async move { ks.snapshot_at(at_least).await };
                (at_least.0, Begin::After(place, Box::pin(reached)))
            }
        };
        let resync = options.resync.map(|every| {
            let due = Box::pin(sleep_until(Instant::now() + every));
            Resync { every, due, taken: None }
        });
        Ok(Events {
            interested,
            begin: Some(begin),
            start,
            told: 0,
            place: Place::default(),
            highest: Mutex::default(),
            cluster_id: 0,
            telling: None,
            resync,
            synced: watch::Sender::new(None),
            stopped: Arc::default(),
            finished: false,
        })
    }
}

impl<T: Send + Sync + 'static> Events<T> {
    /// The next event, as soon as there is one. At the end what is left is told first, then why it
    /// ended, again and again.
    ///
    /// # Errors
    /// [`EventsError::KeySpace`] when nothing changes any more, [`EventsError::Stopped`] when
    /// somebody stopped the events.
    ///
    /// # Panics
    /// When it would have to wait while this thread holds a read guard of the same key space, or
    /// runs one of its observers: the wait could never end.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the event is told by the next call.
    pub async fn next(&mut self) -> Result<KeyEvent<T>, EventsError> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// The range that is followed.
    #[must_use]
    pub fn range(&self) -> &KeyRange {
        self.interested.range()
    }

    /// The position to resume from, by [`Start::after`], if this consumer ends here: the revision through
    /// which every event was delivered. Idle progress raises it too, and it never goes down within an epoch.
    ///
    /// Before the first event it is the position that these events start after. For [`Start::Now`] it
    /// asks for nothing (`0.0`): a consumer that resumes from it gets a `Sync`, or all that is kept. It
    /// has no [term](Token::term), unless it is still the token that was given to [`Start::after`].
    ///
    /// # Panics
    /// Inside an observer of the same key space.
    #[must_use]
    pub fn token(&self) -> Token {
        if self.begin.is_some() {
            return self.start;
        }
        let ks = &self.interested.ks;
        let view = ks.snapshot();
        let idle = self.telling.is_none() && self.told == view.step;
        let revision = if idle { view.confirmed } else { self.place.revision };
        let mut highest = self.highest.lock();
        *highest = (*highest).max(Place { revision, ..self.place });
        Token::in_epoch(self.cluster_id, highest.revision, (ks.core().id(), highest.epoch))
    }

    /// Waits until the consumer has been told its first `Sync`, or has gone on from where it
    /// started after; from then on it is true at once. False when that never comes.
    ///
    /// The future stands alone, for others to wait with while the consumer reads.
    pub fn synced(&self) -> impl Future<Output = bool> + Send + Sync + use<T> {
        let mut synced = self.synced.subscribe();
        async move {
            let known = synced.wait_for(Option::is_some).await;
            known.is_ok_and(|known| *known == Some(true))
        }
    }

    /// What ends these events from elsewhere.
    #[must_use]
    pub fn stop_handle(&self) -> EventsStop {
        EventsStop { stopped: Arc::clone(&self.stopped), bell: self.interested.bell() }
    }

    /// How often a waiting consumer of these events was woken.
    #[must_use]
    pub fn wake_ups(&self) -> u64 {
        self.interested.wake_ups()
    }
}

impl<T: Send + Sync + 'static> Stream for Events<T> {
    type Item = Result<KeyEvent<T>, EventsError>;

    /// As [`next`](Events::next), but the end is given once, and then the stream ends.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.finished {
            return Poll::Ready(None);
        }
        let item = ready!(self.poll_event(cx));
        self.finished = item.is_err();
        Poll::Ready(Some(item))
    }
}

impl<T: Send + Sync + 'static> FusedStream for Events<T> {
    fn is_terminated(&self) -> bool {
        self.finished
    }
}

impl<T: Send + Sync + 'static> Unpin for Events<T> {}

impl<T: Send + Sync + 'static> fmt::Debug for Events<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("range", self.range())
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// Ends the events it was made by. Clones end the same; it keeps no key space alive.
#[derive(Debug, Clone)]
pub struct EventsStop {
    stopped: Arc<AtomicBool>,
    bell: Bell,
}

impl EventsStop {
    /// Ends the events, also for a consumer that waits. Idempotent, and callable from any task.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.bell.ring();
    }
}
