//! Making key spaces: what is mirrored, how it is decoded, how the mirror behaves, what feeds it.
//!
//! Owns [`Builder`] with the documentation of every option. Must not do I/O itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::keyspace::KeySpace;
use crate::mirror::{Feed, Mirror, OnHistoryChange, OnHold, Options, Restore};
use crate::model::{KeyRange, Revision, StopReason};
use crate::publish::{
    Awaited, Core, Cores, FeedSender, HistoryBounds, MAX_DURATION, State, WaitError, Writer,
};
use crate::source::Source;
use crate::view::{BadValues, Decoding};

/// A time that can be waited for: not zero, which would be a tight loop.
fn bounded(time: Duration) -> Duration {
    time.clamp(Duration::from_millis(1), MAX_DURATION)
}

/// Where data comes from before etcd, and where it goes besides.
struct Store<T> {
    warm: Option<MakeWarm<T>>,
    keeper: Option<MakeKeeper>,
}

/// Made with the name and the range of the key space.
type MakeWarm<T> = Box<dyn FnOnce(&str, &KeyRange) -> Restore<T> + Send>;
type MakeKeeper = Box<dyn FnOnce(&Options, &KeyRange) -> (FeedSender, Feed) + Send>;

impl<T> Default for Store<T> {
    fn default() -> Self {
        Store { warm: None, keeper: None }
    }
}

/// A key space about to be started, with all its options.
///
/// # Defaults
/// | option | default |
/// |---|---|
/// | [`apply_delay`](Builder::apply_delay) | 30 ms |
/// | [`queue_bounds`](Builder::queue_bounds) | 50,000 events or 32 MiB |
/// | [`intake_bytes_max`](Builder::intake_bytes_max) | 64 MiB |
/// | [`response_bytes_max`](Builder::response_bytes_max) | 1 GiB |
/// | [`backoff`](Builder::backoff) | 100 ms to 10 s |
/// | [`load_at`](Builder::load_at) | now |
/// | [`load_timeout`](Builder::load_timeout) | none |
/// | [`page_bytes`](Builder::page_bytes) | 16 MiB |
/// | [`load_threads`](Builder::load_threads) | the available cores, at most 8 |
/// | [`connect_timeout`](Builder::connect_timeout) | 5 s |
/// | [`request_timeout`](Builder::request_timeout) | 10 s |
/// | [`page_timeout`](Builder::page_timeout) | 60 s |
/// | [`check_interval`](Builder::check_interval) | 5 s |
/// | [`bad_values`](Builder::bad_values) | [`BadValues::KeepLast`] |
/// | [`on_other_cluster`](Builder::on_other_cluster) | [`OnHistoryChange::Stop`] |
/// | [`on_history_change`](Builder::on_history_change) | [`OnHistoryChange::Reload`] |
/// | [`proof_budget`](Builder::proof_budget) | 4,096 keys and 1 MiB |
/// | [`hold_reloads`](Builder::hold_reloads) | off |
/// | [`audit_interval`](Builder::audit_interval) | off |
/// | [`audit_values`](Builder::audit_values) | off |
#[must_use = "a builder does nothing until it is started"]
pub struct Builder<T> {
    range: KeyRange,
    decoding: Decoding<T>,
    /// The threads of a load, unless the default is meant.
    cores: Option<Cores>,
    history: Option<HistoryBounds>,
    store: Store<T>,
    options: Options,
}

impl<T: Send + Sync + 'static> Builder<T> {
    pub(super) fn new(range: KeyRange, decoding: Decoding<T>) -> Self {
        let (store, options) = (Store::default(), Options::default());
        Builder { range, decoding, cores: None, history: None, store, options }
    }

    /// Names the key space in logs, traces and metrics; without a name it is called after its range in
    /// logs, and `unnamed` in metrics, whose labels must not show keys.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = name.into();
        self
    }

    /// How long responses may be collected before they are applied as one batch.
    ///
    /// A throttle, not a debounce: the first response after a quiet time is applied at once, and
    /// under steady load there is one apply per delay. Zero applies every response by itself.
    pub fn apply_delay(mut self, delay: Duration) -> Self {
        self.options.apply_delay = delay.min(MAX_DURATION);
        self
    }

    /// How many events, or bytes of keys and values, are collected at most; whichever is reached
    /// first ends the delay.
    pub fn queue_bounds(mut self, events: usize, bytes: usize) -> Self {
        self.options.queue = crate::mirror::Bounds { events, bytes };
        self
    }

    /// How many bytes of events may arrive while a batch is being decoded and applied. Beyond it
    /// the watch is reopened where it stands, since a stream left unread makes old servers skip
    /// history.
    pub fn intake_bytes_max(mut self, bytes: usize) -> Self {
        self.options.intake_bytes = bytes;
        self
    }

    /// How many bytes one response of the watch, which is one revision at least, may have when it
    /// comes in fragments: they are held until it is whole. Beyond it everything is read again instead.
    pub fn response_bytes_max(mut self, bytes: usize) -> Self {
        self.options.response_bytes = bytes;
        self
    }

    /// The delay after the first failure in a row, and the greatest: it doubles from one to the
    /// other and starts over only after an event or a progress notification. Each delay is shortened
    /// by up to half at random. A `max` below `min` is raised to it.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.options.backoff_min = bounded(min);
        self.options.backoff_max = bounded(max);
        self
    }

    /// Loads at this revision, such as the one your own registration was written at, and follows
    /// from there; zero or less means now. A revision that is compacted ends the start with
    /// [`StopReason::Compacted`]; one that the store has not reached yet is waited for.
    pub fn load_at(mut self, revision: Revision) -> Self {
        self.options.load_at = revision.max(0);
        self
    }

    /// Gives up with [`StopReason::LoadTimeout`] unless the mirror has loaded and watches for the first
    /// time by then. The limit begins when the mirror runs, and ends for good with the first watch. It
    /// does not apply where stored data was restored, which is served from the start.
    pub fn load_timeout(mut self, limit: Duration) -> Self {
        self.options.load_timeout = Some(bounded(limit));
        self
    }

    /// How many bytes of keys and values a page of a load should have. Larger pages load faster;
    /// server and client hold one in memory. Servers from 3.7 on stream the range instead.
    pub fn page_bytes(mut self, bytes: u64) -> Self {
        self.options.page_bytes = bytes.max(1);
        self
    }

    /// How many threads decode the values of a load at most, the loading one included; zero counts as one, and
    /// 256 are the most.
    ///
    /// The default is the number of cores that the process may use (affinity and the quota of its
    /// container count), at most 8. The helping threads are started for a page of a load and end with it.
    /// The keys keep their order, and the result is that of one thread.
    ///
    /// Changed keys are decoded in chunks that end at 512 keys, or 128 KiB of keys and values. Helpers
    /// start once a chunk has taken 0.1 ms and two more are left, so small pages and cheap decoders start
    /// none. Four chunks for each thread are in flight at most.
    ///
    /// Helping threads have the stack of `std::thread`, 2 MiB unless `RUST_MIN_STACK` is set.
    ///
    /// Set one where the decoder needs a larger stack, where it depends on the thread it runs on, or where a reload must leave the other
    /// cores alone. Batches of events are always decoded by one thread.
    pub fn load_threads(mut self, threads: usize) -> Self {
        self.cores = Some(Cores::new(threads));
        self
    }

    /// How long connecting to one endpoint may take.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.options.connect_timeout = bounded(limit);
        self
    }

    /// How long a small request, or the opening of the watch, may take.
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.options.request_timeout = bounded(limit);
        self
    }

    /// How long one page, or the next chunk, of a load may take.
    pub fn page_timeout(mut self, limit: Duration) -> Self {
        self.options.page_timeout = bounded(limit);
        self
    }

    /// How often etcd is asked for its revision, and in silence for progress. That renews
    /// [`Status::current_as_of`](crate::Status::current_as_of), which is at most this interval plus two
    /// round trips and one batch while etcd answers, whatever is written elsewhere. A watch that leaves
    /// two requests for progress unanswered is replaced. Each pause is shortened by up to a quarter at
    /// random, so that many processes do not ask together.
    pub fn check_interval(mut self, interval: Duration) -> Self {
        self.options.check_interval = bounded(interval);
        self
    }

    /// What is shown for a key whose newest value cannot be decoded.
    pub fn bad_values(mut self, policy: BadValues) -> Self {
        self.decoding.bad_values = policy;
        self
    }

    /// What to do when the endpoints serve another cluster than the data is of.
    pub fn on_other_cluster(mut self, policy: OnHistoryChange) -> Self {
        self.options.on_other_cluster = policy;
        self
    }

    /// What to do when the same cluster's history is found to be another one: restored from a
    /// backup, or an acknowledged write lost in a crash.
    pub fn on_history_change(mut self, policy: OnHistoryChange) -> Self {
        self.options.on_history_change = policy;
        self
    }

    /// Compares everything, values included, with etcd after every break of the connection, if the
    /// range has at most `keys` keys, and at most `bytes` bytes of keys and values. A value counts as up
    /// to twice its length, since only its order of magnitude is kept.
    ///
    /// A restored or wiped store keeps its cluster id, so only its content shows that its history is
    /// another one. A larger range is compared in part: the values of the four newest live writes, and
    /// the number of keys. What that cannot find is a store in which these agree and others differ, as
    /// when a deterministic program writes it again; [`audit_values`](Builder::audit_values) finds that
    /// later. Where etcd has shown a lower revision or raft term than before, everything is compared
    /// whatever the size.
    ///
    /// Each break costs etcd a read of that much. Without a pending wait the read is put off at random,
    /// by half a second for each MiB at most: processes that reconnect together do not read together.
    /// Zero keys compare only an empty range whole.
    pub fn proof_budget(mut self, keys: usize, bytes: u64) -> Self {
        self.options.proof_budget = crate::mirror::Budget { keys, bytes };
        self
    }

    /// Holds a reload back when it would remove more than the share `above` of the known keys, between
    /// 0 (any removal) and 1 (none is held), NaN counting as 0; what happens then is said by `policy`.
    ///
    /// A guard against an emptied or half-restored store: the old data is served, and the state
    /// [`Held`](crate::State::Held) says so. Deletions that come as events, and the first load, are
    /// never held. While a reload is held etcd is asked at times how many keys it has, and when they
    /// came back everything is read anew.
    pub fn hold_reloads(mut self, above: f64, policy: OnHold) -> Self {
        self.options.hold_above = Some(if above.is_nan() { 0.0 } else { above.clamp(0.0, 1.0) });
        self.options.on_hold = match policy {
            OnHold::AcceptAfter(delay) => OnHold::AcceptAfter(bounded(delay)),
            policy => policy,
        };
        self
    }

    /// Compares all keys and their revisions with etcd this often while live, page by page, at a
    /// revision of the past; a difference is logged, counted as
    /// [`drift`](crate::Counters::drift), and mended by a reload.
    ///
    /// For servers that lose events (etcd 3.4 before 3.4.31 and 3.5 before 3.5.13) and for the
    /// careful. It costs etcd a read of the whole range; values are not sent, and not compared
    /// ([`audit_values`](Builder::audit_values) does). Each pause is shortened by up to a quarter at
    /// random, so that many processes do not read together.
    pub fn audit_interval(mut self, interval: Duration) -> Self {
        self.options.audit_interval = Some(bounded(interval));
        self
    }

    /// Compares all keys with etcd this often while live, with their revisions, values and leases, page by
    /// page, at a revision of the past.
    ///
    /// Finds all that [`audit_interval`](Builder::audit_interval) finds, and what no revision shows: a store
    /// that was wiped or restored, and has another value or lease under equal revisions. One history
    /// cannot have that. So everything is loaded under a new epoch, or the key space stops, as
    /// [`on_history_change`](Builder::on_history_change) says. A member whose data is corrupt looks the same.
    /// Each key that differs counts as [`drift`](crate::Counters::drift).
    ///
    /// It costs etcd a read of the whole range, and the network all of it: values are sent. The mirror
    /// holds two pages of about 1 MiB, and compares hashes of 58 bits. Both audits may be set: one runs at a
    /// time, and one with values serves for both. Each pause is shortened by up to a quarter at random.
    pub fn audit_values(mut self, interval: Duration) -> Self {
        self.options.audit_values = Some(bounded(interval));
        self
    }

    /// Keeps the last `events` events, of up to `bytes` bytes of keys and values, from the start and
    /// whether anybody follows or not: so far back [`events`](KeySpace::events) can start.
    ///
    /// Otherwise they are kept while somebody follows, up to 10,000 events and 16 MiB. Whole steps go,
    /// the oldest first; the newest stays, whatever its size. While events are kept every value is decoded, also those that are overwritten
    /// in the same batch.
    pub fn event_history(mut self, events: usize, bytes: usize) -> Self {
        self.history = Some(HistoryBounds { events, bytes });
        self
    }

    /// What to do when what a former mirror [stored](Builder::restore) cannot be used; it stops unless
    /// set.
    #[cfg(feature = "journal")]
    pub fn on_bad_store(mut self, on_bad_store: crate::OnBadStore) -> Self {
        self.options.on_bad_store = on_bad_store;
        self
    }

    /// Sets what brings stored data before etcd is asked.
    #[cfg(feature = "journal")]
    pub(crate) fn warm(
        mut self,
        warm: impl FnOnce(&str, &KeyRange) -> Restore<T> + Send + 'static,
    ) -> Self {
        self.store.warm = Some(Box::new(warm));
        self
    }

    /// Sets what everything is given to, and what stores it.
    #[cfg(feature = "journal")]
    pub(crate) fn keeper(
        mut self,
        keeper: impl FnOnce(&Options, &KeyRange) -> (FeedSender, Feed) + Send + 'static,
    ) -> Self {
        self.store.keeper = Some(Box::new(keeper));
        self
    }

    /// Makes all random choices (first endpoint, jitter) repeatable, for tests.
    pub fn seed(mut self, seed: u64) -> Self {
        self.options.seed = Some(seed);
        self
    }

    /// Starts the mirror as a task and returns when it has loaded and watches, or serves what was
    /// stored.
    ///
    /// Failures that may pass are retried, so without a [`load_timeout`](Builder::load_timeout) it
    /// waits for etcd as long as it takes.
    ///
    /// # Errors
    /// The reason the mirror stopped: refused rights, a wrong configuration, a compacted
    /// [`load_at`](Builder::load_at), or the load timeout.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    ///
    /// # Cancel safety
    /// Dropping the future ends the mirror.
    pub async fn start(self, source: impl Source) -> Result<KeySpace<T>, StopReason> {
        let (ks, mirror) = self.build(source);
        ks.core().spawned.store(true, Ordering::Release);
        tokio::spawn(mirror.run());
        let served = ks.loaded().await;
        let restored = ks.status().state == State::Restored;
        let served = if restored || served.is_err() { served } else { ks.started().await };
        match served {
            Ok(_) => Ok(ks),
            Err(WaitError::Stopped(reason)) => Err(reason),
            // Waits for the start have no epoch and no cluster that could be another one.
            Err(WaitError::HistoryChanged { .. } | WaitError::OtherCluster { .. }) => {
                Err(StopReason::Shutdown)
            }
        }
    }

    /// Makes the key space and its mirror without starting it: the handle is there before the first
    /// load, for observers that must see everything from the beginning.
    ///
    /// Until the mirror has loaded reads are empty, the status is `Loading`, and
    /// [`KeySpace::loaded`] waits.
    #[must_use]
    pub fn build(self, source: impl Source) -> (KeySpace<T>, Mirror<T>) {
        self.build_on(Arc::new(source))
    }

    /// The same with a source that others use too.
    pub(crate) fn build_on(mut self, source: Arc<dyn Source>) -> (KeySpace<T>, Mirror<T>) {
        #[cfg(feature = "metrics")]
        let name = self.options.name.clone();
        if self.options.name.is_empty() {
            self.options.name = self.range.to_string();
        }
        let options = self.options.clone();
        let Store { warm, keeper } = std::mem::take(&mut self.store);
        let range = self.range.clone();
        let (ks, mut writer) = self.writer();
        let warm = warm.map(|warm| warm(&options.name, &range));
        let keeper = keeper.map(|keeper| {
            let (tap, keeper) = keeper(&options, &range);
            writer.attach_feed(tap);
            keeper
        });
        #[cfg(feature = "metrics")]
        crate::metrics::attach(writer.core(), &name);
        (ks, Mirror::new(writer, source, options, warm, keeper))
    }

    /// Makes the key space with its writer and without any mirror, for tests that play etcd by
    /// hand: [`Writer::load`] and [`Writer::apply`] do what a mirror would make them do.
    ///
    /// The state is [`Loading`](crate::State::Loading) until the first load and then
    /// [`Live`](crate::State::Live), with an age that [`Writer::load`] and [`Writer::confirm`] renew. Nothing
    /// is read from etcd: [`KeySpace::sync`] waits until the writer is dropped, and a
    /// [`Token`](crate::Token) is met by its revision, whatever its term.
    ///
    /// # Panics
    /// With `journal` or `restore`: it is the mirror that stores, and that begins with what is stored.
    #[must_use]
    #[track_caller]
    pub fn writer(self) -> (KeySpace<T>, Writer<T>) {
        let Store { warm, keeper } = &self.store;
        assert!(
            warm.is_none() && keeper.is_none(),
            "without a mirror nothing is stored or restored; leave `journal` and `restore` out"
        );
        let core = Core::new(self.range);
        if let Some(bounds) = self.history {
            core.history.keep(bounds);
        }
        let cores = self.cores.unwrap_or_default();
        (KeySpace::new(Arc::clone(&core)), Writer::new(core, self.decoding, cores))
    }
}

impl<T> fmt::Debug for Builder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("range", &self.range)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> KeySpace<T> {
    /// Waits until the mirror has loaded and watches.
    pub(crate) async fn started(&self) -> Result<Revision, WaitError> {
        self.core().wait(Awaited::Watching).await
    }
}
