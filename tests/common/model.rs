//! The oracle: what a mirror of texts must show, kept in a plain map.

use std::collections::BTreeMap;

use etcd_keyspace::{Change, Delta, Entry, Event, RawKeyValue, View, WatchResponse};

/// An entry as plain numbers: value, create revision, mod revision, version.
pub type Plain = (String, i64, i64, i64);

/// A map that obeys every event in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub keys: BTreeMap<Vec<u8>, Plain>,
}

impl Model {
    pub fn of(kvs: &[RawKeyValue]) -> Self {
        Model { keys: kvs.iter().map(|kv| (kv.key.clone(), plain_record(kv))).collect() }
    }

    pub fn apply(&mut self, responses: &[WatchResponse]) {
        for event in responses.iter().flat_map(|response| &response.events) {
            match event {
                Event::Put(kv) => {
                    self.keys.insert(kv.key.clone(), plain_record(kv));
                }
                Event::Delete { key, .. } => {
                    self.keys.remove(key);
                }
            }
        }
    }

    /// What a view shows.
    pub fn shown(view: &View<String>) -> Self {
        Model { keys: view.iter().map(|e| (e.key().to_vec(), plain(e))).collect() }
    }

    /// Follows a delta as an observer would, and checks each change against what it knows.
    ///
    /// # Panics
    /// If a change does not fit.
    pub fn fold(&mut self, delta: &Delta<String>) {
        let keys: Vec<_> = delta.iter().map(Change::key).collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "ascending and each once: {keys:?}");
        for change in delta {
            let old = change.old().map(|entry| plain(entry));
            assert_eq!(self.keys.get(change.key()), old.as_ref(), "{change:?}: old");
            match (change, change.new()) {
                (Change::Removed(_), None) => {
                    self.keys.remove(change.key());
                }
                (_, Some(new)) => {
                    let same_life =
                        old.as_ref().map(|(_, create, ..)| *create) == Some(new.create_revision());
                    match change {
                        Change::Added(_) => assert_eq!(old, None),
                        Change::Updated { .. } => assert!(same_life, "{change:?}"),
                        _ => assert!(!same_life, "{change:?}"),
                    }
                    assert_ne!(old, Some(plain(new)), "{change:?} changes nothing");
                    self.keys.insert(new.key().to_vec(), plain(new));
                }
                (_, None) => panic!("{change:?} without a new entry"),
            }
        }
    }
}

fn plain(entry: &Entry<String>) -> Plain {
    (entry.value().clone(), entry.create_revision(), entry.mod_revision(), entry.version())
}

fn plain_record(kv: &RawKeyValue) -> Plain {
    let value = String::from_utf8_lossy(&kv.value).into_owned();
    (value, kv.create_revision, kv.mod_revision, kv.version)
}
