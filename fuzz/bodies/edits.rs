//! Honest histories in any batching: the key space equals the model after every step.
//!
//! Owns the target `edits`: batches, loads, redelivery and proof of progress, applied by a writer;
//! held snapshots never change and differ exactly as the model does. Must send nothing that an
//! honest server would not: that is `apply`.

use std::sync::{Arc, Mutex};

use etcd_keyspace::{
    Applied, Change, Event, KeySpace, RawKeyValue, Snapshot, WatchResponse, Writer,
};

use super::check;
use super::input::Input;
use super::keys::{any_key, any_probe, key_in, mirrored};
use super::store::{Keys, Store};

const STEPS: usize = 16;
const HELD_MAX: usize = 4;
/// What the keys of a run may weigh, so that long ones do not make it slow.
const KEY_BYTES_MAX: usize = 1 << 18;
/// Enough entries for more than one page of the storage, and steps to match.
const GIANT: u16 = 24_000;
const GIANT_STEPS: usize = 3;
/// How many events all bulks of a run may have, so that no input takes long.
const BULK_EVENTS: u16 = 2500;
const GIANT_BULK_EVENTS: u16 = 9000;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut run = Run::new(&mut input);
    let steps = if input.byte() == 0xb1 {
        run.giant(&mut input);
        GIANT_STEPS
    } else {
        STEPS
    };
    for _ in 0..steps {
        if input.is_empty() {
            break;
        }
        run.step(&mut input);
    }
    for n in 0..run.held.len() {
        run.check_held(n);
    }
}

/// A snapshot with what it showed when it was taken.
struct Held {
    snapshot: Snapshot<Vec<u8>>,
    keys: Keys,
    at: (i64, i64),
}

struct Run {
    ks: KeySpace<Vec<u8>>,
    writer: Writer<Vec<u8>>,
    /// What an observer was shown in the last step.
    observed: Arc<Mutex<Vec<Change<Vec<u8>>>>>,
    store: Store,
    /// How many events bulks may still have.
    bulk_left: u16,
    /// What the view must show, at its revision.
    shown: Keys,
    revision: i64,
    key_bytes: usize,
    last: Vec<WatchResponse>,
    held: Vec<Held>,
}

impl Run {
    fn new(input: &mut Input<'_>) -> Self {
        let range = mirrored(input);
        let (ks, writer) = KeySpace::builder(range).expect("not empty").bytes().writer();
        let observed = Arc::new(Mutex::new(Vec::new()));
        let observing = Arc::clone(&observed);
        ks.observe(move |delta, _, _| observing.lock().unwrap().extend_from_slice(delta.changes()));
        Run {
            ks,
            writer,
            observed,
            store: Store::default(),
            bulk_left: BULK_EVENTS,
            shown: Keys::new(),
            revision: 0,
            key_bytes: 0,
            last: Vec::new(),
            held: Vec::new(),
        }
    }

    fn giant(&mut self, input: &mut Input<'_>) {
        self.bulk_left = GIANT_BULK_EVENTS;
        let family = 7 + input.byte() % 2;
        self.store.begin();
        for n in 0..GIANT {
            self.store.put(&key_in(self.ks.mirrored(), family, n), b"giant", 0);
        }
        self.load();
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(12) {
            0..=6 => self.batch(input),
            7 => {
                for _ in 0..input.below(4) {
                    self.transaction(input);
                }
                self.load();
            }
            8 => self.redeliver(),
            9 => {
                self.store.begin();
                self.writer.confirm(self.store.revision);
                self.check(0);
            }
            10 => self.hold(),
            _ => self.query(input),
        }
    }

    /// The events of one revision, done to the store.
    fn transaction(&mut self, input: &mut Input<'_>) -> Vec<Event> {
        self.store.begin();
        let mut events = Vec::new();
        for _ in 0..=input.below(5) {
            let what = input.below(16);
            if what >= 14 {
                self.bulk(input, what == 15, &mut events);
                continue;
            }
            let key = any_key(input, self.ks.mirrored());
            match what {
                0..=5 => self.put(&key, input.byte(), &mut events),
                6..=8 => events.extend(self.store.delete(&key)),
                9 | 10 => {
                    events.extend(self.store.delete(&key));
                    self.put(&key, input.byte(), &mut events);
                }
                11 => {
                    self.put(&key, 1, &mut events);
                    self.put(&key, 2, &mut events);
                }
                12 => {
                    self.put(&key, 3, &mut events);
                    events.extend(self.store.delete(&key));
                }
                _ => {
                    // An overlapping delete tells of one key twice.
                    let deleted = self.store.delete(&key);
                    events.extend(deleted.iter().chain(&deleted).cloned());
                }
            }
        }
        events
    }

    fn put(&mut self, key: &[u8], value: u8, events: &mut Vec<Event>) {
        if !self.store.keys.contains_key(key) {
            self.key_bytes += key.len();
        }
        if self.key_bytes < KEY_BYTES_MAX {
            events.push(self.store.put(key, &[value], i64::from(value % 2)));
        }
    }

    /// Many keys of one family are written, or every so manyth known key is deleted.
    fn bulk(&mut self, input: &mut Input<'_>, delete: bool, events: &mut Vec<Event>) {
        let (stride, count) = (u16::from(input.byte() % 8) + 1, u16::from(input.byte()));
        let count = self.bulk_left.min(count * 16);
        let count = if count > 2048 { count } else { count / 8 };
        self.bulk_left -= count;
        if delete {
            let skipped = usize::from(input.short()) % (self.store.keys.len() + 1);
            let rest = self.store.keys.keys().skip(skipped).step_by(stride.into());
            let keys: Vec<_> = rest.take(count.into()).cloned().collect();
            events.extend(keys.iter().filter_map(|key| self.store.delete(key)));
        } else {
            let (family, start) = (input.byte(), input.short());
            for n in 0..count {
                let n = start.wrapping_add(n.wrapping_mul(stride));
                self.put(&key_in(self.ks.mirrored(), family, n), 7, events);
            }
        }
    }

    fn batch(&mut self, input: &mut Input<'_>) {
        let mut responses = Vec::new();
        for _ in 0..=input.below(3) {
            let mut events = Vec::new();
            for _ in 0..=input.below(3) {
                events.extend(self.transaction(input));
            }
            let response = self.store.response(events);
            fragments(response, input, &mut responses);
        }
        let events = count(&responses);
        let duplicates = if input.chance(32) { count(&self.last) } else { 0 };
        let mut batch = if duplicates > 0 { self.last.clone() } else { Vec::new() };
        batch.extend(responses.iter().cloned());
        self.last = responses;
        let newest = self.last.iter().flat_map(|response| &response.events).last();
        self.revision = newest.map_or(self.revision, Event::mod_revision);
        // Transactions that came to nothing take a revision here, and no event tells of it.
        self.store.revision = self.writer.view().confirmed().max(self.revision);
        let before = self.ks.snapshot();
        let applied = self.writer.apply(batch).unwrap();
        let changed = self.check(before.confirmed());
        check_counts(&applied, (events, duplicates, changed));
        self.check_allocations(&before);
    }

    fn redeliver(&mut self) {
        let before = self.ks.snapshot();
        let applied = self.writer.apply(self.last.clone()).unwrap();
        assert_eq!(self.check(before.confirmed()), 0);
        check_counts(&applied, (0, count(&self.last), 0));
    }

    fn load(&mut self) {
        // No store answers with the revision 0, and a read of it is refused.
        self.store.revision = self.store.revision.max(1);
        let before = self.ks.snapshot();
        let applied = self.writer.load(self.store.header(), self.store.kvs()).unwrap();
        let changes = check::difference(&self.shown, &self.store.keys).len();
        if changes > 0 || self.revision == 0 {
            // C1: only a load that changed anything moves the revision.
            self.revision = self.store.revision;
        }
        self.check(before.confirmed());
        check_counts(&applied, (0, 0, changes));
        self.check_allocations(&before);
    }

    /// The view shows the store; the observer was shown how it got there. Gives the changes.
    fn check(&mut self, confirmed: i64) -> usize {
        assert!(self.store.revision >= confirmed);
        let at = (self.revision, self.store.revision);
        check::shows(&self.ks.read(), &self.store.keys, at);
        check::shows(self.writer.view(), &self.store.keys, at);
        let observed = std::mem::take(&mut *self.observed.lock().unwrap());
        check::changes(&observed, &self.shown, &self.store.keys);
        self.shown.clone_from(&self.store.keys);
        observed.len()
    }

    /// C6: what did not change is the same allocation.
    fn check_allocations(&self, before: &Snapshot<Vec<u8>>) {
        let view = self.ks.read();
        for old in before.iter() {
            let new = view.get(old.key()).filter(|new| {
                let numbers = (new.create_revision(), new.mod_revision(), new.version());
                numbers == (old.create_revision(), old.mod_revision(), old.version())
            });
            assert!(new.is_none_or(|new| Arc::ptr_eq(old, new)));
        }
    }

    fn hold(&mut self) {
        if self.held.len() == HELD_MAX {
            self.check_held(0);
            self.held.remove(0);
        }
        let at = (self.revision, self.store.revision);
        self.held.push(Held { snapshot: self.ks.snapshot(), keys: self.shown.clone(), at });
    }

    /// A held snapshot shows what it showed, and differs from now as the model does.
    fn check_held(&self, n: usize) {
        let Held { snapshot, keys, at } = &self.held[n];
        check::shows(snapshot, keys, *at);
        let now = self.ks.snapshot();
        check::changes(&now.diff(snapshot), keys, &self.shown);
        check::changes(&snapshot.diff(&now), &self.shown, keys);
        assert!(now.diff(&now.clone()).is_empty());
    }

    fn query(&self, input: &mut Input<'_>) {
        let view = self.ks.read();
        let mirrored = self.ks.mirrored();
        let mut probe = || {
            let probe = any_probe(input, mirrored);
            if mirrored.contains(&probe) { probe } else { mirrored.start().to_vec() }
        };
        let (key, from, to) = (probe(), probe(), probe());
        let all: Vec<_> = self.shown.values().map(|kv| &**kv).collect();
        check::piece(view.all(), &all, &key);
        let rank = all.binary_search_by(|kv| kv.key.cmp(&key));
        assert_eq!(view.search(&key), rank);
        assert_eq!(view.get(&key).is_some(), rank.is_ok());
        let within = |kv: &&RawKeyValue| from <= kv.key && kv.key < to;
        let some: Vec<_> = all.iter().copied().filter(within).collect();
        check::piece(view.range(&from..&to), &some, &key);
        check::walk(view.range(&from..&to), &some, input);
        let some: Vec<_> = all.iter().copied().filter(|kv| kv.key.starts_with(&key)).collect();
        if let Ok(prefixed) = view.try_prefix(&key) {
            check::piece(prefixed, &some, &from);
            check::walk(prefixed, &some, input);
        }
    }
}

fn count(responses: &[WatchResponse]) -> usize {
    responses.iter().map(|response| response.events.len()).sum()
}

fn check_counts(applied: &Applied, counts: (usize, usize, usize)) {
    assert_eq!((applied.events, applied.duplicates, applied.changes), counts);
    assert!(applied.tolerated.is_empty());
}

/// The response as it is, or cut into fragments at any event.
fn fragments(mut response: WatchResponse, input: &mut Input<'_>, into: &mut Vec<WatchResponse>) {
    for _ in 0..input.below(4) {
        let cut = input.below(256) % (response.events.len() + 1);
        let rest = response.events.split_off(cut);
        into.push(WatchResponse { fragment: true, ..response.clone() });
        response.events = rest;
    }
    into.push(response);
}
