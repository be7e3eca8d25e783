//! The names of all metrics, with what they mean.
//!
//! Owns the one list that descriptions, documentation and dashboards are held against. Must not tell
//! anything to anybody.

/// What kind of metric it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A level of now.
    Gauge,
    /// A number that only rises.
    Counter,
    /// A distribution.
    Histogram,
}

/// One metric, as the recorder is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its whole name.
    pub name: &'static str,
    /// What kind it is.
    pub kind: Kind,
    /// `seconds`, `bytes`, or empty for mere numbers.
    pub unit: &'static str,
    /// The label it has beside `keyspace`, or empty.
    pub label: &'static str,
    /// What it tells.
    pub help: &'static str,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    label: &'static str,
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, label, help }
}

pub(super) const REVISION: &str = "etcd_keyspace_revision";
pub(super) const CONFIRMED: &str = "etcd_keyspace_confirmed_revision";
pub(super) const KEYS: &str = "etcd_keyspace_keys";
pub(super) const KEY_BYTES: &str = "etcd_keyspace_key_bytes";
pub(super) const BYTES: &str = "etcd_keyspace_bytes";
pub(super) const SYNCED: &str = "etcd_keyspace_synced";
pub(super) const LAST_CONTACT: &str = "etcd_keyspace_last_contact_timestamp_seconds";
pub(super) const CURRENT_AS_OF: &str = "etcd_keyspace_current_as_of_timestamp_seconds";
pub(super) const REJECTED: &str = "etcd_keyspace_rejected_keys";
pub(super) const WAITS: &str = "etcd_keyspace_pending_waits";
pub(super) const SUBSCRIBERS: &str = "etcd_keyspace_subscribers";
pub(super) const KEPT_EVENTS: &str = "etcd_keyspace_kept_events";
pub(super) const RESYNCS: &str = "etcd_keyspace_subscriber_resyncs_total";
pub(super) const LOADS: &str = "etcd_keyspace_loads_total";
pub(super) const LOAD_RESTARTS: &str = "etcd_keyspace_load_restarts_total";
pub(super) const HOLDS: &str = "etcd_keyspace_holds_total";
pub(super) const WATCH_RESTARTS: &str = "etcd_keyspace_watch_restarts_total";
pub(super) const EVENTS: &str = "etcd_keyspace_events_total";
pub(super) const DUPLICATES: &str = "etcd_keyspace_duplicate_events_total";
pub(super) const CHANGES: &str = "etcd_keyspace_changes_total";
pub(super) const DECODE_ERRORS: &str = "etcd_keyspace_decode_errors_total";
pub(super) const AUDITS: &str = "etcd_keyspace_audits_total";
pub(super) const DRIFT: &str = "etcd_keyspace_drift_total";
pub(super) const LOAD_DURATION: &str = "etcd_keyspace_load_duration_seconds";
pub(super) const APPLY_DURATION: &str = "etcd_keyspace_apply_duration_seconds";
pub(super) const APPLY_EVENTS: &str = "etcd_keyspace_apply_events";
pub(super) const OBSERVER_DURATION: &str = "etcd_keyspace_observer_duration_seconds";
pub(super) const WAIT_DURATION: &str = "etcd_keyspace_wait_duration_seconds";

/// Every metric of the crate.
pub const ALL: &[Metric] = &[
    metric(REVISION, Kind::Gauge, "", "", "Greatest revision applied."),
    metric(
        CONFIRMED,
        Kind::Gauge,
        "",
        "",
        "Store revision through which the view is known complete.",
    ),
    metric(KEYS, Kind::Gauge, "", "", "Entries in the view."),
    metric(KEY_BYTES, Kind::Gauge, "bytes", "", "Bytes of all keys."),
    metric(
        BYTES,
        Kind::Gauge,
        "bytes",
        "",
        "Estimated heap bytes of the storage, without what decoded values own; renewed at most once a second.",
    ),
    metric(SYNCED, Kind::Gauge, "", "", "1 while loaded and watching, else 0."),
    metric(
        LAST_CONTACT,
        Kind::Gauge,
        "seconds",
        "",
        "When etcd last sent anything, by the system clock.",
    ),
    metric(
        CURRENT_AS_OF,
        Kind::Gauge,
        "seconds",
        "",
        "When the last linearizable revision known to be in the view was asked for: alert on its age.",
    ),
    metric(REJECTED, Kind::Gauge, "", "", "Keys whose newest value could not be decoded."),
    metric(WAITS, Kind::Gauge, "", "", "Waits pending."),
    metric(SUBSCRIBERS, Kind::Gauge, "", "", "Ranges followed outside the lock."),
    metric(KEPT_EVENTS, Kind::Gauge, "", "", "Events kept for followers of every event."),
    metric(
        RESYNCS,
        Kind::Counter,
        "",
        "",
        "Followers of every event that were told a whole range, since they were too far behind.",
    ),
    metric(
        LOADS,
        Kind::Counter,
        "",
        "reason",
        "Finished loads: initial, compacted, gap, oversized, history or stored.",
    ),
    metric(LOAD_RESTARTS, Kind::Counter, "", "", "Loads that had to start again."),
    metric(
        HOLDS,
        Kind::Counter,
        "",
        "",
        "Reloads held because they would have removed too many keys.",
    ),
    metric(
        WATCH_RESTARTS,
        Kind::Counter,
        "",
        "reason",
        "Failures after which the mirror tried again: unavailable, timeout, refused or malformed.",
    ),
    metric(EVENTS, Kind::Counter, "", "type", "Events applied: put or delete."),
    metric(DUPLICATES, Kind::Counter, "", "", "Events delivered again and dropped."),
    metric(CHANGES, Kind::Counter, "", "", "Changes of entries shown to observers."),
    metric(DECODE_ERRORS, Kind::Counter, "", "", "Values that could not be decoded."),
    metric(AUDITS, Kind::Counter, "", "", "Audits finished."),
    metric(DRIFT, Kind::Counter, "", "", "Keys in which an audit found a difference."),
    metric(
        LOAD_DURATION,
        Kind::Histogram,
        "seconds",
        "",
        "A load, from its begin until it is shown.",
    ),
    metric(
        APPLY_DURATION,
        Kind::Histogram,
        "seconds",
        "",
        "A batch: judging, decoding, merging and showing.",
    ),
    metric(APPLY_EVENTS, Kind::Histogram, "", "", "Events of a batch."),
    metric(
        OBSERVER_DURATION,
        Kind::Histogram,
        "seconds",
        "observer",
        "A run of an observer, by where it was registered (file:line).",
    ),
    metric(
        WAIT_DURATION,
        Kind::Histogram,
        "seconds",
        "result",
        "A wait for a revision that did not return at once: ok, closed, or dropped by who waited (a timeout).",
    ),
];
