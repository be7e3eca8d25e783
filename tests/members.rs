//! Following a cluster whose members and connections fail: without a majority, without its leader,
//! behind what stands between.
//!
//! Owns the loss of a majority and of the leader; each other kind of fault has a file of its own.
//! Each test ends with the comparison of the whole key space with etcd.

mod support;

#[path = "members/endpoints.rs"]
mod endpoints;
#[path = "members/grpc_proxy.rs"]
mod grpc_proxy;
#[path = "members/half_open.rs"]
mod half_open;
#[path = "members/operators.rs"]
mod operators;
#[path = "members/terms.rs"]
mod terms;

use std::time::{Duration, Instant};

use etcd_client::Client;
use etcd_keyspace::{Etcd, EtcdOptions, State};
use support::real::{
    Bytes, Steps, at, mirror, poll_until, put, put_in_the_end, reaches, revision, waiter,
};
use support::verify::equals_etcd;
use support::{Cluster, EtcdServer, still_pending, within};

const MS: Duration = Duration::from_millis(1);

/// The election timeout of [`three`].
const ELECTION: Duration = Duration::from_millis(500);

/// A cluster of three that elects a leader sooner than by default.
async fn three() -> Cluster {
    let args = ["--heartbeat-interval=50", "--election-timeout=500"];
    EtcdServer::builder().args(args).cluster(3).await.unwrap()
}

/// Puts `/k/0` to `/k/9`.
async fn ten_keys(client: &mut Client) {
    for i in 0..10 {
        put(client, format!("/k/{i}"), "first").await;
    }
}

/// Asserts that the mirror never lost what it had, and was not fooled into another history.
fn one_load_of_one_history(ks: &Bytes) {
    let status = ks.status();
    let counters = status.counters;
    assert_eq!((status.epoch, counters.loads, counters.history_changes), (1, 1, 0), "{status:?}");
    assert_eq!(counters.discontinuities, 0, "{status:?}");
}

// ---- No majority --------------------------------------------------------------------------------

/// How two members of three are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Killed,
    Stopped,
}

/// B20, F28, C7: the member in use is well and answers progress requests, and knows nothing any more.
async fn a_minority_is_not_believed(loss: Loss, request_timeout: Duration) {
    let cluster = three().await;
    let [member, others @ ..] = cluster.members() else { panic!("three members") };
    let mut client = member.client().await;
    ten_keys(&mut client).await;
    let check = 200 * MS;
    let builder = mirror("/k/").check_interval(check).request_timeout(request_timeout);
    let ks = builder.start(at(member.endpoint())).await.unwrap();
    let limit = 4 * check;
    poll_until("it is fresh", || ks.status(), |status| status.is_fresh(limit)).await;
    let now = revision(&mut client).await;

    for other in others {
        match loss {
            Loss::Killed => other.kill(),
            Loss::Stopped => other.pause(),
        }
    }
    let lost = Instant::now();
    let mut sync = tokio::spawn({
        let ks = ks.clone();
        async move { ks.sync().await }
    });
    let mut wait = waiter(&ks, now + 1);
    let stale = poll_until("it is not fresh", || ks.status(), |s| !s.is_fresh(limit)).await;
    assert!(stale <= limit + 500 * MS, "{stale:?}");
    reaches(&ks, State::Reconnecting).await;
    println!("{loss:?}: not fresh after {stale:?}, not live after {:?}", lost.elapsed());
    assert!(lost.elapsed() < 3 * ELECTION + 2 * request_timeout.min(check) + 2000 * MS);
    // It goes on trying, and what was committed last is served and grows old.
    let tried = ks.status().counters.failures;
    let age = ks.status().current_as_of;
    let failures = || ks.status().counters.failures;
    poll_until("it tries again", failures, |now| *now > tried).await;
    let status = ks.status();
    assert!(status.current_as_of > age && status.current_as_of.unwrap() + MS > lost.elapsed());
    assert!(!status.is_fresh(Duration::MAX) && status.last_error.is_some(), "{status:?}");
    assert_eq!((ks.read().len(), ks.read().revision()), (10, now));
    still_pending("a linearizable read without a majority", 20 * MS, &mut sync).await;
    still_pending("nothing was committed", 20 * MS, &mut wait).await;

    match loss {
        Loss::Killed => {
            let [one, two] = others else { panic!("two others") };
            let (one, two) = tokio::join!(one.restart(), two.restart());
            one.and(two).unwrap();
        }
        Loss::Stopped => others.iter().for_each(EtcdServer::resume),
    }
    let rev = put_in_the_end(&mut client, "/k/after", "x").await;
    assert!(within("the wait", wait).await.unwrap().unwrap() >= rev);
    assert!(within("the sync", sync).await.unwrap().unwrap() >= now);
    equals_etcd(&ks, &mut client, "/k/").await;
    poll_until("it is fresh again", || ks.status(), |status| status.is_fresh(limit)).await;
    one_load_of_one_history(&ks);
}

/// The requests of the mirror take long to fail, so what ends it is the loss of the leader.
#[tokio::test]
async fn b20_f28_a_member_left_alone_by_kills_is_not_believed() {
    a_minority_is_not_believed(Loss::Killed, Duration::from_secs(4)).await;
}

#[tokio::test]
async fn b20_f28_a_member_left_alone_by_stopped_ones_is_not_believed() {
    a_minority_is_not_believed(Loss::Stopped, 400 * MS).await;
}

// ---- No leader ----------------------------------------------------------------------------------

/// T-10, C8: whoever writes and waits reads what it wrote, before, during and after each change of the
/// leader, and nothing acknowledged is missing at the end.
#[tokio::test]
async fn b20_b29_a_writer_reads_its_own_writes_while_leaders_die_and_stop() {
    let cluster = three().await;
    let mut client = cluster.client().await;
    let builder = mirror("/k/").check_interval(200 * MS).request_timeout(600 * MS);
    let etcd = Etcd::new(cluster.endpoints(), EtcdOptions::new());
    let ks = within("the start", builder.start(etcd)).await.unwrap();
    let steps = Steps::of(&ks);
    let mut written = 0;
    let mut longest = Duration::ZERO;
    for round in 0..2 {
        for fault in [false, true] {
            let leader = within("a leader", leader(&cluster)).await;
            let member = &cluster.members()[leader];
            match (fault, round) {
                (false, _) => {}
                (true, 0) => member.kill(),
                (true, _) => member.pause(),
            }
            for _ in 0..25 {
                let (key, value) = (format!("/k/{}", written % 40), written.to_string());
                let rev = put_in_the_end(&mut client, &key, &value).await;
                written += 1;
                let begun = Instant::now();
                within("its own write", ks.wait_for_revision(rev)).await.unwrap();
                longest = longest.max(begun.elapsed());
                let read = ks.read().get(&key).map(|entry| entry.value().clone());
                assert_eq!(read, Some(value.into_bytes()), "{key}");
            }
            match (fault, round) {
                (false, _) => {}
                (true, 0) => member.restart().await.unwrap(),
                (true, _) => member.resume(),
            }
        }
    }
    println!("{written} writes; the longest wait for one of them took {longest:?}");
    equals_etcd(&ks, &mut client, "/k/").await;
    assert_eq!(ks.read().len(), 40);
    let steps = steps.take();
    assert!(steps.is_sorted_by(|a, b| a.to < b.to), "{steps:?}");
    one_load_of_one_history(&ks);
}

/// The index of the leader, as soon as there is one.
async fn leader(cluster: &Cluster) -> usize {
    loop {
        match cluster.leader().await {
            Some(leader) => return leader,
            None => tokio::time::sleep(20 * MS).await,
        }
    }
}
