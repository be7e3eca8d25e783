//! What guards the data when etcd or its operator goes wrong: reloads held back, audits, bounds.
#![cfg(feature = "test-util")]

mod fake;

use std::time::Duration;

use etcd_keyspace::testing::{Call, FakeEtcd};
use etcd_keyspace::{
    KeyRange, KeySpace, NotHeld, OnHistoryChange, OnHold, SourceErrorKind, State, StopReason,
};
use fake::{PREFIX, assert_same, assert_shows, builder, etcd, reaches, version};
use tokio::time::timeout;

const SECOND: Duration = Duration::from_secs(1);

fn fill(etcd: &FakeEtcd, keys: usize) {
    for key in 0..keys {
        etcd.put(format!("/k/{key:03}"), "v");
    }
}

/// Lets the mirror miss `change` and the history of it, so that it has to reload.
async fn behind_a_compaction(ks: &KeySpace<Vec<u8>>, etcd: &FakeEtcd, change: impl FnOnce()) {
    etcd.faults().down();
    reaches(ks, State::Reconnecting).await;
    change();
    etcd.compact(etcd.revision());
    etcd.faults().up();
}

async fn held_after_losing(keys: usize, etcd: &FakeEtcd, policy: OnHold) -> KeySpace<Vec<u8>> {
    fill(etcd, 100);
    let ks = builder().hold_reloads(0.5, policy).start(etcd.clone()).await.unwrap();
    let gone = KeyRange::bytes("/k/000", format!("/k/{keys:03}"));
    behind_a_compaction(&ks, etcd, || {
        etcd.delete_range(gone);
    })
    .await;
    ks
}

// ---- reloads held back ----

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

/// A read that cannot be shown is an error, not a question.
#[tokio::test(start_paused = true)]
async fn c6_t28_an_unordered_last_page_shows_nothing_of_its_read() {
    for _ in 0..2 {
        let etcd = etcd();
        etcd.set_version(version("3.5.34"));
        fill(&etcd, 10);
        etcd.faults().scramble_pages(3);
        let (ks, mirror) = builder().build(etcd.clone());
        ks.observe(|delta, view, _| {
            assert_eq!((delta.len(), view.len()), (10, 10), "part of a read was shown");
        });
        tokio::spawn(mirror.run());
        ks.loaded().await.unwrap();
        assert_same(&ks, &etcd).await;
        let status = ks.status();
        assert!(status.poisoned_observers.is_empty(), "{status:?}");
        assert_eq!((status.counters.loads, status.counters.failures), (1, 3));
        assert_eq!(status.epoch, 1);
    }
}

#[test]
fn extreme_times_and_shares_are_bounded_instead_of_overflowing() {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let etcd = etcd();
        fill(&etcd, 10);
        for time in [Duration::MAX, Duration::ZERO] {
            let ks = builder()
                .apply_delay(time)
                .backoff(time, time)
                .load_timeout(Duration::MAX)
                .connect_timeout(Duration::MAX)
                .request_timeout(Duration::MAX)
                .page_timeout(Duration::MAX)
                .check_interval(time.max(SECOND))
                .audit_interval(time)
                .hold_reloads(f64::NAN, OnHold::AcceptAfter(time))
                .start(etcd.clone())
                .await
                .unwrap();
            let revision = etcd.put("/k/a", "1");
            timeout(60 * SECOND, ks.wait_for_revision(revision)).await.unwrap().unwrap();
        }
    });
}

// ---- audits ----

/// A mirror that audits every minute.
async fn audited(etcd: &FakeEtcd) -> KeySpace<Vec<u8>> {
    builder().audit_interval(60 * SECOND).start(etcd.clone()).await.unwrap()
}

async fn until_audits(ks: &KeySpace<Vec<u8>>, audits: u64) {
    while ks.status().counters.audits < audits {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn t71_an_audit_finds_lost_events_and_repairs_by_the_difference() {
    let etcd = etcd();
    fill(&etcd, 3_000);
    let ks = audited(&etcd).await;
    let kept = ks.snapshot();
    etcd.faults().lose_events(3);
    etcd.put("/k/001", "lost");
    etcd.delete("/k/002");
    etcd.put("/k/new", "lost");
    let last = etcd.put("/k/003", "seen");
    ks.wait_for_revision(last).await.unwrap();
    assert_eq!(ks.status().counters.discontinuities, 0, "nothing that came shows the loss");
    assert!(ks.read().contains("/k/002"));

    until_audits(&ks, 1).await;
    assert_eq!(ks.status().counters.drift, 3);
    while ks.status().counters.loads < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_same(&ks, &etcd).await;
    assert_eq!(ks.snapshot().diff(&kept).len(), 4);
    until_audits(&ks, 3).await;
    let counters = ks.status().counters;
    assert_eq!((counters.drift, counters.loads), (3, 2), "once mended it stays mended");
}

#[tokio::test(start_paused = true)]
async fn t71_no_audit_gives_a_false_alarm_during_writes_faults_and_compactions() {
    for name in ["3.7.2", "3.5.1", "3.4.23"] {
        let etcd = etcd();
        etcd.set_version(version(name));
        fill(&etcd, 500);
        let ks = builder().audit_interval(SECOND).start(etcd.clone()).await.unwrap();
        etcd.faults().delay_call(Call::Range, Duration::from_millis(40));
        for round in 0..3_000_u64 {
            let key = format!("/k/{:03}", etcd.random(600));
            match etcd.random(3) {
                0 => etcd.delete(key),
                _ => etcd.put(key, "changed"),
            };
            match round % 500 {
                100 => etcd.compact(etcd.revision()),
                250 => etcd.faults().cut(),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(etcd.random(20))).await;
        }
        let counters = ks.status().counters;
        assert!(counters.audits > 5, "{name}: {counters:?}");
        assert_eq!((counters.drift, counters.discontinuities), (0, 0), "{name}");
        assert_same(&ks, &etcd).await;
    }
}

#[tokio::test(start_paused = true)]
async fn c10_t71_audits_work_on_known_keys() {
    let etcd = etcd();
    fill(&etcd, 5);
    let decoder = |kv: etcd_keyspace::RawKeyValue| match kv.value.as_slice() {
        b"bad" => Err("bad"),
        _ => Ok(kv.value),
    };
    let ks = KeySpace::builder(PREFIX).unwrap().decoder(decoder).seed(7);
    let ks = ks.audit_interval(SECOND).start(etcd.clone()).await.unwrap();
    etcd.put("/k/001", "bad"); // shows the older value
    let last = etcd.put("/k/new", "bad"); // shows nothing
    ks.wait_for_revision(last).await.unwrap();
    until_audits(&ks, 3).await;
    let status = ks.status();
    assert_eq!((status.counters.drift, status.rejected), (0, 2));
    assert_eq!((status.counters.rejected, ks.read().len()), (2, 5));
    etcd.faults().lose_events(1);
    etcd.put("/k/new", "bad");
    while ks.status().counters.loads < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(ks.status().counters.drift, 1);
}

/// A repair that no event and no new revision announces: what was shown at this revision was wrong, so
/// the same revision must not name two states within one epoch.
#[tokio::test(start_paused = true)]
async fn c1_t71_a_repair_at_an_unchanged_revision_begins_a_new_epoch() {
    let etcd = etcd();
    fill(&etcd, 10);
    let ks = audited(&etcd).await;
    etcd.faults().lose_events(1);
    etcd.put("/k/001", "lost");
    let last = etcd.put("/k/002", "seen");
    ks.wait_for_revision(last).await.unwrap();
    let before = ks.snapshot();
    until_audits(&ks, 1).await;
    reaches(&ks, State::Live).await;
    assert_same(&ks, &etcd).await;
    let view = ks.read();
    assert_eq!((view.revision(), view.epoch()), (before.revision(), before.epoch() + 1));
}

/// Lost events leave other keys in etcd than are known; that is no other history, though to the proof
/// of identity it looks like one.
#[tokio::test(start_paused = true)]
async fn b9_b16_t71_mending_lost_history_is_not_mistaken_for_another_history() {
    for lost in ["delete", "create", "put", "probe"] {
        let etcd = etcd();
        fill(&etcd, 10);
        let ks = builder()
            .audit_interval(60 * SECOND)
            .on_history_change(OnHistoryChange::Stop)
            .start(etcd.clone())
            .await
            .unwrap();
        let seen = etcd.put("/k/005", "the last that is known");
        ks.wait_for_revision(seen).await.unwrap();
        etcd.faults().lose_events(1);
        match lost {
            "delete" => etcd.delete("/k/001"),
            "create" => etcd.put("/k/new", "1"),
            "put" => etcd.put("/k/001", "2"),
            _ => etcd.put("/k/005", "2"),
        };
        // Progress moves the cursor beyond what is known.
        let elsewhere = etcd.put("/elsewhere", "1");
        ks.wait_for_revision(elsewhere).await.unwrap();
        until_audits(&ks, 1).await;
        etcd.put("/k/after", "1");
        assert_same(&ks, &etcd).await;
        let counters = ks.status().counters;
        assert_eq!((counters.drift, counters.history_changes), (1, 0), "{lost}");
    }
}

#[tokio::test(start_paused = true)]
async fn t71_audits_are_made_although_the_watch_is_reopened_all_the_time() {
    let etcd = etcd();
    fill(&etcd, 10);
    let ks = audited(&etcd).await;
    for _ in 0..20 {
        etcd.faults().cut();
        tokio::time::sleep(20 * SECOND).await;
    }
    assert!(ks.status().counters.audits >= 5, "{:?}", ks.status().counters);
}

#[tokio::test(start_paused = true)]
async fn t71_an_audit_that_cannot_be_made_is_put_off_and_leaves_the_watch_alone() {
    let etcd = etcd();
    fill(&etcd, 10);
    // The checks of the watch fall on other seconds, so that only the audit is refused.
    let builder = builder().audit_interval(60 * SECOND).check_interval(70 * SECOND);
    let ks = builder.page_timeout(SECOND).start(etcd.clone()).await.unwrap();
    for kind in [SourceErrorKind::Compacted, SourceErrorKind::Timeout, SourceErrorKind::TooLarge] {
        tokio::time::sleep(58 * SECOND).await;
        let keys_only = etcd.counts().keys_only;
        etcd.faults().refuse(Call::Range, kind);
        etcd.until(|counts| counts.keys_only > keys_only).await;
        etcd.faults().allow(Call::Range);
    }
    assert_eq!(ks.status().counters.audits, 0);
    until_audits(&ks, 1).await;
    assert_same(&ks, &etcd).await;
    let counts = etcd.counts();
    assert_eq!((counts.connects, counts.watches, counts.range_streams), (1, 1, 1));
}

// ---- responses that cannot be had ----

#[tokio::test(start_paused = true)]
async fn b4_t13_a_response_that_is_always_too_large_is_passed_by_a_reload() {
    let etcd = etcd();
    etcd.set_version(version("3.5.34"));
    fill(&etcd, 5);
    let ks = builder().start(etcd.clone()).await.unwrap();
    // A page has one key if need be; the revision's response has all five.
    etcd.faults().limit_message(3_000);
    let ops = (0..5).map(|key| etcd_keyspace::testing::Op::put(format!("/k/{key:03}"), [7; 1000]));
    let revision = etcd.txn(ops);
    let before = etcd.counts().watches;
    ks.wait_for_revision(revision).await.unwrap();
    assert_shows(&ks, &etcd);
    let counters = ks.status().counters;
    assert_eq!((counters.oversized, counters.loads), (1, 2));
    assert!(etcd.counts().watches - before <= 3, "{:?}", etcd.counts());
    etcd.faults().heal();
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn c9_fragments_without_end_are_bounded() {
    let etcd = etcd();
    fill(&etcd, 5);
    let ks = builder().response_bytes_max(10_000).start(etcd.clone()).await.unwrap();
    // One revision of 50 fragments of 1,000 bytes each.
    etcd.faults().fragment(1);
    let ops = (0..50).map(|key| etcd_keyspace::testing::Op::put(format!("/k/{key:03}"), [7; 1000]));
    etcd.txn(ops);
    assert_same(&ks, &etcd).await;
    let counters = ks.status().counters;
    assert_eq!((counters.oversized, counters.loads), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn t13_a_single_value_above_the_limit_is_a_clear_error_and_no_tight_loop() {
    let etcd = etcd();
    etcd.set_version(version("3.5.34"));
    etcd.put("/k/large", [7; 4000]);
    etcd.faults().limit_message(3_000);
    let starting = builder().load_timeout(60 * SECOND).start(etcd.clone()).await;
    let Err(StopReason::LoadTimeout { cause: Some(cause) }) = starting else { panic!() };
    let cause: &etcd_keyspace::SourceError = cause.downcast_ref().unwrap();
    assert_eq!(cause.kind(), SourceErrorKind::TooLarge);
    assert!(etcd.counts().reads() < 300, "{:?}", etcd.counts());
}
