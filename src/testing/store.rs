//! The multi-version store behind the fake: keys, revisions, the log of changes.
//!
//! Pure. Knows nothing of connections, watchers, faults or time, and never forgets: compaction is a
//! mark that the server half respects, so that a test can ask for the truth at any revision.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::model::{Event, KeyRange, RawKeyValue, Revision};

/// The revision of a store nothing was ever written to.
const FIRST_REVISION: Revision = 1;

/// What etcd says when it refuses a request; the store is unchanged then.
pub(super) type Refusal = &'static str;

const LEASE_NOT_FOUND: Refusal = "etcdserver: requested lease not found";
const FUTURE: Refusal = "etcdserver: mvcc: required revision is a future revision";

/// One operation of a transaction; see [`FakeEtcd::txn`](super::FakeEtcd::txn).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op(OpKind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum OpKind {
    Put { key: Vec<u8>, value: Vec<u8>, lease: i64 },
    Delete(KeyRange),
}

impl Op {
    /// Writes `value` under `key`, attached to no lease.
    #[must_use]
    pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Op(OpKind::Put { key: key.into(), value: value.into(), lease: 0 })
    }

    /// Writes `value` under `key`, attached to `lease`.
    #[must_use]
    pub fn put_leased(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, lease: i64) -> Self {
        Op(OpKind::Put { key: key.into(), value: value.into(), lease })
    }

    /// Deletes `key`, if it is there.
    #[must_use]
    pub fn delete(key: impl Into<Vec<u8>>) -> Self {
        Op(OpKind::Delete(KeyRange::key(key)))
    }

    /// Deletes every key of `range`.
    #[must_use]
    pub fn delete_range(range: impl Into<KeyRange>) -> Self {
        Op(OpKind::Delete(range.into()))
    }
}

/// A change as the log keeps it; records are shared with the key index.
#[derive(Debug, Clone)]
enum Change {
    Put(Arc<RawKeyValue>),
    Delete(Vec<u8>),
}

impl Change {
    fn key(&self) -> &[u8] {
        match self {
            Change::Put(record) => &record.key,
            Change::Delete(key) => key,
        }
    }

    fn event(&self, revision: Revision) -> Event {
        match self {
            Change::Put(record) => Event::Put(RawKeyValue::clone(record)),
            Change::Delete(key) => Event::Delete { key: key.clone(), mod_revision: revision },
        }
    }
}

/// One state of one key, from `revision` on; no record means deleted.
#[derive(Debug, Clone)]
struct Node {
    revision: Revision,
    record: Option<Arc<RawKeyValue>>,
}

/// The changes of one revision that lie in a range.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) revision: Revision,
    pub(super) events: Vec<Event>,
}

/// Keys with all their versions, and the same changes again in the order they were made.
#[derive(Debug)]
pub(super) struct Store {
    revision: Revision,
    /// History before this revision is gone for clients; zero until the first compaction.
    compacted: Revision,
    /// Nodes ascending by revision, and by order within a transaction.
    keys: BTreeMap<Vec<u8>, Vec<Node>>,
    /// No entry for a revision that a restore jumped over; every entry has a change.
    log: BTreeMap<Revision, Vec<Change>>,
    leases: BTreeSet<i64>,
    next_lease: i64,
}

impl Store {
    pub(super) fn new() -> Self {
        Store {
            revision: FIRST_REVISION,
            compacted: 0,
            keys: BTreeMap::new(),
            log: BTreeMap::new(),
            leases: BTreeSet::new(),
            next_lease: 0x6c65_0001,
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Runs `ops` as one transaction and returns the store's revision after it.
    ///
    /// Each operation sees the ones before it, as in etcd (mvcc: `storeTxnWrite`). A transaction that
    /// changes nothing takes no revision, and a refused one changes nothing.
    pub(super) fn apply(&mut self, ops: Vec<Op>) -> Result<Revision, Refusal> {
        ops.iter().try_for_each(|op| self.check(op))?;
        let revision = self.revision + 1;
        let mut changes = Vec::new();
        for op in ops {
            match op.0 {
                OpKind::Put { key, value, lease } => {
                    changes.push(self.put(key, value, lease, revision));
                }
                OpKind::Delete(range) => self.delete(&range, revision, &mut changes),
            }
        }
        if !changes.is_empty() {
            self.log.insert(revision, changes);
            self.revision = revision;
        }
        Ok(self.revision)
    }

    fn check(&self, op: &Op) -> Result<(), Refusal> {
        match &op.0 {
            OpKind::Put { key, .. } if key.is_empty() => Err("etcdserver: key is not provided"),
            OpKind::Put { lease, .. } if *lease != 0 && !self.leases.contains(lease) => {
                Err(LEASE_NOT_FOUND)
            }
            _ => Ok(()),
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>, lease: i64, revision: Revision) -> Change {
        let nodes = self.keys.entry(key.clone()).or_default();
        let before = nodes.last().and_then(|node| node.record.as_deref());
        let record = Arc::new(RawKeyValue {
            key,
            value,
            create_revision: before.map_or(revision, |before| before.create_revision),
            mod_revision: revision,
            version: before.map_or(0, |before| before.version) + 1,
            lease,
        });
        nodes.push(Node { revision, record: Some(Arc::clone(&record)) });
        Change::Put(record)
    }

    fn delete(&mut self, range: &KeyRange, revision: Revision, changes: &mut Vec<Change>) {
        for (key, nodes) in self.keys.range_mut::<[u8], _>(bounds(range)) {
            if nodes.last().is_some_and(|node| node.record.is_some()) {
                nodes.push(Node { revision, record: None });
                changes.push(Change::Delete(key.clone()));
            }
        }
    }

    pub(super) fn grant_lease(&mut self) -> i64 {
        let lease = self.next_lease;
        self.next_lease += 1;
        self.leases.insert(lease);
        lease
    }

    /// Ends a lease and deletes its keys at one revision.
    pub(super) fn revoke_lease(&mut self, lease: i64) -> Result<Revision, Refusal> {
        if !self.leases.remove(&lease) {
            return Err(LEASE_NOT_FOUND);
        }
        let held: Vec<Op> = self
            .live(&KeyRange::all(), self.revision)
            .filter(|record| record.lease == lease)
            .map(|record| Op::delete(record.key.clone()))
            .collect();
        self.apply(held)
    }

    /// Marks history before `revision` as gone. A revision already compacted changes nothing.
    pub(super) fn compact(&mut self, revision: Revision) -> Result<(), Refusal> {
        if revision > self.revision {
            return Err(FUTURE);
        }
        self.compacted = self.compacted.max(revision);
        Ok(())
    }

    /// Goes back to the state of `revision`, as a backup taken then would.
    pub(super) fn restore(&mut self, revision: Revision) -> Result<(), Refusal> {
        if revision > self.revision {
            return Err(FUTURE);
        }
        let revision = revision.max(FIRST_REVISION);
        self.revision = revision;
        self.compacted = self.compacted.min(revision);
        self.log.split_off(&(revision + 1));
        self.keys.retain(|_, nodes| {
            nodes.retain(|node| node.revision <= revision);
            !nodes.is_empty()
        });
        // A backup has the leases of its keys, whatever became of them later.
        let revived: Vec<i64> = self
            .live(&KeyRange::all(), revision)
            .map(|record| record.lease)
            .filter(|lease| *lease != 0)
            .collect();
        self.leases.extend(revived);
        Ok(())
    }

    /// Removes all keys, history and leases. Lease ids are not reused: a server derives them from the
    /// time.
    pub(super) fn wipe(&mut self) {
        *self = Store { next_lease: self.next_lease, ..Store::new() };
    }

    /// Jumps `by` revisions ahead without a write and marks everything before as compacted
    /// (etcdutl: `snapshot restore --bump-revision --mark-compacted`).
    pub(super) fn bump(&mut self, by: u32) {
        self.revision += Revision::from(by);
        self.compacted = self.revision;
    }

    /// The records alive at `revision`, ascending by key; compaction does not matter.
    pub(super) fn live(
        &self,
        range: &KeyRange,
        revision: Revision,
    ) -> impl Iterator<Item = &RawKeyValue> {
        self.keys.range::<[u8], _>(bounds(range)).filter_map(move |(_, nodes)| {
            let after = nodes.partition_point(|node| node.revision <= revision);
            nodes[..after].last()?.record.as_deref()
        })
    }

    /// The revisions `from..=to` that changed `range`, ascending, with their changes in order.
    pub(super) fn history(
        &self,
        range: &KeyRange,
        from: Revision,
        to: Revision,
    ) -> impl Iterator<Item = Committed> {
        let log = (from <= to).then(|| self.log.range(from..=to));
        log.into_iter().flatten().filter_map(move |(&revision, changes)| {
            let mut inside =
                changes.iter().filter(|change| range.contains(change.key())).peekable();
            inside.peek()?;
            let events = inside.map(|change| change.event(revision)).collect();
            Some(Committed { revision, events })
        })
    }
}

/// What compaction at the revision of `events` leaves of them: the last change of each key.
pub(super) fn keep_last_per_key(events: &mut Vec<Event>) {
    let mut seen = HashSet::new();
    let mut kept: Vec<Event> =
        events.drain(..).rev().filter(|event| seen.insert(event.key().to_vec())).collect();
    kept.reverse();
    *events = kept;
}

fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    if range.is_empty() {
        return (Bound::Included(&[]), Bound::Excluded(&[]));
    }
    (Bound::Included(range.start()), range.end().map_or(Bound::Unbounded, Bound::Excluded))
}
