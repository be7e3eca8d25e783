//! The phase that a mirror is in, the load that it owes, and what it remembers of an endpoint.

use tokio::time::Instant;

use super::io::LoadReason;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between attempts; unless it is fixed, a wait shortens the pause.
    Waiting {
        until: Instant,
        since: Instant,
        fixed: bool,
    },
    Connecting,
    Versioning,
    RefreshingToken,
    Identifying,
    /// The store's content is compared with the data.
    Proving,
    Loading,
    /// Everything is read, and waits to be accepted.
    Held,
    /// The watch is being opened.
    Opening,
    /// The watch is open; its `created` is to come.
    Creating {
        until: Instant,
    },
    Live,
    Stopped,
}

/// A load that has to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reload {
    pub(super) same_history: bool,
    /// Events are known to be lost, so other keys in etcd do not mean another history.
    pub(super) doubted: bool,
    pub(super) reason: LoadReason,
}

impl Reload {
    /// There is nothing yet.
    pub(super) const FIRST: Reload =
        Reload { same_history: true, doubted: false, reason: LoadReason::Initial };
    /// The history is the one the data is of, and a part of it is compacted.
    pub(super) const COMPACTED: Reload = Reload { reason: LoadReason::Compacted, ..Reload::FIRST };
    /// The same, and a part of it is too large to be had.
    pub(super) const OVERSIZED: Reload = Reload { reason: LoadReason::Oversized, ..Reload::FIRST };
    /// The same, and whoever stores what is taken in needs all of it.
    pub(super) const STORED: Reload = Reload { reason: LoadReason::Stored, ..Reload::FIRST };
    /// The same, but what is known of it has gaps.
    pub(super) const LOST_EVENTS: Reload =
        Reload { doubted: true, reason: LoadReason::Gap, ..Reload::FIRST };
    pub(super) const NEW_HISTORY: Reload =
        Reload { same_history: false, doubted: false, reason: LoadReason::History };
}

/// What is remembered of an endpoint across connections to it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct EndpointMemory {
    pub(super) no_range_stream: bool,
    /// Progress requests are swallowed, as by a gRPC proxy.
    pub(super) no_progress: bool,
}
