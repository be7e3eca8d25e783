//! What a key space tells the recorder of the `metrics` crate, by name.
//!
//! Install a recorder (`metrics-exporter-prometheus`, `metrics-exporter-dogstatsd`, your own) *before*
//! a key space is built: it registers its figures then, so that telling one costs an atomic operation.
//! Without a recorder that is all that is lost, and without the feature not even that is there:
//! [`status`](crate::KeySpace::status), [`stats`](crate::KeySpace::stats) and
//! [`observer_times`](crate::KeySpace::observer_times) give the same figures as plain structs.
//!
//! Every metric has the label `keyspace`: the name given to [`Builder::name`](crate::Builder::name), or
//! `unnamed`. Give each key space of a process a name of its own, else their figures mix. No label ever
//! holds a key. Counters and histograms count what is done by this process since its start; gauges are
//! told whenever the mirror has done something, at least every
//! [`check_interval`](crate::Builder::check_interval) while etcd answers.
//!
//! | name | kind | unit | labels | |
//! |---|---|---|---|---|
//! | `etcd_keyspace_revision` | gauge | | | Greatest revision applied. |
//! | `etcd_keyspace_confirmed_revision` | gauge | | | Store revision through which the view is known complete. |
//! | `etcd_keyspace_keys` | gauge | | | Entries in the view. |
//! | `etcd_keyspace_key_bytes` | gauge | bytes | | Bytes of all keys. |
//! | `etcd_keyspace_bytes` | gauge | bytes | | Estimated heap bytes of the storage, without what decoded values own; renewed at most once a second. |
//! | `etcd_keyspace_synced` | gauge | | | 1 while loaded and watching, else 0. |
//! | `etcd_keyspace_last_contact_timestamp_seconds` | gauge | seconds | | When etcd last sent anything, by the system clock. |
//! | `etcd_keyspace_current_as_of_timestamp_seconds` | gauge | seconds | | When the last linearizable revision known to be in the view was asked for: alert on its age. |
//! | `etcd_keyspace_rejected_keys` | gauge | | | Keys whose newest value could not be decoded. |
//! | `etcd_keyspace_pending_waits` | gauge | | | Waits pending. |
//! | `etcd_keyspace_subscribers` | gauge | | | Ranges followed outside the lock. |
//! | `etcd_keyspace_kept_events` | gauge | | | Events kept for followers of every event. |
//! | `etcd_keyspace_subscriber_resyncs_total` | counter | | | Followers of every event that were told a whole range, since they were too far behind. |
//! | `etcd_keyspace_loads_total` | counter | | `reason` | Finished loads: `initial`, `compacted`, `gap`, `oversized`, `history` or `stored`. |
//! | `etcd_keyspace_load_restarts_total` | counter | | | Loads that had to start again. |
//! | `etcd_keyspace_holds_total` | counter | | | Reloads held because they would have removed too many keys. |
//! | `etcd_keyspace_watch_restarts_total` | counter | | `reason` | Failures after which the mirror tried again: `unavailable`, `timeout`, `refused` or `malformed`. |
//! | `etcd_keyspace_events_total` | counter | | `type` | Events applied: `put` or `delete`. |
//! | `etcd_keyspace_duplicate_events_total` | counter | | | Events delivered again and dropped. |
//! | `etcd_keyspace_changes_total` | counter | | | Changes of entries shown to observers. |
//! | `etcd_keyspace_decode_errors_total` | counter | | | Values that could not be decoded. |
//! | `etcd_keyspace_audits_total` | counter | | | Audits finished. |
//! | `etcd_keyspace_drift_total` | counter | | | Keys in which an audit found a difference. |
//! | `etcd_keyspace_load_duration_seconds` | histogram | seconds | | A load, from its begin until it is shown. |
//! | `etcd_keyspace_apply_duration_seconds` | histogram | seconds | | A batch: judging, decoding, merging and showing. |
//! | `etcd_keyspace_apply_events` | histogram | | | Events of a batch. |
//! | `etcd_keyspace_observer_duration_seconds` | histogram | seconds | `observer` | A run of an observer, by where it was registered (`file:line`). |
//! | `etcd_keyspace_wait_duration_seconds` | histogram | seconds | `result` | A wait for a revision that did not return at once: `ok`, `closed`, or `dropped` by who waited (a timeout). |
//!
//! Followers of [net changes](crate::KeySpace::changes) have no queue that could overflow: those that are
//! slow get what changed meanwhile in one piece, and nothing counts them.

// Owns the names, their description, and telling the recorder. Must not measure anything itself: what
// is told is what `status` and `stats` know.

use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use parking_lot::Mutex;

use crate::publish::{Core, Counters, Figures, Gauge as Shows, OnRecord, State};

mod names;

pub use self::names::{ALL, Kind, Metric};

/// How often the figure that takes work is made.
const BYTES_EVERY: Duration = Duration::from_secs(1);

/// Has the key space tell its figures under `name`.
pub(crate) fn attach<T: Send + Sync + 'static>(shared: &Core<T>, name: &str) {
    describe();
    let name: Arc<str> = if name.is_empty() { "unnamed".into() } else { name.into() };
    let duration =
        |histogram: Histogram| -> OnRecord { Box::new(move |took| histogram.record(took)) };
    let label = || ("keyspace", name.to_string());
    shared.timers.load.pass_on(duration(histogram!(names::LOAD_DURATION, &[label()])));
    shared.timers.apply.pass_on(duration(histogram!(names::APPLY_DURATION, &[label()])));
    let wait = |result: &str| {
        let labels = [label(), ("result", result.to_owned())];
        duration(histogram!(names::WAIT_DURATION, &labels))
    };
    shared.waits.timers.met.pass_on(wait("ok"));
    shared.waits.timers.failed.pass_on(wait("closed"));
    shared.waits.timers.dropped.pass_on(wait("dropped"));
    // Nobody else sets it: a key space is built once.
    let _ = shared.gauge.set(Box::new(Told::new(name)));
}

/// Describes every metric to the recorder.
fn describe() {
    for Metric { name, kind, unit, help, .. } in ALL {
        let unit = match *unit {
            "seconds" => Unit::Seconds,
            "bytes" => Unit::Bytes,
            _ => Unit::Count,
        };
        match kind {
            Kind::Gauge => ::metrics::describe_gauge!(*name, unit, *help),
            Kind::Counter => ::metrics::describe_counter!(*name, unit, *help),
            Kind::Histogram => ::metrics::describe_histogram!(*name, unit, *help),
        }
    }
}

/// A counter of the recorder with the figure it is told from. Figures only rise.
struct Rising {
    counter: Counter,
    figure: fn(&Counters) -> u64,
}

/// What one key space tells, with what it has told.
struct Told {
    name: Arc<str>,
    rising: Vec<Rising>,
    levels: Levels,
    apply_events: Histogram,
    resyncs: Counter,
    before: Mutex<Before>,
}

#[derive(Default)]
struct Before {
    counters: Counters,
    resyncs: u64,
    bytes_at: Option<Instant>,
    ended: bool,
}

struct Levels {
    revision: Gauge,
    confirmed: Gauge,
    keys: Gauge,
    key_bytes: Gauge,
    bytes: Gauge,
    synced: Gauge,
    last_contact: Gauge,
    current_as_of: Gauge,
    rejected: Gauge,
    waits: Gauge,
    subscribers: Gauge,
    kept_events: Gauge,
}

impl Told {
    fn new(name: Arc<str>) -> Self {
        let labels = [("keyspace", name.to_string())];
        let level = |metric: &'static str| gauge!(metric, &labels);
        let levels = Levels {
            revision: level(names::REVISION),
            confirmed: level(names::CONFIRMED),
            keys: level(names::KEYS),
            key_bytes: level(names::KEY_BYTES),
            bytes: level(names::BYTES),
            synced: level(names::SYNCED),
            last_contact: level(names::LAST_CONTACT),
            current_as_of: level(names::CURRENT_AS_OF),
            rejected: level(names::REJECTED),
            waits: level(names::WAITS),
            subscribers: level(names::SUBSCRIBERS),
            kept_events: level(names::KEPT_EVENTS),
        };
        let apply_events = histogram!(names::APPLY_EVENTS, &labels);
        let resyncs = counter!(names::RESYNCS, &labels);
        let rising = rising(&name);
        Told { rising, name, levels, apply_events, resyncs, before: Mutex::default() }
    }
}

/// All counters, zero included: a dashboard should see that nothing has happened yet.
fn rising(name: &Arc<str>) -> Vec<Rising> {
    let plain = |metric: &'static str, figure: fn(&Counters) -> u64| {
        let counter = counter!(metric, "keyspace" => name.to_string());
        Rising { counter, figure }
    };
    let by = |metric: &'static str, label: &'static str, value: &'static str, figure| {
        let counter = counter!(metric, "keyspace" => name.to_string(), label => value);
        Rising { counter, figure }
    };
    let initial = |c: &Counters| {
        let others =
            c.loads_compacted + c.loads_gap + c.loads_oversized + c.loads_history + c.loads_stored;
        c.loads - others
    };
    let mut all = vec![
        by(names::LOADS, "reason", "initial", initial),
        by(names::LOADS, "reason", "compacted", |c| c.loads_compacted),
        by(names::LOADS, "reason", "gap", |c| c.loads_gap),
        by(names::LOADS, "reason", "oversized", |c| c.loads_oversized),
        by(names::LOADS, "reason", "history", |c| c.loads_history),
        by(names::LOADS, "reason", "stored", |c| c.loads_stored),
        plain(names::LOAD_RESTARTS, |c| c.load_restarts),
        plain(names::HOLDS, |c| c.holds),
        by(names::EVENTS, "type", "put", |c| c.events - c.deletes),
        by(names::EVENTS, "type", "delete", |c| c.deletes),
        plain(names::DUPLICATES, |c| c.duplicates),
        plain(names::CHANGES, |c| c.changes),
        plain(names::DECODE_ERRORS, |c| c.rejected),
        plain(names::AUDITS, |c| c.audits),
        plain(names::DRIFT, |c| c.drift),
    ];
    let restarts = names::WATCH_RESTARTS;
    all.extend([
        by(restarts, "reason", "unavailable", |c| c.failures_by_kind.unavailable),
        by(restarts, "reason", "timeout", |c| c.failures_by_kind.timeout),
        by(restarts, "reason", "refused", |c| c.failures_by_kind.refused),
        by(restarts, "reason", "malformed", |c| c.failures_by_kind.malformed),
    ]);
    all
}

#[allow(clippy::cast_precision_loss, reason = "gauges are floats; beyond 2^53 the last digits go")]
fn float(figure: impl TryInto<i64>) -> f64 {
    figure.try_into().unwrap_or(i64::MAX) as f64
}

/// The system clock's time of something that long ago.
fn timestamp(ago: Duration) -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.saturating_sub(ago).as_secs_f64()
}

impl Shows for Told {
    fn show(&self, figures: &Figures<'_>) {
        let Figures { report, .. } = figures;
        let mut before = self.before.lock();
        for Rising { counter, figure } in &self.rising {
            // Told by difference: another key space of the same name may count on.
            counter.increment(figure(&report.counters) - figure(&before.counters));
        }
        before.counters = report.counters;
        self.resyncs.increment(figures.resyncs - before.resyncs);
        before.resyncs = figures.resyncs;
        before.ended |= figures.ended;
        let levels = &self.levels;
        if before.bytes_at.is_none_or(|at| at.elapsed() >= BYTES_EVERY) {
            levels.bytes.set(float((figures.heap_bytes)()));
            before.bytes_at = Some(Instant::now());
        }
        levels.synced.set(f64::from(report.state == State::Live && !before.ended));
        drop(before);
        levels.revision.set(float(figures.revision));
        levels.confirmed.set(float(figures.confirmed));
        levels.keys.set(float(figures.keys));
        levels.key_bytes.set(float(figures.key_bytes));
        levels.rejected.set(float(figures.rejected));
        levels.waits.set(float(figures.waits));
        levels.subscribers.set(float(figures.followers));
        levels.kept_events.set(float(figures.kept_events));
        if let Some(at) = report.last_contact {
            levels.last_contact.set(timestamp(at.elapsed()));
        }
        if let Some(at) = report.current_as_of {
            levels.current_as_of.set(timestamp(at.elapsed()));
        }
    }

    fn applied(&self, events: usize) {
        self.apply_events.record(float(events));
    }

    fn observer(&self, registered: &'static Location<'static>) -> OnRecord {
        let place = format!("{}:{}", registered.file(), registered.line());
        let labels = [("keyspace", self.name.to_string()), ("observer", place)];
        let histogram = histogram!(names::OBSERVER_DURATION, &labels);
        Box::new(move |took| histogram.record(took))
    }

    fn ended(&self) {
        self.before.lock().ended = true;
        self.levels.synced.set(0.0);
    }
}
