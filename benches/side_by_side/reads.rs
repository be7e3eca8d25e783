//! The bars about reading (S1 to S5, S14).
//!
//! Owns look-ups and ranges of the key space and of the maps it is compared with. Must not change them.

use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::time::Duration;

use etcd_keyspace::{KeySpace, Range, View};
use parking_lot::RwLock;

use crate::contenders::{self, Stored};
use crate::data::{Dataset, Random, Shape, Writes};
use crate::report::{Report, show, time};

pub(crate) const LOOKUPS: usize = 200_000;

/// A map that a key space is compared with, by the first byte of the value of a key.
trait Map {
    fn first(&self, key: &[u8]) -> Option<u64>;
}

impl Map for BTreeMap<Vec<u8>, Stored> {
    fn first(&self, key: &[u8]) -> Option<u64> {
        self.get(key).map(|stored| u64::from(stored.value[0]))
    }
}

impl Map for HashMap<Vec<u8>, Stored> {
    fn first(&self, key: &[u8]) -> Option<u64> {
        self.get(key).map(|stored| u64::from(stored.value[0]))
    }
}

fn first(view: &View<Vec<u8>>, key: &[u8]) -> Option<u64> {
    view.get(key).map(|entry| u64::from(entry.value()[0]))
}

/// The time of one look-up, when all of `keys` are looked up.
fn per_key(keys: &[Vec<u8>], find: impl Fn(&[u8]) -> Option<u64>) -> Duration {
    let all = time(|| _ = black_box(keys.iter().filter_map(|key| find(key)).sum::<u64>()));
    all / u32::try_from(keys.len()).unwrap_or(1)
}

/// Compares look-ups twice: all under one view, and each with a view of its own, as handlers do.
fn look_ups<M: Map>(
    report: &mut Report,
    (id, what, limit): (&str, &str, f64),
    (ks, map): (&KeySpace<Vec<u8>>, &RwLock<M>),
    keys: &[Vec<u8>],
) {
    report.compare(
        id,
        &format!("{what}, one view for all"),
        limit,
        || {
            let view = ks.read();
            per_key(keys, |key| first(&view, key))
        },
        || {
            let map = map.read();
            per_key(keys, |key| map.first(key))
        },
    );
    report.compare(
        &format!("{id}@each"),
        &format!("{what}, a view for each look-up"),
        limit,
        || per_key(keys, |key| first(&ks.snapshot(), key)),
        || per_key(keys, |key| map.read().first(key)),
    );
}

pub(crate) fn points(report: &mut Report, data: &Dataset) {
    if !report.wants(&["S1", "S2", "S3"]) {
        return;
    }
    let (ks, _writer) = contenders::key_space(data);
    let ordered = contenders::ordered(data);
    let mut writes = Writes::new(Shape::Plain, data, 2);
    let hits = writes.hits(LOOKUPS);
    let misses = writes.misses(LOOKUPS);
    look_ups(report, ("S1", "point hit, against BTreeMap", 0.40), (&ks, &ordered), &hits);
    let hashed = contenders::hashed(data);
    look_ups(report, ("S2", "point hit, against HashMap", 1.00), (&ks, &hashed), &hits);
    look_ups(report, ("S3", "point miss, against BTreeMap", 0.40), (&ks, &ordered), &misses);
    if report.wants(&["S1"]) {
        let map = contenders::persistent(data);
        let map = map.read();
        let taken = per_key(&hits, |key| map.get(key).map(|stored| u64::from(stored.value[0])));
        println!("     point hit, imbl::OrdMap: {}", show(taken.as_secs_f64()));
    }
}

/// Prefixes of about 100 results, and ranges of 1,000: key, revision and value of each are read.
pub(crate) fn ranges(report: &mut Report, data: &Dataset) {
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
    let prefixes: Vec<&[u8]> = (0..2_000)
        .map(|_| {
            let key = &data.kvs[random.below(data.kvs.len())].key;
            &key[.."/registry/items/zone-00/".len() + digits]
        })
        .collect();
    report.compare(
        "S4",
        "prefix of ~100, reading key, revision, value, against BTreeMap",
        0.80,
        || each(&ks.read(), &prefixes, |view, prefix| read(view.prefix(prefix))),
        || {
            each(&ordered.read(), &prefixes, |map, prefix| {
                let found = map.range(prefix.to_vec()..);
                read_ordered(found.take_while(|(key, _)| key.starts_with(prefix)))
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
        || each(&ks.read(), &bounds, |view, (from, to)| read(view.range(*from..*to))),
        || {
            each(&ordered.read(), &bounds, |map, (from, to)| {
                read_ordered(map.range(from.to_vec()..to.to_vec()))
            })
        },
    );
}

/// Times one query after the other; each gives a number that depends on all that it read.
fn each<S, Q>(source: &S, queries: &[Q], query: impl Fn(&S, &Q) -> i64) -> Duration {
    time(|| {
        for asked in queries {
            black_box(query(source, asked));
        }
    })
}

pub(crate) fn read(found: Range<'_, Vec<u8>>) -> i64 {
    found.iter().map(|e| all_of(e.key(), e.mod_revision(), e.value())).sum()
}

fn read_ordered<'a>(found: impl Iterator<Item = (&'a Vec<u8>, &'a Stored)>) -> i64 {
    found.map(|(key, stored)| all_of(key, stored.mod_revision, &stored.value)).sum()
}

fn all_of(key: &[u8], revision: i64, value: &[u8]) -> i64 {
    key.len() as i64 + i64::from(key[key.len() - 1]) + revision + i64::from(value[0])
}

pub(crate) fn hard_sets(report: &mut Report, keys: usize) {
    for shape in [Shape::Hard, Shape::Lengths] {
        let data = Dataset::new(shape, keys / 2, 17);
        let (ks, _writer) = contenders::key_space(&data);
        let ordered = contenders::ordered(&data);
        let hits = Writes::new(shape, &data, 18).hits(LOOKUPS);
        let what = "point hit in a hard key set, against BTreeMap";
        look_ups(report, ("S14", what, 0.60), (&ks, &ordered), &hits);
    }
}
