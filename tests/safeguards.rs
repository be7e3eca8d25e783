//! What guards the data when etcd or its operator goes wrong: reloads held back, audits, bounds.
#![cfg(feature = "test-util")]

#[path = "safeguards/audits.rs"]
mod audits;
mod fake;
#[path = "safeguards/held.rs"]
mod held;
#[path = "safeguards/oversized.rs"]
mod oversized;
#[path = "safeguards/values.rs"]
mod values;

use std::time::Duration;

use etcd_keyspace::testing::{Call, FakeEtcd, Op};
use etcd_keyspace::{
    KeyRange, KeySpace, NotHeld, OnHistoryChange, OnHold, SourceErrorKind, State, StopReason,
};
use fake::{PREFIX, assert_same, assert_shows, builder, etcd, reaches, version};
use tokio::time::{sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn fill(etcd: &FakeEtcd, keys: usize) {
    for key in 0..keys {
        etcd.put(format!("/k/{key:03}"), "v");
    }
}

/// Lets the mirror miss `change` and the history of it, so that it has to reload.
async fn behind_a_compaction(ks: &KeySpace<Vec<u8>>, etcd: &FakeEtcd, change: impl FnOnce()) {
    etcd.faults().down();
    reaches(ks, State::Reconnecting).await;
    change();
    etcd.compact(etcd.revision());
    etcd.faults().up();
}

async fn held_after_losing(keys: usize, etcd: &FakeEtcd, policy: OnHold) -> KeySpace<Vec<u8>> {
    fill(etcd, 100);
    let ks = builder().hold_reloads(0.5, policy).start(etcd.clone()).await.unwrap();
    let gone = KeyRange::bytes("/k/000", format!("/k/{keys:03}"));
    behind_a_compaction(&ks, etcd, || {
        etcd.delete_range(gone);
    })
    .await;
    ks
}
