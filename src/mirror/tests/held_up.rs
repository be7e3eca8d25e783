//! A mirror whose keeper takes its time: what that must not be mistaken for.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::keyspace::KeySpace;
use crate::publish::{FeedReceiver, ProgressBy, tap};
use crate::testing::FakeEtcd;

/// Takes what comes while it is allowed to.
async fn take(mut tapping: FeedReceiver, mut allowed: watch::Receiver<bool>) {
    while allowed.wait_for(|allowed| *allowed).await.is_ok() {
        tokio::select! {
            biased;
            _ = allowed.wait_for(|allowed| !*allowed) => {}
            tapped = tapping.next() => {
                if tapped.is_none() {
                    return;
                }
            }
        }
    }
}

/// The watch answers while the mirror waits for room, much longer than silence is borne.
#[tokio::test(start_paused = true)]
async fn c7_c9_waiting_for_room_is_not_taken_for_a_silent_watch() {
    let etcd = FakeEtcd::new();
    etcd.set_progress_interval(None);
    let (allow, allowed) = watch::channel(true);
    let builder = KeySpace::builder("/k/").unwrap().bytes().seed(7);
    let builder = builder.apply_delay(Duration::from_millis(500));
    let builder = builder.check_interval(Duration::from_secs(1)).keeper(move |_, _| {
        let (tap, tapping) = tap(2_000);
        (tap, Box::pin(take(tapping, allowed)))
    });
    let ks = builder.start(etcd.clone()).await.unwrap();
    ks.wait_for_revision(etcd.revision()).await.unwrap();
    let before = ks.status().counters;
    // The first is applied at once, the second is collected for half a second and fills the way.
    allow.send_replace(false);
    etcd.put("/k/a", "1");
    ks.wait_until(|view| view.get("/k/a").map(|_| ())).await.unwrap();
    etcd.put("/k/b", vec![b'b'; 3_000]);
    sleep(Duration::from_millis(1)).await;
    // Somebody makes the mirror ask the watch, whose answer comes late.
    etcd.faults().stall();
    let newest = etcd.put("/elsewhere", "1");
    let waits = tokio::spawn({
        let ks = ks.clone();
        async move { ks.wait_for_revision(newest).await }
    });
    ks.wait_until(|view| view.get("/k/b").map(|_| ())).await.unwrap();
    etcd.faults().release();
    sleep(Duration::from_secs(20)).await;
    assert!(!waits.is_finished());
    allow.send_replace(true);
    waits.await.unwrap().unwrap();
    let now = ks.status();
    assert_eq!((now.counters.failures, now.counters.watches), (0, before.watches));
    assert_eq!(now.progress_by, ProgressBy::Request);
}
