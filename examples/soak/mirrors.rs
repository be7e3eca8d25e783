//! The mirrors under test: who they are, how they live and end, and how they are watched.
//!
//! Owns their lives, and what can be judged by looking at one mirror alone. Must not ask etcd:
//! `compare.rs` does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_keyspace::{
    BadValues, Builder, Derived, Etcd, EtcdOptions, KeyRange, KeySpace, RawKeyValue, ReadGuard,
    Rejected, Revision, Snapshot, State, StopReason, View, WaitError,
};
use tokio::task::JoinHandle;

use crate::compare;
use crate::fold::Fold;
use crate::report::MirrorReport;
use crate::world::{PREFIX, Random, World, lock};

/// Snapshots kept of each mirror, to find pairs of equal `confirmed` among.
const SHELF_MAX: usize = 1024;
/// How often ages are looked at.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) type Value = Vec<u8>;

/// What a mirror's decoder takes, and what is shown in the place of the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taste {
    All,
    Drop,
    KeepLast,
}

/// The values that a mirror with a taste rejects.
pub(crate) fn is_bad(value: &[u8]) -> bool {
    value.starts_with(b"!")
}

pub(crate) struct Mirror {
    pub(crate) name: String,
    pub(crate) taste: Taste,
    /// Behind the proxies.
    pub(crate) linked: bool,
    pub(crate) ks: KeySpace<Value>,
    fold: Derived<Fold>,
    shelf: Mutex<VecDeque<Snapshot<Value>>>,
    worst: Mutex<Worst>,
    task: Mutex<Option<JoinHandle<StopReason>>>,
}

/// The oldest the data has been.
#[derive(Debug, Clone, Copy, Default)]
struct Worst {
    healthy: Duration,
    overall: Duration,
    during: &'static str,
}

/// One view with all that can be seen of it, taken under one guard.
pub(crate) struct Look {
    pub(crate) snapshot: Snapshot<Value>,
    pub(crate) rejected: Vec<Rejected>,
    /// What the fold of all deltas has otherwise than the view.
    pub(crate) fold: Vec<String>,
}

impl Mirror {
    /// Makes a mirror with its observer in place before the first load, and lets it run.
    pub(crate) fn start(
        name: &str,
        taste: Taste,
        endpoints: Vec<String>,
        linked: bool,
        with: impl FnOnce(Builder<Value>) -> Builder<Value>,
    ) -> Arc<Self> {
        let range = KeyRange::prefix(PREFIX);
        let builder = KeySpace::builder(range).expect("the prefix is not empty");
        let builder = match taste {
            Taste::All => builder.bytes(),
            Taste::Drop => builder.decoder(picky).bad_values(BadValues::Drop),
            Taste::KeepLast => builder.decoder(picky).bad_values(BadValues::KeepLast),
        };
        let builder = builder
            .name(name)
            .backoff(Duration::from_millis(50), Duration::from_secs(1))
            .connect_timeout(Duration::from_secs(1))
            .request_timeout(Duration::from_secs(2))
            .page_timeout(Duration::from_secs(5))
            .check_interval(Duration::from_secs(1));
        let options = EtcdOptions::new().connect_timeout(Duration::from_secs(1));
        let (ks, mirror) = with(builder).build(Etcd::new(endpoints, options));
        let fold = ks.derive(Fold::default(), |fold: &mut Fold, delta, view, _| {
            fold.follow(delta, view);
        });
        let task = tokio::spawn(mirror.run());
        Arc::new(Mirror {
            name: name.to_owned(),
            taste,
            linked,
            ks,
            fold,
            shelf: Mutex::default(),
            worst: Mutex::default(),
            task: Mutex::new(Some(task)),
        })
    }

    /// Looks at the first view that is complete through `revision`.
    pub(crate) async fn look_at(&self, revision: Revision) -> Result<Look, WaitError> {
        self.ks.wait_for_revision(revision).await?;
        let view = self.ks.read();
        // Under the guard nothing moves, so these are of one view.
        let (snapshot, rejected) = (self.ks.snapshot(), self.ks.rejected());
        Ok(Look { snapshot, rejected, fold: self.judge_fold(&view) })
    }

    fn judge_fold(&self, view: &ReadGuard<'_, Value>) -> Vec<String> {
        let fold = match view.try_derived(&self.fold) {
            Ok(fold) => fold,
            Err(error) => return vec![error.to_string()],
        };
        fold.differs_from(view)
    }

    /// The last steps the observer was shown, for the evidence.
    pub(crate) fn last_steps(&self) -> Vec<String> {
        let view = self.ks.read();
        view.try_derived(&self.fold).map(Fold::steps).unwrap_or_default()
    }

    pub(crate) fn shelf(&self) -> Vec<Snapshot<Value>> {
        lock(&self.shelf).iter().cloned().collect()
    }

    pub(crate) fn report(&self) -> MirrorReport {
        let (status, worst) = (self.ks.status(), *lock(&self.worst));
        let report = MirrorReport::new(&self.name, self.ks.read().len(), &status.counters, 1);
        MirrorReport {
            stale_healthy_s: Some(worst.healthy.as_secs_f64()),
            stale_overall_s: Some(worst.overall.as_secs_f64()),
            stalest_during: worst.during,
            ..report
        }
    }

    /// Ends the mirror and checks that its task ends for that reason.
    pub(crate) async fn end(&self, world: &World) {
        self.ks.shutdown().await;
        let task = lock(&self.task).take();
        let Some(task) = task else { return };
        match tokio::time::timeout(Duration::from_secs(10), task).await {
            Ok(Ok(StopReason::Shutdown)) => {}
            other => {
                world.diverged("a mirror ended otherwise", &self.name, vec![format!("{other:?}")])
            }
        }
    }

    /// Drops every handle, which must end the task too.
    async fn abandon(self: Arc<Self>, world: &World) {
        let name = self.name.clone();
        let task = lock(&self.task).take();
        drop(self);
        let Some(task) = task else { return };
        match tokio::time::timeout(Duration::from_secs(10), task).await {
            Ok(Ok(StopReason::Shutdown)) => {}
            other => {
                world.diverged("an abandoned mirror runs on", &name, vec![format!("{other:?}")])
            }
        }
    }
}

fn picky(kv: RawKeyValue) -> Result<Value, &'static str> {
    if is_bad(&kv.value) {
        Err("a value that begins with an exclamation mark")
    } else {
        Ok(kv.value)
    }
}

/// The mirrors that live through the whole run.
pub(crate) fn roster(world: &World, random: &mut Random) -> Vec<Arc<Mirror>> {
    let direct = world.cluster.endpoints();
    let linked = world.links.iter().map(crate::proxy::Proxy::endpoint).collect();
    let order = |a: usize, b: usize, c: usize| {
        vec![direct[a].clone(), direct[b].clone(), direct[c].clone()]
    };
    let mut start = |name, taste, endpoints, linked, delay| {
        let seed = random.next();
        Mirror::start(name, taste, endpoints, linked, |builder| {
            builder.seed(seed).apply_delay(Duration::from_millis(delay))
        })
    };
    vec![
        start("plain", Taste::All, order(0, 1, 2), false, 30),
        start("eager", Taste::All, order(2, 1, 0), false, 0),
        start("lazy", Taste::All, order(1, 2, 0), false, 250),
        start("keeping", Taste::KeepLast, order(1, 0, 2), false, 30),
        start("dropping", Taste::Drop, order(0, 2, 1), false, 10),
        start("linked", Taste::All, linked, true, 30),
    ]
}

/// Puts each view of a mirror on its shelf, and checks that nothing ever goes back.
pub(crate) async fn keep_shelf(world: Arc<World>, mirror: Arc<Mirror>) {
    let (mut revision, mut confirmed, mut epoch) = (0, 0, 1);
    loop {
        let newer = |view: &View<Value>| (view.confirmed() != confirmed).then_some(());
        tokio::select! {
            waited = mirror.ks.wait_until(newer) => match waited {
                Ok(()) => {}
                // The watcher of stops reports it.
                Err(_) => return,
            },
            () = world.stopping() => return,
        }
        let snapshot = mirror.ks.snapshot();
        let now = (snapshot.revision(), snapshot.confirmed(), snapshot.epoch());
        let went_back = now.0 < revision || now.1 < confirmed;
        if went_back || now.0 > now.1 || now.2 != epoch {
            let was = (revision, confirmed, epoch);
            let said = format!("revision, confirmed, epoch: {was:?} became {now:?}");
            world.diverged("revisions went wrong", &mirror.name, vec![said, status(&mirror)]);
        }
        (revision, confirmed, epoch) = now;
        let mut shelf = lock(&mirror.shelf);
        shelf.push_back(snapshot);
        if shelf.len() > SHELF_MAX {
            shelf.pop_front();
        }
    }
}

/// Looks at ages and states all the time, and at the things that must never happen.
pub(crate) async fn watch_over(world: Arc<World>, mirrors: Vec<Arc<Mirror>>) {
    let mut reported = vec![false; mirrors.len()];
    while world.rest(LOOK).await {
        for (mirror, reported) in mirrors.iter().zip(&mut reported) {
            let status = mirror.ks.status();
            if let Some(age) = status.current_as_of {
                let fair =
                    world.sky.good_for(mirror.linked).map_or(Duration::ZERO, |fair| fair.min(age));
                let mut worst = lock(&mirror.worst);
                worst.overall = worst.overall.max(age);
                if fair > worst.healthy {
                    worst.healthy = fair;
                    worst.during = world.sky.fault();
                }
            }
            let wrong = if status.state == State::Stopped {
                "a mirror stopped"
            } else if !status.poisoned_observers.is_empty() {
                "an observer is poisoned"
            } else if status.counters.discontinuities > 0 || status.counters.history_changes > 0 {
                "a mirror believes that history was lost"
            } else {
                continue;
            };
            if !std::mem::replace(reported, true) {
                let mut evidence = vec![format!("{status:?}")];
                evidence.extend(mirror.last_steps());
                world.diverged(wrong, &mirror.name, evidence);
            }
        }
    }
}

/// Starts a mirror, compares it, and ends it, again and again.
pub(crate) async fn restart_often(world: Arc<World>, mut random: Random) {
    while !world.is_stopping() {
        let mut endpoints = world.cluster.endpoints();
        endpoints.rotate_left(random.index(3));
        let taste = [Taste::All, Taste::Drop, Taste::KeepLast][random.index(3)];
        let (delay, seed) = (random.millis(0, 60), random.next());
        let mirror = Mirror::start("restarted", taste, endpoints, false, |builder| {
            builder.apply_delay(delay).seed(seed)
        });
        let begun = std::time::Instant::now();
        let limit = world.settings.recovery();
        let loaded = world.in_fair_time(false, limit, mirror.ks.loaded());
        let loaded = tokio::select! {
            loaded = loaded => loaded,
            () = world.stopping() => return mirror.end(&world).await,
        };
        match loaded {
            Some(Ok(revision)) => {
                world.ledger.count("restarted: loads", 1);
                world.ledger.time("load of a restarted mirror", begun.elapsed());
                compare::with_etcd(&world, std::slice::from_ref(&mirror), revision).await;
            }
            other => {
                let said = vec![format!("{other:?} of {limit:?}"), status(&mirror)];
                world.diverged("a load did not end well", &mirror.name, said);
            }
        }
        world.rest(random.millis(50, 4_000)).await;
        compare::with_etcd(&world, std::slice::from_ref(&mirror), world.acknowledged()).await;
        let counters = mirror.ks.status().counters;
        if counters.discontinuities + counters.history_changes > 0 {
            let said = vec![status(&mirror)];
            world.diverged("a mirror believes that history was lost", &mirror.name, said);
        }
        world.ledger.add_restarted(&counters);
        if random.percent(50) {
            mirror.end(&world).await;
        } else {
            mirror.abandon(&world).await;
        }
    }
}

/// The mirror's status in full, for the evidence.
pub(crate) fn status(mirror: &Mirror) -> String {
    format!("{}: {:?}", mirror.name, mirror.ks.status())
}
