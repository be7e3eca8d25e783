//! What can be set about a mirror, with defaults and bounds.
//!
//! Owns [`Options`], one plain struct that every part of the loop reads. Must not do anything.

use std::time::Duration;

use crate::mirror::queue::Bounds;
use crate::model::Revision;

/// How much is compared whole after every break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) keys: usize,
    pub(crate) bytes: u64,
}

impl Budget {
    pub(crate) const UNBOUNDED: Budget = Budget { keys: usize::MAX, bytes: u64::MAX };
}

/// What to do when the store is not the one the data is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnHistoryChange {
    /// End the key space with the reason; its last data stays readable.
    Stop,
    /// Load everything anew under a new epoch, with the exact difference; waits of the old epoch
    /// fail with [`WaitError::HistoryChanged`](crate::WaitError::HistoryChanged).
    Reload,
}

/// What to do with a reload that would remove more keys than
/// [`hold_reloads`](crate::Builder::hold_reloads) lets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnHold {
    /// Serve the old data until [`accept_held`](crate::KeySpace::accept_held) or
    /// [`refuse_held`](crate::KeySpace::refuse_held) is called.
    Wait,
    /// The same, but accept it after this long without a decision.
    AcceptAfter(Duration),
    /// End the key space with the reason; its last data stays readable.
    Stop,
}

/// What to do when what a former mirror stored cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(
    not(feature = "journal"),
    allow(dead_code, unreachable_pub, reason = "only a journal stores")
)]
#[non_exhaustive]
pub enum OnBadStore {
    /// End the key space with [`StopReason::NotRestored`](crate::StopReason::NotRestored).
    #[default]
    Stop,
    /// Log it and read everything from etcd, as if nothing were stored. Where the mirror is stored
    /// ([`Builder::journal`](crate::Builder::journal)) that read replaces what is damaged.
    Load,
}

/// Everything that can be set; the setters on [`Builder`](crate::Builder) document each.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) name: String,
    pub(crate) apply_delay: Duration,
    pub(crate) queue: Bounds,
    pub(crate) intake_bytes: usize,
    pub(crate) response_bytes: usize,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) load_at: Revision,
    pub(crate) load_timeout: Option<Duration>,
    pub(crate) page_bytes: u64,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) page_timeout: Duration,
    pub(crate) check_interval: Duration,
    pub(crate) demand_interval: Duration,
    pub(crate) proof_budget: Budget,
    pub(crate) on_other_cluster: OnHistoryChange,
    pub(crate) on_history_change: OnHistoryChange,
    pub(crate) hold_above: Option<f64>,
    pub(crate) on_hold: OnHold,
    pub(crate) audit_interval: Option<Duration>,
    pub(crate) audit_values: Option<Duration>,
    pub(crate) on_bad_store: OnBadStore,
    /// Seeds the jitter; drawn at random unless a test sets it.
    pub(crate) seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            name: String::new(),
            apply_delay: Duration::from_millis(30),
            queue: Bounds { events: 50_000, bytes: 32 << 20 },
            intake_bytes: 64 << 20,
            response_bytes: 1 << 30,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            load_at: 0,
            load_timeout: None,
            page_bytes: 16 << 20,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            page_timeout: Duration::from_secs(60),
            check_interval: Duration::from_secs(5),
            demand_interval: Duration::from_millis(100),
            proof_budget: Budget { keys: 4096, bytes: 1 << 20 },
            on_other_cluster: OnHistoryChange::Stop,
            on_history_change: OnHistoryChange::Reload,
            hold_above: None,
            on_hold: OnHold::Wait,
            audit_interval: None,
            audit_values: None,
            on_bad_store: OnBadStore::default(),
            seed: None,
        }
    }
}
