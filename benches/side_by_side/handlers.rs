//! The bars about reads in request handlers: single look-ups, each with its own view (R1, R2), the same on two
//! threads (R3), and many keys at once (R5).
//!
//! All contenders are measured in turn in slices of a few milliseconds at most; a bar compares the best slices.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::RwLock;

use crate::data::{Dataset, Shape, Writes};
use crate::items::{self, Hash, Tree, look_up, warm, weight, weight_of};
use crate::reads::LOOKUPS;
use crate::report::{Report, shortest, show, time};

/// Look-ups in one slice.
const SLICE: usize = 5_000;
/// Keys that R5 asks for at once.
const MANY: usize = 100;
/// How long the threads of R3 run in one slice.
const THREADS_SLICE: Duration = Duration::from_millis(10);

/// The limits at a number of keys: R1, R2, and both against a `BTreeMap`.
fn limits(keys: usize) -> [f64; 3] {
    match keys {
        ..=1_000 => [1.4, 1.6, 0.70],
        1_001..=10_000 => [1.2, 1.4, 0.55],
        _ => [1.0, 1.0, 0.60],
    }
}

/// The best slice of each contender at `keys` keys, in seconds per look-up: `snapshot()`, `read()`,
/// `ArcSwap<HashMap>`, `RwLock<HashMap>`, `ArcSwap<BTreeMap>`, and the last one built in key order.
fn single_gets(keys: usize, slices: usize) -> [f64; 6] {
    let data = Dataset::new(Shape::Plain, keys, 1);
    let hits = Writes::new(Shape::Plain, &data, 2).hits(LOOKUPS);
    let windows: Vec<&[Vec<u8>]> = hits.chunks(SLICE).collect();
    let (ks, _writer) = items::key_space(&data);
    let hash_swap = ArcSwap::from_pointee(items::map::<Hash>(&data));
    let hash_lock = RwLock::new(items::map::<Hash>(&data));
    let tree_swap = ArcSwap::from_pointee(items::spread(&data));
    let tree_ordered = ArcSwap::from_pointee(items::map::<Tree>(&data));
    drop(data);
    let best = shortest(slices, |number| {
        let keys = windows[number % windows.len()];
        // `read()` follows `snapshot()` in the same key space, so it needs keys that are not in the cache yet.
        let others = windows[(number + windows.len() / 2) % windows.len()];
        warm(keys);
        warm(others);
        [
            look_up(keys, |key| weight(&ks.snapshot(), key)),
            look_up(others, |key| weight(&ks.read(), key)),
            look_up(keys, |key| weight_of(hash_swap.load().get(key))),
            look_up(keys, |key| weight_of(hash_lock.read().get(key))),
            look_up(keys, |key| weight_of(tree_swap.load().get(key))),
            look_up(keys, |key| weight_of(tree_ordered.load().get(key))),
        ]
    });
    best.map(|seconds| seconds / SLICE as f64)
}

/// R1, R2, R1o and R2o at one number of keys.
fn single(report: &mut Report, keys: usize, slices: usize) {
    let ids = ["R1", "R2", "R1o", "R2o"].map(|id| format!("{id}@{keys}"));
    if !report.wants(&ids.each_ref().map(String::as_str)) {
        return;
    }
    let [snapshot, read, hash_swap, hash_lock, tree_swap, tree_ordered] = single_gets(keys, slices);
    let [r1, r2, other] = limits(keys);
    let bars = [
        ("snapshot().get", snapshot, "ArcSwap<HashMap>", hash_swap, r1),
        ("read().get", read, "RwLock<HashMap>", hash_lock, r2),
        ("snapshot().get", snapshot, "ArcSwap<BTreeMap>", tree_swap, other),
        ("read().get", read, "ArcSwap<BTreeMap>", tree_swap, other),
    ];
    for (id, (what, ours, contender, theirs, limit)) in ids.iter().zip(bars) {
        if report.wants(&[id]) {
            let (mine, other) = (show(ours), show(theirs));
            println!("{id} {what} at {keys} keys: {mine}, {contender} {other}");
            report.bar(id, ours / theirs, limit);
        }
    }
    println!("     an ArcSwap<BTreeMap> built in key order: {}", show(tree_ordered));
}

/// R5 at one number of keys: `get_many` of 100 keys against single `get`s, both in one snapshot.
fn many_keys(report: &mut Report, keys: usize, slices: usize) {
    let id = format!("R5@{keys}");
    if !report.wants(&[&id]) {
        return;
    }
    let data = Dataset::new(Shape::Plain, keys, 1);
    let hits = Writes::new(Shape::Plain, &data, 2).hits(LOOKUPS);
    let windows: Vec<&[Vec<u8>]> = hits.chunks(SLICE).collect();
    let (ks, _writer) = items::key_space(&data);
    let view = ks.snapshot();
    let best = shortest(slices, |number| {
        let keys = windows[number % windows.len()];
        // Both read the same key space, so each needs keys that the other has not brought into the cache.
        let others = windows[(number + windows.len() / 2) % windows.len()];
        warm(keys);
        warm(others);
        let many = time(|| {
            for keys in keys.chunks(MANY) {
                let found = view.get_many(keys);
                let weights = found.iter().map(|entry| entry.map_or(0, |e| e.value().weight));
                black_box(weights.fold(0, u64::wrapping_add));
            }
        });
        [many, look_up(others, |key| weight(&view, key))]
    });
    let [many, single] = best.map(|seconds| seconds / SLICE as f64);
    let (mine, other) = (show(many), show(single));
    println!("{id} get_many of {MANY} at {keys} keys, per key: {mine}, single gets {other}");
    report.bar(&id, many / single, if keys <= 10_000 { 0.8 } else { 0.4 });
}

/// Look-ups a second of all threads together.
///
/// The time counts from the first thread's start to the last one's end, so threads that did not run at the
/// same time do not count as if they had.
fn throughput(threads: usize, keys: &[Vec<u8>], find: &(impl Fn(&[u8]) -> u64 + Sync)) -> f64 {
    let barrier = Barrier::new(threads);
    let run = |thread: usize| {
        let mut keys = keys.to_vec();
        let offset = thread * keys.len() / threads;
        keys.rotate_left(offset);
        warm(&keys);
        barrier.wait();
        let (start, mut found) = (Instant::now(), 0);
        while start.elapsed() < THREADS_SLICE {
            look_up(&keys, find);
            found += keys.len();
        }
        (start, Instant::now(), found)
    };
    let spans: Vec<_> = std::thread::scope(|scope| {
        let begin = |thread: usize| scope.spawn(move || run(thread));
        let running: Vec<_> = (0..threads).map(begin).collect();
        running.into_iter().map(|thread| thread.join().expect("a reader ends")).collect()
    });
    let start = spans.iter().map(|span| span.0).min();
    let end = spans.iter().map(|span| span.1).max();
    let taken = start.zip(end).map_or(Duration::ZERO, |(start, end)| end - start);
    spans.iter().map(|span| span.2 as f64).sum::<f64>() / taken.as_secs_f64()
}

/// Look-ups a second on one thread and on two, by the best slices.
#[derive(Clone, Copy, Default)]
struct Threads([f64; 2]);

impl Threads {
    fn measure(&mut self, keys: &[Vec<u8>], find: impl Fn(&[u8]) -> u64 + Sync) {
        for (best, threads) in self.0.iter_mut().zip([1, 2]) {
            *best = best.max(throughput(threads, keys, &find));
        }
    }

    fn scaling(&self) -> f64 {
        self.0[1] / self.0[0]
    }

    fn print(&self, name: &str) {
        let [one, two] = self.0.map(|a_second| a_second / 1e6);
        let scaling = self.scaling();
        println!(
            "     {name}: {one:.1} M/s on one thread, {two:.1} M/s on two, {scaling:.2} times"
        );
    }
}

/// R3: one thread and two at 1,000 keys. The ratios are theirs to ours.
fn two_threads(report: &mut Report, slices: usize) {
    let ids = ["R3@scaling", "R3@swap", "R3@lock"];
    if !report.wants(&ids) {
        return;
    }
    let data = Dataset::new(Shape::Plain, 1_000, 1);
    let hits = Writes::new(Shape::Plain, &data, 2).hits(SLICE);
    let (ks, _writer) = items::key_space(&data);
    let hash_swap = ArcSwap::from_pointee(items::map::<Hash>(&data));
    let hash_lock = RwLock::new(items::map::<Hash>(&data));
    let [mut ours, mut swap, mut lock] = [Threads::default(); 3];
    for _ in 0..slices {
        ours.measure(&hits, |key| weight(&ks.snapshot(), key));
        swap.measure(&hits, |key| weight_of(hash_swap.load().get(key)));
        lock.measure(&hits, |key| weight_of(hash_lock.read().get(key)));
    }
    println!("R3   look-ups on two threads at 1000 keys; the ratios are theirs to ours");
    ours.print("snapshot().get");
    swap.print("ArcSwap<HashMap>");
    lock.print("RwLock<HashMap>");
    // At least 0.95 of its scaling, 0.75 of its throughput, and 1.3 times the throughput of the lock.
    let ratios = [swap.scaling() / ours.scaling(), swap.0[1] / ours.0[1], lock.0[1] / ours.0[1]];
    let limits = [1.053, 1.333, 0.769];
    for (id, (ratio, limit)) in ids.iter().zip(ratios.into_iter().zip(limits)) {
        report.bar(id, ratio, limit);
    }
}

/// The numbers of keys that are measured.
pub(crate) fn sizes(quick: bool) -> &'static [usize] {
    let sizes = &[1_000, 10_000, 100_000, 1_000_000];
    if quick { &sizes[..3] } else { sizes }
}

pub(crate) fn run(report: &mut Report, quick: bool) {
    let slices = if quick { 31 } else { 101 };
    for keys in sizes(quick) {
        single(report, *keys, slices);
        many_keys(report, *keys, slices);
    }
    two_threads(report, if quick { 21 } else { 51 });
}
