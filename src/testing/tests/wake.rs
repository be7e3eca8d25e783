//! Who waits is woken when there is something, and left alone when there is nothing: a needless
//! wake-up would hide that the code under test loses a needed one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use super::super::{Call, FakeEtcd};
use super::*;

type Deed = fn(&FakeEtcd);

fn drop_revision(_: Revision) {}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// How often a stream that has read everything is woken by `deed`.
async fn wakes(prepare: impl FnOnce(&FakeEtcd), deed: impl FnOnce(&FakeEtcd)) -> usize {
    let etcd = FakeEtcd::new().with_endpoints(2);
    let mut stream = created(&etcd, "k", 2).await;
    etcd.put("k", "");
    assert_eq!(next(&mut stream).await.events.len(), 1);
    prepare(&etcd);
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    assert!(stream.poll_next(&mut Context::from_waker(&waker)).is_pending());
    deed(&etcd);
    let count = wakes.0.load(Ordering::Relaxed);
    let next = stream.poll_next(&mut Context::from_waker(&waker));
    assert_eq!(next.is_ready(), count > 0, "{next:?}");
    count
}

#[tokio::test(start_paused = true)]
async fn a_waiting_stream_is_woken_by_news() {
    let nothing = |_: &FakeEtcd| {};
    let news: [(&str, Deed); 10] = [
        ("put", |etcd| drop_revision(etcd.put("k", ""))),
        ("delete", |etcd| drop_revision(etcd.delete("k"))),
        ("cut", |etcd| etcd.faults().cut()),
        ("fail", |etcd| etcd.faults().fail_streams(SourceErrorKind::Malformed)),
        ("end", |etcd| etcd.faults().end_streams()),
        ("cancel", |etcd| etcd.faults().cancel("")),
        ("duplicate", |etcd| etcd.faults().duplicate(1)),
        ("replay", |etcd| etcd.faults().replay(1)),
        ("inject", |etcd| etcd.faults().inject(&WatchResponse::default())),
        ("restore", |etcd| etcd.restore(1)),
    ];
    for (name, deed) in news {
        assert_eq!(wakes(nothing, deed).await, 1, "{name}");
    }
    let missed = |etcd: &FakeEtcd| {
        etcd.faults_at(0).hold_back();
        etcd.put("k", "");
    };
    assert_eq!(wakes(missed, |etcd| etcd.faults().catch_up()).await, 1);
    let unread = |etcd: &FakeEtcd| {
        etcd.faults_at(0).stall();
        etcd.put("k", "");
    };
    assert_eq!(wakes(unread, |etcd| etcd.faults().release()).await, 1);
    assert_eq!(wakes(unread, |etcd| etcd.faults().heal()).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_stream_is_left_alone_otherwise() {
    let nothing = |_: &FakeEtcd| {};
    let no_news: [(&str, Deed); 8] = [
        ("put elsewhere", |etcd| drop_revision(etcd.put("elsewhere", ""))),
        ("delete of nothing", |etcd| drop_revision(etcd.delete("k/none"))),
        ("compaction", |etcd| etcd.compact(etcd.revision())),
        ("other endpoint", |etcd| etcd.faults_at(1).cut()),
        ("stall", |etcd| etcd.faults().stall()),
        ("refusal", |etcd| etcd.faults().refuse(Call::Watch, SourceErrorKind::Denied)),
        ("mute", |etcd| etcd.faults().mute()),
        ("bug", |etcd| etcd.faults().impersonate(V34)),
    ];
    for (name, deed) in no_news {
        assert_eq!(wakes(nothing, deed).await, 0, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_progress_request_wakes_its_own_stream_when_it_is_answered() {
    let etcd = FakeEtcd::new();
    let mut stream = created(&etcd, "", 1).await;
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    for (ignored, expected) in [(true, 0), (false, 1)] {
        if ignored {
            etcd.faults().ignore_progress();
        } else {
            etcd.faults().heal();
            wakes.0.store(0, Ordering::Relaxed);
        }
        assert!(stream.poll_next(&mut Context::from_waker(&waker)).is_pending());
        stream.request_progress();
        assert_eq!(wakes.0.load(Ordering::Relaxed), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_timer_wakes_a_delayed_message() {
    let etcd = FakeEtcd::new();
    let mut stream = created(&etcd, "", 2).await;
    silent(&mut stream);
    etcd.faults().delay(Duration::from_secs(5));
    let (message, ()) = tokio::join!(next(&mut stream), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        etcd.put("k", "");
        etcd.faults().delay(Duration::ZERO);
    });
    assert_eq!(message.events.len(), 1);
}
