//! The handles that applications hold: reading, observing, waiting, deciding.
//!
//! Must not change data or know where it comes from.

// The order decides in which order rustdoc lists the methods.
pub(crate) mod control;
pub(crate) mod handle;
pub(crate) mod reading;
pub(crate) mod waiting;

pub use self::handle::{KeySpace, Rejected, WeakKeySpace};
