//! Once a second: how many changes were shown, how soon after their write, and how the mirror is.
//!
//! Owns the figures of the live page. Must not cost readers anything: the observer that counts does a
//! few additions per change.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcd_keyspace::{Delta, DeltaOrigin, KeySpace};
use hdrhistogram::Histogram;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::document::Document;

/// What a page that was just opened can plot.
const KEPT: usize = 90;
const EVERY: Duration = Duration::from_secs(1);
/// A writer whose clock is that far off says nothing about latency.
const LATENCY_MAX_US: u64 = 60_000_000;

/// What was counted since the last pulse.
struct Counted {
    changes: AtomicU64,
    latency_us: Mutex<Histogram<u64>>,
}

/// The figures of the last seconds as JSON, the newest last; there is always one.
pub(super) type Pulses = VecDeque<Arc<str>>;

/// Counts from now on, and adds a pulse each second until the key space ends.
pub(super) fn start(ks: &KeySpace<Document>) -> watch::Receiver<Pulses> {
    let latency = Histogram::new_with_bounds(1, LATENCY_MAX_US, 2).expect("fixed bounds are fine");
    let counted = Arc::new(Counted { changes: AtomicU64::new(0), latency_us: Mutex::new(latency) });
    let seen = Arc::clone(&counted);
    ks.observe(move |delta, _, _| seen.count(delta));

    let (sender, receiver) = watch::channel(Pulses::from([figures(ks, &counted, EVERY)]));
    let ks = ks.downgrade();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = ticks.tick().await;
        loop {
            let now = ticks.tick().await;
            // The service holds the key space; this must not.
            let Some(ks) = ks.upgrade() else { return };
            let pulse = figures(&ks, &counted, now - last);
            last = now;
            sender.send_modify(|pulses| {
                pulses.push_back(pulse);
                if pulses.len() > KEPT {
                    pulses.pop_front();
                }
            });
            if sender.is_closed() {
                return;
            }
        }
    });
    receiver
}

impl Counted {
    /// Runs under the write lock, when the changes are about to be visible.
    fn count(&self, delta: &Delta<Document>) {
        if delta.origin() != DeltaOrigin::Events {
            return;
        }
        self.changes.fetch_add(delta.len() as u64, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let mut latency = self.latency_us.lock().unwrap_or_else(PoisonError::into_inner);
        for change in delta {
            let written = change.new().and_then(|entry| entry.value().written_us);
            if let Some(us) = written.and_then(|written| now.checked_sub(written)) {
                latency.saturating_record(us);
            }
        }
    }

    /// The changes, and the median and the 99th percentile in microseconds, since the last call.
    fn take(&self) -> (u64, Option<(u64, u64)>) {
        let mut latency = self.latency_us.lock().unwrap_or_else(PoisonError::into_inner);
        let times = (!latency.is_empty())
            .then(|| (latency.value_at_quantile(0.5), latency.value_at_quantile(0.99)));
        latency.reset();
        (self.changes.swap(0, Ordering::Relaxed), times)
    }
}

/// One pulse as JSON.
fn figures(ks: &KeySpace<Document>, counted: &Counted, over: Duration) -> Arc<str> {
    let (status, stats) = (ks.status(), ks.stats());
    let (changes, times) = counted.take();
    #[allow(clippy::cast_precision_loss, reason = "for a plot")]
    let rate = changes as f64 / over.as_secs_f64();
    let millis =
        |age: Option<Duration>| age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    let pulse = serde_json::json!({
        "prefix": String::from_utf8_lossy(ks.mirrored().start()),
        "state": status.state.to_string(),
        "revision": status.revision,
        "confirmed": status.confirmed,
        "age_ms": millis(status.current_as_of),
        "keys": stats.keys,
        "followers": stats.followers,
        "rejected": status.rejected,
        "endpoint": status.endpoint,
        "error": status.last_error.as_ref().map(ToString::to_string),
        "changes_per_second": (rate * 10.0).round() / 10.0,
        "latency_us": times.map(|(p50, p99)| [p50, p99]),
    });
    pulse.to_string().into()
}
