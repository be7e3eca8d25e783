//! Where reading begins, and what a position beyond the end means.
//!
//! Owns [`Position`] and [`Beyond`]. Pure; must not know how events are stored.

use std::fmt;

/// A place in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Position {
    /// At the oldest event there is when it is read, also while a collection runs.
    #[default]
    Oldest,
    /// After the newest event there is.
    Latest,
    /// At an event, inclusive.
    At(u64),
    /// After an event, exclusive.
    After(u64),
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Oldest => f.write_str("oldest"),
            Position::Latest => f.write_str("latest"),
            Position::At(sequence) => write!(f, "at {sequence}"),
            Position::After(sequence) => write!(f, "after {sequence}"),
        }
    }
}

/// What a position means that lies beyond the next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Beyond {
    /// An error, [`ReadError::BeyondEnd`](super::ReadError::BeyondEnd).
    #[default]
    Error,
    /// Waiting until the journal reaches it; what is stored before it is not given.
    Wait,
}

/// What is there to read: events from `oldest` to the one before `next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) oldest: u64,
    pub(super) next: u64,
}
