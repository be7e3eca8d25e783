//! Answers that cannot be had, used, or waited for.

use super::*;

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

#[tokio::test(start_paused = true)]
async fn b4_t13_a_response_that_is_always_too_large_is_passed_by_a_reload() {
    let etcd = etcd();
    etcd.set_version(version("3.5.34"));
    fill(&etcd, 5);
    let ks = builder().start(etcd.clone()).await.unwrap();
    // A page has one key if need be; the revision's response has all five.
    etcd.faults().limit_message(3_000);
    let ops = (0..5).map(|key| Op::put(format!("/k/{key:03}"), [7; 1000]));
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

/// The next watch brings it again, as long as nothing newer is written.
#[tokio::test(start_paused = true)]
async fn t13_a_response_too_large_in_a_quiet_store_is_no_tight_loop() {
    for in_fragments in [false, true] {
        let etcd = etcd();
        // Keys are counted there, which proves a watch before the response comes.
        etcd.set_version(version("3.5.1"));
        etcd.set_sync_delay(Duration::from_millis(100));
        fill(&etcd, 5);
        let bound = if in_fragments { 3_000 } else { 1 << 20 };
        let ks = builder().response_bytes_max(bound).start(etcd.clone()).await.unwrap();
        if in_fragments {
            etcd.faults().fragment(1);
        } else {
            etcd.faults().limit_message(3_000);
        }
        let ops = (0..5).map(|key| Op::put(format!("/k/{key:03}"), [7; 1000]));
        let revision = etcd.txn(ops);
        ks.wait_for_revision(revision).await.unwrap();
        let before = etcd.counts().watches;
        sleep(600 * SECOND).await;
        let watches = etcd.counts().watches - before;
        assert!(watches <= 1_000, "{watches} watches in 10 minutes, in fragments: {in_fragments}");
        let revision = etcd.put("/outside", "1");
        ks.wait_for_revision(revision).await.unwrap();
        etcd.faults().heal();
        assert_same(&ks, &etcd).await;
    }
}

#[tokio::test(start_paused = true)]
async fn c9_fragments_without_end_are_bounded() {
    let etcd = etcd();
    fill(&etcd, 5);
    let ks = builder().response_bytes_max(10_000).start(etcd.clone()).await.unwrap();
    // One revision of 50 fragments of 1,000 bytes each.
    etcd.faults().fragment(1);
    let ops = (0..50).map(|key| Op::put(format!("/k/{key:03}"), [7; 1000]));
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
