//! Publishing: the lock, the newest view, everything that a step updates, and the writer that makes steps.
//!
//! Must not know where a view comes from, nor who asks a handle for it.

mod core;
mod cores;
mod current;
mod cut;
#[cfg_attr(not(feature = "journal"), allow(dead_code, reason = "only a journal stores"))]
mod feed;
#[cfg(feature = "metrics")]
mod gauge;
mod guard;
mod history;
mod hold;
mod observer;
mod outcome;
mod reentry;
mod snapshot;
mod status;
mod subscriptions;
mod timer;
mod wait;
mod writer;

pub(crate) use self::core::{Changes, Core};
pub(crate) use self::cores::Cores;
pub(crate) use self::cut::{CutAbort, CutReplies, CutRequest, Position};
pub(crate) use self::feed::{FeedItem, FeedSender, FeedState, Through};
#[cfg(feature = "journal")]
pub(crate) use self::feed::{FeedReceiver, Refused, tap};
#[cfg(feature = "metrics")]
pub(crate) use self::gauge::{Figures, Gauge};
pub use self::guard::ReadGuard;
pub(crate) use self::history::{HistoryBounds, Lookup, NextRecord, Place, Step, What};
#[cfg(all(test, shuttle))]
pub(crate) use self::hold::HoldCell;
pub(crate) use self::hold::Verdict;
pub use self::hold::{Held, NotHeld};
pub(crate) use self::observer::Slot;
pub use self::observer::{
    Derived, DerivedError, Earlier, Observer, PoisonedObserver, SharedDerived,
};
pub use self::outcome::{Applied, LoadError};
pub(crate) use self::reentry::{forbid_in_observer, in_observer};
pub use self::snapshot::Snapshot;
pub(crate) use self::status::Report;
pub use self::status::{
    Counters, FailureCounts, LoadProgress, ObserverTimes, ProgressBy, State, Stats, Status,
};
pub(crate) use self::subscriptions::{Bell, Ticket};
pub(crate) use self::timer::MAX_DURATION;
#[cfg(feature = "metrics")]
pub(crate) use self::timer::OnRecord;
pub use self::timer::Timing;
pub use self::wait::WaitError;
pub(crate) use self::wait::{Awaited, Contact, Demand};
#[cfg(all(test, shuttle))]
pub(crate) use self::wait::{Wait, Waits};
pub use self::writer::Writer;
