//! The fake etcd and a real one, asked the same after the same history, answer the same.
//!
//! Both are asked through the traits that the mirror asks through, so what is compared is all that a
//! mirror can ever see; ids of clusters and members and raft terms are left out. Must not name what
//! is right: that is whatever etcd says, of any version: the fake has the bugs of the one it finds.
//! `CONFORMANCE_SEED=s` runs one history.

use std::fmt::Debug;
use std::future::poll_fn;
use std::time::Duration;

use etcd_client::{
    Client, DeleteOptions, LeaseGrantOptions, PutOptions, ResponseHeader, Txn, TxnOp,
};

use super::{Etcd, EtcdOptions};
use crate::model::{Event, KeyRange, Revision};
use crate::source::{
    Connection, RangePage, RangeRequest, Source, SourceError, SourceErrorKind, WatchStream,
};
use crate::testing::{FakeEtcd, Op};

#[path = "../../../../tests/support/etcd.rs"]
mod support;
mod watches;

use support::EtcdServer;
use watches::{Watches, next};

const SEEDS: u64 = 4;
const ROUNDS: usize = 120;
const KEYS: u64 = 25;
/// How often an idle watch is told of its progress unasked, where that is tested.
const UNASKED: Duration = Duration::from_millis(200);

/// A failure as a mirror sees it.
type Failure = (SourceErrorKind, String);

fn failure(error: &SourceError) -> Failure {
    (error.kind(), error.message().to_owned())
}

/// The two, with the same history.
struct Pair {
    fake: FakeEtcd,
    client: Client,
    fake_side: Box<dyn Connection>,
    real_side: Box<dyn Connection>,
    leases: Vec<i64>,
    written: u64,
    watches: Vec<Watches>,
    _server: EtcdServer,
}

impl Pair {
    async fn start(seed: u64, options: EtcdOptions) -> Self {
        let server = EtcdServer::start().await.expect("an etcd starts");
        Pair::with(server, seed, options).await
    }

    async fn with(server: EtcdServer, seed: u64, options: EtcdOptions) -> Self {
        let fake = FakeEtcd::with_seed(seed);
        let real = Etcd::new([server.endpoint()], options);
        let real_side = real.connect(0).await.expect("connecting is lazy");
        let version = real_side.version().await.expect("the server says its version");
        // With the bugs of its version, if it is an old one.
        fake.faults().impersonate(version);
        let fake_side = fake.connect(0).await.expect("the fake is healthy");
        let client = server.client().await;
        let (leases, written) = (Vec::new(), 0);
        let watches = Vec::new();
        Pair { fake, client, fake_side, real_side, leases, written, watches, _server: server }
    }

    fn random(&self, bound: u64) -> u64 {
        self.fake.random(bound)
    }

    /// A revision of any kind: none, compacted, known, to come.
    fn revision(&self) -> Revision {
        let known = u64::try_from(self.fake.revision()).unwrap();
        match self.random(3) {
            0 => 0,
            _ => 1 + i64::try_from(self.random(known + 3)).unwrap(),
        }
    }

    fn key(&self) -> String {
        format!("/k/{}", self.random(KEYS))
    }

    fn range(&self) -> KeyRange {
        match self.random(8) {
            0 => KeyRange::all(),
            1 => KeyRange::key(self.key()),
            2 => KeyRange::bytes(self.key(), self.key()),
            3 => KeyRange::from(self.key()),
            4 => KeyRange::prefix("/k/1"),
            5 => KeyRange::prefix("/nothing/"),
            _ => KeyRange::prefix("/k/"),
        }
    }
}

/// Writing to both.
impl Pair {
    /// Does one thing to both; the revisions they answer with are the same.
    async fn write(&mut self) {
        self.written += 1;
        let (key, value) = (self.key(), self.written.to_string());
        let (fake, header) = match self.random(10) {
            0..=3 => {
                let fake = self.fake.put(key.as_str(), value.as_str());
                (fake, self.client.put(key, value, None).await.unwrap().take_header())
            }
            4 => {
                let fake = self.fake.delete(key.as_str());
                (fake, self.client.delete(key, None).await.unwrap().take_header())
            }
            5 => {
                let fake = self.fake.delete_range(KeyRange::prefix("/k/2"));
                let all = DeleteOptions::new().with_prefix();
                (fake, self.client.delete("/k/2", Some(all)).await.unwrap().take_header())
            }
            6 => {
                let fake = self.fake.put("/outside", value.as_str());
                (fake, self.client.put("/outside", value, None).await.unwrap().take_header())
            }
            7 => self.transact().await,
            8 => self.lease(key).await,
            _ => {
                self.compact().await;
                let header = self.client.get("revision", None).await.unwrap().take_header();
                (self.fake.revision(), header)
            }
        };
        assert_eq!(fake, header.expect("a header").revision(), "left is the fake: a write");
    }

    async fn compact(&mut self) {
        let back = i64::try_from(self.random(10)).unwrap();
        let revision = self.fake.revision() - back;
        if revision > self.fake.compacted() {
            // The fake reads its log when it is polled: nothing may be left unread.
            self.compare_watches().await;
            self.fake.compact(revision);
            self.client.compact(revision, None).await.unwrap();
        }
    }

    /// etcd takes no key twice to be put, so each comes once; to be deleted it may come again.
    async fn transact(&mut self) -> (Revision, Option<ResponseHeader>) {
        let first = self.random(KEYS);
        let (mut fake, mut real) = (Vec::new(), Vec::new());
        for n in first..first + 1 + self.random(6) {
            let (key, value) = (format!("/k/{n}"), format!("{}-{n}", self.written));
            if self.random(3) > 0 {
                fake.push(Op::put(key.as_str(), value.as_str()));
                real.push(TxnOp::put(key, value, None));
                continue;
            }
            for _ in 0..=self.random(2) {
                fake.push(Op::delete(key.as_str()));
                real.push(TxnOp::delete(key.as_str(), None));
            }
        }
        let fake = self.fake.txn(fake);
        (fake, self.client.txn(Txn::new().and_then(real)).await.unwrap().take_header())
    }

    /// Ends a lease, or grants one and attaches keys to it, with a new value or the one they have.
    async fn lease(&mut self, key: String) -> (Revision, Option<ResponseHeader>) {
        if self.leases.len() > 1 {
            let lease = self.leases.remove(0);
            let fake = self.fake.revoke_lease(lease);
            return (fake, self.client.lease_revoke(lease).await.unwrap().take_header());
        }
        let lease = self.fake.grant_lease();
        let same = LeaseGrantOptions::new().with_id(lease);
        self.client.lease_grant(3600, Some(same)).await.unwrap();
        self.leases.push(lease);
        if self.fake.get(&key).is_some() {
            self.fake.attach(&key, lease);
            let attached = PutOptions::new().with_lease(lease).with_ignore_value();
            self.client.put(key, "", Some(attached)).await.unwrap();
        }
        let key = self.key();
        let fake = self.fake.txn([Op::put_leased(key.as_str(), "leased", lease)]);
        let leased = PutOptions::new().with_lease(lease);
        (fake, self.client.put(key, "leased", Some(leased)).await.unwrap().take_header())
    }
}

/// Asking both.
impl Pair {
    async fn ask(&mut self) {
        match self.random(6) {
            0..=2 => self.ask_range().await,
            3 => self.ask_stream().await,
            4 => {
                let (range, start) = (self.range(), self.revision());
                self.open(range, start).await;
            }
            _ => self.compare_watches().await,
        }
    }

    async fn compare_watches(&mut self) {
        for watch in &mut self.watches {
            watch.compare(&self.fake).await;
        }
        self.watches.retain(|watch| !watch.cancelled);
    }

    async fn ask_range(&self) {
        let request = RangeRequest {
            range: self.range(),
            revision: self.revision(),
            limit: self.random(4) * 5,
            keys_only: self.random(3) == 0,
            count_only: self.random(4) == 0,
            min_mod_revision: if self.random(3) == 0 { self.revision() } else { 0 },
        };
        let fake = normal(self.fake_side.range(request.clone()).await);
        let real = normal(self.real_side.range(request.clone()).await);
        assert_eq!(fake, real, "left is the fake: {request:?}");
    }

    async fn ask_stream(&self) {
        let range = self.range();
        let fake = read_stream(&*self.fake_side, &range).await;
        let real = read_stream(&*self.real_side, &range).await;
        assert_eq!(fake, real, "left is the fake: a stream of {range:?}");
    }

    async fn open(&mut self, range: KeyRange, start: Revision) {
        let open = async |side: &dyn Connection| side.watch(&range, start).await;
        let fake = open(&*self.fake_side).await.expect("the fake opens a watch");
        let real = open(&*self.real_side).await.expect("etcd opens a watch");
        let what = format!("a watch of {range:?} from {start}");
        let mut watches = Watches { what, start, fake, real, cancelled: false };
        watches.compare_created().await;
        watches.compare(&self.fake).await;
        self.watches.push(watches);
    }
}

fn normal(page: Result<RangePage, SourceError>) -> Result<impl Debug + PartialEq, Failure> {
    let page = page.map_err(|error| failure(&error))?;
    Ok((page.header.map(|header| header.revision), page.kvs, page.count, page.more))
}

/// The keys of each chunk, with what the last one says.
async fn read_stream(
    side: &dyn Connection,
    range: &KeyRange,
) -> Result<impl Debug + PartialEq, Failure> {
    let mut stream = side.range_stream(range).await.map_err(|error| failure(&error))?;
    let mut chunks = Vec::new();
    while let Some(chunk) = poll_fn(|cx| stream.poll_next(cx)).await {
        let chunk = chunk.map_err(|error| failure(&error))?;
        chunks.push((chunk.kvs, chunk.header.map(|header| header.revision), chunk.count));
    }
    Ok(chunks)
}

async fn run(seed: u64) {
    let mut pair = Pair::start(seed, EtcdOptions::new()).await;
    for _ in 0..ROUNDS {
        for _ in 0..pair.random(4) {
            pair.write().await;
        }
        pair.ask().await;
    }
}

#[tokio::test]
async fn the_fake_answers_as_etcd_does_after_random_histories() {
    let one = std::env::var("CONFORMANCE_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in one.map_or(0..SEEDS, |seed| seed..seed + 1) {
        println!("run again: CONFORMANCE_SEED={seed} cargo test --all-features --lib conformance");
        run(seed).await;
    }
}

/// F1, F3, F7, B8: the beginnings that watches are refused or cancelled for, and those that are not.
#[tokio::test]
async fn f3_f7_watches_begin_and_are_refused_alike() {
    let mut pair = Pair::start(1, EtcdOptions::new()).await;
    for _ in 0..60 {
        pair.written += 1;
        let key = pair.key();
        pair.fake.put(key.as_str(), "x");
        pair.client.put(key, "x", None).await.unwrap();
    }
    pair.open(KeyRange::prefix("/k/"), -1).await;
    pair.watches.clear();
    let (compacted, now) = (30, pair.fake.revision());
    pair.fake.compact(compacted);
    pair.client.compact(compacted, None).await.unwrap();
    for start in [-1, 0, 1, compacted - 1, compacted, compacted + 1, now, now + 1, now + 5] {
        pair.open(KeyRange::prefix("/k/"), start).await;
    }
    pair.open(KeyRange::bytes("b", "a"), now).await;
    pair.open(KeyRange::bytes("b", "b"), now).await;
    for watch in &mut pair.watches {
        watch.compare(&pair.fake).await;
    }
    for _ in 0..8 {
        pair.fake.put("/k/1", "y");
        pair.client.put("/k/1", "y", None).await.unwrap();
    }
    for watch in &mut pair.watches {
        watch.compare(&pair.fake).await;
    }
}

/// B2: an idle watch is told of its progress unasked, and one that begins in the future is not.
#[tokio::test]
async fn b2_progress_unasked_is_told_alike() {
    let server = EtcdServer::builder().progress_interval(UNASKED);
    let server = server.start().await.expect("an etcd starts");
    let mut pair = Pair::with(server, 3, EtcdOptions::new()).await;
    pair.fake.set_progress_interval(Some(UNASKED));
    for n in 0..3 {
        let key = format!("/k/{n}");
        pair.fake.put(key.as_str(), "x");
        pair.client.put(key, "x", None).await.unwrap();
    }
    let (range, now) = (KeyRange::prefix("/k/"), pair.fake.revision());
    let mut told = Vec::new();
    for side in [&pair.fake_side, &pair.real_side] {
        let mut stream = side.watch(&range, now).await.expect("a watch opens");
        let mut heard = Vec::new();
        // Created, the put that it begins at, and two notifications.
        for _ in 0..4 {
            let message = next(&mut stream).await.unwrap().expect("the watch goes on");
            let header = message.header.map(|header| header.revision);
            let revisions: Vec<_> = message.events.iter().map(Event::mod_revision).collect();
            let progress = message.is_progress();
            heard.push((message.created, progress, message.watch_id, header, revisions));
        }
        told.push(heard);
    }
    assert!(told[1][3].1, "etcd tells of progress: {told:?}");
    assert_eq!(told[0], told[1], "left is the fake");
}

/// F13, F14: a backlog larger than the client accepts, and the fragments it is asked for in then.
#[tokio::test]
async fn f14_large_backlogs_come_in_the_same_fragments() {
    const MIB: usize = 1 << 20;
    let options = EtcdOptions::new().max_message_bytes(4 * MIB);
    let mut pair = Pair::start(2, options).await;
    let start = pair.fake.revision() + 1;
    for n in 0..6 {
        let (key, value) = (format!("/k/{n}"), vec![b'v'; MIB]);
        pair.fake.put(key.as_str(), value.clone());
        pair.client.put(key, value, None).await.unwrap();
    }
    let range = KeyRange::prefix("/k/");
    let mut refused = pair.real_side.watch(&range, start).await.unwrap();
    assert!(matches!(next(&mut refused).await, Ok(Some(created)) if created.created));
    let (kind, text) = next(&mut refused).await.unwrap_err();
    assert_eq!(kind, SourceErrorKind::TooLarge, "{text}");

    let pieces = async |mut stream: Box<dyn WatchStream>| {
        let mut pieces = Vec::new();
        loop {
            let message = next(&mut stream).await.unwrap().unwrap();
            let revisions: Vec<_> = message.events.iter().map(Event::mod_revision).collect();
            pieces.push((message.created, message.fragment, revisions));
            if pieces.len() > 1 && !message.fragment {
                return pieces;
            }
        }
    };
    let fake = pieces(pair.fake_side.watch(&range, start).await.unwrap()).await;
    let real = pieces(pair.real_side.watch(&range, start).await.unwrap()).await;
    assert_eq!(fake, real, "left is the fake");
}
