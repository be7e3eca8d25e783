//! The bars about reading (S1 to S5, S14).
//!
//! Owns look-ups and ranges of the key space and of the maps it is compared with. Must not change them.

use std::hint::black_box;
use std::time::Duration;

use etcd_keyspace::{KeySpace, Range};

use crate::contenders::{self, Hashed, Ordered, Stored};
use crate::data::{Dataset, Random, Shape, Writes};
use crate::report::{Report, show, time};

pub(crate) const LOOKUPS: usize = 200_000;

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

pub(crate) fn points(report: &mut Report, data: &Dataset) {
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
        report.compare(
            "S14",
            "point hit in a hard key set, against BTreeMap",
            0.60,
            || look_up(&ks, &hits) / u32::try_from(LOOKUPS).unwrap_or(1),
            || look_up_ordered(&ordered, &hits) / u32::try_from(LOOKUPS).unwrap_or(1),
        );
    }
}
