//! From a complete read to the next view: what is unchanged, and whether it is the same history.
//!
//! Takes pages in ascending order, beside the view they will replace. An entry is unchanged only if its
//! numbers and the hash of its value are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use smallvec::SmallVec;

use super::{Decoding, Edits, Next, Outcome, Shown};
use crate::decode::FormerRejection;
use crate::entry::{Numbers, ValueHash};
use crate::event::{RawKeyValue, Revision};
use crate::known::{BadRecord, KnownKey, Walk};
use crate::packed::Builder;
use crate::view::View;

/// A complete read of the range, taken in page by page beside the view it will replace.
///
/// An entry whose numbers and hash are unchanged keeps its allocation and is not decoded again (C6), also
/// when the read comes from another history.
///
/// A read of the same history can still show that it is another one: see [`contradicts`](Loading::contradicts).
pub(crate) struct Loading<T> {
    /// The known keys of the view that will be replaced; those the read does not have are gone.
    walk: Walk<T>,
    decoding: Decoding<T>,
    edits: Edits<T>,
    removed: usize,
    /// Keys of the read whose newest value a former mirror could not decode.
    former: HashMap<Vec<u8>, FormerRejection>,
    /// While the base is empty, full runs are built directly.
    fresh: Option<Builder<T>>,
    /// Keys whose newest value is rejected while an entry of the base stands in for it.
    stand_ins: Vec<SmallVec<[u8; 64]>>,
    /// Whether the base is taken to be of the history that is read.
    same_history: bool,
    /// Events are known to be lost, so the base may lack writes of its own history.
    doubted: bool,
    contradicted: bool,
    newest: Revision,
}

impl<T: 'static> Loading<T> {
    pub(crate) fn new(
        base: &View<T>,
        decoding: Decoding<T>,
        same_history: bool,
        doubted: bool,
        now: SystemTime,
    ) -> Self {
        Loading {
            walk: Walk::new(base.share()),
            decoding,
            edits: Edits::new(base, now),
            removed: 0,
            former: HashMap::new(),
            fresh: (base.known_keys() == 0).then(Builder::new),
            stand_ins: Vec::new(),
            same_history,
            doubted,
            contradicted: false,
            newest: 0,
        }
    }

    /// Takes in, before any key, what a former mirror showed in place of values that it could not
    /// decode: as if it were delivered again before them.
    pub(crate) fn remember(&mut self, former: Vec<FormerRejection>) {
        self.former.extend(former.into_iter().map(|former| (former.key.clone(), former)));
    }

    /// Takes in the next keys, which continue the former ones in ascending order.
    pub(crate) fn page(&mut self, kvs: Vec<RawKeyValue>) -> Result<(), BadRecord> {
        for kv in kvs {
            self.walk.advance(&kv.key, Numbers::from(&kv))?;
            self.newest = self.newest.max(kv.mod_revision);
            self.key(kv);
        }
        Ok(())
    }

    fn key(&mut self, kv: RawKeyValue) {
        if self.fresh.is_none() {
            self.remove_until(Some(&kv.key));
        }
        let known = self.walk.pass(&kv.key);
        let numbers = Numbers::from(&kv);
        // Only the known write can have the known value; others are hashed when they are decoded.
        let same = known.filter(|known| known.numbers.is_same_write(numbers));
        let same = same.filter(|known| {
            known.numbers.lease == kv.lease && known.value == ValueHash::of(&kv.value)
        });
        self.contradicted |= same.is_none() && self.contradicts(known, numbers.mod_revision);
        if let Some(known) = same.filter(|known| known.numbers == numbers) {
            if known.rejected && known.entry.is_some() {
                self.stand_ins.push(SmallVec::from_slice(&kv.key));
            }
            return;
        }
        let key: SmallVec<[u8; 64]> = SmallVec::from_slice(&kv.key);
        let base = &self.walk.base;
        let old = known.and_then(|known| known.entry);
        let old = old.and_then(|rank| base.entries.all().nth(rank));
        let former = if self.former.is_empty() { None } else { self.former.remove(key.as_slice()) };
        let (since, last_good) = match former {
            Some(former) => (Some(former.since), former.last_good),
            None => (None, None),
        };
        let last_good = last_good.filter(|good| {
            let life = good.create_revision == kv.create_revision;
            life && good.mod_revision < kv.mod_revision && Numbers::from(good).is_possible()
        });
        let mut outcome = self.decoding.decide(last_good.into_iter().chain([kv]), old);
        outcome.since = since;
        if let (Some(builder), Shown::Entry(entry)) = (&mut self.fresh, &outcome.shown) {
            // `page` has checked that keys ascend, so the builder takes it.
            let _ = builder.push(Arc::clone(entry));
            if outcome.rejected.is_none() {
                return;
            }
        }
        let place = base.entries.place(&key);
        let stands_in = outcome.rejected.is_some() && matches!(outcome.shown, Shown::Same);
        self.edits.book(&key, place, outcome);
        if stands_in {
            self.stand_ins.push(key);
        }
    }

    /// Whether a write at `mod_revision` that is not the known one of its key shows another history.
    ///
    /// A key's newest write cannot be older than, or other than, the known one at its revision. And
    /// through its confirmed revision the base has every write, unless events were lost.
    fn contradicts(&self, known: Option<KnownKey>, mod_revision: Revision) -> bool {
        let confirmed = self.walk.base.confirmed;
        let complete = confirmed > 0 && !self.doubted;
        known.is_some_and(|known| mod_revision <= known.numbers.mod_revision)
            || (complete && mod_revision <= confirmed)
    }

    /// Whether a key so far cannot be in the history of the base.
    pub(crate) fn contradicted(&self) -> bool {
        self.contradicted
    }

    /// Books the known keys below `key` (all left, without one) as gone.
    fn remove_until(&mut self, key: Option<&[u8]>) {
        while let Some(gone) = self.walk.missing(key) {
            self.removed += 1;
            let place = self.walk.base.entries.place(&gone);
            self.edits.book(
                &gone,
                place,
                Outcome { shown: Shown::Nothing, rejected: None, since: None },
            );
        }
    }

    /// After the last page: how many of how many known keys showing this read would remove.
    pub(crate) fn removed(&mut self) -> (usize, usize) {
        if self.fresh.is_none() {
            self.remove_until(None);
        }
        (self.removed, self.walk.base.known_keys())
    }

    /// The greatest `mod_revision` among the keys so far.
    pub(crate) fn newest(&self) -> Revision {
        self.newest
    }

    /// The view as of `revision`, which moves its revision only when something changed (C1).
    pub(crate) fn finish(mut self, revision: Revision) -> Next<T> {
        self.removed();
        let first = self.walk.base.revision == 0;
        let edited = !self.edits.entries.is_empty() || !self.edits.rejected.is_empty();
        let mut next = self.edits.finish();
        if let Some(fresh) = self.fresh.take().map(Builder::finish).filter(|f| f.len() > 0) {
            // Nothing was shown before, so only rejected values went through the edits; what is shown in
            // their place is in both.
            next.view.entries = fresh;
            next.changes = None;
        }
        if first || edited || next.changes.is_none() || !self.same_history {
            next.view.revision = revision;
        }
        next.view.confirmed = revision;
        next.view.loaded = revision;
        if !self.same_history || self.contradicted {
            // The values that stand in are of the former history; this one may never have had them.
            next.hide(self.stand_ins.iter().map(SmallVec::as_slice));
        }
        next
    }
}
