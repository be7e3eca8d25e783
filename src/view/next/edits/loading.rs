//! From a complete read to the next view: what is unchanged, and whether it is the same history.
//!
//! Takes pages in ascending order, beside the view they will replace. An entry is unchanged only if its
//! numbers and the hash of its value are. A page is taken in three parts, of which the middle one may run
//! on several threads; the other two keep the order of the keys.

use std::sync::Arc;
use std::time::SystemTime;

use smallvec::SmallVec;

use super::reading::{Chunk, Chunks, Reading, Undecided};
use super::{Decoding, Edits, Key, NextView, Resolved, Visible};
use crate::model::{Entry, Numbers, RawKeyValue, Revision};
use crate::view::View;
use crate::view::decode::FormerRejection;
use crate::view::packed::{PackedBuilder, Place};

/// A complete read of the range, taken in page by page beside the view it will replace.
///
/// An entry whose numbers and hash are unchanged keeps its allocation and is not decoded again (C6), also
/// when the read comes from another history.
///
/// A read of the same history can still show that it is another one: see [`contradicted`](Loading::contradicted).
pub(crate) struct Loading<T> {
    reading: Reading<T>,
    deciding: Deciding<T>,
    booked: Booked<T>,
    /// Whether the base is taken to be of the history that is read.
    same_history: bool,
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
            reading: Reading::new(base, doubted),
            deciding: Deciding { base: base.share(), decoding },
            booked: Booked {
                edits: Edits::new(base, now),
                fresh: (base.known_keys() == 0).then(PackedBuilder::new),
                stand_ins: Vec::new(),
            },
            same_history,
        }
    }

    /// Takes in, before any key, what a former mirror showed in place of values that it could not
    /// decode: as if it were delivered again before them.
    pub(crate) fn remember(&mut self, former: Vec<FormerRejection>) {
        self.reading.remember(former);
    }

    /// The parts that take in the next keys, which continue the former ones in ascending order.
    ///
    /// Each chunk is to be decided, on any thread, and the results are to be booked in the order of the
    /// chunks. Then [`Chunks::end`] says whether the page was fit.
    pub(crate) fn page(
        &mut self,
        kvs: Vec<RawKeyValue>,
    ) -> (Chunks<'_, T>, &Deciding<T>, &mut Booked<T>) {
        (self.reading.page(kvs), &self.deciding, &mut self.booked)
    }

    /// Whether a key so far cannot be in the history of the base.
    pub(crate) fn contradicted(&self) -> bool {
        self.reading.contradicted
    }

    /// After the last page: how many of how many known keys showing this read would remove.
    pub(crate) fn removed(&mut self) -> (usize, usize) {
        while let Some(gone) = self.reading.gone(None) {
            let place = self.deciding.base.entries.place(&gone);
            self.booked.edits.book(&gone, place, Resolved::of(Visible::Nothing));
        }
        self.reading.removed()
    }

    /// The greatest `mod_revision` among the keys so far.
    pub(crate) fn newest(&self) -> Revision {
        self.reading.newest
    }

    /// The view as of `revision`, which moves its revision only when something changed (C1).
    pub(crate) fn finish(mut self, revision: Revision) -> NextView<T> {
        self.removed();
        let Booked { edits, fresh, mut stand_ins } = self.booked;
        let first = self.deciding.base.revision == 0;
        let edited = !edits.entries.is_empty() || !edits.rejected.is_empty();
        let mut next = edits.finish();
        if let Some(fresh) = fresh.map(PackedBuilder::finish).filter(|f| f.len() > 0) {
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
        if !self.same_history || self.reading.contradicted {
            // The values that stand in are of the former history; this one may never have had them.
            stand_ins.append(&mut self.reading.stand_ins);
            stand_ins.sort_unstable();
            next.hide(stand_ins.iter().map(SmallVec::as_slice));
        }
        next
    }
}

/// Decides what changed keys show. Needs nothing but the base, so chunks may be decided at once.
pub(crate) struct Deciding<T> {
    base: View<T>,
    decoding: Decoding<T>,
}

/// What a key shows next, and its place in the base.
enum Decided<T> {
    Entry(Place, Arc<Entry<T>>),
    /// All that is rare.
    Other(Box<(Key, Place, Resolved<T>)>),
}

/// The results of a chunk, in its order.
pub(crate) struct DecidedChunk<T> {
    keys: Vec<Decided<T>>,
    /// Buffers that the thread which books frees, because it has most likely allocated them.
    _spent: Chunk,
}

impl<T: 'static> Deciding<T> {
    /// Decodes the values of a chunk.
    pub(crate) fn decide(&self, chunk: Chunk) -> DecidedChunk<T> {
        let keys = chunk.keys.into_iter().map(|undecided| self.key(undecided)).collect();
        DecidedChunk { keys, _spent: Chunk::default() }
    }

    /// The same for a chunk whose buffers another thread has allocated.
    ///
    /// Allocators serialize threads that free each other's memory, which costs more than copying it. So
    /// small buffers are copied, and go back with the results.
    pub(crate) fn decide_copied(&self, mut chunk: Chunk) -> DecidedChunk<T> {
        let keys = chunk.keys.iter_mut().map(|undecided| self.key(undecided.copied())).collect();
        DecidedChunk { keys, _spent: chunk }
    }

    fn key(&self, undecided: Undecided) -> Decided<T> {
        let entries = &self.base.entries;
        let (kv, former) = match undecided {
            Undecided::Written { kv, former } => (kv, former),
            Undecided::Gone(key) => {
                let place = entries.place(&key);
                return Decided::Other(Box::new((key, place, Resolved::of(Visible::Nothing))));
            }
        };
        let place = entries.place(&kv.key);
        let (since, last_good) =
            former.map_or((None, None), |former| (Some(former.since), former.last_good));
        let last_good = last_good.filter(|good| {
            let life = good.create_revision == kv.create_revision;
            life && good.mod_revision < kv.mod_revision && Numbers::from(good).is_possible()
        });
        let writes = last_good.into_iter().chain([kv]);
        let outcome = self.decoding.decide(writes, entries.at(&place));
        match (outcome.shown, outcome.rejected) {
            (Visible::Entry(entry), None) => Decided::Entry(place, entry),
            (shown, rejected) => {
                // Every other outcome of a write has a rejected value.
                let key = rejected.as_ref().map_or_else(Key::new, |bad| bad.key.clone());
                Decided::Other(Box::new((key, place, Resolved { shown, rejected, since })))
            }
        }
    }
}

/// The edits of a load so far.
pub(crate) struct Booked<T> {
    edits: Edits<T>,
    /// While the base is empty, full runs are built directly.
    fresh: Option<PackedBuilder<T>>,
    /// Keys whose newest value is rejected while an entry of the base stands in for it.
    stand_ins: Vec<Key>,
}

impl<T> Booked<T> {
    /// Books the next chunk.
    pub(crate) fn book(&mut self, chunk: DecidedChunk<T>) {
        for decided in chunk.keys {
            match decided {
                Decided::Entry(place, entry) => self.entry(place, entry),
                Decided::Other(other) => self.other(*other),
            }
        }
    }

    fn entry(&mut self, place: Place, entry: Arc<Entry<T>>) {
        if let Some(builder) = &mut self.fresh {
            // Keys were found to ascend, so the builder takes it.
            let _ = builder.push(entry);
        } else {
            let key: Key = SmallVec::from_slice(entry.key());
            self.edits.book(&key, place, Resolved::of(Visible::Entry(entry)));
        }
    }

    fn other(&mut self, (key, place, outcome): (Key, Place, Resolved<T>)) {
        if let (Some(builder), Visible::Entry(entry)) = (&mut self.fresh, &outcome.shown) {
            let _ = builder.push(Arc::clone(entry));
        }
        let stands_in = outcome.rejected.is_some() && matches!(outcome.shown, Visible::Same);
        self.edits.book(&key, place, outcome);
        if stands_in {
            self.stand_ins.push(key);
        }
    }
}
