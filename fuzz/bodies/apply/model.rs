//! What an accepted batch or load must lead to, event by event.
//!
//! Owns [`Model`], written from the documentation of the writer and its modes. Must not decide what
//! is accepted, except to say whether a batch continues what is known.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_keyspace::{BadValues, Continuity, Event, Header, RawKeyValue, Revision, WatchResponse};

use super::super::store::{Keys, Store};

/// Values that begin with `!` do not decode.
pub fn decode(kv: RawKeyValue) -> Result<Vec<u8>, &'static str> {
    if kv.value.starts_with(b"!") { Err("begins with !") } else { Ok(kv.value) }
}

/// Whether etcd can give a key these numbers; version 0 is that of a server that keeps none.
pub fn is_possible(kv: &RawKeyValue) -> bool {
    let created = kv.create_revision == kv.mod_revision;
    let revisions = kv.create_revision > 0 && kv.mod_revision >= kv.create_revision;
    revisions && kv.version >= 0 && (kv.version != 1 || created)
}

/// One known key: its newest record, and what is shown for it.
#[derive(Debug, Clone)]
struct Known {
    newest: Arc<RawKeyValue>,
    shown: Option<Arc<RawKeyValue>>,
}

#[derive(Debug)]
pub struct Model {
    bad_values: BadValues,
    keys: BTreeMap<Vec<u8>, Known>,
    pub revision: Revision,
    pub confirmed: Revision,
    pub cluster_id: Option<u64>,
}

impl Model {
    pub fn new(bad_values: BadValues) -> Self {
        let keys = BTreeMap::new();
        Model { bad_values, keys, revision: 0, confirmed: 0, cluster_id: None }
    }

    pub fn shown(&self) -> Keys {
        let shown = |(key, known): (&Vec<u8>, &Known)| Some((key.clone(), known.shown.clone()?));
        self.keys.iter().filter_map(shown).collect()
    }

    /// Keys whose newest value does not decode, with its revision.
    pub fn rejected(&self) -> Vec<(&[u8], Revision)> {
        let rejected = self.keys.iter().filter(|(_, known)| known.newest.value.starts_with(b"!"));
        rejected.map(|(key, known)| (key.as_slice(), known.newest.mod_revision)).collect()
    }

    pub fn known(&self) -> Vec<RawKeyValue> {
        self.keys.values().map(|known| RawKeyValue::clone(&known.newest)).collect()
    }

    /// The store of which the view is true.
    pub fn store(&self) -> Store {
        let keys = self.keys.iter().map(|(key, known)| (key.clone(), Arc::clone(&known.newest)));
        Store { keys: keys.collect(), revision: self.confirmed }
    }

    fn put(&mut self, kv: &RawKeyValue) {
        let newest = Arc::new(kv.clone());
        let old = self.keys.get(&kv.key).and_then(|known| known.shown.clone());
        let shown = match (decode(kv.clone()), self.bad_values) {
            (Ok(_), _) => Some(Arc::clone(&newest)),
            // Of another life of the key nothing may be shown.
            (Err(_), BadValues::KeepLast) => {
                old.filter(|old| old.create_revision == kv.create_revision)
            }
            (Err(_), _) => None,
        };
        self.keys.insert(kv.key.clone(), Known { newest, shown });
    }

    /// Whether the event may be applied in the lenient mode: it is not older than the key, and
    /// deletes only what is known.
    fn takes(&self, event: &Event, touched: &BTreeMap<Vec<u8>, Revision>) -> bool {
        let revision = event.mod_revision();
        match self.keys.get(event.key()) {
            None => matches!(event, Event::Put(_)),
            Some(known) => {
                revision > known.newest.mod_revision || touched.get(event.key()) == Some(&revision)
            }
        }
    }

    /// Applies an accepted batch; gives how many events it had, and how many again.
    pub fn apply(&mut self, batch: &[WatchResponse], continuity: Continuity) -> (usize, usize) {
        assert!(continuity == Continuity::Lenient || self.continues(batch), "accepted: {batch:?}");
        let (fresh, duplicates) = self.fresh(batch);
        let mut touched = BTreeMap::new();
        for event in &fresh {
            if self.takes(event, &touched) {
                touched.insert(event.key().to_vec(), event.mod_revision());
                match event {
                    Event::Put(kv) => self.put(kv),
                    Event::Delete { key, .. } => drop(self.keys.remove(key)),
                }
            }
        }
        if let Some(last) = fresh.last() {
            self.revision = self.revision.max(last.mod_revision());
            self.confirmed = self.confirmed.max(last.mod_revision());
            let headers = batch.iter().filter_map(|response| response.header);
            self.cluster_id =
                self.cluster_id.or(headers.map(|header| header.cluster_id).next_back());
        }
        (fresh.len(), duplicates)
    }

    /// The events that were not delivered before, and how many were.
    fn fresh<'a>(&self, batch: &'a [WatchResponse]) -> (Vec<&'a Event>, usize) {
        let (mut fresh, mut duplicates) = (Vec::new(), 0);
        let mut cursor = self.confirmed;
        let mut newest = cursor;
        for response in batch {
            for event in &response.events {
                if event.mod_revision() <= cursor {
                    duplicates += 1;
                } else {
                    newest = newest.max(event.mod_revision());
                    fresh.push(event);
                }
            }
            if !response.fragment {
                cursor = newest;
            }
        }
        (fresh, duplicates)
    }

    /// Whether every event continues what is known, as each write of etcd does.
    ///
    /// An event that was delivered before does when its effect is there; of a batch with such
    /// events only those that are new are judged when it was accepted.
    pub fn continues(&self, batch: &[WatchResponse]) -> bool {
        let mut known: BTreeMap<&[u8], &RawKeyValue> =
            self.keys.iter().map(|(key, known)| (key.as_slice(), &*known.newest)).collect();
        let mut deleted: BTreeMap<&[u8], Revision> = BTreeMap::new();
        self.fresh(batch).0.into_iter().all(|event| {
            let (key, revision) = (event.key(), event.mod_revision());
            match (event, known.get(key).copied()) {
                (Event::Put(kv), old) => {
                    known.insert(key, kv);
                    match old {
                        _ if !is_possible(kv) => false,
                        None => kv.create_revision == kv.mod_revision && kv.version <= 1,
                        Some(old) => {
                            let kept = old.version != 0 && kv.version != 0;
                            kv.create_revision == old.create_revision
                                && (!kept || Some(kv.version) == old.version.checked_add(1))
                        }
                    }
                }
                (Event::Delete { .. }, None) => deleted.get(key) == Some(&revision),
                (Event::Delete { .. }, Some(_)) => {
                    known.remove(key);
                    deleted.insert(key, revision);
                    true
                }
            }
        })
    }

    /// Whether a read cannot be of the history of what is known.
    fn is_contradicted(&self, kvs: &[RawKeyValue], continuity: Continuity) -> bool {
        let complete = self.confirmed > 0 && continuity == Continuity::Strict;
        kvs.iter().any(|kv| {
            let known = self.keys.get(&kv.key).map(|known| &known.newest);
            let versions = |old: &RawKeyValue| {
                old.version == kv.version || old.version == 0 || kv.version == 0
            };
            let same = known.is_some_and(|old| {
                let at = (old.create_revision, old.mod_revision);
                at == (kv.create_revision, kv.mod_revision)
                    && versions(old)
                    && (old.lease, &old.value) == (kv.lease, &kv.value)
            });
            let late = known.is_some_and(|old| kv.mod_revision <= old.mod_revision);
            !same && (late || complete && kv.mod_revision <= self.confirmed)
        })
    }

    /// Loads an accepted complete read. Unchanged keys keep their entries, but nothing of a former
    /// history stands in for a rejected value.
    pub fn load(&mut self, header: Header, kvs: Vec<RawKeyValue>, continuity: Continuity) {
        let other = self.is_contradicted(&kvs, continuity);
        let before = (self.shown(), self.rejected_records());
        let first = self.revision == 0;
        let gone = |key: &Vec<u8>| kvs.binary_search_by(|kv| kv.key.cmp(key)).is_err();
        self.keys.retain(|key, _| !gone(key));
        for kv in &kvs {
            let known = self.keys.get(&kv.key);
            if known.is_none_or(|known| *known.newest != *kv) {
                self.put(kv);
            }
        }
        for known in self.keys.values_mut() {
            if other && known.newest.value.starts_with(b"!") {
                known.shown = None;
            }
        }
        if other || first || before != (self.shown(), self.rejected_records()) {
            self.revision = header.revision;
        }
        self.confirmed = header.revision;
        self.cluster_id = Some(header.cluster_id);
    }

    fn rejected_records(&self) -> Vec<Arc<RawKeyValue>> {
        let newest = self.keys.values().map(|known| &known.newest);
        newest.filter(|newest| newest.value.starts_with(b"!")).cloned().collect()
    }
}
