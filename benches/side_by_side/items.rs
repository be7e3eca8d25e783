//! A key space of small structs, and the maps that an application would share with its handlers.
//!
//! The maps hold each value in an `Arc`: a handler can keep it beyond the lock, and a map that is cloned for
//! every batch copies no values. A map built in key order has its keys side by side in the heap, which no
//! changes leave so; `spread` builds it in random order.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use etcd_keyspace::{KeyRange, KeySpace, RawKeyValue, View, Writer};

use crate::data::{Dataset, Op, PREFIX, Random, header};
use crate::report::time;

/// The decoded form of a value.
#[derive(Clone, Copy)]
pub(crate) struct Item {
    pub(crate) weight: u64,
    #[allow(dead_code, reason = "kept as an application would keep it, though no bar reads it")]
    limits: [u64; 4],
}

impl Item {
    fn new(value: &[u8]) -> Self {
        let word = |at: usize| {
            let bytes = value.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        Item { weight: word(0), limits: [word(8), word(16), word(24), word(32)] }
    }
}

pub(crate) type Hash = HashMap<Vec<u8>, Arc<Item>>;
pub(crate) type Tree = BTreeMap<Vec<u8>, Arc<Item>>;

pub(crate) fn key_space(data: &Dataset) -> (KeySpace<Item>, Writer<Item>) {
    let decode = |kv: RawKeyValue| Ok::<_, Infallible>(Item::new(&kv.value));
    let builder = KeySpace::builder(KeyRange::prefix(PREFIX)).expect("a range");
    let (ks, mut writer) = builder.decoder(decode).writer();
    writer.load(header(data.revision), data.kvs.clone()).expect("a sorted load");
    (ks, writer)
}

/// A map of the same entries.
pub(crate) fn map<M: FromIterator<(Vec<u8>, Arc<Item>)>>(data: &Dataset) -> M {
    data.kvs.iter().map(|kv| (kv.key.clone(), Arc::new(Item::new(&kv.value)))).collect()
}

/// A map of the same entries, inserted in random order.
pub(crate) fn spread(data: &Dataset) -> Tree {
    let mut order: Vec<usize> = (0..data.kvs.len()).collect();
    let mut random = Random::new(11);
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last + 1));
    }
    let kvs = order.iter().map(|at| &data.kvs[*at]);
    kvs.map(|kv| (kv.key.clone(), Arc::new(Item::new(&kv.value)))).collect()
}

/// Applies a batch to a clone of the map, and publishes the clone.
pub(crate) fn swap(map: &ArcSwap<Hash>, ops: Vec<Op>) {
    let mut next = Hash::clone(&map.load_full());
    for op in ops {
        match op {
            Op::Put(kv) => _ = next.insert(kv.key, Arc::new(Item::new(&kv.value))),
            Op::Delete(key) => _ = next.remove(&key),
        }
    }
    map.store(Arc::new(next));
}

/// The weight under `key`, which every look-up reads; 0 if the key is absent.
#[inline]
pub(crate) fn weight(view: &View<Item>, key: &[u8]) -> u64 {
    view.get(key).map_or(0, |entry| entry.value().weight)
}

/// The weight under `key` in the result of a map's `get`.
#[inline]
pub(crate) fn weight_of(found: Option<&Arc<Item>>) -> u64 {
    found.map_or(0, |item| item.weight)
}

/// The time of `keys.len()` look-ups.
pub(crate) fn look_up(keys: &[Vec<u8>], find: impl Fn(&[u8]) -> u64) -> Duration {
    time(|| {
        let weights = keys.iter().map(|key| find(key));
        black_box(weights.fold(0, u64::wrapping_add));
    })
}

/// Brings the keys of a slice into the cache, so that the first contender does not pay for that.
pub(crate) fn warm(keys: &[Vec<u8>]) {
    let bytes = |key: &Vec<u8>| u64::from(key[0]) + u64::from(key[key.len() - 1]);
    black_box(keys.iter().map(bytes).sum::<u64>());
}
