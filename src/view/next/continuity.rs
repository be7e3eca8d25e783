//! What can be wrong with a batch of events, and how strictly that is taken.

use crate::model::Revision;

/// How strictly events must continue what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Continuity {
    /// Any break refuses the whole batch; what a mirror uses.
    #[default]
    Strict,
    /// Breaks are tolerated and listed in [`Applied`](crate::Applied): for fixtures that write
    /// events by hand. A put is applied even when its create revision or version is unexpected; a
    /// put or delete older than the key, or a delete of an unknown key, is ignored. A missing
    /// header is allowed.
    Lenient,
}

/// How an event fails to continue the known numbers of its key.
///
/// Each etcd write moves them in a fixed way, so a break means lost history (etcd issues 17529 and
/// 18089 lose it without any error).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Break {
    /// A delete of a key that is not known.
    UnknownKeyDeleted,
    /// A put that is not a creation, of a key that is not known.
    UnknownKeyModified,
    /// A creation whose version is not 1.
    CreatedVersion,
    /// An event older than what is known of its key, or a redelivered event whose effect is not
    /// there.
    ModRevision,
    /// A put with another create revision than the known key.
    CreateRevision,
    /// A put whose version is not the known one plus one.
    Version,
}

impl Break {
    /// Whether the lenient mode applies the event all the same.
    pub(super) fn applies_leniently(self) -> bool {
        !matches!(self, Break::UnknownKeyDeleted | Break::ModRevision)
    }
}

/// A batch was refused. Nothing of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The response is from another cluster. Give up, or load anew under a new epoch.
    #[error("response of cluster {got:x}, expected {expected:x}")]
    ClusterMismatch {
        /// The cluster the view is of.
        expected: u64,
        /// The cluster that sent the response.
        got: u64,
    },
    /// A response with events has no header, so its cluster is unknown. Reopen the watch.
    #[error("response without header")]
    MissingHeader,
    /// The header's revision is below the events it heads. Reopen the watch elsewhere.
    #[error("header revision {header} is below event revision {event}")]
    HeaderBehind {
        /// The header's revision.
        header: Revision,
        /// The revision of the event.
        event: Revision,
    },
    /// Revisions go down within a response, or are not positive. Reopen the watch.
    #[error("event revision {got} after {previous}")]
    OutOfOrder {
        /// The revision before it.
        previous: Revision,
        /// The offending revision.
        got: Revision,
    },
    /// The batch ends inside a fragmented response. Give the rest along.
    #[error("the last response is only a fragment")]
    Incomplete,
    /// The watcher was cancelled, which says nothing about keys. Handle it before applying.
    #[error("response cancels the watcher: {reason}")]
    Canceled {
        /// The server's reason.
        reason: String,
    },
    /// An event is about a key outside the mirrored range. Reopen the watch; report the server.
    #[error("key {} is outside the range", key.escape_ascii())]
    OutsideRange {
        /// The key.
        key: Vec<u8>,
    },
    /// History was lost: the event does not continue what is known. Reload.
    #[error("{} at revision {mod_revision} does not continue what is known: {reason:?}", key.escape_ascii())]
    Discontinuity {
        /// The key.
        key: Vec<u8>,
        /// The event's revision.
        mod_revision: Revision,
        /// What does not fit.
        reason: Break,
    },
}

/// An event that the lenient mode tolerated.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tolerated {
    /// The key.
    pub key: Vec<u8>,
    /// The event's revision.
    pub mod_revision: Revision,
    /// What does not fit.
    pub reason: Break,
    /// Whether the event was applied anyway; otherwise it was ignored.
    pub applied: bool,
}
