//! What operators do to a cluster that is well: defragment, move the leader, fill the disk.
//!
//! Owns the proof that a live mirror goes on through it without reading everything again.

use std::time::{Duration, Instant};

use etcd_client::{AlarmAction, AlarmOptions, AlarmType, CompactionOptions};
use etcd_keyspace::{Etcd, EtcdOptions, State};

use super::support::real::{at, delete, mirror, poll_until, put, reaches, revision, start};
use super::support::verify::equals_etcd;
use super::support::{EtcdServer, within};
use super::{MS, leader, one_load_of_one_history, put_in_the_end, ten_keys, three};

/// Defragmentation locks the store while it runs; the mirror waits or comes back.
#[tokio::test]
async fn defragmentation_while_live_changes_nothing() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    let value = "v".repeat(10_000);
    let builder = mirror("/k/").check_interval(100 * MS).request_timeout(5000 * MS);
    let ks = builder.start(at(server.endpoint())).await.unwrap();
    for i in 0..500 {
        put(&mut client, format!("/k/{}", i % 50), &value).await;
    }
    let now = revision(&mut client).await;
    within("it has seen what is compacted", ks.wait_for_revision(now)).await.unwrap();
    client.compact(now, Some(CompactionOptions::new().with_physical())).await.unwrap();
    let before = client.status().await.unwrap().db_size();
    let writer = tokio::spawn({
        let mut client = server.client().await;
        async move {
            for i in 0..200 {
                put(&mut client, format!("/k/{}", i % 60), i.to_string()).await;
            }
        }
    });
    for _ in 0..3 {
        client.defragment().await.unwrap();
    }
    writer.await.unwrap();
    assert!(client.status().await.unwrap().db_size() < before, "it did something");
    equals_etcd(&ks, &mut client, "/k/").await;
    reaches(&ks, State::Live).await;
    one_load_of_one_history(&ks);
}

/// Each member leads once; writes are read back all the time.
#[tokio::test]
async fn leadership_that_is_moved_on_purpose_changes_nothing() {
    let cluster = three().await;
    let mut client = cluster.client().await;
    ten_keys(&mut client).await;
    let builder = mirror("/k/").check_interval(200 * MS).request_timeout(1000 * MS);
    let etcd = Etcd::new(cluster.endpoints(), EtcdOptions::new());
    let ks = builder.start(etcd).await.unwrap();
    let mut ids = Vec::new();
    for member in cluster.members() {
        let status = member.client().await.status().await.unwrap();
        ids.push(status.header().unwrap().member_id());
    }
    let mut longest = Duration::ZERO;
    for round in 0..4 {
        let leads = within("a leader", leader(&cluster)).await;
        let mut at_leader = cluster.members()[leads].client().await;
        at_leader.move_leader(ids[(leads + 1) % 3]).await.unwrap();
        for i in 0..5 {
            let rev = put_in_the_end(&mut client, format!("/k/{i}"), format!("{round}")).await;
            let written = Instant::now();
            within("its own write", ks.wait_for_revision(rev)).await.unwrap();
            longest = longest.max(written.elapsed());
        }
        assert_eq!(within("a leader", leader(&cluster)).await, (leads + 1) % 3);
    }
    println!("the longest wait for an own write took {longest:?}");
    equals_etcd(&ks, &mut client, "/k/").await;
    one_load_of_one_history(&ks);
}

/// A full store refuses writes, not reads: mirrors start and follow what can still happen.
#[tokio::test]
async fn a_store_without_space_is_read_and_watched_on() {
    let server = EtcdServer::builder().arg("--quota-backend-bytes=4194304").start().await.unwrap();
    let mut client = server.client().await;
    let ks = start(server.endpoint(), "/k/").await;
    let value = "v".repeat(500_000);
    let mut written = 0;
    let error = loop {
        match client.put(format!("/k/{written}"), value.as_str(), None).await {
            Ok(_) => written += 1,
            Err(error) => break error.to_string(),
        }
        assert!(written < 100);
    };
    assert!(error.contains("database space exceeded"), "{error}");
    let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap();
    assert_eq!(alarms.alarms().len(), 1);

    equals_etcd(&ks, &mut client, "/k/").await;
    // The write that filled the store may have been done although it was refused.
    let keys = ks.read().len();
    assert!(keys == written || keys == written + 1, "{keys} keys of {written} writes");
    let late = start(server.endpoint(), "/k/").await;
    for gone in 0..3 {
        let rev = delete(&mut client, format!("/k/{gone}")).await;
        for ks in [&ks, &late] {
            within("a deletion", ks.wait_for_revision(rev)).await.unwrap();
            equals_etcd(ks, &mut client, "/k/").await;
        }
    }
    within("a sync", ks.sync()).await.unwrap();

    // The operator makes room. The size is judged late, so there may be more than fits.
    for gone in 3..written - 2 {
        delete(&mut client, format!("/k/{gone}")).await;
    }
    for ks in [&ks, &late] {
        equals_etcd(ks, &mut client, "/k/").await;
    }
    let now = revision(&mut client).await;
    client.compact(now, Some(CompactionOptions::new().with_physical())).await.unwrap();
    client.defragment().await.unwrap();
    let mut whose = AlarmOptions::new();
    whose.with_member(alarms.alarms()[0].member_id());
    client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(whose)).await.unwrap();
    put_in_the_end(&mut client, "/k/after", "x").await;
    for ks in [&ks, &late] {
        equals_etcd(ks, &mut client, "/k/").await;
        one_load_of_one_history(ks);
        poll_until("it is well", || ks.status(), |status| status.last_error.is_none()).await;
    }
}
