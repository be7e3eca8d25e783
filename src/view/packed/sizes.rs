//! The sizes of the pieces.
//!
//! Small ones in the crate's unit tests, so that a few hundred entries have all levels; tests
//! outside the crate run with the real ones. A piece that is too full is split into parts of about
//! `FILL`; for these to be large enough, `FILL` is at least twice `MIN` and at most `MAX`.

/// Entries in a group: what an edit copies for one changed value.
pub(super) const GROUP_MAX: usize = if cfg!(test) { 8 } else { 16 };
pub(super) const GROUP_FILL: usize = if cfg!(test) { 5 } else { 14 };
pub(super) const GROUP_MIN: usize = if cfg!(test) { 2 } else { 4 };

/// Groups in a run.
pub(super) const RUN_MAX: usize = if cfg!(test) { 4 } else { 16 };
pub(super) const RUN_FILL: usize = if cfg!(test) { 4 } else { 14 };
pub(super) const RUN_MIN: usize = if cfg!(test) { 2 } else { 4 };

/// Runs in a page.
pub(super) const PAGE_MAX: usize = if cfg!(test) { 8 } else { 128 };
pub(super) const PAGE_FILL: usize = if cfg!(test) { 6 } else { 96 };
pub(super) const PAGE_MIN: usize = if cfg!(test) { 2 } else { 16 };
