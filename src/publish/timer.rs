//! How often something happened and how long it took, in numbers that cost a few atomic additions.
//!
//! Owns [`Timing`], the cell it is read from, and where a cell passes each time on to. Must not know
//! who counts: the feature `metrics` brings somebody, and without it there is nobody to call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longer than any process lives, and an instant that far ahead can still be told.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How often something was done since the start, and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Timing {
    /// How often.
    pub count: u64,
    /// All times together.
    pub total: Duration,
    /// The longest time.
    pub longest: Duration,
    /// The time of the last one.
    pub last: Duration,
}

/// Who is told each single time.
#[cfg(feature = "metrics")]
pub(crate) type OnRecord = Box<dyn Fn(Duration) + Send + Sync>;

/// Counts and adds up times.
#[derive(Default)]
pub(crate) struct Timer {
    count: AtomicU64,
    total: AtomicU64,
    longest: AtomicU64,
    last: AtomicU64,
    #[cfg(feature = "metrics")]
    tell: std::sync::OnceLock<OnRecord>,
}

impl Timer {
    /// Notes the time since `start`.
    pub(crate) fn since(&self, start: Instant) {
        let took = start.elapsed();
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(nanos, Ordering::Relaxed);
        self.longest.fetch_max(nanos, Ordering::Relaxed);
        self.last.store(nanos, Ordering::Relaxed);
        #[cfg(feature = "metrics")]
        if let Some(tell) = self.tell.get() {
            tell(took);
        }
    }

    /// Passes each further time on; only the first who asks is told.
    #[cfg(feature = "metrics")]
    pub(crate) fn pass_on(&self, tell: OnRecord) {
        let _ = self.tell.set(tell);
    }

    pub(crate) fn read(&self) -> Timing {
        let nanos = |value: &AtomicU64| Duration::from_nanos(value.load(Ordering::Relaxed));
        Timing {
            count: self.count.load(Ordering::Relaxed),
            total: nanos(&self.total),
            longest: nanos(&self.longest),
            last: nanos(&self.last),
        }
    }
}

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.read().fmt(f)
    }
}
