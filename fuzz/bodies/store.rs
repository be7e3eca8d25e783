//! A store that numbers its writes as etcd does: what a key space is compared with.
//!
//! Owns [`Store`]. Must not judge anything, and must not panic whatever numbers it holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_keyspace::{Event, Header, RawKeyValue, Revision, WatchResponse};

pub const CLUSTER: u64 = 7;

/// All keys at one revision; a copy shares the records.
pub type Keys = BTreeMap<Vec<u8>, Arc<RawKeyValue>>;

#[derive(Debug, Clone, Default)]
pub struct Store {
    pub keys: Keys,
    pub revision: Revision,
}

impl Store {
    /// Begins a transaction, which takes a revision.
    pub fn begin(&mut self) {
        self.revision = self.revision.saturating_add(1);
    }

    pub fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> Event {
        let old = self.keys.get(key);
        let kv = RawKeyValue {
            key: key.to_vec(),
            value: value.to_vec(),
            create_revision: old.map_or(self.revision, |old| old.create_revision),
            mod_revision: self.revision,
            version: old.map_or(1, |old| old.version.saturating_add(1)),
            lease,
        };
        self.keys.insert(key.to_vec(), Arc::new(kv.clone()));
        Event::Put(kv)
    }

    pub fn delete(&mut self, key: &[u8]) -> Option<Event> {
        self.keys.remove(key)?;
        Some(Event::Delete { key: key.to_vec(), mod_revision: self.revision })
    }

    pub fn header(&self) -> Header {
        Header { cluster_id: CLUSTER, revision: self.revision, ..Header::default() }
    }

    /// A complete read.
    pub fn kvs(&self) -> Vec<RawKeyValue> {
        self.keys.values().map(|kv| RawKeyValue::clone(kv)).collect()
    }

    /// The response that brings these events.
    pub fn response(&self, events: Vec<Event>) -> WatchResponse {
        WatchResponse { header: Some(self.header()), events, ..WatchResponse::default() }
    }
}
