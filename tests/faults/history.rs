//! What etcd forgets, and histories that are others.

use super::*;

/// T-9, C6, B22: what happened meanwhile can only be had by reading everything; observers are shown
/// exactly the difference, readers never an empty view.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t9_c6_compaction_while_away_reloads_with_the_exact_difference() {
    let mut fixture = Fixture::new().await;
    let client = &mut fixture.client;
    let steps = Steps::of(&fixture.ks);
    steps.take();
    let before = fixture.ks.snapshot();
    let stop = Arc::new(AtomicBool::new(false));
    let looks = Arc::new(AtomicUsize::new(0));
    let reader = std::thread::spawn({
        let (ks, stop, looks) = (fixture.ks.clone(), Arc::clone(&stop), Arc::clone(&looks));
        move || {
            let mut seen = HashSet::new();
            while !stop.load(Ordering::Relaxed) {
                let view = ks.read();
                assert!(view.contains("/k/5"), "it is there before and after");
                seen.insert((view.revision(), view.len()));
                drop(view);
                looks.fetch_add(1, Ordering::Relaxed);
                std::thread::yield_now();
            }
            seen
        }
    });

    fixture.proxy.cut().await;
    delete(client, "/k/0").await;
    put(client, "/k/1", "second").await;
    delete(client, "/k/2").await;
    put(client, "/k/2", "again").await;
    put(client, "/k/new", "new").await;
    put(client, "/k/passing", "by").await;
    delete(client, "/k/passing").await;
    let rev = put(client, "/beside", "").await;
    client.compact(rev, None).await.unwrap();
    let wait = waiter(&fixture.ks, rev);
    fixture.proxy.pass().await;
    assert!(within("the reload", wait).await.unwrap().unwrap() >= rev);
    fixture.equal().await;

    stop.store(true, Ordering::Relaxed);
    let mut seen: Vec<_> = reader.join().unwrap().into_iter().collect();
    seen.sort_unstable();
    let after = fixture.ks.snapshot();
    let states = [(before.revision(), 10), (after.revision(), 10)];
    assert!(seen.iter().all(|state| states.contains(state)), "{seen:?}, not {states:?}");
    let steps = steps.take();
    assert_eq!(steps.len(), 1, "{steps:?}");
    assert_eq!(steps[0].origin, DeltaOrigin::Load);
    assert_eq!(steps[0].changes, ["-0", "~1", "!2", "+new"]);
    assert_eq!((steps[0].epoch, after.revision()), (1, steps[0].to));
    let (old, new) = (before.get("/k/5").unwrap(), after.get("/k/5").unwrap());
    assert!(Arc::ptr_eq(old, new), "an unchanged entry keeps its allocation");
    let counters = fixture.ks.status().counters;
    assert_eq!((counters.compactions, counters.loads), (1, 2), "{counters:?}");
    println!("{looks:?} looks during the reload");
}

/// F4: a watch that starts at the compacted revision of a deletion never tells of it.
#[tokio::test]
async fn b8_f4_a_deletion_at_the_compacted_revision_is_not_lost() {
    let mut fixture = Fixture::new().await;
    // Once as the change after the cursor, once with others before it.
    for (round, others) in [0, 5].into_iter().enumerate() {
        let client = &mut fixture.client;
        let key = format!("/k/victim{round}");
        let rev = put(client, &key, "x").await;
        within("it is there", fixture.ks.wait_for_revision(rev)).await.unwrap();
        fixture.proxy.cut().await;
        for _ in 0..others {
            put(client, "/k/other", "x").await;
        }
        let rev = delete(client, &key).await;
        client.compact(rev, None).await.unwrap();
        fixture.proxy.pass().await;
        within("it is gone", fixture.ks.wait_for_revision(rev)).await.unwrap();
        assert!(!fixture.ks.read().contains(&key));
        fixture.equal().await;
    }
}

/// How a backup is put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Return {
    /// The mirror meets a store that has not come as far as it.
    Behind,
    /// The mirror meets a store that has passed it with other changes.
    Ahead,
    /// As `Ahead`, and the newest change the mirror knows is older than the backup: what it had
    /// learned since were revisions beside the prefix.
    AheadOfProgress,
}

pub(super) fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// T-18, B16: a data directory put back keeps all its ids.
async fn restore(how: Return) {
    let server = EtcdServer::start().await.unwrap();
    let proxy = Proxy::start(&server.endpoint()).await.unwrap();
    let mut client = server.client().await;
    for i in 0..10 {
        put(&mut client, format!("/k/{i}"), "backed up").await;
    }
    server.terminate().await;
    let aside = tempfile::tempdir().unwrap();
    copy(server.data_dir(), &aside.path().join("data"));
    server.restart().await.unwrap();

    let mut client = server.client().await;
    let ks = start(proxy.endpoint(), "/k/").await;
    let steps = Steps::of(&ks);
    steps.take();
    let beside = how == Return::AheadOfProgress;
    let key = |i: usize| format!("/{}/{i}", if beside { "beside" } else { "k" });
    for i in 0..20 {
        put(&mut client, key(i), "lost").await;
    }
    equals_etcd(&ks, &mut client, "/k/").await;
    let cursor = ks.read().confirmed();
    let never = waiter(&ks, cursor + 1000);
    steps.take();

    if how != Return::Behind {
        proxy.cut().await;
    }
    server.kill();
    std::fs::remove_dir_all(server.data_dir()).unwrap();
    copy(&aside.path().join("data"), server.data_dir());
    server.restart().await.unwrap();
    let mut client = server.client().await;
    assert!(revision(&mut client).await < cursor);
    if how != Return::Behind {
        for i in 0..30 {
            put(&mut client, format!("/k/{}", i % 5), "other").await;
        }
        assert!(revision(&mut client).await > cursor);
        proxy.pass().await;
    }
    let failed = within("waits of the old epoch fail", never).await.unwrap();
    assert!(matches!(failed, Err(WaitError::HistoryChanged { was: 1, now: 2 })), "{failed:?}");
    equals_etcd(&ks, &mut client, "/k/").await;
    reaches(&ks, State::Live).await;
    let status = ks.status();
    assert_eq!(status.epoch, 2, "{status:?}");
    assert_eq!((status.counters.history_changes, status.counters.loads), (1, 2), "{status:?}");
    let steps = steps.take();
    assert_eq!((steps[0].epoch, steps[0].origin), (2, DeltaOrigin::Load), "{steps:?}");

    // And it follows in the new history.
    put(&mut client, "/k/a", "new").await;
    equals_etcd(&ks, &mut client, "/k/").await;
}

#[tokio::test]
async fn t18_b16_t53_a_restored_backup_behind_the_mirror_begins_a_new_epoch() {
    restore(Return::Behind).await;
}

#[tokio::test]
async fn t18_b16_a_restored_backup_that_has_passed_the_mirror_begins_a_new_epoch() {
    restore(Return::Ahead).await;
}

#[tokio::test]
async fn t18_b16_a_restored_backup_that_passed_a_mirror_which_knew_progress_only() {
    restore(Return::AheadOfProgress).await;
}

/// With the policy to stop the restored store ends the mirror, and says why.
#[tokio::test]
async fn t18_another_cluster_or_history_ends_the_mirror_or_begins_an_epoch_as_asked() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    for i in 0..3 {
        put(&mut client, format!("/k/{i}"), "x").await;
    }
    let stops = start(server.endpoint(), "/k/").await;
    let builder = mirror("/k/").on_other_cluster(OnHistoryChange::Reload);
    let reloads = builder.start(at(server.endpoint())).await.unwrap();
    equals_etcd(&reloads, &mut client, "/k/").await;
    let first = stops.read().cluster_id().unwrap();
    let steps = Steps::of(&reloads);
    steps.take();
    let waits = [waiter(&stops, 1_000_000), waiter(&reloads, 1_000_000)];

    server.replace().await.unwrap();
    let mut client = server.client().await;
    put(&mut client, "/k/other", "x").await;
    let reason = within("it stops", stops.closed()).await;
    let StopReason::AnotherCluster { expected, got } = reason else { panic!("{reason:?}") };
    assert_eq!(expected, first);
    assert_eq!(stops.status().state, State::Stopped);
    assert_eq!(stops.read().len(), 3, "the last data stays readable");
    let [stopped, changed] = waits;
    let stopped = within("a wait", stopped).await.unwrap();
    assert!(matches!(stopped, Err(WaitError::Stopped(StopReason::AnotherCluster { .. }))));
    let changed = within("a wait", changed).await.unwrap();
    assert!(matches!(changed, Err(WaitError::HistoryChanged { was: 1, now: 2 })), "{changed:?}");

    equals_etcd(&reloads, &mut client, "/k/").await;
    assert_eq!(reloads.read().cluster_id(), Some(got));
    let steps = steps.take();
    assert_eq!((steps[0].epoch, steps[0].origin), (2, DeltaOrigin::Load));
    let mut changes: Vec<_> = steps.into_iter().flat_map(|step| step.changes).collect();
    changes.sort();
    assert_eq!(changes, ["+other", "-0", "-1", "-2"]);
    delete_prefix(&mut client, "/k/").await;
    equals_etcd(&reloads, &mut client, "/k/").await;
}
