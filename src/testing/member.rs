//! One member of the fake cluster: what it runs, what is wrong with it, what it was asked.
//!
//! Owns the settings of faults and their reading. Must not carry out anything that touches watchers
//! or the store: that is `cluster`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::bugs::Bug;
use super::counts::Counts;
use super::store::Store;
use crate::model::{KeyRange, Revision, WatchResponse};
use crate::source::{ServerVersion, SourceError, SourceErrorKind};

/// How long a member without a leader lets a linearizable request wait (measured on etcd 3.4, 3.5).
const LEADERLESS_WAIT: Duration = Duration::from_secs(7);

/// Default bound of one watch message: etcd's `--max-request-bytes` and its overhead.
const FRAGMENT_BYTES: usize = 2 * 1024 * 1024;

/// A kind of request, to be refused or delayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Call {
    /// Connecting to the endpoint.
    Connect,
    /// The question for the server's version.
    Version,
    /// A range read of any kind.
    Range,
    /// Opening a range stream.
    RangeStream,
    /// Opening a watch stream.
    Watch,
    /// Fetching a new token.
    RefreshToken,
}

impl Call {
    /// Whether the member has to be as far as the cluster to serve it.
    pub(super) fn is_linearizable(self) -> bool {
        matches!(self, Call::Range | Call::RangeStream)
    }
}

/// Rewrites or swallows the messages of watch streams; see [`Faults::tamper`](super::Faults::tamper).
#[derive(Clone)]
pub(super) struct Tamper(
    pub(super) Arc<dyn Fn(WatchResponse) -> Option<WatchResponse> + Send + Sync>,
);

impl fmt::Debug for Tamper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tamper")
    }
}

/// What the member lets its clients do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Access {
    #[default]
    Granted,
    /// A new token helps.
    TokenExpired,
    /// Nothing the client can do helps, except to ask for keys of this range only.
    Within(KeyRange),
}

/// What a member can do in a second; both are not zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capacity {
    pub(super) requests: u32,
    pub(super) bytes: u32,
}

impl Capacity {
    /// How long the member works on `requests` that read `bytes`.
    fn time(self, requests: u32, bytes: usize) -> Duration {
        let second = Duration::from_secs(1);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        second * requests / self.requests + second * bytes / self.bytes
    }
}

/// A standing refusal; without a number of times it lasts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal {
    pub(super) kind: SourceErrorKind,
    pub(super) times: Option<u64>,
}

/// Everything that can be wrong with a member for a while.
#[derive(Debug, Default)]
pub(super) struct FaultSet {
    pub(super) stalled: bool,
    pub(super) down: bool,
    pub(super) leaderless: bool,
    /// A gRPC proxy stands before the member.
    pub(super) proxied: bool,
    pub(super) headerless: bool,
    pub(super) progress_ignored: bool,
    pub(super) access: Access,
    pub(super) refusals: BTreeMap<Call, Refusal>,
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    pub(super) call_delays: BTreeMap<Call, Duration>,
    pub(super) capacity: Option<Capacity>,
    pub(super) created_delay: Duration,
    pub(super) fragment_events: Option<usize>,
    pub(super) message_bytes_max: Option<usize>,
    pub(super) cut_after: Option<u64>,
    /// Events still to be lost.
    pub(super) lose: u64,
    /// Range streams still to be ended before their last chunk.
    pub(super) truncate: u64,
    /// Pages still to be put out of order.
    pub(super) scramble: u64,
    /// The first answer in a new term shows the term before.
    pub(super) term_late: bool,
    pub(super) tamper: Option<Tamper>,
}

/// One member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: u64,
    pub(super) version: ServerVersion,
    pub(super) bugs: BTreeSet<Bug>,
    pub(super) faults: FaultSet,
    pub(super) counts: Counts,
    /// Counts the times all transports of the member broke; whatever began before is lost.
    pub(super) generation: u64,
    /// While the member lags: what it has.
    pub(super) applied: Option<Applied>,
    /// The raft term of the entry that it applied last.
    pub(super) term: u64,
    /// The term that its next answer shows instead.
    pub(super) late_term: Option<u64>,
    /// Until when it works on answers, as far as its capacity is bounded.
    busy_until: Option<Instant>,
}

/// How far a member got that takes no more writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Applied {
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
}

impl Applied {
    /// The revision a request for `revision` reads; zero or less means now.
    pub(super) fn readable(self, revision: Revision) -> Result<Revision, SourceError> {
        let kind = match revision {
            ..=0 => return Ok(self.revision),
            _ if revision > self.revision => SourceErrorKind::FutureRevision,
            _ if revision < self.compacted => SourceErrorKind::Compacted,
            _ => return Ok(revision),
        };
        Err(error(kind, words(kind)))
    }
}

impl Member {
    pub(super) fn new(id: u64, version: ServerVersion, term: u64) -> Self {
        Member {
            id,
            version,
            bugs: BTreeSet::new(),
            faults: FaultSet::default(),
            counts: Counts::default(),
            generation: 0,
            applied: None,
            term,
            late_term: None,
            busy_until: None,
        }
    }

    /// Adds an answer to what the member works on; how long it takes from now until that is done.
    pub(super) fn work(&mut self, requests: u32, bytes: usize) -> Duration {
        let Some(capacity) = self.faults.capacity else { return Duration::ZERO };
        let now = Instant::now();
        let begin = self.busy_until.map_or(now, |until| until.max(now));
        let until = begin + capacity.time(requests, bytes);
        self.busy_until = Some(until);
        self.counts.longest_queue = self.counts.longest_queue.max(until - now);
        until - now
    }

    pub(super) fn has(&self, bug: Bug) -> bool {
        self.bugs.contains(&bug)
    }

    /// How far the member is in `store`.
    pub(super) fn applied(&self, store: &Store) -> Applied {
        self.applied.unwrap_or(Applied { revision: store.revision(), compacted: store.compacted() })
    }

    /// Whether the member runs and reaches the others.
    pub(super) fn can_lead(&self) -> bool {
        !self.faults.down && !self.faults.leaderless
    }

    /// Learns the cluster's term, unless it lags.
    pub(super) fn learn_term(&mut self, term: u64) {
        if self.applied.is_none() && self.term != term {
            self.late_term = self.faults.term_late.then_some(self.term);
            self.term = term;
        }
    }

    /// Whether the member can do nothing before something changes; to read its store takes more.
    pub(super) fn holds(&self, reading: bool) -> bool {
        let waits = self.applied.is_some() && !self.has(Bug::StaleReads);
        self.faults.stalled || (reading && waits)
    }

    /// Uses up one refusal of `call`, if there is one.
    pub(super) fn refuse(&mut self, call: Call) -> Result<(), SourceError> {
        if self.faults.down {
            return Err(error(SourceErrorKind::Unavailable, "tcp connect error"));
        }
        if let Some(refusal) = self.faults.refusals.get_mut(&call) {
            let kind = refusal.kind;
            match &mut refusal.times {
                Some(1) => {
                    self.faults.refusals.remove(&call);
                }
                Some(times) => *times -= 1,
                None => {}
            }
            return Err(error(kind, words(kind)));
        }
        match call {
            _ if call.is_linearizable() && self.faults.leaderless => {
                Err(error(SourceErrorKind::Unavailable, "etcdserver: request timed out"))
            }
            Call::Watch if self.faults.leaderless => Err(no_leader()),
            _ => Ok(()),
        }
    }

    /// Whether the client may read `range`.
    pub(super) fn check_access(&self, range: &KeyRange) -> Result<(), SourceError> {
        let kind = match &self.faults.access {
            Access::Granted => return Ok(()),
            Access::Within(permitted) if permitted.covers(range) => return Ok(()),
            Access::Within(_) => SourceErrorKind::Denied,
            Access::TokenExpired => SourceErrorKind::Unauthenticated,
        };
        Err(error(kind, words(kind)))
    }

    /// What a watch of `range` is refused with, and the watcher id the refusal carries.
    pub(super) fn watch_refusal(&self, range: &KeyRange) -> Option<(i64, &'static str)> {
        const DENIED: &str =
            "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        const EXPIRED: &str =
            "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
        // Servers that mask the token's end also give a refused watch the id 0.
        let masked = self.has(Bug::MaskedToken);
        let id = if masked { 0 } else { -1 };
        match self.check_access(range) {
            Ok(()) => None,
            Err(error) if error.kind() == SourceErrorKind::Denied || masked => Some((id, DENIED)),
            Err(_) => Some((id, EXPIRED)),
        }
    }

    /// A new token: cures an expired one, and nothing else.
    pub(super) fn refresh_token(&mut self) {
        if self.faults.access == Access::TokenExpired {
            self.faults.access = Access::Granted;
        }
    }

    pub(super) fn call_delay(&self, call: Call) -> Duration {
        let in_vain = self.faults.leaderless && call.is_linearizable();
        let waiting = if in_vain { LEADERLESS_WAIT } else { Duration::ZERO };
        let own = self.faults.call_delays.get(&call).copied().unwrap_or(self.faults.delay);
        waiting + own
    }

    /// Cuts a response into the messages the server sends it as (v3rpc/watch.go: `sendFragments`).
    pub(super) fn fragment(&self, mut response: WatchResponse) -> Vec<WatchResponse> {
        let events_max = self.faults.fragment_events.unwrap_or(usize::MAX);
        let whole = response.bytes() < FRAGMENT_BYTES && response.events.len() <= events_max;
        if self.faults.proxied || whole || response.events.len() < 2 {
            return vec![response];
        }
        let mut messages = Vec::new();
        let mut part = Vec::new();
        let mut bytes = 0;
        for event in std::mem::take(&mut response.events) {
            let full = bytes + event.bytes() >= FRAGMENT_BYTES || part.len() >= events_max;
            if full && !part.is_empty() {
                let events = std::mem::take(&mut part);
                messages.push(WatchResponse { events, fragment: true, ..response.clone() });
                bytes = 0;
            }
            bytes += event.bytes();
            part.push(event);
        }
        messages.push(WatchResponse { events: part, ..response });
        messages
    }

    /// Refuses an answer larger than the client accepts.
    pub(super) fn check_size(&self, bytes: usize) -> Result<(), SourceError> {
        match self.faults.message_bytes_max {
            Some(max) if bytes > max => Err(error(
                SourceErrorKind::TooLarge,
                format!(
                    "Error, decoded message length too large: found {bytes} bytes, the limit is: \
                     {max} bytes"
                ),
            )),
            _ => Ok(()),
        }
    }
}

pub(super) fn error(kind: SourceErrorKind, message: impl Into<String>) -> SourceError {
    SourceError::new(kind, message)
}

pub(super) fn no_leader() -> SourceError {
    error(SourceErrorKind::Unavailable, "etcdserver: no leader")
}

/// What etcd or its client say for a kind of failure.
pub(super) fn words(kind: SourceErrorKind) -> &'static str {
    match kind {
        SourceErrorKind::Unavailable => "etcdserver: request timed out",
        SourceErrorKind::Timeout => "Timeout expired",
        SourceErrorKind::Compacted => "etcdserver: mvcc: required revision has been compacted",
        SourceErrorKind::FutureRevision => {
            "etcdserver: mvcc: required revision is a future revision"
        }
        SourceErrorKind::TooLarge => "Error, decoded message length too large",
        SourceErrorKind::Unauthenticated => "etcdserver: invalid auth token",
        SourceErrorKind::Denied => "etcdserver: permission denied",
        SourceErrorKind::Unimplemented => "unknown method RangeStream for service etcdserverpb.KV",
        SourceErrorKind::InvalidRequest => "etcdserver: invalid request",
        _ => "failed to decode Protobuf message",
    }
}
