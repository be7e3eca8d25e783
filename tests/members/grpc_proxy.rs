//! Behind etcd's own gRPC proxy, which swallows progress requests and keeps dead watches.
//!
//! Owns what still holds there: everything, but later, since completeness has to be counted.

use std::time::{Duration, Instant};

use etcd_client::{Client, TxnOp};
use etcd_keyspace::ProgressBy;

use super::support::real::{
    Bytes, Steps, at, commit, delete, delete_prefix, mirror, poll_until, put, reaches,
};
use super::support::verify::equals_etcd;
use super::support::{EtcdServer, GrpcProxy, within};
use super::{MS, State, one_load_of_one_history, ten_keys, waiter};

const CHECK: Duration = Duration::from_millis(400);

/// A server with two proxies, which share nothing but the server, and a client of the server.
async fn proxied(builder: super::support::EtcdBuilder) -> (EtcdServer, GrpcProxy, Client) {
    let server = builder.start().await.unwrap();
    let mut client = server.client().await;
    ten_keys(&mut client).await;
    let proxy = GrpcProxy::start(&[server.endpoint()]).await.unwrap();
    (server, proxy, client)
}

/// A mirror behind the proxy that has found out that it has to count.
async fn counting(proxy: &GrpcProxy) -> Bytes {
    let builder = mirror("/k/").check_interval(CHECK).request_timeout(1000 * MS);
    let ks = within("the start", builder.start(at(proxy.endpoint()))).await.unwrap();
    let by = || ks.status().progress_by;
    let found = poll_until("it counts", by, |by| *by == ProgressBy::Count).await;
    println!("progress is found to be swallowed after {found:?}");
    assert!(found < 2 * CHECK + 1000 * MS, "{found:?}");
    ks
}

/// B33, F46: it works by counting; a wait for a revision that is of others ends; large answers pass.
#[tokio::test]
async fn b33_f46_a_mirror_behind_a_proxy_counts_and_is_complete() {
    let args = ["--max-txn-ops=10000", "--max-request-bytes=10485760"];
    let (_server, proxy, mut client) = proxied(EtcdServer::builder().args(args)).await;
    let ks = counting(&proxy).await;
    equals_etcd(&ks, &mut client, "/k/").await;

    // Beside the prefix, and after a deletion, which the count shows and the newest key does not.
    for round in 0..3 {
        let rev = put(&mut client, "/beside", "x").await;
        within("a revision of others", ks.wait_for_revision(rev)).await.unwrap();
        delete(&mut client, format!("/k/{round}")).await;
        let rev = put(&mut client, "/beside", "y").await;
        within("a revision of others", ks.wait_for_revision(rev)).await.unwrap();
        assert!(!ks.read().contains(format!("/k/{round}")));
        assert!(within("a sync", ks.sync()).await.unwrap() >= rev);
        equals_etcd(&ks, &mut client, "/k/").await;
    }
    let limit = 4 * CHECK;
    poll_until("it is fresh", || ks.status(), |status| status.is_fresh(limit)).await;

    // One revision of six megabytes, and one of thousands of keys: the proxy cuts nothing.
    let steps = Steps::of(&ks);
    steps.take();
    let value = "v".repeat(1 << 20);
    let put_large = |i| TxnOp::put(format!("/k/large{i}"), value.as_str(), None);
    let rev = commit(&mut client, (0..6).map(put_large).collect::<Vec<_>>()).await;
    within("six megabytes", ks.wait_for_revision(rev)).await.unwrap();
    let put_many = |i| TxnOp::put(format!("/k/{}{i}", "n".repeat(500)), "", None);
    let rev = commit(&mut client, (0..5_000).map(put_many).collect::<Vec<_>>()).await;
    within("five thousand keys", ks.wait_for_revision(rev)).await.unwrap();
    let rev = delete_prefix(&mut client, "/k/").await;
    within("all gone", ks.wait_for_revision(rev)).await.unwrap();
    let changes: Vec<_> = steps.take().iter().map(|step| step.changes.len()).collect();
    assert_eq!(changes, [6, 5_000, 5_013], "each revision is one step");
    equals_etcd(&ks, &mut client, "/k/").await;

    // And such a load passes.
    commit(&mut client, (0..6).map(put_large).collect::<Vec<_>>()).await;
    let late = counting(&proxy).await;
    for ks in [&ks, &late] {
        equals_etcd(ks, &mut client, "/k/").await;
        assert_eq!(ks.status().progress_by, ProgressBy::Count);
        one_load_of_one_history(ks);
    }
}

/// F47: the server dies and comes back, and the watch behind the proxy neither ends nor speaks.
#[tokio::test]
async fn b33_f47_a_watch_that_died_in_the_proxy_is_replaced() {
    let (server, proxy, mut client) = proxied(EtcdServer::builder()).await;
    // With all this patience no request fails, so that only the silence of the watch can tell.
    let check = Duration::from_secs(1);
    let builder = mirror("/k/").check_interval(check).request_timeout(Duration::from_secs(60));
    let ks = within("the start", builder.start(at(proxy.endpoint()))).await.unwrap();
    let by = || ks.status().progress_by;
    poll_until("it counts", by, |by| *by == ProgressBy::Count).await;
    equals_etcd(&ks, &mut client, "/k/").await;
    server.kill();
    let wait = waiter(&ks, ks.read().confirmed() + 1);
    // It need not know of the outage to say that it knows of nothing new.
    poll_until("it grows old", || ks.status(), |status| !status.is_fresh(2 * check)).await;
    assert!(!wait.is_finished());
    server.restart().await.unwrap();
    client = server.client().await;
    put(&mut client, "/k/new", "x").await;
    let begun = Instant::now();
    within("it is found out", wait).await.unwrap().unwrap();
    println!("mended after {:?}: {:?}", begun.elapsed(), ks.status().counters);
    // Two check intervals, in which the proxy finds its server, then the rest of a count; or, when
    // the proxy gave the watch up because it had lost sight of a leader, a new connection.
    assert!(begun.elapsed() < 2 * check + 4000 * MS, "{:?}", begun.elapsed());
    put(&mut client, "/k/0", "last").await;
    delete(&mut client, "/k/1").await;
    equals_etcd(&ks, &mut client, "/k/").await;
    assert!(ks.status().counters.connects <= 20, "{:?}", ks.status());
    one_load_of_one_history(&ks);
}

/// The same, and the mirror learns of the outage by its requests.
#[tokio::test]
async fn b33_f47_a_watch_behind_a_proxy_whose_server_was_away_is_replaced() {
    let (server, proxy, mut client) = proxied(EtcdServer::builder()).await;
    let ks = counting(&proxy).await;
    for round in 0..3 {
        equals_etcd(&ks, &mut client, "/k/").await;
        reaches(&ks, State::Live).await;
        let before = ks.status().counters;
        server.kill();
        reaches(&ks, State::Reconnecting).await;
        server.restart().await.unwrap();
        client = server.client().await;
        let rev = put(&mut client, format!("/k/new{round}"), "x").await;
        let begun = Instant::now();
        within("it is mended", ks.wait_for_revision(rev)).await.unwrap();
        println!("mended after {:?}", begun.elapsed());
        assert!(begun.elapsed() < 2 * CHECK + 3000 * MS, "{:?}", begun.elapsed());
        equals_etcd(&ks, &mut client, "/k/").await;
        let connects = ks.status().counters.connects - before.connects;
        assert!((1..=20).contains(&connects), "{:?}", ks.status());
        one_load_of_one_history(&ks);
    }
}
