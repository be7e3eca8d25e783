//! Quick benches for daily work on the storage: absolute times of single operations.
//!
//! `cargo bench --bench daily`, or `-- get` for those whose name has it. Whether a change is good is
//! judged by the ratios of `side_by_side`. Owns nothing but the measuring; the data is that of the bars.

#[path = "side_by_side/data.rs"]
#[allow(dead_code, reason = "the bars use all of it")]
mod data;

use divan::{Bencher, black_box};
use etcd_keyspace::{KeyRange, KeySpace, Writer, bytes};

use data::{Dataset, PREFIX, Shape, Writes, header};

const SIZES: [usize; 2] = [10_000, 1_000_000];

fn main() {
    divan::main();
}

fn loaded(data: Dataset) -> (KeySpace<Vec<u8>>, Writer<Vec<u8>>) {
    let builder = KeySpace::builder(KeyRange::prefix(PREFIX)).expect("a range");
    let (ks, mut writer) = builder.decoder(bytes()).writer();
    writer.load(header(data.revision), data.kvs).expect("a sorted load");
    (ks, writer)
}

fn with_keys(keys: usize) -> (KeySpace<Vec<u8>>, Writer<Vec<u8>>, Writes) {
    let data = Dataset::new(Shape::Plain, keys, 1);
    let writes = Writes::new(Shape::Plain, &data, 2);
    let (ks, writer) = loaded(data);
    (ks, writer, writes)
}

#[divan::bench(args = SIZES)]
fn get_hit(bencher: Bencher<'_, '_>, keys: usize) {
    let (ks, _writer, mut writes) = with_keys(keys);
    let asked = writes.hits(100_000);
    let mut next = asked.iter().cycle();
    bencher.bench_local(|| next.next().map(|key| ks.read().get(key).is_some()));
}

#[divan::bench(args = SIZES)]
fn get_miss(bencher: Bencher<'_, '_>, keys: usize) {
    let (ks, _writer, mut writes) = with_keys(keys);
    let asked = writes.misses(100_000);
    let mut next = asked.iter().cycle();
    bencher.bench_local(|| next.next().map(|key| ks.read().get(key).is_some()));
}

#[divan::bench(args = SIZES)]
fn iterate_a_thousand(bencher: Bencher<'_, '_>, keys: usize) {
    let (ks, _writer, mut writes) = with_keys(keys);
    let asked = writes.hits(10_000);
    let mut next = asked.iter().cycle();
    let view = ks.read();
    bencher.bench_local(|| {
        let from = next.next().cloned().unwrap_or_default();
        let entries = view.range(from..).iter().take(1_000);
        entries.map(|entry| entry.mod_revision()).sum::<i64>()
    });
}

#[divan::bench(args = [1, 10, 100, 1_000])]
fn apply_to_a_million(bencher: Bencher<'_, '_>, events: usize) {
    let (_ks, mut writer, mut writes) = with_keys(1_000_000);
    bencher
        .with_inputs(|| writes.batch(events).responses)
        .bench_local_values(|responses| writer.apply(responses).is_ok());
}

#[divan::bench]
fn diff_of_a_thousand_changes_in_a_million(bencher: Bencher<'_, '_>) {
    let (ks, mut writer, mut writes) = with_keys(1_000_000);
    let older = ks.snapshot();
    writer.apply(writes.batch(1_000).responses).expect("a continuous batch");
    let newer = ks.snapshot();
    bencher.bench_local(|| black_box(newer.diff(&older)).len());
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn load(bencher: Bencher<'_, '_>, keys: usize) {
    bencher.with_inputs(|| Dataset::new(Shape::Plain, keys, 1)).bench_local_values(loaded);
}
