//! The handles that applications hold: reading, observing, waiting, deciding.
//!
//! Must not change data or know where it comes from.

// The order decides in which order rustdoc lists the methods: reading first.
mod handle;
mod waiting;
mod reading;
mod inspect;
mod control;
mod fixture;

pub use self::handle::{KeySpace, WeakKeySpace};
pub use self::inspect::Rejected;
