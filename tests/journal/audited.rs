//! Audits of what was restored: values that changed while no mirror ran.

use std::time::Duration;

use etcd_keyspace::bytes;

use super::mirrored::{etcd, soon, stored, things};
use super::*;

/// The stored state of a former mirror, and a store that has the same numbers and another value.
#[tokio::test]
async fn h22_an_audit_of_values_finds_what_a_warm_restart_cannot() {
    let etcd = etcd();
    let seed = || (0..10).for_each(|key| _ = etcd.put(format!("/k/c{key}"), "1"));
    seed();
    let journal = in_memory().await;
    let ks = things(bytes()).journal(&journal).restore(&journal);
    let ks = soon("a start", ks.start(etcd.clone())).await.unwrap();
    stored(&journal, 12).await;
    ks.shutdown().await;

    let revision = etcd.revision();
    etcd.wipe();
    etcd.put("/k/a", "other");
    etcd.put("/k/b", "1");
    seed();
    assert_eq!(etcd.revision(), revision);
    // Without a budget connecting compares the newest values only, so that the audit has to find it.
    let ks = things(bytes()).proof_budget(0, 0).audit_values(Duration::from_millis(50));
    let ks = ks.journal(&journal).restore(&journal).start(etcd.clone());
    let ks = soon("a warm start", ks).await.unwrap();
    soon("a new epoch", ks.wait_until(|view| (view.epoch() == 2).then_some(()))).await.unwrap();
    let counters = ks.status().counters;
    assert_eq!((counters.drift, counters.history_changes), (1, 1), "{counters:?}");
    let values: Vec<_> = ks.read().iter().map(|entry| entry.value().clone()).collect();
    assert_eq!((values.len(), &values[0][..], &values[1][..]), (12, &b"other"[..], &b"1"[..]));
    assert!(counters.audits > 0, "{counters:?}");
    ks.shutdown().await;
    // The difference is stored under the new epoch, so that the next start begins with it.
    let (name, mirror) = journal.mirrors().await.unwrap().remove(0);
    assert_eq!(mirror.cursor.epoch, 2);
    let mut reader = journal.state(&name).await.unwrap().unwrap();
    let page = reader.page(10).unwrap();
    assert_eq!(page[0].value, b"other");
}
