//! What can be done to a store in a run: writes, faults, disasters, forgeries.
//!
//! Owns the kinds of worlds and their random acts, but for `disasters`; must not look at what is shown.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_keyspace::testing::{Bug, Call, FakeEtcd, Faults, Op};
use etcd_keyspace::{KeyRange, ServerVersion, SourceErrorKind};

use crate::fake::PREFIX;
use crate::forgery::forged;
use crate::truth::SharedTruth;

/// Single keys besides the group's four.
pub(crate) const KEYS: u64 = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Servers and network have every fault that does not lose history.
    Honest,
    /// The same with servers that have the bugs of their version.
    Old,
    /// The store is restored from backups, wiped and seeded again, or replaced by another cluster.
    Restored,
    /// Messages of the watch are rewritten, swallowed and made up.
    Hostile,
}

impl Kind {
    /// The kind that `SIM_KIND` asks for.
    pub(crate) fn asked_for() -> Option<Self> {
        let kind = std::env::var("SIM_KIND").ok()?;
        Some(match kind.as_str() {
            "honest" => Kind::Honest,
            "old" => Kind::Old,
            "restored" => Kind::Restored,
            "hostile" => Kind::Hostile,
            _ => panic!("SIM_KIND={kind} is no kind of world"),
        })
    }
}

/// The store of a run.
pub(crate) struct World {
    pub(crate) etcd: FakeEtcd,
    pub(crate) kind: Kind,
    pub(crate) truth: SharedTruth,
    endpoints: usize,
    written: u64,
    /// Values come from a few, so that histories may agree in them.
    scripted: bool,
    /// There is one reader, so that what was read was read by it.
    pub(crate) alone: bool,
    /// Members that lag answer linearizable reads.
    lags: bool,
    pub(crate) leases: Vec<i64>,
    /// Leases that a restored store still has.
    pub(crate) kept_leases: Vec<i64>,
    /// Revisions that touch a key twice, which no transaction of etcd does. None is compacted at: a watch
    /// from there would show the last touch alone, and a mirror takes that for a break.
    touched_twice: Vec<i64>,
    /// Faults that may end the first load for good are kept back until then.
    pub(crate) loaded: bool,
    /// A member with stale reads has lagged: nothing linearizable is what it says.
    pub(crate) stale: bool,
    pub(crate) disasters: usize,
    /// Completeness may be found by counting. A dead watch that owes a deletion looks like lost
    /// history then, and is mended in the same way.
    pub(crate) counting: bool,
    /// The servers' word for completeness is not taken, so what they skip must be found by asking.
    pub(crate) doubted: bool,
}

impl World {
    /// The world of a seed; of kind `kind`, unless the seed decides that too.
    pub(crate) fn new(seed: u64, kind: Option<Kind>) -> Self {
        let etcd = FakeEtcd::with_seed(seed);
        let random = |bound| usize::try_from(etcd.random(bound)).unwrap();
        let of_seed = match random(20) {
            0..=8 => Kind::Honest,
            9..=12 => Kind::Old,
            13..=17 => Kind::Restored,
            _ => Kind::Hostile,
        };
        let kind = kind.unwrap_or(of_seed);
        let endpoints = random(3) + 1;
        let etcd = etcd.clone().with_endpoints(endpoints);
        etcd.set_progress_interval([None, Some(Duration::from_secs(3))][random(2)]);
        etcd.set_sync_delay(Duration::from_millis(etcd.random(2) * 100));
        etcd.set_batch_revisions(random(20) + 1);
        etcd.set_queue_responses([1, 5, 128][random(3)]);
        let doubted = !choose_version(&etcd, kind).progress_is_trusted();
        let lags = kind == Kind::Restored && random(4) == 0;
        if lags {
            etcd.faults().bug(Bug::StaleReads, true);
        }
        for _ in 0..random(4) {
            etcd.faults().elect_leader();
        }
        let truth = crate::truth::Truth::new(etcd.clone(), kind == Kind::Hostile);
        let mut world = World {
            etcd,
            kind,
            truth,
            endpoints,
            written: 0,
            scripted: kind == Kind::Restored && random(2) == 0,
            alone: false,
            lags,
            leases: Vec::new(),
            kept_leases: Vec::new(),
            touched_twice: Vec::new(),
            loaded: false,
            stale: false,
            disasters: 0,
            counting: doubted,
            doubted,
        };
        world.put_some(world.random(KEYS));
        world
    }

    pub(crate) fn random(&self, bound: u64) -> u64 {
        self.etcd.random(bound)
    }

    pub(crate) fn key(&self) -> String {
        format!("{PREFIX}{}", self.random(KEYS))
    }

    /// A value never written before, or one of few where writers follow a script; every tenth is bad.
    pub(crate) fn value(&mut self) -> String {
        self.written += 1;
        let number = if self.scripted { self.random(3) } else { self.written };
        let bad = if self.random(10) == 0 { "bad" } else { "" };
        format!("{bad}{number}")
    }

    fn put(&mut self) -> Op {
        let value = self.value();
        Op::put(self.key(), value)
    }

    pub(crate) fn write(&mut self) {
        match self.random(16) {
            0..=5 => self.put_some(1),
            6 | 7 => drop(self.etcd.delete(self.key())),
            8 => self.write_group(),
            9 => drop(self.etcd.delete_range(KeyRange::prefix(format!("{PREFIX}1")))),
            10 => self.write_outside(),
            11 => self.twice(),
            12 => self.lease(),
            13 => {
                let times = 1 + self.random(5);
                self.put_together(times);
            }
            14 => self.put_some(self.random(40)),
            _ => self.compact(),
        }
    }

    pub(crate) fn put_some(&mut self, times: u64) {
        for _ in 0..times {
            let op = self.put();
            self.etcd.txn([op]);
        }
    }

    /// Writes up to `times` keys in one transaction; etcd refuses two puts of a key.
    fn put_together(&mut self, times: u64) {
        let mut puts = BTreeMap::new();
        for _ in 0..times {
            let value = self.value();
            puts.insert(self.key(), value);
        }
        self.etcd.txn(puts.into_iter().map(|(key, value)| Op::put(key, value)));
    }

    /// Writes or deletes the keys that belong together, in one transaction.
    fn write_group(&mut self) {
        let group = format!("{PREFIX}g");
        if self.random(4) == 0 {
            self.etcd.delete_range(KeyRange::prefix(group));
            return;
        }
        self.written += 1;
        let number = if self.scripted { self.random(3) } else { self.written };
        let value = number.to_string();
        self.etcd.txn((0..4).map(|n| Op::put(format!("{group}{n}"), value.clone())));
    }

    /// Moves the store's revision and nothing else, at times past a compaction.
    fn write_outside(&self) {
        let revision = self.etcd.put("/outside", "x");
        if self.random(4) == 0 {
            self.etcd.compact(revision);
        }
    }

    /// Touches one key twice or more in one revision.
    fn twice(&mut self) {
        let key = self.key();
        let (first, second) = (self.value(), self.value());
        let (put, again) = (Op::put(key.as_str(), first), Op::put(key.as_str(), second));
        let delete = Op::delete(key.as_str());
        // Two lives of a key in one revision have the same numbers, so that nobody can tell them apart
        // who was told the first one last.
        let ways = if self.kind == Kind::Hostile { 3 } else { 5 };
        match self.random(ways) {
            0 => self.etcd.txn([put, again]),
            1 => self.etcd.txn([delete, put]),
            2 => self.etcd.txn([put, delete]),
            3 => self.etcd.txn([delete.clone(), put, delete, again]),
            _ => self.etcd.txn([put, delete, again]),
        };
        self.touched_twice.push(self.etcd.revision());
    }

    fn lease(&mut self) {
        if self.leases.len() > 2 {
            self.etcd.revoke_lease(self.leases.remove(0));
            return;
        }
        let lease = self.etcd.grant_lease();
        self.leases.push(lease);
        for _ in 0..1 + self.random(3) {
            let value = self.value();
            self.etcd.txn([Op::put_leased(self.key(), value, lease)]);
        }
    }

    fn compact(&self) {
        let back = i64::try_from(self.random(8)).unwrap();
        let revision = self.etcd.revision() - back;
        if revision > self.etcd.compacted() && !self.touched_twice.contains(&revision) {
            self.etcd.compact(revision);
        }
    }

    fn anywhere(&self) -> Faults {
        match usize::try_from(self.random(2)).unwrap() {
            0 => self.etcd.faults(),
            _ => self.etcd.faults_at(usize::try_from(self.random(3)).unwrap() % self.endpoints),
        }
    }

    /// Faults of an honest server and a bad network; none loses history.
    pub(crate) fn fault(&mut self) {
        let faults = self.anywhere();
        if self.lags && self.random(4) == 0 {
            self.stale = true;
            return faults.hold_back();
        }
        let some = 1 + self.random(4);
        let count = usize::try_from(some).unwrap();
        let delay = Duration::from_millis(some * 10);
        match self.random(33) {
            31 => faults.late_term(),
            32 => faults.elect_leader(),
            0 | 1 => faults.cut(),
            2 | 3 => faults.cut_after(some),
            4 => faults.end_streams(),
            5 => faults.cancel(["", "etcdserver: no leader"][count % 2]),
            6 => faults.cancel_compacted(self.etcd.revision()),
            7 => faults.duplicate(count),
            8 => faults.fragment(count),
            9 => self.break_in_fragments(&faults, some),
            10 => {
                // A watch that never answered is taken for one behind a proxy.
                self.counting = true;
                faults.stall();
            }
            11 => faults.down(),
            12 => faults.lose_leader(),
            13 => faults.jitter(delay),
            14 => faults.delay(delay),
            15 => {
                self.counting = true;
                faults.mute();
            }
            16 => {
                self.counting = true;
                faults.ignore_progress();
            }
            17 => faults.fail_streams(SourceErrorKind::Unavailable),
            18 => faults.replay(1 + i64::try_from(self.random(20)).unwrap()),
            19 => self.refuse(&faults, some),
            20 => faults.truncate_range_streams(some),
            21 => faults.scramble_pages(some),
            22 => faults.limit_message(10 * count),
            23 => {
                self.counting = true;
                faults.proxy();
            }
            24 => faults.delay_created(delay * 20),
            25 => faults.delay_call(Call::Range, delay * 10),
            26 => faults.strip_headers(),
            27 => {
                self.stale |= self.kind == Kind::Old || self.lags;
                faults.hold_back();
            }
            28 | 29 => {
                faults.cut();
                self.compact_at_deletion();
            }
            _ if self.loaded => {
                if some > 2 {
                    faults.expire_token();
                } else {
                    faults.deny();
                }
            }
            _ => faults.release(),
        }
    }

    /// A stream that breaks within a response, right after progress.
    fn break_in_fragments(&mut self, faults: &Faults, messages: u64) {
        self.etcd.put("/outside", "x");
        faults.fragment(1);
        faults.cut_after(messages);
        self.put_together(6);
    }

    /// A deletion that nobody is connected to see, with the compaction at its very revision (B8).
    fn compact_at_deletion(&self) {
        let before = self.etcd.revision();
        let revision = self.etcd.delete(self.key());
        if revision > before {
            self.etcd.compact(revision);
        }
    }

    /// The same while a client that comes back has been told that its revision is still there, and
    /// has not opened its watch yet.
    pub(crate) async fn compact_behind_the_probe(&self) {
        let faults = self.etcd.faults();
        faults.cut();
        faults.delay_call(Call::Range, Duration::from_millis(100));
        tokio::time::sleep(Duration::from_millis(150 + self.random(300))).await;
        self.compact_at_deletion();
    }

    /// Writes more than a watch that hangs is sent, and compacts it away.
    pub(crate) async fn overtake(&mut self) {
        let faults = self.etcd.faults();
        faults.stall();
        self.put_some(4 + self.random(12));
        self.etcd.compact(self.etcd.revision());
        tokio::time::sleep(Duration::from_millis(self.random(200))).await;
        faults.release();
    }

    /// An event that does not come, without a compaction by which that could be found out.
    pub(crate) fn lose(&mut self) {
        self.etcd.faults().lose_events(1);
        self.put_some(1);
    }

    fn refuse(&self, faults: &Faults, times: u64) {
        let calls = [Call::Connect, Call::Version, Call::Range, Call::RangeStream, Call::Watch];
        let call = calls[usize::try_from(self.random(5)).unwrap()];
        let kind = [SourceErrorKind::Unavailable, SourceErrorKind::Timeout][usize::from(times > 2)];
        faults.refuse_times(call, kind, times);
    }

    /// Rewrites a part of all messages from now on.
    pub(crate) fn forge(&self) {
        let etcd = self.etcd.clone();
        self.etcd.faults().tamper(move |message| match etcd.random(4) {
            0 => forged(&etcd, message),
            _ => Some(message),
        });
    }

    /// Writes every key, which reveals what a server lost without a word.
    pub(crate) fn touch_everything(&mut self) {
        for n in 0..KEYS {
            self.written += 1;
            self.etcd.put(format!("{PREFIX}{n}"), self.written.to_string());
        }
        let value = self.written.to_string();
        self.etcd.txn((0..4).map(|n| Op::put(format!("{PREFIX}g{n}"), value.clone())));
    }
}

fn choose_version(etcd: &FakeEtcd, kind: Kind) -> ServerVersion {
    let choose = |versions: &[&str]| {
        let index = etcd.random(versions.len() as u64);
        ServerVersion::parse(versions[usize::try_from(index).unwrap()]).unwrap()
    };
    if kind == Kind::Old {
        let old = [
            "3.4.23", "3.4.30", "3.4.31", "3.4.33", "3.5.1", "3.5.12", "3.5.13", "3.5.15",
            "3.5.20", "3.6.1",
        ];
        let version = choose(&old);
        etcd.faults().impersonate(version);
        return version;
    }
    let version = choose(&["3.7.2", "3.6.15", "3.5.34", "3.5.1", "3.4.45", "3.4.23"]);
    etcd.set_version(version);
    version
}
