//! What the key space is compared with: the maps people would use instead, behind the same lock.
//!
//! Owns their loading, reading and changing. Must not measure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_keyspace::{KeyRange, KeySpace, RawKeyValue, Revision, Writer, bytes};
use parking_lot::RwLock;

use crate::data::{Dataset, Op, header};

/// The value a contender keeps for a key: the decoded bytes with etcd's numbers.
#[derive(Clone)]
#[allow(dead_code, reason = "kept as an application would keep them, though no bar reads all")]
pub(crate) struct Stored {
    pub(crate) value: Vec<u8>,
    pub(crate) create_revision: Revision,
    pub(crate) mod_revision: Revision,
    pub(crate) version: i64,
    pub(crate) lease: i64,
}

impl Stored {
    fn new(kv: RawKeyValue) -> (Vec<u8>, Self) {
        let stored = Stored {
            value: kv.value,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        };
        (kv.key, stored)
    }
}

pub(crate) type Ordered = RwLock<BTreeMap<Vec<u8>, Stored>>;
pub(crate) type Hashed = RwLock<HashMap<Vec<u8>, Stored>>;
pub(crate) type Persistent = RwLock<imbl::OrdMap<Vec<u8>, Arc<Stored>>>;

pub(crate) fn ordered(data: &Dataset) -> Ordered {
    RwLock::new(data.kvs.iter().cloned().map(Stored::new).collect())
}

pub(crate) fn hashed(data: &Dataset) -> Hashed {
    RwLock::new(data.kvs.iter().cloned().map(Stored::new).collect())
}

pub(crate) fn persistent(data: &Dataset) -> Persistent {
    let entries = data.kvs.iter().cloned().map(Stored::new);
    RwLock::new(entries.map(|(key, stored)| (key, Arc::new(stored))).collect())
}

/// Applies a batch with everything inside the write lock; gives how long it was held.
pub(crate) fn apply_ordered(map: &Ordered, ops: Vec<Op>) -> Duration {
    let mut map = map.write();
    let start = Instant::now();
    for op in ops {
        match op {
            Op::Put(kv) => {
                let (key, stored) = Stored::new(kv);
                map.insert(key, stored);
            }
            Op::Delete(key) => {
                map.remove(&key);
            }
        }
    }
    start.elapsed()
}

/// Applies a batch to a new version beside the old one, then swaps.
pub(crate) fn apply_persistent(map: &Persistent, ops: Vec<Op>) {
    let mut next = map.read().clone();
    for op in ops {
        match op {
            Op::Put(kv) => {
                let (key, stored) = Stored::new(kv);
                next.insert(key, Arc::new(stored));
            }
            Op::Delete(key) => {
                next.remove(&key);
            }
        }
    }
    let old = std::mem::replace(&mut *map.write(), next);
    drop(old);
}

/// One sorted vector, rebuilt beside and swapped for each batch: the model's algorithm.
///
/// Readers go on in the old version while the next one is made, as in a key space, so the entries
/// are shared and not moved.
pub(crate) struct Flat {
    entries: RwLock<Vec<Shared>>,
    /// The buffer of the version before, used again as the model does.
    spare: Vec<Shared>,
}

type Shared = Arc<(Vec<u8>, Stored)>;

impl Flat {
    pub(crate) fn new(data: &Dataset) -> Self {
        let entries = data.kvs.iter().cloned().map(Stored::new).map(Arc::new).collect();
        Flat { entries: RwLock::new(entries), spare: Vec::new() }
    }

    /// Copies all pointers to the other buffer, in runs between the changed keys.
    pub(crate) fn apply(&mut self, ops: Vec<Op>) {
        let mut changes: BTreeMap<Vec<u8>, Option<Stored>> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Put(kv) => {
                    let (key, stored) = Stored::new(kv);
                    changes.insert(key, Some(stored));
                }
                Op::Delete(key) => {
                    changes.insert(key, None);
                }
            }
        }
        let mut next = std::mem::take(&mut self.spare);
        {
            let old = self.entries.read();
            next.reserve(old.len() + changes.len());
            let mut copied = 0;
            for (key, change) in changes {
                let at = old.partition_point(|entry| entry.0 < key);
                next.extend_from_slice(&old[copied..at]);
                copied = at + usize::from(old.get(at).is_some_and(|entry| entry.0 == key));
                next.extend(change.map(|stored| Arc::new((key, stored))));
            }
            next.extend_from_slice(&old[copied..]);
        }
        let mut old = std::mem::replace(&mut *self.entries.write(), next);
        old.clear();
        self.spare = old;
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.read().len()
    }
}

/// The same from owned data, for measuring memory.
pub(crate) fn into_ordered(data: Dataset) -> BTreeMap<Vec<u8>, Stored> {
    data.kvs.into_iter().map(Stored::new).collect()
}

/// The same from owned data, for measuring memory.
pub(crate) fn into_key_space(data: Dataset) -> (KeySpace<Vec<u8>>, Writer<Vec<u8>>) {
    let builder = KeySpace::builder(KeyRange::prefix(crate::data::PREFIX)).expect("a range");
    let (ks, mut writer) = builder.decoder(bytes()).writer();
    writer.load(header(data.revision), data.kvs).expect("a sorted load");
    (ks, writer)
}

/// The key space itself, loaded through its public face.
pub(crate) fn key_space(data: &Dataset) -> (KeySpace<Vec<u8>>, Writer<Vec<u8>>) {
    let builder = KeySpace::builder(KeyRange::prefix(crate::data::PREFIX)).expect("a range");
    let (ks, mut writer) = builder.decoder(bytes()).writer();
    writer.load(header(data.revision), data.kvs.clone()).expect("a sorted load");
    (ks, writer)
}
