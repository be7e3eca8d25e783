//! Random histories under random faults on a paused clock: the contract holds at every step.
//!
//! Each run is made from one seed. `SIM_SEEDS=n` sets how many are run, `SIM_SEED=s` runs one.
#![cfg(feature = "test-util")]

mod fake;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_keyspace::testing::{FakeEtcd, Op};
use etcd_keyspace::{
    Delta, KeyRange, KeySpace, Revision, ServerVersion, Snapshot, SourceErrorKind, View,
};
use fake::PREFIX;
use tokio::task::JoinSet;

/// Enough for every kind of fault many times over, and some ten seconds in a debug build.
const SEEDS: u64 = 1000;
const ACTS: usize = 60;
const KEYS: u64 = 12;

type Shown = BTreeMap<Vec<u8>, (Vec<u8>, Revision, Revision, i64)>;

fn shown(view: &View<Vec<u8>>) -> Shown {
    let entries = view.iter().map(|e| {
        let state = (e.value().clone(), e.create_revision(), e.mod_revision(), e.version());
        (e.key().to_vec(), state)
    });
    entries.collect()
}

fn truth(etcd: &FakeEtcd, revision: Revision) -> Shown {
    let kvs = etcd.range_at(&KeyRange::prefix(PREFIX), revision).into_iter();
    kvs.map(|kv| (kv.key, (kv.value, kv.create_revision, kv.mod_revision, kv.version))).collect()
}

/// What an observer knows: the view it folds from deltas, and the revisions it has seen.
#[derive(Default)]
struct Folded {
    entries: Shown,
    revision: Revision,
    steps: usize,
}

impl Folded {
    /// C4: the delta leads exactly from the last view to this one. C6: nothing goes back. C2: an
    /// honest store is shown as it was at the confirmed revision.
    fn take(&mut self, etcd: &FakeEtcd, delta: &Delta<Vec<u8>>, view: &View<Vec<u8>>) {
        self.steps += 1;
        for change in delta {
            let old = self.entries.remove(change.key());
            assert_eq!(old.map(|old| old.2), change.old().map(|old| old.mod_revision()));
            if let Some(new) = change.new() {
                let state =
                    (new.value().clone(), new.create_revision(), new.mod_revision(), new.version());
                self.entries.insert(new.key().to_vec(), state);
            }
        }
        assert_eq!(self.entries, shown(view), "the delta is not what changed");
        assert!(view.revision() >= self.revision, "the revision went back");
        assert!(view.revision() <= view.confirmed(), "C1");
        self.revision = view.revision();
        assert_eq!(shown(view), truth(etcd, view.confirmed()), "at {}", view.confirmed());
    }
}

struct Simulation {
    etcd: FakeEtcd,
    ks: KeySpace<Vec<u8>>,
    folded: Arc<Mutex<Folded>>,
    snapshots: Vec<(Snapshot<Vec<u8>>, Shown)>,
    waits: JoinSet<()>,
}

impl Simulation {
    async fn start(seed: u64) -> Self {
        let etcd = FakeEtcd::with_seed(seed);
        let endpoints = usize::try_from(etcd.random(3)).unwrap() + 1;
        let etcd = etcd.with_endpoints(endpoints);
        let versions = ["3.7.2", "3.6.15", "3.5.34", "3.5.1", "3.4.45", "3.4.23"];
        let version = versions[usize::try_from(etcd.random(6)).unwrap()];
        etcd.set_version(ServerVersion::parse(version).unwrap());
        etcd.set_progress_interval(None);
        etcd.set_sync_delay(Duration::from_millis(etcd.random(2) * 100));
        etcd.set_batch_revisions(usize::try_from(etcd.random(20)).unwrap() + 1);
        for n in 0..etcd.random(KEYS) {
            etcd.put(format!("{PREFIX}{n}"), "first");
        }
        let delay =
            Duration::from_millis([0, 5, 30, 200][usize::try_from(etcd.random(4)).unwrap()]);
        let (ks, mirror) = fake::builder().seed(seed).apply_delay(delay).build(etcd.clone());
        let folded = Arc::new(Mutex::new(Folded::default()));
        let (fold, store) = (Arc::clone(&folded), etcd.clone());
        ks.observe(move |delta, view, _| fold.lock().unwrap().take(&store, delta, view));
        tokio::spawn(mirror.run());
        Simulation { etcd, ks, folded, snapshots: Vec::new(), waits: JoinSet::new() }
    }

    fn key(&self) -> String {
        format!("{PREFIX}{}", self.etcd.random(KEYS))
    }

    async fn act(&mut self) {
        let etcd = self.etcd.clone();
        match etcd.random(24) {
            0..=5 => drop(etcd.put(self.key(), format!("{}", etcd.random(1000)))),
            6 | 7 => drop(etcd.delete(self.key())),
            8 => drop(etcd.txn((0..4).map(|n| Op::put(format!("{PREFIX}{n}"), "txn")))),
            9 => drop(etcd.delete_range(KeyRange::prefix(format!("{PREFIX}1")))),
            10 => drop(etcd.put("/outside", "x")),
            11 => self.fault(),
            12 => etcd.faults().heal(),
            13 => self.compact(),
            14..=16 => self.wait(),
            17 => self.snapshot(),
            18 => self.burst(),
            _ => {
                let pause = Duration::from_millis(etcd.random(400));
                tokio::time::sleep(pause).await;
            }
        }
        tokio::task::yield_now().await;
    }

    fn burst(&self) {
        for _ in 0..self.etcd.random(60) {
            self.etcd.put(self.key(), "burst");
        }
    }

    fn compact(&self) {
        let back = i64::try_from(self.etcd.random(8)).unwrap();
        let revision = self.etcd.revision() - back;
        if revision > self.etcd.compacted() {
            self.etcd.compact(revision);
        }
    }

    /// Faults of an honest server and a bad network; none loses history.
    fn fault(&self) {
        let etcd = &self.etcd;
        let faults = etcd.faults();
        let some = 1 + etcd.random(4);
        match etcd.random(14) {
            0 => faults.cut(),
            1 => faults.cut_after(some),
            2 => faults.end_streams(),
            3 => faults.cancel(""),
            4 => faults.duplicate(usize::try_from(some).unwrap()),
            5 => faults.fragment(usize::try_from(some).unwrap()),
            6 => faults.stall(),
            7 => faults.down(),
            8 => faults.lose_leader(),
            9 => faults.jitter(Duration::from_millis(some * 10)),
            10 => faults.mute(),
            11 => faults.ignore_progress(),
            12 => faults.fail_streams(SourceErrorKind::Unavailable),
            _ => faults.replay(1),
        }
    }

    /// C8: ends with the revision met; what it then reads is the truth at what it says.
    fn wait(&mut self) {
        let (ks, etcd) = (self.ks.clone(), self.etcd.clone());
        let revision = etcd.revision();
        let by_sync = etcd.random(3) == 0;
        self.waits.spawn(async move {
            if by_sync {
                assert!(ks.sync().await.unwrap() >= revision);
            }
            let view = ks.read_at(revision).await.unwrap();
            assert!(view.confirmed() >= revision);
            assert_eq!(shown(&view), truth(&etcd, view.confirmed()));
        });
    }

    fn snapshot(&mut self) {
        let snapshot = self.ks.snapshot();
        let seen = shown(&snapshot);
        self.snapshots.push((snapshot, seen));
    }

    async fn finish(mut self) {
        self.etcd.faults().heal();
        let revision = self.etcd.put(format!("{PREFIX}last"), "x");
        self.ks.wait_for_revision(revision).await.unwrap();
        while let Some(ended) = self.waits.join_next().await {
            ended.unwrap();
        }
        fake::assert_same(&self.ks, &self.etcd).await;
        let status = self.ks.status();
        assert!(status.poisoned_observers.is_empty(), "{:?}", status.poisoned_observers);
        assert_eq!(status.counters.discontinuities, 0, "an honest server lost history");
        assert_eq!(status.epoch, 1);
        let folded = self.folded.lock().unwrap();
        assert_eq!(folded.entries, shown(&self.ks.read()));
        assert!(folded.steps > 0);
        for pair in self.snapshots.windows(2) {
            let mut entries = pair[0].1.clone();
            for change in pair[1].0.diff(&pair[0].0) {
                entries.remove(change.key());
                if let Some(e) = change.new() {
                    let state =
                        (e.value().clone(), e.create_revision(), e.mod_revision(), e.version());
                    entries.insert(e.key().to_vec(), state);
                }
            }
            assert_eq!(entries, pair[1].1, "snapshots changed, or their difference is wrong");
        }
    }
}

fn run(seed: u64) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let run = async {
            let mut simulation = Simulation::start(seed).await;
            for _ in 0..ACTS {
                simulation.act().await;
            }
            simulation.finish().await;
        };
        // An hour of the simulation's own time: what hangs ends here.
        tokio::time::timeout(Duration::from_secs(3600), run).await.expect("hangs");
    });
}

#[test]
fn the_contract_holds_under_random_histories_and_faults() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!("run again: SIM_SEED={seed} cargo test --all-features --test simulation");
            std::panic::resume_unwind(panic);
        }
    }
}
