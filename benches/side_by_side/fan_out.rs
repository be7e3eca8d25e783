//! The bars about following (F1 to F3): what followers cost the writer, and themselves.
//!
//! Owns idle followers beside a batch, the difference a follower takes, and validators. Must not use a
//! runtime: what is asked is there.

use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use etcd_keyspace::{Changes, Delta, KeyRange, KeySpace};

use crate::changes::apply;
use crate::contenders;
use crate::data::{Dataset, Shape, Writes};
use crate::reads::read;
use crate::report::{ROUNDS, Report, median, show, time};

/// Followers of small ranges.
const FOLLOWERS: usize = 10_000;
/// Entries of the range of a validator.
const RANGE: usize = 10_000;

/// Counts wake-ups, as a runtime would queue a task.
#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn ask(changes: &mut Changes<Vec<u8>>, waker: &Waker) -> Option<Delta<Vec<u8>>> {
    match pin!(changes.next()).poll(&mut Context::from_waker(waker)) {
        Poll::Ready(delta) => Some(delta.expect("the key space goes on")),
        Poll::Pending => None,
    }
}

/// The range from one rank up to another.
fn ranks(ks: &KeySpace<Vec<u8>>, from: usize, to: usize) -> KeyRange {
    let view = ks.read();
    let key = |rank: usize| view.nth(rank).map(|entry| entry.key().to_vec());
    KeyRange::bytes(key(from).unwrap_or_default(), key(to).unwrap_or_default())
}

/// Takes what there is, so that it waits.
fn wait(changes: &mut Changes<Vec<u8>>, waker: &Waker) {
    while ask(changes, waker).is_some() {}
}

/// Followers of disjoint ranges that wait.
fn followers(ks: &KeySpace<Vec<u8>>, count: usize, waker: &Waker) -> Vec<Changes<Vec<u8>>> {
    let stride = ks.read().len() / (count + 1);
    let begin = |at: usize| {
        let mut changes = ks.changes(ranks(ks, at * stride, at * stride + stride.min(8)));
        wait(&mut changes, waker);
        changes
    };
    (0..count).map(begin).collect()
}

/// F1: a batch while ten thousand wait, and whom it touches is woken, against a batch nobody follows.
fn idle_followers(report: &mut Report, data: &Dataset) {
    if !report.wants(&["F1"]) {
        return;
    }
    let mut followed = contenders::key_space(data);
    let mut alone = contenders::key_space(data);
    let mut writes = [(); 2].map(|()| Writes::new(Shape::Plain, data, 31));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut waiting = followers(&followed.0, FOLLOWERS, &waker);
    let [with, without] = &mut writes;
    report.compare(
        "F1",
        "batch of 1,000 with 10,000 idle followers, against none",
        2.0,
        || {
            let taken = apply(&mut followed, with, 1_000, false);
            // Those who were woken take their item, and wait again.
            waiting.iter_mut().for_each(|changes| wait(changes, &waker));
            taken
        },
        || apply(&mut alone, without, 1_000, false),
    );
    let woken = woken.0.load(Ordering::Relaxed);
    println!("     {woken} wake-ups in {} batches", ROUNDS + 1);
}

/// F2: an item of a follower of everything, against the difference of two snapshots.
fn differences(report: &mut Report, data: &Dataset) {
    if !report.wants(&["F2"]) {
        return;
    }
    let mut stores = [(); 2].map(|()| contenders::key_space(data));
    let mut writes = [(); 2].map(|()| Writes::new(Shape::Plain, data, 32));
    let ([followed, other], [ours, theirs]) = (&mut stores, &mut writes);
    let mut changes = followed.0.changes(..);
    wait(&mut changes, Waker::noop());
    report.compare(
        "F2",
        "an item of `changes` after 1,000 changes, against Snapshot::diff",
        1.2,
        || {
            apply(followed, ours, 1_000, false);
            time(|| drop(black_box(ask(&mut changes, Waker::noop()))))
        },
        || {
            let older = other.0.snapshot();
            apply(other, theirs, 1_000, false);
            time(|| {
                let newer = other.0.snapshot();
                black_box(newer.diff(&older));
                // A follower lets go of what it was told before, too.
                drop(older);
            })
        },
    );
}

/// F3: whether a range is what somebody has seen, against reading key,
/// revision and value of each entry, as anything that compares them would.
fn validators(report: &mut Report, data: &Dataset) {
    if !report.wants(&["F3"]) {
        return;
    }
    let mut store = contenders::key_space(data);
    let mut writes = Writes::new(Shape::Plain, data, 33);
    let range = ranks(&store.0, RANGE, 2 * RANGE);
    let ks = store.0.clone();
    let iterate = || {
        let view = ks.read();
        read(view.range(range.clone()))
    };
    let asked = || ks.read().validator(range.clone());
    report.compare(
        "F3",
        "validator of 10,000 entries that did not change, against reading them",
        0.2,
        || time(|| _ = black_box(asked())),
        || time(|| _ = black_box(iterate())),
    );
    let lean = (0..ROUNDS).map(|_| {
        let sum = || ks.read().range(range.clone()).iter().map(|e| e.mod_revision()).sum::<i64>();
        time(|| _ = black_box(sum())).as_secs_f64()
    });
    println!("     reading their revisions only: {}", show(median(lean.collect())));
    let after_a_batch = (0..ROUNDS).map(|_| {
        apply(&mut store, &mut writes, 1_000, false);
        time(|| _ = black_box(asked())).as_secs_f64()
    });
    println!("     after a batch of 1,000 anywhere: {}", show(median(after_a_batch.collect())));
}

pub(crate) fn run(report: &mut Report, keys: usize) {
    let data = Dataset::new(Shape::Plain, keys, 1);
    idle_followers(report, &data);
    differences(report, &data);
    validators(report, &data);
}
