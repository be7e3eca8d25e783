//! The writers: everything that can happen to keys, pipelined, as fast as etcd and the options allow.
//!
//! Owns the keys, the values and the check of each writer's own writes. Must not decide what is
//! right: `compare.rs` does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, Compare, CompareOp, DeleteOptions, Error, PutOptions, Txn, TxnOp};
use etcd_keyspace::Revision;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::compare;
use crate::mirrors::{Mirror, Taste};
use crate::world::{Members, PREFIX, Random, Refusal, World};

/// Keys of each group that is written by one transaction.
pub(crate) const GROUP: usize = 8;
const GROUPS: u64 = 20;
const DIRECTORIES: u64 = 12;
const BIG_KEYS: u64 = 8;
const BIG_MAX: u64 = 700_000;
const BURST: u64 = 400;
/// Own writes that are being looked for at a time.
const LOOKS_MAX: usize = 64;

/// What one writer does next.
enum Step {
    Put { key: String, value: Vec<u8> },
    Delete { key: String },
    Recreate { key: String, value: Vec<u8> },
    Txn { kind: &'static str, ops: Vec<TxnOp> },
    RefusedTxn { key: String },
    DeletePrefix { prefix: String },
    Lease { id: u64, keys: u64, seconds: i64, revoke: bool },
    Elsewhere { key: String },
}

/// What etcd has acknowledged.
struct Done {
    revision: Revision,
    events: u64,
    /// A key with what the step has left there.
    left: Option<(String, Option<Vec<u8>>)>,
}

pub(crate) struct Writer {
    world: Arc<World>,
    members: Members,
    mirrors: Vec<Arc<Mirror>>,
    looks: Semaphore,
    /// Makes every value another one.
    serial: AtomicU64,
}

impl Writer {
    pub(crate) async fn new(
        world: &Arc<World>,
        mirrors: &[Arc<Mirror>],
    ) -> Result<Arc<Self>, Error> {
        // Only a mirror that takes all values can be asked for every write.
        let takes_all = |mirror: &&Arc<Mirror>| mirror.taste == Taste::All;
        Ok(Arc::new(Writer {
            members: Members::connect(&world.cluster).await?,
            world: Arc::clone(world),
            mirrors: mirrors.iter().filter(takes_all).cloned().collect(),
            looks: Semaphore::new(LOOKS_MAX),
            serial: AtomicU64::new(0),
        }))
    }

    /// Writes until the run ends, then waits for what is under way.
    pub(crate) async fn run(self: Arc<Self>, mut random: Random) {
        let settings = &self.world.settings;
        let pipeline = usize::try_from(settings.pipeline.max(1)).expect("a small number");
        let between = match settings.rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs(1) * settings.writers / rate,
        };
        let mut steps = JoinSet::new();
        let mut due = Instant::now();
        while !self.world.is_stopping() {
            let room = if random.below(20_000) < BURST / 100 {
                self.burst(&mut steps, &mut random);
                0
            } else {
                let step = self.next(&mut random);
                let look = random.percent(3).then(|| random.index(self.mirrors.len()));
                steps.spawn(Arc::clone(&self).take(step, look));
                pipeline - 1
            };
            while steps.len() > room {
                steps.join_next().await.expect("steps are left").expect("a step does not panic");
            }
            due = (due + between)
                .max(Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or(due));
            if due > Instant::now() {
                tokio::time::sleep_until(due.into()).await;
            }
        }
        steps.join_all().await;
    }

    /// Many puts at once, of few keys and of many.
    fn burst(self: &Arc<Self>, steps: &mut JoinSet<()>, random: &mut Random) {
        self.world.ledger.count("bursts", 1);
        let keys = [10, 1_000][random.index(2)];
        for _ in 0..BURST {
            let key = format!("{PREFIX}burst/{}", random.below(keys));
            let value = self.value(&key, random);
            steps.spawn(Arc::clone(self).take(Step::Put { key, value }, None));
        }
    }

    /// Chooses what comes next.
    fn next(&self, random: &mut Random) -> Step {
        let key = self.key(random);
        match random.below(1_000) {
            0..640 => Step::Put { value: self.value(&key, random), key },
            640..740 => Step::Delete { key },
            740..800 => Step::Recreate { value: self.value(&key, random), key },
            800..860 => self.mixed(random),
            860..900 => self.group(random),
            900..925 => Step::RefusedTxn { key },
            925..945 => self.fill(random),
            945..955 => Step::DeletePrefix {
                prefix: format!("{PREFIX}dir/{:02}/", random.below(DIRECTORIES)),
            },
            955..957 => self.big(random),
            957..967 => Step::Lease {
                id: random.next() >> 2,
                keys: 1 + random.below(30),
                seconds: 1 + i64::try_from(random.below(4)).expect("a small number"),
                revoke: random.percent(20),
            },
            _ => Step::Elsewhere { key: format!("/elsewhere/{}", random.below(100)) },
        }
    }

    /// A key of the many; half the time one of a few, so that writers meet.
    fn key(&self, random: &mut Random) -> String {
        let keys = u64::from(self.world.settings.keys.max(100));
        let id = if random.percent(50) { random.below(100) } else { random.below(keys) };
        match id % 50 {
            // A key that is the beginning of others, and one that sorts behind them.
            0 => format!("{PREFIX}k/{:03}", id / 50),
            1 => format!("{PREFIX}k/{:03}\u{10ffff}\0{id}", id / 50),
            _ => format!("{PREFIX}k/{id:05}"),
        }
    }

    /// A value unlike all others, of some bytes up to some thousand; one in thirty is a bad one.
    fn value(&self, key: &str, random: &mut Random) -> Vec<u8> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let bad = if random.below(30) == 0 { "!" } else { "" };
        let mut value = format!("{bad}{serial} of {key} ").into_bytes();
        let len = if random.percent(2) { random.below(8_000) } else { random.below(120) };
        value.resize(value.len() + usize::try_from(len).expect("a small number"), b'.');
        value
    }

    /// Puts and deletes of several keys in one transaction.
    fn mixed(&self, random: &mut Random) -> Step {
        let keys = u64::from(self.world.settings.keys.max(100));
        let first = random.below(keys);
        let op = |step: u64| {
            let key = format!("{PREFIX}k/{:05}", (first + 7 * step) % keys);
            if random.percent(20) {
                TxnOp::delete(key, None)
            } else {
                let value = self.value(&key, random);
                TxnOp::put(key, value, None)
            }
        };
        Step::Txn { kind: "transactions", ops: (0..2 + first % 12).map(op).collect() }
    }

    /// All keys of a group, written or deleted, so that half of it can be seen anywhere.
    fn group(&self, random: &mut Random) -> Step {
        let group = format!("{PREFIX}group/{:02}/", random.below(GROUPS));
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let ops = if random.percent(15) {
            vec![TxnOp::delete(group, Some(DeleteOptions::new().with_prefix()))]
        } else {
            let put = |index| TxnOp::put(format!("{group}{index}"), format!("{serial}"), None);
            (0..GROUP).map(put).collect()
        };
        Step::Txn { kind: "transactions of groups", ops }
    }

    /// A hundred keys of a directory, which a prefix delete takes away again.
    fn fill(&self, random: &mut Random) -> Step {
        let directory = format!("{PREFIX}dir/{:02}/", random.below(DIRECTORIES));
        let first = random.below(3) * 100;
        let put = |index| {
            let key = format!("{directory}{index:03}");
            let value = self.value(&key, random);
            TxnOp::put(key, value, None)
        };
        Step::Txn { kind: "transactions of 100 keys", ops: (first..first + 100).map(put).collect() }
    }

    fn big(&self, random: &mut Random) -> Step {
        let key = format!("{PREFIX}big/{}", random.below(BIG_KEYS));
        let mut value = self.value(&key, random);
        self.world.ledger.count("big values", 1);
        value.resize(usize::try_from(50_000 + random.below(BIG_MAX)).expect("it fits"), b'#');
        Step::Put { key, value }
    }

    /// Takes one step, and perhaps looks for it in a mirror.
    async fn take(self: Arc<Self>, step: Step, look: Option<usize>) {
        let begun = Instant::now();
        let ledger = &self.world.ledger;
        let done = match self.members.ask_once(|client| perform(client, step, ledger)).await {
            Ok(done) => done,
            Err(Refusal::Compacted) => return,
            Err(Refusal::Unanswered(_)) => {
                // Whether it was written nobody knows; the comparisons take it as it is.
                ledger.count("writes without an answer", 1);
                tokio::time::sleep(Duration::from_millis(50)).await;
                return;
            }
        };
        ledger.count("events written", done.events);
        self.world.acknowledge(done.revision);
        let look = look.and_then(|index| Some((index, self.looks.try_acquire().ok()?)));
        if let Some((index, _permit)) = look {
            let mirror = Arc::clone(&self.mirrors[index]);
            self.look_for(&mirror, done, begun).await;
        }
    }

    /// Waits until a mirror is complete through the write, and looks for it there.
    async fn look_for(&self, mirror: &Arc<Mirror>, done: Done, begun: Instant) {
        let world = &self.world;
        let limit = world.settings.recovery();
        let wait = mirror.ks.snapshot_at(done.revision);
        match world.in_fair_time(mirror.linked, limit, wait).await {
            Some(Ok(view)) => {
                let name = compare::calm(
                    world,
                    begun,
                    "put to visible, waited for",
                    "put to visible, waited for, under faults",
                );
                world.ledger.time(name, begun.elapsed());
                if view.confirmed() < done.revision {
                    let said = format!("waited for {}, got {view:?}", done.revision);
                    world.diverged("a wait did not keep its word", &mirror.name, vec![said]);
                }
                if let Some((key, value)) = done.left {
                    let left = (done.revision, key.as_bytes(), value.as_deref());
                    compare::own_write(world, mirror, &view, left).await;
                }
            }
            other => {
                let what = other.map(|view| view.map(drop));
                let said = format!("revision {}: {what:?} in {limit:?}", done.revision);
                let said = vec![said, crate::mirrors::status(mirror)];
                world.diverged("a wait did not end well", &mirror.name, said);
            }
        }
    }
}

/// Asks etcd for one step.
async fn perform(
    mut client: Client,
    step: Step,
    ledger: &crate::report::Ledger,
) -> Result<Done, Error> {
    let of = |header: Option<&etcd_client::ResponseHeader>| {
        header.map_or(0, etcd_client::ResponseHeader::revision)
    };
    let number = |count: i64| u64::try_from(count).unwrap_or(0);
    Ok(match step {
        Step::Put { key, value } => {
            let put = client.put(key.as_str(), value.clone(), None).await?;
            ledger.count("puts", 1);
            Done { revision: of(put.header()), events: 1, left: Some((key, Some(value))) }
        }
        Step::Delete { key } => {
            let deleted = client.delete(key.as_str(), None).await?;
            ledger.count("deletes", 1);
            let (revision, events) = (of(deleted.header()), number(deleted.deleted()));
            Done { revision, events, left: Some((key, None)) }
        }
        Step::Recreate { key, value } => {
            let deleted = client.delete(key.as_str(), None).await?;
            let put = client.put(key.as_str(), value.clone(), None).await?;
            ledger.count("keys deleted and created again", 1);
            let events = 1 + number(deleted.deleted());
            Done { revision: of(put.header()), events, left: Some((key, Some(value))) }
        }
        Step::Txn { kind, ops } => {
            let written = u64::try_from(ops.len()).expect("a small number");
            let done = client.txn(Txn::new().and_then(ops)).await?;
            ledger.count(kind, 1);
            Done { revision: of(done.header()), events: written, left: None }
        }
        Step::RefusedTxn { key } => {
            let never = Compare::version(key.as_str(), CompareOp::Equal, 1 << 40);
            let txn = Txn::new().when([never]).and_then([TxnOp::put(key, "never", None)]);
            let done = client.txn(txn).await?;
            ledger.count("transactions whose condition fails", 1);
            Done { revision: of(done.header()), events: 0, left: None }
        }
        Step::DeletePrefix { prefix } => {
            let options = DeleteOptions::new().with_prefix();
            let deleted = client.delete(prefix.as_str(), Some(options)).await?;
            ledger.count("prefix deletes", 1);
            Done { revision: of(deleted.header()), events: number(deleted.deleted()), left: None }
        }
        Step::Lease { id, keys, seconds, revoke } => {
            let lease = client.lease_grant(seconds, None).await?.id();
            let put = |index| {
                let options = PutOptions::new().with_lease(lease);
                TxnOp::put(format!("{PREFIX}lease/{id:016x}/{index}"), "leased", Some(options))
            };
            let done =
                client.txn(Txn::new().and_then((0..keys).map(put).collect::<Vec<_>>())).await?;
            let mut revision = of(done.header());
            ledger.count(if revoke { "leases revoked" } else { "leases that expire" }, 1);
            if revoke {
                revision = of(client.lease_revoke(lease).await?.header());
            }
            Done { revision, events: keys, left: None }
        }
        Step::Elsewhere { key } => {
            let put = client.put(key, "outside the mirrored prefix", None).await?;
            ledger.count("puts elsewhere", 1);
            Done { revision: of(put.header()), events: 0, left: None }
        }
    })
}
