//! Watchers: handlers that are called for stored events, once for each.

pub(in crate::journal) mod delivery;
pub(in crate::journal) mod handler;
pub(in crate::journal) mod options;
pub(in crate::journal) mod registry;
pub(in crate::journal) mod state;
pub(in crate::journal) mod watcher;
