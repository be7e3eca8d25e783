//! Looking at a key space: its state, its figures, its observers, its rejected keys.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::handle::KeySpace;
use crate::model::Revision;
use crate::publish::{ObserverTimes, State, Stats, Status, forbid_in_observer, in_observer};
use crate::view::DecodeError;

/// A key whose newest value could not be decoded.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Rejected {
    /// The key.
    pub key: Vec<u8>,
    /// The key's create revision.
    pub create_revision: Revision,
    /// The revision of the value that was rejected.
    pub mod_revision: Revision,
    /// The key's version at that value.
    pub version: i64,
    /// Why.
    pub error: Arc<DecodeError>,
    /// Since when the key's newest value has been bad, by the system clock.
    pub since: SystemTime,
    /// Whether an older value of the key is shown meanwhile.
    pub shows_older: bool,
}

impl<T: Send + Sync + 'static> KeySpace<T> {
    /// What the key space is doing and how current it is.
    ///
    /// Inside an observer it says nothing of poisoned observers, since those are behind the lock.
    #[must_use]
    pub fn status(&self) -> Status {
        let report = self.core.report.read();
        let published = self.core.waits.published();
        let state = if self.core.waits.ended().is_some() { State::Stopped } else { report.state };
        let (rejected, poisoned_observers) = if in_observer(self.core.id()) {
            (0, Vec::new())
        } else {
            let guard = self.core.read_locked();
            (guard.view.rejected.len(), guard.observers.poisoned())
        };
        let age = |instant: tokio::time::Instant| instant.elapsed();
        Status {
            state,
            revision: published.revision,
            confirmed: published.confirmed,
            epoch: published.epoch,
            state_age: age(report.state_since),
            #[cfg(feature = "journal")]
            store_error: self.core.feed_state.get().and_then(|room| room.error()),
            restored_age: report
                .stored_at
                .filter(|_| report.current_as_of.is_none())
                .map(|at| at.elapsed().unwrap_or_default()),
            last_contact: report.last_contact.map(age),
            current_as_of: report.current_as_of.map(age),
            last_error: report.last_error,
            endpoint: report.endpoint.map(|name| name.to_string()),
            progress_by: report.progress_by,
            load: report.load,
            held: self.core.holds.held(),
            rejected,
            poisoned_observers,
            counters: report.counters,
        }
    }

    /// Sizes and times, in O(n) of the storage's parts.
    ///
    /// # Panics
    /// As [`read`](KeySpace::read).
    #[must_use]
    #[track_caller]
    pub fn stats(&self) -> Stats {
        let view = self.snapshot();
        let times = &self.core.times;
        let nanos = |value: &std::sync::atomic::AtomicU64| {
            Duration::from_nanos(value.load(Ordering::Relaxed))
        };
        Stats {
            keys: view.len(),
            key_bytes: view.entries.key_bytes(),
            heap_bytes: view.entries.heap_bytes() + view.rejected.heap_bytes(),
            waits: self.core.waits.pending(),
            followers: self.core.interests.len() + self.core.history.interests.len(),
            kept_events: self.core.history.len(),
            resyncs: self.core.history.behind.load(Ordering::Relaxed),
            longest_read_hold: nanos(&times.longest_read_hold),
            longest_write_wait: nanos(&times.longest_write_wait),
            longest_write_hold: nanos(&times.longest_write_hold),
            last_write_hold: nanos(&times.last_write_hold),
            loads: self.core.timers.load.read(),
            applies: self.core.timers.apply.read(),
            waits_met: self.core.waits.timers.met.read(),
            waits_failed: self.core.waits.timers.failed.read(),
            waits_dropped: self.core.waits.timers.dropped.read(),
        }
    }

    /// How often each observer ran and how long it took, in the order of registration: whoever holds
    /// up the readers is found here.
    ///
    /// # Panics
    /// Inside an observer of the same key space.
    #[must_use]
    #[track_caller]
    pub fn observer_times(&self) -> Vec<ObserverTimes> {
        forbid_in_observer(self.core.id(), "reading");
        let guard = self.core.read_locked();
        let times = guard.observers.times();
        times.map(|(registered, runs)| ObserverTimes { registered, runs }).collect()
    }

    /// The keys whose newest value could not be decoded, ascending by key (C10).
    ///
    /// # Panics
    /// As [`read`](KeySpace::read).
    #[must_use]
    #[track_caller]
    pub fn rejected(&self) -> Vec<Rejected> {
        let view = self.snapshot();
        let rejected = view.rejected.all().iter().map(|entry| Rejected {
            key: entry.key().to_vec(),
            create_revision: entry.create_revision(),
            mod_revision: entry.mod_revision(),
            version: entry.version(),
            error: Arc::clone(&entry.value().error),
            since: entry.value().since,
            shows_older: entry.value().shown,
        });
        rejected.collect()
    }
}
