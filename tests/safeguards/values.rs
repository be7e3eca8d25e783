//! Audits that compare values: what no number shows.

use std::sync::{Arc, Mutex};

use etcd_keyspace::{Delta, RawKeyValue, WaitError};

use super::*;

const KEYS: usize = 300;

/// Writes all keys in the same order each time, so that the numbers are the same; `/k/007` gets `value`.
fn seed(etcd: &FakeEtcd, value: &str) {
    for key in 0..KEYS {
        etcd.put(format!("/k/{key:03}"), if key == 7 { value } else { "v" });
    }
}

/// Removes the data while the mirror is away, and writes it again with another value of `/k/007`.
async fn written_again<T: Send + Sync + 'static>(ks: &KeySpace<T>, etcd: &FakeEtcd) {
    etcd.faults().down();
    while ks.status().state != State::Reconnecting {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let revision = etcd.revision();
    etcd.wipe();
    seed(etcd, "other");
    assert_eq!(etcd.revision(), revision);
    etcd.faults().up();
}

async fn audited(ks: &KeySpace<Vec<u8>>, audits: u64) {
    while ks.status().counters.audits < audits {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Only the value that differs is decoded and delivered, under a new epoch, in which no wait survives.
#[tokio::test(start_paused = true)]
async fn h22_an_audit_finds_a_store_written_again_with_another_value() {
    let etcd = etcd();
    seed(&etcd, "first");
    let decoded = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&decoded);
    let decoder = move |kv: RawKeyValue| {
        seen.lock().unwrap().push(String::from_utf8(kv.key)?);
        Ok::<_, std::string::FromUtf8Error>(kv.value)
    };
    let ks = KeySpace::builder(PREFIX).unwrap().decoder(decoder).seed(7);
    // Without a budget connecting compares the newest values only, so that the audit has to find it.
    let ks = ks.proof_budget(0, 0).audit_values(60 * SECOND);
    let ks = ks.start(etcd.clone()).await.unwrap();
    let before = ks.snapshot();
    decoded.lock().unwrap().clear();
    let deltas = Arc::new(Mutex::new(Vec::new()));
    let delivered = Arc::clone(&deltas);
    let _observer = ks.observe(move |delta: &Delta<Vec<u8>>, _, _| {
        delivered.lock().unwrap().push((delta.epoch(), delta.len()));
    });
    deltas.lock().unwrap().clear();
    let wait = tokio::spawn({
        let ks = ks.clone();
        async move { ks.wait_for_revision(1_000_000).await }
    });

    written_again(&ks, &etcd).await;
    let found = ks.wait_until(|view| (view.epoch() == 2).then_some(()));
    timeout(600 * SECOND, found).await.expect("an audit finds it").unwrap();
    let ended = wait.await.unwrap();
    assert!(matches!(ended, Err(WaitError::HistoryChanged { was: 1, now: 2 })), "{ended:?}");
    assert_eq!(*decoded.lock().unwrap(), ["/k/007"]);
    assert_eq!(*deltas.lock().unwrap(), [(2, 1)]);
    let after = ks.snapshot();
    assert_eq!(after.get("/k/007").unwrap().value(), b"other");
    assert_eq!((after.diff(&before).len(), after.revision()), (1, before.revision()));
    let counters = ks.status().counters;
    assert_eq!((counters.audits, counters.drift, counters.history_changes), (1, 1, 1));
    assert_eq!((counters.loads, counters.loads_history), (2, 1));

    let last = etcd.put("/k/000", "after");
    ks.wait_for_revision(last).await.unwrap();
    while ks.status().counters.audits < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let counters = ks.status().counters;
    assert_eq!((counters.drift, counters.history_changes), (1, 1), "found once");
}

#[tokio::test(start_paused = true)]
async fn h22_the_policy_decides_about_another_value() {
    let etcd = etcd();
    seed(&etcd, "first");
    let builder = builder().proof_budget(0, 0).audit_values(60 * SECOND);
    let ks = builder.on_history_change(OnHistoryChange::Stop).start(etcd.clone()).await.unwrap();
    written_again(&ks, &etcd).await;
    let reason = timeout(600 * SECOND, ks.closed()).await.expect("an audit finds it");
    assert!(matches!(reason, StopReason::HistoryChanged { .. }), "{reason:?}");
    assert_eq!(
        (ks.read().epoch(), ks.read().get("/k/007").unwrap().value()),
        (1, &b"first".to_vec())
    );
}

/// Lost events are no other history, also to an audit with values.
#[tokio::test(start_paused = true)]
async fn h22_an_audit_of_values_repairs_lost_events_too() {
    let etcd = etcd();
    seed(&etcd, "first");
    let builder = builder().audit_values(60 * SECOND).on_history_change(OnHistoryChange::Stop);
    let ks = builder.start(etcd.clone()).await.unwrap();
    etcd.faults().lose_events(3);
    etcd.put("/k/001", "lost");
    etcd.delete("/k/002");
    etcd.put("/k/new", "lost");
    let last = etcd.put("/k/003", "seen");
    ks.wait_for_revision(last).await.unwrap();
    audited(&ks, 1).await;
    while ks.status().counters.loads < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_same(&ks, &etcd).await;
    let counters = ks.status().counters;
    assert_eq!((counters.drift, counters.history_changes, counters.loads_gap), (3, 0, 1));
}

/// Audits of both kinds never overlap, and one with values serves for both.
#[tokio::test(start_paused = true)]
async fn h22_audits_of_both_kinds_take_turns() {
    let etcd = etcd();
    seed(&etcd, "first");
    let start = async |keys: Duration, values: Duration| {
        // The checks of the watch come later, so that only audits ask.
        let builder = builder().check_interval(100_000 * SECOND);
        let builder = builder.audit_interval(keys).audit_values(values);
        builder.start(etcd.clone()).await.unwrap()
    };
    let ks = start(60 * SECOND, 40 * SECOND).await;
    audited(&ks, 10).await;
    assert_eq!(etcd.counts().keys_only, 0);
    ks.shutdown().await;

    let ks = start(11 * SECOND, 50 * SECOND).await;
    let before = etcd.counts();
    // An answer takes a second, and longer if it has to wait for another one.
    etcd.faults().capacity(1, u32::MAX);
    audited(&ks, 30).await;
    let counts = etcd.counts();
    assert!(counts.keys_only > 20 && counts.pages > before.pages + 4, "{counts:?}");
    assert!(counts.longest_queue < 3 * SECOND / 2, "{counts:?}");
    assert_eq!(ks.status().counters.drift, 0);
}

/// Pages are sized by their bytes, whatever the number of keys.
#[tokio::test(start_paused = true)]
async fn h22_pages_of_an_audit_are_bounded_by_bytes() {
    let etcd = etcd();
    for key in 0..64 {
        etcd.put(format!("/k/{key:03}"), vec![b'v'; 256 << 10]);
    }
    let ks = builder().audit_values(60 * SECOND).start(etcd.clone()).await.unwrap();
    let pages = etcd.counts().pages;
    audited(&ks, 1).await;
    // 16 MiB in pages of one.
    let pages = etcd.counts().pages - pages;
    assert!((16..=24).contains(&pages), "{pages} pages");
    assert_eq!(ks.status().counters.drift, 0);
}
