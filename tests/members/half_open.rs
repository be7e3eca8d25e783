//! Connections of which one end is gone and the other has not heard of it.
//!
//! Owns each such fault in each phase of a mirror: while it loads, while it is live, while somebody
//! waits. The promise is the same for all: found out within the time limits, and got over.

use std::time::{Duration, Instant};

use etcd_client::Client;
use etcd_keyspace::{Builder, Revision, State};
use tokio::task::JoinSet;

use super::support::real::{Bytes, at, mirror, poll_until, put, reaches, waiter};
use super::support::verify::equals_etcd;
use super::support::{Direction, EtcdServer, Proxy, still_pending, within};
use super::{MS, one_load_of_one_history};

const CHECK: Duration = Duration::from_millis(200);
const REQUEST: Duration = Duration::from_millis(400);

/// What happens to the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The server's process is gone; the client's side stays open and silent.
    ServerGone,
    /// Both ends are there, and nothing passes this way any more.
    Swallowed(Direction),
    /// Nothing passes, and nothing is lost.
    Held,
}

const FAULTS: [Fault; 4] = [
    Fault::ServerGone,
    Fault::Swallowed(Direction::Up),
    Fault::Swallowed(Direction::Down),
    Fault::Held,
];

struct Fixture {
    server: EtcdServer,
    proxy: Proxy,
    client: Client,
}

impl Fixture {
    async fn new() -> Self {
        let server = EtcdServer::start().await.unwrap();
        let proxy = Proxy::start(&server.endpoint()).await.unwrap();
        let client = server.client().await;
        Fixture { server, proxy, client }
    }

    fn mirror(&self) -> Builder<Vec<u8>> {
        let builder = mirror("/k/").check_interval(CHECK).request_timeout(REQUEST);
        builder.page_timeout(REQUEST).connect_timeout(REQUEST)
    }

    async fn begin(&self, fault: Fault) {
        match fault {
            Fault::ServerGone => {
                self.proxy.stall().await;
                self.server.kill();
            }
            Fault::Swallowed(direction) => self.proxy.blackhole(direction).await,
            Fault::Held => self.proxy.stall().await,
        }
    }

    /// The way is free again for new connections; what the old ones carried is lost.
    async fn end(&mut self, fault: Fault) {
        if fault == Fault::ServerGone {
            self.server.restart().await.unwrap();
            self.client = self.server.client().await;
        }
        self.proxy.pass().await;
    }

    async fn begin_and_be_found_out(&mut self, fault: Fault, ks: &Bytes) {
        let begun = Instant::now();
        self.begin(fault).await;
        if fault != Fault::ServerGone {
            put(&mut self.client, "/k/missed", "x").await;
        }
        reaches(ks, State::Reconnecting).await;
        println!("{fault:?}: found out after {:?}", begun.elapsed());
        // Two checks, or a check and a request, whichever comes first; and the machine is loaded.
        assert!(begun.elapsed() < 2 * CHECK + REQUEST + 1000 * MS, "{:?}", begun.elapsed());
        let seen = ks.read().contains("/k/missed");
        assert!(!seen || fault == Fault::Swallowed(Direction::Up), "nothing comes this way");
    }

    /// Gives the store's revision at the end.
    async fn end_and_be_got_over(&mut self, fault: Fault, ks: &Bytes) -> Revision {
        self.end(fault).await;
        put(&mut self.client, "/k/missed", "y").await;
        let last = put(&mut self.client, "/k/after", "x").await;
        equals_etcd(ks, &mut self.client, "/k/").await;
        one_load_of_one_history(ks);
        last
    }
}

/// Runs `test` with each fault, all at once.
async fn with_each_fault<F>(test: impl Fn(Fixture, Fault) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut tests = JoinSet::new();
    for fault in FAULTS {
        tests.spawn(test(Fixture::new().await, fault));
    }
    while let Some(done) = tests.join_next().await {
        done.unwrap();
    }
}

/// B18, F24: in the middle of a page, or of a chunk, of the first load and of a later one.
#[tokio::test]
async fn b18_f24_half_open_in_the_middle_of_a_load() {
    const KEYS: usize = 120;
    with_each_fault(|mut fixture, fault| async move {
        let value = "v".repeat(100_000);
        let mut newest = 0;
        for i in 0..KEYS {
            newest = put(&mut fixture.client, format!("/k/{i:03}"), &value).await;
        }
        // At a revision it loads by pages, else as a stream where the server has that.
        for load_at in [0, newest] {
            fixture.proxy.stall_after(3_000_000).await;
            let builder = fixture.mirror().load_at(load_at).page_bytes(8 << 20);
            let (ks, task) = builder.build(at(fixture.proxy.endpoint()));
            let task = tokio::spawn(task.run());
            within("the stall", fixture.proxy.stalled()).await;
            let begun = Instant::now();
            fixture.begin(fault).await;
            let failures = || ks.status().counters.failures;
            poll_until("it is found out", failures, |failures| *failures > 0).await;
            println!("load at {load_at}, {fault:?}: found out after {:?}", begun.elapsed());
            assert!(begun.elapsed() < 4 * REQUEST, "{:?}", begun.elapsed());
            let status = ks.status();
            assert_eq!((status.state, ks.read().len()), (State::Loading, 0), "{status:?}");
            fixture.end(fault).await;
            within("the load", ks.loaded()).await.unwrap();
            assert_eq!(ks.read().len(), KEYS);
            equals_etcd(&ks, &mut fixture.client, "/k/").await;
            one_load_of_one_history(&ks);
            ks.shutdown().await;
            task.await.unwrap();
        }
    })
    .await;
}

/// The fault begins while the mirror is live and nobody asks.
#[tokio::test]
async fn b19_half_open_while_live() {
    with_each_fault(|mut fixture, fault| async move {
        let ks = live(&fixture).await;
        fixture.begin_and_be_found_out(fault, &ks).await;
        fixture.end_and_be_got_over(fault, &ks).await;
    })
    .await;
}

/// The fault begins while somebody waits for a revision; somebody asks for a linearizable read then.
#[tokio::test]
async fn b19_c8_half_open_while_waits_are_pending() {
    with_each_fault(|mut fixture, fault| async move {
        let ks = live(&fixture).await;
        let now = put(&mut fixture.client, "/k/now", "x").await;
        within("it follows", ks.wait_for_revision(now)).await.unwrap();
        let mut wait = waiter(&ks, now + 2);
        poll_until("it waits", || ks.stats().waits, |waits| *waits > 0).await;
        fixture.begin_and_be_found_out(fault, &ks).await;
        let mut sync = tokio::spawn({
            let ks = ks.clone();
            async move { ks.sync().await }
        });
        still_pending("nothing can be known", 20 * MS, &mut wait).await;
        still_pending("nothing can be asked", 20 * MS, &mut sync).await;
        let last = fixture.end_and_be_got_over(fault, &ks).await;
        assert!(within("the wait", wait).await.unwrap().unwrap() >= now + 2);
        assert!((now..=last).contains(&within("the sync", sync).await.unwrap().unwrap()));
    })
    .await;
}

/// A mirror whose watch has answered.
async fn live(fixture: &Fixture) -> Bytes {
    let started = fixture.mirror().start(at(fixture.proxy.endpoint()));
    let ks = within("the start", started).await.unwrap();
    within("it answers", ks.sync()).await.unwrap();
    poll_until("it is fresh", || ks.status(), |status| status.is_fresh(CHECK)).await;
    ks
}
