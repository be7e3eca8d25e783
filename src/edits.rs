//! From judged events, or a complete read, to the next view and its exact difference.
//!
//! Owns what a view shows for each key, rejected values included (C10). Decodes, so it runs outside
//! every lock; takes the time as an argument. Must not judge continuity, lock or publish.

use std::sync::Arc;
use std::time::SystemTime;

use smallvec::SmallVec;

use crate::batch::Batch;
use crate::decode::{BadValues, DecodeError, Decoder, Rejection, decode};
use crate::delta::Change;
use crate::entry::{Entry, Numbers};
use crate::event::{RawKeyValue, Revision};
use crate::packed::{Builder, Edit, Packed, Place};
use crate::view::View;

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
enum Shown<T> {
    /// Whatever it showed before.
    Same,
    Nothing,
    Entry(Arc<Entry<T>>),
}

/// The outcome for one key: what it shows, and whether its newest value is rejected.
struct Outcome<T> {
    shown: Shown<T>,
    rejected: Option<(Numbers, DecodeError)>,
}

impl<T: 'static> Decoding<T> {
    /// Decides what a key shows after `puts`, the writes of one life of the key, oldest first.
    ///
    /// `old` is its entry before, if it may still be shown. Trying earlier writes makes the result
    /// the same however the writes were batched.
    fn decide(
        &self,
        mut puts: SmallVec<[RawKeyValue; 1]>,
        old: Option<&Arc<Entry<T>>>,
    ) -> Outcome<T> {
        let Some(last) = puts.pop() else {
            return Outcome { shown: Shown::Nothing, rejected: None };
        };
        let numbers = Numbers::from(&last);
        let error = match self.entry(last) {
            Ok(entry) => return Outcome { shown: Shown::Entry(entry), rejected: None },
            Err(error) => error,
        };
        let shown = match self.bad_values {
            BadValues::Drop => Shown::Nothing,
            BadValues::KeepLast => {
                match puts.into_iter().rev().find_map(|kv| self.entry(kv).ok()) {
                    Some(entry) => Shown::Entry(entry),
                    None if old
                        .is_some_and(|old| old.create_revision() == numbers.create_revision) =>
                    {
                        Shown::Same
                    }
                    None => Shown::Nothing,
                }
            }
        };
        Outcome { shown, rejected: Some((numbers, error)) }
    }

    fn entry(&self, kv: RawKeyValue) -> Result<Arc<Entry<T>>, DecodeError> {
        let numbers = Numbers::from(&kv);
        // The decoder may keep the record's bytes, so the entry's key is made first.
        let key: SmallVec<[u8; 64]> = SmallVec::from_slice(&kv.key);
        let value = decode(&*self.decoder, kv)?;
        Ok(Arc::new(Entry::decoded(&key, numbers, value)))
    }
}

/// The edits that lead from one view to the next.
struct Edits<T> {
    base: View<T>,
    now: SystemTime,
    entries: Vec<(Place, Edit<T>)>,
    rejected: Vec<(Place, Edit<Rejection>)>,
    hidden: usize,
    changes: Vec<Change<T>>,
}

impl<T> Edits<T> {
    fn new(base: &View<T>, now: SystemTime) -> Self {
        Edits {
            base: base.share(),
            now,
            entries: Vec::new(),
            rejected: Vec::new(),
            hidden: base.hidden,
            changes: Vec::new(),
        }
    }

    /// Books the outcome for one key, which has `place` among the entries; keys must come ascending.
    fn book(&mut self, key: &[u8], place: Place, outcome: Outcome<T>) {
        let old = self.base.entries.at(&place);
        let rejected_place = self.base.rejected.place(key);
        let was_rejected = self.base.rejected.at(&rejected_place);
        if was_rejected.is_some_and(|rejected| !rejected.value().shown) {
            self.hidden -= 1;
        }
        let shows = match &outcome.shown {
            Shown::Same => old.is_some(),
            Shown::Nothing => false,
            Shown::Entry(_) => true,
        };
        match outcome.rejected {
            Some((numbers, error)) => {
                let since = match (&outcome.shown, was_rejected) {
                    // A good value lay in between, or the key was created anew.
                    (Shown::Entry(_), _) | (_, None) => self.now,
                    (_, Some(was)) if was.create_revision() != numbers.create_revision => self.now,
                    (_, Some(was)) => was.value().since,
                };
                let rejection = Rejection { error: Arc::new(error), since, shown: shows };
                self.hidden += usize::from(!shows);
                let entry = Entry::decoded(key, numbers, rejection);
                self.rejected.push((rejected_place, Edit::Put(Arc::new(entry))));
            }
            None if was_rejected.is_some() => {
                self.rejected.push((rejected_place, Edit::Remove(key.into())));
            }
            None => {}
        }
        match outcome.shown {
            Shown::Same => {}
            Shown::Nothing => {
                if let Some(old) = old {
                    self.changes.push(Change::Removed(Arc::clone(old)));
                    self.entries.push((place, Edit::Remove(key.into())));
                }
            }
            Shown::Entry(new) => {
                self.changes.extend(Change::between(old, Some(&new)));
                self.entries.push((place, Edit::Put(new)));
            }
        }
    }

    /// The next view and the exact changes to it.
    fn finish(self) -> (View<T>, Vec<Change<T>>) {
        let mut view = self.base.share();
        if !self.entries.is_empty() {
            view.entries = self.base.entries.edit(self.entries);
        }
        if !self.rejected.is_empty() {
            view.rejected = self.base.rejected.edit(self.rejected);
        }
        view.hidden = self.hidden;
        (view, self.changes)
    }
}

/// The view after a judged batch, and what it changes. `places` are those of the keys the batch asked
/// for, in `base`. Revisions are moved by the caller.
pub(crate) fn after_batch<T: 'static>(
    base: &View<T>,
    batch: Batch,
    places: &[Place],
    decoding: &Decoding<T>,
    now: SystemTime,
) -> (View<T>, Vec<Change<T>>) {
    let mut edits = Edits::new(base, now);
    for history in batch.keys {
        let place = places[history.asked];
        let key: SmallVec<[u8; 64]> = SmallVec::from_slice(history.key());
        let old = if history.deleted { None } else { base.entries.at(&place) };
        let outcome = decoding.decide(history.puts, old);
        edits.book(&key, place, outcome);
    }
    edits.finish()
}

/// A complete read of the range, taken in page by page beside the view it will replace.
///
/// An entry whose numbers are unchanged keeps its allocation and is not decoded again (C6).
pub(crate) struct Loading<T> {
    base: View<T>,
    decoding: Decoding<T>,
    edits: Edits<T>,
    /// Ranks of the first known keys of the base not passed yet; those passed without a match are
    /// gone.
    next_entry: usize,
    next_rejected: usize,
    /// While the base is empty, full runs are built directly.
    fresh: Option<Builder<T>>,
    /// Whether equal numbers mean equal values: true within one history only.
    same_history: bool,
    last: Option<Vec<u8>>,
    newest: Revision,
}

/// A page does not continue the read: its keys do not ascend, or are not of the range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {} does not ascend within the range", key.escape_ascii())]
pub(crate) struct Unordered {
    pub(crate) key: Vec<u8>,
}

impl<T: 'static> Loading<T> {
    pub(crate) fn new(
        base: &View<T>,
        decoding: Decoding<T>,
        same_history: bool,
        now: SystemTime,
    ) -> Self {
        Loading {
            base: base.share(),
            decoding,
            edits: Edits::new(base, now),
            next_entry: 0,
            next_rejected: 0,
            fresh: (base.known_keys() == 0).then(Builder::new),
            same_history,
            last: None,
            newest: 0,
        }
    }

    /// Takes in the next keys, which continue the former ones in ascending order.
    pub(crate) fn page(&mut self, kvs: Vec<RawKeyValue>) -> Result<(), Unordered> {
        for kv in kvs {
            let ascends = self.last.as_ref().is_none_or(|last| *last < kv.key);
            if !ascends || !self.base.mirrored.contains(&kv.key) {
                return Err(Unordered { key: kv.key });
            }
            let last = self.last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(&kv.key);
            self.newest = self.newest.max(kv.mod_revision);
            self.key(kv);
        }
        Ok(())
    }

    fn key(&mut self, kv: RawKeyValue) {
        if self.fresh.is_none() {
            self.remove_until(Some(&kv.key));
        }
        let numbers = Numbers::from(&kv);
        let base = &self.base;
        let rejected = at(&base.rejected, self.next_rejected, &kv.key);
        let old = at(&base.entries, self.next_entry, &kv.key);
        self.next_rejected += usize::from(rejected.is_some());
        self.next_entry += usize::from(old.is_some());
        let known = rejected.map(|r| r.numbers()).or_else(|| old.map(|entry| entry.numbers()));
        if self.same_history && known == Some(numbers) {
            return;
        }
        let key = kv.key.clone();
        let old = old.filter(|_| self.same_history);
        let outcome = self.decoding.decide(SmallVec::from_iter([kv]), old);
        match (&mut self.fresh, outcome) {
            (Some(builder), Outcome { shown: Shown::Entry(entry), rejected: None }) => {
                // `page` has checked that keys ascend, so the builder takes it.
                let _ = builder.push(entry);
            }
            (_, outcome) => {
                let place = self.base.entries.place(&key);
                self.edits.book(&key, place, outcome);
            }
        }
    }

    /// Books the known keys below `key` (all left, without one) as gone.
    fn remove_until(&mut self, key: Option<&[u8]>) {
        let base = &self.base;
        let below = |candidate: &&[u8]| key.is_none_or(|key| *candidate < key);
        loop {
            let entry = base.entries.all().nth(self.next_entry).map(|entry| entry.key());
            let rejected = base.rejected.all().nth(self.next_rejected).map(|entry| entry.key());
            let gone = match (entry.filter(below), rejected.filter(below)) {
                (Some(entry), Some(rejected)) => entry.min(rejected),
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => return,
            };
            self.next_entry += usize::from(entry == Some(gone));
            self.next_rejected += usize::from(rejected == Some(gone));
            let place = base.entries.place(gone);
            self.edits.book(gone, place, Outcome { shown: Shown::Nothing, rejected: None });
        }
    }

    /// The greatest `mod_revision` among the keys so far.
    pub(crate) fn newest(&self) -> Revision {
        self.newest
    }

    /// The view as of `revision`, which moves its revision only when something changed (C1), with
    /// the exact changes; without them when nothing was shown before, so that all is added.
    pub(crate) fn finish(mut self, revision: Revision) -> (View<T>, Option<Vec<Change<T>>>) {
        if self.fresh.is_none() {
            self.remove_until(None);
        }
        let first = self.base.revision == 0;
        let edited = !self.edits.entries.is_empty() || !self.edits.rejected.is_empty();
        let (mut view, changes) = self.edits.finish();
        let mut changes = Some(changes);
        if let Some(fresh) = self.fresh.take().map(Builder::finish).filter(|f| f.len() > 0) {
            // Nothing was shown before, so only rejected values went through the edits.
            view.entries = fresh;
            changes = None;
        }
        if first || edited || changes.is_none() || !self.same_history {
            view.revision = revision;
        }
        view.confirmed = revision;
        (view, changes)
    }
}

/// The entry of rank `rank` if its key is `key`.
fn at<'a, E>(packed: &'a Packed<E>, rank: usize, key: &[u8]) -> Option<&'a Arc<Entry<E>>> {
    packed.all().nth(rank).filter(|entry| entry.key() == key)
}
