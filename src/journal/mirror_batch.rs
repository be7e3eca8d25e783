//! What a mirror keeps in the journal besides events: its cursor, the last record of each key, and the keys
//! that could not be decoded.
//!
//! Owns the words of it. Pure; must not know how they are stored.

use std::time::{Duration, SystemTime};

use super::event::NewEvent;
use crate::model::{RawKeyValue, Revision};
use crate::publish::Refused;
use crate::view::FormerRejection;

/// How far a mirror has come, and in which history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Cursor {
    /// The cluster that the data is of.
    pub cluster_id: u64,
    /// The mirror's own mark of the history: revisions compare only within one. Counted on by every
    /// mirror that does not begin with what is stored.
    pub epoch: u64,
    /// The revision through which events and state are complete.
    pub revision: Revision,
}

/// One change of the stored state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateChange {
    /// The record of a key is this now.
    Put(RawKeyValue),
    /// The key is gone.
    Delete(Vec<u8>),
}

impl StateChange {
    pub(super) fn key(&self) -> &[u8] {
        match self {
            StateChange::Put(kv) => &kv.key,
            StateChange::Delete(key) => key,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            StateChange::Put(kv) => kv.bytes(),
            StateChange::Delete(key) => key.len(),
        }
    }
}

/// What a mirror stores in one step: visible and durable whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MirrorBatch {
    /// The mirror's name; 1 to 255 bytes.
    pub mirror: String,
    /// The cursor this continues; `None` when nothing may be stored yet. Checked in the same
    /// transaction, so a batch whose outcome was unknown cannot be stored twice.
    pub after: Option<Cursor>,
    /// The cursor once this is stored.
    pub cursor: Cursor,
    /// Events, in order.
    pub events: Vec<NewEvent>,
    /// Changes of the state, applied in order.
    pub changes: Vec<StateChange>,
    /// Forget the state that is stored, refused keys included, before `changes` are applied: a complete
    /// set follows. It may be damaged; a cursor that is counts as `after`.
    pub replace: bool,
    /// The keys whose newest record, once `changes` are applied, cannot be decoded. A key that is
    /// changed and not named here is no such key any more.
    pub refused: Vec<Refusal>,
    /// `refused` names all such keys, so that others are none any more, changed or not.
    pub refused_is_all: bool,
}

impl MirrorBatch {
    /// A batch that continues `after` and ends at `cursor`.
    pub fn new(mirror: impl Into<String>, after: Option<Cursor>, cursor: Cursor) -> Self {
        MirrorBatch {
            mirror: mirror.into(),
            after,
            cursor,
            events: Vec::new(),
            changes: Vec::new(),
            replace: false,
            refused: Vec::new(),
            refused_is_all: false,
        }
    }

    /// Bytes of keys, values and objects; what the queue is bounded by.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.events.iter().map(NewEvent::bytes).sum::<usize>()
            + self.changes.iter().map(StateChange::bytes).sum::<usize>()
            + self.refused.iter().map(|refusal| refusal.key.len()).sum::<usize>()
    }
}

/// What is stored of a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredMirror {
    /// How far it had come.
    pub cursor: Cursor,
    /// When that was stored.
    pub stored_at: SystemTime,
    /// The number of keys of its state.
    pub keys: u64,
}

impl StoredMirror {
    /// How long ago it was stored, by this machine's clock; zero when that went back.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.stored_at.elapsed().unwrap_or_default()
    }
}

/// A key whose newest record cannot be decoded, as part of a [`MirrorBatch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The key.
    pub key: Vec<u8>,
    /// Since when.
    pub since: SystemTime,
    /// The `mod_revision` of the record that is shown in its place. It is kept if it is among the
    /// batch's changes, or was stored: as the newest record of the key, or as the one shown in its place.
    pub shows: Option<Revision>,
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let Refused { key, since, shows } = refused;
        Refusal { key, since, shows }
    }
}

/// A key whose newest record the mirror could not decode.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredRefusal {
    /// The key.
    pub key: Vec<u8>,
    /// Since when.
    pub since: SystemTime,
    /// The record that was shown in its place.
    pub last_good: Option<RawKeyValue>,
}

impl From<StoredRefusal> for FormerRejection {
    fn from(refusal: StoredRefusal) -> Self {
        let StoredRefusal { key, since, last_good } = refusal;
        FormerRejection { key, since, last_good }
    }
}

/// What the refused keys of a mirror must add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) count: u64,
    /// The sum of their seals.
    pub(super) digest: u64,
}

impl Tally {
    pub(super) fn add(&mut self, seal: u64) {
        self.count += 1;
        self.digest = self.digest.wrapping_add(seal);
    }

    /// `None` when there is nothing to subtract from.
    pub(super) fn subtract(&mut self, seal: u64) -> Option<()> {
        self.count = self.count.checked_sub(1)?;
        self.digest = self.digest.wrapping_sub(seal);
        Some(())
    }
}
