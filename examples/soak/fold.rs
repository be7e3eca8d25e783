//! The observer of each mirror: it knows nothing but deltas, and must know everything.
//!
//! Owns the fold and what each delta must continue. Runs under the write lock, so its cost is that
//! of the changes; must not ask anybody.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use etcd_keyspace::{Change, Delta, DeltaOrigin, Entry, View};

use crate::judge::Record;
use crate::mirrors::Value;

/// Steps kept for the evidence.
const STEPS_MAX: usize = 40;

/// The entries as an observer knows them that sees nothing but deltas.
#[derive(Default)]
pub(crate) struct Fold {
    entries: BTreeMap<Vec<u8>, Arc<Entry<Value>>>,
    steps: VecDeque<String>,
    /// Steps that did not continue what was folded before.
    broken: Vec<String>,
}

impl Fold {
    /// Takes one step, and notes what is wrong with it.
    pub(crate) fn follow(&mut self, delta: &Delta<Value>, view: &View<Value>) {
        let step = format!(
            "{:?} {} -> {} ({} changes, confirmed {})",
            delta.origin(),
            delta.from_revision(),
            delta.to_revision(),
            delta.len(),
            view.confirmed()
        );
        if delta.is_empty() {
            self.broken.push(format!("nothing changed in {step}"));
        }
        if delta.to_revision() != view.revision() || delta.from_revision() > delta.to_revision() {
            self.broken.push(format!("wrong revisions in {step}, view {}", view.revision()));
        }
        let mut last: Option<&[u8]> = None;
        for change in delta {
            if last.is_some_and(|last| last >= change.key()) {
                self.broken.push(format!("{change:?} out of order in {step}"));
            }
            last = Some(change.key());
            if let Some(fault) = self.fold(change, delta, view) {
                self.broken.push(format!("{change:?} {fault} in {step}"));
            }
        }
        self.broken.truncate(STEPS_MAX);
        self.steps.push_back(step);
        if self.steps.len() > STEPS_MAX {
            self.steps.pop_front();
        }
    }

    /// What the fold has otherwise than the view, which must be the same entries.
    pub(crate) fn differs_from(&self, view: &View<Value>) -> Vec<String> {
        let mut found = self.broken.clone();
        if self.entries.len() != view.len() {
            found.push(format!("{} entries, {} in the fold", view.len(), self.entries.len()));
        }
        let mut pairs = view.iter().zip(self.entries.values());
        if let Some((entry, folded)) = pairs.find(|(entry, folded)| !Arc::ptr_eq(entry, folded)) {
            found.push(format!("{} but folded {}", Record::from(entry), Record::from(folded)));
        }
        found
    }

    /// The last steps.
    pub(crate) fn steps(&self) -> Vec<String> {
        self.steps.iter().cloned().collect()
    }

    /// Takes one change; what is wrong with it.
    fn fold(
        &mut self,
        change: &Change<Value>,
        delta: &Delta<Value>,
        view: &View<Value>,
    ) -> Option<&'static str> {
        let known = match change.new() {
            Some(new) => self.entries.insert(change.key().to_vec(), Arc::clone(new)),
            None => self.entries.remove(change.key()),
        };
        if !same(known.as_ref(), change.old()) {
            return Some("does not start from what was folded");
        }
        if !same(view.get(change.key()), change.new()) {
            return Some("is not what the view shows");
        }
        let newer = change.new().is_none_or(|new| {
            new.mod_revision() <= delta.to_revision()
                && change.old().is_none_or(|old| old.mod_revision() < new.mod_revision())
                && (delta.origin() == DeltaOrigin::Load
                    || new.mod_revision() > delta.from_revision())
        });
        let created_anew = change
            .old()
            .zip(change.new())
            .is_some_and(|(old, new)| old.create_revision() != new.create_revision());
        if !newer {
            Some("brings no newer entry")
        } else if created_anew != matches!(change, Change::Replaced { .. }) {
            Some("is of the wrong kind")
        } else {
            None
        }
    }
}

fn same(a: Option<&Arc<Entry<Value>>>, b: Option<&Arc<Entry<Value>>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}
