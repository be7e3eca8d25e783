//! Publishing: the lock, the newest view, everything that a step updates, and the writer that makes steps.
//!
//! Must not know where a view comes from, nor who asks a handle for it.

pub(crate) mod core;
pub(crate) mod cores;
pub(crate) mod current;
pub(crate) mod cut;
#[cfg_attr(not(feature = "journal"), allow(dead_code, reason = "only a journal stores"))]
pub(crate) mod feed;
pub(crate) mod guard;
pub(crate) mod history;
pub(crate) mod hold;
pub(crate) mod observer;
pub(crate) mod reentry;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod subscriptions;
pub(crate) mod timer;
pub(crate) mod wait;
pub(crate) mod writer;
