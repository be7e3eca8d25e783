//! Endpoints that are dead, stopped, without a vote or thrown out, beside good ones.
//!
//! Owns the rotation as seen from outside: the bound of a gap, and how often it connects meanwhile.

use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions};
use etcd_keyspace::{Etcd, EtcdOptions, State};

use super::support::etcd::free_port;
use super::support::real::{mirror, poll_until, put, put_in_the_end, reaches, revision};
use super::support::verify::equals_etcd;
use super::support::{Cluster, EtcdServer, within};
use super::{MS, one_load_of_one_history, ten_keys, three};

/// What a mirror of these options needs at most to find a silent endpoint out, and to pass over
/// another one that says nothing: two checks unanswered, then one request unanswered.
const CHECK: Duration = Duration::from_millis(200);
const REQUEST: Duration = Duration::from_millis(400);
const BOUND: Duration = Duration::from_millis(2 * 200 + 2 * 400 + 700);

/// B21, F26: for seconds one of the endpoints is dead, then one is stopped where it stands, and a
/// third one never lived. What is committed is seen within a bound, and connecting is no loop.
#[tokio::test]
async fn b21_f26_a_dead_and_a_stopped_endpoint_are_got_over_within_a_bound() {
    let cluster = three().await;
    let all = cluster.endpoints();
    ten_keys(&mut cluster.client().await).await;
    let nobody = format!("http://127.0.0.1:{}", free_port().unwrap());
    let endpoints = [all[0].clone(), nobody, all[1].clone(), all[2].clone()];
    let builder = mirror("/k/").check_interval(CHECK).request_timeout(REQUEST).seed(0);
    let etcd = Etcd::new(endpoints, EtcdOptions::new());
    let ks = within("the start", builder.start(etcd)).await.unwrap();

    for stopped in [false, true] {
        reaches(&ks, State::Live).await;
        let url = ks.status().endpoint.unwrap();
        let member = &cluster.members()[all.iter().position(|other| *other == url).unwrap()];
        let before = ks.status().counters;
        if stopped {
            member.pause()
        } else {
            member.kill()
        }
        let left: Vec<_> = all.iter().filter(|other| **other != url).cloned().collect();
        let mut client = Client::connect(&left, None).await.unwrap();
        let begun = Instant::now();
        let mut longest = Duration::ZERO;
        for i in 0.. {
            let rev = put_in_the_end(&mut client, format!("/k/{}", i % 20), "x").await;
            let written = Instant::now();
            within("it goes on", ks.wait_for_revision(rev)).await.unwrap();
            longest = longest.max(written.elapsed());
            if begun.elapsed() > Duration::from_secs(2) {
                break;
            }
        }
        let after = ks.status().counters;
        let connects = after.connects - before.connects;
        println!("stopped: {stopped}: longest gap {longest:?}, {connects} connects");
        assert!(longest < BOUND, "{longest:?}");
        assert!((1..=12).contains(&connects), "{after:?}");
        assert!(after.failures - before.failures <= 12, "{after:?}");
        equals_etcd(&ks, &mut client, "/k/").await;
        if stopped { member.resume() } else { member.restart().await.unwrap() }
    }
    equals_etcd(&ks, &mut cluster.client().await, "/k/").await;
    one_load_of_one_history(&ks);
}

/// B18, F21: the server stops between the load and the watch.
#[tokio::test]
async fn b18_a_server_that_stops_before_the_watch_is_found_out_and_followed_after_it() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    ten_keys(&mut client).await;
    let builder = mirror("/k/").request_timeout(300 * MS);
    let (ks, mut task) = builder.build(super::at(server.endpoint()));
    // By hand, so that the stop falls between two steps: the watch is asked for and not yet sent.
    let loading = async {
        while ks.status().counters.loads == 0 {
            assert!(task.step().await.is_none());
        }
    };
    within("the load", loading).await;
    server.pause();
    let begun = Instant::now();
    let before = ks.status().counters.failures;
    let task = tokio::spawn(task.run());
    let failures = || ks.status().counters.failures;
    let noticed = poll_until("it fails", failures, |failures| *failures > before).await;
    assert!(noticed >= 250 * MS && noticed < 2500 * MS, "{noticed:?}");
    assert_eq!((ks.status().counters.watches, ks.read().len()), (0, 10));
    assert_eq!(ks.status().state, State::Reconnecting);
    poll_until("it tries again", failures, |failures| *failures > before + 1).await;
    server.resume();
    println!("noticed after {noticed:?}, resumed after {:?}", begun.elapsed());
    put(&mut client, "/k/after", "x").await;
    equals_etcd(&ks, &mut client, "/k/").await;
    one_load_of_one_history(&ks);
    drop(ks);
    within("the task ends", task).await.unwrap();
}

/// B34, F29: a learner refuses all that a mirror asks, so it is passed over, at the start and later.
#[tokio::test]
async fn b34_f29_a_learner_beside_a_good_member_is_passed_over() {
    let cluster = Cluster::start(1).await.unwrap();
    let good = &cluster.members()[0];
    let mut client = good.client().await;
    ten_keys(&mut client).await;
    let learner = EtcdServer::builder().learner_of(&cluster).await.unwrap();
    assert!(learner.client().await.status().await.unwrap().is_learner());
    // It has the data, and would show it to whoever is content with the past.
    let past = GetOptions::new().with_prefix().with_serializable();
    let shown = learner.client().await.get("/k/", Some(past)).await.unwrap();
    assert_eq!(shown.count(), 10);

    for seed in 0..2 {
        let etcd = Etcd::new([learner.endpoint(), good.endpoint()], EtcdOptions::new());
        let builder = mirror("/k/").seed(seed).check_interval(CHECK).request_timeout(REQUEST);
        let ks = within("the start", builder.start(etcd)).await.unwrap();
        assert_eq!(ks.status().endpoint, Some(good.endpoint()));
        equals_etcd(&ks, &mut client, "/k/").await;
        let before = ks.status().counters;
        good.restart().await.unwrap();
        put_in_the_end(&mut client, format!("/k/new{seed}"), "x").await;
        equals_etcd(&ks, &mut client, "/k/").await;
        reaches(&ks, State::Live).await;
        assert_eq!(ks.status().endpoint, Some(good.endpoint()));
        let connects = ks.status().counters.connects - before.connects;
        assert!((1..=12).contains(&connects), "{:?}", ks.status());
        one_load_of_one_history(&ks);
    }
}

/// A learner alone can feed nobody; the error says why, and a promotion heals it.
#[tokio::test]
async fn b34_f29_a_mirror_of_a_learner_alone_says_so_and_starts_once_it_has_a_vote() {
    let cluster = Cluster::start(1).await.unwrap();
    let mut client = cluster.client().await;
    ten_keys(&mut client).await;
    let learner = EtcdServer::builder().learner_of(&cluster).await.unwrap();
    let (ks, task) = mirror("/k/").build(super::at(learner.endpoint()));
    let task = tokio::spawn(task.run());
    let failures = || ks.status().counters.failures;
    poll_until("it is refused", failures, |failures| *failures > 2).await;
    let error = ks.status().last_error.unwrap().to_string();
    assert!(error.contains("learner"), "{error}");
    assert_eq!(ks.status().state, State::Loading);

    let members = client.member_list().await.unwrap();
    let id = members.members().iter().find(|member| member.is_learner()).unwrap().id();
    // It is refused until the learner has caught up.
    let promoted = async {
        while client.member_promote(id).await.is_err() {
            tokio::time::sleep(20 * MS).await;
        }
    };
    within("the promotion", promoted).await;
    within("the load", ks.loaded()).await.unwrap();
    put_in_the_end(&mut client, "/k/after", "x").await;
    equals_etcd(&ks, &mut client, "/k/").await;
    ks.shutdown().await;
    task.await.unwrap();
}

/// B34: the member in use is thrown out of the cluster. It ends, and the mirror moves on.
#[tokio::test]
async fn b34_a_removed_member_is_left() {
    // The strict check wants all members to have been well for five seconds.
    let builder = EtcdServer::builder().arg("--strict-reconfig-check=false");
    let cluster = builder.cluster(3).await.unwrap();
    let all = cluster.endpoints();
    let mut client = cluster.client().await;
    ten_keys(&mut client).await;
    let builder = mirror("/k/").check_interval(CHECK).request_timeout(REQUEST);
    let etcd = Etcd::new(all[..2].to_vec(), EtcdOptions::new());
    let ks = within("the start", builder.start(etcd)).await.unwrap();
    equals_etcd(&ks, &mut client, "/k/").await;

    let in_use = all.iter().position(|url| Some(url) == ks.status().endpoint.as_ref()).unwrap();
    let mut removed = cluster.members()[in_use].client().await;
    let id = removed.status().await.unwrap().header().unwrap().member_id();
    let mut client = cluster.members()[2].client().await;
    let begun = Instant::now();
    client.member_remove(id).await.unwrap();
    let rev = put_in_the_end(&mut client, "/k/after", "x").await;
    within("the other member", ks.wait_for_revision(rev)).await.unwrap();
    println!("followed on {:?} after the removal", begun.elapsed());
    let gone = || ks.status().endpoint;
    poll_until("it has left", gone, |url| *url == Some(all[1 - in_use].clone())).await;
    put(&mut client, "/k/0", "last").await;
    equals_etcd(&ks, &mut client, "/k/").await;
    assert!(revision(&mut client).await >= ks.read().confirmed());
    one_load_of_one_history(&ks);
}
