//! What a test can do to the fake: break it, slow it, make it lie, and heal it.
//!
//! Owns the public face of faults only. Must not carry anything out itself: settings go to `member`,
//! deeds to `cluster`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::bugs::Bug;
use super::cluster::{Cluster, Shared, of};
use super::member::{Access, Call, Capacity, FaultSet, Member, Refusal, Tamper, error, words};
use super::watcher::End;
use crate::model::{KeyRange, Revision, WatchResponse};
use crate::source::{ServerVersion, SourceErrorKind};

/// What goes wrong, at every endpoint or at one.
///
/// Made by [`FakeEtcd::faults`](super::FakeEtcd::faults) and
/// [`FakeEtcd::faults_at`](super::FakeEtcd::faults_at). Deeds happen at once, to the streams and
/// requests of that moment. Conditions last until [`heal`](Faults::heal) or until their opposite is
/// called.
#[derive(Clone)]
pub struct Faults {
    shared: Arc<Shared>,
    /// One endpoint, or all when absent.
    endpoint: Option<usize>,
}

/// Deeds.
impl Faults {
    /// Breaks every transport: streams end with an error, requests on their way fail.
    ///
    /// What a stream had not read yet is lost. New requests are served. Behind a
    /// [`proxy`](Faults::proxy) watch streams fall silent instead, with neither error nor events.
    pub fn cut(&self) {
        self.each(Cluster::cut);
    }

    /// Breaks every transport as [`cut`](Faults::cut) does, after `messages` more watch messages.
    pub fn cut_after(&self, messages: u64) {
        if messages == 0 {
            return self.cut();
        }
        self.set(|faults| faults.cut_after = Some(messages));
    }

    /// Ends every watch stream with an error of `kind`; what it had not read yet is lost.
    pub fn fail_streams(&self, kind: SourceErrorKind) {
        let error = error(kind, words(kind));
        self.each(|cluster, member| cluster.fail_watchers(member, &error));
    }

    /// Ends every watch stream without an error, after what is queued.
    pub fn end_streams(&self) {
        self.each(|cluster, member| {
            cluster.each_watcher(of(member), |watcher, _| watcher.end = Some(End::Clean));
        });
    }

    /// Cancels every watcher; its stream stays open. etcd often gives no reason: an empty `reason`.
    pub fn cancel(&self, reason: &str) {
        self.each(|cluster, member| {
            cluster.each_watcher(of(member), |watcher, scene| watcher.cancel(reason, scene));
        });
    }

    /// Cancels every watcher as overtaken by a compaction at `revision`, true or not.
    pub fn cancel_compacted(&self, revision: Revision) {
        self.each(|cluster, member| {
            cluster.each_watcher(of(member), |watcher, scene| {
                watcher.cancel_compacted(revision, scene);
            });
        });
    }

    /// Silences every watcher for good: no event, no progress, no error (etcd issue 14562).
    ///
    /// New watchers are fine.
    pub fn mute(&self) {
        self.each(|cluster, member| {
            cluster.each_watcher(of(member), |watcher, _| watcher.muted = true);
        });
    }

    /// Sends the last `responses` responses with events again, on every stream.
    ///
    /// At most 64, counted before fragments are made.
    pub fn duplicate(&self, responses: usize) {
        self.each(|cluster, member| {
            cluster.each_watcher(of(member), |watcher, scene| watcher.duplicate(responses, scene));
        });
    }

    /// Sends everything from `revision` on again, on every stream (etcd issues 15271, 20221).
    pub fn replay(&self, revision: Revision) {
        self.each(|cluster, member| {
            cluster.each_watcher(of(member), |watcher, _| watcher.replay(revision));
        });
    }

    /// Sends `response` as it is, on every stream.
    pub fn inject(&self, response: &WatchResponse) {
        self.each(|cluster, member| {
            cluster.each_watcher(of(member), |watcher, scene| {
                watcher.inject(response.clone(), scene);
            });
        });
    }
}

/// Conditions of the endpoint as a whole.
impl Faults {
    /// Answers nothing any more, while transports stay up, as a stopped process does.
    pub fn stall(&self) {
        self.set(|faults| faults.stalled = true);
    }

    /// Ends a [`stall`](Faults::stall): everything held up is answered.
    pub fn release(&self) {
        self.each(Cluster::release);
    }

    /// Takes the endpoint down: transports break and every request is refused at once.
    pub fn down(&self) {
        self.set(|faults| faults.down = true);
        self.cut();
    }

    /// Ends a [`down`](Faults::down). The raft term rises if the leader was down.
    pub fn up(&self) {
        self.set(|faults| faults.down = false);
    }

    /// Takes the leader away: watches end with "no leader", reads fail after seven seconds.
    ///
    /// (A real member needs three election timeouts, about four seconds, to notice.)
    pub fn lose_leader(&self) {
        self.each(Cluster::lose_leader);
    }

    /// Elects a leader and ends a [`lose_leader`](Faults::lose_leader): the raft term rises by one.
    ///
    /// If there was a leader, clients notice the new term in headers only.
    pub fn elect_leader(&self) {
        self.each(|cluster, member| {
            cluster.members[member].faults.leaderless = false;
            cluster.elections.depose();
        });
    }

    /// Lets the first answer to a read in a new term show the term before.
    ///
    /// etcd sets its applied index, which linearizable reads wait for, before its term.
    pub fn late_term(&self) {
        self.set(|faults| faults.term_late = true);
    }

    /// Lets the endpoint fall behind: it takes no writes, so watches see none and progress stands
    /// still, and linearizable reads wait (or, with [`Bug::StaleReads`], show the past).
    pub fn hold_back(&self) {
        self.each(Cluster::hold_back);
    }

    /// Ends a [`hold_back`](Faults::hold_back): watches get what they missed.
    pub fn catch_up(&self) {
        self.each(Cluster::catch_up);
    }

    /// Puts a gRPC proxy before the endpoint: progress requests are swallowed, nothing is cut into
    /// fragments, and a cut only makes watches silent. If the proxy already watches a range, it
    /// makes up the header of a new watch's `created`, without ids and term.
    pub fn proxy(&self) {
        self.set(|faults| faults.proxied = true);
    }

    /// Delays every answer and every message of a stream. A delayed answer was true when it left.
    pub fn delay(&self, delay: Duration) {
        self.set(|faults| faults.delay = delay);
    }

    /// Delays every answer and message by up to `jitter` more, by the seed. Streams stay in order.
    pub fn jitter(&self, jitter: Duration) {
        self.set(|faults| faults.jitter = jitter);
    }

    /// Delays the answers to `call` by `delay`, instead of what [`delay`](Faults::delay) says.
    pub fn delay_call(&self, call: Call, delay: Duration) {
        self.set(|faults| {
            faults.call_delays.insert(call, delay);
        });
    }

    /// Lets the endpoint work on one answer after the other: it has time for `requests` of them in a
    /// second, and for `bytes` of the keys and values they hold (neither zero). Each answer waits for
    /// its turn, in the order in which they were asked for; messages of watch streams do not.
    ///
    /// [`Counts::longest_queue`](super::Counts::longest_queue) tells how long the longest wait was.
    pub fn capacity(&self, requests: u32, bytes: u32) {
        let capacity = Capacity { requests: requests.max(1), bytes: bytes.max(1) };
        self.set(|faults| faults.capacity = Some(capacity));
    }

    /// Delays the `created` answer of new watchers, and with it everything behind it.
    pub fn delay_created(&self, delay: Duration) {
        self.set(|faults| faults.created_delay = delay);
    }

    /// Refuses every `call` with an error of `kind`.
    pub fn refuse(&self, call: Call, kind: SourceErrorKind) {
        let refusal = Refusal { kind, times: None };
        self.set(|faults| {
            faults.refusals.insert(call, refusal);
        });
    }

    /// Refuses the next `times` of `call` with an error of `kind`.
    pub fn refuse_times(&self, call: Call, kind: SourceErrorKind, times: u64) {
        let refusal = Refusal { kind, times: Some(times) };
        self.set(|faults| {
            faults.refusals.remove(&call);
            if times > 0 {
                faults.refusals.insert(call, refusal);
            }
        });
    }

    /// Ends the refusal of `call`.
    pub fn allow(&self, call: Call) {
        self.set(|faults| {
            faults.refusals.remove(&call);
        });
    }

    /// Lets the client's token expire: reads and new watches are refused until it fetches a new one.
    ///
    /// Watches that live go on, as with real etcd.
    pub fn expire_token(&self) {
        self.set(|faults| faults.access = Access::TokenExpired);
    }

    /// Refuses reads and new watches for want of permission; a new token does not help.
    pub fn deny(&self) {
        self.permit_only(&KeyRange::bytes([], []));
    }

    /// Permits reads and watches inside `range` only; a new token does not help.
    pub fn permit_only(&self, range: &KeyRange) {
        self.set(|faults| faults.access = Access::Within(range.clone()));
    }

    /// Ends [`expire_token`](Faults::expire_token), [`deny`](Faults::deny) and
    /// [`permit_only`](Faults::permit_only).
    pub fn grant(&self) {
        self.set(|faults| faults.access = Access::Granted);
    }
}

/// Conditions of answers and messages.
impl Faults {
    /// Cuts watch responses into messages of at most `events` events (not zero), besides the cut at
    /// two MiB that the server makes anyway.
    pub fn fragment(&self, events: usize) {
        self.set(|faults| faults.fragment_events = Some(events.max(1)));
    }

    /// Lets the client accept no answer or message of more than `bytes` of keys and values.
    pub fn limit_message(&self, bytes: usize) {
        self.set(|faults| faults.message_bytes_max = Some(bytes));
    }

    /// Leaves the header out of everything.
    pub fn strip_headers(&self) {
        self.set(|faults| faults.headerless = true);
    }

    /// Ignores requests for progress. Periodic notifications go on.
    pub fn ignore_progress(&self) {
        self.set(|faults| faults.progress_ignored = true);
    }

    /// Loses the next `events` events due on watch streams, without a word.
    pub fn lose_events(&self, events: u64) {
        self.set(|faults| faults.lose = events);
    }

    /// Ends the next `streams` range streams before their last chunk, without an error.
    pub fn truncate_range_streams(&self, streams: u64) {
        self.set(|faults| faults.truncate = streams);
    }

    /// Puts the keys of the next `pages` non-empty pages out of order.
    pub fn scramble_pages(&self, pages: u64) {
        self.set(|faults| faults.scramble = pages);
    }

    /// Lets `tamper` rewrite every message of watch streams, or swallow it by giving `None`.
    ///
    /// The closure must not block; it may use the fake.
    pub fn tamper(
        &self,
        tamper: impl Fn(WatchResponse) -> Option<WatchResponse> + Send + Sync + 'static,
    ) {
        let tamper = Tamper(Arc::new(tamper));
        let _old = self
            .each(|cluster, member| cluster.members[member].faults.tamper.replace(tamper.clone()));
    }

    /// Ends every condition and lets a member that was held back catch up. Bugs and version stay.
    pub fn heal(&self) {
        let _old = self.each(Cluster::heal);
    }
}

/// What the endpoint runs.
impl Faults {
    /// Changes what the endpoint says it runs. Range streams exist from 3.7 on.
    pub fn set_version(&self, version: ServerVersion) {
        self.member(|member| member.version = version);
    }

    /// Switches one bug on or off.
    pub fn bug(&self, bug: Bug, on: bool) {
        self.member(|member| {
            if on {
                member.bugs.insert(bug)
            } else {
                member.bugs.remove(&bug)
            };
        });
    }

    /// Says to run `version` and has exactly the [`Bug`]s that etcd of this version has.
    pub fn impersonate(&self, version: ServerVersion) {
        self.member(|member| {
            member.version = version;
            member.bugs = Bug::ALL.into_iter().filter(|bug| bug.afflicts(version)).collect();
        });
    }
}

impl Faults {
    pub(super) fn new(shared: Arc<Shared>, endpoint: Option<usize>) -> Self {
        Faults { shared, endpoint }
    }

    /// Runs `work` on every endpoint meant, then an election if one is due. The results of `work` are
    /// dropped after the lock.
    fn each<R>(&self, mut work: impl FnMut(&mut Cluster, usize) -> R) -> Vec<R> {
        self.shared.update(|cluster| {
            let meant = match self.endpoint {
                Some(endpoint) => endpoint..endpoint + 1,
                None => 0..cluster.members.len(),
            };
            let results = meant.map(|member| work(cluster, member)).collect();
            cluster.elections.settle(&mut cluster.members);
            cluster.stir();
            results
        })
    }

    fn member(&self, mut change: impl FnMut(&mut Member)) {
        self.each(|cluster, member| change(&mut cluster.members[member]));
    }

    fn set(&self, mut change: impl FnMut(&mut FaultSet)) {
        self.member(|member| change(&mut member.faults));
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
