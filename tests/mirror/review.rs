//! Sequences in which the mirror does not do what its docs say, for a decision about each.

use super::*;
use etcd_keyspace::Token;

/// A load that fails is not repeated without a pause because somebody waits.
#[tokio::test(start_paused = true)]
#[ignore = "review: 80 full reads in two minutes"]
async fn r1_failing_loads_keep_their_backoff_while_somebody_waits() {
    let etcd = etcd();
    for n in 0..20 {
        etcd.put(format!("/k/{n}"), "old");
    }
    let ks =
        builder().backoff(100 * MS, Duration::from_secs(60)).start(etcd.clone()).await.unwrap();
    etcd.faults().down();
    reaches(&ks, State::Reconnecting).await;
    etcd.put("/k/0", "new");
    etcd.compact(etcd.revision());
    etcd.faults().truncate_range_streams(u64::MAX);
    etcd.faults().delay_call(Call::RangeStream, 1_500 * MS);
    etcd.faults().up();
    reaches(&ks, State::Reloading).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    let before = etcd.counts().range_streams;
    tokio::time::sleep(Duration::from_secs(120)).await;
    println!("{} full reads in two minutes without a wait", etcd.counts().range_streams - before);
    let before = etcd.counts().range_streams;
    let _ = timeout(Duration::from_secs(120), ks.sync()).await;
    let loads = etcd.counts().range_streams - before;
    assert!(loads < 20, "{loads} full reads in two minutes");
}

/// A write was acknowledged and lost by the restore; nobody has it, yet its wait is met.
#[tokio::test(start_paused = true)]
#[ignore = "review: met: content through the cursor is equal, the write came after it"]
async fn r1_a_wait_for_a_header_of_a_lost_write_is_not_met() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    etcd.faults().elect_leader();
    etcd.faults().elect_leader();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let backup = ks.sync().await.unwrap();
    assert_eq!(backup, etcd.revision());
    etcd.faults().down();
    reaches(&ks, State::Reconnecting).await;
    // Acknowledged in term 4.
    etcd.put("/k/mine", "x");
    let header = etcd.header();
    let (waiting, token) = (ks.clone(), Token::from(header));
    let wait = tokio::spawn(async move { waiting.wait_for_revision(token).await });
    tokio::time::sleep(MS).await;
    etcd.restore_at_term(backup, 2);
    etcd.put("/k/other", "y");
    etcd.put("/k/other", "z");
    etcd.faults().up();
    let waited = wait.await.unwrap();
    println!("{header:?} is met by {waited:?}, epoch {}", ks.status().epoch);
    assert!(waited.is_err() || ks.read().get("/k/mine").is_some(), "{waited:?}");
}

/// A wrong backup is held, and the store is put back as it was.
#[tokio::test(start_paused = true)]
#[ignore = "review: epoch 2: a pending reload under a new epoch is never proven unnecessary"]
async fn r1_a_store_that_comes_back_while_another_is_held_keeps_its_epoch() {
    let etcd = FakeEtcd::new();
    etcd.set_progress_interval(None);
    etcd.faults().bug(Bug::StaleReads, true);
    etcd.put("/k/a", "1");
    etcd.faults().hold_back();
    let first = etcd.revision();
    etcd.faults().catch_up();
    for n in 0..20 {
        etcd.put(format!("/k/{n}"), "1");
    }
    let ks = builder().hold_reloads(0.1, OnHold::Wait).start(etcd.clone()).await.unwrap();
    // The same writes again after a restore are the same store, for all that a client can see.
    etcd.faults().down();
    reaches(&ks, State::Reconnecting).await;
    etcd.restore(first);
    etcd.faults().up();
    reaches(&ks, State::Held).await;
    etcd.faults().down();
    reaches(&ks, State::Reloading).await;
    for n in 0..20 {
        etcd.put(format!("/k/{n}"), "1");
    }
    etcd.faults().up();
    reaches(&ks, State::Live).await;
    assert_same(&ks, &etcd).await;
    assert_eq!(ks.status().epoch, 1, "nothing differs from what was served");
}

/// Behind a proxy no stream breaks, and the store has values that were lost.
#[tokio::test(start_paused = true)]
#[ignore = "review: not found: no stream breaks behind a proxy, and the count agrees"]
async fn r1_a_restore_behind_a_proxy_is_found() {
    let etcd = etcd();
    for n in 0..5 {
        etcd.put(format!("/k/{n}"), "old");
    }
    let backup = etcd.revision();
    etcd.faults().proxy();
    let ks = start(&etcd).await;
    for n in 0..5 {
        etcd.put(format!("/k/{n}"), "lost");
    }
    let cursor = etcd.revision();
    ks.wait_for_revision(cursor).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    etcd.restore_at_term(backup, 2);
    while etcd.revision() <= cursor {
        etcd.put("/beside", "x");
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let synced = timeout(Duration::from_secs(60), ks.sync()).await;
    println!(
        "{:?} synced {synced:?} fresh {}",
        ks.status().state,
        ks.status().is_fresh(Duration::from_secs(15))
    );
    assert_same(&ks, &etcd).await;
}

/// Mirrors that are waited for do not all dial in the same moment, again and again.
#[tokio::test(start_paused = true)]
#[ignore = "review: all 200 dial in the same moment after a break"]
async fn r1_a_herd_with_pending_waits_does_not_dial_in_step() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let mut waits = tokio::task::JoinSet::new();
    for seed in 0..200 {
        let ks = builder().seed(seed).start(etcd.clone()).await.unwrap();
        waits.spawn(async move { ks.wait_for_revision(1_000).await });
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    etcd.faults().down();
    let mut before = etcd.counts().connects;
    let mut most = Vec::new();
    for _ in 0..5 {
        let mut worst = 0;
        for _ in 0..100 {
            tokio::time::sleep(10 * MS).await;
            let now = etcd.counts().connects;
            worst = worst.max(now - before);
            before = now;
        }
        most.push(worst);
    }
    println!("most dials of 200 mirrors in 10 ms, second by second: {most:?}");
    assert!(most.iter().all(|most| *most < 50), "{most:?}");
}

/// A read in which the same write has another lease is another history for a proof, and so for a load.
#[tokio::test]
#[ignore = "review: a load and a proof judge leases differently"]
async fn r1_a_load_with_another_lease_of_the_same_write_contradicts() {
    let (ks, mut writer) = KeySpace::<Vec<u8>>::builder("/k/").unwrap().bytes().writer();
    let kv = RawKeyValue {
        key: b"/k/a".into(),
        create_revision: 3,
        mod_revision: 3,
        version: 1,
        ..RawKeyValue::default()
    };
    let header = |revision| Header { cluster_id: 1, revision, ..Header::default() };
    writer.load(header(5), vec![kv.clone()]).unwrap();
    writer.load(header(7), vec![RawKeyValue { lease: 9, ..kv }]).unwrap();
    assert_eq!(ks.read().epoch(), 2);
}
