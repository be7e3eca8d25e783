//! What all parts of the soak share: the cluster, ways to ask it, the state of its health, the end.
//!
//! Owns who may conclude what and when: a bound counts only while conditions are good. Must not
//! break anything itself (`faults.rs` does) and must not judge a mirror.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, GetOptions};
use etcd_keyspace::Revision;
use tokio::sync::watch;

use crate::Settings;
use crate::etcd::Cluster;
use crate::proxy::Proxy;
use crate::report::Ledger;

/// What the mirrors follow.
pub(crate) const PREFIX: &str = "/soak/";
/// How long one member may take to answer before the next is asked.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// How long any member may take: longer than every fault.
const ANSWERS_MAX: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) cluster: Cluster,
    /// One proxy before each member, for the mirror that is cut off.
    pub(crate) links: Vec<Proxy>,
    pub(crate) members: Members,
    pub(crate) sky: Sky,
    pub(crate) ledger: Ledger,
    /// The greatest revision etcd has acknowledged to a writer.
    acked: AtomicI64,
    /// Set by the first divergence: nothing more is compacted, so that its history can be read.
    frozen: AtomicBool,
    stop: watch::Sender<bool>,
}

impl World {
    pub(crate) async fn new(
        settings: Settings,
        cluster: Cluster,
        links: Vec<Proxy>,
    ) -> Result<Self, etcd_client::Error> {
        Ok(World {
            members: Members::connect(&cluster).await?,
            ledger: Ledger::new(),
            sky: Sky::new(),
            acked: AtomicI64::new(0),
            frozen: AtomicBool::new(false),
            stop: watch::Sender::new(false),
            settings,
            cluster,
            links,
        })
    }

    /// Asks every part to come to its end.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    pub(crate) async fn stopping(&self) {
        // The sender is right here, so this ends only by the wish.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Waits, but not beyond the wish to end; whether the run goes on.
    pub(crate) async fn rest(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => !self.is_stopping(),
            () = self.stopping() => false,
        }
    }

    pub(crate) fn acknowledge(&self, revision: Revision) {
        self.acked.fetch_max(revision, Ordering::SeqCst);
    }

    pub(crate) fn acknowledged(&self) -> Revision {
        self.acked.load(Ordering::SeqCst)
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }

    /// Lets nothing be compacted from now on.
    pub(crate) fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }

    /// Notes a divergence, keeps its history from being compacted, and ends the run unless it is to
    /// go on.
    pub(crate) fn diverged(&self, kind: &'static str, mirror: &str, evidence: Vec<String>) {
        self.freeze();
        self.ledger.finding(kind, mirror, self.sky.fault(), evidence);
        if !self.settings.keep_going {
            self.stop();
        }
    }

    /// The output of `work`, or `None` when it took more than `limit` of good conditions.
    pub(crate) async fn in_fair_time<V>(
        &self,
        linked: bool,
        limit: Duration,
        work: impl Future<Output = V>,
    ) -> Option<V> {
        let begun = Instant::now();
        let too_late = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let fair = self.sky.good_for(linked).unwrap_or_default();
                if fair.min(begun.elapsed()) > limit {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            output = work => Some(output),
            () = too_late => None,
        }
    }
}

/// A client for each member, used one after the other: the library itself never fails over.
#[derive(Clone)]
pub(crate) struct Members {
    clients: Vec<Client>,
    turn: std::sync::Arc<AtomicUsize>,
}

/// Why nobody has answered.
#[derive(Debug)]
pub(crate) enum Refusal {
    Compacted,
    Unanswered(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Compacted => f.write_str("compacted"),
            Refusal::Unanswered(last) => write!(f, "no answer from any member: {last}"),
        }
    }
}

impl Members {
    /// Connections of one's own to each member.
    pub(crate) async fn connect(cluster: &Cluster) -> Result<Self, etcd_client::Error> {
        let mut clients = Vec::new();
        for endpoint in cluster.endpoints() {
            let options = ConnectOptions::new()
                .with_keep_alive_while_idle(false)
                .with_connect_timeout(Duration::from_secs(1));
            clients.push(Client::connect([endpoint], Some(options)).await?);
        }
        Ok(Members { clients, turn: std::sync::Arc::default() })
    }

    pub(crate) fn client(&self, member: usize) -> Client {
        self.clients[member].clone()
    }

    /// Asks one member once; after a failure it is the next one's turn.
    pub(crate) async fn ask_once<V, F>(
        &self,
        question: impl FnOnce(Client) -> F,
    ) -> Result<V, Refusal>
    where
        F: Future<Output = Result<V, etcd_client::Error>>,
    {
        let turn = self.turn.load(Ordering::Relaxed);
        let client = self.client(turn % self.clients.len());
        let refusal = match tokio::time::timeout(ANSWER_MAX, question(client)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if is_compacted(&error) => return Err(Refusal::Compacted),
            Ok(Err(error)) => Refusal::Unanswered(error.to_string()),
            Err(_) => Refusal::Unanswered(format!("nothing in {ANSWER_MAX:?}")),
        };
        // One turn for all who failed at the same member.
        let (now, next) = (Ordering::Relaxed, turn.wrapping_add(1));
        let _ = self.turn.compare_exchange(turn, next, now, now);
        Err(refusal)
    }

    /// Asks one member after the other until one answers.
    pub(crate) async fn ask<V, F>(&self, question: impl Fn(Client) -> F) -> Result<V, Refusal>
    where
        F: Future<Output = Result<V, etcd_client::Error>>,
    {
        let begun = Instant::now();
        loop {
            match self.ask_once(&question).await {
                Err(Refusal::Unanswered(_)) if begun.elapsed() < ANSWERS_MAX => {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                done => return done,
            }
        }
    }

    /// The store's revision now, linearizably.
    pub(crate) async fn revision(&self) -> Result<Revision, Refusal> {
        let read = self.ask(|mut client| async move {
            client.get("revision", Some(GetOptions::new().with_count_only())).await
        });
        Ok(read.await?.header().map_or(0, etcd_client::ResponseHeader::revision))
    }
}

fn is_compacted(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if status.message().contains("required revision has been compacted"))
}

/// Whom a fault may hold up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// Nobody for long: a majority is there, and every mirror has a way to it.
    Nobody,
    /// Everybody: no majority is left.
    Everybody,
    /// The mirror behind the proxies only.
    Linked,
}

/// Since when which conditions are good.
pub(crate) struct Sky(Mutex<Conditions>);

struct Conditions {
    majority: Option<Instant>,
    links: Option<Instant>,
    calm: Option<Instant>,
    fault: &'static str,
}

impl Sky {
    fn new() -> Self {
        let now = Some(Instant::now());
        Sky(Mutex::new(Conditions { majority: now, links: now, calm: now, fault: "none" }))
    }

    pub(crate) fn begin(&self, fault: &'static str, harm: Harm) {
        let mut now = lock(&self.0);
        now.fault = fault;
        now.calm = None;
        match harm {
            Harm::Nobody => {}
            Harm::Everybody => now.majority = None,
            Harm::Linked => now.links = None,
        }
    }

    /// The damage is undone; the mirrors may need time.
    pub(crate) fn healed(&self) {
        let mut now = lock(&self.0);
        now.majority.get_or_insert_with(Instant::now);
        now.links.get_or_insert_with(Instant::now);
    }

    /// The mirrors have recovered too.
    pub(crate) fn calm(&self) {
        let mut now = lock(&self.0);
        now.calm.get_or_insert_with(Instant::now);
        now.fault = "none";
    }

    /// For how long nothing has stood between a mirror and a majority; `None` while something does.
    pub(crate) fn good_for(&self, linked: bool) -> Option<Duration> {
        let now = lock(&self.0);
        let (majority, links) = (now.majority?, now.links);
        let since = if linked { majority.max(links?) } else { majority };
        Some(since.elapsed())
    }

    /// For how long there has been no fault at all.
    pub(crate) fn calm_for(&self) -> Option<Duration> {
        lock(&self.0).calm.map(|since| since.elapsed())
    }

    /// The fault under way, or the one just recovered from.
    pub(crate) fn fault(&self) -> &'static str {
        lock(&self.0).fault
    }
}

/// Choices that a seed repeats: splitmix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// A generator of its own for one part, so that parts do not disturb each other's choices.
    pub(crate) fn fork(&mut self) -> Self {
        Random(self.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        let bound = u64::try_from(len).expect("a length fits");
        usize::try_from(self.below(bound)).expect("less than a length")
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// Whoever panicked with the lock is reported; the data of the report is still good.
pub(crate) fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
