//! The server's process is killed, stopped, or away for good.

use super::*;

/// B20, T-10: waits and syncs begun before and during the outage end after it; nothing is loaded again.
#[tokio::test]
async fn gz17_kill_9_and_restart_lose_nothing_and_waits_survive() {
    let server = EtcdServer::builder().durable().start().await.unwrap();
    let mut client = server.client().await;
    put(&mut client, "/k/a", "1").await;
    let ks = start(server.endpoint(), "/k/").await;
    let steps = Steps::of(&ks);
    for round in 0..3 {
        let now = put(&mut client, "/k/a", format!("{round}")).await;
        let mut before = waiter(&ks, now + 2);
        server.kill();
        reaches(&ks, State::Reconnecting).await;
        assert_eq!(ks.read().len(), 1 + round, "the last data is served");
        let during = waiter(&ks, now + 1);
        let sync = tokio::spawn({
            let ks = ks.clone();
            async move { ks.sync().await }
        });
        still_pending("etcd is down", 50 * MS, &mut before).await;
        server.restart().await.unwrap();
        client = server.client().await;
        put(&mut client, format!("/k/new{round}"), "x").await;
        put(&mut client, "/beside", "x").await;
        assert!(within("a wait from before", before).await.unwrap().unwrap() >= now + 2);
        assert!(within("a wait from the outage", during).await.unwrap().unwrap() > now);
        assert!(within("a sync from the outage", sync).await.unwrap().unwrap() >= now);
        equals_etcd(&ks, &mut client, "/k/").await;
    }
    let status = ks.status();
    assert_eq!((status.counters.loads, status.epoch), (1, 1), "{status:?}");
    let loads = steps.take().iter().filter(|step| step.origin == DeltaOrigin::Load).count();
    assert_eq!(loads, 0);
    assert!(status.last_error.is_none(), "it is over: {status:?}");
}

/// B18, T-21: everything stays open and nothing answers; afterwards it goes on.
#[tokio::test]
async fn f21_sigstop_of_the_only_endpoint_is_noticed_and_sigcont_heals_it() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    put(&mut client, "/k/a", "1").await;
    let builder = mirror("/k/").check_interval(100 * MS).request_timeout(300 * MS);
    let ks = builder.start(at(server.endpoint())).await.unwrap();
    // The watch has answered once, so its silence counts.
    within("a sync", ks.sync()).await.unwrap();
    poll_until("it is proven", || ks.status().counters.watches, |watches| *watches == 1).await;
    server.pause();
    let noticed = reaches(&ks, State::Reconnecting).await;
    println!("a stopped process is noticed after {noticed:?}");
    assert!(noticed < Duration::from_secs(3), "{noticed:?}");
    let wait = waiter(&ks, 1_000_000);
    poll_until("it tries again", || ks.status().counters.failures, |f| *f >= 3).await;
    assert!(ks.read().contains("/k/a"));
    server.resume();
    put(&mut client, "/k/b", "2").await;
    equals_etcd(&ks, &mut client, "/k/").await;
    assert_eq!(ks.status().counters.loads, 1);
    assert!(!wait.is_finished());
    wait.abort();
}

/// B21: with one of three members dead, then another one stopped where it stands, the mirror goes on.
#[tokio::test]
async fn b21_a_cluster_that_loses_the_member_in_use_is_followed_on() {
    let cluster = Cluster::start(3).await.unwrap();
    let endpoints = cluster.endpoints();
    let mut client = cluster.client().await;
    put(&mut client, "/k/a", "1").await;
    let builder = mirror("/k/").check_interval(200 * MS).request_timeout(1000 * MS).seed(0);
    let etcd = Etcd::new(endpoints[..2].to_vec(), EtcdOptions::new());
    let ks = within("the start", builder.start(etcd)).await.unwrap();
    equals_etcd(&ks, &mut client, "/k/").await;

    let in_use = || endpoints.iter().position(|url| Some(url) == ks.status().endpoint.as_ref());
    let dead = in_use().unwrap();
    cluster.members()[dead].kill();
    let begun = Instant::now();
    // A client of the members that are left; elections may take a second.
    let left = [1 - dead, 2].map(|index| endpoints[index].clone());
    let mut client = Client::connect(&left[1..], None).await.unwrap();
    let rev = put_in_the_end(&mut client, "/k/b", "").await;
    within("the other endpoint", ks.wait_for_revision(rev)).await.unwrap();
    println!("followed on after {:?}", begun.elapsed());
    assert_eq!(ks.status().endpoint.as_ref(), Some(&left[0]));
    equals_etcd(&ks, &mut client, "/k/").await;

    // Back, and now the one in use stops where it stands.
    cluster.members()[dead].restart().await.unwrap();
    cluster.members()[1 - dead].pause();
    let begun = Instant::now();
    let rev = put_in_the_end(&mut client, "/k/c", "").await;
    within("the first endpoint again", ks.wait_for_revision(rev)).await.unwrap();
    println!("followed on after {:?}", begun.elapsed());
    assert_eq!(in_use(), Some(dead));
    equals_etcd(&ks, &mut client, "/k/").await;
    let counters = ks.status().counters;
    assert_eq!((counters.loads, counters.discontinuities), (1, 0), "{counters:?}");
    cluster.members()[1 - dead].resume();
}
