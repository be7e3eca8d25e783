//! Watch streams: what comes first, what headers say, when progress is answered.

use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::super::{Bug, FakeEtcd, Op};
use super::*;

/// Writes `writes` revisions to one key, so that the store ends at `writes + 1`.
fn written(writes: i64) -> FakeEtcd {
    let etcd = FakeEtcd::new();
    for value in 0..writes {
        etcd.put("k", value.to_string());
    }
    etcd
}

#[tokio::test(start_paused = true)]
async fn f1_a_backlog_is_cut_at_a_thousand_revisions_with_the_header_of_now() {
    let etcd = written(5000);
    let mut stream = created(&etcd, "", 2).await;
    let batches = drain(&mut stream);
    let sizes: Vec<_> = batches.iter().map(|batch| batch.events.len()).collect();
    assert_eq!(sizes, [1000; 5]);
    assert!(batches.iter().all(|batch| header(batch) == 5001));
    assert_eq!(batches[0].events.last().unwrap().mod_revision(), 1001);
}

#[tokio::test(start_paused = true)]
async fn f1_only_matching_revisions_count_and_a_revision_is_never_cut() {
    let etcd = FakeEtcd::new();
    etcd.set_batch_revisions(2);
    for _ in 0..3 {
        etcd.txn((0..5_u8).map(|key| Op::put([b'a', key], "")));
        etcd.put("elsewhere", "");
    }
    let mut stream = created(&etcd, "a", 1).await;
    let batches = drain(&mut stream);
    let sizes: Vec<_> = batches.iter().map(|batch| batch.events.len()).collect();
    assert_eq!(sizes, [10, 5]);
}

#[tokio::test(start_paused = true)]
async fn t2_created_comes_first_with_the_revision_of_now() {
    let etcd = written(4);
    let mut stream = watch(&etcd, "", 2).await;
    let first = next(&mut stream).await;
    assert!(first.created && !first.canceled && first.events.is_empty());
    assert_eq!((first.watch_id, header(&first)), (0, 5));
    assert_eq!(next(&mut stream).await.events.len(), 4);
    silent(&mut stream);
}

#[tokio::test(start_paused = true)]
async fn live_events_come_revision_by_revision() {
    let etcd = FakeEtcd::new();
    let mut stream = created(&etcd, "a", 2).await;
    etcd.put("a/1", "x");
    etcd.put("b/1", "outside");
    etcd.txn([Op::put("a/1", "y"), Op::put("b/1", "outside"), Op::delete("a/2")]);
    let messages = drain(&mut stream);
    let shape: Vec<_> = messages.iter().map(|m| (header(m), m.events.len())).collect();
    assert_eq!(shape, [(2, 1), (4, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_write_wakes_a_waiting_stream() {
    let etcd = FakeEtcd::new();
    let mut stream = created(&etcd, "", 2).await;
    let (response, revision) = tokio::join!(next(&mut stream), async { etcd.put("a", "") });
    assert_eq!(revisions(&response.events), [revision]);
}

#[tokio::test(start_paused = true)]
async fn f2_requested_progress_of_old_servers_overtakes_the_backlog() {
    let etcd = written(5000);
    etcd.faults().impersonate(V34);
    let mut stream = watch(&etcd, "", 2).await;
    assert!(stream.request_progress());
    let messages = drain(&mut stream);
    assert!(messages[0].created);
    assert_eq!((messages[1].watch_id, header(&messages[1])), (-1, 5001));
    assert!(messages[1].is_progress());
    assert_eq!(messages[2].events[0].mod_revision(), 2);
}

#[tokio::test(start_paused = true)]
async fn t3_requested_progress_is_dropped_before_the_backlog_is_sent_and_behind_it_after() {
    let etcd = written(3);
    let mut stream = created(&etcd, "", 2).await;
    assert!(stream.request_progress());
    let backlog = drain(&mut stream);
    assert_eq!(backlog.len(), 1, "no progress while unsynced: {backlog:?}");
    etcd.put("k", "live");
    assert!(stream.request_progress());
    let messages = drain(&mut stream);
    assert_eq!(revisions(&messages[0].events), [5]);
    assert!(messages[1].is_progress());
    assert_eq!((messages[1].watch_id, header(&messages[1])), (-1, 5));
    assert_eq!(etcd.counts().progress_requests, 2);
    assert_eq!(etcd.counts().progress_answers, 1);
}

#[tokio::test(start_paused = true)]
async fn f3_a_compacted_start_is_created_and_then_cancelled() {
    let etcd = written(10);
    etcd.compact(8);
    let mut stream = created(&etcd, "", 7).await;
    let cancel = next(&mut stream).await;
    assert!(cancel.canceled && !cancel.created);
    assert_eq!((cancel.compact_revision, header(&cancel)), (8, 0));
    assert_eq!(cancel.cancel_reason, "");
    etcd.put("k", "later");
    assert!(stream.request_progress());
    silent(&mut stream);
    assert_eq!(etcd.counts().watchers, 1, "F31: the watcher stays until the stream closes");
}

#[tokio::test(start_paused = true)]
async fn f4_the_compaction_revision_itself_can_be_watched() {
    let etcd = written(3);
    assert_eq!(etcd.delete("k"), 5);
    etcd.compact(5);
    let mut stream = created(&etcd, "", 5).await;
    let events = next(&mut stream).await.events;
    assert_eq!(events, [Event::Delete { key: b"k".to_vec(), mod_revision: 5 }]);

    etcd.faults().impersonate(V35);
    let mut stream = created(&etcd, "", 5).await;
    silent(&mut stream);
    let mut stream = created(&etcd, "", 4).await;
    assert_eq!(next(&mut stream).await.compact_revision, 5);
}

#[tokio::test(start_paused = true)]
async fn f4_compaction_leaves_the_last_change_of_a_key_at_its_revision() {
    let etcd = FakeEtcd::new();
    let both = etcd.txn([Op::put("a", "1"), Op::put("b", ""), Op::delete("a")]);
    etcd.compact(both);
    let mut stream = created(&etcd, "", both).await;
    let events = next(&mut stream).await.events;
    assert_eq!(events.len(), 2);
    assert!(matches!(&events[1], Event::Delete { key, .. } if key == b"a"));
}

#[tokio::test(start_paused = true)]
async fn f5_a_start_in_the_future_is_silent_until_it_comes() {
    let etcd = written(3);
    let mut stream = created(&etcd, "", 7).await;
    assert!(stream.request_progress());
    silent(&mut stream);
    etcd.faults().bug(Bug::FutureStart, true);
    assert!(stream.request_progress());
    assert_eq!(header(&next(&mut stream).await), 4);
    for _ in 0..3 {
        etcd.put("k", "");
    }
    assert_eq!(revisions(&next(&mut stream).await.events), [7]);
}

#[tokio::test(start_paused = true)]
async fn f5_old_servers_forget_a_start_in_the_future_when_they_catch_up() {
    let etcd = written(3);
    etcd.faults().impersonate(V35);
    let mut stream = created(&etcd, "", 9).await;
    etcd.faults().hold_back();
    etcd.put("elsewhere", "");
    etcd.faults().catch_up();
    etcd.put("k", "");
    assert_eq!(revisions(&next(&mut stream).await.events), [6]);
}

#[tokio::test(start_paused = true)]
async fn a_backlog_takes_its_time_and_progress_is_dropped_until_then() {
    let etcd = written(3);
    etcd.set_sync_delay(Duration::from_millis(100));
    let mut stream = created(&etcd, "", 2).await;
    silent(&mut stream);
    assert!(stream.request_progress());
    let waited = Instant::now();
    assert_eq!(next(&mut stream).await.events.len(), 3);
    assert_eq!(waited.elapsed(), Duration::from_millis(100));
    silent(&mut stream);
    etcd.put("k", "synced watchers do not wait");
    assert_eq!(drain(&mut stream).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn progress_is_withheld_right_behind_the_head_and_given_at_it() {
    let etcd = written(3);
    let mut behind = created(&etcd, "", etcd.revision() + 1).await;
    assert!(behind.request_progress());
    silent(&mut behind);
    let mut inclusive = created(&etcd, "", etcd.revision()).await;
    assert_eq!(revisions(&next(&mut inclusive).await.events), [4]);
    assert!(inclusive.request_progress());
    assert!(next(&mut inclusive).await.is_progress());
}

#[tokio::test(start_paused = true)]
async fn f6_a_negative_start_is_refused_by_new_servers_only() {
    let etcd = written(3);
    let mut stream = watch(&etcd, "", -1).await;
    let refusal = next(&mut stream).await;
    assert!(refusal.created && refusal.canceled);
    assert_eq!((refusal.watch_id, refusal.compact_revision), (-1, 0));
    assert!(refusal.cancel_reason.contains("required revision has been compacted"));
    etcd.faults().impersonate(V34);
    let mut stream = created(&etcd, "", -1).await;
    silent(&mut stream);
}

#[tokio::test(start_paused = true)]
async fn f7_an_empty_range_is_refused_and_the_stream_stays_open() {
    let etcd = FakeEtcd::new();
    let range = KeyRange::bytes("b", "a");
    let mut stream = connect(&etcd).await.watch(&range, 0).await.unwrap();
    let refusal = next(&mut stream).await;
    assert!(refusal.created && refusal.canceled);
    assert_eq!(refusal.watch_id, -1);
    assert_eq!(refusal.cancel_reason, "mvcc: watcher range is empty");
    silent(&mut stream);
}

#[tokio::test(start_paused = true)]
async fn f14_a_large_response_comes_in_fragments_of_two_mib() {
    let etcd = FakeEtcd::new();
    etcd.txn((0..100_u8).map(|key| Op::put([key], vec![0; 100_000])));
    let mut stream = created(&etcd, "", 2).await;
    let messages = drain(&mut stream);
    let flags: Vec<_> = messages.iter().map(|message| message.fragment).collect();
    assert_eq!(flags, [true, true, true, true, false]);
    assert!(messages.iter().all(|message| message.bytes() <= 2 * 1024 * 1024));
    let events: usize = messages.iter().map(|message| message.events.len()).sum();
    assert_eq!(events, 100);
}

#[tokio::test(start_paused = true)]
async fn f18_deletes_carry_key_and_revision_only() {
    let etcd = written(1);
    let mut stream = created(&etcd, "", 3).await;
    etcd.delete("k");
    let events = next(&mut stream).await.events;
    assert_eq!(events, [Event::Delete { key: b"k".to_vec(), mod_revision: 3 }]);
}

#[tokio::test(start_paused = true)]
async fn f28_a_member_without_leader_ends_watches_and_fails_reads_late() {
    let etcd = written(1);
    let connection = connect(&etcd).await;
    let mut stream = created(&etcd, "", 3).await;
    etcd.faults().lose_leader();
    let error = try_next(&mut stream).await.unwrap().unwrap_err();
    assert_eq!(error.message(), "etcdserver: no leader");
    failed(connection.watch(&KeyRange::all(), 3).await, SourceErrorKind::Unavailable);
    let asked = Instant::now();
    failed(
        connection.range(RangeRequest::new(KeyRange::all())).await,
        SourceErrorKind::Unavailable,
    );
    assert_eq!(asked.elapsed(), Duration::from_secs(7));
    etcd.faults().elect_leader();
    assert!(connection.range(RangeRequest::new(KeyRange::all())).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn f30_dropping_a_stream_ends_its_watcher() {
    let etcd = written(1);
    let first = created(&etcd, "", 1).await;
    let second = watch(&etcd, "", 1).await;
    assert_eq!(etcd.counts().watchers, 2);
    drop(first);
    drop(second);
    assert_eq!(etcd.counts().watchers, 0);
    assert_eq!(etcd.counts().watches, 2);
}

#[tokio::test(start_paused = true)]
async fn f33_an_expired_token_refuses_new_watches_and_old_servers_mask_it() {
    let etcd = written(1);
    let mut living = created(&etcd, "", 3).await;
    for (version, id, words) in
        [(V34, -1, "invalid auth token"), (V35, 0, "etcdserver: permission denied")]
    {
        etcd.faults().impersonate(version);
        etcd.faults().expire_token();
        let mut stream = watch(&etcd, "", 1).await;
        let refusal = next(&mut stream).await;
        assert!(refusal.created && refusal.canceled && refusal.cancel_reason.contains(words));
        assert_eq!(refusal.watch_id, id);
        let read = read(&etcd, RangeRequest::new(KeyRange::all())).await;
        failed(read, SourceErrorKind::Unauthenticated);
        connect(&etcd).await.refresh_token().await.unwrap();
        created(&etcd, "", 1).await;
    }
    etcd.faults().deny();
    connect(&etcd).await.refresh_token().await.unwrap();
    failed(read(&etcd, RangeRequest::new(KeyRange::all())).await, SourceErrorKind::Denied);
    assert_eq!(etcd.counts().token_refreshes, 3);
    etcd.put("k", "F32: watches outlive their rights");
    assert_eq!(next(&mut living).await.events.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn f38_a_lagging_member_shows_the_past_and_may_go_back_in_time() {
    let etcd = written(3);
    let mut quiet = created(&etcd, "", 4).await;
    assert_eq!(revisions(&next(&mut quiet).await.events), [4]);
    etcd.faults().hold_back();
    etcd.put("k", "unseen");
    let mut late = watch(&etcd, "", 5).await;
    assert_eq!(header(&next(&mut late).await), 4);
    assert!(quiet.request_progress());
    assert_eq!(header(&next(&mut quiet).await), 4);
    silent(&mut quiet);
    etcd.faults().catch_up();
    assert_eq!(revisions(&next(&mut quiet).await.events), [5]);
    assert_eq!(revisions(&next(&mut late).await.events), [5]);

    etcd.faults().bug(Bug::BackInTime, true);
    etcd.faults().hold_back();
    etcd.put("elsewhere", "");
    etcd.faults().catch_up();
    let again = next(&mut quiet).await;
    assert_eq!(revisions(&again.events), [5, 6]);
    assert_eq!(header(&again), 6);
}

#[tokio::test(start_paused = true)]
async fn f39_a_member_that_caught_up_past_a_compaction_cancels() {
    let etcd = written(3);
    let mut stream = created(&etcd, "", 5).await;
    etcd.faults().hold_back();
    etcd.put("k", "");
    etcd.put("k", "");
    etcd.compact(6);
    silent(&mut stream);
    etcd.faults().catch_up();
    assert_eq!(next(&mut stream).await.compact_revision, 6);
}

/// A watcher that fell behind and was overtaken by a compaction.
async fn slow_reader(etcd: &FakeEtcd) -> Vec<WatchResponse> {
    etcd.set_queue_responses(2);
    let mut stream = created(etcd, "", etcd.revision() + 1).await;
    for value in 0..10_u8 {
        etcd.put("k", [value]);
    }
    etcd.compact(etcd.revision());
    let mut messages = drain(&mut stream);
    etcd.put("k", "after");
    messages.extend(drain(&mut stream));
    messages
}

#[tokio::test(start_paused = true)]
async fn f41_a_slow_reader_behind_a_compaction_is_cancelled() {
    let messages = slow_reader(&written(0)).await;
    let tail = messages.last().unwrap();
    assert_eq!(messages.len(), 3);
    assert!(tail.canceled);
    assert_eq!(tail.compact_revision, 11);
}

#[tokio::test(start_paused = true)]
async fn f40_old_servers_lose_the_gap_without_a_word() {
    let etcd = written(0);
    etcd.faults().impersonate(V35);
    let messages = slow_reader(&etcd).await;
    let events: Vec<_> = messages.iter().flat_map(|message| revisions(&message.events)).collect();
    assert_eq!(events, [2, 3, 12]);
    assert!(messages.iter().all(|message| !message.canceled));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_what_it_missed_in_one_response() {
    let etcd = FakeEtcd::new();
    etcd.set_queue_responses(2);
    let mut stream = created(&etcd, "", 2).await;
    for _ in 0..5 {
        etcd.put("k", "");
    }
    assert!(stream.request_progress(), "taken, and dropped: the watcher is behind");
    let shape: Vec<_> =
        drain(&mut stream).iter().map(|m| (header(m), revisions(&m.events))).collect();
    assert_eq!(shape, [(2, vec![2]), (3, vec![3]), (6, vec![4, 5, 6])]);
}

#[tokio::test(start_paused = true)]
async fn t4_progress_is_not_answered_on_a_quiet_watcher_between_two_repairs() {
    let etcd = written(1);
    etcd.faults().impersonate(ServerVersion { major: 3, minor: 5, patch: 10 });
    let mut stream = created(&etcd, "quiet", 2).await;
    silent(&mut stream);
    stream.request_progress();
    silent(&mut stream);
    etcd.put("quiet", "");
    stream.request_progress();
    assert_eq!(drain(&mut stream).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn f46_a_proxy_swallows_progress_requests_and_passes_periodic_ones() {
    let etcd = written(1);
    etcd.set_progress_interval(Some(Duration::from_secs(60)));
    etcd.faults().proxy();
    etcd.faults().fragment(1);
    let mut stream = created(&etcd, "", 3).await;
    etcd.txn([Op::put("a", ""), Op::put("b", "")]);
    assert!(stream.request_progress());
    let messages = drain(&mut stream);
    assert_eq!((messages.len(), messages[0].fragment), (1, false));
    let waited = Instant::now();
    let progress = next(&mut stream).await;
    assert!(progress.is_progress());
    assert_eq!((progress.watch_id, header(&progress)), (0, 3));
    assert!(waited.elapsed() > Duration::from_secs(120), "elided once, after events");
    // F47: the backend dies and nobody tells the stream.
    etcd.faults().cut();
    etcd.put("a", "");
    assert!(timeout(Duration::from_secs(3600), next(&mut stream)).await.is_err());
    assert!(created(&etcd, "", 4).await.request_progress());
}

#[tokio::test(start_paused = true)]
async fn periodic_progress_comes_every_ten_minutes_and_a_little() {
    let etcd = FakeEtcd::new();
    let mut stream = created(&etcd, "", 1).await;
    let opened = Instant::now();
    for turn in 1..4_u32 {
        assert!(next(&mut stream).await.is_progress());
        let minutes = opened.elapsed() / 60 / turn;
        assert!((Duration::from_secs(10)..Duration::from_secs(11)).contains(&minutes));
    }
    etcd.set_progress_interval(None);
    let mut stream = created(&etcd, "", 1).await;
    assert!(timeout(Duration::from_secs(36_000), next(&mut stream)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_polled_stream_after_its_end_is_counted() {
    let etcd = FakeEtcd::new();
    let mut stream = created(&etcd, "", 2).await;
    etcd.put("k", "read before the end");
    etcd.faults().end_streams();
    assert_eq!(next(&mut stream).await.events.len(), 1);
    assert!(matches!(now(&mut stream), Poll::Ready(None)));
    assert_eq!(etcd.counts().polls_after_end, 0);
    assert!(matches!(now(&mut stream), Poll::Ready(None)));
    assert_eq!(etcd.counts().polls_after_end, 1);
    assert!(!stream.request_progress());
}
