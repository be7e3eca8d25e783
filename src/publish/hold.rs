//! A reload that waits for a decision, because showing it would remove too much.
//!
//! Owns [`Held`] and the cell through which the mirror offers it and somebody decides. Must not know
//! what a load is, or decide anything itself.

use parking_lot::Mutex;

use crate::model::Revision;

/// A finished read of everything that is not shown yet, since it lacks too many of the keys shown.
///
/// Told by [`Status::held`](crate::Status::held) while the state is
/// [`State::Held`](crate::State::Held).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// The revision of the read; what a decision is about.
    pub revision: Revision,
    /// Keys it would remove.
    pub removed: usize,
    /// Keys known now, of which they would be removed.
    pub known: usize,
    /// Keys it has.
    pub keys: u64,
}

/// Nothing is held at that revision: it was decided already, or read again meanwhile. Look at
/// [`Status::held`](crate::Status::held) and decide anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no reload of revision {revision} is held")]
#[non_exhaustive]
pub struct NotHeld {
    /// The revision that was decided about.
    pub revision: Revision,
}

/// What was decided about a held reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Refuse,
}

#[derive(Debug, Default)]
struct Cell {
    held: Option<Held>,
    verdict: Option<Verdict>,
}

/// Between the mirror, which offers, and whoever decides.
#[derive(Debug, Default)]
pub(crate) struct HoldCell(Mutex<Cell>);

impl HoldCell {
    pub(crate) fn offer(&self, held: Held) {
        *self.0.lock() = Cell { held: Some(held), verdict: None };
    }

    pub(crate) fn withdraw(&self) {
        *self.0.lock() = Cell::default();
    }

    pub(crate) fn held(&self) -> Option<Held> {
        self.0.lock().held
    }

    /// Decides about what is held at `revision`; the first decision stands.
    pub(crate) fn decide(&self, revision: Revision, verdict: Verdict) -> Result<(), NotHeld> {
        let mut cell = self.0.lock();
        cell.held.take_if(|held| held.revision == revision).ok_or(NotHeld { revision })?;
        cell.verdict = Some(verdict);
        Ok(())
    }

    /// What was decided, once.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        self.0.lock().verdict.take()
    }
}
