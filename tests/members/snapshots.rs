//! A member that fell so far behind that its leader sends it a snapshot.
//!
//! Owns what a mirror sees that reads through this member only, its connection never broken.

use std::time::Duration;

use etcd_client::{Client, CompactionOptions};
use etcd_keyspace::State;
use tokio::task::JoinSet;

use super::support::real::{Bytes, Steps, at, metric, mirror, put, reaches, revision};
use super::support::verify::equals_etcd;
use super::support::{Cluster, EtcdServer, within};
use super::{MS, leader, one_load_of_one_history};

/// A cluster whose leader forgets its log soon, and how many writes are too many for it.
async fn forgetful() -> (Cluster, usize) {
    const OFTEN: &str = "--snapshot-count=50";
    let probe = EtcdServer::start().await.unwrap();
    let (few, many) = (400, 6_000);
    let (flag, writes) = match probe.version() {
        // Without an option for it, 5,000 entries are kept.
        old if old.starts_with("3.4.") => (None, many),
        old if old.starts_with("3.5.") => (Some("--experimental-snapshot-catchup-entries=10"), few),
        _ => (Some("--snapshot-catchup-entries=10"), few),
    };
    let builder = EtcdServer::builder().arg(OFTEN).args(flag);
    (builder.cluster(3).await.unwrap(), writes)
}

/// Snapshots that a member has received, by its own count.
async fn snapshots_received(member: &EtcdServer) -> u64 {
    metric(member, "etcd_network_snapshot_receive_success").await
}

/// Puts `/busy/..` that many times, eight at once; every seventh write deletes.
async fn write(clients: &[Client], writes: usize) {
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let mut client = clients[task % clients.len()].clone();
        tasks.spawn(async move {
            for i in 0..writes / 8 {
                let key = format!("/busy/{}", (i * 13 + task) % 100);
                if i % 7 == 6 {
                    client.delete(key, None).await.unwrap();
                } else {
                    client.put(key, i.to_string(), None).await.unwrap();
                }
            }
        });
    }
    within("all are written", async {
        while tasks.join_next().await.is_some_and(|done| done.is_ok()) {}
    })
    .await;
}

/// B7, F38, F39: `patient` mirrors keep their watch all the time and so meet what the member sends
/// when its store jumps; the other one reconnects meanwhile.
async fn a_snapshot_from_the_leader_fools_nobody(compact: bool) {
    let (cluster, writes) = forgetful().await;
    let leads = within("a leader", leader(&cluster)).await;
    let follower = &cluster.members()[(leads + 1) % 3];
    let mut clients = Vec::new();
    for other in cluster.members().iter().filter(|other| other.endpoint() != follower.endpoint()) {
        clients.push(other.client().await);
    }
    let mut client = clients[0].clone();
    for i in 0..5 {
        put(&mut client, format!("/busy/{i}"), "first").await;
        put(&mut client, format!("/quiet/{i}"), "first").await;
    }
    let at_follower = || at(follower.endpoint());
    let long = Duration::from_secs(60);
    let patient = |prefix| mirror(prefix).check_interval(long).request_timeout(long);
    let busy = patient("/busy/").start(at_follower()).await.unwrap();
    let quiet = patient("/quiet/").start(at_follower()).await.unwrap();
    let hasty = mirror("/busy/").check_interval(200 * MS).request_timeout(300 * MS);
    let hasty = hasty.start(at_follower()).await.unwrap();
    let all: [(&Bytes, &str); 3] = [(&busy, "/busy/"), (&quiet, "/quiet/"), (&hasty, "/busy/")];
    for (ks, prefix) in all {
        equals_etcd(ks, &mut client, prefix).await;
    }
    let steps = all.map(|(ks, _)| Steps::of(ks));
    assert_eq!(snapshots_received(follower).await, 0);

    follower.pause();
    reaches(&hasty, State::Reconnecting).await;
    write(&clients, writes).await;
    if compact {
        let now = revision(&mut client).await;
        client.compact(now - 1, Some(CompactionOptions::new())).await.unwrap();
    }
    follower.resume();
    for (ks, prefix) in all {
        equals_etcd(ks, &mut client, prefix).await;
    }
    assert!(snapshots_received(follower).await >= 1, "the test is about a snapshot");
    // It follows on.
    write(&clients, 80).await;
    put(&mut client, "/quiet/last", "x").await;
    for (ks, prefix) in all {
        equals_etcd(ks, &mut client, prefix).await;
        let status = ks.status();
        println!("{prefix} compact {compact}: {:?}", status.counters);
        assert_eq!((status.epoch, status.counters.history_changes), (1, 0), "{status:?}");
        assert_eq!(status.counters.discontinuities, 0, "{status:?}");
        assert_eq!(status.counters.loads, 1 + status.counters.compactions, "{status:?}");
        if !compact {
            one_load_of_one_history(ks);
        }
    }
    for ks in [&busy, &quiet] {
        // Two reloads in a row would be a loop, so the second one begins with a new connection.
        let counters = ks.status().counters;
        assert_eq!(counters.failures, 0, "{counters:?}");
        assert!(compact || counters.connects == 1, "it stayed: {counters:?}");
    }
    for steps in steps {
        let steps = steps.take();
        assert!(steps.is_sorted_by(|a, b| a.to < b.to), "it never goes back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b7_f38_a_member_that_got_a_snapshot_is_followed_without_a_step_back() {
    a_snapshot_from_the_leader_fools_nobody(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b7_f39_a_member_that_got_a_compacted_snapshot_is_followed_without_a_step_back() {
    a_snapshot_from_the_leader_fools_nobody(true).await;
}
