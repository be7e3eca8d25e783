//! A thousand followers of a real etcd under full load: a change wakes those it touches and no others.
//!
//! Counts only; how long a batch takes with and without followers is a bench (`E8`). Must not measure
//! time.

mod support;

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use etcd_client::TxnOp;
use etcd_keyspace::{Changes, Delta, Entry, KeyRange, Revision};
use support::real::{Bytes, at, commit, mirror, put};
use support::verify::equals_etcd;
use support::{EtcdServer, within};
use tokio::sync::watch;
use tokio::task::JoinSet;

const PREFIX: &str = "/many/";
const KEYS: usize = 100_000;
const FOLLOWERS: usize = 1_000;
/// Each follower's range lies at the start of as many keys of its own, of which it follows these.
const STRIDE: usize = KEYS / FOLLOWERS;
const FOLLOWED: usize = 10;
const WRITERS: usize = 32;
const WRITES: usize = 250;

fn key(n: usize) -> String {
    format!("{PREFIX}{n:06}")
}

fn range_of(follower: usize) -> KeyRange {
    let first = follower * STRIDE;
    KeyRange::bytes(key(first), key(first + FOLLOWED))
}

/// Whose range a key lies in.
fn follower_of(key: &[u8]) -> Option<usize> {
    let number: usize = std::str::from_utf8(&key[PREFIX.len()..]).ok()?.parse().ok()?;
    (number % STRIDE < FOLLOWED).then_some(number / STRIDE)
}

/// Keys that are written: within the ranges of every third follower, and beside all ranges; the others
/// are never touched.
fn written(writer: usize, turn: usize) -> String {
    let mixed = (writer * WRITES + turn).wrapping_mul(0x9e37_79b9);
    let follower = mixed / 7 % FOLLOWERS;
    let offset = match follower % 3 {
        0 => mixed % STRIDE,
        _ => FOLLOWED + mixed % (STRIDE - FOLLOWED),
    };
    key(follower * STRIDE + offset)
}

async fn fill(server: &EtcdServer) {
    let mut fills = JoinSet::new();
    for part in 0..8 {
        let mut client = server.client().await;
        fills.spawn(async move {
            for chunk in (0..KEYS / 100).skip(part).step_by(8) {
                let keys = chunk * 100..(chunk + 1) * 100;
                let puts = keys.map(|n| TxnOp::put(key(n), "0", None)).collect::<Vec<_>>();
                commit(&mut client, puts).await;
            }
        });
    }
    while let Some(done) = fills.join_next().await {
        done.unwrap();
    }
}

/// Many writers at once, as fast as they can; the greatest revision.
async fn write(server: &EtcdServer) -> Revision {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let mut client = server.client().await;
        writers.spawn(async move {
            let mut last = 0;
            for turn in 0..WRITES {
                last = put(&mut client, written(writer, turn), turn.to_string()).await;
            }
            last
        });
    }
    let mut last = 0;
    while let Some(revision) = writers.join_next().await {
        last = last.max(revision.unwrap());
    }
    last
}

/// What one follower was told, folded, and how often it was woken for that.
struct Told {
    entries: Vec<Arc<Entry<Vec<u8>>>>,
    items: u64,
    wake_ups: u64,
}

fn fold(entries: &mut Vec<Arc<Entry<Vec<u8>>>>, delta: &Delta<Vec<u8>>) {
    for change in delta {
        let place = entries.binary_search_by(|entry| entry.key().cmp(change.key()));
        match (place, change.new()) {
            (Ok(at), Some(new)) => entries[at] = Arc::clone(new),
            (Err(at), Some(new)) => entries.insert(at, Arc::clone(new)),
            (Ok(at), None) => drop(entries.remove(at)),
            (Err(_), None) => panic!("{change:?} was never there"),
        }
    }
}

/// Takes every item it is woken for, until it is told that there will be no more to wait for.
async fn follow(mut changes: Changes<Vec<u8>>, mut stop: watch::Receiver<bool>) -> Told {
    let entries = changes.entries().iter().cloned().collect();
    let mut told = Told { entries, items: 0, wake_ups: 0 };
    loop {
        let delta = tokio::select! {
            delta = changes.next() => delta.unwrap(),
            stopped = stop.wait_for(|stop| *stop) => {
                stopped.unwrap();
                break;
            }
        };
        fold(&mut told.entries, &delta);
        told.items += 1;
    }
    // What it has not been run for yet is there to be taken, without a further wake-up.
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Ready(delta) = pin!(changes.next()).poll(&mut context) {
        fold(&mut told.entries, &delta.unwrap());
        told.items += 1;
    }
    told.wake_ups = changes.wake_ups();
    told
}

/// Counts for each follower the batches that touch its range.
fn count_batches(ks: &Bytes) -> Arc<Mutex<Vec<u64>>> {
    let counts = Arc::new(Mutex::new(vec![0; FOLLOWERS]));
    let into = Arc::clone(&counts);
    let mut loaded = false;
    ks.observe(move |delta, _, _| {
        // The first is everything there is, at the registration.
        if std::mem::replace(&mut loaded, true) {
            let touched: BTreeSet<_> =
                delta.iter().filter_map(|change| follower_of(change.key())).collect();
            let mut counts = into.lock().unwrap();
            touched.into_iter().for_each(|follower| counts[follower] += 1);
        }
    });
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c8_a_change_wakes_the_followers_of_its_key_and_no_others() {
    let server = EtcdServer::start().await.unwrap();
    fill(&server).await;
    let ks = within("the load", mirror(PREFIX).start(at(server.endpoint()))).await.unwrap();
    assert_eq!(ks.read().len(), KEYS);
    let batches = count_batches(&ks);
    let (stop, stopped) = watch::channel(false);
    let mut followers = JoinSet::new();
    for follower in 0..FOLLOWERS {
        let mut changes = ks.changes(range_of(follower));
        // The first item is there, so nobody is woken for it.
        let first = changes.next().await.unwrap();
        assert_eq!(first.len(), FOLLOWED);
        let stopped = stopped.clone();
        followers.spawn(async move { (follower, follow(changes, stopped).await) });
    }
    assert_eq!(ks.stats().followers, FOLLOWERS);
    let last = write(&server).await;
    within("the last write", ks.wait_for_revision(last)).await.unwrap();
    // Followers are woken before those who wait, so all wake-ups there will be have been.
    stop.send(true).unwrap();
    let mut all = Vec::new();
    while let Some(told) = followers.join_next().await {
        all.push(told.unwrap());
    }
    let batches = batches.lock().unwrap().clone();
    let view = ks.snapshot();
    for (follower, told) in all {
        let (touched, woken) = (batches[follower], told.wake_ups);
        assert!(woken <= touched, "{follower}: woken {woken} times by {touched} batches");
        assert!(told.items <= touched, "{follower}: {} items of {touched} batches", told.items);
        assert_eq!(told.items > 0, touched > 0, "{follower}");
        let shown = view.range(range_of(follower));
        assert!(
            shown.iter().map(Arc::as_ptr).eq(told.entries.iter().map(Arc::as_ptr)),
            "{follower}"
        );
    }
    let untouched = batches.iter().filter(|batches| **batches == 0).count();
    let touches: u64 = batches.iter().sum();
    assert!(
        untouched >= FOLLOWERS / 2 && touches > 100,
        "{untouched} untouched, {touches} touches"
    );
    equals_etcd(&ks, &mut server.client().await, PREFIX).await;
    assert_eq!(ks.stats().followers, 0, "whoever ended left nothing behind");
}
