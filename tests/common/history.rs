//! A store that numbers its writes as etcd does, and the watch responses it would send.

use std::collections::BTreeMap;

use etcd_keyspace::{Event, Header, RawKeyValue, Revision, WatchResponse};

use super::{header, response};

/// One operation of a transaction.
#[derive(Debug, Clone)]
pub enum Op {
    Put(String, String),
    Delete(String),
}

/// A store with all it ever did. The revision starts at one, as in a new etcd.
#[derive(Debug, Clone)]
pub struct History {
    keys: BTreeMap<Vec<u8>, RawKeyValue>,
    revision: Revision,
    /// Each revision that changed something, with its events in order.
    log: Vec<(Revision, Vec<Event>)>,
}

impl Default for History {
    fn default() -> Self {
        History { keys: BTreeMap::new(), revision: 1, log: Vec::new() }
    }
}

impl History {
    pub fn new() -> Self {
        History::default()
    }

    pub fn put(&mut self, key: &str, value: &str) -> Revision {
        self.txn([Op::Put(key.to_owned(), value.to_owned())])
    }

    pub fn delete(&mut self, key: &str) -> Revision {
        self.txn([Op::Delete(key.to_owned())])
    }

    /// Does everything in one revision; one that changes nothing takes none, as in etcd.
    ///
    /// Unlike etcd's own rules it lets a key be touched twice, which etcd has let through in
    /// several ways (T-15).
    pub fn txn(&mut self, ops: impl IntoIterator<Item = Op>) -> Revision {
        let revision = self.revision + 1;
        let events: Vec<Event> =
            ops.into_iter().filter_map(|op| self.event(op, revision)).collect();
        if !events.is_empty() {
            self.revision = revision;
            self.log.push((revision, events));
        }
        self.revision
    }

    /// A write elsewhere in the store: the revision moves and no watcher hears of it.
    pub fn elsewhere(&mut self) -> Revision {
        self.revision += 1;
        self.revision
    }

    fn event(&mut self, op: Op, revision: Revision) -> Option<Event> {
        match op {
            Op::Put(key, value) => {
                let key = key.into_bytes();
                let kv = self.keys.entry(key.clone()).or_insert_with(|| RawKeyValue {
                    key,
                    create_revision: revision,
                    ..RawKeyValue::default()
                });
                kv.version += 1;
                kv.mod_revision = revision;
                kv.value = value.into_bytes();
                let kv = kv.clone();
                Some(Event::Put(kv))
            }
            Op::Delete(key) => {
                let key = key.into_bytes();
                self.keys.remove(&key)?;
                Some(Event::Delete { key, mod_revision: revision })
            }
        }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn header(&self) -> Header {
        header(self.revision)
    }

    /// A complete read, as a load brings it.
    pub fn kvs(&self) -> Vec<RawKeyValue> {
        self.keys.values().cloned().collect()
    }

    pub fn keys(&self) -> &BTreeMap<Vec<u8>, RawKeyValue> {
        &self.keys
    }

    /// Each changing revision after `revision` as a response of its own.
    pub fn after(&self, revision: Revision) -> Vec<WatchResponse> {
        let later = self.log.iter().filter(|(at, _)| *at > revision);
        later.map(|(_, events)| response(events.clone())).collect()
    }

    /// Everything after `revision` in one response.
    pub fn after_at_once(&self, revision: Revision) -> Vec<WatchResponse> {
        let later = self.log.iter().filter(|(at, _)| *at > revision);
        vec![response(later.flat_map(|(_, events)| events.clone()).collect())]
    }
}
