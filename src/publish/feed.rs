//! Everything that a mirror takes in, raw and in order, for whoever stores it.
//!
//! Owns the words of it and the bounded way to the one who takes them. Must not know what is done with
//! them; the mirror waits for room before it goes on, so nothing is left out (C9).

use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use crate::model::{Event, RawKeyValue, Revision};
use crate::view::View;

/// How far the data goes: it is complete through the revision, of an epoch of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Through {
    pub(crate) cluster_id: u64,
    pub(crate) epoch: u64,
    pub(crate) revision: Revision,
}

impl Through {
    pub(crate) fn of<T>(view: &View<T>) -> Self {
        Through {
            cluster_id: view.cluster_id.unwrap_or_default(),
            epoch: view.epoch,
            revision: view.confirmed,
        }
    }
}

/// A key whose newest value could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) key: Vec<u8>,
    pub(crate) since: SystemTime,
    /// The revision of the older record that is shown in its place, if there is one.
    pub(crate) shows: Option<Revision>,
}

impl Refused {
    fn of<T>(view: &View<T>, key: &[u8]) -> Option<Self> {
        let rejection = view.rejected.get(key)?.value();
        let entry = view.entries.get(key).filter(|_| rejection.shown);
        let shows = entry.map(|entry| entry.mod_revision());
        Some(Refused { key: key.to_vec(), since: rejection.since, shows })
    }

    /// Those of a view, ascending by key.
    pub(crate) fn all<T>(view: &View<T>) -> Vec<Self> {
        let keys = view.rejected.all();
        keys.iter().filter_map(|rejected| Refused::of(view, rejected.key())).collect()
    }

    /// Those of the keys that the events are of, once each.
    pub(crate) fn among<T>(view: &View<T>, events: &[Event]) -> Vec<Self> {
        if view.rejected.len() == 0 {
            return Vec::new();
        }
        let refused = events.iter().filter_map(|event| Refused::of(view, event.key()));
        let mut refused: Vec<_> = refused.collect();
        refused.sort_by(|a, b| a.key.cmp(&b.key));
        refused.dedup_by(|a, b| a.key == b.key);
        refused
    }
}

/// What was taken in. It is shown by then.
#[derive(Debug)]
pub(crate) enum FeedItem {
    /// Events in etcd's order, none twice and none summed up.
    Events {
        from: Through,
        to: Through,
        events: Vec<Event>,
        /// The keys among them whose newest value is refused now; that of the others is not.
        refused: Vec<Refused>,
    },
    /// Nothing happened.
    Progress {
        from: Through,
        to: Through,
    },
    /// A complete read was [asked for](FeedReceiver::request_reload), and the mirror knows: one that has begun may
    /// be what it takes for it.
    ReloadAcknowledged,
    /// What was stored is shown, and is where everything goes on from.
    Restored,
    /// A complete read begins; what comes in between is not part of it.
    LoadBegins,
    /// Its next records, ascending by key.
    Page(Vec<RawKeyValue>),
    /// It is whole, and not shown before somebody decides; that can take long.
    LoadHeld,
    /// It is whole, and shown.
    LoadEnds {
        to: Through,
        /// All keys whose newest value is refused.
        refused: Vec<Refused>,
    },
    LoadAbandoned,
}

impl FeedItem {
    fn bytes(&self) -> usize {
        let overhead = size_of::<Event>();
        match self {
            FeedItem::Events { events, refused, .. } => {
                let events = events.iter().map(|event| event.bytes() + overhead);
                events.sum::<usize>() + bytes_of(refused)
            }
            FeedItem::Page(kvs) => kvs.iter().map(|kv| kv.bytes() + overhead).sum(),
            FeedItem::LoadEnds { refused, .. } => overhead + bytes_of(refused),
            _ => overhead,
        }
    }
}

fn bytes_of(refused: &[Refused]) -> usize {
    refused.iter().map(|refused| refused.key.len() + size_of::<Refused>()).sum()
}

/// What both ends know.
#[derive(Debug, Default)]
pub(crate) struct FeedState {
    bytes: AtomicUsize,
    freed: Notify,
    /// Its taker has lost its place, and needs a complete read.
    wanted: AtomicBool,
    /// Why nothing is stored.
    error: Mutex<Option<Arc<dyn StdError + Send + Sync>>>,
    wants: Notify,
}

/// The mirror's end.
#[derive(Debug)]
pub(crate) struct FeedSender {
    sender: mpsc::UnboundedSender<(FeedItem, usize)>,
    room: Arc<FeedState>,
    max: usize,
}

/// The taker's end.
#[derive(Debug)]
pub(crate) struct FeedReceiver {
    receiver: mpsc::UnboundedReceiver<(FeedItem, usize)>,
    room: Arc<FeedState>,
}

/// A way that has room while less than `max` bytes are on it.
pub(crate) fn tap(max: usize) -> (FeedSender, FeedReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let room = Arc::<FeedState>::default();
    (FeedSender { sender, room: Arc::clone(&room), max }, FeedReceiver { receiver, room })
}

impl FeedState {
    #[cfg(all(test, feature = "journal"))]
    pub(crate) fn wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    pub(crate) fn error(&self) -> Option<Arc<dyn StdError + Send + Sync>> {
        self.error.lock().clone()
    }

    pub(crate) fn set_error(&self, error: Option<Arc<dyn StdError + Send + Sync>>) {
        *self.error.lock() = error;
    }
}

impl FeedSender {
    pub(crate) fn shared(&self) -> Arc<FeedState> {
        Arc::clone(&self.room)
    }

    /// Gives on what was taken in. Whoever calls it has waited for room before; one message more than
    /// there is room for always goes.
    pub(crate) fn send(&self, tapped: FeedItem) {
        let bytes = tapped.bytes();
        self.room.bytes.fetch_add(bytes, Ordering::SeqCst);
        // Without a taker nothing is stored any more, which is the taker's to tell.
        if self.sender.send((tapped, bytes)).is_err() {
            self.room.bytes.fetch_sub(bytes, Ordering::SeqCst);
        }
    }

    /// Whether there is room, or nobody takes anything any more.
    pub(crate) fn has_room(&self) -> bool {
        self.room.bytes.load(Ordering::SeqCst) < self.max || self.sender.is_closed()
    }

    /// Waits for that. Cancel safe.
    pub(crate) async fn room(&self) {
        loop {
            let freed = self.room.freed.notified();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }

    /// Waits until the taker needs a complete read, and tells it that it is known. Cancel safe; once for
    /// each time.
    pub(crate) async fn reload_requested(&self) {
        loop {
            let wants = self.room.wants.notified();
            if self.room.wanted.swap(false, Ordering::SeqCst) {
                self.send(FeedItem::ReloadAcknowledged);
                return;
            }
            wants.await;
        }
    }
}

impl FeedReceiver {
    /// The next message; `None` when the mirror is gone.
    pub(crate) async fn next(&mut self) -> Option<FeedItem> {
        let message = self.receiver.recv().await?;
        Some(self.taken(message))
    }

    /// The next message if one is there.
    pub(crate) fn now(&mut self) -> Option<FeedItem> {
        let message = self.receiver.try_recv().ok()?;
        Some(self.taken(message))
    }

    fn taken(&self, (tapped, bytes): (FeedItem, usize)) -> FeedItem {
        self.room.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.room.freed.notify_one();
        tapped
    }

    /// Says why nothing is stored, or that it is.
    pub(crate) fn set_error(&self, error: Option<Arc<dyn StdError + Send + Sync>>) {
        self.room.set_error(error);
    }

    /// Asks for a complete read.
    pub(crate) fn request_reload(&self) {
        self.room.wanted.store(true, Ordering::SeqCst);
        self.room.wants.notify_one();
    }
}

impl Drop for FeedReceiver {
    fn drop(&mut self) {
        if !self.receiver.is_closed() {
            self.set_error(Some(Arc::new(std::io::Error::other("the task that stores ended"))));
        }
        self.receiver.close();
        self.room.freed.notify_one();
    }
}
