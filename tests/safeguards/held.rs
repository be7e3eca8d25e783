//! Reloads that would remove too much.

use super::*;

#[tokio::test(start_paused = true)]
async fn t70_a_reload_that_removes_too_much_is_held_and_accepted() {
    let etcd = etcd();
    let ks = held_after_losing(60, &etcd, OnHold::Wait).await;
    reaches(&ks, State::Held).await;
    let status = ks.status();
    let held = status.held.unwrap();
    assert_eq!((held.removed, held.known, held.keys), (60, 100, 40));
    assert_eq!(held.revision, etcd.revision());
    assert_eq!((ks.read().len(), status.counters.holds), (100, 1));
    // Writes that come while it is held are neither shown nor lost, and nothing claims to be fresh.
    let later = etcd.put("/k/000", "again");
    assert!(timeout(60 * SECOND, ks.wait_for_revision(later)).await.is_err());
    let status = ks.status();
    assert_eq!((status.state, ks.read().len()), (State::Held, 100));
    assert!(!status.is_fresh(30 * SECOND) && status.current_as_of.unwrap() > 30 * SECOND);

    assert!(matches!(ks.accept_held(held.revision - 1), Err(NotHeld { .. })));
    ks.accept_held(held.revision).unwrap();
    assert!(ks.accept_held(held.revision).is_err(), "it was decided already");
    assert_same(&ks, &etcd).await;
    reaches(&ks, State::Live).await;
    let status = ks.status();
    assert_eq!((ks.read().len(), status.held, status.counters.loads), (41, None, 2));
}

#[tokio::test(start_paused = true)]
async fn t70_a_reload_that_removes_no_more_than_the_share_is_not_held() {
    let etcd = etcd();
    let ks = held_after_losing(50, &etcd, OnHold::Wait).await;
    assert_same(&ks, &etcd).await;
    assert_eq!((ks.read().len(), ks.status().counters.holds), (50, 0));
    // Deletions that come as events are never held.
    etcd.delete_range(KeyRange::prefix(PREFIX));
    assert_same(&ks, &etcd).await;
    assert!(ks.read().is_empty());
}

#[tokio::test(start_paused = true)]
async fn t70_a_refused_reload_is_thrown_away_and_read_again_slowly() {
    let etcd = etcd();
    let ks = held_after_losing(100, &etcd, OnHold::Wait).await;
    for round in 1..=3 {
        reaches(&ks, State::Held).await;
        let held = ks.status().held.unwrap();
        assert_eq!((held.removed, held.keys, ks.status().counters.holds), (100, 0, round));
        ks.refuse_held(held.revision).unwrap();
        reaches(&ks, State::Reloading).await;
        assert_eq!((ks.status().held, ks.read().len()), (None, 100));
    }
    let loads = etcd.counts().range_streams;
    assert!(loads <= 5, "{loads} loads");
    reaches(&ks, State::Held).await;
    ks.accept_held(ks.status().held.unwrap().revision).unwrap();
    assert_same(&ks, &etcd).await;
    assert!(ks.read().is_empty());
}

#[tokio::test(start_paused = true)]
async fn t70_keys_that_come_back_end_the_hold() {
    let etcd = etcd();
    let ks = held_after_losing(100, &etcd, OnHold::Wait).await;
    reaches(&ks, State::Held).await;
    fill(&etcd, 49);
    let loads = etcd.counts().range_streams;
    tokio::time::sleep(30 * SECOND).await;
    assert_eq!(ks.status().state, State::Held, "49 of 100 are not enough");
    assert_eq!(etcd.counts().range_streams, loads, "and are found by counting");
    fill(&etcd, 60);
    assert_same(&ks, &etcd).await;
    assert_eq!((ks.read().len(), ks.status().counters.holds), (60, 1));
}

#[tokio::test(start_paused = true)]
async fn t70_without_a_decision_it_is_accepted_in_time_or_ends_the_mirror() {
    let etcd = etcd();
    let ks = held_after_losing(80, &etcd, OnHold::AcceptAfter(60 * SECOND)).await;
    reaches(&ks, State::Held).await;
    tokio::time::sleep(59 * SECOND).await;
    assert_eq!(ks.read().len(), 100);
    tokio::time::sleep(2 * SECOND).await;
    assert_same(&ks, &etcd).await;
    assert_eq!(ks.read().len(), 20);

    let etcd = self::etcd();
    let ks = held_after_losing(80, &etcd, OnHold::Stop).await;
    let reason = ks.closed().await;
    assert!(matches!(reason, StopReason::RemovesTooMuch { removed: 80, known: 100, .. }));
    assert_eq!(ks.read().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn t70_another_cluster_and_an_older_backup_are_held_too() {
    let etcd = etcd();
    let empty = etcd.revision();
    fill(&etcd, 10);
    let ks = builder()
        .hold_reloads(0.0, OnHold::Wait)
        .on_other_cluster(OnHistoryChange::Reload)
        .start(etcd.clone())
        .await
        .unwrap();
    etcd.restore(empty);
    reaches(&ks, State::Held).await;
    assert_eq!((ks.read().len(), ks.read().epoch()), (10, 1));
    // The endpoint dies while the reload is held: it is found out, and held again afterwards.
    etcd.faults().down();
    reaches(&ks, State::Reloading).await;
    assert_eq!((ks.status().held, ks.read().len()), (None, 10));
    etcd.faults().up();
    reaches(&ks, State::Held).await;
    ks.accept_held(ks.status().held.unwrap().revision).unwrap();
    reaches(&ks, State::Live).await;
    assert_same(&ks, &etcd).await;
    assert_eq!((ks.read().len(), ks.read().epoch()), (0, 2));

    fill(&etcd, 10);
    assert_same(&ks, &etcd).await;
    etcd.change_cluster();
    etcd.delete("/k/000");
    reaches(&ks, State::Held).await;
    assert_eq!(ks.read().len(), 10);
    ks.accept_held(ks.status().held.unwrap().revision).unwrap();
    reaches(&ks, State::Live).await;
    assert_same(&ks, &etcd).await;
    assert_eq!((ks.read().len(), ks.read().epoch()), (9, 3));
}

#[tokio::test(start_paused = true)]
async fn t67_stopping_while_a_reload_is_held() {
    let etcd = etcd();
    let ks = held_after_losing(100, &etcd, OnHold::Wait).await;
    reaches(&ks, State::Held).await;
    let held = ks.status().held.unwrap();
    ks.shutdown().await;
    assert_eq!((ks.status().held, ks.read().len()), (None, 100));
    assert!(ks.accept_held(held.revision).is_err());
}

/// Keys of another name are no come-back: the hold stays, though the store has as many keys again.
#[tokio::test(start_paused = true)]
async fn t70_replaced_keys_stay_held_and_are_accepted_in_time() {
    let etcd = etcd();
    fill(&etcd, 100);
    let policy = OnHold::AcceptAfter(600 * SECOND);
    let ks = builder().hold_reloads(0.5, policy).start(etcd.clone()).await.unwrap();
    behind_a_compaction(&ks, &etcd, || {
        etcd.delete_range(KeyRange::bytes("/k/000", "/k/060"));
        for key in 0..60 {
            etcd.put(format!("/k/new{key}"), "v");
        }
    })
    .await;
    reaches(&ks, State::Held).await;
    for round in 0..25 {
        etcd.put(format!("/k/later{}", round % 3), "v");
        // Half the time the endpoint goes away, and everything is read and held again.
        if round % 2 == 0 {
            etcd.faults().cut();
        }
        tokio::time::sleep(20 * SECOND).await;
        assert_eq!((ks.status().state, ks.read().len()), (State::Held, 100), "{round}");
    }
    let loads = etcd.counts().range_streams;
    assert!(loads <= 15, "{loads} loads in 500 s");
    tokio::time::sleep(120 * SECOND).await;
    assert_same(&ks, &etcd).await;
    assert_eq!(ks.read().len(), 103);
}

#[tokio::test(start_paused = true)]
async fn t70_an_expired_token_and_a_dropped_mirror_leave_no_half_hold() {
    let etcd = etcd();
    let ks = held_after_losing(100, &etcd, OnHold::Wait).await;
    reaches(&ks, State::Held).await;
    let refreshes = etcd.counts().token_refreshes;
    etcd.faults().expire_token();
    etcd.until(|counts| counts.token_refreshes > refreshes).await;
    // Read again with the new token, and held again: a decision about it counts.
    reaches(&ks, State::Held).await;
    ks.accept_held(ks.status().held.unwrap().revision).unwrap();
    assert_same(&ks, &etcd).await;
    assert!(ks.read().is_empty());

    let etcd = self::etcd();
    fill(&etcd, 10);
    let (ks, mut mirror) = builder().hold_reloads(0.0, OnHold::Wait).build(etcd.clone());
    while ks.status().state != State::Live {
        mirror.step().await;
    }
    etcd.faults().down();
    while ks.status().state != State::Reconnecting {
        mirror.step().await;
    }
    etcd.delete("/k/000");
    etcd.compact(etcd.revision());
    etcd.faults().up();
    while ks.status().held.is_none() {
        mirror.step().await;
    }
    let held = ks.status().held.unwrap();
    drop(mirror);
    assert_eq!(ks.status().held, None);
    assert!(ks.accept_held(held.revision).is_err());
}
