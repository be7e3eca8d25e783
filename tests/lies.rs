//! Bugs that today's servers do not have any more, on a fake that lies as the old ones did (F2, F4,
//! F35, F38, F40): a client as one would first write it goes wrong, and the mirror beside it does not.
#![cfg(feature = "test-util")]

mod fake;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::time::Duration;

use etcd_keyspace::testing::{Bug, FakeEtcd};
use etcd_keyspace::{Event, KeyRange, KeySpace, Revision, Source, WatchResponse};
use fake::{PREFIX, assert_same, etcd, start, version};
use tokio::time::timeout;

const QUIET: Duration = Duration::from_millis(500);

/// What a first attempt at a mirror does: resume after the cursor, believe every header, and apply
/// what comes.
struct Naive<C, S> {
    connection: C,
    stream: S,
    keys: BTreeMap<Vec<u8>, Vec<u8>>,
    cursor: Revision,
    /// The revision of every event, as a consumer was told.
    told: Vec<Revision>,
}

/// Opens a watch; the types of a source's streams have no public names.
macro_rules! watch {
    ($connection:expr, $start:expr) => {
        $connection.watch(&KeyRange::prefix(PREFIX), $start).await.unwrap()
    };
}

macro_rules! naive {
    ($etcd:expr) => {{
        let connection = $etcd.connect(0).await.unwrap();
        let kvs = $etcd.range(&KeyRange::prefix(PREFIX)).into_iter();
        let cursor = $etcd.revision();
        let stream = watch!(connection, cursor + 1);
        let keys = kvs.map(|kv| (kv.key, kv.value)).collect();
        Naive { connection, stream, keys, cursor, told: Vec::new() }
    }};
}

/// Reads and applies messages until none comes, or one gives reason to stop.
macro_rules! follow {
    ($naive:expr, $stop:expr) => {
        loop {
            let next = poll_fn(|cx| $naive.stream.poll_next(cx));
            match timeout(QUIET, next).await {
                Err(_) => break false,
                Ok(Some(Ok(response))) => {
                    $naive.take(response);
                    if $stop(&$naive.keys, $naive.cursor) {
                        break true;
                    }
                }
                Ok(_) => $naive.stream = watch!($naive.connection, $naive.cursor + 1),
            }
        }
    };
}

impl<C, S> Naive<C, S> {
    fn take(&mut self, response: WatchResponse) {
        for event in response.events {
            self.told.push(event.mod_revision());
            match event {
                Event::Put(kv) => drop(self.keys.insert(kv.key, kv.value)),
                Event::Delete { key, .. } => drop(self.keys.remove(&key)),
            }
        }
        if let Some(header) = response.header.filter(|_| !response.created) {
            self.cursor = header.revision;
        }
    }
}

/// What the store had at a revision.
fn truth(etcd: &FakeEtcd, revision: Revision) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let kvs = etcd.range_at(&KeyRange::prefix(PREFIX), revision).into_iter();
    kvs.map(|kv| (kv.key, kv.value)).collect()
}

fn wrong(etcd: &FakeEtcd) -> impl Fn(&BTreeMap<Vec<u8>, Vec<u8>>, Revision) -> bool + use<> {
    let etcd = etcd.clone();
    move |keys, cursor| *keys != truth(&etcd, cursor)
}

/// At every step the observer sees the truth at what is confirmed, and nothing twice.
fn assert_true_throughout(ks: &KeySpace<Vec<u8>>, etcd: &FakeEtcd) {
    let (etcd, mut last) = (etcd.clone(), 0);
    ks.observe(move |_, view, _| {
        let shown = view.iter().map(|e| (e.key().to_vec(), e.value().clone())).collect();
        assert_eq!(truth(&etcd, view.confirmed()), shown);
        assert!(view.revision() > last);
        last = view.revision();
    });
}

async fn assert_right(ks: &KeySpace<Vec<u8>>, etcd: &FakeEtcd) {
    assert_same(ks, etcd).await;
    assert!(ks.status().poisoned_observers.is_empty(), "{:?}", ks.status());
}

#[tokio::test(start_paused = true)]
async fn f2_b28_t4_progress_that_overtakes_events_releases_nobody_early() {
    let etcd = etcd();
    etcd.set_version(version("3.5.1"));
    etcd.faults().bug(Bug::EarlyProgress, true);
    etcd.set_batch_revisions(1);
    let ks = start(&etcd).await;
    assert_true_throughout(&ks, &etcd);
    let mut naive = naive!(etcd);
    // Both miss fifty revisions, and ask for progress as soon as they are back.
    etcd.faults().down();
    for n in 0..50 {
        etcd.put(format!("/k/{n}"), "1");
    }
    let revision = etcd.revision();
    etcd.faults().up();
    let waiting = tokio::spawn({
        let (ks, etcd) = (ks.clone(), etcd.clone());
        async move {
            let view = ks.read_at(revision).await.unwrap();
            assert_eq!(view.len(), truth(&etcd, view.confirmed()).len(), "released early");
        }
    });
    naive.stream = watch!(naive.connection, naive.cursor + 1);
    assert!(naive.stream.request_progress());
    assert!(follow!(naive, wrong(&etcd)), "the naive client believes the notification");
    waiting.await.unwrap();
    assert_right(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn f4_b8_a_deletion_at_the_compacted_revision_is_lost_to_the_naive_only() {
    let etcd = etcd();
    etcd.set_version(version("3.5.1"));
    etcd.faults().bug(Bug::LostDelete, true);
    etcd.put("/k/ghost", "1");
    let ks = start(&etcd).await;
    assert_true_throughout(&ks, &etcd);
    let mut naive = naive!(etcd);
    etcd.faults().down();
    let deleted = etcd.delete("/k/ghost");
    etcd.compact(deleted);
    etcd.faults().up();
    naive.stream = watch!(naive.connection, naive.cursor + 1);
    etcd.put("/k/later", "1");
    follow!(naive, |_: &BTreeMap<_, _>, _| false);
    assert!(naive.keys.contains_key(b"/k/ghost".as_slice()), "the ghost");
    assert_right(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn f35_b19_a_watch_that_lives_and_says_nothing_silences_the_naive_only() {
    let etcd = etcd();
    let ks = start(&etcd).await;
    assert_true_throughout(&ks, &etcd);
    let mut naive = naive!(etcd);
    follow!(naive, |_: &BTreeMap<_, _>, _| false);
    etcd.faults().mute();
    for n in 0..10 {
        etcd.put(format!("/k/{n}"), "1");
    }
    follow!(naive, |_: &BTreeMap<_, _>, _| false);
    assert!(naive.keys.is_empty(), "no error, no event, for ever");
    assert_right(&ks, &etcd).await;
    assert!(ks.status().counters.watches >= 2);
}

#[tokio::test(start_paused = true)]
async fn f38_b7_a_member_that_goes_back_in_time_tells_the_naive_twice() {
    let etcd = etcd();
    etcd.set_version(version("3.5.1"));
    etcd.faults().bug(Bug::BackInTime, true);
    let ks = start(&etcd).await;
    assert_true_throughout(&ks, &etcd);
    let mut naive = naive!(etcd);
    etcd.put("/k/a", "1");
    assert_right(&ks, &etcd).await;
    follow!(naive, |_: &BTreeMap<_, _>, _| false);
    etcd.faults().hold_back();
    etcd.put("/elsewhere", "1");
    etcd.faults().catch_up();
    etcd.put("/k/b", "1");
    follow!(naive, |_: &BTreeMap<_, _>, _| false);
    assert!(!naive.told.is_sorted_by(|a, b| a < b), "{:?}", naive.told);
    assert_right(&ks, &etcd).await;
    assert!(ks.status().counters.duplicates > 0);
    assert_eq!(ks.status().counters.loads, 1);
}

#[tokio::test(start_paused = true)]
async fn f40_b9_a_silent_gap_misleads_the_naive_only() {
    let etcd = etcd();
    etcd.set_version(version("3.5.1"));
    etcd.faults().bug(Bug::SilentGap, true);
    etcd.set_queue_responses(2);
    for key in ["/k/a", "/k/b", "/k/c"] {
        etcd.put(key, "1");
    }
    let ks = start(&etcd).await;
    let mut naive = naive!(etcd);
    assert_right(&ks, &etcd).await;
    follow!(naive, |_: &BTreeMap<_, _>, _| false);
    // Nobody reads: in a stopped process, or behind a slow network.
    for n in 0..10 {
        etcd.put("/k/a", format!("{n}"));
    }
    etcd.delete("/k/b");
    etcd.compact(etcd.revision());
    etcd.put("/k/c", "2");
    follow!(naive, |_: &BTreeMap<_, _>, _| false);
    assert!(wrong(&etcd)(&naive.keys, naive.cursor), "{:?}", naive.told);
    // No later event shows what it lacks: it finds out that something was compacted.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_right(&ks, &etcd).await;
    let counters = ks.status().counters;
    assert_eq!((counters.loads, counters.compactions), (2, 1), "the mirror was misled first");
}
