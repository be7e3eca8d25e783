//! What an observer is shown: etcd's guarantees for a watch, held at the mirror's own boundary.
//!
//! etcd promises that events are ordered, unique, atomic, reliable, resumable and bookmarkable. Here
//! the same is asked of deltas, over all reconnects and reloads. Owns the folding of deltas and these
//! checks; must not know what is done to the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use etcd_keyspace::{
    BadValues, Change, Delta, DeltaOrigin, Derived, KeySpace, Observer, Revision, View,
};

use crate::fake::PREFIX;
use crate::truth::{SharedTruth, Shown, numbers};
use crate::value::{Observing, Value};

/// What observers are to be held to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expect {
    pub(crate) bad_values: BadValues,
    /// Servers and network are honest and history is one, so that nothing but the truth is shown.
    pub(crate) honest: bool,
    /// Nothing is forged and nothing lost without a word, so that revisions are shown whole.
    pub(crate) whole: bool,
}

/// An entry by value: key, value and numbers.
pub(crate) type Plain = (Vec<u8>, Vec<u8>, [i64; 4]);

/// What an observer knows: the entries it folds from deltas, and how far it was told they reach.
pub(crate) struct Folded {
    truth: SharedTruth,
    expect: Expect,
    pub(crate) entries: BTreeMap<Vec<u8>, Shown>,
    epoch: u64,
    revision: Revision,
    /// The greatest confirmed revision that anybody was told in this epoch.
    pub(crate) bookmark: Revision,
    pub(crate) steps: u64,
    /// What was shown in which epoch at which revision, after each step that changed entries.
    pub(crate) record: BTreeMap<(u64, Revision), Vec<Plain>>,
    /// Which observer's turn it is.
    turn: usize,
}

pub(crate) type SharedFolded = Arc<Mutex<Folded>>;

impl Folded {
    pub(crate) fn new(truth: SharedTruth, expect: Expect) -> SharedFolded {
        Arc::new(Mutex::new(Folded {
            truth,
            expect,
            entries: BTreeMap::new(),
            epoch: 0,
            revision: 0,
            bookmark: 0,
            steps: 0,
            record: BTreeMap::new(),
            turn: 0,
        }))
    }

    fn take(&mut self, delta: &Delta<Value>, view: &View<Value>) {
        self.steps += 1;
        let anew = view.epoch() != self.epoch;
        assert!(view.epoch() >= self.epoch, "C6: the epoch went back");
        if anew {
            (self.epoch, self.revision, self.bookmark) = (view.epoch(), 0, 0);
        }
        self.check_order(delta, view);
        for change in delta {
            self.check_change(change, delta, view, anew);
            let old = self.entries.remove(change.key());
            let was = change.old();
            let same = match (&old, was) {
                (Some(old), Some(was)) => Arc::ptr_eq(old, was),
                (old, was) => old.is_none() && was.is_none(),
            };
            assert!(same, "resumable: {change:?} does not follow what was told before");
            if let Some(new) = change.new() {
                self.entries.insert(new.key().to_vec(), Arc::clone(new));
            }
        }
        assert!(
            view.iter().map(Arc::as_ptr).eq(self.entries.values().map(Arc::as_ptr)),
            "C4, C6: the delta is not exactly what changed"
        );
        if self.expect.whole {
            check_groups(view);
        }
        if self.expect.honest {
            let mut truth = self.truth.lock().unwrap();
            truth.refresh();
            let era = truth.eras() - 1;
            let fits = truth.fits(era, view.confirmed(), self.expect.bad_values, view.iter());
            fits.unwrap_or_else(|what| panic!("C2, reliable: {what}"));
        }
        let plain = view.iter().map(|entry| {
            let (key, value, numbers) = numbers(entry);
            (key.to_vec(), value.to_vec(), numbers)
        });
        self.record.insert((view.epoch(), view.revision()), plain.collect());
        self.revision = view.revision();
        self.bookmark = self.bookmark.max(view.confirmed());
    }

    fn check_order(&self, delta: &Delta<Value>, view: &View<Value>) {
        let (from, to) = (delta.from_revision(), delta.to_revision());
        assert_eq!(to, view.revision(), "C4: a delta leads to the view that is shown with it");
        assert!(!delta.is_empty(), "C4: a step without a change");
        match delta.origin() {
            DeltaOrigin::Registration => {
                assert_eq!(self.steps, 1, "C4: everything is shown once, at first");
                assert!(view.revision() <= view.confirmed(), "C1");
                return;
            }
            DeltaOrigin::Events => {
                assert!(self.revision < to, "ordered: {to} after {}", self.revision);
                assert!(to > self.bookmark, "bookmarkable: {to} after {}", self.bookmark);
            }
            _ => {
                assert!(to >= self.revision, "C6: {to} after {}", self.revision);
                assert!(to >= self.bookmark, "C6: {to} after {}", self.bookmark);
            }
        }
        // A step without net change moves the revision without a delta, hence not equality.
        assert!(from >= self.revision, "resumable: from {from}, told until {}", self.revision);
        assert_eq!(view.revision(), view.confirmed(), "C1, C2: after events and loads");
    }

    fn check_change(
        &self,
        change: &Change<Value>,
        delta: &Delta<Value>,
        view: &View<Value>,
        anew: bool,
    ) {
        let events = delta.origin() == DeltaOrigin::Events;
        if let Some(new) = change.new() {
            let revision = new.mod_revision();
            assert!(revision <= delta.to_revision(), "C1: {change:?} at {revision}");
            if events {
                assert!(revision > delta.from_revision(), "unique: {change:?} at {revision}");
                assert!(revision > self.bookmark, "bookmarkable: {change:?} at {revision}");
            }
        }
        let one = self.expect.honest && !anew;
        if let (Some(old), Some(new), true) = (change.old(), change.new(), one) {
            assert_ne!(numbers(old), numbers(new), "C6: {change:?} changes nothing");
        }
        let keeps = self.expect.honest && self.expect.bad_values == BadValues::KeepLast;
        if let (Change::Removed(old), true) = (change, keeps) {
            let mut truth = self.truth.lock().unwrap();
            truth.refresh();
            assert!(!truth.lives_on(old, view.confirmed()), "C10: {change:?} loses the last value");
        }
    }

    /// Takes its turn among the observers of a step.
    fn turn(&mut self, expected: usize, next: usize) {
        assert_eq!(self.turn, expected, "C4: observers run in order, once per step");
        self.turn = next;
    }
}

/// C3, atomic: the keys of the group are only ever written and deleted together.
pub(crate) fn check_groups(view: &View<Value>) {
    let group = view.prefix(format!("{PREFIX}g"));
    assert!([0, 4].contains(&group.len()), "C3, atomic: {} keys of a group", group.len());
    let mut revisions = group.iter().map(|entry| entry.mod_revision());
    let first = revisions.next();
    assert!(revisions.all(|revision| Some(revision) == first), "C3, atomic: a group is torn");
}

/// The revisions of all keys, kept by an observer.
pub(crate) type Index = BTreeMap<Vec<u8>, Revision>;

/// Registers the observers of a key space: the fold, derived state, and one that sees both.
pub(crate) fn register(ks: &KeySpace<Value>, folded: &SharedFolded) -> Derived<Index> {
    let fold = Arc::clone(folded);
    ks.observe(move |delta, view, _| {
        let _observing = Observing::begin();
        let mut fold = fold.lock().unwrap();
        fold.turn(0, 1);
        fold.take(delta, view);
    });
    let fold = Arc::clone(folded);
    let index = ks.derive(Index::new(), move |index, delta, _, _| {
        let _observing = Observing::begin();
        fold.lock().unwrap().turn(1, 2);
        for change in delta {
            index.remove(change.key());
            index.extend(change.new().map(|new| (new.key().to_vec(), new.mod_revision())));
        }
    });
    let (fold, token) = (Arc::clone(folded), index.clone());
    ks.observe(move |_, view, earlier| {
        let _observing = Observing::begin();
        fold.lock().unwrap().turn(2, 0);
        assert_index(earlier.derived(&token), view);
    });
    index
}

/// C4: derived state is of exactly the view it is read with.
pub(crate) fn assert_index(index: &Index, view: &View<Value>) {
    let entries = view.iter().map(|entry| (entry.key(), entry.mod_revision()));
    let derived = index.iter().map(|(key, revision)| (key.as_slice(), *revision));
    assert!(entries.eq(derived), "C4: derived state is not of this view");
}

/// Registers one observer late, which is shown everything first, and the deltas from there.
pub(crate) fn register_late(ks: &KeySpace<Value>, truth: SharedTruth, expect: Expect) -> Observer {
    let folded = Folded::new(truth, expect);
    ks.observe(move |delta, view, _| {
        let _observing = Observing::begin();
        folded.lock().unwrap().take(delta, view);
    })
}
