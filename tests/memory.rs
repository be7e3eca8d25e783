//! Live memory does not grow with what has happened: events, reconnects, reloads, mirrors that came and
//! went (C9).
//!
//! Counts live bytes of this whole process, so its tests run one after another. Must not measure what the
//! operating system gives to the process: that never shrinks.

#![cfg(feature = "test-util")]

mod support;

use std::time::Duration;

use etcd_client::TxnOp;
use etcd_keyspace::testing::FakeEtcd;
use etcd_keyspace::{EventsOptions, KeySpace, Start};
use peak_alloc::PeakAlloc;
use support::real::{commit, mirror, start};
use support::{EtcdServer, unique_prefix, within};
use tokio::sync::Mutex;

#[global_allocator]
static LIVE: PeakAlloc = PeakAlloc;
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// What buffers of connections and queues may differ by from one quiet moment to another.
const NOISE: usize = 256 << 10;

/// Live bytes once they are as few as they get: tasks that were told to end need a moment.
async fn settled() -> usize {
    let mut fewest = usize::MAX;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        fewest = fewest.min(LIVE.current_usage());
    }
    fewest
}

#[track_caller]
fn assert_steady(what: &str, before: usize, after: usize) {
    assert!(after <= before + NOISE, "{what}: {before} bytes live before, {after} after");
}

/// Observers, a follower that keeps up, and one that never asks, whose history has a bound.
#[tokio::test]
async fn c9_memory_does_not_grow_with_events() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    let prefix = unique_prefix("steady");
    let builder = mirror(&prefix).event_history(1_000, 1 << 20);
    let ks = builder.start(support::real::at(server.endpoint())).await.unwrap();
    let sum = ks.derive(0, |sum, delta, _view, _earlier| *sum += delta.changes().len());
    let mut changes = ks.changes(..);
    let mut never_asks = ks.events(.., Start::Now, EventsOptions::default());

    let mut before = None;
    for round in 0..600_usize {
        let ops = (0..100_usize).map(|n| {
            let key = format!("{prefix}{:04}", (round * 37 + n) % 1_000);
            if (round + n) % 5 == 0 {
                TxnOp::delete(key, None)
            } else {
                TxnOp::put(key, format!("{round:0100}"), None)
            }
        });
        let written = commit(&mut client, ops.collect::<Vec<_>>()).await;
        within("the round is shown", ks.wait_for_revision(written)).await.unwrap();
        within("the follower is told", changes.next()).await.unwrap();
        if round == 100 {
            before = Some(settled().await);
        }
    }
    let events = ks.status().counters.events;
    assert!(events > 45_000, "{events} events came");
    assert_steady("after 50,000 events", before.unwrap(), settled().await);
    assert!(*ks.read().derived(&sum) > 40_000);
    never_asks.next().await.unwrap();
    ks.shutdown().await;
}

/// Reconnects and reloads, each of which makes a stream, a cursor and a new view.
#[tokio::test]
async fn c9_memory_does_not_grow_with_reconnects_and_reloads() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let etcd = FakeEtcd::new();
    for n in 0..2_000 {
        etcd.put(format!("/some/{n:04}"), "a value of some bytes");
    }
    let builder = KeySpace::builder("/some/").unwrap().bytes();
    let quick = Duration::from_millis(1);
    let ks = builder.backoff(quick, quick).start(etcd.clone()).await.unwrap();
    let mut before = 0;
    for round in 0..400_u64 {
        match round % 4 {
            0 => etcd.faults().cut(),
            1 => etcd.faults().end_streams(),
            2 => etcd.faults().cancel("for a test"),
            _ => {
                etcd.faults().down();
                etcd.put("/some/0000", "while away");
                etcd.compact(etcd.revision());
                etcd.faults().up();
            }
        }
        // The write after each fault proves that it is over.
        let written = etcd.put("/some/0001", "after");
        within("it goes on", ks.wait_for_revision(written)).await.unwrap();
        if round == 40 {
            before = settled().await;
        }
    }
    let counters = ks.status().counters;
    assert!(counters.watches > 300 && counters.loads_compacted > 50, "{counters:?}");
    assert_steady("after 400 faults", before, settled().await);
    ks.shutdown().await;
}

/// What a mirror holds goes with it, whether it was stopped or dropped.
#[tokio::test]
async fn c9_memory_does_not_grow_with_mirrors_that_came_and_went() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    let prefix = unique_prefix("gone");
    let ops = (0..100).map(|n| TxnOp::put(format!("{prefix}{n}"), [7; 1_000], None));
    commit(&mut client, ops.collect::<Vec<_>>()).await;
    let mut before = 0;
    for round in 0..120 {
        let ks = start(server.endpoint(), &prefix).await;
        let changes = ks.changes(..);
        let snapshot = ks.snapshot();
        assert_eq!(snapshot.len(), 100);
        if round % 2 == 0 {
            ks.shutdown().await;
        }
        drop((changes, ks));
        if round == 20 {
            before = settled().await;
        }
    }
    assert_steady("after 120 mirrors of 100 kB", before, settled().await);
}
