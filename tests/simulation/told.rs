//! What one consumer was told of a range, and whether that was shown and was so.
//!
//! Owns the comparison of what somebody folded with what the mirror showed at the told revision of the
//! told epoch, and with the store. Must not know how it was told.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_keyspace::{Delta, KeyRange, KeySpace, Revision, View};

use crate::observed::{Expect, Plain, SharedFolded};
use crate::reader::Reader;
use crate::truth::{SharedTruth, Shown, numbers};
use crate::value::Value;

/// An epoch, and a revision of it.
pub(crate) type At = (u64, Revision);

/// Who knows what was shown by a key space, and what the store was.
#[derive(Clone)]
pub(crate) struct Judge {
    pub(crate) ks: KeySpace<Value>,
    expect: Expect,
    truth: SharedTruth,
    folded: SharedFolded,
    may_stop: bool,
}

impl Judge {
    pub(crate) fn of(reader: &Reader) -> Self {
        Judge {
            ks: reader.ks.clone(),
            expect: reader.expect,
            truth: Arc::clone(&reader.truth),
            folded: Arc::clone(&reader.folded),
            may_stop: reader.policy == etcd_keyspace::OnHistoryChange::Stop,
        }
    }

    /// Whether the key space may have stopped before it is told to.
    pub(crate) fn may_stop(&self) -> bool {
        self.may_stop && self.truth.lock().unwrap().eras() > 1
    }

    /// Calls `look` with what was shown of a range at a revision of an epoch. Steps that changed no
    /// entry are not recorded, so that is what was recorded last before it.
    pub(crate) fn shown<R>(
        &self,
        range: &KeyRange,
        at: At,
        look: impl FnOnce(&mut dyn Iterator<Item = &Plain>) -> R,
    ) -> R {
        let folded = self.folded.lock().unwrap();
        let recorded = folded.record.range(..=at).next_back();
        let all = recorded.into_iter().flat_map(|(_, all)| all);
        look(&mut all.filter(|(key, ..)| range.contains(key)))
    }

    /// What is told of a range is what was shown at that revision, and what the store was.
    pub(crate) fn check<'a>(
        &self,
        range: &KeyRange,
        at: At,
        told: impl Iterator<Item = &'a Shown> + Clone,
    ) {
        let same = self.shown(range, at, |shown| same(told.clone(), shown));
        assert!(same, "C6: a consumer of {range:?} knows what was not shown at {at:?}");
        self.check_truth(range, at.1, told);
    }

    /// What is told of a range is what an honest store was at that revision, shown or not.
    pub(crate) fn check_truth<'a>(
        &self,
        range: &KeyRange,
        revision: Revision,
        told: impl Iterator<Item = &'a Shown>,
    ) {
        if self.expect.honest {
            let mut truth = self.truth.lock().unwrap();
            truth.refresh();
            let fits = truth.fits_within(range, 0, revision, self.expect.bad_values, told);
            fits.unwrap_or_else(|what| panic!("C2: a consumer of {range:?} is told: {what}"));
        }
    }

    /// The same for a consumer that keeps a mark of each entry that it lets in; what the store had is
    /// asked where its value can be decoded.
    pub(crate) fn check_marks(
        &self,
        range: &KeyRange,
        at: At,
        mark: impl Fn(&[u8], [i64; 4]) -> Option<i64>,
        told: &BTreeMap<Vec<u8>, i64>,
    ) {
        let mut told_of = told.iter();
        let same = self.shown(range, at, |shown| {
            let marked = shown.filter_map(|(key, value, of)| Some((key, mark(value, *of)?)));
            marked.eq(told_of.by_ref().map(|(key, mark)| (key, *mark)))
        });
        assert!(same, "MO-2: a follower of {range:?} at {at:?} keeps {told:?}");
        if !self.expect.honest {
            return;
        }
        let mut truth = self.truth.lock().unwrap();
        truth.refresh();
        truth.each_record(range, 0, at.1, |key, record| {
            let marked = match record {
                Some(kv) if Value::is_bad(&kv.value) => return,
                Some(kv) => mark(&kv.value, crate::truth::numbers_of(kv)),
                None => None,
            };
            let name = key.escape_ascii();
            assert_eq!(told.get(key).copied(), marked, "MO-2: {name} at {at:?}");
        });
    }
}

/// The fold of what a consumer of net changes received.
pub(crate) struct Told {
    pub(crate) judge: Judge,
    pub(crate) range: KeyRange,
    pub(crate) at: At,
    entries: BTreeMap<Vec<u8>, Shown>,
}

impl Told {
    pub(crate) fn nothing(judge: Judge, range: KeyRange) -> Self {
        Told { judge, range, at: (0, 0), entries: BTreeMap::new() }
    }

    /// Takes a difference that was just made, so that it leads to what is shown now.
    pub(crate) fn fold(&mut self, delta: &Delta<Value>) {
        let (epoch, from, to) = (delta.epoch(), delta.from_revision(), delta.to_revision());
        let first = self.at == (0, 0);
        assert!(first == (from == 0), "C6: from {from} after {:?}", self.at);
        assert!(first || !delta.is_empty(), "C6: an item that says nothing");
        assert!((epoch, to) > self.at, "C6: {:?} after {:?}", (epoch, to), self.at);
        if epoch == self.at.0 {
            assert!((self.at.1..to).contains(&from), "C6: from {from}, told until {:?}", self.at);
        }
        let keys = delta.iter().map(|change| change.key());
        assert!(keys.is_sorted_by(|a, b| a < b), "C6: each key once, ascending");
        for change in delta {
            assert!(self.range.contains(change.key()), "C6: {change:?} is outside");
            let known = self.entries.remove(change.key());
            let (known, old) = (known.as_ref().map(Arc::as_ptr), change.old().map(Arc::as_ptr));
            assert_eq!(known, old, "resumable: {change:?} does not follow what was told");
            self.entries.extend(change.new().map(|new| (new.key().to_vec(), Arc::clone(new))));
        }
        self.at = (epoch, to);
        self.judge.check(&self.range, self.at, self.entries.values());
        self.expect_now();
    }

    /// Whoever has been told everything knows what is shown now.
    pub(crate) fn expect_now(&self) {
        let view = self.judge.ks.read();
        let shown = part(&view, &self.range).map(Arc::as_ptr);
        let same = shown.eq(self.entries.values().map(Arc::as_ptr));
        assert!(same, "C6: a consumer of {:?} is not told of a change", self.range);
        assert!(self.at <= (view.epoch(), view.revision()), "C6: told of the future");
    }
}

/// Whether entries are those that were recorded.
pub(crate) fn same<'a>(
    mut told: impl Iterator<Item = &'a Shown>,
    mut recorded: &mut dyn Iterator<Item = &Plain>,
) -> bool {
    let each = Iterator::all(&mut recorded, |(key, value, of)| {
        told.next().is_some_and(|entry| numbers(entry) == (key.as_slice(), value.as_slice(), *of))
    });
    each && told.next().is_none()
}

/// What a view shows of a range.
pub(crate) fn part<'a>(
    view: &'a View<Value>,
    range: &'a KeyRange,
) -> impl Iterator<Item = &'a Shown> {
    view.iter().filter(|entry| range.contains(entry.key()))
}
