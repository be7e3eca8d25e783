//! Every fault does what its name says, and no more.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::super::{Bug, Call, FakeEtcd, Op};
use super::*;

const LONG: Duration = Duration::from_secs(300);

fn all() -> RangeRequest {
    RangeRequest::new(KeyRange::all())
}

#[tokio::test(start_paused = true)]
async fn f19_a_cut_ends_streams_and_requests_on_their_way() {
    let etcd = FakeEtcd::new();
    let connection = connect(&etcd).await;
    let mut stream = created(&etcd, "", 2).await;
    etcd.put("k", "lost with the transport");
    etcd.faults().delay(Duration::from_secs(1));
    let (read, ()) = tokio::join!(connection.range(all()), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        etcd.faults().cut();
    });
    failed(read, SourceErrorKind::Unavailable);
    failed(try_next(&mut stream).await.unwrap(), SourceErrorKind::Unavailable);
    assert!(try_next(&mut stream).await.is_none());
    assert!(connection.range(all()).await.is_ok(), "the client connects again by itself");
    assert_eq!(etcd.counts().watchers, 0);
}

#[tokio::test(start_paused = true)]
async fn b3_a_cut_in_the_middle_of_fragments() {
    let etcd = FakeEtcd::new();
    etcd.faults().fragment(3);
    let mut stream = created(&etcd, "", 2).await;
    let keys = || (0..8_u8).map(|key| Op::put([key], ""));
    etcd.txn(keys());
    let sizes: Vec<_> = drain(&mut stream).iter().map(|m| (m.events.len(), m.fragment)).collect();
    assert_eq!(sizes, [(3, true), (3, true), (2, false)]);
    etcd.txn(keys());
    etcd.faults().cut_after(2);
    assert!(next(&mut stream).await.fragment);
    assert!(next(&mut stream).await.fragment);
    failed(try_next(&mut stream).await.unwrap(), SourceErrorKind::Unavailable);
    let mut again = created(&etcd, "", 3).await;
    assert_eq!(drain(&mut again).len(), 3, "the cut happened once");
}

#[tokio::test(start_paused = true)]
async fn f21_a_stalled_endpoint_answers_nothing_until_released() {
    let etcd = FakeEtcd::new();
    let connection = connect(&etcd).await;
    let mut stream = created(&etcd, "", 1).await;
    silent(&mut stream);
    etcd.faults().stall();
    etcd.put("k", "");
    assert!(timeout(LONG, connection.range(all())).await.is_err());
    assert!(timeout(LONG, connection.watch(&KeyRange::all(), 1)).await.is_err());
    assert!(timeout(LONG, etcd.connect(0)).await.is_err());
    assert!(timeout(LONG, next(&mut stream)).await.is_err());
    assert_eq!((0..200).filter(|_| stream.request_progress()).count(), 100, "a bounded queue");
    let (read, message, ()) = tokio::join!(connection.range(all()), next(&mut stream), async {
        tokio::time::sleep(LONG).await;
        etcd.faults().release();
    });
    assert_eq!(read.unwrap().count, 1);
    assert_eq!(message.events.len(), 1);
    assert_eq!(drain(&mut stream).len(), 100, "the requests are answered");
    assert_eq!(etcd.counts().watchers, 1, "abandoned watches are closed");
}

#[tokio::test(start_paused = true)]
async fn f26_one_endpoint_of_three_is_down() {
    let etcd = FakeEtcd::new().with_endpoints(3);
    assert_eq!((etcd.endpoints(), etcd.endpoint_name(2)), (3, "fake-2".to_owned()));
    let connection = etcd.connect(1).await.unwrap();
    etcd.faults_at(1).down();
    failed(connection.range(all()).await, SourceErrorKind::Unavailable);
    failed(etcd.connect(1).await, SourceErrorKind::Unavailable);
    let other = etcd.connect(2).await.unwrap().range(all()).await.unwrap().header.unwrap();
    etcd.faults_at(1).up();
    let header = connection.range(all()).await.unwrap().header.unwrap();
    assert_eq!(header.cluster_id, other.cluster_id);
    assert_ne!(header.member_id, other.member_id);
    assert_eq!((etcd.counts_at(1).connects, etcd.counts_at(0).connects), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn refusals_last_or_are_counted() {
    let etcd = FakeEtcd::new();
    let connection = connect(&etcd).await;
    etcd.faults().refuse_times(Call::Range, SourceErrorKind::TooLarge, 2);
    for _ in 0..2 {
        failed(connection.range(all()).await, SourceErrorKind::TooLarge);
    }
    assert!(connection.range(all()).await.is_ok());
    etcd.faults().refuse(Call::Version, SourceErrorKind::Denied);
    for _ in 0..3 {
        failed(connection.version().await, SourceErrorKind::Denied);
    }
    etcd.faults().allow(Call::Version);
    assert!(connection.version().await.is_ok());
    etcd.faults().refuse(Call::Watch, SourceErrorKind::Unavailable);
    failed(connection.watch(&KeyRange::all(), 1).await, SourceErrorKind::Unavailable);
    etcd.faults().heal();
    assert!(connection.watch(&KeyRange::all(), 1).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_delayed_answer_was_true_when_it_left() {
    let etcd = FakeEtcd::new();
    let connection = connect(&etcd).await;
    etcd.faults().delay(Duration::from_millis(20));
    etcd.faults().delay_call(Call::Version, Duration::from_millis(70));
    let asked = Instant::now();
    let (page, ()) = tokio::join!(connection.range(all()), async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        etcd.put("k", "");
    });
    assert_eq!((page.unwrap().count, asked.elapsed()), (0, Duration::from_millis(20)));
    connection.version().await.unwrap();
    assert_eq!(asked.elapsed(), Duration::from_millis(90));
}

#[tokio::test(start_paused = true)]
async fn messages_are_delayed_one_by_one_and_stay_in_order() {
    let etcd = FakeEtcd::new();
    etcd.faults().delay_created(Duration::from_secs(5));
    let opened = Instant::now();
    let mut stream = created(&etcd, "", 2).await;
    assert_eq!(opened.elapsed(), Duration::from_secs(5));
    etcd.faults().delay(Duration::from_millis(10));
    etcd.faults().jitter(Duration::from_millis(50));
    let written = Instant::now();
    let mut order = Vec::new();
    for _ in 0..20 {
        etcd.put("k", "");
    }
    for _ in 0..20 {
        order.extend(revisions(&next(&mut stream).await.events));
    }
    assert!(order.is_sorted() && order.len() == 20);
    assert!(written.elapsed() >= Duration::from_millis(10));
    assert!(written.elapsed() <= Duration::from_millis(61));
}

#[tokio::test(start_paused = true)]
async fn a_seed_reproduces_a_run() {
    async fn run(seed: u64) -> (Duration, u64, u64) {
        let etcd = FakeEtcd::with_seed(seed);
        etcd.faults().jitter(Duration::from_secs(1));
        let started = Instant::now();
        let page = read(&etcd, all()).await.unwrap();
        (started.elapsed(), page.header.unwrap().cluster_id, etcd.random(1000))
    }
    assert_eq!(run(7).await, run(7).await);
    assert_ne!(run(7).await, run(8).await);
}

#[tokio::test(start_paused = true)]
async fn t17_responses_are_sent_twice() {
    let etcd = FakeEtcd::new();
    let mut stream = created(&etcd, "", 2).await;
    for value in 0..3_u8 {
        etcd.put("k", [value]);
    }
    let first = drain(&mut stream);
    etcd.faults().duplicate(2);
    assert_eq!(drain(&mut stream), first[1..]);
    etcd.faults().replay(3);
    let again = next(&mut stream).await;
    assert_eq!(revisions(&again.events), [3, 4]);
}

#[tokio::test(start_paused = true)]
async fn t8_cancels_leave_the_stream_open() {
    let etcd = FakeEtcd::new();
    let mut stream = created(&etcd, "", 1).await;
    etcd.faults().cancel("");
    let cancel = next(&mut stream).await;
    assert!(cancel.canceled && cancel.compact_revision == 0 && cancel.cancel_reason.is_empty());
    let mut stream = created(&etcd, "", 1).await;
    etcd.faults().cancel_compacted(9);
    assert_eq!(next(&mut stream).await.compact_revision, 9);
    etcd.put("k", "");
    silent(&mut stream);
}

#[tokio::test(start_paused = true)]
async fn f35_a_mute_watcher_lives_and_says_nothing() {
    let etcd = FakeEtcd::new();
    let mut stream = created(&etcd, "", 2).await;
    etcd.faults().mute();
    etcd.put("k", "");
    assert!(stream.request_progress());
    assert!(timeout(LONG, next(&mut stream)).await.is_err());
    let mut other = created(&etcd, "", 2).await;
    assert_eq!(next(&mut other).await.events.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn b9_lost_events_are_lost_without_a_word() {
    let etcd = FakeEtcd::new();
    let mut stream = created(&etcd, "", 2).await;
    etcd.faults().lose_events(2);
    for _ in 0..3 {
        etcd.put("k", "");
    }
    let events = drain(&mut stream);
    assert_eq!(events.len(), 1);
    assert_eq!(revisions(&events[0].events), [4]);
    assert!(stream.request_progress());
    assert_eq!(header(&next(&mut stream).await), 4, "and progress lies");
}

#[tokio::test(start_paused = true)]
async fn f13_answers_above_the_limit_of_the_client() {
    let etcd = FakeEtcd::new();
    for key in 0..10_u8 {
        etcd.put([key], vec![0; 100]);
    }
    etcd.faults().limit_message(500);
    failed(read(&etcd, all()).await, SourceErrorKind::TooLarge);
    assert!(read(&etcd, RangeRequest { limit: 4, ..all() }).await.is_ok());
    let mut stream = created(&etcd, "", 2).await;
    failed(try_next(&mut stream).await.unwrap(), SourceErrorKind::TooLarge);
    etcd.faults().fragment(4);
    let mut stream = created(&etcd, "", 2).await;
    assert_eq!(drain(&mut stream).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn t11_headers_may_be_missing() {
    let etcd = FakeEtcd::new();
    etcd.faults().strip_headers();
    assert_eq!(read(&etcd, all()).await.unwrap().header, None);
    let mut stream = created(&etcd, "", 1).await;
    silent(&mut stream);
    stream.request_progress();
    assert_eq!(next(&mut stream).await.header, None);
}

#[tokio::test(start_paused = true)]
async fn t18_another_identity_or_history() {
    let etcd = FakeEtcd::new();
    for _ in 0..5 {
        etcd.put("k", "");
    }
    let before = read(&etcd, all()).await.unwrap().header.unwrap();
    let mut stream = created(&etcd, "", 2).await;
    etcd.restore(3);
    failed(try_next(&mut stream).await.unwrap(), SourceErrorKind::Unavailable);
    let after = read(&etcd, all()).await.unwrap().header.unwrap();
    assert_eq!((after.cluster_id, after.member_id), (before.cluster_id, before.member_id));
    assert_eq!(after.revision, 3);
    etcd.change_cluster();
    let other = read(&etcd, all()).await.unwrap().header.unwrap();
    assert_ne!(other.cluster_id, before.cluster_id);
}

#[tokio::test(start_paused = true)]
async fn t28_pages_out_of_order() {
    let etcd = FakeEtcd::new();
    etcd.put("a", "");
    etcd.faults().scramble_pages(2);
    let page = read(&etcd, all()).await.unwrap();
    assert_eq!(page.kvs[0], page.kvs[1]);
    etcd.put("b", "");
    let page = read(&etcd, all()).await.unwrap();
    assert!(page.kvs[0].key > page.kvs[1].key);
    assert!(read(&etcd, all()).await.unwrap().kvs.is_sorted_by_key(|kv| kv.key.clone()));
}

#[tokio::test(start_paused = true)]
async fn messages_can_be_injected_and_rewritten() {
    let etcd = FakeEtcd::new();
    let mut stream = created(&etcd, "", 2).await;
    etcd.faults().inject(&WatchResponse { watch_id: 77, ..WatchResponse::default() });
    assert_eq!(next(&mut stream).await.watch_id, 77);
    let fake = etcd.clone();
    etcd.faults().tamper(move |mut message| {
        message.watch_id = fake.revision();
        (fake.revision() != 3).then_some(message)
    });
    etcd.put("k", "");
    assert_eq!(next(&mut stream).await.watch_id, 2);
    etcd.put("k", "");
    silent(&mut stream);
    etcd.faults().heal();
    etcd.put("k", "");
    assert_eq!(next(&mut stream).await.watch_id, 0);
}

#[tokio::test(start_paused = true)]
async fn progress_can_be_ignored() {
    let etcd = FakeEtcd::new();
    let mut stream = created(&etcd, "", 1).await;
    silent(&mut stream);
    etcd.faults().ignore_progress();
    assert!(stream.request_progress());
    silent(&mut stream);
}

#[tokio::test(start_paused = true)]
async fn a_lagging_member_holds_linearizable_reads() {
    let etcd = FakeEtcd::new();
    etcd.faults().hold_back();
    etcd.put("k", "");
    let connection = connect(&etcd).await;
    let (page, ()) = tokio::join!(connection.range(all()), async {
        tokio::time::sleep(LONG).await;
        etcd.faults().catch_up();
    });
    assert_eq!(page.unwrap().count, 1);
}

#[tokio::test(start_paused = true)]
async fn old_servers_answer_from_a_lagging_member() {
    let etcd = FakeEtcd::new();
    etcd.put("k", "");
    etcd.faults().bug(Bug::StaleReads, true);
    etcd.faults().hold_back();
    let revision = etcd.put("l", "");
    let page = read(&etcd, all()).await.unwrap();
    assert_eq!((page.count, page.header.unwrap().revision), (1, revision - 1));
    failed(read(&etcd, RangeRequest { revision, ..all() }).await, SourceErrorKind::FutureRevision);
}

#[tokio::test(start_paused = true)]
async fn f36_a_permission_must_cover_the_whole_range() {
    let etcd = FakeEtcd::new();
    etcd.faults().permit_only(&KeyRange::prefix("p/"));
    let connection = connect(&etcd).await;
    for (range, permitted) in [
        (KeyRange::prefix("p/"), true),
        (KeyRange::key("p/1"), true),
        (KeyRange::prefix("p"), false),
        (KeyRange::key("q"), false),
    ] {
        assert_eq!(connection.range(RangeRequest::new(range.clone())).await.is_ok(), permitted);
        assert_eq!(connection.range_stream(&range).await.is_ok(), permitted);
        let mut stream = connection.watch(&range, 0).await.unwrap();
        assert_eq!(next(&mut stream).await.canceled, !permitted);
    }
}

#[tokio::test(start_paused = true)]
async fn streams_fail_with_any_kind_while_requests_go_on() {
    let etcd = FakeEtcd::new();
    let connection = connect(&etcd).await;
    let mut stream = created(&etcd, "", 2).await;
    let (next, read) = tokio::join!(try_next(&mut stream), async {
        etcd.faults().fail_streams(SourceErrorKind::Malformed);
        connection.range(all()).await
    });
    failed(next.unwrap(), SourceErrorKind::Malformed);
    assert!(read.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_batch_lost_whole_does_not_stop_the_rest() {
    let etcd = FakeEtcd::new();
    etcd.set_batch_revisions(1);
    for _ in 0..3 {
        etcd.put("k", "");
    }
    etcd.faults().lose_events(2);
    let mut stream = created(&etcd, "", 2).await;
    assert_eq!(revisions(&next(&mut stream).await.events), [4]);
}

#[test]
fn bugs_end_with_the_version_that_repairs_them() {
    let version = |text| ServerVersion::parse(text).unwrap();
    let bugs = |text| -> Vec<Bug> {
        Bug::ALL.into_iter().filter(|bug| bug.afflicts(version(text))).collect()
    };
    assert_eq!(bugs("3.5.1").len(), Bug::ALL.len() - 1, "all but the repair's side effect");
    assert!(bugs("3.4.24").contains(&Bug::EarlyProgress));
    assert!(!bugs("3.4.25").contains(&Bug::EarlyProgress));
    assert!(bugs("3.4.25").contains(&Bug::QuietProgress));
    for bug in [Bug::EarlyProgress, Bug::QuietProgress, Bug::SilentGap] {
        for trusted in ["3.4.31", "3.5.13", "3.6.0", "3.7.1", "4.0.0"] {
            assert!(version(trusted).progress_is_trusted() && !bug.afflicts(version(trusted)));
        }
    }
    assert_eq!(bugs("3.6.0"), [Bug::FutureStart, Bug::NegativeStart, Bug::StaleReads]);
    assert_eq!(bugs("3.6.9"), []);
    assert_eq!(bugs("3.7.0"), []);
}

#[tokio::test(start_paused = true)]
async fn a_test_can_wait_for_counts() {
    let etcd = FakeEtcd::new();
    let (counts, stream) =
        tokio::join!(etcd.until(|counts| counts.watchers == 1), watch(&etcd, "", 1));
    assert_eq!(counts.watches, 1);
    let ((), counts) = tokio::join!(async { drop(stream) }, etcd.until(|c| c.watchers == 0));
    assert_eq!(counts.reads(), 0);
}

/// The capacity is one queue: what is asked for together is answered one after the other.
#[tokio::test(start_paused = true)]
async fn answers_wait_for_their_turn_where_the_capacity_is_bounded() {
    let etcd = FakeEtcd::new();
    for key in 0..10_u8 {
        etcd.put([key], [0; 99]);
    }
    let connection = connect(&etcd).await;
    etcd.faults().capacity(10, 1000);
    let begun = Instant::now();
    let mut asked: tokio::task::JoinSet<_> = (0..5).map(|_| connection.version()).collect();
    while let Some(answer) = asked.join_next().await {
        assert!(answer.unwrap().is_ok());
    }
    assert_eq!(begun.elapsed().as_millis(), 500);
    assert_eq!(etcd.counts().longest_queue.as_millis(), 500);

    // A request, and the thousand bytes that it reads.
    let begun = Instant::now();
    assert_eq!(connection.range(all()).await.unwrap().kvs.len(), 10);
    assert_eq!(begun.elapsed().as_millis(), 1100);
    let begun = Instant::now();
    let mut stream = connection.range_stream(&KeyRange::all()).await.unwrap();
    let chunk = poll_fn(|cx| stream.poll_next(cx)).await.unwrap().unwrap();
    assert_eq!((chunk.kvs.len(), begun.elapsed().as_millis()), (10, 1200));
    assert!(poll_fn(|cx| stream.poll_next(cx)).await.is_none());

    // What waits for its turn is lost with the transport, and nothing waits when all is well again.
    let mut stream = connection.range_stream(&KeyRange::all()).await.unwrap();
    assert!(timeout(Duration::from_millis(10), poll_fn(|cx| stream.poll_next(cx))).await.is_err());
    etcd.faults().cut();
    let lost = poll_fn(|cx| stream.poll_next(cx)).await.unwrap();
    assert_eq!(lost.unwrap_err().kind(), SourceErrorKind::Unavailable);
    etcd.faults().heal();
    let begun = Instant::now();
    assert!(connection.range(all()).await.is_ok());
    assert_eq!(begun.elapsed(), Duration::ZERO);
}
