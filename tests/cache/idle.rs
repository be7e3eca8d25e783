//! Idle key spaces: what counts as use, when they stop, and that nobody notices.

use super::*;

const TTL: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn idle_ones_stop_after_their_time_and_start_again_unnoticed() {
    let etcd = etcd();
    etcd.put("/a/1", "x");
    let spaces = builder(&etcd).idle_ttl(TTL).build();
    for round in 1..=3 {
        let ks = spaces.get("/a/").await.unwrap();
        assert_eq!(ks.read().len(), round);
        // However long it is used, the time begins with the last handle.
        sleep(3 * TTL).await;
        let clone = ks.clone();
        drop(ks);
        sleep(3 * TTL).await;
        assert_eq!(listed(&spaces), [0, 1, 0, 0]);
        drop(clone);
        sleep(TTL - MS).await;
        assert_eq!((listed(&spaces), etcd.counts().watchers), ([0, 0, 1, 0], 1));
        sleep(2 * MS).await;
        assert_eq!((listed(&spaces), etcd.counts().watchers), ([0; 4], 0));
        etcd.put(format!("/a/{}", round + 1), "x");
    }
    assert_eq!((spaces.stats().starts, spaces.stats().idle_stops), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_get_within_the_time_finds_it_and_begins_the_time_anew() {
    let etcd = etcd();
    let spaces = builder(&etcd).idle_ttl(TTL).build();
    for _ in 0..10 {
        drop(spaces.get("/a/").await.unwrap());
        sleep(TTL - MS).await;
    }
    assert_eq!((spaces.stats().starts, etcd.counts().watches), (1, 1));
    sleep(2 * MS).await;
    assert_eq!(spaces.stats().held, 0);
}

#[tokio::test(start_paused = true)]
async fn followers_are_use_and_snapshots_and_weak_handles_are_not() {
    let etcd = etcd();
    etcd.put("/a/1", "x");
    let spaces = builder(&etcd).idle_ttl(TTL).build();
    let ks = spaces.get("/a/").await.unwrap();
    let (mut changes, weak) = (ks.changes(..), ks.downgrade());
    drop(ks);
    sleep(3 * TTL).await;
    assert_eq!(changes.next().await.unwrap().len(), 1);
    let revision = etcd.put("/a/2", "y");
    assert_eq!(changes.next().await.unwrap().to_revision(), revision);
    // A weak handle finds it while it is used.
    let snapshot = weak.upgrade().unwrap().snapshot();
    drop(changes);
    assert!(weak.upgrade().is_none());
    sleep(TTL + MS).await;
    assert_eq!((spaces.stats().held, etcd.counts().watchers, snapshot.len()), (0, 0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_time_of_zero_stops_with_the_last_handle() {
    let etcd = etcd();
    let spaces = builder(&etcd).idle_ttl(Duration::ZERO).build();
    for round in 1..=3 {
        let ks = spaces.get("/a/").await.unwrap();
        assert_eq!(spaces.get("/a/").await.unwrap().status().state, State::Live);
        sleep(TTL).await;
        assert_eq!((spaces.stats().starts, etcd.counts().watchers), (round, 1));
        drop(ks);
        watchers(&etcd, 0).await;
        holds(&spaces, 0).await;
    }
}

/// Handles that come and go on many threads, with the shortest time to live: whoever has one has a
/// live one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_has_a_handle_has_a_live_one() {
    let etcd = etcd();
    etcd.put("/a/1", "x");
    let spaces = builder(&etcd).idle_ttl(Duration::ZERO).build();
    let mut users = tokio::task::JoinSet::new();
    for user in 0..3_u64 {
        let (spaces, etcd) = (spaces.clone(), etcd.clone());
        users.spawn(async move {
            for round in 0..300 {
                let ks = spaces.get("/a/").await.unwrap();
                if (user + round) % 5 == 0 {
                    let revision = etcd.put("/a/1", "y");
                    ks.wait_for_revision(revision).await.expect("it is in use");
                }
                assert!(ks.read().get("/a/1").is_some());
                drop(ks);
                sleep(Duration::from_micros(etcd.random(1000))).await;
            }
        });
    }
    while let Some(user) = users.join_next().await {
        user.unwrap();
    }
    let stats = spaces.stats();
    assert!(stats.starts > 1, "it was never idle: {stats:?}");
    spaces.shutdown().await;
    watchers(&etcd, 0).await;
}
