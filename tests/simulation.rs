//! Random histories under random faults on a paused clock: the contract holds at every step.
//!
//! Each run is made from one seed and has the clock, the store and the chance to itself, so runs are
//! spread over all cores. `SIM_SEEDS=n` sets how many are run, `SIM_FIRST=s` the first of them, and
//! `SIM_SEED=s` runs one. `SIM_KIND=restored` (or `honest`, `old`, `hostile`) makes every world of that
//! kind. Assertions name what they hold: a point of the contract (C1 to C11), or a guarantee of etcd's
//! own watch (ordered, unique, atomic, reliable, resumable, bookmarkable).
//!
//! Owns the runner and the course of a run. What is done to the store is in `worlds`, what is checked
//! in `observed`, `audit`, `reader`, `waits`, `followers` and `rates`, against `truth`.
#![cfg(feature = "test-util")]

#[path = "simulation/audit.rs"]
mod audit;
#[path = "simulation/consumers.rs"]
mod consumers;
#[path = "simulation/disasters.rs"]
mod disasters;
#[path = "simulation/eventing.rs"]
mod eventing;
mod fake;
#[path = "simulation/followers.rs"]
mod followers;
#[path = "simulation/forgery.rs"]
mod forgery;
#[path = "simulation/observed.rs"]
mod observed;
#[path = "simulation/rates.rs"]
mod rates;
#[path = "simulation/reader.rs"]
mod reader;
#[path = "simulation/told.rs"]
mod told;
#[path = "simulation/truth.rs"]
mod truth;
#[path = "simulation/unfound.rs"]
mod unfound;
#[path = "simulation/value.rs"]
mod value;
#[path = "simulation/waits.rs"]
mod waits;
#[path = "simulation/worlds.rs"]
mod worlds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use etcd_keyspace::testing::Call;
use etcd_keyspace::{BadValues, Observer, Snapshot};
use fake::PREFIX;
use followers::Crowd;
use rates::Rates;
use reader::{CHECK_INTERVAL, REQUEST_TIMEOUT, Reader};
use tokio::task::JoinSet;
use truth::{Shown, numbers};
use value::Value;
use waits::Waiter;
use worlds::{Kind, World};

/// Enough for every kind of fault many times over, within a minute of two cores in a debug build.
const SEEDS: u64 = 10_000;
const ACTS: usize = 40;
/// An hour of the simulation's own time: what hangs ends here.
const SIMULATED_MAX: Duration = Duration::from_secs(3600);
/// The time of the real clock for one run, of some milliseconds; what blocks its thread ends here.
const REAL_MAX: Duration = Duration::from_secs(30);

struct Simulation {
    world: World,
    readers: Vec<Reader>,
    rates: Rates,
    waits: JoinSet<()>,
    crowd: Crowd,
    snapshots: Vec<(Snapshot<Value>, Vec<Shown>)>,
    late: Vec<Observer>,
}

impl Simulation {
    fn start(seed: u64, kind: Option<Kind>) -> Self {
        let mut world = World::new(seed, kind);
        let readers = 1 + usize::from(world.etcd.random(3) == 0);
        world.alone = readers == 1;
        let rates = Rates::new(readers);
        let start = |_| Reader::start(&world.etcd, world.kind, &world.truth);
        let readers: Vec<_> = (0..readers).map(start).collect();
        let crowd = Crowd::new(seed, &readers);
        if world.kind == Kind::Hostile {
            world.forge();
        }
        let waits = JoinSet::new();
        let (snapshots, late) = (Vec::new(), Vec::new());
        Simulation { world, readers, rates, waits, crowd, snapshots, late }
    }

    async fn act(&mut self) {
        let etcd = self.world.etcd.clone();
        match etcd.random(28) {
            0..=11 => self.world.write(),
            12 | 13 if self.world.kind == Kind::Hostile => self.world.forge(),
            12 | 13 => self.world.fault(),
            14 => self.heal(),
            15..=17 => self.wait(),
            18 => self.snapshot(),
            19 => self.observe_late(),
            20 | 22 if self.world.kind == Kind::Restored && self.world.disasters < 3 => {
                self.world.disaster().await;
            }
            20 | 22 | 23 if self.world.kind == Kind::Restored => self.sync_all().await,
            20 if self.world.kind == Kind::Old => match etcd.random(3) {
                0 => self.world.compact_behind_the_probe().await,
                1 if !self.world.doubted => self.world.lose(),
                _ => self.world.overtake().await,
            },
            20 if etcd.random(3) == 0 => self.overlap_syncs().await,
            21 if etcd.random(6) == 0 => {
                tokio::time::sleep(Duration::from_millis(etcd.random(15_000))).await;
            }
            _ => tokio::time::sleep(Duration::from_millis(etcd.random(400))).await,
        }
        tokio::task::yield_now().await;
        self.crowd.act(&self.readers).await;
        self.look().await;
    }

    /// After a `sync` with a healthy store every reader shows that store's content.
    async fn sync_all(&mut self) {
        self.heal();
        self.world.truth.lock().unwrap().refresh();
        for reader in &self.readers {
            reader.expect_synced().await;
        }
    }

    fn heal(&self) {
        self.world.etcd.faults().heal();
        if self.world.kind == Kind::Hostile {
            self.world.forge();
        }
    }

    async fn look(&mut self) {
        self.world.truth.lock().unwrap().refresh();
        let counts = self.world.etcd.counts();
        self.rates.check(counts, 1);
        for reader in &mut self.readers {
            reader.look(self.world.stale).await;
        }
        self.world.loaded = self.readers.iter().all(|reader| reader.ks.status().revision > 0);
        if let [a, b] = self.readers.as_slice() {
            compare(a, b);
        }
        while let Some(ended) = self.waits.try_join_next() {
            ended.expect("a waiter finds what it waited for");
        }
    }

    fn some_reader(&self) -> &Reader {
        let index = self.world.etcd.random(self.readers.len() as u64);
        &self.readers[usize::try_from(index).unwrap()]
    }

    fn wait(&mut self) {
        let waiter = Waiter::new(self.some_reader(), &self.world);
        let way = self.world.etcd.random(9);
        let patience = Duration::from_millis(self.world.etcd.random(3_000));
        self.waits.spawn(waiter.wait(way, patience));
    }

    /// Asks what the store knows while an older question is on its way, with a write in between.
    async fn overlap_syncs(&mut self) {
        let index = usize::try_from(self.world.etcd.random(self.readers.len() as u64)).unwrap();
        let delay = Duration::from_millis(50);
        self.world.etcd.faults().delay_call(Call::Range, delay);
        for _ in 0..2 {
            let waiter = Waiter::new(&self.readers[index], &self.world);
            self.waits.spawn(waiter.wait(3, Duration::ZERO));
            tokio::time::sleep(delay / 5).await;
            self.world.write();
        }
    }

    /// Snapshots are of the first reader, so that each differs from the one before by steps.
    fn snapshot(&mut self) {
        let snapshot = self.readers[0].ks.snapshot();
        let shown = snapshot.iter().cloned().collect();
        self.snapshots.push((snapshot, shown));
    }

    fn observe_late(&mut self) {
        if self.late.len() > 2 {
            self.late.remove(0).remove();
        } else {
            let reader = self.some_reader();
            let truth = Arc::clone(&self.world.truth);
            self.late.push(observed::register_late(&reader.ks, truth, reader.expect));
        }
    }

    async fn finish(mut self) {
        self.world.etcd.faults().heal();
        if self.world.kind == Kind::Hostile {
            self.end_forgeries().await;
        }
        self.world.etcd.put(format!("{PREFIX}last"), "x");
        self.world.truth.lock().unwrap().refresh();
        if self.world.kind == Kind::Old {
            self.reveal_losses().await;
        }
        let revision = self.world.etcd.revision();
        let mut live = Vec::new();
        for reader in &mut self.readers {
            reader.look(self.world.stale).await;
            if reader.catches_up(revision).await {
                live.push(reader);
            }
        }
        let replaced = self.world.truth.lock().unwrap().eras() > 1;
        // The numbers of a store that went back may be confirmed before anybody has looked at it, and
        // a request that was lost with the old one first has to time out.
        let patience = if replaced { REQUEST_TIMEOUT * 2 } else { Duration::ZERO };
        tokio::time::sleep(patience + CHECK_INTERVAL * 2).await;
        for reader in &mut live {
            reader.comes_back().await;
            reader.look(self.world.stale).await;
        }
        // What was waited for may have been a revision of the history before.
        live.retain(|reader| !reader.may_stop() || !reader.is_stopped());
        for reader in &live {
            reader.assert_settled(&self.world);
        }
        let counts = self.world.etcd.counts();
        assert_eq!(counts.watchers, live.len() as u64, "C9: one watch for each reader");
        self.crowd.settle().await;
        if self.crowd.weighs() {
            self.crowd.weigh(&mut self.world, &live).await;
        }
        // A change more, for those who wait for any, and the revisions of histories that are gone.
        self.world.catch_up_with_the_past();
        self.world.touch_everything();
        while let Some(ended) = self.waits.join_next().await {
            ended.expect("a waiter finds what it waited for");
        }
        self.check_snapshots();
        let spaces: Vec<_> = self.readers.iter().map(|reader| reader.ks.clone()).collect();
        for reader in self.readers {
            reader.end().await;
        }
        self.crowd.end(&spaces).await;
        assert_eq!(self.world.etcd.counts().watchers, 0, "C9: watches are left");
    }

    /// What a server lost without a word stays wrong until its key is touched; then it must be found
    /// out, and with it all that is wrong. Where servers are doubted, they are asked, and nothing
    /// stays wrong.
    async fn reveal_losses(&mut self) {
        for reader in &self.readers {
            let revision = self.world.etcd.revision();
            reader.catches_up(revision).await;
            if self.world.doubted {
                tokio::time::sleep(REQUEST_TIMEOUT * 2 + CHECK_INTERVAL * 2).await;
            }
            let truth = &self.world.truth;
            let Some(key) = truth.lock().unwrap().wrong_key(revision, reader) else { continue };
            assert!(truth.lock().unwrap().is_tainted(), "C2: {} is wrong", key.escape_ascii());
            assert!(!self.world.doubted, "C7: the loss of {} is not found", key.escape_ascii());
            // Found out by the touch, or read anew meanwhile for another reason.
            let loads = reader.ks.status().counters.loads;
            let touched = self.world.etcd.put(key, "touched");
            truth.lock().unwrap().refresh();
            reader.catches_up(touched).await;
            assert!(reader.ks.status().counters.loads > loads, "C7: a loss is overlooked");
        }
    }

    /// Has everything read again by those who were lied to.
    async fn end_forgeries(&self) {
        for reader in &self.readers {
            let loads = |reader: &Reader| reader.ks.status().counters.loads;
            // The first one may have been begun, or be undone, by a forgery.
            let enough = loads(reader) + 2;
            while loads(reader) < enough {
                self.world.etcd.faults().cancel_compacted(self.world.etcd.revision());
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        for reader in &self.readers {
            reader.set_forged(false);
        }
    }

    fn check_snapshots(&self) {
        for pair in self.snapshots.windows(2) {
            let [(old, before), (new, after)] = pair else { continue };
            let mut entries: std::collections::BTreeMap<_, _> =
                before.iter().map(|entry| (entry.key().to_vec(), entry)).collect();
            let changes = new.diff(old);
            for change in &changes {
                let was = entries.remove(change.key()).map(Arc::as_ptr);
                assert_eq!(was, change.old().map(Arc::as_ptr), "C6: the difference of snapshots");
                entries.extend(change.new().map(|entry| (entry.key().to_vec(), entry)));
            }
            let led_to = entries.values().map(|entry| Arc::as_ptr(entry));
            assert!(led_to.eq(after.iter().map(Arc::as_ptr)), "C6: the difference of snapshots");
            assert!(
                new.iter().map(Arc::as_ptr).eq(after.iter().map(Arc::as_ptr)),
                "C1: it changed"
            );
        }
    }
}

/// C1: equal `confirmed` in one history, and nothing rejected or policy `Drop`, is equal entries.
fn compare(a: &Reader, b: &Reader) {
    let (left, right) = (a.ks.read(), b.ks.read());
    let convergent = |reader: &Reader| {
        reader.expect.bad_values == BadValues::Drop || reader.ks.rejected().is_empty()
    };
    let same = left.confirmed() == right.confirmed() && a.expect.bad_values == b.expect.bad_values;
    if a.expect.honest && same && convergent(a) && convergent(b) {
        assert!(left.iter().map(numbers).eq(right.iter().map(numbers)), "C1: two mirrors differ");
    }
}

fn run(seed: u64, kind: Option<Kind>) {
    value::forget_locks();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let run = async {
            let mut simulation = Simulation::start(seed, kind);
            for _ in 0..ACTS {
                simulation.act().await;
            }
            simulation.finish().await;
        };
        tokio::time::timeout(SIMULATED_MAX, run).await.expect("C8: hangs");
    });
}

/// Runs seeds until none is left or one fails; tells what it begins and how it ended.
fn work(next: &AtomicU64, end: u64, failed: &AtomicBool, tell: &mpsc::Sender<Told>, worker: usize) {
    while !failed.load(Ordering::Relaxed) {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            break;
        }
        let _ = tell.send(Told::Began(worker, seed));
        if catch_unwind(AssertUnwindSafe(|| run(seed, Kind::asked_for()))).is_err() {
            let _ = tell.send(Told::Failed(seed));
            return;
        }
    }
    let _ = tell.send(Told::Done(worker));
}

enum Told {
    Began(usize, u64),
    Failed(u64),
    Done(usize),
}

/// The seed that failed, if one did; a thread that does not come back counts as failed.
fn first_failure(first: u64, end: u64) -> Option<u64> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let (next, failed) = (Arc::new(AtomicU64::new(first)), Arc::new(AtomicBool::new(false)));
    let (tell, told) = mpsc::channel();
    for worker in 0..workers {
        let (next, failed, tell) = (Arc::clone(&next), Arc::clone(&failed), tell.clone());
        std::thread::spawn(move || work(&next, end, &failed, &tell, worker));
    }
    drop(tell);
    let mut running = vec![None; workers];
    loop {
        match told.recv_timeout(Duration::from_secs(1)) {
            Ok(Told::Began(worker, seed)) => {
                running[worker] = Some((seed, std::time::Instant::now()));
            }
            Ok(Told::Done(worker)) => running[worker] = None,
            Ok(Told::Failed(seed)) => {
                failed.store(true, Ordering::Relaxed);
                return Some(seed);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return None,
        }
        let stuck = running.iter().flatten().find(|(_, since)| since.elapsed() > REAL_MAX);
        if let Some((seed, _)) = stuck {
            let why = "a lock is held where it must not be (C5), or a loop takes no time (C9)";
            eprintln!("seed {seed} blocks its thread: {why}");
            return Some(*seed);
        }
    }
}

#[test]
fn the_contract_holds_under_random_histories_and_faults() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, end) = match number("SIM_SEED") {
        Some(seed) => (seed, seed + 1),
        None => {
            let first = number("SIM_FIRST").unwrap_or(0);
            (first, first + number("SIM_SEEDS").unwrap_or(SEEDS))
        }
    };
    if let Some(seed) = first_failure(first, end) {
        let kind =
            std::env::var("SIM_KIND").map_or(String::new(), |kind| format!("SIM_KIND={kind} "));
        panic!("run again: {kind}SIM_SEED={seed} cargo test --all-features --test simulation");
    }
}
