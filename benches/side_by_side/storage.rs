//! The bars of the storage (S1 to S15), in the process.
//!
//! Owns what is measured about reading, changing, comparing and remembering keys.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use etcd_keyspace::{KeySpace, Writer};
use hdrhistogram::Histogram;

use crate::contenders::{self, Flat, Hashed, Ordered};
use crate::data::{Dataset, Random, Shape, VALUE_BYTES, Writes};
use crate::report::{ROUNDS, Report, median, show};

const LOOKUPS: usize = 200_000;

type Store = (KeySpace<Vec<u8>>, Writer<Vec<u8>>);

pub(crate) fn run(report: &mut Report, keys: usize, small: usize) {
    let data = Dataset::new(Shape::Plain, keys, 1);
    points(report, &data);
    ranges(report, &data);
    batches(report, &data, small);
    snapshots(report, &data, small);
    if report.wants(&["S12"]) {
        memory(report, keys);
    }
    if report.wants(&["S13"]) {
        tail_latency(report, &data);
    }
    if report.wants(&["S14"]) {
        hard_sets(report, keys);
    }
    observer(report, &data);
    drop(data);
    if report.wants(&["holds"]) && keys > 100_000 {
        holds_by_size();
    }
}

/// How long the write lock is held, and what a batch costs in all, at very different sizes.
fn holds_by_size() {
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

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn look_up(ks: &KeySpace<Vec<u8>>, keys: &[Vec<u8>]) -> Duration {
    let view = ks.read();
    time(|| {
        let found = keys.iter().filter_map(|key| view.get(key));
        black_box(found.map(|entry| u64::from(entry.value()[0])).sum::<u64>());
    })
}

fn look_up_ordered(map: &Ordered, keys: &[Vec<u8>]) -> Duration {
    let map = map.read();
    time(|| {
        let found = keys.iter().filter_map(|key| map.get(key));
        black_box(found.map(|stored| u64::from(stored.value[0])).sum::<u64>());
    })
}

fn look_up_hashed(map: &Hashed, keys: &[Vec<u8>]) -> Duration {
    let map = map.read();
    time(|| {
        let found = keys.iter().filter_map(|key| map.get(key));
        black_box(found.map(|stored| u64::from(stored.value[0])).sum::<u64>());
    })
}

fn points(report: &mut Report, data: &Dataset) {
    if !report.wants(&["S1", "S2", "S3"]) {
        return;
    }
    let (ks, _writer) = contenders::key_space(data);
    let ordered = contenders::ordered(data);
    let mut writes = Writes::new(Shape::Plain, data, 2);
    let hits = writes.hits(LOOKUPS);
    let misses = writes.misses(LOOKUPS);
    let per = |total: Duration| total / u32::try_from(LOOKUPS).unwrap_or(1);
    report.compare(
        "S1",
        "point hit, against BTreeMap",
        0.40,
        || per(look_up(&ks, &hits)),
        || per(look_up_ordered(&ordered, &hits)),
    );
    let hashed = contenders::hashed(data);
    report.compare(
        "S2",
        "point hit, against HashMap",
        1.00,
        || per(look_up(&ks, &hits)),
        || per(look_up_hashed(&hashed, &hits)),
    );
    report.compare(
        "S3",
        "point miss, against BTreeMap",
        0.40,
        || per(look_up(&ks, &misses)),
        || per(look_up_ordered(&ordered, &misses)),
    );
    if report.wants(&["S1"]) {
        let map = contenders::persistent(data);
        let map = map.read();
        let taken = time(|| {
            black_box(hits.iter().filter_map(|key| map.get(key)).map(|s| s.version).sum::<i64>());
        });
        println!("     point hit, imbl::OrdMap: {}", show(per(taken).as_secs_f64()));
    }
}

/// Prefixes of about 100 results, and ranges of 1,000: key, revision and value of each are read.
fn ranges(report: &mut Report, data: &Dataset) {
    if !report.wants(&["S4", "S5"]) {
        return;
    }
    let (ks, _writer) = contenders::key_space(data);
    let ordered = contenders::ordered(data);
    let mut random = Random::new(3);
    // Keys are uniform over 16 zones; each hex digit more leaves a sixteenth of them. The number of
    // digits is the one that comes nearest to 100 results, by ratio.
    let per_zone = data.kvs.len() as f64 / 16.0;
    let digits = (per_zone / 100.0).log(16.0).round().max(0.0) as usize;
    let prefixes: Vec<Vec<u8>> = (0..2_000)
        .map(|_| {
            let key = &data.kvs[random.below(data.kvs.len())].key;
            key[.."/registry/items/zone-00/".len() + digits].to_vec()
        })
        .collect();
    let read = |key: &[u8], revision: i64, value: &[u8]| {
        key.len() as i64 + i64::from(key[key.len() - 1]) + revision + i64::from(value[0])
    };
    report.compare(
        "S4",
        "prefix of ~100, reading key, revision, value, against BTreeMap",
        0.80,
        || {
            let view = ks.read();
            time(|| {
                for prefix in &prefixes {
                    let found = view.prefix(prefix);
                    black_box(
                        found
                            .iter()
                            .map(|e| read(e.key(), e.mod_revision(), e.value()))
                            .sum::<i64>(),
                    );
                }
            })
        },
        || {
            let map = ordered.read();
            time(|| {
                for prefix in &prefixes {
                    let found =
                        map.range(prefix.clone()..).take_while(|(k, _)| k.starts_with(prefix));
                    black_box(found.map(|(k, s)| read(k, s.mod_revision, &s.value)).sum::<i64>());
                }
            })
        },
    );
    let starts: Vec<usize> =
        (0..500).map(|_| random.below(data.kvs.len().saturating_sub(1_001))).collect();
    let bounds: Vec<(&[u8], &[u8])> = starts
        .iter()
        .map(|at| {
            let end = (at + 1_000).min(data.kvs.len() - 1);
            (data.kvs[*at].key.as_slice(), data.kvs[end].key.as_slice())
        })
        .collect();
    report.compare(
        "S5",
        "range of 1,000, the same",
        1.00,
        || {
            let view = ks.read();
            time(|| {
                for (from, to) in &bounds {
                    let found = view.range(*from..*to);
                    black_box(
                        found
                            .iter()
                            .map(|e| read(e.key(), e.mod_revision(), e.value()))
                            .sum::<i64>(),
                    );
                }
            })
        },
        || {
            let map = ordered.read();
            time(|| {
                for (from, to) in &bounds {
                    let found = map.range(from.to_vec()..to.to_vec());
                    black_box(found.map(|(k, s)| read(k, s.mod_revision, &s.value)).sum::<i64>());
                }
            })
        },
    );
}

/// One batch on the key space with a snapshot held through it; the snapshot's end is counted too.
fn apply(store: &mut Store, writes: &mut Writes, events: usize, snapshot: bool) -> Duration {
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

fn batches(report: &mut Report, data: &Dataset, small: usize) {
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
        let mut flat = Flat::new(data);
        let mut flat_writes = Writes::new(Shape::Plain, data, 6);
        report.compare(
            "S8",
            "batch of 1, all work, against a flat rebuild",
            0.002,
            || apply(&mut store, &mut writes, 1, true),
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
        println!(
            "     moving as many pointers and nothing else: {}",
            show(median(moved.collect()))
        );
    }
    if report.wants(&["S9"]) {
        let few = Dataset::new(Shape::Plain, small, 7);
        let mut few_store = contenders::key_space(&few);
        let mut few_writes = Writes::new(Shape::Plain, &few, 8);
        report.compare(
            "S9",
            "write-lock hold of a 1,000 batch, against the same at few keys",
            2.0,
            || {
                apply(&mut store, &mut writes, 1_000, true);
                store.0.stats().last_write_hold
            },
            || {
                apply(&mut few_store, &mut few_writes, 1_000, true);
                few_store.0.stats().last_write_hold
            },
        );
    }
    if report.wants(&["S6"]) {
        for events in [1, 10, 100, 10_000] {
            let ours = median(
                (0..ROUNDS)
                    .map(|_| apply(&mut store, &mut writes, events, true).as_secs_f64())
                    .collect(),
            );
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
}

fn snapshots(report: &mut Report, data: &Dataset, small: usize) {
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

/// Live heap bytes beyond keys and values.
fn memory(report: &mut Report, keys: usize) {
    let per_key = |hold: &dyn Fn(Dataset) -> Box<dyn std::any::Any>| {
        let before = crate::HEAP.current_usage();
        let held = hold(Dataset::new(Shape::Plain, keys, 1));
        let bytes = crate::HEAP.current_usage() - before;
        drop(held);
        bytes as f64 / keys as f64 - (41 + VALUE_BYTES) as f64
    };
    let ours = per_key(&|data| Box::new(contenders::into_key_space(data)));
    let theirs = per_key(&|data| Box::new(contenders::into_ordered(data)));
    println!("S12  heap beyond key and value: {ours:.0} B a key, BTreeMap {theirs:.0} B");
    report.bar("S12", ours / theirs, 1.15);
}

/// One reader of random keys while batches of 1,000 are applied every 30 ms, and without.
fn tail_latency(report: &mut Report, data: &Dataset) {
    let (ks, mut writer) = contenders::key_space(data);
    let mut writes = Writes::new(Shape::Plain, data, 13);
    let hits = writes.hits(LOOKUPS);
    let stop = Arc::new(AtomicBool::new(false));
    let read = |ks: &KeySpace<Vec<u8>>| -> f64 {
        let mut histogram = Histogram::<u64>::new(3).expect("three digits are valid");
        let start = Instant::now();
        let mut keys = hits.iter().cycle();
        while start.elapsed() < Duration::from_millis(1_500) {
            let Some(key) = keys.next() else { break };
            let begun = Instant::now();
            black_box(ks.read().get(key).map(|entry| entry.value()[0]));
            histogram.saturating_record(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(0));
        }
        histogram.value_at_quantile(0.999) as f64
    };
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        quiet.push(read(&ks));
        stop.store(false, Ordering::SeqCst);
        let batches: Vec<_> = (0..60).map(|_| writes.batch(1_000)).collect();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for batch in batches {
                if !stopped.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(30));
                }
                // Applied even when stopped: the next batches continue these.
                writer.apply(batch.responses).expect("a continuous batch");
            }
            writer
        });
        busy.push(read(&ks));
        stop.store(true, Ordering::SeqCst);
        writer = thread.join().expect("the writer ends");
    }
    let (quiet, busy) = (median(quiet), median(busy));
    println!(
        "S13  reader p99.9: {} with a writer, {} without",
        show(busy / 1e9),
        show(quiet / 1e9)
    );
    report.bar("S13", busy / quiet, 3.0);
}

fn hard_sets(report: &mut Report, keys: usize) {
    for shape in [Shape::Hard, Shape::Lengths] {
        let data = Dataset::new(shape, keys / 2, 17);
        let (ks, _writer) = contenders::key_space(&data);
        let ordered = contenders::ordered(&data);
        let hits = Writes::new(shape, &data, 18).hits(LOOKUPS);
        report.compare(
            "S14",
            "point hit in a hard key set, against BTreeMap",
            0.60,
            || look_up(&ks, &hits) / u32::try_from(LOOKUPS).unwrap_or(1),
            || look_up_ordered(&ordered, &hits) / u32::try_from(LOOKUPS).unwrap_or(1),
        );
    }
}

/// The zone of a key, for counting.
fn zone(key: &[u8]) -> usize {
    let at = "/registry/items/zone-".len();
    usize::from(key[at] - b'0') * 10 + usize::from(key[at + 1] - b'0')
}

fn observer(report: &mut Report, data: &Dataset) {
    if !report.wants(&["S15"]) {
        return;
    }
    let mut plain = contenders::key_space(data);
    let mut plain_writes = Writes::new(Shape::Plain, data, 19);
    let mut store = contenders::key_space(data);
    let spent = Arc::new(std::sync::Mutex::new(Duration::ZERO));
    let noted = Arc::clone(&spent);
    let zones = store.0.derive([0i64; 16], move |zones, delta, _, _| {
        let start = Instant::now();
        for change in delta {
            zones[zone(change.key())] += i64::from(change.new().is_some());
            zones[zone(change.key())] -= i64::from(change.old().is_some());
        }
        *noted.lock().expect("nobody panics") = start.elapsed();
    });
    let mut writes = Writes::new(Shape::Plain, data, 19);
    report.compare(
        "S15",
        "an observer counting per zone, batch of 1,000, against counting all",
        0.02,
        || {
            apply(&mut store, &mut writes, 1_000, false);
            *spent.lock().expect("nobody panics")
        },
        || {
            apply(&mut plain, &mut plain_writes, 1_000, false);
            let view = plain.0.read();
            time(|| {
                let mut zones = [0i64; 16];
                for entry in &*view {
                    zones[zone(entry.key())] += 1;
                }
                black_box(zones);
            })
        },
    );
    let view = store.0.read();
    let total: i64 = view.derived(&zones).iter().sum();
    assert_eq!(usize::try_from(total).ok(), Some(view.len()), "the observer counts right");
}
