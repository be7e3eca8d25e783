//! What tells one history from another: the newest known change.
//!
//! Pure. Owns the comparison; must not know when it is asked for.

use std::hash::{DefaultHasher, Hasher};

use crate::entry::Numbers;
use crate::event::{Event, RawKeyValue, Revision};

/// The newest known change of one key; a store of the same history shows it at the cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(super) key: Vec<u8>,
    pub(super) revision: Revision,
    /// `None` after a deletion.
    written: Option<Written>,
}

/// What the newest write of a key left, its value as a hash: two histories can agree in all numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    numbers: Numbers,
    value: u64,
}

impl Probe {
    pub(in crate::mirror) fn revision(&self) -> Revision {
        self.revision
    }

    pub(in crate::mirror) fn of(kv: &RawKeyValue) -> Self {
        let written = Some(Written::of(kv));
        Probe { key: kv.key.clone(), revision: kv.mod_revision, written }
    }

    pub(super) fn of_event(event: &Event) -> Self {
        match event {
            Event::Put(kv) => Probe::of(kv),
            Event::Delete { key, mod_revision } => {
                Probe { key: key.clone(), revision: *mod_revision, written: None }
            }
        }
    }

    /// Whether the store shows the same.
    pub(super) fn matches(&self, found: Option<&RawKeyValue>) -> bool {
        match (self.written, found.map(Written::of)) {
            (None, None) => true,
            (Some(known), Some(found)) => {
                known.numbers.is_same_write(found.numbers) && known.value == found.value
            }
            _ => false,
        }
    }
}

impl Written {
    fn of(kv: &RawKeyValue) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(&kv.value);
        Written { numbers: Numbers::from(kv), value: hasher.finish() }
    }
}
