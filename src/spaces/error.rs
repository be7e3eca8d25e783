//! Why a key space, or a cut, could not be had.
//!
//! Owns the two error types only.

use std::time::Duration;

use crate::model::{KeyRange, RangeError, Revision, StopReason};
use crate::publish::State;

/// [`KeySpaces::get`](crate::KeySpaces::get) has no key space to give.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// No key can lie in the range, or its path is not clean. Fix the caller.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// All places are taken and every key space is in use. Drop handles that are not needed, wait
    /// until some are dropped, or raise [`max`](crate::KeySpacesBuilder::max).
    #[error("{range} is not held, and all {max} places are in use")]
    Full {
        /// The range asked for.
        range: KeyRange,
        /// How many there may be.
        max: usize,
    },
    /// The mirror stopped before it had loaded and watched. Mend what the reason says, and ask again
    /// after `retry_in`; until then the same is answered without asking etcd.
    #[error("{range} could not be started; it may be tried again in {retry_in:?}")]
    Start {
        /// The range asked for.
        range: KeyRange,
        /// Why it stopped; the same for everybody who waited for it.
        #[source]
        reason: StopReason,
        /// How long the next start has to wait.
        retry_in: Duration,
    },
    /// [`shutdown`](crate::KeySpaces::shutdown) was called. Give up.
    #[error("the key spaces were shut down")]
    Shutdown,
}

/// [`KeySpaces::cut`](crate::KeySpaces::cut) could not be made. Nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CutError {
    /// No range was given, so there is nothing to cut. Fix the caller.
    #[error("a cut needs a range")]
    NoRange,
    /// A key space could not be had. See the error.
    #[error("a key space of the cut could not be had")]
    Get(#[from] GetError),
    /// Two ranges are of different clusters, whose revisions do not compare. Fix the endpoints.
    #[error("{range} is of cluster {got:x}, the others of {expected:x}")]
    OtherCluster {
        /// The range that is of another cluster than the first one.
        range: KeyRange,
        /// The cluster of the first range.
        expected: u64,
        /// The cluster of this one.
        got: u64,
    },
    /// A mirror stopped meanwhile. See the reason; another call starts it again.
    #[error("the mirror of {range} stopped")]
    Stopped {
        /// Its range.
        range: KeyRange,
        /// Why.
        #[source]
        reason: StopReason,
    },
    /// A mirror did not get to the revision in time, however often it was tried. Look at its state
    /// and its [`last_error`](crate::Status::last_error), and retry or give up.
    #[error("{range}, which is {state} at revision {confirmed}, was not ready within {limit:?}")]
    TimedOut {
        /// The range that was waited for last.
        range: KeyRange,
        /// What its mirror was doing.
        state: State,
        /// How far it was complete.
        confirmed: Revision,
        /// The time limit.
        limit: Duration,
    },
}
