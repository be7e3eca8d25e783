//! The shared state behind every handle, connection and stream of one fake cluster.
//!
//! Owns the lock and the wake-ups, and brings store, members and watchers together. No user code runs
//! under the lock: wakers are called, and closures of tests are run, after it is released.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::counts::Counts;
use super::elections::{Elections, FIRST_TERM};
use super::member::{Call, FaultSet, Member, Tamper, error, no_leader};
use super::random::Random;
use super::store::{Refusal, Store};
use super::watcher::{End, Next, Scene, WatchLimits, Watcher};
use crate::model::{Header, KeyRange, Revision, WatchResponse};
use crate::source::{ServerVersion, SourceError, SourceErrorKind};

/// What the fake says it runs until told otherwise.
const DEFAULT_VERSION: ServerVersion = ServerVersion { major: 3, minor: 7, patch: 2 };

const DEFAULT_LIMITS: WatchLimits = WatchLimits {
    batch_revisions_max: 1000,
    queue_responses_max: 128,
    sync_delay: Duration::ZERO,
    progress_interval: Some(Duration::from_secs(600)),
};

/// The cluster and its lock.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<Cluster>,
}

impl Shared {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Shared { state: Mutex::new(Cluster::new(seed)) })
    }

    /// Runs `work` under the lock and the wake-ups it caused after it.
    pub(super) fn update<R>(&self, work: impl FnOnce(&mut Cluster) -> R) -> R {
        let mut cluster = self.state.lock();
        let result = work(&mut cluster);
        let wake = std::mem::take(&mut cluster.wake);
        let discarded = std::mem::take(&mut cluster.discarded);
        drop(cluster);
        wake.into_iter().for_each(Waker::wake);
        drop(discarded);
        result
    }
}

/// Everything one fake cluster is.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) store: Store,
    pub(super) members: Vec<Member>,
    pub(super) limits: WatchLimits,
    cluster_id: u64,
    pub(super) elections: Elections,
    random: Random,
    /// Ascending by id, which makes the order of wake-ups a matter of the seed alone.
    watchers: BTreeMap<u64, Watcher>,
    next_watcher: u64,
    /// Requests that wait for the state of a member to change.
    held_up: Vec<Waker>,
    /// Tests that wait for a count to change.
    observers: Vec<Waker>,
    /// To be called once the lock is released.
    wake: Vec<Waker>,
    /// To be dropped once the lock is released: the last waker of a task may drop its future, and
    /// with it a stream of this cluster.
    discarded: Vec<Waker>,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let cluster_id = random.next();
        let mut cluster = Cluster {
            store: Store::new(),
            members: Vec::new(),
            limits: DEFAULT_LIMITS,
            cluster_id,
            elections: Elections::new(),
            random,
            watchers: BTreeMap::new(),
            next_watcher: 0,
            held_up: Vec::new(),
            observers: Vec::new(),
            wake: Vec::new(),
            discarded: Vec::new(),
        };
        cluster.set_endpoints(1);
        cluster
    }

    pub(super) fn set_endpoints(&mut self, endpoints: usize) {
        while self.members.len() < endpoints {
            let version = self.members.first().map_or(DEFAULT_VERSION, |member| member.version);
            let id = self.random.next();
            self.members.push(Member::new(id, version, self.elections.term()));
        }
    }

    pub(super) fn random(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    /// The header of an answer of `member` to a read; the revision is as far as the member is.
    pub(super) fn header(&mut self, member: usize) -> Option<Header> {
        let bare = self.bare_header(member);
        let member = &mut self.members[member];
        let revision = member.applied(&self.store).revision;
        let raft_term = member.late_term.take().unwrap_or(bare.raft_term);
        (!member.faults.headerless).then_some(Header { revision, raft_term, ..bare })
    }

    /// The header of the answer to a write that the first member serves now.
    pub(super) fn write_header(&self) -> Header {
        let (revision, raft_term) = (self.store.revision(), self.elections.term());
        Header { revision, raft_term, ..self.bare_header(0) }
    }

    fn bare_header(&self, member: usize) -> Header {
        let member = &self.members[member];
        let (cluster_id, member_id, raft_term) = (self.cluster_id, member.id, member.term);
        Header { cluster_id, member_id, revision: 0, raft_term }
    }

    /// How long an answer of `member` to `call` is on its way.
    pub(super) fn delay(&mut self, member: usize, call: Call) -> Duration {
        let jitter = self.members[member].faults.jitter;
        self.members[member].call_delay(call) + self.random.duration(jitter)
    }

    /// How long a message of a stream is on its way.
    pub(super) fn message_delay(&mut self, member: usize) -> Duration {
        let faults = &self.members[member].faults;
        faults.delay + self.random.duration(faults.jitter)
    }
}

/// Waiting, waking and counting.
impl Cluster {
    /// Remembers to wake a request when the state of a member changes.
    pub(super) fn park(&mut self, waker: &Waker) {
        park(&mut self.held_up, waker);
    }

    /// Remembers to wake a test when a count changes.
    pub(super) fn park_observer(&mut self, waker: &Waker) {
        park(&mut self.observers, waker);
    }

    /// Wakes requests that are held up, since the state of a member has changed.
    pub(super) fn stir(&mut self) {
        self.wake.append(&mut self.held_up);
        self.wake.append(&mut self.observers);
    }

    pub(super) fn count(&mut self, member: usize, count: impl FnOnce(&mut Counts)) {
        count(&mut self.members[member].counts);
        self.wake.append(&mut self.observers);
    }

    pub(super) fn counts(&self, member: usize) -> Counts {
        let alive = |watcher: &&Watcher| watcher.member == member && watcher.is_alive();
        let watchers = self.watchers.values().filter(alive).count() as u64;
        Counts { watchers, ..self.members[member].counts }
    }

    /// Lets a request or answer on its way through, or parks it, or fails it when its transport
    /// broke.
    pub(super) fn poll_gate(
        &mut self,
        member: usize,
        generation: u64,
        reading: bool,
        waker: &Waker,
    ) -> Poll<Result<(), SourceError>> {
        if self.members[member].generation != generation {
            return Poll::Ready(Err(broken_transport()));
        }
        if self.members[member].holds(reading) {
            self.park(waker);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

/// The store's changes, and disasters of all members.
impl Cluster {
    /// Changes the store and tells the watchers of the revision it took, if it took one.
    pub(super) fn commit(
        &mut self,
        change: impl FnOnce(&mut Store) -> Result<Revision, Refusal>,
    ) -> Result<Revision, Refusal> {
        let before = self.store.revision();
        let revision = change(&mut self.store)?;
        if revision != before {
            self.each_watcher(Watcher::is_alive, |watcher, scene| {
                if scene.member.applied.is_none() {
                    watcher.notify(scene, revision);
                }
            });
        }
        Ok(revision)
    }

    pub(super) fn restore(
        &mut self,
        revision: Revision,
        bump: u32,
        term: u64,
    ) -> Result<(), Refusal> {
        self.store.restore(revision)?;
        if bump > 0 {
            self.store.bump(bump);
        }
        self.begin(term);
        Ok(())
    }

    pub(super) fn wipe(&mut self) {
        self.store.wipe();
        self.begin(FIRST_TERM);
    }

    /// All members run a new store, whose first leader has `term`.
    fn begin(&mut self, term: u64) {
        self.elections.begin(term, &mut self.members);
        self.cut_all();
    }

    pub(super) fn change_cluster(&mut self) {
        self.cluster_id = self.random.next();
        for member in 0..self.members.len() {
            self.members[member].id = self.random.next();
        }
        self.cut_all();
    }

    fn cut_all(&mut self) {
        for member in 0..self.members.len() {
            self.members[member].applied = None;
            self.cut(member);
        }
    }
}

/// What befalls one member.
impl Cluster {
    /// Breaks every transport of `member`. Behind a proxy its watches only fall silent.
    pub(super) fn cut(&mut self, member: usize) {
        self.members[member].generation += 1;
        if self.members[member].faults.proxied {
            self.each_watcher(of(member), |watcher, _| watcher.muted = true);
        } else {
            self.fail_watchers(member, &broken_transport());
        }
        self.stir();
    }

    pub(super) fn fail_watchers(&mut self, member: usize, error: &SourceError) {
        self.each_watcher(of(member), |watcher, _| {
            watcher.end = Some(End::Broken(error.kind(), error.message().to_owned()));
        });
    }

    pub(super) fn lose_leader(&mut self, member: usize) {
        self.members[member].faults.leaderless = true;
        self.fail_watchers(member, &no_leader());
    }

    pub(super) fn release(&mut self, member: usize) {
        self.members[member].faults.stalled = false;
        self.each_watcher(of(member), |watcher, scene| watcher.answer_owed(scene));
        let held_up = self.watchers.values_mut().filter(|watcher| watcher.member == member);
        self.wake.extend(held_up.filter_map(|watcher| watcher.waker.take()));
        self.stir();
    }

    pub(super) fn hold_back(&mut self, member: usize) {
        let applied = self.members[member].applied(&self.store);
        self.members[member].applied = Some(applied);
    }

    pub(super) fn catch_up(&mut self, member: usize) {
        if self.members[member].applied.take().is_some() {
            self.each_watcher(of(member), |watcher, scene| watcher.catch_up(scene));
        }
        self.stir();
    }

    /// Ends everything that is wrong with `member` for a while. Bugs and version stay.
    ///
    /// The old faults may hold a test's closure, to be dropped after the lock.
    pub(super) fn heal(&mut self, member: usize) -> FaultSet {
        self.release(member);
        self.catch_up(member);
        self.stir();
        std::mem::take(&mut self.members[member].faults)
    }
}

/// Watchers.
impl Cluster {
    /// Runs `work` on the watchers `choose` picks and wakes the streams that have something new.
    ///
    /// No others: a needless wake-up would hide the loss of a needed one.
    pub(super) fn each_watcher(
        &mut self,
        choose: impl Fn(&Watcher) -> bool,
        mut work: impl FnMut(&mut Watcher, &mut Scene<'_>),
    ) {
        let chosen: Vec<u64> = self
            .watchers
            .iter()
            .filter(|(_, watcher)| choose(watcher) && watcher.is_alive())
            .map(|(id, _)| *id)
            .collect();
        for id in chosen {
            self.with_watcher(id, &mut work);
        }
    }

    fn with_watcher<R>(
        &mut self,
        id: u64,
        work: impl FnOnce(&mut Watcher, &mut Scene<'_>) -> R,
    ) -> Option<R> {
        let member = self.watchers.get(&id)?.member;
        let delay = self.message_delay(member);
        let header = self.bare_header(member);
        let watcher = self.watchers.get_mut(&id)?;
        let mut scene = Scene {
            store: &self.store,
            member: &mut self.members[member],
            limits: self.limits,
            header,
            delay,
        };
        let before = watcher.news();
        let result = work(watcher, &mut scene);
        if watcher.news() != before {
            self.wake.extend(watcher.waker.take());
        }
        Some(result)
    }

    pub(super) fn open_watcher(&mut self, member: usize, range: KeyRange, start: Revision) -> u64 {
        let id = self.next_watcher;
        self.next_watcher += 1;
        // etcd spreads the notifications of streams by up to a tenth (v3rpc/watch.go).
        let interval = self.limits.progress_interval;
        let interval = interval.map(|interval| interval + self.random.duration(interval / 10));
        let delay = self.message_delay(member);
        let header = self.bare_header(member);
        let scene = Scene {
            store: &self.store,
            member: &mut self.members[member],
            limits: self.limits,
            header,
            delay,
        };
        let proxied = scene.member.faults.proxied;
        let joins =
            |before: &Watcher| before.member == member && before.is_joined_by(&range, start);
        let joined = proxied && self.watchers.values().any(joins);
        let mut watcher = Watcher::open(member, range, start, interval, &scene);
        if joined {
            watcher.make_up_header();
        }
        self.watchers.insert(id, watcher);
        self.wake.append(&mut self.observers);
        id
    }

    pub(super) fn close_watcher(&mut self, id: u64) {
        if let Some(watcher) = self.watchers.remove(&id) {
            self.discarded.extend(watcher.waker);
            self.wake.append(&mut self.observers);
        }
    }

    pub(super) fn request_progress(&mut self, id: u64) -> bool {
        let Some(member) = self.watchers.get(&id).map(|watcher| watcher.member) else {
            return false;
        };
        self.count(member, |counts| counts.progress_requests += 1);
        self.with_watcher(id, |watcher, scene| watcher.request_progress(scene)).unwrap_or(false)
    }

    /// The next message for a stream, with what a test has put between; a stream that failed or ended
    /// is gone afterwards.
    pub(super) fn poll_watcher(&mut self, id: u64, waker: &Waker) -> (Next, Option<Tamper>) {
        let now = Instant::now();
        let before = self.watchers.get_mut(&id).and_then(|watcher| watcher.waker.take());
        self.discarded.extend(before);
        let Some(next) = self.with_watcher(id, |watcher, scene| watcher.poll(scene, now)) else {
            return (Next::Ended, None);
        };
        let member = self.watchers[&id].member;
        match next {
            Next::Message(message) => self.deliver(member, message),
            Next::Nothing(until) => {
                let watcher = self.watchers.get_mut(&id).expect("the watcher was just polled");
                watcher.waker = Some(waker.clone());
                (Next::Nothing(until), None)
            }
            over => {
                self.close_watcher(id);
                (over, None)
            }
        }
    }

    fn deliver(&mut self, member: usize, mut message: WatchResponse) -> (Next, Option<Tamper>) {
        let answers = u64::from(message.is_progress());
        let events = message.events.len() as u64;
        self.count(member, |counts| {
            counts.messages += 1;
            counts.events += events;
            counts.progress_answers += answers;
        });
        let faults = &mut self.members[member].faults;
        if faults.headerless {
            message.header = None;
        }
        let tamper = faults.tamper.clone();
        if let Some(left) = &mut faults.cut_after {
            *left = left.saturating_sub(1);
            if *left == 0 {
                faults.cut_after = None;
                self.cut(member);
            }
        }
        (Next::Message(message), tamper)
    }
}

fn park(wakers: &mut Vec<Waker>, waker: &Waker) {
    if !wakers.iter().any(|parked| parked.will_wake(waker)) {
        wakers.push(waker.clone());
    }
}

/// Chooses the watchers of one member.
pub(super) fn of(member: usize) -> impl Fn(&Watcher) -> bool {
    move |watcher| watcher.member == member
}

/// What a client sees when its transport breaks (measured: code Unknown with this text).
pub(super) fn broken_transport() -> SourceError {
    error(SourceErrorKind::Unavailable, "h2 protocol error: error reading a body from connection")
}
