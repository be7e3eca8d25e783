//! The bars of the storage (S1 to S15), in the process.
//!
//! Owns their order, and what is measured of the whole: memory, readers beside a writer, observers.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use etcd_keyspace::KeySpace;
use hdrhistogram::Histogram;

use crate::changes::{apply, batches, holds_by_size, snapshots};
use crate::contenders;
use crate::data::{Dataset, Shape, VALUE_BYTES, Writes};
use crate::reads::{LOOKUPS, hard_sets, points, ranges};
use crate::report::{Report, median, show, time};

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
    // 8 of the bytes are the hash of the raw value.
    report.bar("S12", ours / theirs, 1.25);
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
