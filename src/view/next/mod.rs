//! From one view to the next: what a batch or a complete read makes of what is known.
//!
//! Pure functions. Must not publish.

pub(crate) mod continuity;
pub(crate) mod edits;
pub(crate) mod judge;
pub(crate) mod walk;
