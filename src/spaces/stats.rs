//! What the cache says about itself.
//!
//! Owns plain data only.

use std::time::Duration;

use crate::model::{KeyRange, StopReason};
use crate::publish::Status;

/// What was counted since [`KeySpaces`](crate::KeySpaces) was made; all counters only rise, the
/// numbers of now aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct KeySpacesStats {
    /// Key spaces held now, those that are starting included.
    pub held: usize,
    /// Of these, those that somebody has a handle of or waits for.
    pub in_use: usize,
    /// Failed starts that are remembered now.
    pub failures: usize,
    /// Mirrors started.
    pub starts: u64,
    /// Starts that failed.
    pub failed_starts: u64,
    /// Mirrors that stopped by themselves, or by a `shutdown` of theirs, after they had started.
    pub stopped: u64,
    /// Mirrors stopped because nobody used them for the time to live.
    pub idle_stops: u64,
    /// Idle mirrors stopped before that, to make room.
    pub evictions: u64,
    /// Cuts made.
    pub cuts: u64,
    /// Times that a cut was tried again, since a mirror could not hold back.
    pub cut_retries: u64,
}

/// What is held, or remembered, of one range.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SpaceInfo {
    /// The range.
    pub range: KeyRange,
    /// Who uses it.
    pub state: SpaceState,
    /// What its mirror says, while there is one.
    pub status: Option<Status>,
}

/// Who uses a key space that is held.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SpaceState {
    /// The first load is under way, for callers who wait.
    Starting,
    /// Somebody has a handle.
    InUse,
    /// Nobody has, for so long.
    Idle {
        /// How long.
        idle_for: Duration,
    },
    /// Not held: the last start failed.
    Failed {
        /// Why.
        reason: StopReason,
        /// How long the next start has to wait.
        retry_in: Duration,
    },
}
