//! The bars about changing, and about remembering what was (S6 to S11).
//!
//! Owns batches on the key space and on what it is compared with, snapshots and differences.

use std::hint::black_box;
use std::time::Duration;

use etcd_keyspace::{KeySpace, Writer};

use crate::contenders::{self, Flat};
use crate::data::{Dataset, Shape, Writes};
use crate::report::{ROUNDS, Report, median, show, time};

pub(crate) type Store = (KeySpace<Vec<u8>>, Writer<Vec<u8>>);

/// One batch on the key space with a snapshot held through it; the snapshot's end is counted too.
pub(crate) fn apply(
    store: &mut Store,
    writes: &mut Writes,
    events: usize,
    snapshot: bool,
) -> Duration {
    let batch = writes.batch(events);
    let held = snapshot.then(|| store.0.snapshot());
    time(|| {
        store.1.apply(batch.responses).expect("a continuous batch");
        drop(held);
    })
}

/// The work of one contender on batches of its own sequence.
fn ordered_batches(data: &Dataset, events: usize) -> impl FnMut() -> (Duration, Duration) {
    let map = contenders::ordered(data);
    let mut writes = Writes::new(Shape::Plain, data, 5);
    move || {
        let batch = writes.batch(events);
        let mut held = Duration::ZERO;
        let all = time(|| held = contenders::apply_ordered(&map, batch.ops));
        (all, held)
    }
}

pub(crate) fn batches(report: &mut Report, data: &Dataset, small: usize) {
    if !report.wants(&["S6", "S6b", "S7", "S8", "S9"]) {
        return;
    }
    let mut store = contenders::key_space(data);
    let mut writes = Writes::new(Shape::Plain, data, 5);
    let mut ordered = ordered_batches(data, 1_000);
    report.compare(
        "S6",
        "batch of 1,000, all work, a snapshot alive, against BTreeMap in the lock",
        2.0,
        || apply(&mut store, &mut writes, 1_000, true),
        || ordered().0,
    );
    report.compare(
        "S6b",
        "the same with no snapshot alive",
        1.6,
        || apply(&mut store, &mut writes, 1_000, false),
        || ordered().0,
    );
    report.compare(
        "S7",
        "batch of 1,000, time the write lock is held",
        0.005,
        || {
            apply(&mut store, &mut writes, 1_000, true);
            store.0.stats().last_write_hold
        },
        || ordered().1,
    );
    if report.wants(&["S8"]) {
        single_events(report, data, &mut store, &mut writes);
    }
    if report.wants(&["S9"]) {
        holds_by_keys(report, small, &mut store, &mut writes);
    }
    if report.wants(&["S6"]) {
        other_sizes(data, &mut store, &mut writes);
    }
}

fn single_events(report: &mut Report, data: &Dataset, store: &mut Store, writes: &mut Writes) {
    let mut flat = Flat::new(data);
    let mut flat_writes = Writes::new(Shape::Plain, data, 6);
    report.compare(
        "S8",
        "batch of 1, all work, against a flat rebuild",
        0.002,
        || apply(store, writes, 1, true),
        || {
            let batch = flat_writes.batch(1);
            time(|| flat.apply(batch.ops))
        },
    );
    let words = vec![1_usize; flat.len()];
    let mut copy = Vec::with_capacity(words.len());
    let moved = (0..ROUNDS).map(|_| {
        copy.clear();
        time(|| copy.extend_from_slice(black_box(&words))).as_secs_f64()
    });
    println!("     moving as many pointers and nothing else: {}", show(median(moved.collect())));
}

fn holds_by_keys(report: &mut Report, small: usize, store: &mut Store, writes: &mut Writes) {
    let few = Dataset::new(Shape::Plain, small, 7);
    let mut few_store = contenders::key_space(&few);
    let mut few_writes = Writes::new(Shape::Plain, &few, 8);
    report.compare(
        "S9",
        "write-lock hold of a 1,000 batch, against the same at few keys",
        2.0,
        || {
            apply(store, writes, 1_000, true);
            store.0.stats().last_write_hold
        },
        || {
            apply(&mut few_store, &mut few_writes, 1_000, true);
            few_store.0.stats().last_write_hold
        },
    );
}

/// What is printed beside the bars: other sizes of batches, and a persistent map.
fn other_sizes(data: &Dataset, store: &mut Store, writes: &mut Writes) {
    for events in [1, 10, 100, 10_000] {
        let ours =
            median((0..ROUNDS).map(|_| apply(store, writes, events, true).as_secs_f64()).collect());
        let mut ordered = ordered_batches(data, events);
        let theirs = median((0..ROUNDS).map(|_| ordered().0.as_secs_f64()).collect());
        println!("     batch of {events}: {} against BTreeMap {}", show(ours), show(theirs));
    }
    let map = contenders::persistent(data);
    let mut other = Writes::new(Shape::Plain, data, 9);
    let taken = (0..ROUNDS).map(|_| {
        let batch = other.batch(1_000);
        let held = map.read().clone();
        time(|| {
            contenders::apply_persistent(&map, batch.ops);
            drop(held);
        })
        .as_secs_f64()
    });
    println!("     batch of 1,000, imbl::OrdMap: {}", show(median(taken.collect())));
}

pub(crate) fn snapshots(report: &mut Report, data: &Dataset, small: usize) {
    if !report.wants(&["S10", "S11"]) {
        return;
    }
    let mut store = contenders::key_space(data);
    let few = contenders::key_space(&Dataset::new(Shape::Plain, small, 7));
    let take = |ks: &KeySpace<Vec<u8>>| {
        time(|| {
            for _ in 0..10_000 {
                black_box(ks.snapshot());
            }
        }) / 10_000
    };
    report.compare(
        "S10",
        "snapshot(), against the same at few keys",
        2.0,
        || take(&store.0),
        || take(&few.0),
    );
    let mut writes = Writes::new(Shape::Plain, data, 11);
    let older = store.0.snapshot();
    apply(&mut store, &mut writes, 1_000, false);
    let newer = store.0.snapshot();
    report.compare(
        "S11",
        "diff of snapshots 1,000 changes apart, against comparing all entries",
        0.05,
        || {
            time(|| {
                black_box(newer.diff(&older));
            })
        },
        || {
            time(|| {
                let pairs = newer.iter().zip(older.iter());
                black_box(
                    pairs
                        .filter(|(a, b)| a.mod_revision() != b.mod_revision() || a.key() != b.key())
                        .count(),
                );
            })
        },
    );
}

/// How long the write lock is held, and what a batch costs in all, at very different sizes.
pub(crate) fn holds_by_size() {
    for keys in [10_000, 100_000, 1_000_000, 4_000_000] {
        let data = Dataset::new(Shape::Plain, keys, 21);
        let mut writes = Writes::new(Shape::Plain, &data, 22);
        let mut store = contenders::into_key_space(data);
        let rounds = (0..31).map(|_| {
            let all = apply(&mut store, &mut writes, 1_000, true);
            (store.0.stats().last_write_hold.as_secs_f64(), all.as_secs_f64())
        });
        let (holds, all): (Vec<f64>, Vec<f64>) = rounds.unzip();
        let (hold, all) = (show(median(holds)), show(median(all)));
        println!("     {keys} keys, batch of 1,000: write lock held {hold}, all work {all}");
    }
}
