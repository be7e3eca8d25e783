//! The workloads: seeded keys, values and batches, the same for every contender.
//!
//! Owns what is stored and changed. Must not measure.

use std::collections::HashMap;

use etcd_keyspace::{Event, Header, RawKeyValue, Revision, WatchResponse};

/// A small, fast, seeded generator (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }
}

/// Which keys a set has.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    /// `/registry/items/zone-NN/<16 hex>`, 41 bytes, 16 zones.
    Plain,
    /// `/tenants/<16 hex>/deployments/production/status`: a long shared tail.
    Hard,
    /// Random lengths from 8 to 512 bytes.
    Lengths,
}

pub(crate) const PREFIX: &str = "/";
pub(crate) const VALUE_BYTES: usize = 100;

impl Shape {
    pub(crate) fn key(self, random: &mut Random) -> Vec<u8> {
        match self {
            Shape::Plain => {
                let zone = random.below(16);
                format!("/registry/items/zone-{zone:02}/{:016x}", random.next()).into_bytes()
            }
            Shape::Hard => format!("/tenants/{:016x}/deployments/production/status", random.next())
                .into_bytes(),
            Shape::Lengths => {
                let length = 8 + random.below(505);
                let mut key = vec![b'/'];
                while key.len() < length {
                    key.extend_from_slice(format!("{:016x}", random.next()).as_bytes());
                }
                key.truncate(length);
                key
            }
        }
    }
}

/// A store at one revision, with the numbers etcd would keep.
pub(crate) struct Dataset {
    pub(crate) kvs: Vec<RawKeyValue>,
    pub(crate) revision: Revision,
}

pub(crate) fn header(revision: Revision) -> Header {
    Header { cluster_id: 1, member_id: 1, revision, raft_term: 1 }
}

pub(crate) fn value(random: &mut Random) -> Vec<u8> {
    let mut value = vec![b'v'; VALUE_BYTES];
    value[..8].copy_from_slice(&random.next().to_le_bytes());
    value
}

impl Dataset {
    pub(crate) fn new(shape: Shape, keys: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut all: Vec<_> = (0..keys).map(|_| shape.key(&mut random)).collect();
        all.sort();
        all.dedup();
        let mut revision = 1;
        let kvs = all.into_iter().map(|key| {
            revision += 1;
            RawKeyValue {
                key,
                value: value(&mut random),
                create_revision: revision,
                mod_revision: revision,
                version: 1,
                lease: 0,
            }
        });
        let kvs = kvs.collect();
        Dataset { kvs, revision }
    }
}

/// What a batch does to one key, for the contenders.
#[derive(Clone)]
pub(crate) enum Op {
    Put(RawKeyValue),
    Delete(Vec<u8>),
}

/// One batch in both forms.
pub(crate) struct Batch {
    pub(crate) responses: Vec<WatchResponse>,
    pub(crate) ops: Vec<Op>,
}

/// Makes batches that continue one another: 80 % puts on keys that are there, 10 % creations, 10 %
/// deletions, each event a revision of its own.
pub(crate) struct Writes {
    random: Random,
    shape: Shape,
    keys: Vec<Vec<u8>>,
    numbers: HashMap<Vec<u8>, (Revision, i64)>,
    revision: Revision,
}

impl Writes {
    pub(crate) fn new(shape: Shape, data: &Dataset, seed: u64) -> Self {
        Writes {
            random: Random::new(seed),
            shape,
            keys: data.kvs.iter().map(|kv| kv.key.clone()).collect(),
            numbers: HashMap::new(),
            revision: data.revision,
        }
        .with_numbers(data)
    }

    fn with_numbers(mut self, data: &Dataset) -> Self {
        let numbers = data.kvs.iter().map(|kv| (kv.key.clone(), (kv.create_revision, kv.version)));
        self.numbers = numbers.collect();
        self
    }

    fn put(&mut self, key: Vec<u8>) -> RawKeyValue {
        self.revision += 1;
        let revision = self.revision;
        let (create_revision, version) = match self.numbers.get(&key) {
            Some((create, version)) => (*create, version + 1),
            None => (revision, 1),
        };
        self.numbers.insert(key.clone(), (create_revision, version));
        let value = value(&mut self.random);
        RawKeyValue { key, value, create_revision, mod_revision: revision, version, lease: 0 }
    }

    pub(crate) fn batch(&mut self, events: usize) -> Batch {
        let mut ops = Vec::with_capacity(events);
        let mut wire = Vec::with_capacity(events);
        for _ in 0..events {
            let dice = self.random.below(10);
            let index = self.random.below(self.keys.len());
            if dice == 0 {
                let key = self.keys.swap_remove(index);
                self.numbers.remove(&key);
                self.revision += 1;
                ops.push(Op::Delete(key.clone()));
                wire.push(Event::Delete { key, mod_revision: self.revision });
                continue;
            }
            let key = if dice == 1 {
                let key = self.shape.key(&mut self.random);
                self.keys.push(key.clone());
                key
            } else {
                self.keys[index].clone()
            };
            let kv = self.put(key);
            ops.push(Op::Put(kv.clone()));
            wire.push(Event::Put(kv));
        }
        let header = Some(header(self.revision));
        let responses = vec![WatchResponse { header, events: wire, ..WatchResponse::default() }];
        Batch { responses, ops }
    }

    /// Random keys that are there.
    pub(crate) fn hits(&mut self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.keys[self.random.below(self.keys.len())].clone()).collect()
    }

    /// Random keys that are not there.
    pub(crate) fn misses(&mut self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.shape.key(&mut self.random)).collect()
    }
}
