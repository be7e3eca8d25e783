//! What the tests on the fake etcd share: starting a mirror on it, and the comparison at the end.
//!
//! For tests on tokio's paused clock: all times are the fake's, none is real.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of this")]

use std::time::Duration;

use etcd_keyspace::testing::FakeEtcd;
use etcd_keyspace::{Builder, KeyRange, KeySpace, ServerVersion, State};

pub const PREFIX: &str = "/k/";

/// An etcd without periodic progress, so that an idle paused clock does not jump by minutes.
pub fn etcd() -> FakeEtcd {
    let etcd = FakeEtcd::new();
    etcd.set_progress_interval(None);
    etcd
}

pub fn version(text: &str) -> ServerVersion {
    ServerVersion::parse(text).unwrap()
}

/// A builder with short, repeatable times.
pub fn builder() -> Builder<Vec<u8>> {
    KeySpace::builder(PREFIX)
        .unwrap()
        .bytes()
        .seed(7)
        .check_interval(Duration::from_secs(1))
        .backoff(Duration::from_millis(100), Duration::from_secs(2))
}

pub async fn start(etcd: &FakeEtcd) -> KeySpace<Vec<u8>> {
    builder().start(etcd.clone()).await.unwrap()
}

/// Waits for the newest revision and compares every key with all its numbers; then the mirror must
/// never have polled a stream after its end (B5).
pub async fn assert_same(ks: &KeySpace<Vec<u8>>, etcd: &FakeEtcd) {
    let revision = etcd.revision();
    ks.wait_for_revision(revision).await.unwrap();
    assert_shows(ks, etcd);
    assert_eq!(etcd.counts().polls_after_end, 0);
}

/// Compares what is shown with the store's state at the confirmed revision.
pub fn assert_shows(ks: &KeySpace<Vec<u8>>, etcd: &FakeEtcd) {
    let view = ks.read();
    let truth = etcd.range_at(&KeyRange::prefix(PREFIX), view.confirmed());
    let shown: Vec<_> = view
        .iter()
        .map(|e| {
            let numbers = (e.create_revision(), e.mod_revision(), e.version(), e.lease());
            (e.key().to_vec(), e.value().clone(), numbers)
        })
        .collect();
    let expected: Vec<_> = truth
        .into_iter()
        .map(|kv| (kv.key, kv.value, (kv.create_revision, kv.mod_revision, kv.version, kv.lease)))
        .collect();
    assert_eq!(shown, expected, "at revision {}", view.confirmed());
}

/// Lets the clock run, in steps of a millisecond, until the key space is in `state`.
pub async fn reaches(ks: &KeySpace<Vec<u8>>, state: State) {
    for _ in 0..600_000 {
        if ks.status().state == state {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{state} is not reached: {:?}", ks.status());
}
