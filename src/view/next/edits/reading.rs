//! A complete read beside the known keys: which of its keys are unchanged, and which are to be decided.
//!
//! Goes through the keys in order and decodes nothing. Changed keys leave in chunks, so that several
//! threads can decode them; a chunk bounds how much one thread takes at a time.

use std::collections::HashMap;
use std::vec;

use smallvec::SmallVec;

use super::Key;
use crate::model::{Numbers, RawKeyValue, Revision, ValueHash};
use crate::view::View;
use crate::view::decode::FormerRejection;
use crate::view::next::walk::{BadRecord, KnownKey, MergeWalk};

/// A chunk ends with the key that reaches one of these: about half a millisecond of decoding JSON.
const CHUNK_KEYS: usize = 512;
const CHUNK_BYTES: usize = 128 << 10;

/// Up to here copying a value costs less than freeing it on another thread.
const COPIED_BYTES: usize = 4096;

/// A key that the read changes.
pub(super) enum Undecided {
    /// The read does not have it.
    Gone(Key),
    Written {
        kv: RawKeyValue,
        former: Option<Box<FormerRejection>>,
    },
}

impl Undecided {
    /// The same in buffers of this thread; a large value is moved.
    pub(super) fn copied(&mut self) -> Self {
        match self {
            Undecided::Gone(key) => Undecided::Gone(key.clone()),
            Undecided::Written { kv, former } => {
                let kv =
                    if kv.value.len() <= COPIED_BYTES { kv.clone() } else { std::mem::take(kv) };
                Undecided::Written { kv, former: former.take() }
            }
        }
    }
}

/// The next keys to be decided, in order.
#[derive(Default)]
pub(crate) struct Chunk {
    pub(super) keys: Vec<Undecided>,
    /// Of keys and values that were written.
    bytes: usize,
}

impl Chunk {
    fn is_full(&self) -> bool {
        self.keys.len() >= CHUNK_KEYS || self.bytes >= CHUNK_BYTES
    }
}

/// Where a complete read stands, beside the view it will replace.
pub(super) struct Reading<T> {
    /// The known keys of the view that will be replaced; those the read does not have are gone.
    walk: MergeWalk<T>,
    /// Whether no key is known.
    fresh: bool,
    removed: usize,
    /// Keys of the read whose newest value a former mirror could not decode.
    former: HashMap<Vec<u8>, FormerRejection>,
    /// Unchanged keys whose newest value is rejected while an entry of the base stands in for it.
    pub(super) stand_ins: Vec<Key>,
    /// Events are known to be lost, so the base may lack writes of its own history.
    doubted: bool,
    pub(super) contradicted: bool,
    pub(super) newest: Revision,
}

impl<T> Reading<T> {
    pub(super) fn new(base: &View<T>, doubted: bool) -> Self {
        Reading {
            walk: MergeWalk::new(base.share()),
            fresh: base.known_keys() == 0,
            removed: 0,
            former: HashMap::new(),
            stand_ins: Vec::new(),
            doubted,
            contradicted: false,
            newest: 0,
        }
    }

    pub(super) fn remember(&mut self, former: Vec<FormerRejection>) {
        self.former.extend(former.into_iter().map(|former| (former.key.clone(), former)));
    }

    /// The changed keys of a page, whose keys continue the former ones in ascending order.
    pub(super) fn page(&mut self, kvs: Vec<RawKeyValue>) -> Chunks<'_, T> {
        Chunks { reading: self, kvs: kvs.into_iter(), checked: false, bad: None }
    }

    fn advance(&mut self, kv: &RawKeyValue) -> Result<(), BadRecord> {
        self.walk.advance(&kv.key, Numbers::from(kv))?;
        self.newest = self.newest.max(kv.mod_revision);
        Ok(())
    }

    /// Passes the next known key below `key` (of all left, without one), which is gone.
    pub(super) fn gone(&mut self, key: Option<&[u8]>) -> Option<Key> {
        let gone = if self.fresh { None } else { self.walk.missing(key) };
        self.removed += usize::from(gone.is_some());
        gone
    }

    /// How many of how many known keys were gone so far.
    pub(super) fn removed(&self) -> (usize, usize) {
        (self.removed, self.walk.base.known_keys())
    }

    /// Passes a key of the read; whether it is changed.
    fn passes_changed(&mut self, kv: &RawKeyValue) -> bool {
        let known = self.walk.pass(&kv.key);
        let numbers = Numbers::from(kv);
        // Only the known write can have the known value; others are hashed when they are decoded.
        let same = known.filter(|known| known.numbers.is_same_write(numbers));
        let same = same.filter(|known| {
            known.numbers.lease == kv.lease && known.value == ValueHash::of(&kv.value)
        });
        self.contradicted |= same.is_none() && self.contradicts(known, numbers.mod_revision);
        let unchanged = same.filter(|known| known.numbers == numbers);
        if unchanged.is_some_and(|known| known.rejected && known.entry.is_some()) {
            self.stand_ins.push(SmallVec::from_slice(&kv.key));
        }
        unchanged.is_none()
    }

    fn former(&mut self, key: &[u8]) -> Option<Box<FormerRejection>> {
        if self.former.is_empty() { None } else { self.former.remove(key).map(Box::new) }
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
}

/// The changed keys of one page.
pub(crate) struct Chunks<'a, T> {
    reading: &'a mut Reading<T>,
    kvs: vec::IntoIter<RawKeyValue>,
    /// Whether the next of them is known to be fit.
    checked: bool,
    bad: Option<BadRecord>,
}

impl<T> Chunks<'_, T> {
    /// After the last chunk: whether a record came that no read of the range can have.
    pub(crate) fn end(self) -> Result<(), BadRecord> {
        self.bad.map_or(Ok(()), Err)
    }

    fn push(&mut self, chunk: &mut Chunk) {
        let Some(kv) = self.kvs.next() else { return };
        if chunk.keys.is_empty() {
            chunk.keys.reserve(CHUNK_KEYS.min(self.kvs.len() + 1));
        }
        let former = self.reading.former(&kv.key);
        chunk.bytes += kv.key.len() + kv.value.len();
        chunk.keys.push(Undecided::Written { kv, former });
    }
}

impl<T> Iterator for Chunks<'_, T> {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        let mut chunk = Chunk::default();
        while !chunk.is_full() {
            let Some(kv) = self.kvs.as_slice().first() else { break };
            if !self.checked
                && let Err(bad) = self.reading.advance(kv)
            {
                // Such a read is not used, so the rest of it does not matter.
                self.bad = Some(bad);
                self.kvs = Vec::new().into_iter();
                break;
            }
            self.checked = true;
            if let Some(gone) = self.reading.gone(Some(&kv.key)) {
                chunk.keys.push(Undecided::Gone(gone));
                continue;
            }
            self.checked = false;
            if self.reading.passes_changed(kv) {
                self.push(&mut chunk);
            } else {
                self.kvs.next();
            }
        }
        (!chunk.keys.is_empty()).then_some(chunk)
    }
}
