//! Mirrors on demand: one key space per range, shared by all who want it, for as long as they do.
//!
//! Owns [`KeySpaces`]: getting, listing, ending. Which are held is kept in `table`, how long in `lease`,
//! and one revision across several is found in `cut`. Must not touch the data of any.

mod cut;
mod error;
mod lease;
mod options;
mod stats;
mod table;
#[cfg(all(test, feature = "test-util"))]
mod tests;

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

pub use self::cut::Cut;
pub use self::error::{CutError, GetError};
pub use self::options::KeySpacesBuilder;
pub use self::stats::{KeySpacesStats, SpaceInfo, SpaceState};

use self::lease::Place;
use self::options::{Configure, Options};
use self::table::{Gone, Slot, Table};
use crate::keyspace::KeySpace;
use crate::mirror::Mirror;
use crate::model::{IntoKeyRange, KeyRange, RangeError, RawKeyValue};
use crate::source::Source;
use crate::view::Decoder;

/// Key spaces by range, each started when it is first asked for, shared while it is used, and stopped
/// when nobody has used it for a while.
///
/// For prefixes that are known at run time only, such as those of tenants. Cheap to clone; all clones
/// are the same cache. When the last is dropped, key spaces that nobody has a handle of are stopped,
/// and the others live as long as their handles.
///
/// ```
/// # #[cfg(feature = "test-util")]
/// # use etcd_keyspace::{bytes, KeySpaces, testing::FakeEtcd};
/// # #[cfg(not(feature = "test-util"))]
/// # fn main() {}
/// # #[cfg(feature = "test-util")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let etcd = FakeEtcd::new();
/// # etcd.put("/tenants/7/plan", "gold");
/// let tenants = KeySpaces::builder(etcd.clone(), bytes()).max(100).build();
///
/// let seven = tenants.get("/tenants/7/").await?; // loads it, or waits for whoever does
/// let again = tenants.get("/tenants/7/").await?; // at once: it is the same one
/// assert_eq!(again.read().get("/tenants/7/plan").unwrap().value(), b"gold");
/// assert_eq!(tenants.stats().starts, 1);
/// # Ok(())
/// # }
/// ```
///
/// # One range, one mirror
/// A range that lies within another one has a mirror of its own all the same, and so has an equal set
/// of keys that is written as another range: a handle is of the range that was asked for, and a read
/// of a part of it is what [`View::prefix`](crate::View::prefix) is for. Ask for the wider one where it
/// is needed anyway.
///
/// # Locking
/// One lock, for a look into a table; it is never held while anything is awaited, called or dropped.
/// Getting a key space that is held costs O(1), plus O(held) when room has to be made.
pub struct KeySpaces<T: Send + Sync + 'static> {
    inner: Arc<Inner<T>>,
}

/// What all clones and all tasks share.
struct Inner<T: Send + Sync + 'static> {
    source: Arc<dyn Source>,
    decoder: Arc<dyn Decoder<T>>,
    configure: Box<Configure<T>>,
    options: Options,
    table: Mutex<Table<T>>,
    /// How many mirrors' tasks there are.
    running: Arc<watch::Sender<usize>>,
}

impl<T: Send + Sync + 'static> KeySpacesBuilder<T> {
    /// Makes the cache. Nothing is started or connected yet.
    #[must_use]
    pub fn build(self) -> KeySpaces<T> {
        let KeySpacesBuilder { source, decoder, configure, options } = self;
        let table = Mutex::new(Table::new());
        let running = Arc::new(watch::Sender::new(0));
        let inner = Inner { source, decoder, configure, options, table, running };
        KeySpaces { inner: Arc::new(inner) }
    }
}

impl<T: Send + Sync + 'static> KeySpaces<T> {
    /// The key space of `range`, loaded and watching: the one that is held, or a new one.
    ///
    /// Takes what [`KeySpace::builder`] takes: a clean path, or a [`KeyRange`]. Callers who ask for
    /// a range while it is being started share that start. The handle keeps the key space in use, and
    /// so do its clones and all that follows it; guards, snapshots and weak handles do not. Once the
    /// last is dropped, the mirror runs on for the [`idle_ttl`](KeySpacesBuilder::idle_ttl); a `get`
    /// within it returns at once, a later one starts anew.
    ///
    /// A mirror that stopped, whatever the reason, is not given out any more: the next `get` starts
    /// another one. Who has a handle of the old one keeps its last data. That goes for
    /// [`KeySpace::shutdown`] too, which stops the mirror for everybody who shares it.
    ///
    /// Observers and derived state belong to one mirror: they end with it, and registering one is no
    /// use of the key space. Keep a handle for as long as they matter.
    ///
    /// # Errors
    /// Any [`GetError`]. A failed start reaches every caller who waited for it, and for a
    /// [while](KeySpacesBuilder::start_backoff) after it every caller at once, with the time that is
    /// left: nobody is kept waiting for a start that is not even tried.
    ///
    /// # Panics
    /// Outside a Tokio runtime when it has to start a mirror, which then lives in the runtime of this
    /// call; and as [`KeySpace::wait_for_revision`] while it would have to wait.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind: others who wait for the same start still get it,
    /// and when there are none, the start is ended.
    pub async fn get(&self, range: impl IntoKeyRange) -> Result<KeySpace<T>, GetError> {
        let range = key_range(range)?;
        loop {
            let ks = self.inner.with_own_count(&range)?;
            match ks.started().await {
                Ok(_) if ks.core().waits.ended().is_none() => {
                    self.inner.started(&range, &ks);
                    return Ok(ks);
                }
                // It had stopped by itself, which nobody had noticed.
                Ok(_) => {}
                Err(_) => return Err(self.inner.failed(&range, &ks)),
            }
        }
    }

    /// What is held, and which starts have failed, ascending by range.
    ///
    /// Costs O(n log n), and a look at each [`status`](KeySpace::status) outside the lock.
    #[must_use]
    pub fn list(&self) -> Vec<SpaceInfo> {
        let now = Instant::now();
        let mut list: Vec<(KeyRange, SpaceState, Option<KeySpace<T>>)> = Vec::new();
        {
            let table = self.inner.table.lock();
            for (range, slot) in &table.slots {
                let state = match slot.leases.idle_since() {
                    _ if !slot.has_started() => SpaceState::Starting,
                    None => SpaceState::InUse,
                    Some(since) => {
                        SpaceState::Idle { idle_for: now.saturating_duration_since(since) }
                    }
                };
                list.push((range.clone(), state, Some(slot.root.clone())));
            }
            for (range, failure) in &table.failures {
                if !table.slots.contains_key(range) {
                    let reason = failure.reason.clone();
                    let retry_in = failure.until.saturating_duration_since(now);
                    list.push((range.clone(), SpaceState::Failed { reason, retry_in }, None));
                }
            }
        }
        list.sort_by(|(a, ..), (b, ..)| order(a).cmp(&order(b)));
        let infos = list.into_iter().map(|(range, state, root)| {
            let status = root.map(|root| root.status());
            SpaceInfo { range, state, status }
        });
        infos.collect()
    }

    /// How many are held, and what happened so far, in O(held).
    #[must_use]
    pub fn stats(&self) -> KeySpacesStats {
        let table = self.inner.table.lock();
        let idle = |slot: &&Slot<T>| slot.leases.idle_since().is_some();
        KeySpacesStats {
            held: table.slots.len(),
            in_use: table.slots.len() - table.slots.values().filter(idle).count(),
            failures: table.failures.len(),
            ..table.stats
        }
    }

    /// Stops every mirror, also those that are in use, and waits until all have stopped; afterwards
    /// `get` fails. Handles keep the last data. Idempotent.
    ///
    /// # Panics
    /// While this thread holds a read guard of one of the key spaces, or runs an observer of one.
    ///
    /// # Cancel safety
    /// The mirrors stop all the same.
    pub async fn shutdown(&self) {
        let slots: Vec<Slot<T>> = {
            let mut table = self.inner.table.lock();
            table.closed = true;
            table.failures.clear();
            table.slots.drain().map(|(_, slot)| slot).collect()
        };
        for slot in &slots {
            slot.root.core().shutdown.send_replace(true);
        }
        for slot in slots {
            slot.root.closed().await;
        }
        let mut running = self.inner.running.subscribe();
        // An error means that nobody could count any more, which is the same.
        let _ = running.wait_for(|running| *running == 0).await;
    }
}

impl<T: Send + Sync + 'static> Inner<T> {
    /// A handle of the range's key space, which is started if it is not there.
    fn with_own_count(self: &Arc<Self>, range: &KeyRange) -> Result<KeySpace<T>, GetError> {
        let mut gone = Gone::new();
        let found = self.table.lock().find(range, &self.options, Instant::now(), &mut gone);
        drop(gone);
        if let Some(ks) = found? {
            return Ok(ks);
        }
        let runtime = Handle::current();
        // Calls code of the application, so not under the lock.
        let (root, mirror) = self.make(range)?;
        let mut gone = Gone::new();
        let lent = self.insert(range, root, &mut gone);
        drop(gone);
        let (ks, place) = lent?;
        if let Some(place) = place {
            runtime.spawn(place.keep(mirror));
        }
        Ok(ks)
    }

    fn make(&self, range: &KeyRange) -> Result<(KeySpace<T>, Mirror<T>), RangeError> {
        let decoder = Arc::clone(&self.decoder);
        let builder = KeySpace::builder(range.clone())?;
        let builder = builder.decoder(move |kv: RawKeyValue| decoder.decode(kv));
        Ok((self.configure)(range, builder).build_on(Arc::clone(&self.source)))
    }

    /// Takes a new key space in, with the place for its task; or gives the one that came first.
    fn insert(
        self: &Arc<Self>,
        range: &KeyRange,
        root: KeySpace<T>,
        gone: &mut Gone<T>,
    ) -> Result<(KeySpace<T>, Option<Place<T>>), GetError> {
        let now = Instant::now();
        let mut table = self.table.lock();
        if let Some(ks) = table.find(range, &self.options, now, gone)? {
            return Ok((ks, None));
        }
        table.make_room(range, &self.options, now, gone)?;
        table.stats.starts += 1;
        let id = table.id();
        let mut slot = Slot::new(id, root);
        let ks = slot.with_own_count();
        let place = Place {
            cache: Arc::downgrade(self),
            range: range.clone(),
            id,
            leases: Arc::clone(&slot.leases),
            running: Arc::clone(&self.running),
        };
        self.running.send_modify(|running| *running += 1);
        table.slots.insert(range.clone(), slot);
        Ok((ks, Some(place)))
    }

    /// Somebody has got the key space loaded and watching.
    fn started(&self, range: &KeyRange, ks: &KeySpace<T>) {
        let mut table = self.table.lock();
        if let Some(slot) = table.slots.get(range).filter(|slot| slot.is_of(ks)) {
            slot.leases.started(self.options.idle_ttl);
            table.failures.remove(range);
        }
    }

    /// Why the key space did not start.
    fn failed(&self, range: &KeyRange, ks: &KeySpace<T>) -> GetError {
        let now = Instant::now();
        let mut gone = Gone::new();
        let error = {
            let mut table = self.table.lock();
            if table.slots.get(range).is_some_and(|slot| slot.is_of(ks)) {
                table.settle(range, &self.options, now, &mut gone);
            }
            match ks.core().waits.ended() {
                Some(reason) if !table.closed => {
                    let retry_in = table.retry_in(range, now);
                    GetError::Start { range: range.clone(), reason, retry_in }
                }
                _ => GetError::Shutdown,
            }
        };
        drop(gone);
        error
    }

    /// Lets go of a key space that nobody has used for too long; whether it is not held any more.
    fn let_go(&self, place: &Place<T>) -> bool {
        let mut table = self.table.lock();
        if table.slots.get(&place.range).is_none_or(|slot| slot.id != place.id) {
            return true;
        }
        if place.leases.due().is_none_or(|due| due > Instant::now()) {
            return false;
        }
        table.stats.idle_stops += 1;
        let slot = table.slots.remove(&place.range);
        drop(table);
        drop(slot);
        true
    }

    /// The task of a mirror has ended.
    fn ended(&self, place: &Place<T>) {
        let mut gone = Gone::new();
        let mut table = self.table.lock();
        if table.slots.get(&place.range).is_some_and(|slot| slot.id == place.id) {
            table.settle(&place.range, &self.options, Instant::now(), &mut gone);
        }
        drop(table);
        drop(gone);
    }
}

/// The range that is meant, which must hold some key.
fn key_range(range: impl IntoKeyRange) -> Result<KeyRange, RangeError> {
    let range = range.into_key_range()?;
    if range.is_empty() { Err(RangeError::Empty { range }) } else { Ok(range) }
}

/// Ranges in one order, which is also that in which a cut takes its turns.
fn order(range: &KeyRange) -> (&[u8], bool, Option<&[u8]>) {
    (range.start(), range.end().is_none(), range.end())
}

impl<T: Send + Sync + 'static> Clone for KeySpaces<T> {
    fn clone(&self) -> Self {
        KeySpaces { inner: Arc::clone(&self.inner) }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for KeySpaces<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySpaces")
            .field("source", &self.inner.source)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
