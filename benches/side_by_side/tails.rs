//! The bars about slow reads beside a writer (R4): the p99.9 of look-ups while batches are applied.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hdrhistogram::Histogram;

use crate::data::{Batch, Dataset, Shape, Writes};
use crate::items::{self, Hash, weight, weight_of};
use crate::reads::LOOKUPS;
use crate::report::{ROUNDS, Report, median, show};

/// Time from one batch to the next, unless the writer needs longer.
const PERIOD: Duration = Duration::from_millis(30);

/// One sequence of batches, made outside the measured slices.
struct Batches {
    writes: Writes,
    ready: VecDeque<Batch>,
}

impl Batches {
    fn new(data: &Dataset) -> Self {
        Batches { writes: Writes::new(Shape::Plain, data, 13), ready: VecDeque::new() }
    }

    /// Has batches ready for `length`, and returns keys to look up. Keys that these batches create miss until
    /// then.
    fn prepare(&mut self, length: Duration) -> Vec<Vec<u8>> {
        let batches = length.as_millis() / PERIOD.as_millis() + 1;
        while (self.ready.len() as u128) < batches {
            self.ready.push_back(self.writes.batch(1_000));
        }
        self.writes.hits(LOOKUPS)
    }
}

/// The p99.9 of look-ups of random keys on one thread.
fn slow(keys: &[Vec<u8>], length: Duration, find: impl Fn(&[u8]) -> u64) -> Duration {
    let mut histogram = Histogram::<u64>::new(3).expect("three digits are valid");
    let start = Instant::now();
    for key in keys.iter().cycle() {
        let begun = Instant::now();
        if begun - start > length {
            break;
        }
        black_box(find(key));
        histogram.saturating_record(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(0));
    }
    Duration::from_nanos(histogram.value_at_quantile(0.999))
}

/// The same while another thread applies a batch every 30 ms.
fn slow_beside(
    batches: &mut Batches,
    length: Duration,
    find: impl Fn(&[u8]) -> u64,
    mut apply: impl FnMut(Batch) + Send,
) -> Duration {
    let keys = batches.prepare(length);
    let (ready, stop) = (&mut batches.ready, AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = Instant::now();
            while let Some(batch) = ready.pop_front() {
                apply(batch);
                next += PERIOD;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let slow = slow(&keys, length, find);
        stop.store(true, Ordering::Relaxed);
        slow
    })
}

/// Prints the p99.9 with no writer, for comparison.
fn print_alone(name: &str, mut slice: impl FnMut() -> Duration) {
    let slices = (0..ROUNDS).map(|_| slice().as_secs_f64()).collect();
    println!("     {name}, without a writer: {}", show(median(slices)));
}

/// R4 at one number of keys: `snapshot()` and `read()`.
///
/// The contender's writer clones the map for each batch. In a large map that takes longer than 30 ms, so it
/// applies fewer batches.
fn at(report: &mut Report, keys: usize, length: Duration) {
    let (snapshot, read) = (format!("R4@snapshot-{keys}"), format!("R4@read-{keys}"));
    if !report.wants(&[&snapshot, &read]) {
        return;
    }
    let data = Dataset::new(Shape::Plain, keys, 1);
    let (ks, mut writer) = items::key_space(&data);
    let map = ArcSwap::from_pointee(items::map::<Hash>(&data));
    let mut batches = [(); 2].map(|()| Batches::new(&data));
    drop(data);
    let quiet = batches[0].prepare(Duration::ZERO);
    print_alone("snapshot().get", || slow(&quiet, length, |key| weight(&ks.snapshot(), key)));
    print_alone("read().get", || slow(&quiet, length, |key| weight(&ks.read(), key)));
    print_alone("ArcSwap<HashMap>", || slow(&quiet, length, |key| weight_of(map.load().get(key))));
    let [ours, theirs] = &mut batches;
    let mut apply = |batch: Batch| _ = writer.apply(batch.responses).expect("a continuous batch");
    let mut swapped = || {
        let find = |key: &[u8]| weight_of(map.load().get(key));
        slow_beside(theirs, length, find, |batch| items::swap(&map, batch.ops))
    };
    report.compare(
        &snapshot,
        &format!("p99.9 at {keys} keys beside a writer, snapshot().get against ArcSwap<HashMap>"),
        1.2,
        || slow_beside(ours, length, |key| weight(&ks.snapshot(), key), &mut apply),
        &mut swapped,
    );
    report.compare(
        &read,
        &format!("p99.9 at {keys} keys beside a writer, read().get against ArcSwap<HashMap>"),
        1.2,
        || slow_beside(ours, length, |key| weight(&ks.read(), key), &mut apply),
        &mut swapped,
    );
}

pub(crate) fn run(report: &mut Report, quick: bool) {
    let (large, length) = if quick { (100_000, 100) } else { (1_000_000, 500) };
    for keys in [10_000, large] {
        at(report, keys, Duration::from_millis(length));
    }
}
