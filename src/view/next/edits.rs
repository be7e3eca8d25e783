//! From judged events, or a complete read, to the next view and its exact difference.
//!
//! Owns what a view shows for each key, rejected values included (C10), and for each event where they
//! are told one by one. Decodes, so it runs outside
//! every lock; takes the time as an argument. Must not judge continuity, lock or publish.

mod loading;
mod reading;

use std::sync::Arc;
use std::time::SystemTime;

use smallvec::SmallVec;

use crate::model::{Change, Entry, Event, EventChange, Numbers, RawKeyValue, Trace, ValueHash};
use crate::view::View;
use crate::view::decode::{BadValues, DecodeError, Decoder, Rejection, decode};
use crate::view::next::judge::{Batch, KeyEvents};
use crate::view::packed::{Edit, Place};

pub(crate) use self::loading::Loading;

/// A key, without an allocation up to 64 bytes.
type Key = SmallVec<[u8; 64]>;

/// How values are decoded and what bad ones show; the same for batches and loads.
pub(crate) struct Decoding<T> {
    pub(crate) decoder: Arc<dyn Decoder<T>>,
    pub(crate) bad_values: BadValues,
}

impl<T> Clone for Decoding<T> {
    fn clone(&self) -> Self {
        Decoding { decoder: Arc::clone(&self.decoder), bad_values: self.bad_values }
    }
}

/// What a key is to show next.
enum Visible<T> {
    /// Whatever it showed before.
    Same,
    Nothing,
    Entry(Arc<Entry<T>>),
}

/// The outcome for one key: what it shows, and whether its newest value is rejected.
struct Resolved<T> {
    shown: Visible<T>,
    rejected: Option<Box<Undecodable>>,
    /// Since when it is rejected, where that is known of a former mirror.
    since: Option<SystemTime>,
}

impl<T> Resolved<T> {
    /// An outcome without a rejected value.
    fn of(shown: Visible<T>) -> Self {
        Resolved { shown, rejected: None, since: None }
    }
}

/// A write whose value cannot be decoded.
struct Undecodable {
    key: Key,
    numbers: Numbers,
    value: ValueHash,
    error: DecodeError,
}

impl<T: 'static> Decoding<T> {
    /// Decides what a key shows after `writes`, those of one life of the key, oldest first.
    ///
    /// `old` is its entry before, if it may still be shown. Trying earlier writes makes the result
    /// the same however the writes were batched.
    fn decide(
        &self,
        mut writes: impl DoubleEndedIterator<Item = RawKeyValue>,
        old: Option<&Arc<Entry<T>>>,
    ) -> Resolved<T> {
        let Some(last) = writes.next_back() else {
            return Resolved::of(Visible::Nothing);
        };
        let rejected = match self.entry(last) {
            Ok(entry) => return Resolved::of(Visible::Entry(entry)),
            Err(rejected) => rejected,
        };
        let earlier = match self.bad_values {
            BadValues::Drop => None,
            BadValues::KeepLast => writes.rev().find_map(|kv| self.entry(kv).ok()),
        };
        let shown = match earlier {
            Some(entry) => Visible::Entry(entry),
            None if self.keeps(old, rejected.numbers) => Visible::Same,
            None => Visible::Nothing,
        };
        Resolved { shown, rejected: Some(rejected), since: None }
    }

    /// Decides the same event by event, and notes what each of them changed.
    fn trace(
        &self,
        history: KeyEvents,
        old: Option<&Arc<Entry<T>>>,
        trace: &mut Trace<T>,
    ) -> Resolved<T> {
        let mut shown = old.cloned();
        let mut rejected = None;
        for (at, event) in history.events {
            let (revision, bytes) = (event.mod_revision(), event.bytes());
            rejected = None;
            let next = match event {
                Event::Delete { .. } => None,
                Event::Put(kv) => match self.entry(kv) {
                    Ok(entry) => Some(entry),
                    Err(bad) => {
                        let bad = rejected.insert(bad);
                        shown.clone().filter(|shown| self.keeps(Some(shown), bad.numbers))
                    }
                },
            };
            let changes = match Change::between(shown.as_ref(), next.as_ref()) {
                // Its deletion was not delivered, which only the lenient mode tolerates.
                Some(Change::Replaced { old, new }) => {
                    [Some(Change::Removed(old)), Some(Change::Added(new))]
                }
                change => [change, None],
            };
            let changes = changes.into_iter().flatten();
            trace.effects.extend(changes.map(|change| EventChange { at, revision, change }));
            trace.bytes += bytes;
            shown = next;
        }
        let shown = match (shown, old) {
            (None, _) => Visible::Nothing,
            (Some(shown), Some(old)) if Arc::ptr_eq(&shown, old) => Visible::Same,
            (Some(shown), _) => Visible::Entry(shown),
        };
        Resolved { shown, rejected, since: None }
    }

    /// Whether a key whose newest write, with these numbers, is bad goes on showing `old`.
    fn keeps(&self, old: Option<&Arc<Entry<T>>>, numbers: Numbers) -> bool {
        self.bad_values == BadValues::KeepLast
            && old.is_some_and(|old| old.create_revision() == numbers.create_revision)
    }

    fn entry(&self, kv: RawKeyValue) -> Result<Arc<Entry<T>>, Box<Undecodable>> {
        let numbers = Numbers::from(&kv);
        // The decoder may keep the record's bytes, so the entry's key is made first.
        let key: Key = SmallVec::from_slice(&kv.key);
        let value = ValueHash::of(&kv.value);
        match decode(&*self.decoder, kv) {
            Ok(decoded) => Ok(Arc::new(Entry::decoded(&key, numbers, value, decoded))),
            Err(error) => Err(Box::new(Undecodable { key, numbers, value, error })),
        }
    }
}

/// The next view and what leads to it.
pub(crate) struct NextView<T> {
    pub(crate) view: View<T>,
    /// The exact changes; absent when nothing was shown before, so that all is added.
    pub(crate) changes: Option<Vec<Change<T>>>,
    /// Values that could not be decoded.
    pub(crate) rejected: usize,
}

impl<T> NextView<T> {
    /// Removes the entries that stand in for the rejected values of `keys`, which ascend.
    fn hide<'a>(&mut self, keys: impl IntoIterator<Item = &'a [u8]>) {
        let NextView { view, changes, .. } = self;
        let (mut entries, mut rejected, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        for key in keys {
            let (place, rejected_place) = (view.entries.place(key), view.rejected.place(key));
            let old = view.entries.at(&place).zip(view.rejected.at(&rejected_place));
            let Some((entry, was)) = old else { continue };
            let rejection = Rejection { shown: false, ..was.value().clone() };
            let rejected_without_entry =
                Entry::decoded(key, was.numbers(), was.value_hash(), rejection);
            removed.push(Change::Removed(Arc::clone(entry)));
            entries.push((place, Edit::Remove(key.into())));
            rejected.push((rejected_place, Edit::Put(Arc::new(rejected_without_entry))));
        }
        if removed.is_empty() {
            return;
        }
        view.rejected_without_entry += removed.len();
        view.entries = view.entries.edit(entries);
        view.rejected = view.rejected.edit(rejected);
        if let Some(changes) = changes {
            changes.extend(removed);
            changes.sort_by(|a, b| a.key().cmp(b.key()));
        }
    }
}

/// The edits that lead from one view to the next.
struct Edits<T> {
    base: View<T>,
    now: SystemTime,
    entries: Vec<(Place, Edit<T>)>,
    rejected: Vec<(Place, Edit<Rejection>)>,
    rejected_without_entry: usize,
    /// Values that could not be decoded.
    bad: usize,
    changes: Vec<Change<T>>,
}

impl<T> Edits<T> {
    fn new(base: &View<T>, now: SystemTime) -> Self {
        Edits {
            base: base.share(),
            now,
            entries: Vec::new(),
            rejected: Vec::new(),
            rejected_without_entry: base.rejected_without_entry,
            bad: 0,
            changes: Vec::new(),
        }
    }

    /// Books the outcome for one key, which has `place` among the entries; keys must come ascending.
    fn book(&mut self, key: &[u8], place: Place, outcome: Resolved<T>) {
        let old = self.base.entries.at(&place);
        let rejected_place = self.base.rejected.place(key);
        let was_rejected = self.base.rejected.at(&rejected_place);
        if was_rejected.is_some_and(|rejected| !rejected.value().shown) {
            self.rejected_without_entry -= 1;
        }
        let shows = match &outcome.shown {
            Visible::Same => old.is_some(),
            Visible::Nothing => false,
            Visible::Entry(_) => true,
        };
        match outcome.rejected {
            Some(bad) => {
                let Undecodable { numbers, value, error, .. } = *bad;
                let since = outcome.since.unwrap_or(match (&outcome.shown, was_rejected) {
                    // A good value lay in between, or the key was created anew.
                    (Visible::Entry(_), _) | (_, None) => self.now,
                    (_, Some(was)) if was.create_revision() != numbers.create_revision => self.now,
                    (_, Some(was)) => was.value().since,
                });
                let rejection = Rejection { error: Arc::new(error), since, shown: shows };
                self.rejected_without_entry += usize::from(!shows);
                self.bad += 1;
                let entry = Entry::decoded(key, numbers, value, rejection);
                self.rejected.push((rejected_place, Edit::Put(Arc::new(entry))));
            }
            None if was_rejected.is_some() => {
                self.rejected.push((rejected_place, Edit::Remove(key.into())));
            }
            None => {}
        }
        match outcome.shown {
            Visible::Same => {}
            Visible::Nothing => {
                if let Some(old) = old {
                    self.changes.push(Change::Removed(Arc::clone(old)));
                    self.entries.push((place, Edit::Remove(key.into())));
                }
            }
            Visible::Entry(new) => {
                self.changes.extend(Change::between(old, Some(&new)));
                self.entries.push((place, Edit::Put(new)));
            }
        }
    }

    fn finish(self) -> NextView<T> {
        let mut view = self.base.share();
        if !self.entries.is_empty() {
            view.entries = self.base.entries.edit(self.entries);
        }
        if !self.rejected.is_empty() {
            view.rejected = self.base.rejected.edit(self.rejected);
        }
        view.rejected_without_entry = self.rejected_without_entry;
        NextView { view, changes: Some(self.changes), rejected: self.bad }
    }
}

/// The view after a judged batch. `places` are those of the keys the batch asked
/// for, in `base`. With a `trace`, what each event changes is noted too, which takes decoding every
/// value. Revisions are moved by the caller.
pub(crate) fn after_batch<T: 'static>(
    base: &View<T>,
    batch: Batch,
    places: &[Place],
    decoding: &Decoding<T>,
    now: SystemTime,
    mut trace: Option<&mut Trace<T>>,
) -> NextView<T> {
    let mut edits = Edits::new(base, now);
    for history in batch.keys {
        let place = places[history.asked];
        let key: Key = SmallVec::from_slice(history.key());
        let old = base.entries.at(&place);
        let outcome = match &mut trace {
            Some(trace) => decoding.trace(history, old, trace),
            None => {
                let old = old.filter(|_| !history.deleted);
                decoding.decide(history.into_writes(), old)
            }
        };
        edits.book(&key, place, outcome);
    }
    if let Some(trace) = trace {
        trace.effects.sort_by_key(|effect| effect.at);
    }
    edits.finish()
}
