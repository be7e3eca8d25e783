//! What was true when: the history of every era of the store, and the comparison of views with it.
//!
//! An era begins with the store, and anew with every restore. Owns the truth only; must not know how a
//! view came about.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use etcd_keyspace::testing::FakeEtcd;
use etcd_keyspace::{BadValues, Entry, Event, KeyRange, RawKeyValue, Rejected, Revision};
use tokio::time::Instant;

use crate::fake::PREFIX;
use crate::reader::Reader;
use crate::unfound::looks_the_same;
use crate::value::Value;

pub(crate) type SharedTruth = Arc<Mutex<Truth>>;
pub(crate) type Shown = Arc<Entry<Value>>;

/// The states of one key, ascending by revision; `None` is a deletion.
type States = Vec<(Revision, Option<RawKeyValue>)>;

#[derive(Clone, Default)]
struct Era {
    keys: BTreeMap<Vec<u8>, States>,
    last: Revision,
    /// The raft term and the compaction when clients first reached it.
    opened: Option<(u64, Revision)>,
    /// The compaction when the store went back.
    compacted: Revision,
    /// The revision of an answer that every mirror got.
    answered: Option<Revision>,
}

impl Era {
    fn live(&self, at: Revision) -> Vec<&RawKeyValue> {
        self.keys.values().filter_map(|states| alive(states, at)).collect()
    }

    /// The lowest raft term that it showed.
    fn term(&self) -> u64 {
        self.opened.map_or(0, |(term, _)| term)
    }

    fn record(&self, key: &[u8], at: Revision) -> Option<&RawKeyValue> {
        alive(self.keys.get(key)?, at)
    }
}

fn alive(states: &States, at: Revision) -> Option<&RawKeyValue> {
    let after = states.partition_point(|(revision, _)| *revision <= at);
    states[..after].last()?.1.as_ref()
}

pub(crate) struct Truth {
    etcd: FakeEtcd,
    eras: Vec<Era>,
    /// When the store reached which revision, in the era of now.
    commits: VecDeque<(Instant, Revision)>,
    /// Events are forged, so that a value may have come with numbers that it never had.
    forged: bool,
}

impl Truth {
    pub(crate) fn new(etcd: FakeEtcd, forged: bool) -> SharedTruth {
        let opened = Some((etcd.header().raft_term, 0));
        let eras = vec![Era { opened, ..Era::default() }];
        Arc::new(Mutex::new(Truth { etcd, eras, commits: VecDeque::new(), forged }))
    }

    /// Takes in what was written since.
    pub(crate) fn refresh(&mut self) {
        let now = self.etcd.revision();
        let era = self.eras.last_mut().expect("there is an era");
        if now == era.last {
            return;
        }
        for event in self.etcd.history(&KeyRange::prefix(PREFIX), era.last + 1) {
            let revision = event.mod_revision();
            let states = era.keys.entry(event.key().to_vec()).or_default();
            states.push(match event {
                Event::Put(kv) => (revision, Some(kv)),
                Event::Delete { .. } => (revision, None),
            });
        }
        era.last = now;
        self.commits.push_back((Instant::now(), now));
    }

    /// The store is about to go back to `revision`; call [`refresh`](Truth::refresh) after it.
    pub(crate) fn begin_era(&mut self, revision: Revision) {
        self.refresh();
        let compacted = self.etcd.compacted();
        let left = self.eras.last_mut().expect("there is an era");
        left.compacted = compacted;
        let mut era = left.clone();
        for states in era.keys.values_mut() {
            states.retain(|(at, _)| *at <= revision);
        }
        (era.last, era.opened, era.answered, era.compacted) = (revision, None, None, 0);
        self.eras.push(era);
        self.commits.clear();
    }

    /// Records that clients can reach the store.
    pub(crate) fn open_era(&mut self) {
        let opened = (self.etcd.header().raft_term, self.etcd.compacted());
        self.eras.last_mut().expect("there is an era").opened.get_or_insert(opened);
    }

    /// Records that every mirror got an answer at the store's current revision.
    pub(crate) fn note_answer(&mut self) {
        let revision = self.etcd.revision();
        self.eras.last_mut().expect("there is an era").answered.get_or_insert(revision);
    }

    pub(crate) fn eras(&self) -> usize {
        self.eras.len()
    }

    /// Whether two eras have the same content at some revision from `from` on.
    pub(crate) fn agree(&self, old: usize, new: usize, from: Revision) -> bool {
        let (was, is) = (&self.eras[old], &self.eras[new]);
        (from..=was.last.min(is.last)).any(|at| was.live(at) == is.live(at))
    }

    /// Whether a mirror may take era `new` for `old`, if it compares all content of at most `budget` keys and
    /// its revision was `from` or later when it connected to the new store.
    ///
    /// Never after evidence: an answer below its revision, or with a lower raft term. Never where its
    /// revision is compacted, since it reloads then.
    pub(crate) fn may_confuse(
        &self,
        old: usize,
        new: usize,
        from: Revision,
        budget: usize,
    ) -> bool {
        let (was, is) = (&self.eras[old], &self.eras[new]);
        let Some((term, compacted)) = is.opened else { return false };
        // Between two eras another one with equal content may have made its own terms the measure.
        let newest = new + 1 == self.eras.len() && new == old + 1;
        // A member may have been proven by content under that term, before a higher one was known.
        let known = self.eras[..old].iter().any(|era| era.term() == term);
        let lower = newest && !known && self.etcd.header().raft_term < was.term();
        let from = from.max(compacted);
        let until = was.last.min(is.last).min(is.answered.unwrap_or(Revision::MAX));
        let same = |at| {
            let (known, held) = (was.live(at), is.live(at));
            known != held && looks_the_same(&known, &held, budget)
        };
        !(lower && term < was.term()) && (from..=until).any(same)
    }

    /// Whether a server has lost events without a word.
    pub(crate) fn is_tainted(&self) -> bool {
        self.etcd.counts().lost > 0
    }

    /// The greatest compaction of any era after `era`.
    pub(crate) fn compacted_after(&self, era: usize) -> Revision {
        let left = self.eras.iter().skip(era + 1).map(|era| era.compacted);
        left.fold(self.etcd.compacted(), Revision::max)
    }

    /// A revision that the store certainly had at `instant`.
    pub(crate) fn revision_at(&self, instant: Instant) -> Revision {
        let before = self.commits.iter().rev().find(|(at, _)| *at < instant);
        before.map_or(0, |(_, revision)| *revision)
    }

    /// The greatest revision of any era.
    pub(crate) fn greatest_revision(&self) -> Revision {
        self.eras.iter().map(|era| era.last).max().unwrap_or(0)
    }

    pub(crate) fn last_revision(&self, era: usize) -> Revision {
        self.eras[era].last
    }

    /// Whether `shown` is what the policy makes of the store as of `at` in an era; else what is not.
    pub(crate) fn fits<'a>(
        &self,
        era: usize,
        at: Revision,
        bad_values: BadValues,
        shown: impl Iterator<Item = &'a Shown>,
    ) -> Result<(), String> {
        self.fits_within(&KeyRange::all(), era, at, bad_values, shown)
    }

    /// [`fits`](Truth::fits) for the keys of a range.
    pub(crate) fn fits_within<'a>(
        &self,
        range: &KeyRange,
        era: usize,
        at: Revision,
        bad_values: BadValues,
        shown: impl Iterator<Item = &'a Shown>,
    ) -> Result<(), String> {
        let era = &self.eras[era];
        if at > era.last {
            return Err(format!("revision {at} is not reached, the store is at {}", era.last));
        }
        let mut shown = shown.peekable();
        for (key, states) in era.keys.iter().filter(|(key, _)| range.contains(key)) {
            let entry = shown.next_if(|entry| entry.key() == key.as_slice());
            if let Some(stray) = shown.peek().filter(|entry| entry.key() < key.as_slice()) {
                return Err(format!("{} never was there", stray.key().escape_ascii()));
            }
            let record = alive(states, at);
            if !self.fits_record(record, entry, bad_values) {
                let entry = entry.map(numbers);
                let name = key.escape_ascii();
                return Err(format!("{name} at {at} is {record:?}, but {entry:?} is shown"));
            }
        }
        shown
            .next()
            .map_or(Ok(()), |stray| Err(format!("{} never was there", stray.key().escape_ascii())))
    }

    fn fits_record(
        &self,
        record: Option<&RawKeyValue>,
        entry: Option<&Shown>,
        bad_values: BadValues,
    ) -> bool {
        match (record, entry) {
            (None, entry) => entry.is_none(),
            (Some(record), entry) if !Value::is_bad(&record.value) => {
                entry.is_some_and(|entry| is_of(entry, record))
            }
            (Some(_), None) => true,
            // What is kept may even be of a history that was lost since, where compaction hid that.
            (Some(record), Some(entry)) => {
                let states = self.eras.iter().filter_map(|era| era.keys.get(&record.key));
                bad_values == BadValues::KeepLast
                    && entry.create_revision() == record.create_revision
                    && (self.forged || entry.version() < record.version || self.eras.len() > 1)
                    && states.into_iter().any(|states| {
                        once(states, entry)
                            || (self.forged && once_had(states, entry.value().bytes()))
                    })
            }
        }
    }

    /// Each key of a range that ever was, with its record as of `at` in an era.
    pub(crate) fn each_record(
        &self,
        range: &KeyRange,
        era: usize,
        at: Revision,
        mut look: impl FnMut(&[u8], Option<&RawKeyValue>),
    ) {
        for (key, states) in self.eras[era].keys.iter().filter(|(key, _)| range.contains(key)) {
            look(key, alive(states, at));
        }
    }

    /// Whether the keys whose newest value is bad are exactly the rejected ones (C10).
    pub(crate) fn fits_rejected(
        &self,
        era: usize,
        at: Revision,
        rejected: &[Rejected],
    ) -> Result<(), String> {
        let records = self.eras[era].keys.values().filter_map(|states| alive(states, at));
        let bad = records.filter(|record| Value::is_bad(&record.value));
        let bad = bad.map(|kv| (&kv.key, kv.create_revision, kv.mod_revision, kv.version));
        let listed =
            rejected.iter().map(|r| (&r.key, r.create_revision, r.mod_revision, r.version));
        if bad.clone().eq(listed.clone()) {
            return Ok(());
        }
        let (bad, listed): (Vec<_>, Vec<_>) = (bad.collect(), listed.collect());
        Err(format!("bad values at {at} are {bad:?}, but {listed:?} are listed"))
    }

    /// Whether everything shown was true once, at or before `at`: what holds even where a server
    /// loses history without a word.
    pub(crate) fn was_true<'a>(
        &self,
        era: usize,
        at: Revision,
        mut shown: impl Iterator<Item = &'a Shown>,
    ) -> bool {
        let era = &self.eras[era];
        shown.all(|entry| {
            let states = era.keys.get(entry.key());
            entry.mod_revision() <= at && states.is_some_and(|states| once(states, entry))
        })
    }

    /// A key that is not shown, or not listed as rejected, as it is at `at` in the era of now.
    pub(crate) fn wrong_key(&self, at: Revision, reader: &Reader) -> Option<Vec<u8>> {
        let view = reader.ks.read();
        let rejected = reader.ks.rejected();
        let era = &self.eras[self.eras.len() - 1];
        let mut keys = era.keys.iter();
        let wrong = keys.find(|(key, states)| {
            let record = alive(states, at);
            let bad = record.filter(|record| Value::is_bad(&record.value));
            let listed = rejected.iter().find(|listed| listed.key == **key);
            let right = bad.map(|kv| (kv.mod_revision, kv.version))
                == listed.map(|listed| (listed.mod_revision, listed.version));
            !right || !self.fits_record(record, view.get(key), reader.expect.bad_values)
        });
        wrong.map(|(key, _)| key.clone())
    }

    /// Whether the same life of `entry`'s key goes on at `at`, in the era of now.
    pub(crate) fn lives_on(&self, entry: &Shown, at: Revision) -> bool {
        let record = self.eras[self.eras.len() - 1].record(entry.key(), at);
        record.is_some_and(|record| record.create_revision == entry.create_revision())
    }
}

/// Key, value and numbers of an entry.
pub(crate) fn numbers(entry: &Shown) -> (&[u8], &[u8], [i64; 4]) {
    let numbers = [entry.create_revision(), entry.mod_revision(), entry.version(), entry.lease()];
    (entry.key(), entry.value().bytes(), numbers)
}

/// The numbers of a record, as those of an entry.
pub(crate) fn numbers_of(kv: &RawKeyValue) -> [i64; 4] {
    [kv.create_revision, kv.mod_revision, kv.version, kv.lease]
}

fn is_of(entry: &Shown, kv: &RawKeyValue) -> bool {
    numbers(entry) == (kv.key.as_slice(), kv.value.as_slice(), numbers_of(kv))
}

/// Whether the key was once in the state of `entry`.
fn once(states: &States, entry: &Shown) -> bool {
    states.iter().any(|(_, record)| record.as_ref().is_some_and(|kv| is_of(entry, kv)))
}

/// Whether the key once had this value.
fn once_had(states: &States, value: &[u8]) -> bool {
    states.iter().any(|(_, record)| record.as_ref().is_some_and(|kv| kv.value == value))
}
