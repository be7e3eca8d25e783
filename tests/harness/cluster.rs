//! A cluster of three.

use super::*;

#[tokio::test]
async fn a_cluster_of_three_survives_a_kill_and_a_pause_of_its_leader() {
    let begun = Instant::now();
    let cluster = Cluster::start(3).await.unwrap();
    println!("a cluster of three answered after {:?}", begun.elapsed());
    assert_eq!(cluster.members().len(), 3);
    cluster.client().await.put("a", "1", None).await.unwrap();
    let first = cluster.leader().await.expect("a ready cluster has a leader");
    cluster.members()[first].kill();
    let second = within("another leads", leader_but(&cluster, first)).await;
    let mut client = cluster.members()[second].client().await;
    within("a write to two of three", put(&mut client, "b")).await;
    cluster.members()[first].restart().await.unwrap();
    let mut back = cluster.members()[first].client().await;
    assert_eq!(value(&mut back, "b").await.as_deref(), Some("1"));
    cluster.members()[second].pause();
    let third = within("another leads", leader_but(&cluster, second)).await;
    let mut client = cluster.members()[third].client().await;
    within("a write to two of three", put(&mut client, "c")).await;
    cluster.members()[second].resume();
}

async fn leader_but(cluster: &Cluster, old: usize) -> usize {
    loop {
        match cluster.leader().await {
            Some(leader) if leader != old => return leader,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn put(client: &mut Client, key: &str) {
    while client.put(key, "1", None).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
