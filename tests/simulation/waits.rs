//! Those who wait: for revisions, for what the store knows now, for conditions, for any change.
//!
//! Owns the kinds of waits and what each must find (C8); must not change anything.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use etcd_keyspace::{KeySpace, Revision, WaitError};
use tokio::time::timeout;

use crate::audit::Audit;
use crate::observed::{Expect, SharedFolded};
use crate::reader::Reader;
use crate::truth::SharedTruth;
use crate::value::Value;
use crate::worlds::World;

/// Somebody who waits for one thing.
pub(crate) struct Waiter {
    ks: KeySpace<Value>,
    expect: Expect,
    truth: SharedTruth,
    folded: SharedFolded,
    audit: Arc<Mutex<Audit>>,
    /// The store's revision when the wait began.
    revision: Revision,
    /// The era when the wait began.
    era: usize,
    /// What is read may be older than the store: not even an honest wait can tell.
    stale: bool,
    may_stop: bool,
}

impl Waiter {
    pub(crate) fn new(reader: &Reader, world: &World) -> Self {
        Waiter {
            ks: reader.ks.clone(),
            expect: reader.expect,
            truth: Arc::clone(&world.truth),
            folded: Arc::clone(&reader.folded),
            audit: Arc::clone(&reader.audit),
            era: world.truth.lock().unwrap().eras() - 1,
            revision: world.etcd.revision(),
            stale: world.stale,
            may_stop: reader.policy == etcd_keyspace::OnHistoryChange::Stop,
        }
    }

    /// Waits in one of seven ways.
    pub(crate) async fn wait(self, way: u64, patience: Duration) {
        let revision = self.revision;
        match way {
            0 | 1 => {
                let view = self.ks.read_at(revision).await.map(|view| {
                    assert!(view.confirmed() >= revision, "C8: read_at");
                    self.assert_true(&view);
                });
                self.allow(view);
            }
            2 => {
                let snapshot = self.ks.snapshot_at(revision).await.map(|snapshot| {
                    assert!(snapshot.confirmed() >= revision, "C8: snapshot_at");
                    self.assert_true(&snapshot);
                });
                self.allow(snapshot);
            }
            3 => {
                let synced = self.ks.sync().await;
                if let (Ok(found), true) = (&synced, self.expect.whole && !self.stale) {
                    let same_era = self.truth.lock().unwrap().eras() == 1;
                    assert!(*found >= revision || !same_era, "C8: sync gave {found}");
                }
                if synced.is_ok() {
                    let view = self.ks.read();
                    let mut audit = self.audit.lock().unwrap();
                    audit.expect_since(self.era, &view, &self.ks.rejected());
                }
                self.allow(synced);
            }
            4 => {
                let seen = self.ks.status().revision;
                let updated = self.ks.updated().await;
                if let (Ok(found), true) = (&updated, self.expect.honest) {
                    assert!(*found > seen, "C8: updated gave {found} after {seen}");
                }
                self.allow(updated);
            }
            5 => {
                let met =
                    self.ks.wait_until(|view| (view.confirmed() >= revision).then_some(())).await;
                self.allow(met);
            }
            6 => {
                // Given up at any time, it leaves nothing behind.
                let _ = timeout(patience, self.ks.wait_for_revision(revision + 1_000)).await;
                let _ = timeout(patience, self.ks.sync()).await;
            }
            _ => {
                let woken = self.wait_watched().await;
                self.allow(woken);
            }
        }
    }

    fn assert_true(&self, view: &etcd_keyspace::View<Value>) {
        if self.expect.honest {
            let mut truth = self.truth.lock().unwrap();
            truth.refresh();
            let fits = truth.fits(0, view.confirmed(), self.expect.bad_values, view.iter());
            fits.unwrap_or_else(|what| panic!("C2, C8: {what}"));
        }
    }

    /// Only a restore or the end may fail a wait.
    fn allow<R>(&self, ended: Result<R, WaitError>) {
        match ended {
            Ok(_) => {}
            Err(WaitError::HistoryChanged { .. }) => {
                assert!(!self.expect.honest, "C8: history did not change");
            }
            Err(error) => assert!(self.may_stop, "C8: {error:?}"),
        }
    }

    /// C4: whoever is woken finds that the observers have seen what he waited for.
    async fn wait_watched(&self) -> Result<(), WaitError> {
        if !self.expect.honest {
            return Ok(());
        }
        let wait = self.ks.wait_for_revision(self.revision);
        let mut wait = pin!(wait);
        std::future::poll_fn(|cx| {
            let watched = Arc::new(Watched {
                inner: Mutex::new(cx.waker().clone()),
                expect: self.expect,
                truth: Arc::clone(&self.truth),
                folded: Arc::clone(&self.folded),
                revision: self.revision,
            });
            wait.as_mut().poll(&mut Context::from_waker(&Waker::from(watched)))
        })
        .await
        .map(drop)
    }
}

/// A waker that looks at what the observers know when it is called.
struct Watched {
    inner: Mutex<Waker>,
    expect: Expect,
    truth: SharedTruth,
    folded: SharedFolded,
    revision: Revision,
}

impl Wake for Watched {
    fn wake(self: Arc<Self>) {
        let folded = self.folded.lock().unwrap();
        let mut truth = self.truth.lock().unwrap();
        truth.refresh();
        let known = |at| truth.fits(0, at, self.expect.bad_values, folded.entries.values()).is_ok();
        // A batch may reach beyond what is waited for, and a step without net change is not told.
        let told = (self.revision..=truth.last_revision(0)).any(known);
        assert!(told, "C4: woken for {} before the observers were told", self.revision);
        self.inner.lock().unwrap().wake_by_ref();
    }
}
