//! Stores that are replaced: restored backups, data directories removed and seeded again, other clusters.
//!
//! The lost history is often written again with one write changed, as writers do that follow a script.
//! Revisions and versions agree then, and only the content differs.

use std::time::Duration;

use etcd_keyspace::testing::{FakeEtcd, Op};
use etcd_keyspace::{Event, KeyRange, RawKeyValue, Revision};

use crate::fake::PREFIX;
use crate::worlds::World;

/// Longer than any mirror takes to connect to a healthy store.
const GLIMPSE_MAX: Duration = Duration::from_secs(10);

/// More revisions than a run ever loses.
const BUMP: u32 = 1_000;

/// The changes of one revision.
type Transaction = Vec<Event>;

impl World {
    /// Replaces the store while no client can reach it, and writes to the new one.
    ///
    /// In some worlds a client gets one answer in between, and all lose their connections again.
    pub(crate) async fn disaster(&mut self) {
        self.disasters += 1;
        let faults = self.etcd.faults();
        faults.heal();
        if self.random(3) == 0 {
            self.write_ephemeral();
            self.pass(300).await;
        }
        faults.down();
        self.pass([20, 1_000, 20_000][self.some(3)]).await;
        let mut lost = self.replace();
        self.change_one(&mut lost);
        let (before, after) = lost.split_at(self.some(lost.len() + 1));
        self.replay(before);
        if self.random(3) == 0 {
            self.show_once().await;
        }
        match self.random(4) {
            0 => {}
            1 => self.replay(&after[..self.some(after.len() + 1)]),
            _ => self.replay(after),
        }
        let more = self.random(4) / 2 * self.random(9);
        self.put_some(more);
        self.pass([1, 1_000, 20_000][self.some(3)]).await;
        self.open();
    }

    /// Writes until the store reaches the greatest revision that it ever had.
    pub(crate) fn catch_up_with_the_past(&self) {
        let past = self.truth.lock().unwrap().greatest_revision();
        while self.etcd.revision() < past {
            self.etcd.put("/outside", "x");
        }
    }

    fn some(&self, bound: usize) -> usize {
        usize::try_from(self.random(bound as u64)).unwrap()
    }

    /// Lets up to `millis` pass.
    async fn pass(&self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(self.random(millis))).await;
    }

    /// Creates and deletes a key, so that the newest change is a deletion.
    fn write_ephemeral(&self) {
        let key = format!("{PREFIX}lock");
        self.etcd.put(key.as_str(), "me");
        self.etcd.delete(key);
    }

    /// Replaces the store and returns the history that is lost.
    fn replace(&mut self) -> Vec<Transaction> {
        let (now, term) = (self.etcd.revision(), self.etcd.header().raft_term);
        let back = if self.random(3) == 0 { self.random(now as u64) } else { self.random(15) };
        let backup = (now - i64::try_from(back).unwrap()).max(1);
        match self.random(8) {
            0 => self.begin_era(now, now, FakeEtcd::change_cluster),
            1 => self.begin_era(now, backup, |etcd| etcd.restore_bumped(backup, BUMP)),
            2 | 3 => {
                let lost = self.begin_era(now, 1, FakeEtcd::wipe);
                self.kept_leases.clear();
                lost
            }
            _ => {
                let term = [2, term, term + 1][self.some(3)];
                self.begin_era(now, backup, |etcd| etcd.restore_at_term(backup, term))
            }
        }
    }

    /// Begins an era by `act`, which goes back from `now` to `revision`.
    fn begin_era(
        &mut self,
        now: Revision,
        revision: Revision,
        act: impl FnOnce(&FakeEtcd),
    ) -> Vec<Transaction> {
        let mut lost: Vec<Transaction> = Vec::new();
        for event in self.etcd.history(&KeyRange::all(), revision + 1) {
            match lost.last_mut().filter(|last| last[0].mod_revision() == event.mod_revision()) {
                Some(last) => last.push(event),
                None => lost.push(vec![event]),
            }
        }
        assert!(lost.is_empty() || revision < now, "only what is lost is written again");
        let mut truth = self.truth.lock().unwrap();
        truth.begin_era(revision);
        act(&self.etcd);
        truth.refresh();
        drop(truth);
        self.kept_leases = std::mem::take(&mut self.leases);
        lost
    }

    /// Changes the value or the key of one write, or leaves it out; at times nothing.
    fn change_one(&mut self, script: &mut [Transaction]) {
        if script.is_empty() || self.random(6) == 0 {
            return;
        }
        let at = self.some(script.len());
        let transaction = &mut script[at];
        let at = usize::try_from(self.etcd.random(transaction.len() as u64)).unwrap();
        let group = transaction[at].key().starts_with(format!("{PREFIX}g").as_bytes());
        let (key, value) = (self.key(), self.value());
        match (self.random(3), &mut transaction[at]) {
            // A group is shown whole, so all of it can be decoded.
            (0, Event::Put(kv)) if group => kv.value = b"changed".to_vec(),
            (0, Event::Put(kv)) => kv.value = value.into_bytes(),
            (1, Event::Put(kv)) if !group => kv.key = key.into_bytes(),
            _ if !group => drop(transaction.remove(at)),
            _ => {}
        }
    }

    /// Writes each transaction at a revision of its own, even one that changes nothing.
    fn replay(&self, script: &[Transaction]) {
        for transaction in script {
            let before = self.etcd.revision();
            let op = |event: &Event| match event {
                Event::Put(RawKeyValue { key, value, lease, .. }) => {
                    let lease = if self.kept_leases.contains(lease) { *lease } else { 0 };
                    Op::put_leased(key.as_slice(), value.as_slice(), lease)
                }
                Event::Delete { key, .. } => Op::delete(key.as_slice()),
            };
            if self.etcd.txn(transaction.iter().map(op)) == before {
                self.etcd.put("/outside", "x");
            }
        }
    }

    /// Lets clients reach the new store, which may have held elections.
    fn open(&self) {
        let faults = self.etcd.faults();
        faults.up();
        for _ in 0..self.random(6) / 2 {
            faults.elect_leader();
        }
        self.truth.lock().unwrap().open_era();
    }

    /// Lets clients reach the new store until one of them has read, and takes it away again.
    async fn show_once(&self) {
        let reads = self.etcd.counts().reads();
        self.open();
        let read = self.etcd.until(|counts| counts.reads() > reads);
        let read = tokio::time::timeout(GLIMPSE_MAX, read).await.is_ok();
        if read && self.alone {
            self.truth.lock().unwrap().note_answer();
        }
        self.pass(200).await;
        self.etcd.faults().down();
    }
}
