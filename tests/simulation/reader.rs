//! One key space of a run, with its observers and the task that audits every publication.
//!
//! Owns how a reader is made and what must hold of its status; must not touch the store.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_keyspace::testing::FakeEtcd;
use etcd_keyspace::{
    BadValues, Derived, KeySpace, OnHistoryChange, Revision, State, StopReason, WaitError,
};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::audit::Audit;
use crate::fake::PREFIX;
use crate::observed::{Expect, Folded, Index, SharedFolded, assert_index, register};
use crate::truth::SharedTruth;
use crate::value::{Value, watch_lock_of};
use crate::worlds::{Kind, World};

pub(crate) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Bound of a `sync` with a healthy store: lost requests time out first, and a full read may follow.
const SYNC_MAX: Duration = Duration::from_secs(60);
/// How often a reader that was brought too much is looked at again.
const RETRIES_MAX: usize = 4;
/// Half of the keys that there can be.
const HALF_THE_RANGE: usize = 8;

/// Options that decide which checks apply to a reader.
pub(crate) struct Options {
    pub(crate) expect: Expect,
    /// How many keys it compares whole after a break.
    pub(crate) budget: usize,
}

pub(crate) struct Reader {
    pub(crate) ks: KeySpace<Value>,
    pub(crate) expect: Expect,
    pub(crate) policy: OnHistoryChange,
    pub(crate) folded: SharedFolded,
    index: Derived<Index>,
    pub(crate) audit: Arc<Mutex<Audit>>,
    auditor: JoinHandle<()>,
    mirror: JoinHandle<StopReason>,
    pub(crate) truth: SharedTruth,
}

impl Reader {
    /// Starts a mirror with random options.
    pub(crate) fn start(etcd: &FakeEtcd, kind: Kind, truth: &SharedTruth) -> Self {
        let random = |bound| usize::try_from(etcd.random(bound)).unwrap();
        let delay = Duration::from_millis([0, 5, 30, 200][random(4)]);
        let bad_values = [BadValues::KeepLast, BadValues::Drop][random(2)];
        let expect = Expect {
            bad_values,
            honest: kind == Kind::Honest,
            whole: matches!(kind, Kind::Honest | Kind::Restored),
        };
        let budget = [0, HALF_THE_RANGE, 4096][random(3)];
        let stops = kind == Kind::Restored && random(4) == 0;
        let policy = if stops { OnHistoryChange::Stop } else { OnHistoryChange::Reload };
        let seed = etcd.random(u64::MAX);
        let mut builder = KeySpace::builder(PREFIX)
            .unwrap()
            .decoder(Value::decode)
            .seed(seed)
            .apply_delay(delay)
            .bad_values(bad_values)
            .on_other_cluster(policy)
            .on_history_change(policy)
            .check_interval(CHECK_INTERVAL)
            .request_timeout(REQUEST_TIMEOUT)
            .page_timeout(Duration::from_secs(5))
            .page_bytes([20, 100, 10_000][random(3)])
            .backoff(Duration::from_millis(100), Duration::from_secs(2));
        if random(3) == 0 {
            builder = builder.queue_bounds(1 + random(10), 10_000);
        }
        if random(4) == 0 {
            // Some events each time, or a backlog of a hundred would take a hundred watches.
            builder = builder.intake_bytes_max(64 + random(200));
        }
        if seed.is_multiple_of(4) {
            // Most fall behind such a history.
            builder = builder.event_history(1 + (seed / 4 % 40) as usize, 10_000);
        }
        if random(4) == 0 {
            builder = builder.audit_interval(CHECK_INTERVAL * 2);
        }
        let builder = builder.proof_budget(budget, 1 << 20);
        let (ks, mirror) = builder.build(etcd.clone());
        watch_lock_of(&ks);
        let folded = Folded::new(Arc::clone(truth), expect);
        let index = register(&ks, &folded);
        let options = Options { expect, budget };
        let mut audit = Audit::new(Arc::clone(&folded), Arc::clone(truth), &options);
        audit.forged = kind == Kind::Hostile;
        let audit = Arc::new(Mutex::new(audit));
        let auditor = spawn_auditor(ks.clone(), Arc::clone(&audit));
        let mirror = tokio::spawn(mirror.run());
        let truth = Arc::clone(truth);
        Reader { ks, expect, policy, folded, index, audit, auditor, mirror, truth }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.ks.status().state == State::Stopped
    }

    /// Whether the eras allow that this reader stopped.
    pub(crate) fn may_stop(&self) -> bool {
        self.policy == OnHistoryChange::Stop && self.truth.lock().unwrap().eras() > 1
    }

    pub(crate) fn set_forged(&self, forged: bool) {
        self.audit.lock().unwrap().forged = forged;
    }

    /// Looks at the key space between two acts: data, derived state and status belong together.
    pub(crate) async fn look(&mut self, stale: bool) {
        let status = self.ks.status();
        assert!(status.poisoned_observers.is_empty(), "{:?}", status.poisoned_observers);
        if self.mirror.is_finished() {
            let reason = (&mut self.mirror).await.expect("C11: the mirror never panics");
            assert!(self.may_stop(), "C7: it stopped: {reason:?}");
            let fits = matches!(
                reason,
                StopReason::HistoryChanged { .. } | StopReason::AnotherCluster { .. }
            );
            assert!(fits, "C7: {reason:?}");
            self.mirror = tokio::spawn(async move { reason });
            tokio::task::yield_now().await;
            assert_eq!(self.ks.status().state, State::Stopped, "C7");
        }
        if self.auditor.is_finished() && !self.is_stopped() {
            (&mut self.auditor).await.expect("the audit finds nothing wrong");
        }
        {
            let view = self.ks.read();
            self.audit.lock().unwrap().see(&view, &self.ks.rejected());
            let status = self.ks.status();
            assert_index(view.derived(&self.index), &view);
            assert_eq!(view.revision(), status.revision, "C7");
            assert_eq!(view.confirmed(), status.confirmed, "C7");
            assert_eq!(status.rejected, self.ks.rejected().len(), "C10");
        }
        if self.expect.honest && !stale {
            // C7: everything committed before the age is in the view.
            let as_of = status.current_as_of.map(|age| Instant::now() - age);
            let least = as_of.map_or(0, |asked| self.truth.lock().unwrap().revision_at(asked));
            assert!(status.confirmed >= least, "C7: as of {least}, but {}", status.confirmed);
        }
    }

    /// Waits until the store's revision of now is confirmed; what ends the wait must be allowed.
    pub(crate) async fn catches_up(&self, revision: Revision) -> bool {
        loop {
            match self.ks.wait_for_revision(revision).await {
                Ok(confirmed) => {
                    assert!(confirmed >= revision, "C8");
                    return true;
                }
                Err(WaitError::HistoryChanged { was, now }) => {
                    assert!(now > was && !self.expect.honest, "C8: {was} to {now}");
                }
                Err(error) => {
                    assert!(self.may_stop(), "C8: {error:?}");
                    return false;
                }
            }
        }
    }

    /// Asserts that a `sync` with a healthy store leads to its content.
    pub(crate) async fn expect_synced(&self) {
        let synced = loop {
            match tokio::time::timeout(SYNC_MAX, self.ks.sync()).await.expect("C8: sync hangs") {
                Err(WaitError::HistoryChanged { .. }) => assert!(!self.expect.honest, "C8"),
                synced => break synced,
            }
        };
        match synced {
            Ok(_) => {
                let view = self.ks.read();
                let now = self.truth.lock().unwrap().eras() - 1;
                self.audit.lock().unwrap().expect_since(now, &view, &self.ks.rejected());
            }
            Err(error) => assert!(self.may_stop(), "C8: {error:?}"),
        }
    }

    /// Waits for the retry after a watch that brought more than the reader takes in. The last of it may
    /// have been applied before, and each such retry waits longer.
    pub(crate) async fn comes_back(&self) {
        for _ in 0..RETRIES_MAX {
            let status = self.ks.status();
            let error = status.last_error.as_ref().map(ToString::to_string).unwrap_or_default();
            if status.state == State::Live || !error.contains("arrived before they were applied") {
                return;
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    /// What must hold once everything is healed and quiet.
    pub(crate) fn assert_settled(&self, world: &World) {
        let status = self.ks.status();
        assert_eq!(status.state, State::Live, "C7: {status:?}");
        let view = self.ks.read();
        if self.audit.lock().unwrap().excused {
            return;
        }
        let truth = self.truth.lock().unwrap();
        let era = truth.eras() - 1;
        // A revision asked for before a restore may lie ahead of the store for long.
        assert!(era > 0 || status.is_fresh(CHECK_INTERVAL * 3), "C7: {status:?}");
        assert_eq!(view.confirmed(), world.etcd.revision(), "C8");
        let fits = truth.fits(era, view.confirmed(), self.expect.bad_values, view.iter());
        let fits =
            fits.and_then(|()| truth.fits_rejected(era, view.confirmed(), &self.ks.rejected()));
        fits.unwrap_or_else(|what| panic!("C2, the end is wrong: {what}"));
        drop(truth);
        assert!(self.audit.lock().unwrap().is_of_now(), "C2: one epoch shows two histories");
        if self.expect.honest {
            let lost = status.counters.discontinuities;
            assert!(lost == 0 || world.counting, "an honest server loses no history");
            assert_eq!(status.counters.history_changes, 0, "history did not change");
            assert_eq!(status.epoch, 1, "history did not change");
            assert_eq!(status.counters.drift, 0, "C7: an audit of what is right finds nothing");
        }
    }

    /// Ends everything and counts what is left.
    pub(crate) async fn end(self) {
        let folded = self.folded.lock().unwrap().entries.len();
        assert_eq!(folded, self.ks.read().len(), "reliable: all was told");
        self.auditor.abort();
        let _ = self.auditor.await;
        // C8: waits that ended, were dropped or cancelled leave nothing behind.
        assert_eq!(self.ks.stats().waits, 0, "C8: waits are left");
        self.ks.shutdown().await;
        self.mirror.await.expect("C11: the mirror never panics");
        let ended = self.ks.wait_for_revision(Revision::MAX).await;
        assert!(matches!(ended, Err(WaitError::Stopped(_))), "C8: {ended:?}");
    }
}

fn spawn_auditor(ks: KeySpace<Value>, audit: Arc<Mutex<Audit>>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let rejected = ks.clone();
        let ended = ks.wait_until(|view| {
            let mut audit = audit.lock().unwrap();
            audit.gaps = rejected.status().counters.loads_gap > 0;
            audit.see(view, &rejected.rejected());
            None::<()>
        });
        let _ = ended.await;
    })
}
