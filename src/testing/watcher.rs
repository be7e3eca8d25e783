//! The server's half of one watch stream with its one watcher (etcd: mvcc `watcher`, v3rpc
//! `serverWatchStream`).
//!
//! Owns the watcher's position, its queue and the rules of what is sent when. Pure: the time comes in
//! as an argument, and nothing here wakes anybody.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::bugs::Bug;
use super::member::{Applied, Member};
use super::store::{Store, keep_last_per_key};
use crate::model::{Event, Header, KeyRange, Revision, WatchResponse};
use crate::source::{SourceError, SourceErrorKind};

/// Responses remembered for being sent twice.
const SENT_KEPT: usize = 64;

/// How many requests a stalled transport takes before it takes no more.
const REQUEST_QUEUE: u64 = 100;

/// Settings of the server that are the same for every watcher of the cluster.
#[derive(Debug, Clone, Copy)]
pub(super) struct WatchLimits {
    /// Revisions in one response of a backlog (mvcc: `watchBatchMaxRevs`).
    pub(super) batch_revisions_max: usize,
    /// Responses that wait for a slow reader before its watcher falls behind (mvcc: `chanBufLen`).
    pub(super) queue_responses_max: usize,
    /// How long a watcher that is behind waits for the log to be read (mvcc: `syncWatchersLoop`).
    pub(super) sync_delay: Duration,
    /// Between two periodic progress notifications; none when absent.
    pub(super) progress_interval: Option<Duration>,
}

/// How the server ended a stream.
#[derive(Debug)]
pub(super) enum End {
    /// At once; what was on its way is lost.
    Broken(SourceErrorKind, String),
    /// After everything queued.
    Clean,
}

#[derive(Debug)]
struct Queued {
    /// Not to be seen before; absent means at once.
    at: Option<Instant>,
    response: WatchResponse,
}

/// The span of a response with events, enough to make it again.
#[derive(Debug, Clone, Copy)]
struct Sent {
    first: Revision,
    last: Revision,
    header: Header,
}

#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) member: usize,
    range: KeyRange,
    /// The start revision as it was asked for.
    start: Revision,
    /// The first revision the watcher was to deliver.
    first: Revision,
    /// The next revision to put on the queue.
    next: Revision,
    /// New revisions go straight to the queue; otherwise the log is read when the queue is empty.
    synced: bool,
    was_synced: bool,
    /// When the log is read next, once the watcher is behind.
    sync_at: Option<Instant>,
    /// No more events and progress: cancelled, refused or overtaken by a compaction.
    pub(super) finished: bool,
    /// The stream lives but nothing is ever sent again, and nobody says so.
    pub(super) muted: bool,
    pub(super) end: Option<End>,
    queue: VecDeque<Queued>,
    /// Responses ever put on the queue.
    queued: u64,
    fragments: VecDeque<WatchResponse>,
    sent: VecDeque<Sent>,
    last_sent: Revision,
    /// The lowest start revision of a watch that a gRPC proxy serves from this one.
    joinable: Revision,
    /// Progress requests that reached a stalled member.
    owed: u64,
    tick: Option<Instant>,
    interval: Duration,
    /// Events were sent since the last tick, so that the next one says nothing.
    elide: bool,
    pub(super) waker: Option<Waker>,
}

/// What a watcher needs to know of the world it lives in.
pub(super) struct Scene<'a> {
    pub(super) store: &'a Store,
    pub(super) member: &'a mut Member,
    pub(super) limits: WatchLimits,
    pub(super) header: Header,
    /// How long a message that is sent now is on its way.
    pub(super) delay: Duration,
}

impl Scene<'_> {
    fn visible(&self) -> Revision {
        self.member.applied(self.store).revision
    }

    fn header_now(&self) -> Header {
        Header { revision: self.visible(), ..self.header }
    }
}

/// What a poll of the stream finds.
#[derive(Debug)]
pub(super) enum Next {
    Message(WatchResponse),
    Failed(SourceError),
    Ended,
    /// Nothing before this time, or at all, unless something happens.
    Nothing(Option<Instant>),
}

impl Watcher {
    /// A watcher as its creation leaves it, the `created` answer on its queue.
    pub(super) fn open(
        member: usize,
        range: KeyRange,
        start: Revision,
        interval: Option<Duration>,
        scene: &Scene<'_>,
    ) -> Self {
        let visible = scene.visible();
        // A negative start, where it is accepted, is one of now, unless anything was ever compacted.
        let lost = start < 0 && scene.member.applied(scene.store).compacted > 0;
        let synced = (start > visible || start <= 0) && !lost;
        let first = if start <= 0 && !lost { visible + 1 } else { start };
        let mut watcher = Watcher {
            member,
            range,
            start,
            first,
            next: first,
            synced,
            was_synced: synced,
            sync_at: None,
            finished: false,
            muted: false,
            end: None,
            queue: VecDeque::new(),
            queued: 0,
            fragments: VecDeque::new(),
            sent: VecDeque::new(),
            last_sent: 0,
            joinable: start,
            owed: 0,
            tick: interval.map(|interval| Instant::now() + interval),
            interval: interval.unwrap_or_default(),
            elide: false,
            waker: None,
        };
        let mut created = WatchResponse {
            header: Some(scene.header_now()),
            created: true,
            ..WatchResponse::default()
        };
        if let Some((id, reason)) = refusal(&watcher.range, start, scene.member) {
            created.watch_id = id;
            created.canceled = true;
            created.cancel_reason = reason.to_owned();
            watcher.finished = true;
        }
        let delay = scene.delay + scene.member.faults.created_delay;
        watcher.push_delayed(created, delay);
        watcher
    }

    /// Whether a gRPC proxy serves a new watch from this one (grpcproxy: `watchBroadcast.add`).
    pub(super) fn is_joined_by(&self, range: &KeyRange, start: Revision) -> bool {
        self.is_serving() && self.range == *range && self.joinable <= start && start > 0
    }

    /// Replaces the header of `created` by the one that a gRPC proxy makes up for a joined watch.
    pub(super) fn make_up_header(&mut self) {
        if let Some(created) = self.queue.front_mut().filter(|_| !self.finished) {
            let header = Header { revision: self.start, ..Header::default() };
            created.response.header = Some(header);
        }
    }

    /// Whether the server still counts it.
    pub(super) fn is_alive(&self) -> bool {
        self.end.is_none()
    }

    /// Changes whenever a poll may find something it did not find before.
    pub(super) fn news(&self) -> (u64, bool, bool) {
        (self.queued, self.synced, self.end.is_some())
    }

    /// Whether anything more is to be said about the range.
    fn is_serving(&self) -> bool {
        !self.finished && !self.muted && self.end.is_none()
    }

    /// Puts a freshly committed revision on the queue, or falls behind when the queue is full.
    pub(super) fn notify(&mut self, scene: &mut Scene<'_>, revision: Revision) {
        if !self.is_serving() || !self.synced || revision < self.next {
            return;
        }
        let Some(committed) = scene.store.history(&self.range, revision, revision).next() else {
            self.next = revision + 1;
            return;
        };
        if self.queue.len() >= scene.limits.queue_responses_max {
            self.synced = false;
            return;
        }
        self.next = revision + 1;
        let events = lose(committed.events, scene.member);
        let header = Header { revision, ..scene.header };
        self.push_events(events, header, scene.delay);
    }

    /// Whether the log has to be read for the next message.
    fn is_behind(&self) -> bool {
        self.queue.is_empty() && !self.synced && self.is_serving()
    }

    /// Reads the log where the watcher stands behind (mvcc: `syncWatchers`).
    fn sync(&mut self, scene: &mut Scene<'_>) {
        let Applied { revision: visible, compacted } = scene.member.applied(scene.store);
        if self.next < compacted {
            if !(self.was_synced && scene.member.has(Bug::SilentGap)) {
                self.cancel_compacted(compacted, scene);
                return;
            }
            let skipped = scene.store.history(&self.range, self.next, compacted);
            let events: usize = skipped.map(|committed| committed.events.len()).sum();
            scene.member.counts.lost += events as u64;
            self.next = compacted + 1;
        }
        let mut events = Vec::new();
        let mut next = visible + 1;
        let history = scene.store.history(&self.range, self.next, visible);
        for (revisions, mut committed) in history.enumerate() {
            if revisions == scene.limits.batch_revisions_max {
                next = committed.revision;
                break;
            }
            if committed.revision == compacted {
                keep_last_per_key(&mut committed.events);
                if scene.member.has(Bug::LostDelete) {
                    let kept = committed.events.len();
                    committed.events.retain(|event| matches!(event, Event::Put(_)));
                    // Who starts at a revision that he knows loses nothing by it.
                    let lost = if committed.revision > self.start { kept } else { 0 };
                    scene.member.counts.lost += lost.saturating_sub(committed.events.len()) as u64;
                }
            }
            events.append(&mut committed.events);
        }
        self.synced = next > visible;
        if self.synced {
            self.was_synced = true;
            self.sync_at = None;
        }
        self.next = next.max(self.next);
        let events = lose(events, scene.member);
        self.push_events(events, scene.header_now(), scene.delay);
    }

    fn push_events(&mut self, events: Vec<Event>, header: Header, delay: Duration) {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return };
        let sent = Sent { first: first.mod_revision(), last: last.mod_revision(), header };
        if self.sent.len() == SENT_KEPT {
            self.sent.pop_front();
        }
        self.sent.push_back(sent);
        self.last_sent = sent.last;
        self.elide = true;
        let header = Some(header);
        self.push_delayed(WatchResponse { header, events, ..WatchResponse::default() }, delay);
    }

    /// Puts a response on the queue, to be seen after `delay` and never before an earlier one.
    fn push_delayed(&mut self, response: WatchResponse, delay: Duration) {
        let before = self.queue.back().and_then(|queued| queued.at);
        let own = (!delay.is_zero()).then(|| Instant::now() + delay);
        if let Some(header) = response.header.filter(|_| !response.created) {
            self.joinable = self.joinable.max(header.revision.saturating_add(1));
        }
        self.queued += 1;
        self.queue.push_back(Queued { at: own.max(before), response });
    }

    /// Puts a response on the queue as it is.
    pub(super) fn inject(&mut self, response: WatchResponse, scene: &Scene<'_>) {
        self.push_delayed(response, scene.delay);
    }

    /// Cancels the watcher without touching the stream.
    pub(super) fn cancel(&mut self, reason: &str, scene: &Scene<'_>) {
        self.finished = true;
        let response = WatchResponse {
            header: Some(scene.header_now()),
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..WatchResponse::default()
        };
        self.push_delayed(response, scene.delay);
    }

    /// Cancels the watcher because history it needs is gone. The header carries no revision.
    pub(super) fn cancel_compacted(&mut self, compact_revision: Revision, scene: &Scene<'_>) {
        self.finished = true;
        let response = WatchResponse {
            header: Some(scene.header),
            canceled: true,
            compact_revision,
            ..WatchResponse::default()
        };
        self.push_delayed(response, scene.delay);
    }

    /// Sends the last `responses` responses with events once more.
    pub(super) fn duplicate(&mut self, responses: usize, scene: &Scene<'_>) {
        let again: Vec<Sent> = self.sent.iter().rev().take(responses).rev().copied().collect();
        for sent in again {
            let history = scene.store.history(&self.range, sent.first, sent.last);
            let events = history.flat_map(|committed| committed.events).collect();
            let header = Some(sent.header);
            let response = WatchResponse { header, events, ..WatchResponse::default() };
            self.push_delayed(response, scene.delay);
        }
    }

    /// Goes back, so that everything from `revision` on is sent again.
    pub(super) fn replay(&mut self, revision: Revision) {
        self.next = self.next.min(revision.max(1));
        self.synced = false;
    }

    /// The member has caught up: what it missed is read from the log.
    pub(super) fn catch_up(&mut self, scene: &Scene<'_>) {
        if scene.member.has(Bug::BackInTime) {
            let back = if self.last_sent > 0 { self.last_sent } else { self.first };
            self.next = back.min(self.next);
            self.synced = false;
        }
        if scene.member.has(Bug::FutureStart) {
            self.next = self.next.min(scene.store.revision() + 1);
        }
        self.synced &= self.next > scene.store.revision();
    }

    /// A progress request arrives. Returns whether the transport could take it.
    pub(super) fn request_progress(&mut self, scene: &Scene<'_>) -> bool {
        if self.end.is_some() || self.owed >= REQUEST_QUEUE {
            return false;
        }
        if scene.member.faults.stalled {
            self.owed += 1;
        } else {
            self.answer_progress(scene);
        }
        true
    }

    /// The member runs again and sees the requests made meanwhile.
    pub(super) fn answer_owed(&mut self, scene: &Scene<'_>) {
        for _ in 0..std::mem::take(&mut self.owed) {
            self.answer_progress(scene);
        }
    }

    fn answer_progress(&mut self, scene: &Scene<'_>) {
        let swallowed = scene.member.faults.progress_ignored || scene.member.faults.proxied;
        let quiet = scene.member.has(Bug::QuietProgress) && self.last_sent == 0;
        if swallowed || quiet || !self.is_serving() {
            return;
        }
        if scene.member.has(Bug::EarlyProgress) {
            let behind_created =
                usize::from(self.queue.front().is_some_and(|q| q.response.created));
            let at = self.queue.front().and_then(|queued| queued.at);
            let response = progress(-1, scene);
            self.queued += 1;
            self.queue.insert(behind_created, Queued { at, response });
        } else {
            self.progress_if_synced(-1, scene);
        }
    }

    /// Sends progress where it is true, and nothing where it is not (mvcc: `progressIfSync`).
    fn progress_if_synced(&mut self, watch_id: i64, scene: &Scene<'_>) {
        let started = scene.visible() >= self.start || scene.member.has(Bug::FutureStart);
        let room = self.queue.len() < scene.limits.queue_responses_max;
        if self.is_serving() && self.synced && started && room {
            self.push_delayed(progress(watch_id, scene), scene.delay);
        }
    }

    /// The next message at `now`, cut as the member cuts it.
    pub(super) fn poll(&mut self, scene: &mut Scene<'_>, now: Instant) -> Next {
        if let Some(End::Broken(kind, message)) = &self.end {
            return Next::Failed(SourceError::new(*kind, message.clone()));
        }
        if scene.member.faults.stalled || self.muted {
            return Next::Nothing(None);
        }
        if self.fragments.is_empty() {
            self.tick(scene, now);
            while self.is_behind() {
                let at = *self.sync_at.get_or_insert(now + scene.limits.sync_delay);
                if at > now {
                    return Next::Nothing(Some(at));
                }
                self.sync(scene);
            }
            match self.queue.front() {
                None if self.end.is_some() => return Next::Ended,
                None => return Next::Nothing(self.tick),
                Some(Queued { at: Some(at), .. }) if *at > now => return Next::Nothing(Some(*at)),
                Some(_) => {}
            }
            let front = self.queue.pop_front().expect("the queue has a front");
            self.fragments.extend(scene.member.fragment(front.response));
        }
        let message = self.fragments.pop_front().expect("a response has a message");
        match scene.member.check_size(message.bytes()) {
            Ok(()) => Next::Message(message),
            Err(error) => Next::Failed(error),
        }
    }

    /// Sends a periodic progress notification when one is due.
    fn tick(&mut self, scene: &Scene<'_>, now: Instant) {
        let Some(tick) = self.tick.filter(|tick| *tick <= now) else { return };
        let missed = (now - tick).as_nanos() / self.interval.as_nanos().max(1);
        let missed = u32::try_from(missed).unwrap_or(u32::MAX);
        self.tick = Some(tick + self.interval * missed.saturating_add(1));
        if !std::mem::take(&mut self.elide) {
            self.progress_if_synced(0, scene);
        }
    }
}

fn progress(watch_id: i64, scene: &Scene<'_>) -> WatchResponse {
    WatchResponse { header: Some(scene.header_now()), watch_id, ..WatchResponse::default() }
}

/// Why a watch is not created: the id the refusal carries, and the reason.
fn refusal(range: &KeyRange, start: Revision, member: &Member) -> Option<(i64, &'static str)> {
    if start < 0 && !member.has(Bug::NegativeStart) {
        return Some((-1, "etcdserver: mvcc: required revision has been compacted"));
    }
    member
        .watch_refusal(range)
        .or_else(|| range.is_empty().then_some((-1, "mvcc: watcher range is empty")))
}

/// Takes away the events the member has been told to lose.
fn lose(mut events: Vec<Event>, member: &mut Member) -> Vec<Event> {
    let lost = usize::try_from(member.faults.lose).unwrap_or(usize::MAX).min(events.len());
    member.faults.lose -= lost as u64;
    member.counts.lost += lost as u64;
    events.drain(..lost);
    events
}
