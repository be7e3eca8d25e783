//! An in-process etcd for tests: of this crate, and of code that uses it.
//!
//! Owns [`FakeEtcd`] and the ways to break it. Must not know the mirror: it sees the fake as any
//! other source. It starts no thread and no task, takes all its time from `tokio::time` (so that a
//! paused clock controls it) and all its chance from one seed: a seed reproduces a run.
//!
//! What it does is what etcd does, down to the order of messages and the bugs of old versions; what it
//! leaves out is everything a replica never asks for.

mod bugs;
mod cluster;
mod counts;
mod elections;
mod faults;
mod member;
mod random;
mod server;
mod store;
mod stream;
#[cfg(test)]
mod tests;
mod watcher;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

pub use self::bugs::Bug;
pub use self::counts::Counts;
pub use self::faults::Faults;
pub use self::member::Call;
pub use self::store::Op;

use self::cluster::Shared;
use self::elections::FIRST_TERM;
use self::store::Refusal;
use crate::model::{Event, Header, KeyRange, RawKeyValue, Revision};
use crate::source::ServerVersion;

/// The seed of [`FakeEtcd::new`].
const DEFAULT_SEED: u64 = 0x65_7463_6466_616b;

/// A multi-version etcd in memory, and a [`Source`](crate::Source) to follow.
///
/// A handle is cheap to clone and shared: a test writes with one while a key space follows another.
/// Writing wakes watchers and returns at once. The methods that write panic, with etcd's words, where
/// etcd refuses the request; faults belong to the clients' side, never to the test's own writes.
///
/// The whole history is kept, compacted or not, so that a test can compare what a replica shows at a
/// revision with the truth.
///
/// ```
/// use etcd_keyspace::KeyRange;
/// use etcd_keyspace::testing::{FakeEtcd, Op};
///
/// let etcd = FakeEtcd::new();
/// let created = etcd.put("/zones/a", "up");
/// let changed = etcd.txn([Op::put("/zones/a", "down"), Op::put("/zones/b", "up")]);
/// assert_eq!(changed, created + 1);
///
/// let zones = KeyRange::prefix("/zones/");
/// assert_eq!(etcd.range_at(&zones, created)[0].value, b"up");
/// let now = etcd.range(&zones);
/// assert_eq!((now[0].version, now[1].version), (2, 1));
/// assert_eq!(etcd.delete("/zones/c"), changed, "nothing was deleted, so no revision was used");
/// ```
#[derive(Clone)]
pub struct FakeEtcd {
    shared: Arc<Shared>,
}

/// Making and shaping a cluster.
impl FakeEtcd {
    /// An empty cluster with one endpoint, at revision 1, healthy, of the newest version known.
    #[must_use]
    pub fn new() -> Self {
        FakeEtcd::with_seed(DEFAULT_SEED)
    }

    /// The same with a seed of your own, which decides ids, jitter and [`random`](FakeEtcd::random).
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        FakeEtcd { shared: Shared::new(seed) }
    }

    /// The same cluster with this many endpoints, which must not be fewer than before.
    ///
    /// # Panics
    /// If there are more already.
    #[must_use]
    #[track_caller]
    pub fn with_endpoints(self, endpoints: usize) -> Self {
        let before = self.shared.update(|cluster| {
            let before = cluster.members.len();
            cluster.set_endpoints(endpoints.max(before));
            before
        });
        assert!(endpoints >= before, "a cluster of {before} endpoints cannot shrink");
        self
    }

    /// Changes what every endpoint says it runs. See also [`Faults::impersonate`].
    pub fn set_version(&self, version: ServerVersion) {
        self.faults().set_version(version);
    }

    /// Sets the time between two periodic progress notifications of streams opened from now on: ten
    /// minutes by default, up to a tenth more by the seed, and none for `None`.
    ///
    /// etcd: `--experimental-watch-progress-notify-interval`.
    pub fn set_progress_interval(&self, interval: Option<Duration>) {
        self.shared.update(|cluster| cluster.limits.progress_interval = interval);
    }

    /// Sets how many revisions one response of a backlog carries at most; 1000 by default, as in etcd.
    pub fn set_batch_revisions(&self, revisions: usize) {
        self.shared.update(|cluster| cluster.limits.batch_revisions_max = revisions.max(1));
    }

    /// Sets how many responses wait for a slow reader before its watcher falls behind and has to read
    /// the backlog; 128 by default, as in etcd.
    pub fn set_queue_responses(&self, responses: usize) {
        self.shared.update(|cluster| cluster.limits.queue_responses_max = responses.max(1));
    }

    /// Sets how long a watcher that starts at or falls behind the store's revision waits for its
    /// backlog, and until then has its progress requests dropped: not at all by default. etcd takes
    /// up to 100 ms.
    pub fn set_sync_delay(&self, delay: Duration) {
        self.shared.update(|cluster| cluster.limits.sync_delay = delay);
    }

    /// What can go wrong at all endpoints together.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults::new(Arc::clone(&self.shared), None)
    }

    /// What can go wrong at endpoint `index`.
    ///
    /// # Panics
    /// If there is no such endpoint.
    #[must_use]
    #[track_caller]
    pub fn faults_at(&self, index: usize) -> Faults {
        self.assert_endpoint(index);
        Faults::new(Arc::clone(&self.shared), Some(index))
    }

    #[track_caller]
    fn assert_endpoint(&self, index: usize) {
        let endpoints = self.shared.update(|cluster| cluster.members.len());
        assert!(index < endpoints, "there is no endpoint {index} of {endpoints}");
    }
}

/// Writing.
impl FakeEtcd {
    /// Writes one key and returns the revision of the write.
    ///
    /// # Panics
    /// If the key is empty.
    #[track_caller]
    pub fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Revision {
        self.txn([Op::put(key, value)])
    }

    /// Deletes one key and returns the store's revision, unchanged when the key was not there.
    #[track_caller]
    pub fn delete(&self, key: impl Into<Vec<u8>>) -> Revision {
        self.txn([Op::delete(key)])
    }

    /// Deletes every key of `range` at one revision and returns the store's revision, unchanged when
    /// there was none.
    #[track_caller]
    pub fn delete_range(&self, range: impl Into<KeyRange>) -> Revision {
        self.txn([Op::delete_range(range)])
    }

    /// Runs all operations at one revision, in order, and returns the store's revision.
    ///
    /// Each operation sees the ones before it. A key may come more than once, as nested transactions
    /// and overlapping deletes of real etcd allow: a put after a delete creates the key anew, a delete
    /// after a put leaves nothing, and the events of both are sent.
    ///
    /// # Panics
    /// If a key is empty or a lease unknown.
    #[track_caller]
    pub fn txn(&self, ops: impl IntoIterator<Item = Op>) -> Revision {
        // The caller's iterator runs before the lock is taken.
        let ops: Vec<Op> = ops.into_iter().collect();
        allowed(self.shared.update(|cluster| cluster.commit(|store| store.apply(ops))))
    }

    /// Grants a lease that lasts until it is revoked.
    #[must_use]
    pub fn grant_lease(&self) -> i64 {
        self.shared.update(|cluster| cluster.store.grant_lease())
    }

    /// Attaches a key to a lease by writing its value again; returns the revision of the write.
    ///
    /// etcd: `PutRequest.ignore_value`.
    ///
    /// # Panics
    /// If there is no such key or lease.
    #[track_caller]
    pub fn attach(&self, key: impl AsRef<[u8]>, lease: i64) -> Revision {
        let record = self.get(&key).expect("etcdserver: key not found");
        self.txn([Op::put_leased(record.key, record.value, lease)])
    }

    /// Ends a lease and deletes its keys at one revision, as its expiry does; returns the store's
    /// revision, unchanged when no key was attached.
    ///
    /// # Panics
    /// If there is no such lease.
    #[track_caller]
    pub fn revoke_lease(&self, lease: i64) -> Revision {
        allowed(self.shared.update(|cluster| cluster.commit(|store| store.revoke_lease(lease))))
    }

    /// Compacts history: clients can read at `revision` and later only. Compacting again at a lower
    /// revision changes nothing.
    ///
    /// # Panics
    /// If the revision is in the future.
    #[track_caller]
    pub fn compact(&self, revision: Revision) {
        allowed(self.shared.update(|cluster| cluster.store.compact(revision)));
    }
}

/// Disasters of the whole cluster.
impl FakeEtcd {
    /// Goes back to `revision`, as restoring a backup does: cluster and member ids stay, later history
    /// is gone, the raft term begins at 2 again, every transport breaks.
    ///
    /// # Panics
    /// If the revision is in the future.
    #[track_caller]
    pub fn restore(&self, revision: Revision) {
        allowed(self.shared.update(|cluster| cluster.restore(revision, 0, FIRST_TERM)));
    }

    /// The same at a raft term of your choice: lower than before, equal, or higher after some elections.
    ///
    /// # Panics
    /// If the revision is in the future, or the term zero.
    #[track_caller]
    pub fn restore_at_term(&self, revision: Revision, term: u64) {
        assert!(term > 0, "no cluster has the term zero");
        allowed(self.shared.update(|cluster| cluster.restore(revision, 0, term)));
    }

    /// Goes back to the state of `revision` but on to a revision `bump` higher, with everything before
    /// it compacted, as `etcdutl snapshot restore --bump-revision --mark-compacted` does. The raft term
    /// begins at 2 again.
    ///
    /// # Panics
    /// If the revision is in the future.
    #[track_caller]
    pub fn restore_bumped(&self, revision: Revision, bump: u32) {
        allowed(self.shared.update(|cluster| cluster.restore(revision, bump, FIRST_TERM)));
    }

    /// Empties the store, as removing the data directories does: it is at revision 1 and has no leases.
    /// Cluster and member ids stay, the raft term begins at 2 again, every transport breaks.
    pub fn wipe(&self) {
        self.shared.update(cluster::Cluster::wipe);
    }

    /// Gives the cluster another identity, with the same contents, and breaks every transport.
    pub fn change_cluster(&self) {
        self.shared.update(cluster::Cluster::change_cluster);
    }
}

/// The truth, for comparison.
impl FakeEtcd {
    /// The store's revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.shared.update(|cluster| cluster.store.revision())
    }

    /// The response header of a write that the first endpoint acknowledges now: cluster, revision and
    /// raft term. Right after a write it is the header of that write's response.
    #[must_use]
    pub fn header(&self) -> Header {
        self.shared.update(|cluster| cluster.write_header())
    }

    /// The revision of the last compaction, zero for none.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.shared.update(|cluster| cluster.store.compacted())
    }

    /// One key now.
    #[must_use]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<RawKeyValue> {
        self.range(&KeyRange::key(key.as_ref())).pop()
    }

    /// All keys of `range` now, ascending.
    #[must_use]
    pub fn range(&self, range: &KeyRange) -> Vec<RawKeyValue> {
        self.range_at(range, Revision::MAX)
    }

    /// All keys of `range` as they were after `revision`, ascending. Compaction does not matter.
    #[must_use]
    pub fn range_at(&self, range: &KeyRange, revision: Revision) -> Vec<RawKeyValue> {
        self.shared.update(|cluster| cluster.store.live(range, revision).cloned().collect())
    }

    /// All events of `range` from revision `from` on, in order. Compaction does not matter.
    #[must_use]
    pub fn history(&self, range: &KeyRange, from: Revision) -> Vec<Event> {
        self.shared.update(|cluster| {
            let history = cluster.store.history(range, from, Revision::MAX);
            history.flat_map(|committed| committed.events).collect()
        })
    }

    /// What was asked of all endpoints together.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.update(|cluster| {
            let mut sum = Counts::default();
            for member in 0..cluster.members.len() {
                sum.add(&cluster.counts(member));
            }
            sum
        })
    }

    /// What was asked of endpoint `index`.
    ///
    /// # Panics
    /// If there is no such endpoint.
    #[must_use]
    #[track_caller]
    pub fn counts_at(&self, index: usize) -> Counts {
        self.assert_endpoint(index);
        self.shared.update(|cluster| cluster.counts(index))
    }

    /// Waits until `condition` holds for the counts of all endpoints together, and returns them.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect.
    pub async fn until(&self, condition: impl Fn(&Counts) -> bool) -> Counts {
        poll_fn(|cx| {
            self.shared.update(|cluster| cluster.park_observer(cx.waker()));
            let counts = self.counts();
            if condition(&counts) { Poll::Ready(counts) } else { Poll::Pending }
        })
        .await
    }

    /// A random number below `bound` from the fake's seed; zero for the bound zero.
    #[must_use]
    pub fn random(&self, bound: u64) -> u64 {
        self.shared.update(|cluster| cluster.random(bound))
    }
}

/// What the store allowed; a refusal is the fault of the test that asked.
#[track_caller]
fn allowed<T>(answer: Result<T, Refusal>) -> T {
    match answer {
        Ok(answer) => answer,
        Err(refusal) => panic!("{refusal}"),
    }
}

impl Default for FakeEtcd {
    fn default() -> Self {
        FakeEtcd::new()
    }
}

impl fmt::Debug for FakeEtcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (revision, endpoints) =
            self.shared.update(|cluster| (cluster.store.revision(), cluster.members.len()));
        f.debug_struct("FakeEtcd")
            .field("revision", &revision)
            .field("endpoints", &endpoints)
            .finish_non_exhaustive()
    }
}
