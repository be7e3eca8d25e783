//! Deciding about a held reload through the handle.
//!
//! Owns the two calls only; what follows is decided in `machine::held`.

use crate::keyspace::KeySpace;
use crate::model::Revision;
use crate::publish::{NotHeld, Verdict};

impl<T: Send + Sync + 'static> KeySpace<T> {
    /// Shows the held reload of `revision` (from [`Status::held`](crate::Status::held)), removals and
    /// all, and goes on from there.
    ///
    /// # Errors
    /// [`NotHeld`] when no reload of that revision is held: what you looked at is not what would be
    /// shown.
    pub fn accept_held(&self, revision: Revision) -> Result<(), NotHeld> {
        self.decide_held(revision, Verdict::Accept)
    }

    /// Throws the held reload of `revision` away. The old data stays; after the greatest
    /// [`backoff`](crate::Builder::backoff) everything is read again, and held again if it still
    /// removes too much.
    ///
    /// # Errors
    /// As [`accept_held`](KeySpace::accept_held).
    pub fn refuse_held(&self, revision: Revision) -> Result<(), NotHeld> {
        self.decide_held(revision, Verdict::Refuse)
    }

    fn decide_held(&self, revision: Revision, verdict: Verdict) -> Result<(), NotHeld> {
        let core = self.core();
        core.holds.decide(revision, verdict)?;
        core.waits.demanded.notify_one();
        Ok(())
    }
}
