//! The mirror's loop on a fake etcd and a paused clock: loading, batching, progress, liveness.
#![cfg(feature = "test-util")]

mod fake;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_keyspace::testing::{Bug, Call, FakeEtcd, Op};
use etcd_keyspace::{
    Etcd, EtcdOptions, KeySpace, OnHistoryChange, ProgressBy, SourceErrorKind, State, StopReason,
    WaitError, WatchResponse,
};
use fake::{assert_same, assert_shows, builder, etcd, reaches, start, version};
use tokio::time::{Instant, timeout};

const MS: Duration = Duration::from_millis(1);

/// Counts the steps observers see.
fn count_steps(ks: &KeySpace<Vec<u8>>) -> Arc<AtomicUsize> {
    let steps = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&steps);
    ks.observe(move |_, _, _| {
        seen.fetch_add(1, Ordering::SeqCst);
    });
    steps
}

// ---- loading ----

#[tokio::test(start_paused = true)]
async fn gz4_a_load_at_a_past_revision_follows_from_there() {
    let etcd = etcd();
    etcd.put("/k/old", "1");
    let then = etcd.put("/k/a", "1");
    etcd.delete("/k/old");
    etcd.put("/k/raced", "1");
    let (ks, mut mirror) = builder().load_at(then).build(etcd.clone());
    while ks.status().counters.loads == 0 {
        mirror.step().await;
    }
    assert_eq!(ks.read().revision(), then);
    assert!(ks.read().contains("/k/old") && !ks.read().contains("/k/raced"));
    tokio::spawn(mirror.run());
    assert_same(&ks, &etcd).await;
    assert!(!ks.read().contains("/k/old") && ks.read().contains("/k/raced"));
}

#[tokio::test(start_paused = true)]
async fn t25_a_compacted_revision_to_load_at_ends_the_start() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let now = etcd.put("/k/a", "2");
    etcd.compact(now);
    let result = builder().load_at(now - 1).start(etcd).await;
    assert!(matches!(result, Err(StopReason::Compacted { revision, .. }) if revision == now - 1));
}

#[tokio::test(start_paused = true)]
async fn t25_a_future_revision_to_load_at_is_waited_for() {
    let etcd = etcd();
    let now = etcd.put("/k/a", "1");
    let starting = builder().load_at(now + 1).start(etcd.clone());
    tokio::pin!(starting);
    assert!(timeout(30_000 * MS, &mut starting).await.is_err());
    etcd.put("/k/b", "1");
    let ks = starting.await.unwrap();
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn t24_zero_keys_and_page_borders() {
    for keys in [0, 1, 99, 100, 101, 3_300] {
        let etcd = etcd();
        etcd.set_version(version("3.5.34"));
        for key in 0..keys {
            etcd.put(format!("/k/{key:05}"), "v");
        }
        let ks = start(&etcd).await;
        assert_eq!(ks.read().len(), keys);
        assert_same(&ks, &etcd).await;
        assert_eq!(etcd.counts().range_streams, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn b14_a_cut_range_stream_is_no_load() {
    let etcd = etcd();
    for key in 0..200 {
        etcd.put(format!("/k/{key:05}"), "v");
    }
    etcd.faults().truncate_range_streams(2);
    let ks = start(&etcd).await;
    assert_eq!(ks.read().len(), 200);
    assert!(ks.status().counters.failures >= 2);
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn t28_unordered_pages_are_refused_and_read_again() {
    let etcd = etcd();
    etcd.set_version(version("3.5.34"));
    for key in 0..10 {
        etcd.put(format!("/k/{key:05}"), "v");
    }
    etcd.faults().scramble_pages(2);
    let ks = start(&etcd).await;
    assert_same(&ks, &etcd).await;
    assert!(ks.status().counters.failures >= 1);
}

#[tokio::test(start_paused = true)]
async fn b12_pages_that_are_too_large_shrink() {
    let etcd = etcd();
    etcd.set_version(version("3.5.34"));
    for key in 0..300 {
        etcd.put(format!("/k/{key:05}"), vec![b'v'; 100]);
    }
    etcd.faults().limit_message(1_000);
    let ks = start(&etcd).await;
    assert_eq!(ks.read().len(), 300);
    assert_eq!(ks.status().counters.failures, 0);
    etcd.faults().heal();
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn b11_compaction_between_pages_restarts_the_load() {
    let etcd = etcd();
    etcd.set_version(version("3.5.34"));
    for key in 0..1_000 {
        etcd.put(format!("/k/{key:05}"), "v");
    }
    etcd.faults().delay(10 * MS);
    let compactor = {
        let etcd = etcd.clone();
        tokio::spawn(async move {
            loop {
                let now = etcd.put("/k/00000", "w");
                etcd.compact(now);
                tokio::time::sleep(15 * MS).await;
            }
        })
    };
    let ks = start(&etcd).await;
    assert!(ks.status().counters.load_restarts >= 1);
    compactor.abort();
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn t26_a_load_that_fails_midway_changes_nothing() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    let steps = count_steps(&ks);
    let seen = steps.load(Ordering::SeqCst);
    etcd.faults().refuse(Call::Range, SourceErrorKind::Unavailable);
    etcd.faults().refuse(Call::RangeStream, SourceErrorKind::Unavailable);
    etcd.faults().cancel_compacted(etcd.revision());
    reaches(&ks, State::Reloading).await;
    tokio::time::sleep(5_000 * MS).await;
    assert_eq!(ks.read().len(), 1);
    assert_eq!(steps.load(Ordering::SeqCst), seen);
    etcd.faults().heal();
    reaches(&ks, State::Live).await;
    // T-29: nothing changed, so nobody is told.
    assert_eq!(steps.load(Ordering::SeqCst), seen);
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn load_progress_is_shown_and_the_load_timeout_says_why() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    etcd.faults().refuse(Call::Range, SourceErrorKind::Unavailable);
    etcd.faults().refuse(Call::RangeStream, SourceErrorKind::Unavailable);
    let begun = Instant::now();
    let result = builder().load_timeout(3_000 * MS).start(etcd).await;
    assert!(matches!(result, Err(StopReason::LoadTimeout { cause: Some(_) })), "{result:?}");
    assert_eq!(begun.elapsed().as_millis() / 10, 300);
}

// ---- batching ----

#[tokio::test(start_paused = true)]
async fn gz15_quiet_changes_show_at_once_and_bursts_once_per_delay() {
    let etcd = etcd();
    let ks = start(&etcd).await;
    let steps = count_steps(&ks);
    tokio::time::sleep(50 * MS).await;
    let begun = Instant::now();
    etcd.put("/k/first", "1");
    ks.updated().await.unwrap();
    assert!(begun.elapsed() < 2 * MS, "{:?}", begun.elapsed());
    // T-43: a response every millisecond for 300 ms is shown about ten times, never starved.
    for n in 0..300 {
        etcd.put(format!("/k/{n}"), "1");
        tokio::time::sleep(MS).await;
    }
    tokio::time::sleep(40 * MS).await;
    let steps = steps.load(Ordering::SeqCst);
    assert!((9..=13).contains(&steps), "{steps} steps");
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn t47_a_wait_ends_the_delay_of_what_it_waits_for() {
    let etcd = etcd();
    let ks = builder().apply_delay(10_000 * MS).start(etcd.clone()).await.unwrap();
    etcd.put("/k/a", "1");
    ks.updated().await.unwrap();
    let begun = Instant::now();
    let revision = etcd.put("/k/a", "2");
    tokio::time::sleep(5 * MS).await;
    assert!(ks.read().revision() < revision, "it is in the queue");
    ks.wait_for_revision(revision).await.unwrap();
    assert!(begun.elapsed() < 50 * MS, "{:?}", begun.elapsed());
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn t45_without_delay_every_response_is_shown_by_itself() {
    let etcd = etcd();
    let ks = builder().apply_delay(Duration::ZERO).start(etcd.clone()).await.unwrap();
    let steps = count_steps(&ks);
    for n in 0..10 {
        let revision = etcd.txn([Op::put("/k/a", format!("{n}")), Op::put("/k/b", "x")]);
        ks.wait_for_revision(revision).await.unwrap();
    }
    assert_eq!(steps.load(Ordering::SeqCst), 10);
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn t5_progress_waits_for_what_was_queued_before_it() {
    let etcd = etcd();
    let ks = builder().apply_delay(10_000 * MS).start(etcd.clone()).await.unwrap();
    etcd.put("/k/a", "1");
    ks.updated().await.unwrap();
    for _ in 0..20 {
        etcd.put("/k/a", "2");
        etcd.put("/outside", "1");
        tokio::time::sleep(100 * MS).await;
        assert_shows(&ks, &etcd);
    }
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn t46_what_is_queued_when_the_stream_breaks_or_the_mirror_stops_is_applied() {
    let etcd = etcd();
    let ks = builder().apply_delay(60_000 * MS).start(etcd.clone()).await.unwrap();
    etcd.put("/k/a", "1");
    ks.updated().await.unwrap();
    let revision = etcd.put("/k/a", "2");
    tokio::time::sleep(5 * MS).await;
    etcd.faults().down();
    ks.updated().await.unwrap();
    assert_eq!(ks.read().revision(), revision);
    etcd.faults().up();
    reaches(&ks, State::Live).await;
    let revision = etcd.put("/k/a", "3");
    tokio::time::sleep(5 * MS).await;
    ks.shutdown().await;
    assert_eq!(ks.read().revision(), revision);
}

#[tokio::test(start_paused = true)]
async fn t12_fragments_show_whole_or_not_at_all() {
    let etcd = etcd();
    let ks = builder().apply_delay(Duration::ZERO).start(etcd.clone()).await.unwrap();
    etcd.faults().fragment(3);
    let bad = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&bad);
    ks.observe(move |_, view, _| {
        seen.fetch_add(usize::from(view.len() % 10 != 0), Ordering::SeqCst);
    });
    for round in 0..20 {
        // Streams break in the middle of a revision; none of it may show before all of it does.
        etcd.faults().cut_after(1 + round % 4);
        etcd.txn((0..10).map(|n| Op::put(format!("/k/{round}-{n}"), "v")));
        ks.wait_for_revision(etcd.revision()).await.unwrap();
    }
    assert_eq!(bad.load(Ordering::SeqCst), 0);
    assert_eq!(ks.read().len(), 200);
    assert_same(&ks, &etcd).await;
}

/// Lets the first of three pieces pass, and what comes after the third.
fn lose_the_rest(etcd: &FakeEtcd) {
    etcd.faults().fragment(1);
    let pieces = AtomicUsize::new(0);
    etcd.faults().tamper(move |message| {
        let lost =
            !message.events.is_empty() && (1..3).contains(&pieces.fetch_add(1, Ordering::SeqCst));
        (!lost).then_some(message)
    });
}

#[tokio::test(start_paused = true)]
async fn c2_t12_progress_inside_a_fragmented_response_confirms_nothing() {
    for server in ["3.7.2", "3.5.1"] {
        let etcd = etcd();
        etcd.set_version(version(server));
        let ks = start(&etcd).await;
        lose_the_rest(&etcd);
        let revision = etcd.txn((0..3).map(|n| Op::put(format!("/k/{n}"), "v")));
        ks.wait_for_revision(revision).await.unwrap();
        assert_eq!(ks.read().len(), 3, "{server}: confirmed without the lost pieces");
        assert_same(&ks, &etcd).await;
    }
}

#[tokio::test(start_paused = true)]
async fn c7_t12_a_response_whose_end_never_comes_is_given_up() {
    for server in ["3.7.2", "3.5.1"] {
        let etcd = etcd();
        etcd.set_version(version(server));
        let ks = start(&etcd).await;
        lose_the_rest(&etcd);
        etcd.txn((0..3).map(|n| Op::put(format!("/k/{n}"), "v")));
        tokio::time::sleep(MS).await;
        etcd.faults().mute();
        let revision = etcd.put("/k/later", "v");
        let within = Duration::from_secs(60);
        let waited = tokio::time::timeout(within, ks.wait_for_revision(revision)).await;
        waited.unwrap_or_else(|_| panic!("{server}: hangs")).unwrap();
        assert_same(&ks, &etcd).await;
    }
}

// ---- progress and waiting ----

#[tokio::test(start_paused = true)]
async fn t50_a_wait_for_a_revision_outside_the_range_ends_by_progress() {
    for server in ["3.7.2", "3.5.13", "3.4.31", "3.5.1", "3.4.23"] {
        let etcd = etcd();
        etcd.set_version(version(server));
        etcd.put("/k/a", "1");
        let ks = start(&etcd).await;
        for _ in 0..5 {
            let revision = etcd.put("/outside", "1");
            let begun = Instant::now();
            ks.wait_for_revision(revision).await.unwrap();
            assert!(begun.elapsed() <= 200 * MS, "{server}: {:?}", begun.elapsed());
        }
        let by = if version(server).progress_is_trusted() {
            ProgressBy::Request
        } else {
            ProgressBy::Count
        };
        assert_eq!(ks.status().progress_by, by, "{server}");
        assert_same(&ks, &etcd).await;
    }
}

#[tokio::test(start_paused = true)]
async fn b13_servers_whose_progress_runs_ahead_are_not_believed() {
    let etcd = etcd();
    etcd.faults().impersonate(version("3.5.1"));
    etcd.faults().bug(Bug::EarlyProgress, true);
    let ks = builder().apply_delay(Duration::ZERO).start(etcd.clone()).await.unwrap();
    for round in 0..30 {
        etcd.faults().cut();
        for n in 0..50 {
            etcd.put(format!("/k/{n}"), format!("{round}"));
        }
        let revision = etcd.put("/outside", "1");
        ks.wait_for_revision(revision).await.unwrap();
        assert_shows(&ks, &etcd);
    }
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn b33_behind_a_proxy_that_swallows_progress_requests_counting_takes_over() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    etcd.faults().proxy();
    let ks = start(&etcd).await;
    let revision = etcd.put("/outside", "1");
    ks.wait_for_revision(revision).await.unwrap();
    assert_eq!(ks.status().progress_by, ProgressBy::Count);
    let revision = etcd.put("/outside", "1");
    let begun = Instant::now();
    ks.wait_for_revision(revision).await.unwrap();
    assert!(begun.elapsed() <= 200 * MS, "{:?}", begun.elapsed());
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn sync_shows_what_was_written_before_and_shares_requests() {
    let etcd = etcd();
    let ks = start(&etcd).await;
    etcd.faults().delay(10 * MS);
    let reads = etcd.counts().reads();
    etcd.put("/k/a", "1");
    let mut syncs = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let ks = ks.clone();
        syncs.spawn(async move { ks.sync().await.unwrap() });
    }
    while let Some(revision) = syncs.join_next().await {
        assert_eq!(revision.unwrap(), etcd.revision());
    }
    assert_shows(&ks, &etcd);
    assert!(etcd.counts().reads() - reads <= 3, "{}", etcd.counts().reads() - reads);
    // A call must not join a read that began before it.
    let first = tokio::spawn({
        let ks = ks.clone();
        async move { ks.sync().await.unwrap() }
    });
    tokio::time::sleep(MS).await;
    let revision = etcd.put("/k/a", "2");
    assert!(ks.sync().await.unwrap() >= revision);
    first.await.unwrap();
    etcd.faults().heal();
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_wait_for_the_far_future_leaves_no_requests_behind() {
    let etcd = etcd();
    let ks = start(&etcd).await;
    let waiting = timeout(1_000 * MS, ks.wait_for_revision(1_000_000)).await;
    assert!(waiting.is_err());
    assert_eq!(ks.stats().waits, 0);
    tokio::time::sleep(100 * MS).await;
    let before = etcd.counts().progress_requests;
    tokio::time::sleep(10_000 * MS).await;
    let asked = etcd.counts().progress_requests - before;
    assert!(asked <= 12, "{asked} requests in ten seconds of silence");
}

#[tokio::test(start_paused = true)]
async fn c7_the_age_of_the_data_is_renewed_in_silence_and_grows_without_etcd() {
    let etcd = etcd();
    let ks = start(&etcd).await;
    for _ in 0..20 {
        tokio::time::sleep(500 * MS).await;
        assert!(ks.status().is_fresh(1_100 * MS), "{:?}", ks.status());
    }
    // Events that keep coming must not put the question off.
    for _ in 0..100 {
        etcd.put("/k/busy", "1");
        tokio::time::sleep(100 * MS).await;
        assert!(ks.status().is_fresh(1_200 * MS), "{:?}", ks.status());
    }
    etcd.faults().down();
    tokio::time::sleep(5_000 * MS).await;
    let status = ks.status();
    assert!(!status.is_fresh(4_000 * MS));
    assert!(status.current_as_of.unwrap() >= 4_900 * MS);
    assert!(status.last_error.is_some());
    etcd.faults().up();
    reaches(&ks, State::Live).await;
    tokio::time::sleep(10 * MS).await;
    assert!(ks.status().is_fresh(100 * MS));
    assert!(ks.status().last_error.is_none());
    assert_same(&ks, &etcd).await;
}

// ---- breaks, liveness, stopping ----

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
