//! How the changes that a mirror takes in are told as events.
//!
//! Owns what objects are called, and making an event of each change only when it is stored: an event has
//! a copy of the value, and those of a first load at once would take as much memory again. Must not
//! store.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::event::{NewEvent, Operation};

use super::mirror_batch::StateChange;
use crate::model::{Event, KeyRange, Revision};

/// What the objects of a mirror are called.
#[derive(Debug)]
pub(super) struct Names {
    /// By range; the first one counts.
    types: Vec<(KeyRange, String)>,
    /// All others.
    name: String,
}

impl Names {
    pub(super) fn new(types: &[(KeyRange, String)], name: &str) -> Self {
        let types = types.iter().filter(|(_, name)| !name.is_empty());
        let types = types.map(|(range, name)| (range.clone(), short(name).to_owned())).collect();
        Names { types, name: short(name).to_owned() }
    }

    fn of(&self, key: &[u8]) -> &str {
        let named = self.types.iter().find(|(range, _)| range.contains(key));
        named.map_or(&self.name, |(_, name)| name)
    }

    /// What stands for all events before, when nobody knows what has become of the keys that they told
    /// of: of each type that everything of it is gone.
    pub(super) fn forgotten(&self, revision: Revision) -> Vec<NewEvent> {
        let names: BTreeSet<&str> = self
            .types
            .iter()
            .map(|(_, name)| name)
            .chain([&self.name])
            .map(String::as_str)
            .collect();
        let gone = |name: &str| {
            let mut event = NewEvent::new(Operation::Delete, name, Vec::new()).synthesized();
            event.revision = Some(revision);
            event
        };
        names.into_iter().map(gone).collect()
    }
}

/// As much of a name as has room in the journal.
pub(super) fn short(name: &str) -> &str {
    let ends = name.char_indices().map(|(at, one)| at + one.len_utf8());
    &name[..ends.take_while(|end| *end <= 200).last().unwrap_or(0)]
}

/// What each change of a batch is told as, in their order.
#[derive(Debug)]
pub(super) struct Synthesizer {
    names: Arc<Names>,
    told: Vec<(Operation, Revision)>,
    synthesized: bool,
}

impl Synthesizer {
    /// Of changes that etcd has sent as they are, or else of a difference.
    pub(super) fn new(names: &Arc<Names>, synthesized: bool) -> Self {
        Synthesizer { names: Arc::clone(names), told: Vec::new(), synthesized }
    }

    /// Tells the next change.
    pub(super) fn push(&mut self, operation: Operation, revision: Revision) {
        self.told.push((operation, revision));
    }

    /// The events, which are made as they are asked for.
    pub(super) fn events(&self, changes: &[StateChange]) -> impl Iterator<Item = NewEvent> {
        changes.iter().zip(&self.told).map(|(change, (operation, revision))| {
            let (key, value) = match change {
                StateChange::Put(kv) => (&kv.key, kv.value.clone()),
                StateChange::Delete(key) => (key, Vec::new()),
            };
            let mut event = NewEvent::new(*operation, self.names.of(key), value);
            event.synthesized = self.synthesized;
            event.mirrored(key.clone(), *revision)
        })
    }
}

/// An event of etcd as a change and what that is.
pub(super) fn change_of(event: Event) -> (Operation, StateChange) {
    match event {
        Event::Put(kv) if kv.create_revision == kv.mod_revision => {
            (Operation::Create, StateChange::Put(kv))
        }
        Event::Put(kv) => (Operation::Update, StateChange::Put(kv)),
        Event::Delete { key, .. } => (Operation::Delete, StateChange::Delete(key)),
    }
}
