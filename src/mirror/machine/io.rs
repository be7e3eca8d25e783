//! The words between the machine and the shell: actions out, inputs in.
//!
//! Owns plain data only. Must not decide or execute.

use std::time::SystemTime;

use tokio::time::Instant;

use super::audit::AuditKeys;
use super::evidence::Floor;
use super::proof::Basis;
use crate::mirror::options::Budget;
use crate::mirror::restore::Cause;
use crate::model::{Header, RawKeyValue, Revision, StopReason, WatchResponse};
use crate::publish::{Applied, CutAbort, Held, LoadError, Verdict};
use crate::source::{RangeChunk, RangePage, RangeRequest, ServerVersion, SourceError};
use crate::view::{ApplyError, Differing};

/// What the machine asks to be done, in order.
#[derive(Debug)]
pub(crate) enum Action {
    /// Connect to an endpoint, dropping what is left of the last connection.
    Connect(usize),
    /// Drop the connection with everything on it.
    Disconnect,
    Version,
    RefreshToken,
    Range(Asked, Box<RangeRequest>),
    /// Read the range as a stream, chunk by chunk.
    RangeStream,
    Watch(Revision),
    CloseWatch,
    RequestProgress,
    BeginLoad {
        same_history: bool,
        /// Events are known to be lost.
        doubted: bool,
        reason: LoadReason,
    },
    TakeKeys(Vec<RawKeyValue>),
    /// Show the load, unless it would remove more than a share of the keys.
    FinishLoad {
        header: Header,
        same_history: bool,
        hold_above: Option<f64>,
    },
    AbandonLoad,
    /// Tell that the load waits for a decision.
    Hold(Held),
    /// Keep the view of now aside.
    BeginAudit,
    /// Compare the view kept aside with the next keys of etcd at its revision.
    AuditKeys {
        keys: AuditKeys,
        last: bool,
    },
    /// Keep the view aside to be compared if it fits the budget; else, or without one, name its newest
    /// writes.
    BeginProof(Option<Budget>),
    /// Drop the view that was kept aside for a proof or an audit.
    EndProof,
    Apply(Vec<WatchResponse>),
    Confirm(Revision),
    /// Tell that nothing more is shown until the revision of a cut is known.
    CutHeld(u64),
    /// What is shown is the state of this revision: give a snapshot of it away.
    TakeCut {
        number: u64,
        at: Revision,
    },
    CutGivenUp {
        number: u64,
        why: CutAbort,
    },
    Synced {
        ticket: u64,
        revision: Revision,
    },
    /// Loaded and watching for the first time, or again.
    Watching,
    Stop(StopReason),
}

/// Why everything is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoadReason {
    Initial,
    Compacted,
    Gap,
    Oversized,
    History,
    Stored,
}

impl LoadReason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            LoadReason::Initial => "initial",
            LoadReason::Compacted => "compacted",
            LoadReason::Gap => "gap",
            LoadReason::Oversized => "oversized",
            LoadReason::History => "history",
            LoadReason::Stored => "stored",
        }
    }
}

/// A range request: what it is for, and what its answer cannot be below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) purpose: Purpose,
    pub(super) floor: Floor,
}

/// What a range request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The store's cluster and revision, on connecting.
    Identify { asked: Instant },
    /// A page of everything, as of the cursor.
    Compared,
    /// One of the newest known writes, as of the cursor.
    Newest { index: usize },
    /// Whether the keys as of the cursor are as many as known, and none newer than the newest write.
    CountAtCursor,
    /// A page of a load.
    Page,
    /// How many keys the store has while a reload is held.
    HeldCount,
    /// A page of an audit.
    Audit { number: u64 },
    /// The store's revision now, for all waits with a ticket up to this one.
    Revision { asked: Instant, ticket: u64 },
    /// Whether the revision `since` can still be read, when the cursor was at `cursor`.
    GapCheck { since: Revision, cursor: Revision },
    /// The count barrier (B13) over what was known at `cursor`; of now, or as of the revision of a cut.
    CountBarrier { cursor: Revision, asked: Instant, at: Option<Revision> },
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// The mirror was started.
    Start,
    /// What a former mirror stored, at this time, is about to be shown.
    Restoring(SystemTime),
    /// It is shown.
    Restored,
    /// What is stored cannot be used.
    NotRestored(Cause),
    /// Whoever stores what is taken in needs a complete read.
    ReloadRequested,
    Connected(Result<(), SourceError>),
    Version(Result<ServerVersion, SourceError>),
    TokenRefreshed(Result<(), SourceError>),
    Range(Asked, Result<RangePage, SourceError>),
    /// A chunk of the range stream; `None` is its end.
    Chunk(Result<Option<RangeChunk>, SourceError>),
    WatchOpened(Result<(), SourceError>),
    /// A message of the watch; `None` is its end.
    Message(Result<Option<WatchResponse>, SourceError>),
    KeysTaken(Result<(), LoadError>),
    Loaded(Result<Applied, LoadError>),
    /// The load is not shown yet: it has other content where the known content must still be.
    Contradicted(Header),
    ProofBegun(Basis),
    /// The load was not shown: it would remove too many of the known keys.
    Held {
        header: Header,
        removed: usize,
        known: usize,
    },
    /// Somebody has decided about the held load.
    Decided(Verdict),
    /// A view of this revision is kept aside.
    AuditBegun(Revision),
    /// How many keys of a page differ.
    Audited {
        result: Result<Differing, LoadError>,
        last: bool,
    },
    Applied(Result<Applied, ApplyError>),
    /// A request will never be answered: it panicked, which is a defect below this crate.
    RequestPanicked(String),
    Shutdown,
    /// Nothing but the passing of time, or a new demand.
    Tick,
}

/// What the writer's view says, told after every change of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Known {
    pub(crate) loaded: bool,
    /// The cursor: `confirmed`.
    pub(crate) cursor: Revision,
    pub(crate) cluster_id: Option<u64>,
    /// Entries plus rejected keys without one.
    pub(crate) keys: usize,
}
