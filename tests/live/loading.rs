//! Loads, now and at a revision, beside writes and compactions.

use super::*;

/// GZ-4, GZ-6: what was written after the revision comes by the watch, and nothing is lost.
#[tokio::test]
async fn gz4_gz6_gzc1_load_at_a_past_revision_shows_later_writes_through_the_watch_only() {
    let server = shared().await;
    let mut client = server.client().await;
    let prefix = unique_prefix("gz4");
    for i in 0..250 {
        put(&mut client, format!("{prefix}{i:03}"), "old").await;
    }
    let rev = put(&mut client, format!("{prefix}own"), "member").await;
    put(&mut client, format!("{prefix}raced"), "new").await;
    put(&mut client, format!("{prefix}000"), "new").await;
    let last = delete(&mut client, format!("{prefix}001")).await;

    // Pages of a few keys: etcd streams only what is read at its own time.
    let (ks, mirror) = mirror(&prefix).load_at(rev).page_bytes(300).build(at(server.endpoint()));
    let steps = Steps::of(&ks);
    tokio::spawn(mirror.run());
    // C1: the load's revision counts, not that of the answer's header.
    assert_eq!(within("the load", ks.loaded()).await.unwrap(), rev);
    within("the watch", ks.wait_for_revision(last)).await.unwrap();
    let steps = steps.take();
    let keys = (0..250).map(|i| format!("+{i:03}")).chain(["+own".into()]);
    assert_eq!(steps[0].changes, keys.collect::<Vec<_>>());
    assert_eq!((steps[0].origin, steps[0].to), (DeltaOrigin::Load, rev));
    let later: Vec<_> = steps[1..].iter().flat_map(|step| step.changes.clone()).collect();
    assert!(steps[1..].iter().all(|step| step.origin == DeltaOrigin::Events));
    assert_eq!(later.len(), 3, "{later:?}");
    assert!(["+raced", "~000", "-001"].iter().all(|change| later.contains(&change.to_string())));
    equals_etcd(&ks, &mut client, &prefix).await;
}

#[tokio::test]
async fn gz5_load_now_shows_all_that_was_written_before_the_start() {
    let server = shared().await;
    let mut client = server.client().await;
    let prefix = unique_prefix("gz5");
    let empty = start(server.endpoint(), &prefix).await;
    assert!(empty.read().is_empty());
    for round in 0..10 {
        let rev = put(&mut client, format!("{prefix}{round}"), "x").await;
        let ks = start(server.endpoint(), &prefix).await;
        let view = ks.read();
        assert_eq!(view.len(), round + 1);
        assert!(view.revision() >= rev && view.confirmed() >= view.revision());
    }
    equals_etcd(&empty, &mut client, &prefix).await;
    let loaded = start(server.endpoint(), &prefix).await;
    equals_etcd(&loaded, &mut client, &prefix).await;
}

#[tokio::test]
async fn t25_load_at_a_future_revision_waits_and_at_a_compacted_one_fails() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    let now = put(&mut client, "/k/a", "1").await;

    let future = now + 3;
    let mut starting = Box::pin(mirror("/k/").load_at(future).start(at(server.endpoint())));
    let quiet = Duration::from_millis(300);
    still_pending("the store is not there yet", quiet, &mut starting).await;
    put(&mut client, "/k/a", "2").await;
    put(&mut client, "/other", "").await;
    assert_eq!(put(&mut client, "/k/b", "3").await, future);
    let ks = within("the store is there", starting).await.unwrap();
    assert!(ks.read().contains("/k/b"));
    equals_etcd(&ks, &mut client, "/k/").await;

    client.compact(future, None).await.unwrap();
    let started = mirror("/k/").load_at(now).start(at(server.endpoint()));
    let reason = within("a compacted revision ends the start", started).await.unwrap_err();
    assert!(
        matches!(reason, StopReason::Compacted { revision, .. } if revision == now),
        "{reason:?}"
    );
    // The compacted revision itself can still be read.
    let started = mirror("/k/").load_at(future).start(at(server.endpoint()));
    let ks = within("the edge of the history", started).await.unwrap();
    equals_etcd(&ks, &mut client, "/k/").await;
}

/// Writes at full speed: puts, deletes and transactions over keys that other writers write too.
async fn write(mut client: Client, prefix: String, seed: u64, rounds: u64) {
    for i in 0..rounds {
        let n = (i * 7919 + seed * 104_729) % 97;
        let key = format!("{prefix}{n:02}");
        match i % 5 {
            0 => drop(delete(&mut client, key).await),
            1 => {
                let other = format!("{prefix}{:02}x", (n + 1) % 97);
                let ops = [TxnOp::put(key, format!("{i}"), None), TxnOp::delete(other, None)];
                commit(&mut client, ops).await;
            }
            _ => drop(put(&mut client, key, format!("{seed} {i}")).await),
        }
    }
}

/// B10: each load is of one revision although the store moves on under it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gz12_b10_load_during_writes_at_full_speed_loses_nothing() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    let prefix = "/busy/";
    for i in 0..97 {
        put(&mut client, format!("{prefix}{i:02}"), "first").await;
    }
    let mut starts: Vec<Revision> = vec![0, revision(&mut client).await];
    let mut writers = JoinSet::new();
    for seed in 0..4 {
        writers.spawn(write(server.client().await, prefix.into(), seed, 600));
    }
    let mut all = Vec::new();
    for (i, delay) in [0, 30, 200].into_iter().cycle().take(9).enumerate() {
        starts.push(revision(&mut client).await);
        // Now, at the beginning of all, and at revisions seen since.
        let from = [0, starts[1], starts[starts.len() - 1]][i / 3];
        let builder = mirror(prefix).apply_delay(Duration::from_millis(delay));
        let started = builder.load_at(from).page_bytes(200).start(at(server.endpoint()));
        all.push(within("a start during writes", started).await.unwrap());
    }
    assert!(!writers.is_empty());
    let during = writers.try_join_next().is_none();
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    println!("all writers were writing until the last start: {during}");
    for ks in &all {
        equals_etcd(ks, &mut client, prefix).await;
        let status = ks.status();
        let counters = status.counters;
        assert_eq!((counters.loads, counters.failures), (1, 0), "{status:?}");
    }
}

/// B11, T-66: a storm of compactions breaks loads, and watches right after them. When it is over the
/// start succeeds, and until then it has not looped hot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b11_t66_a_start_outlives_a_storm_of_compactions() {
    let server = EtcdServer::builder().arg("--max-txn-ops=10000").start().await.unwrap();
    let mut client = server.client().await;
    fill(&mut client, "/storm/", 30_000, 40).await;
    let storm = tokio::spawn({
        let mut client = server.client().await;
        async move {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(1) {
                let rev = put(&mut client, "/storm/0000000", "moved").await;
                client.compact(rev, None).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let ks = start(server.endpoint(), "/storm/").await;
    storm.await.unwrap();
    equals_etcd(&ks, &mut client, "/storm/").await;
    let counters = ks.status().counters;
    println!("a start in a storm of compactions: {counters:?}");
    assert!(counters.loads + counters.load_restarts < 40, "{counters:?}");
}
