//! What counts as a difference between a view and all records of its revision.
//!
//! Pure: knows no clock and asks nobody, so that a verdict depends on the two sides only.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use etcd_client::KeyValue;
use etcd_keyspace::{Entry, Snapshot};

use crate::mirrors::{Look, Taste, Value, is_bad};
use crate::world::PREFIX;
use crate::writers::GROUP;

/// Bytes of a value that are shown.
const BYTES_MAX: usize = 48;

/// One record with every field that must be equal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    key: &'a [u8],
    pub(crate) value: &'a [u8],
    create: i64,
    pub(crate) modified: i64,
    version: i64,
    lease: i64,
}

impl<'a> From<&'a KeyValue> for Record<'a> {
    fn from(kv: &'a KeyValue) -> Self {
        Record {
            key: kv.key(),
            value: kv.value(),
            create: kv.create_revision(),
            modified: kv.mod_revision(),
            version: kv.version(),
            lease: kv.lease(),
        }
    }
}

impl<'a> From<&'a Arc<Entry<Value>>> for Record<'a> {
    fn from(entry: &'a Arc<Entry<Value>>) -> Self {
        Record {
            key: entry.key(),
            value: entry.value(),
            create: entry.create_revision(),
            modified: entry.mod_revision(),
            version: entry.version(),
            lease: entry.lease(),
        }
    }
}

impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { key, value, create, modified, version, lease } = self;
        let (key, shown) = (key.escape_ascii(), value[..value.len().min(BYTES_MAX)].escape_ascii());
        write!(f, "{key} = \"{shown}\" ({} bytes, create {create}, mod {modified}, ", value.len())?;
        write!(f, "version {version}, lease {lease:x})")
    }
}

/// A key that is otherwise than it should be.
pub(crate) struct Difference {
    pub(crate) key: Vec<u8>,
    pub(crate) said: String,
}

/// What `judged` has otherwise than all records of the same revision say, in order of keys.
pub(crate) fn differences<'a>(
    judged: &Snapshot<Value>,
    taste: Taste,
    records: impl Iterator<Item = Record<'a>>,
) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut differs = |key: &[u8], said: String| found.push(Difference { key: key.to_vec(), said });
    let mut entries = judged.iter().peekable();
    for right in records {
        while let Some(ghost) = entries.next_if(|entry| entry.key() < right.key) {
            differs(ghost.key(), format!("a ghost: {}", Record::from(ghost)));
        }
        let entry = entries.next_if(|entry| entry.key() == right.key);
        let shown = entry.map(Record::from);
        let fits = match (taste, shown) {
            (Taste::All, shown) => shown == Some(right),
            (_, shown) if !is_bad(right.value) => shown == Some(right),
            (Taste::Drop, shown) => shown.is_none(),
            // An older value of the same life of the key, or nothing.
            (Taste::KeepLast, shown) => shown.is_none_or(|old| {
                old.create == right.create
                    && old.modified < right.modified
                    && old.version < right.version
                    && !is_bad(old.value)
            }),
        };
        if !fits {
            let shown = shown.map_or("nothing".to_owned(), |shown| shown.to_string());
            differs(right.key, format!("{shown} instead of {right}"));
        }
        if entry.is_some_and(|entry| !judged.get(right.key).is_some_and(|e| Arc::ptr_eq(e, entry)))
        {
            differs(right.key, "found by iteration, not by its key".to_owned());
        }
    }
    for ghost in entries {
        differs(ghost.key(), format!("a ghost: {}", Record::from(ghost)));
    }
    if judged.len() != judged.iter().count() {
        differs(b"", format!("{} entries are said to be {}", judged.iter().count(), judged.len()));
    }
    found
}

/// The keys written by transactions of groups: all of a group in one revision, or none.
pub(crate) fn torn_groups(view: &Snapshot<Value>) -> Vec<Difference> {
    let mut groups: BTreeMap<&[u8], Vec<i64>> = BTreeMap::new();
    for entry in view.prefix(format!("{PREFIX}group/")).iter() {
        let name = &entry.key()[..entry.key().len() - 2];
        groups.entry(name).or_default().push(entry.mod_revision());
    }
    let torn = |(name, revisions): (&[u8], Vec<i64>)| {
        let whole = revisions.len() == GROUP && revisions.iter().all(|rev| *rev == revisions[0]);
        let said = format!("half a transaction: {} has {revisions:?}", name.escape_ascii());
        (!whole).then(|| Difference { key: name.to_vec(), said })
    };
    groups.into_iter().filter_map(torn).collect()
}

/// The list of rejected keys against what etcd has.
pub(crate) fn wrongly_rejected(look: &Look, taste: Taste, kvs: &[KeyValue]) -> Vec<Difference> {
    let bad = |kv: &&KeyValue| taste != Taste::All && is_bad(kv.value());
    let right: BTreeMap<&[u8], (i64, i64, i64)> = kvs
        .iter()
        .filter(bad)
        .map(|kv| (kv.key(), (kv.create_revision(), kv.mod_revision(), kv.version())))
        .collect();
    let mut listed = BTreeMap::new();
    let mut found = Vec::new();
    for rejected in &look.rejected {
        let numbers = (rejected.create_revision, rejected.mod_revision, rejected.version);
        listed.insert(rejected.key.as_slice(), numbers);
        if rejected.shows_older != look.snapshot.contains(&rejected.key) {
            let said = format!("wrong about what is shown: {rejected:?}");
            found.push(Difference { key: rejected.key.clone(), said });
        }
    }
    for key in right.keys().chain(listed.keys()) {
        let (right, listed) = (right.get(key), listed.get(key));
        if right != listed {
            let said = format!("rejected: {listed:?} listed instead of {right:?}");
            found.push(Difference { key: key.to_vec(), said });
        }
    }
    found
}
