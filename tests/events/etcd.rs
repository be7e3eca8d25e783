//! Following every event through what a mirror goes through, on the fake etcd and a paused clock.

use std::time::Duration;

use etcd_keyspace::testing::FakeEtcd;
use etcd_keyspace::{
    EventKind, Events, EventsOptions, KeyEvent, KeySpace, Start, SyncReason, SyncSet,
};
use tokio::time::{Instant, timeout};

use crate::fake::{builder, etcd, start};

const SECOND: Duration = Duration::from_secs(1);

fn follow(ks: &KeySpace<Vec<u8>>) -> Events<Vec<u8>> {
    ks.events(.., Start::Now, EventsOptions::default())
}

async fn sync(events: &mut Events<Vec<u8>>) -> SyncSet<Vec<u8>> {
    match events.next().await.unwrap() {
        KeyEvent::Sync(set) => set,
        other => panic!("{other:?}"),
    }
}

/// A compaction that passes the mirror by while it is away.
async fn lose_history(etcd: &FakeEtcd, ks: &KeySpace<Vec<u8>>, mut write: impl FnMut(&FakeEtcd)) {
    let loads = ks.status().counters.loads;
    etcd.faults().down();
    write(etcd);
    etcd.compact(etcd.revision());
    etcd.faults().up();
    while ks.status().counters.loads == loads {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn mi6_mi16_breaks_are_not_told_and_nothing_is_lost_or_told_twice() {
    let etcd = etcd();
    let ks = start(&etcd).await;
    let mut events = follow(&ks);
    sync(&mut events).await;
    for round in 0..40 {
        let revision = etcd.put("/k/a", round.to_string());
        match round % 4 {
            0 => etcd.faults().cut(),
            1 => etcd.faults().end_streams(),
            2 => etcd.faults().cancel(""),
            _ => etcd.faults().duplicate(3),
        }
        let event = events.next().await.unwrap();
        let expected = if round == 0 { EventKind::Added } else { EventKind::Updated };
        assert_eq!((event.kind(), event.revision()), (expected, revision), "{round}");
    }
    let counters = ks.status().counters;
    assert!(counters.watches > 10 && counters.loads == 1, "{counters:?}");
}

#[tokio::test(start_paused = true)]
async fn mi7_mi8_lost_history_is_told_as_a_sync_with_the_deletions() {
    let etcd = etcd();
    for key in ["/k/a", "/k/b", "/k/c"] {
        etcd.put(key, "1");
    }
    let ks = start(&etcd).await;
    let (mut events, mut late) = (follow(&ks), follow(&ks));
    sync(&mut events).await;
    lose_history(&etcd, &ks, |etcd| {
        etcd.delete("/k/b");
        etcd.put("/k/c", "2");
    })
    .await;
    let set = sync(&mut events).await;
    let told: Vec<_> = set.difference().unwrap().iter().map(|c| format!("{c:?}")).collect();
    assert_eq!(told, ["Removed(/k/b)", "Updated(/k/c)"]);
    assert_eq!((set.reason(), set.entries().len()), (SyncReason::Reload, 2));
    // Whoever was not told anything before begins with what is there.
    assert_eq!(sync(&mut late).await.reason(), SyncReason::Start);
    for revision in [etcd.put("/k/d", "1"), etcd.put("/k/d", "2")] {
        assert_eq!(events.next().await.unwrap().revision(), revision);
        assert_eq!(late.next().await.unwrap().revision(), revision);
    }
}

#[tokio::test(start_paused = true)]
async fn mi5_a_restored_backup_begins_a_new_epoch_with_a_sync() {
    let etcd = etcd();
    let then = etcd.put("/k/a", "1");
    etcd.put("/k/b", "1");
    let ks = start(&etcd).await;
    let mut events = follow(&ks);
    sync(&mut events).await;
    let token = events.token();
    etcd.restore(then);
    let set = sync(&mut events).await;
    assert_eq!((set.reason(), set.epoch()), (SyncReason::NewEpoch, 2));
    // The value of the other key is equal in the restored store, so its entry is kept.
    let difference = set.difference().map(|all| format!("{all:?}"));
    assert_eq!(difference.as_deref(), Some("[Removed(/k/b)]"));
    // To go on from a place in the old history is not possible.
    let mut again = ks.events(.., Start::after(token), EventsOptions::default());
    assert_eq!(sync(&mut again).await.reason(), SyncReason::NewEpoch);
    let revision = etcd.put("/k/b", "2");
    assert_eq!(events.next().await.unwrap().revision(), revision);
    assert_eq!(again.next().await.unwrap().revision(), revision);
}

#[tokio::test(start_paused = true)]
async fn mi10_a_periodic_sync_is_off_by_default_and_takes_its_place_among_the_events() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    let options = EventsOptions::default().resync(60 * SECOND);
    let (mut plain, mut events) = (follow(&ks), ks.events(.., Start::Now, options));
    sync(&mut plain).await;
    sync(&mut events).await;
    assert!(timeout(600 * SECOND, plain.next()).await.is_err());
    let begin = Instant::now();
    for round in 0..4 {
        let set = sync(&mut events).await;
        let expected = if round == 0 { Duration::ZERO } else { 60 * SECOND * round };
        let passed = begin.elapsed();
        assert!(passed >= expected && passed < expected + SECOND, "{round}: {passed:?}");
        assert_eq!((set.reason(), set.entries().len()), (SyncReason::Periodic, 1));
    }
    // A consumer that is late is told first what came before.
    let written = [etcd.put("/k/a", "2"), etcd.put("/k/b", "1")];
    ks.wait_for_revision(written[1]).await.unwrap();
    tokio::time::sleep(120 * SECOND).await;
    for revision in written {
        assert_eq!(events.next().await.unwrap().revision(), revision);
    }
    let set = sync(&mut events).await;
    assert_eq!((set.reason(), set.revision()), (SyncReason::Periodic, written[1]));
}

/// A consumer that never reads delays nobody, and its history stays within the bound.
#[tokio::test(start_paused = true)]
async fn mi11_c9_a_consumer_that_never_reads_holds_nothing_up() {
    let etcd = etcd();
    let ks = builder().event_history(100, 1 << 20).start(etcd.clone()).await.unwrap();
    let mut events = follow(&ks);
    sync(&mut events).await;
    for n in 0..5_000 {
        let revision = etcd.put("/k/a", n.to_string());
        if n % 50 == 49 {
            ks.wait_for_revision(revision).await.unwrap();
            assert!(ks.stats().kept_events <= 100);
        }
    }
    assert_eq!(sync(&mut events).await.reason(), SyncReason::Behind);
    let counters = ks.status().counters;
    assert_eq!((counters.watches, counters.loads), (1, 1), "{counters:?}");
}

/// The newest step is there for whoever is not behind, also when it alone is beyond the bound.
#[tokio::test(start_paused = true)]
async fn mi11_a_burst_beyond_the_bound_is_told_to_whoever_is_not_behind() {
    let etcd = etcd();
    let ks = builder().event_history(100, 1 << 20).start(etcd.clone()).await.unwrap();
    let mut events = follow(&ks);
    sync(&mut events).await;
    etcd.faults().down();
    let all: Vec<_> = (0..500).map(|n| etcd.put("/k/a", n.to_string())).collect();
    etcd.faults().up();
    for revision in all {
        assert_eq!(events.next().await.unwrap().revision(), revision);
    }
}

/// Starting before anything is loaded waits for it.
#[tokio::test(start_paused = true)]
async fn mi2_a_follower_that_is_there_before_the_load_begins_with_it() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let (ks, mirror) = builder().build(etcd.clone());
    let (mut now, mut after) = (follow(&ks), ks.events(.., Start::after(1), Default::default()));
    assert!(timeout(SECOND, now.next()).await.is_err());
    tokio::spawn(mirror.run());
    assert_eq!(sync(&mut now).await.entries().len(), 1);
    assert_eq!(sync(&mut after).await.entries().len(), 1, "no history from before the load");
    let revision = etcd.put("/k/a", "2");
    assert_eq!(now.next().await.unwrap().revision(), revision);
    assert_eq!(after.next().await.unwrap().revision(), revision);
}
