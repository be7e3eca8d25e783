//! What etcd's history was, by a watch of its own, and whether a journal tells the same.
//!
//! Owns the whole history of one prefix and the walk along it. Must not use anything of the mirror.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_client::{Client, CompactionOptions, EventType, GetOptions, WatchOptions, WatchStream};
use etcd_keyspace::journal::{Operation, StoredEvent};
use etcd_keyspace::{RawKeyValue, Revision};

use super::support::within;

type Records = BTreeMap<Vec<u8>, RawKeyValue>;

/// One change, with the record if it is a put.
#[derive(Debug, Clone)]
struct Told {
    revision: Revision,
    key: Vec<u8>,
    put: Option<RawKeyValue>,
}

impl Told {
    fn operation(&self) -> Operation {
        match &self.put {
            Some(kv) if kv.create_revision == kv.mod_revision => Operation::Create,
            Some(_) => Operation::Update,
            None => Operation::Delete,
        }
    }

    /// Makes the change, which has to fit what is there.
    fn apply(&self, records: &mut Records) {
        let before = match &self.put {
            Some(kv) => records.insert(self.key.clone(), kv.clone()),
            None => records.remove(&self.key),
        };
        let fits = before.is_some() != (self.operation() == Operation::Create);
        assert!(fits, "{self:?} after {before:?}");
    }
}

/// Everything that happened below a prefix, as a plain watch of etcd tells it.
pub(crate) struct History {
    watch: WatchStream,
    prefix: String,
    told: Vec<Told>,
    records: Records,
    compacted: Vec<Revision>,
}

impl History {
    /// Begins before the first change.
    pub(crate) async fn of(client: &Client, prefix: &str) -> Self {
        let options = WatchOptions::new().with_prefix().with_start_revision(1);
        let watch = client.watch_client().watch(prefix, Some(options)).await.unwrap();
        let prefix = prefix.to_owned();
        History { watch, prefix, told: vec![], records: Records::new(), compacted: vec![] }
    }

    pub(crate) fn len(&self) -> usize {
        self.told.len()
    }

    /// Takes everything in through a revision at which something changed.
    pub(crate) async fn reach(&mut self, revision: Revision) {
        while self.told.last().map_or(0, |told| told.revision) < revision {
            let message = within("an event", self.watch.message()).await;
            for event in message.unwrap().unwrap().events() {
                let kv = event.kv().unwrap();
                let told = Told {
                    revision: kv.mod_revision(),
                    key: kv.key().to_vec(),
                    put: (event.event_type() == EventType::Put).then(|| record(kv)),
                };
                told.apply(&mut self.records);
                self.told.push(told);
            }
        }
    }

    /// Lets etcd forget what was before the last change, which has to be taken in.
    pub(crate) async fn compact(&mut self, client: &mut Client) {
        let revision = self.told.last().unwrap().revision;
        if self.compacted.last().is_none_or(|last| *last < revision) {
            client.compact(revision, Some(CompactionOptions::new())).await.unwrap();
            self.compacted.push(revision);
        }
    }

    /// Checks that it is what etcd has now, so that it may be believed.
    pub(crate) async fn is_true(&self, client: &mut Client) {
        let options = GetOptions::new().with_prefix();
        let answer = client.get(&*self.prefix, Some(options)).await.unwrap();
        let kvs: Vec<_> = answer.kvs().iter().map(record).collect();
        assert!(kvs.iter().eq(self.records.values()), "the watch did not tell everything");
    }

    /// The first change after a revision, as an index.
    fn after(&self, revision: Revision) -> usize {
        self.told.partition_point(|told| told.revision <= revision)
    }
}

fn record(kv: &etcd_client::KeyValue) -> RawKeyValue {
    RawKeyValue {
        key: kv.key().to_vec(),
        value: kv.value().to_vec(),
        create_revision: kv.create_revision(),
        mod_revision: kv.mod_revision(),
        version: kv.version(),
        lease: kv.lease(),
    }
}

/// How far a journal was followed along the history.
#[derive(Default)]
pub(crate) struct Walk {
    /// The next change.
    at: usize,
    /// The revision through which everything was told.
    through: Revision,
    pub(crate) records: Records,
    /// How often a difference stood for changes after the first load.
    pub(crate) differences: u64,
}

impl Walk {
    /// Follows events that came to the journal, through its cursor.
    pub(crate) fn follow(
        &mut self,
        history: &History,
        events: &[Arc<StoredEvent>],
        cursor: Revision,
    ) {
        let one = |a: &Arc<StoredEvent>, b: &Arc<StoredEvent>| {
            a.synthesized && b.synthesized && a.revision == b.revision
        };
        for events in events.chunk_by(one) {
            let event = &events[0];
            let revision = event.revision.unwrap();
            if event.synthesized {
                self.jump(history, history.after(revision), events);
            } else {
                self.step(history, event);
            }
            self.through = self.through.max(revision);
        }
        self.jump(history, history.after(cursor), &[]);
        assert!(cursor >= self.through, "events beyond the cursor {cursor}");
        self.through = cursor;
    }

    /// An event that etcd sent: the next one.
    fn step(&mut self, history: &History, event: &StoredEvent) {
        let is = |told: &Told| {
            Some(told.revision) == event.revision && Some(&told.key) == event.key.as_ref()
        };
        let at = history.told[self.at..].iter().position(is);
        let at = self.at + at.unwrap_or_else(|| panic!("{event:?} twice, or never in etcd"));
        // Only a reload that found no difference tells nothing of what it passes.
        self.jump(history, at, &[]);
        let told = &history.told[at];
        let value = told.put.as_ref().map_or(&[][..], |kv| &kv.value);
        assert_eq!((event.operation, &event.object[..]), (told.operation(), value), "{event:?}");
        told.apply(&mut self.records);
        self.at = at + 1;
    }

    /// Passes changes up to an index for which these events stand, if that may be.
    fn jump(&mut self, history: &History, to: usize, events: &[Arc<StoredEvent>]) {
        if to == self.at && events.is_empty() {
            return;
        }
        let passed = &history.told[self.at..to];
        let first = self.through == 0;
        // A watch is resumed at its place, not behind it (B8), so that has to be there still.
        let forgotten = history.compacted.iter().any(|compacted| self.through < *compacted);
        assert!(
            first || forgotten,
            "after {}, compacted at {:?}: {events:?} stand for {passed:?}",
            self.through,
            history.compacted.last(),
        );
        let next = history.told.get(to).map(|told| told.revision);
        let whole = passed.last().is_none_or(|last| Some(last.revision) != next);
        assert!(whole, "a part of revision {next:?} is left out");
        let mut records = self.records.clone();
        passed.iter().for_each(|told| told.apply(&mut records));
        let made: Vec<_> = events
            .iter()
            .map(|event| (event.operation, event.key.as_deref().unwrap(), &event.object[..]))
            .collect();
        assert_eq!(made, difference(&self.records, &records), "not the difference");
        self.differences += u64::from(!first);
        self.records = records;
        self.at = to;
    }
}

/// What leads from some records to others, in the order of the keys.
fn difference<'a>(from: &'a Records, to: &'a Records) -> Vec<(Operation, &'a [u8], &'a [u8])> {
    let mut keys: Vec<_> = from.keys().chain(to.keys()).collect();
    keys.sort();
    keys.dedup();
    let mut steps: Vec<(_, &[u8], &[u8])> = Vec::new();
    for key in keys {
        let (before, after) = (from.get(key), to.get(key));
        let same_life =
            before.zip(after).is_some_and(|(b, a)| b.create_revision == a.create_revision);
        if before.is_some() && !same_life {
            steps.push((Operation::Delete, key, &[]));
        }
        match after {
            Some(kv) if same_life && before != after => {
                steps.push((Operation::Update, key, &kv.value));
            }
            Some(kv) if !same_life => steps.push((Operation::Create, key, &kv.value)),
            _ => {}
        }
    }
    steps
}
