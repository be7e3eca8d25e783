//! Breaks, silence, other histories, refused rights, and stopping.

use super::*;

#[tokio::test(start_paused = true)]
async fn gz12_a_break_resumes_where_it_was_with_nothing_lost_and_nothing_twice() {
    let etcd = etcd();
    let ks = start(&etcd).await;
    let added = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&added);
    ks.observe(move |delta, _, _| {
        seen.fetch_add(delta.len(), Ordering::SeqCst);
    });
    for round in 0..50 {
        etcd.put(format!("/k/{round}"), "1");
        match round % 5 {
            0 => etcd.faults().cut(),
            1 => etcd.faults().end_streams(),
            2 => etcd.faults().cancel(""),
            3 => etcd.faults().fail_streams(SourceErrorKind::Malformed),
            _ => etcd.faults().duplicate(3),
        }
        ks.wait_for_revision(etcd.revision()).await.unwrap();
    }
    assert_eq!(added.load(Ordering::SeqCst), 50);
    assert_eq!(ks.status().counters.loads, 1);
    assert!(ks.status().counters.duplicates > 0);
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn gz17_compaction_while_away_reloads_with_the_exact_difference() {
    let etcd = etcd();
    for n in 0..10 {
        etcd.put(format!("/k/{n}"), "1");
    }
    let ks = start(&etcd).await;
    let kept = ks.read().get("/k/5").cloned().unwrap();
    etcd.faults().down();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    reaches(&ks, State::Reconnecting).await;
    let observer = ks.observe(move |delta, _, _| {
        log.lock().unwrap().extend(delta.iter().map(|change| format!("{change:?}")));
    });
    seen.lock().unwrap().clear();
    etcd.delete("/k/0");
    etcd.put("/k/1", "2");
    etcd.delete("/k/2");
    etcd.put("/k/2", "again");
    etcd.put("/k/x", "new");
    etcd.compact(etcd.revision());
    etcd.faults().up();
    ks.wait_for_revision(etcd.revision()).await.unwrap();
    let expected = ["Removed(/k/0)", "Updated(/k/1)", "Replaced(/k/2)", "Added(/k/x)"];
    assert_eq!(*seen.lock().unwrap(), expected);
    assert!(Arc::ptr_eq(&kept, ks.read().get("/k/5").unwrap()), "C6");
    assert_eq!(ks.status().counters.compactions, 1);
    assert_eq!(ks.status().epoch, 1);
    observer.remove();
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn b8_a_deletion_at_the_compacted_revision_is_not_lost() {
    let etcd = etcd();
    etcd.faults().impersonate(version("3.5.1"));
    etcd.put("/k/a", "1");
    etcd.put("/k/b", "1");
    let ks = start(&etcd).await;
    etcd.faults().down();
    reaches(&ks, State::Reconnecting).await;
    let deleted = etcd.delete("/k/a");
    etcd.compact(deleted);
    etcd.faults().up();
    assert_same(&ks, &etcd).await;
    assert!(!ks.read().contains("/k/a"));
}

#[tokio::test(start_paused = true)]
async fn b9_lost_events_are_found_and_mended_by_a_reload() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    etcd.faults().lose_events(1);
    etcd.put("/k/a", "2");
    etcd.put("/k/a", "3");
    assert_same(&ks, &etcd).await;
    assert_eq!(ks.status().counters.discontinuities, 1);
    assert_eq!(ks.status().counters.loads, 2);
}

#[tokio::test(start_paused = true)]
async fn b16_a_restore_is_a_new_epoch_before_and_after_the_cursor_is_passed() {
    for writes_after in [0, 1, 30] {
        let etcd = etcd();
        let then = etcd.put("/k/a", "1");
        for n in 0..10 {
            etcd.put(format!("/k/{n}"), "lost");
        }
        let ks = start(&etcd).await;
        let waiting = tokio::spawn({
            let ks = ks.clone();
            async move { ks.wait_for_revision(1_000_000).await }
        });
        tokio::task::yield_now().await;
        etcd.restore(then);
        for n in 0..writes_after {
            etcd.put(format!("/k/{n}"), "other");
        }
        let ended = timeout(60_000 * MS, waiting).await;
        let error = ended.unwrap_or_else(|_| panic!("{:?}", ks.status())).unwrap().unwrap_err();
        assert!(matches!(error, WaitError::HistoryChanged { was: 1, now: 2 }), "{error:?}");
        assert_eq!(ks.status().epoch, 2);
        assert_eq!(ks.status().counters.history_changes, 1);
        assert_same(&ks, &etcd).await;
    }
}

/// Its events had not come yet when the restore took them back.
#[tokio::test(start_paused = true)]
async fn b17_c8_a_wait_for_a_revision_that_a_restore_took_back_ends() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    let backup = etcd.revision();
    etcd.faults().mute();
    etcd.put("/k/b", "1");
    let before = etcd.counts().reads();
    let waiting = tokio::spawn({
        let ks = ks.clone();
        async move { ks.sync().await }
    });
    etcd.until(|counts| counts.reads() > before).await;
    tokio::time::sleep(100 * MS).await;
    etcd.restore(backup);
    let ended = timeout(60_000 * MS, waiting).await.unwrap().unwrap();
    assert!(matches!(ended, Err(WaitError::HistoryChanged { was: 1, now: 2 })), "{ended:?}");
    assert_same(&ks, &etcd).await;
}

/// Etcd issue 20418: it answers a linearizable read from its old state until it has caught up.
#[tokio::test(start_paused = true)]
async fn b16_a_member_that_lags_behind_is_not_taken_for_a_restored_backup() {
    let etcd = FakeEtcd::new().with_endpoints(2);
    etcd.set_progress_interval(None);
    etcd.faults().bug(Bug::StaleReads, true);
    let then = etcd.put("/k/a", "1");
    etcd.put("/k/b", "1");
    let ks = start(&etcd).await;
    // What was seen of the history before must not count against a member of the one after.
    etcd.restore(then);
    ks.wait_until(|view| (view.epoch() == 2).then_some(())).await.unwrap();
    assert_same(&ks, &etcd).await;
    let used = usize::from(ks.status().endpoint.as_deref() == Some("fake-1"));
    let (used, lagging) = (etcd.faults_at(used), 1 - used);
    etcd.faults_at(lagging).hold_back();
    etcd.put("/k/b", "1");
    assert_same(&ks, &etcd).await;
    let asked = etcd.counts_at(lagging).reads();
    used.down();
    while etcd.counts_at(lagging).reads() == asked {
        tokio::time::sleep(10 * MS).await;
    }
    used.up();
    etcd.faults_at(lagging).catch_up();
    etcd.put("/k/c", "1");
    assert_same(&ks, &etcd).await;
    let status = ks.status();
    assert_eq!((status.epoch, status.counters.loads), (2, 2), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn b16_a_restore_stops_the_mirror_when_told_so() {
    let etcd = etcd();
    let then = etcd.put("/k/a", "1");
    etcd.put("/k/b", "1");
    let ks = builder().on_history_change(OnHistoryChange::Stop).start(etcd.clone()).await.unwrap();
    etcd.restore(then);
    assert!(matches!(ks.closed().await, StopReason::HistoryChanged { .. }));
    assert_eq!(ks.read().len(), 2, "the last data stays readable");
}

#[tokio::test(start_paused = true)]
async fn gz20_another_cluster_stops_the_mirror_or_begins_a_new_epoch() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let stops = start(&etcd).await;
    let reloads =
        builder().on_other_cluster(OnHistoryChange::Reload).start(etcd.clone()).await.unwrap();
    etcd.change_cluster();
    assert!(matches!(stops.closed().await, StopReason::AnotherCluster { .. }));
    assert_eq!(stops.status().state, State::Stopped);
    let error = stops.wait_for_revision(1_000).await.unwrap_err();
    assert!(matches!(error, WaitError::Stopped(StopReason::AnotherCluster { .. })));
    etcd.put("/k/b", "1");
    reloads.wait_until(|view| (view.epoch() == 2).then_some(())).await.unwrap();
    assert_same(&reloads, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn t69_a_stream_that_lives_but_says_nothing_is_replaced() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    let begun = Instant::now();
    etcd.faults().mute();
    let revision = etcd.put("/k/a", "2");
    ks.wait_for_revision(revision).await.unwrap();
    assert!(begun.elapsed() <= 4_000 * MS, "{:?}", begun.elapsed());
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn b18_an_endpoint_that_answers_nothing_is_left_for_another() {
    let etcd = FakeEtcd::new().with_endpoints(3);
    etcd.set_progress_interval(None);
    etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    for round in 0..6 {
        let used = (0..3).find(|index| etcd.counts_at(*index).watchers > 0).unwrap();
        etcd.faults_at(used).stall();
        let begun = Instant::now();
        let revision = etcd.put("/k/a", format!("{round}"));
        ks.wait_for_revision(revision).await.unwrap();
        assert!(begun.elapsed() <= 15_000 * MS, "{:?}", begun.elapsed());
        etcd.faults_at(used).release();
    }
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn t64_failures_back_off_and_no_state_is_a_tight_loop() {
    for kind in [SourceErrorKind::Unavailable, SourceErrorKind::Denied, SourceErrorKind::TooLarge] {
        for call in [Call::Connect, Call::Range, Call::Watch] {
            let etcd = etcd();
            etcd.put("/k/a", "1");
            let ks = start(&etcd).await;
            etcd.faults().refuse(call, kind);
            etcd.faults().cut();
            let before = etcd.counts();
            tokio::time::sleep(60_000 * MS).await;
            let after = etcd.counts();
            let connects = after.connects - before.connects;
            assert!((5..=70).contains(&connects), "{kind:?} {call:?}: {connects} connects");
            etcd.faults().heal();
            reaches(&ks, State::Live).await;
            assert_same(&ks, &etcd).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t66_a_watch_that_is_compacted_again_and_again_does_not_reload_in_a_loop() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    etcd.faults().tamper(|response: WatchResponse| {
        Some(WatchResponse { canceled: true, compact_revision: 5, ..response })
    });
    etcd.put("/k/a", "2");
    let before = ks.status().counters.loads;
    tokio::time::sleep(60_000 * MS).await;
    let loads = ks.status().counters.loads - before;
    assert!((5..=80).contains(&loads), "{loads} loads in a minute");
    etcd.faults().heal();
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn t20_an_expired_token_is_refreshed_and_a_denial_is_waited_out() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    etcd.faults().expire_token();
    etcd.faults().cut();
    etcd.put("/k/a", "2");
    assert_same(&ks, &etcd).await;
    assert!(etcd.counts().token_refreshes >= 1);
    etcd.faults().deny();
    etcd.faults().cut();
    etcd.put("/k/a", "3");
    tokio::time::sleep(30_000 * MS).await;
    assert_eq!(ks.status().state, State::Reconnecting);
    assert_eq!(ks.read().len(), 1);
    etcd.faults().grant();
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn t20_a_denial_at_the_start_returns_at_once() {
    let etcd = etcd();
    etcd.faults().deny();
    let begun = Instant::now();
    let result = start_result(&etcd).await;
    assert!(matches!(result, Err(StopReason::Refused { .. })), "{result:?}");
    assert!(begun.elapsed() < 1_000 * MS);
}

async fn start_result(etcd: &FakeEtcd) -> Result<KeySpace<Vec<u8>>, StopReason> {
    builder().start(etcd.clone()).await
}

#[tokio::test(start_paused = true)]
async fn t7_a_refused_watch_is_a_failure_although_the_stream_stays_open() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    etcd.faults().tamper(|response: WatchResponse| {
        let cancel_reason = "etcdserver: too many watchers".to_owned();
        Some(WatchResponse { canceled: response.created, cancel_reason, ..response })
    });
    etcd.faults().cut();
    tokio::time::sleep(5_000 * MS).await;
    assert_eq!(ks.status().state, State::Reconnecting);
    let error = ks.status().last_error.unwrap().to_string();
    assert!(error.contains("too many watchers"), "{error}");
    etcd.faults().heal();
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn t11_messages_without_header_or_from_elsewhere_are_not_believed() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    etcd.faults().inject(&WatchResponse { watch_id: -1, ..WatchResponse::default() });
    etcd.faults().strip_headers();
    etcd.put("/k/a", "2");
    tokio::time::sleep(2_000 * MS).await;
    assert_shows(&ks, &etcd);
    etcd.faults().heal();
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn t67_stopping_is_idempotent_at_any_time_and_ends_waits() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    for moment in 0..4 {
        let (ks, mirror) = builder().build(etcd.clone());
        match moment {
            0 => etcd.faults().refuse(Call::Connect, SourceErrorKind::Unavailable),
            1 => etcd.faults().stall(),
            _ => {}
        }
        let running = tokio::spawn(mirror.run());
        if moment == 2 {
            ks.loaded().await.unwrap();
        } else {
            tokio::time::sleep(500 * MS).await;
        }
        let waiting = tokio::spawn({
            let ks = ks.clone();
            async move { ks.wait_for_revision(1_000).await }
        });
        tokio::task::yield_now().await;
        tokio::join!(ks.shutdown(), ks.shutdown());
        ks.shutdown().await;
        assert!(matches!(running.await.unwrap(), StopReason::Shutdown));
        assert!(matches!(waiting.await.unwrap(), Err(WaitError::Stopped(StopReason::Shutdown))));
        etcd.faults().heal();
        etcd.faults().up();
        etcd.faults().release();
    }
    assert_eq!(etcd.counts().watchers, 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_the_mirror_and_a_weak_one_does_not_keep_it() {
    let etcd = etcd();
    let (ks, mirror) = builder().build(etcd.clone());
    let running = tokio::spawn(mirror.run());
    ks.loaded().await.unwrap();
    let weak = ks.downgrade();
    let second = weak.upgrade().unwrap();
    drop(ks);
    tokio::time::sleep(100 * MS).await;
    assert!(!running.is_finished());
    drop(second);
    assert!(matches!(running.await.unwrap(), StopReason::Shutdown));
    assert!(weak.upgrade().is_none());
    etcd.until(|counts| counts.watchers == 0).await;
}

#[tokio::test(start_paused = true)]
async fn t27_dropping_the_mirror_between_any_two_steps_leaves_a_consistent_view() {
    for steps in 0..40 {
        let etcd = etcd();
        for n in 0..500 {
            etcd.put(format!("/k/{n:03}"), "1");
        }
        let (ks, mut mirror) = builder().build(etcd.clone());
        for step in 0..steps {
            etcd.put(format!("/k/{step:03}"), "2");
            // A step that has nothing to do within a second is dropped half-way.
            let _ = timeout(1_000 * MS, mirror.step()).await;
        }
        drop(mirror);
        if ks.read().confirmed() > 0 {
            assert_shows(&ks, &etcd);
        }
        assert!(matches!(ks.closed().await, StopReason::Shutdown));
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_work_ends_the_start_with_the_reason() {
    for endpoints in [vec![], vec!["not a url"]] {
        let source = Etcd::new(endpoints, EtcdOptions::new());
        let error = builder().start(source).await.unwrap_err();
        assert!(matches!(error, StopReason::Refused { .. }), "{error:?}");
        assert!(std::error::Error::source(&error).is_some());
    }
}
