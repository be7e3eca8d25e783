//! The mirror: it loads, watches, applies, and never gives up without saying why.
//!
//! `machine` decides, without I/O. `driver` executes what it decides, with `requests` to etcd as tasks,
//! `intake` of the watch, and `executor` on the writer. `builder` configures all of it.

mod aside;
mod backoff;
mod builder;
mod caught;
mod driver;
mod executor;
mod intake;
mod jitter;
mod machine;
mod options;
mod pager;
mod queue;
mod range_builder;
mod requests;
#[cfg_attr(not(feature = "journal"), allow(dead_code, reason = "only a journal stores"))]
mod restore;
#[cfg(test)]
mod tests;

pub(crate) use self::backoff::Backoff;
pub use self::builder::Builder;
pub use self::driver::Mirror;
#[cfg(feature = "journal")]
pub use self::options::OnBadStore;
pub(crate) use self::options::{Budget, Options};
pub use self::options::{OnHistoryChange, OnHold};
pub(crate) use self::queue::Bounds;
pub use self::range_builder::NeedsDecoder;
#[cfg(feature = "journal")]
pub(crate) use self::restore::{Cause, Stored};
pub(crate) use self::restore::{Feed, Restore};
