//! BW-1, J2, J4, J6: the machine of a mirror with a journal loses power at any call of its disk, over and
//! over; the next one starts warm from what the disk kept.
//!
//! `JOURNAL_POWER_ROUNDS` sets how often (40), `JOURNAL_POWER_SEED` the first random number.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_keyspace::journal::{
    Durability, Journal, JournalOptions, OnFailure, Operation, Recorder, Registry, Retention,
    StoredEvent, WatcherOptions,
};
use etcd_keyspace::testing::{FakeEtcd, Op};
use etcd_keyspace::{Event, KeyRange, KeySpace, Revision};
use tokio::time::timeout;

use super::crash::{Random, from_environment};
use super::faulty::Faulty;
use super::{SOON, all};

const KEYS: u64 = 10;
const WATCHER: &str = "told";

/// One etcd, one disk, and what the disk was found to have.
struct World {
    etcd: FakeEtcd,
    disk: Faulty,
    durability: Durability,
    random: Random,
    lease: i64,
    former: Vec<Arc<StoredEvent>>,
    walk: Walk,
    /// The last event that a handler was given, in any life.
    handled: u64,
}

/// How far the journal was followed along etcd's history.
#[derive(Default)]
struct Walk {
    through: Revision,
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    differences: usize,
}

fn range() -> KeyRange {
    KeyRange::prefix("/k/")
}

fn truth(etcd: &FakeEtcd, revision: Revision) -> BTreeMap<Vec<u8>, Vec<u8>> {
    etcd.range_at(&range(), revision).into_iter().map(|kv| (kv.key, kv.value)).collect()
}

impl Walk {
    /// Follows events that the disk has kept, each of which has to be the next of etcd's history, or one of
    /// a difference where etcd could not tell it any more.
    fn follow(&mut self, etcd: &FakeEtcd, events: &[Arc<StoredEvent>], cursor: Revision) {
        let history = etcd.history(&range(), 0);
        let mut next = history.partition_point(|event| event.mod_revision() <= self.through);
        for group in
            events.chunk_by(|a, b| a.synthesized && b.synthesized && a.revision == b.revision)
        {
            let revision = group[0].revision.unwrap();
            if group[0].synthesized {
                let told_by_etcd = self.through > 0 && etcd.compacted() <= self.through;
                assert!(!told_by_etcd, "a difference at {revision}, after {}", self.through);
                self.differences += 1;
                next = history.partition_point(|event| event.mod_revision() <= revision);
            } else {
                let told = &history[next];
                assert_eq!(
                    (revision, group[0].key.as_deref()),
                    (told.mod_revision(), Some(told.key()))
                );
                next += 1;
            }
            for event in group {
                let key = event.key.clone().unwrap();
                match event.operation {
                    Operation::Delete => self.records.remove(&key),
                    _ => self.records.insert(key, event.object.clone()),
                };
            }
            self.through = self.through.max(revision);
        }
        // A complete read that found no difference tells nothing of what it passes.
        let left: Vec<&Event> =
            history[next..].iter().filter(|event| event.mod_revision() <= cursor).collect();
        let forgotten = etcd.compacted() > self.through;
        assert!(left.is_empty() || forgotten, "through {cursor} without {left:?}");
        assert_eq!(self.records, truth(etcd, cursor), "as of {cursor}");
        assert!(cursor >= self.through, "events beyond the cursor {cursor}");
        self.through = cursor;
    }
}

impl World {
    fn new(durability: Durability, seed: &str) -> Self {
        let etcd = FakeEtcd::new();
        etcd.put("/k/0", "first");
        World {
            lease: etcd.grant_lease(),
            etcd,
            disk: Faulty::default(),
            durability,
            random: Random::seeded_by(seed),
            former: Vec::new(),
            walk: Walk::default(),
            handled: 0,
        }
    }

    fn options(&self) -> JournalOptions {
        let mut retention = Retention::default();
        retention.every = None;
        JournalOptions::new()
            .retention(retention)
            .durability(self.durability)
            .on_failure(OnFailure::StayOff)
    }

    fn write(&mut self) {
        let key = |random: &mut Random| format!("/k/{}", random.below(KEYS));
        let (one, other) = (key(&mut self.random), key(&mut self.random));
        let etcd = &self.etcd;
        let _revision = match self.random.below(20) {
            0..10 => etcd.put(one, format!("{}", etcd.revision())),
            10..13 => etcd.delete(one),
            13 => etcd.put("/elsewhere", ""),
            14 => {
                let ended = etcd.revoke_lease(self.lease);
                self.lease = etcd.grant_lease();
                ended
            }
            15..17 => {
                let mut ops = vec![Op::put_leased(&*one, "leased", self.lease)];
                // etcd refuses a key that is put twice in one transaction.
                if other != one {
                    ops.push(Op::put_leased(other, "leased", self.lease));
                }
                etcd.txn(ops)
            }
            17 => {
                etcd.faults().cut();
                etcd.revision()
            }
            _ => {
                etcd.delete(&*one);
                etcd.put(one, "again")
            }
        };
    }

    /// One life: from the opening of the journal until the power is gone, and some writes after it.
    async fn live(&mut self) {
        let dies_after = self.random.below(300);
        self.disk.die_at(self.disk.calls() + usize::try_from(dies_after).unwrap());
        if let Ok(journal) = Journal::open_in(self.disk.opener(), self.options()).await {
            self.run(&journal).await;
            // It fails, since the disk is gone.
            let _ = journal.close().await;
        }
        let kept = [0, u64::MAX, 0x5555_5555_5555_5555, self.random.below(u64::MAX >> 1)];
        self.disk.crash(kept[usize::try_from(self.random.below(4)).unwrap()]);
        for _ in 0..self.random.below(6) {
            self.write();
        }
        if self.random.below(6) == 0 {
            self.etcd.compact(self.etcd.revision());
        }
    }

    async fn run(&mut self, journal: &Journal) {
        let quick = Duration::from_millis(1);
        let builder = KeySpace::builder("/k/").unwrap().bytes().name("things").seed(3);
        let builder = builder.apply_delay(Duration::ZERO).backoff(quick, quick);
        let (ks, mirror) = builder.journal(journal).restore(journal).build(self.etcd.clone());
        let mirror = tokio::spawn(mirror.run());
        let recorder = Recorder::new();
        let options = WatcherOptions::new().handler(recorder.clone()).auto_start(true);
        let registry = Registry::new(journal);
        let watcher = registry.watch(WATCHER, options).await;
        while journal.status().fault.is_none() {
            self.write();
            if ks.wait_for_revision(self.etcd.revision()).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // The mirror serves on from memory, whatever its disk does.
        if ks.status().store_error.is_some() {
            let newest = ks.wait_for_revision(self.etcd.revision());
            timeout(SOON, newest).await.expect("it serves on").unwrap();
            let shown: BTreeMap<_, _> =
                ks.read().iter().map(|e| (e.key().to_vec(), e.value().clone())).collect();
            assert_eq!(shown, truth(&self.etcd, self.etcd.revision()));
        }
        ks.shutdown().await;
        mirror.await.unwrap();
        let _ = registry.stop_all(Some(SOON)).await;
        drop(watcher);
        for sequence in recorder.sequences() {
            assert!(sequence <= self.handled + 1, "{sequence} after {}: missed", self.handled);
            self.handled = self.handled.max(sequence);
        }
    }

    /// What the disk has kept continues what it had, and its state is etcd's; how far it goes.
    async fn judge(&mut self) -> Revision {
        let journal = Journal::open_in(self.disk.opener(), self.options()).await.unwrap();
        let events = all(&journal).await;
        let kept = events.get(..self.former.len());
        assert_eq!(kept, Some(&self.former[..]), "the journal does not go on from before");
        let checkpoint = journal.checkpoint(WATCHER).await.unwrap();
        let checkpoint = checkpoint.map_or(0, |checkpoint| checkpoint.sequence);
        assert!(checkpoint <= self.handled, "{checkpoint} is ahead of {}", self.handled);
        // What was lost with the power is told again, under numbers that were lost with it.
        self.handled = self.handled.min(events.len() as u64).max(checkpoint);
        let mirrors = journal.mirrors().await.unwrap();
        let Some((name, stored)) = mirrors.first() else {
            assert!(events.is_empty(), "events of no mirror");
            journal.close().await.unwrap();
            return 0;
        };
        let cursor = stored.cursor.revision;
        self.walk.follow(&self.etcd, &events[self.former.len()..], cursor);
        let mut reader = journal.state(name).await.unwrap().unwrap();
        let state = reader.page(1_000).unwrap();
        assert_eq!(state, self.etcd.range_at(&range(), cursor), "the state of {cursor}");
        assert!(reader.page(1_000).unwrap().is_empty());
        drop(reader);
        self.former = events;
        journal.close().await.unwrap();
        cursor
    }
}

async fn lose_power(durability: Durability, rounds: u64) {
    let mut world = World::new(durability, "JOURNAL_POWER_SEED");
    let (mut last, mut progressed) = (0, 0);
    for round in 0..rounds {
        world.live().await;
        let cursor = world.judge().await;
        assert!(cursor >= last, "round {round}: {cursor} after {last}");
        progressed += u64::from(cursor > last);
        last = cursor;
    }
    println!(
        "{durability:?}: {rounds} times, {progressed} with progress, {} events, {} differences, revision {}",
        world.former.len(),
        world.walk.differences,
        world.etcd.revision(),
    );
    assert!(progressed > rounds / 4, "{progressed} of {rounds} lives got anywhere");
}

#[tokio::test]
async fn bw1_j2_j6_a_mirror_that_loses_power_goes_on_without_a_gap() {
    let rounds = from_environment("JOURNAL_POWER_ROUNDS", 40);
    lose_power(Durability::EachBatch, rounds).await;
}

#[tokio::test]
async fn bw1_j2_j6_a_mirror_that_loses_power_and_syncs_seldom_loses_a_suffix_only() {
    let rounds = from_environment("JOURNAL_POWER_ROUNDS", 40);
    lose_power(Durability::Interval(Duration::from_millis(5)), rounds).await;
}
