//! Own writes to a store that was restored: by header, and what a plain revision cannot know.

use etcd_keyspace::Token;

use super::*;

/// A mirror at revision 101 of a store that is restored to revision 1 during an outage, with the backoff
/// at its greatest, and the header of a write to the restored store.
async fn restored() -> (FakeEtcd, KeySpace<Vec<u8>>, Header) {
    let etcd = etcd();
    for n in 0..100 {
        etcd.put("/k/a", n.to_string());
    }
    let ks = start(&etcd).await;
    etcd.faults().down();
    tokio::time::sleep(60_000 * MS).await;
    etcd.restore(1);
    etcd.faults().up();
    etcd.put("/k/new", "7");
    let header = etcd.header();
    (etcd, ks, header)
}

#[tokio::test(start_paused = true)]
async fn h51_a_write_to_a_restored_store_is_not_taken_for_seen() {
    let (etcd, ks, header) = restored().await;
    assert_ne!(ks.status().state, State::Live);
    let token: Token = Token::from(header).to_string().parse().unwrap();
    let (waited, read, snapshot) =
        tokio::join!(ks.wait_for_revision(header), ks.read_at(token), ks.snapshot_at(header));
    for ended in [waited.map(drop), read.map(drop), snapshot.map(drop)] {
        assert!(matches!(ended, Err(WaitError::HistoryChanged { was: 1, now: 2 })), "{ended:?}");
    }
    // A second wait is met by the new history.
    assert!(ks.read_at(token).await.unwrap().contains("/k/new"));
    assert_same(&ks, &etcd).await;
}

/// Documented: a plain number does not distinguish the histories.
#[tokio::test(start_paused = true)]
async fn h51_a_plain_revision_is_met_by_the_old_history() {
    let (_etcd, ks, header) = restored().await;
    assert_eq!(ks.wait_for_revision(header.revision).await.unwrap(), 101);
    assert!(!ks.read().contains("/k/new"));
}

/// All waits of an outage share one read after it.
#[tokio::test(start_paused = true)]
async fn h51_after_a_break_a_header_is_met_by_one_shared_read() {
    let etcd = etcd();
    let revision = etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    let header = etcd.header();
    assert_eq!(ks.wait_for_revision(header).await.unwrap(), ks.read().confirmed());
    etcd.faults().down();
    reaches(&ks, State::Reconnecting).await;
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let ks = ks.clone();
            tokio::spawn(async move { ks.wait_for_revision(header).await })
        })
        .collect();
    let during = timeout(10_000 * MS, ks.wait_for_revision(header)).await;
    assert!(during.is_err(), "it cannot be checked: {during:?}");
    assert_eq!(ks.wait_for_revision(revision).await.unwrap(), ks.read().confirmed());
    let before = etcd.counts().counts;
    etcd.faults().up();
    for wait in waiting {
        assert!(wait.await.unwrap().unwrap() >= revision);
    }
    let asked = etcd.counts().counts - before;
    assert!(asked < 20, "{asked} requests");
}
