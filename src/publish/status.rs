//! What a key space says about itself: its state, how current it is, and what it had to tolerate.
//!
//! Owns [`Status`], [`Stats`] and the cell the mirror writes them to. Must not decide a state or
//! hold the data lock.

use std::error::Error as StdError;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::model::Revision;
use crate::publish::hold::Held;
use crate::publish::observer::PoisonedObserver;
use crate::publish::timer::Timing;

/// What a key space is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum State {
    /// The first load is under way; reads are empty.
    #[default]
    Loading,
    /// What a former mirror stored is served; etcd has not confirmed it yet.
    Restored,
    /// Loaded and watching.
    Live,
    /// The watch broke and is being reopened; the last data is served.
    Reconnecting,
    /// History was lost or compacted, so everything is being read again; the last data is served.
    Reloading,
    /// Everything was read again, but showing it would remove too many keys: it waits until somebody
    /// accepts or refuses it. The last data is served, and nothing newer.
    Held,
    /// Stopped for good; the last data stays readable.
    Stopped,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Loading => "loading",
            State::Restored => "restored",
            State::Live => "live",
            State::Reconnecting => "reconnecting",
            State::Reloading => "reloading",
            State::Held => "held",
            State::Stopped => "stopped",
        })
    }
}

/// How a key space learns that it is complete while its own keys are quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ProgressBy {
    /// Not known yet.
    #[default]
    Unknown,
    /// Progress notifications on request, which this server's version can be trusted with.
    Request,
    /// By counting: a linearizable read shows that nothing is newer and nothing is missing. For
    /// servers whose requested progress runs ahead of events, and for gRPC proxies.
    Count,
}

/// How far a load has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LoadProgress {
    /// Keys read so far.
    pub keys: u64,
    /// Keys in the range, once etcd has said so.
    pub expected: Option<u64>,
    /// Bytes of keys and values read so far.
    pub bytes: u64,
}

/// What was counted since the start; all counters only rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Finished loads, the first one included.
    pub loads: u64,
    /// Those of them that were made because the watch's revision was compacted.
    pub loads_compacted: u64,
    /// Those of them that were made because history had been lost: an event or a count did not continue
    /// what was known, or an audit found a difference.
    pub loads_gap: u64,
    /// Those of them that were made because a response of the watch was too large.
    pub loads_oversized: u64,
    /// Those of them that were made because the store's history was another one.
    pub loads_history: u64,
    /// Those because a [journal](crate::Builder::journal) had to be caught up with.
    pub loads_stored: u64,
    /// Loads that had to start again, mostly because their revision was compacted meanwhile.
    pub load_restarts: u64,
    /// Reloads because the watch's revision was compacted.
    pub compactions: u64,
    /// Reloads because an event did not continue what was known: lost history.
    pub discontinuities: u64,
    /// Reloads because a response of the watch was larger than can be had or held.
    pub oversized: u64,
    /// Reloads that were held because they would have removed too many keys.
    pub holds: u64,
    /// Audits finished.
    pub audits: u64,
    /// Keys in which an audit found a difference, before the reload that mends it.
    pub drift: u64,
    /// Reloads because the store's history was found to be another one.
    pub history_changes: u64,
    /// Connections made.
    pub connects: u64,
    /// Watches opened.
    pub watches: u64,
    /// Failures after which the mirror tried again.
    pub failures: u64,
    /// The same by kind.
    pub failures_by_kind: FailureCounts,
    /// Batches applied.
    pub batches: u64,
    /// Events applied.
    pub events: u64,
    /// Those of them that delete; the others are puts.
    pub deletes: u64,
    /// Events delivered again and dropped.
    pub duplicates: u64,
    /// Changes of entries shown to observers.
    pub changes: u64,
    /// Values that could not be decoded; those of a batch that were overwritten in it do not count.
    pub rejected: u64,
    /// Progress notifications or counts that moved `confirmed`.
    pub progress: u64,
}

/// Failures after which the mirror tried again, by kind; together they are
/// [`failures`](Counters::failures).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct FailureCounts {
    /// The endpoint could not be reached or could not answer, or the connection or watch ended.
    pub unavailable: u64,
    /// No answer, or no sign of life, in time.
    pub timeout: u64,
    /// Rights, the token or the request were refused.
    pub refused: u64,
    /// The answer broke the protocol, or was more than can be held.
    pub malformed: u64,
}

/// What a key space is doing and how current it is, at one moment.
///
/// `state` says what the mirror does; `current_as_of` says what readers may believe. Contact alone
/// proves nothing: a member that lost its quorum still answers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// What the mirror is doing.
    pub state: State,
    /// The view's revision (C1).
    pub revision: Revision,
    /// The revision through which the view is known complete (C1).
    pub confirmed: Revision,
    /// The epoch of the store's history.
    pub epoch: u64,
    /// For how long the state has been what it is.
    pub state_age: Duration,
    /// How old the stored data is that is shown, until `current_as_of` says better.
    pub restored_age: Option<Duration>,
    /// How long ago etcd last sent anything.
    pub last_contact: Option<Duration>,
    /// How long ago the last linearizable revision known to be in the view was asked for: the view
    /// shows at least everything that was committed then (C7). While etcd answers, it is at most
    /// [`check_interval`](crate::Builder::check_interval) plus two round trips and one batch.
    pub current_as_of: Option<Duration>,
    /// The last failure, cleared when the mirror is live again and has proof of it.
    pub last_error: Option<Arc<dyn StdError + Send + Sync>>,
    /// Why what is taken in is not [stored](crate::Builder::journal) at the moment; the key space
    /// goes on.
    #[cfg(feature = "journal")]
    pub store_error: Option<Arc<dyn StdError + Send + Sync>>,
    /// The endpoint in use.
    pub endpoint: Option<String>,
    /// How progress is learned.
    pub progress_by: ProgressBy,
    /// How far the load under way has come; between loads, how large the last one was.
    pub load: Option<LoadProgress>,
    /// What waits for a decision in the state [`Held`](State::Held):
    /// [`accept_held`](crate::KeySpace::accept_held) or
    /// [`refuse_held`](crate::KeySpace::refuse_held).
    pub held: Option<Held>,
    /// Keys whose newest value could not be decoded.
    pub rejected: usize,
    /// Observers that panicked and are not called any more.
    pub poisoned_observers: Vec<PoisonedObserver>,
    /// What was counted since the start.
    pub counters: Counters,
}

impl Status {
    /// Whether the key space is live and was current no longer than `limit` ago: a readiness check.
    ///
    /// With the default check interval of 5 s, a limit of 15 s leaves ten seconds to find and replace a
    /// broken watch.
    #[must_use]
    pub fn is_fresh(&self, limit: Duration) -> bool {
        self.state == State::Live && self.current_as_of.is_some_and(|age| age <= limit)
    }
}

/// Sizes and times of a key space, for dashboards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Entries in the view.
    pub keys: usize,
    /// Bytes of all keys.
    pub key_bytes: usize,
    /// An estimate of the heap bytes of the storage: entries and keys with all columns around them,
    /// without what the decoded values own.
    pub heap_bytes: usize,
    /// Waits pending.
    pub waits: usize,
    /// Ranges followed.
    pub followers: usize,
    /// Events kept for followers of [every event](crate::KeySpace::events).
    pub kept_events: usize,
    /// How often one of them was told its whole range, because what it was told last is not kept any
    /// more.
    pub resyncs: u64,
    /// The longest time a read guard was held: of each guard that a batch waited for, from the begin of the
    /// wait at least, and of one in 64 others. Timing each guard would cost more than a look-up.
    pub longest_read_hold: Duration,
    /// The longest time the mirror waited for readers before it could show a batch.
    pub longest_write_wait: Duration,
    /// The longest time the write lock was held and readers waited: for a batch or load with its
    /// observers, for a registration with its first call, for progress, or for a removal.
    pub longest_write_hold: Duration,
    /// How long the write lock was held for the last batch or load, observers included.
    pub last_write_hold: Duration,
    /// Finished loads, each from its begin until it was shown.
    pub loads: Timing,
    /// Applied batches, each with judging, decoding, merging and showing; the lock is held for the last
    /// part only.
    pub applies: Timing,
    /// Waits for a revision or a `sync` that did not return at once, and ended with what they waited for.
    pub waits_met: Timing,
    /// Those that ended because the key space stopped or its history changed.
    pub waits_failed: Timing,
    /// Those that were given up by whoever waited, by a timeout for example.
    pub waits_dropped: Timing,
}

/// What one observer costs; given by [`observer_times`](crate::KeySpace::observer_times).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObserverTimes {
    /// Where it was registered.
    pub registered: &'static Location<'static>,
    /// Its runs.
    pub runs: Timing,
}

/// What the mirror writes and [`Status`] is made of; instants instead of ages.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) state: State,
    pub(crate) state_since: Instant,
    pub(crate) stored_at: Option<SystemTime>,
    pub(crate) last_contact: Option<Instant>,
    pub(crate) current_as_of: Option<Instant>,
    pub(crate) last_error: Option<Arc<dyn StdError + Send + Sync>>,
    pub(crate) endpoint: Option<Arc<str>>,
    pub(crate) progress_by: ProgressBy,
    pub(crate) load: Option<LoadProgress>,
    pub(crate) counters: Counters,
}

/// The mirror's report, readable at any time.
#[derive(Debug)]
pub(crate) struct ReportCell(Mutex<Report>);

impl ReportCell {
    pub(crate) fn new() -> Self {
        ReportCell(Mutex::new(Report {
            state: State::Loading,
            state_since: Instant::now(),
            stored_at: None,
            last_contact: None,
            current_as_of: None,
            last_error: None,
            endpoint: None,
            progress_by: ProgressBy::Unknown,
            load: None,
            counters: Counters::default(),
        }))
    }

    pub(crate) fn read(&self) -> Report {
        self.0.lock().clone()
    }

    /// Reports what a mirror that is live and has just read etcd's revision would.
    pub(crate) fn current(&self) {
        let mut report = self.0.lock();
        let now = Instant::now();
        if report.state != State::Live {
            (report.state, report.state_since) = (State::Live, now);
        }
        report.current_as_of = Some(now);
    }

    pub(crate) fn write(&self, report: &Report) {
        self.0.lock().clone_from(report);
    }
}
