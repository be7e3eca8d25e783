//! Progress, waits that need it, and servers that cannot be believed.

use etcd_keyspace::{Event, RawKeyValue};

use super::*;

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

/// A header like the store's own, at `revision`.
fn header(etcd: &FakeEtcd, ks: &KeySpace<Vec<u8>>, revision: Revision) -> Option<Header> {
    assert!(revision > etcd.revision());
    Some(Header { revision, cluster_id: ks.read().cluster_id().unwrap(), ..Header::default() })
}

#[tokio::test(start_paused = true)]
async fn b2_t6_progress_counts_for_this_watcher_only_and_control_answers_never() {
    let etcd = etcd();
    let ks = start(&etcd).await;
    ks.wait_for_revision(etcd.revision()).await.unwrap();
    let (confirmed, header) = (ks.read().confirmed(), header(&etcd, &ks, 1_000));
    let lies = [
        WatchResponse { header, watch_id: 77, ..WatchResponse::default() },
        WatchResponse { header, created: true, ..WatchResponse::default() },
        WatchResponse { header: None, ..WatchResponse::default() },
        WatchResponse { header: None, watch_id: -1, ..WatchResponse::default() },
        WatchResponse { header: Some(Header::default()), ..WatchResponse::default() },
        WatchResponse { header, canceled: true, ..WatchResponse::default() },
    ];
    for lie in lies {
        etcd.faults().inject(&lie);
        tokio::time::sleep(500 * MS).await;
        assert_eq!(ks.read().confirmed(), confirmed, "{lie:?}");
    }
    // The true ones: of this watcher, or asked for.
    for (watch_id, revision) in [(0, 2_000), (-1, 3_000)] {
        let header = self::header(&etcd, &ks, revision);
        etcd.faults().inject(&WatchResponse { header, watch_id, ..WatchResponse::default() });
        timeout(500 * MS, ks.wait_for_revision(revision)).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn t23_progress_moves_the_cursor_so_that_a_quiet_prefix_survives_compaction() {
    for name in ["3.7.2", "3.4.23"] {
        let etcd = etcd();
        etcd.set_version(version(name));
        etcd.put("/k/a", "1");
        let ks = start(&etcd).await;
        for _ in 0..200 {
            etcd.put("/elsewhere", "x");
            tokio::time::sleep(1_000 * MS).await;
        }
        let revision = etcd.revision();
        timeout(10_000 * MS, ks.wait_for_revision(revision)).await.unwrap().unwrap();
        etcd.compact(revision);
        etcd.faults().cut();
        etcd.put("/k/b", "1");
        assert_same(&ks, &etcd).await;
        let counters = ks.status().counters;
        assert_eq!((counters.loads, counters.compactions), (1, 0), "{name}: nothing to reload");
    }
}

/// A revision far beyond the store would hide every later event, if it became the cursor.
#[tokio::test(start_paused = true)]
async fn h76_revisions_far_beyond_the_store_are_not_believed() {
    for watch_id in [-1, 0] {
        for revision in [Revision::MAX, (1 << 20) + 1_000] {
            let etcd = etcd();
            etcd.put("/k/a", "1");
            let ks = start(&etcd).await;
            ks.wait_for_revision(etcd.put("/k/b", "1")).await.unwrap();
            let before = etcd.counts();
            let header = header(&etcd, &ks, revision);
            let progress = WatchResponse { header, watch_id, ..WatchResponse::default() };
            let event = Event::Put(RawKeyValue {
                key: "/k/x".into(),
                create_revision: revision,
                mod_revision: revision,
                version: 1,
                ..RawKeyValue::default()
            });
            let events = WatchResponse { events: vec![event], watch_id: 0, ..progress.clone() };
            let lie = if watch_id == -1 { progress.clone() } else { events };
            etcd.faults().inject(&lie);
            // More of the same while the revision is being read.
            etcd.faults().inject(&progress);
            etcd.until(|counts| counts.watches > before.watches).await;
            assert!(ks.read().confirmed() <= etcd.revision(), "{lie:?}");
            let newest = etcd.put("/k/c", "1");
            timeout(5_000 * MS, ks.wait_for_revision(newest)).await.unwrap().unwrap();
            assert_same(&ks, &etcd).await;
            let counters = ks.status().counters;
            assert_eq!((counters.loads, counters.failures), (1, 1), "{lie:?}");
        }
    }
}

/// What is below the limit is believed as ever, and a lie does not hide the truth that comes with it.
#[tokio::test(start_paused = true)]
async fn h76_events_queued_with_a_leap_are_applied_once() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = builder().apply_delay(500 * MS).start(etcd.clone()).await.unwrap();
    ks.wait_for_revision(etcd.put("/k/b", "1")).await.unwrap();
    etcd.faults().delay_call(Call::Range, 200 * MS);
    let newest = etcd.put("/k/c", "1");
    let header = header(&etcd, &ks, Revision::MAX);
    etcd.faults().inject(&WatchResponse { header, ..WatchResponse::default() });
    tokio::time::sleep(20 * MS).await;
    assert!(ks.read().confirmed() < newest);
    timeout(5_000 * MS, ks.wait_for_revision(newest)).await.unwrap().unwrap();
    assert_same(&ks, &etcd).await;
    assert_eq!(ks.status().counters.loads, 1);
}
