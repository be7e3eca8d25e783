//! Starting: shared, cancelled, failed, repeated, ended.

use super::*;

#[tokio::test(start_paused = true)]
async fn concurrent_first_calls_load_once() {
    let etcd = etcd();
    etcd.put("/a/1", "x");
    etcd.faults().delay(20 * MS);
    let spaces = spaces(&etcd);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let spaces = spaces.clone();
        calls.spawn(async move { spaces.get("/a/").await });
    }
    while let Some(got) = calls.join_next().await {
        assert_eq!(got.unwrap().unwrap().read().len(), 1);
    }
    let counts = etcd.counts();
    assert_eq!((counts.loads + counts.range_streams, counts.watches, counts.connects), (1, 1, 1));
    assert_eq!(spaces.stats().starts, 1);
    // Another range has its own, also when it lies within.
    let whole = spaces.get("/a/").await.unwrap();
    let part = spaces.get(KeyRange::key("/a/1")).await.unwrap();
    assert_eq!(
        (whole.mirrored(), part.mirrored()),
        (&KeyRange::prefix("/a/"), &KeyRange::key("/a/1"))
    );
    assert_eq!(etcd.counts().watchers, 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_the_start_to_the_others_and_the_last_one_ends_it() {
    let etcd = etcd();
    etcd.faults().stall();
    let spaces = spaces(&etcd);
    let first = spaces.get("/a/");
    assert!(timeout(50 * MS, first).await.is_err());
    holds(&spaces, 0).await;
    // Nobody waits, so nothing is left; now two wait, and one of them goes.
    let second = tokio::spawn({
        let spaces = spaces.clone();
        async move { spaces.get("/a/").await }
    });
    holds(&spaces, 1).await;
    assert!(timeout(50 * MS, spaces.get("/a/")).await.is_err());
    assert_eq!((listed(&spaces), spaces.stats().starts), ([1, 0, 0, 0], 2));
    etcd.faults().heal();
    let ks = second.await.unwrap().unwrap();
    assert_eq!((ks.status().state, spaces.stats().starts), (State::Live, 2));
    assert_eq!((listed(&spaces), etcd.counts().watches), ([0, 1, 0, 0], 1));
}

#[tokio::test(start_paused = true)]
async fn t64_a_failed_start_reaches_every_caller_and_is_tried_again_after_growing_delays() {
    let etcd = etcd();
    etcd.faults().deny();
    let spaces = builder(&etcd).start_backoff(SECOND, 4 * SECOND).build();
    let mut nominal = SECOND;
    for _ in 0..4 {
        let connects = etcd.counts().connects;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let spaces = spaces.clone();
            calls.spawn(async move { spaces.get("/a/").await.unwrap_err() });
        }
        let mut longest = Duration::ZERO;
        while let Some(error) = calls.join_next().await {
            let error = error.unwrap();
            let GetError::Start { reason: StopReason::Refused { .. }, retry_in, .. } = &error
            else {
                panic!("{error:?}")
            };
            longest = longest.max(*retry_in);
        }
        assert!(longest > nominal / 2 - MS && longest <= nominal, "{longest:?} of {nominal:?}");
        assert_eq!(etcd.counts().connects, connects + 1);
        // Until then it is said at once and not asked.
        let begun = Instant::now();
        sleep(longest / 2).await;
        let again = spaces.get("/a/").await.unwrap_err();
        let GetError::Start { retry_in, .. } = again else { panic!("{again:?}") };
        assert!(retry_in + begun.elapsed() >= longest - MS && retry_in <= longest / 2);
        assert_eq!((etcd.counts().connects, listed(&spaces)), (connects + 1, [0, 0, 0, 1]));
        sleep(retry_in).await;
        nominal = (nominal * 2).min(4 * SECOND);
    }
    assert_eq!((spaces.stats().starts, spaces.stats().failed_starts), (4, 4));
    // A good start begins the delays anew.
    etcd.faults().grant();
    let ks = spaces.get("/a/").await.unwrap();
    ks.shutdown().await;
    etcd.faults().deny();
    let error = spaces.get("/a/").await.unwrap_err();
    let GetError::Start { retry_in, .. } = error else { panic!("{error:?}") };
    assert!(retry_in <= SECOND, "{retry_in:?}");
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_stopped_is_not_given_out_again() {
    let etcd = etcd();
    etcd.put("/a/1", "x");
    let spaces = spaces(&etcd);
    let old = spaces.get("/a/").await.unwrap();
    old.shutdown().await;
    let new = spaces.get("/a/").await.unwrap();
    assert_eq!((new.status().state, old.status().state), (State::Live, State::Stopped));
    assert_eq!((spaces.stats().starts, spaces.stats().stopped), (2, 1));
    let revision = etcd.put("/a/2", "y");
    new.wait_for_revision(revision).await.unwrap();
    assert_eq!((new.read().len(), old.read().len()), (2, 1));
    // The reason may be etcd's as well.
    etcd.change_cluster();
    assert!(matches!(new.closed().await, StopReason::AnotherCluster { .. }));
    assert_eq!(spaces.get("/a/").await.unwrap().read().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn ranges_that_cannot_be_are_refused_at_once() {
    let spaces = spaces(&etcd());
    assert!(matches!(spaces.get("/a//b").await, Err(GetError::Range(_))));
    assert!(matches!(spaces.get(KeyRange::bytes("b", "a")).await, Err(GetError::Range(_))));
    assert!(matches!(spaces.cut(["/a//b"]).await, Err(CutError::Get(GetError::Range(_)))));
    assert!(matches!(spaces.cut([""; 0]).await, Err(CutError::NoRange)));
    assert_eq!(spaces.stats().starts, 0);
}

#[tokio::test(start_paused = true)]
async fn t67_shutdown_stops_all_and_waits_and_may_be_called_again() {
    let etcd = etcd();
    etcd.put("/a/1", "x");
    let spaces = spaces(&etcd);
    let used = spaces.get("/a/").await.unwrap();
    drop(spaces.get("/b/").await.unwrap());
    etcd.faults().stall();
    let waits = tokio::spawn({
        let spaces = spaces.clone();
        async move { spaces.get("/c/").await }
    });
    holds(&spaces, 3).await;
    // Given up halfway, and called by two at once.
    drop(tokio::time::timeout(Duration::ZERO, spaces.shutdown()).await);
    tokio::join!(spaces.shutdown(), spaces.shutdown());
    assert_eq!((etcd.counts().watchers, spaces.stats().held), (0, 0));
    assert!(matches!(waits.await.unwrap(), Err(GetError::Shutdown)));
    assert!(matches!(spaces.get("/a/").await, Err(GetError::Shutdown)));
    assert!(matches!(spaces.cut(["/a/"]).await, Err(CutError::Get(GetError::Shutdown))));
    assert_eq!((used.status().state, used.read().len()), (State::Stopped, 1));
    spaces.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn b24_handles_outlive_the_cache_and_nothing_else_does() {
    let etcd = etcd();
    let spaces = spaces(&etcd);
    let used = spaces.get("/a/").await.unwrap();
    drop(spaces.get("/b/").await.unwrap());
    drop(spaces);
    watchers(&etcd, 1).await;
    let revision = etcd.put("/a/1", "x");
    used.wait_for_revision(revision).await.unwrap();
    assert_eq!(used.read().len(), 1);
    let clone = used.clone();
    drop(used);
    sleep(SECOND).await;
    assert_eq!(clone.status().state, State::Live);
    drop(clone);
    watchers(&etcd, 0).await;
}

#[tokio::test(start_paused = true)]
async fn every_start_is_configured_with_its_range() {
    let etcd = etcd();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let ranges = std::sync::Arc::clone(&seen);
    let spaces = KeySpaces::builder(etcd.clone(), |kv: etcd_keyspace::RawKeyValue| {
        String::from_utf8(kv.value)
    });
    let spaces = spaces.each(move |range, builder| {
        ranges.lock().unwrap().push(range.clone());
        builder.load_timeout(SECOND)
    });
    let spaces = spaces.build();
    etcd.put("/a/1", "x");
    assert_eq!(spaces.get("/a/").await.unwrap().read().get("/a/1").unwrap().value(), "x");
    etcd.faults().stall();
    let error = spaces.get("/b/").await.unwrap_err();
    assert!(
        matches!(error, GetError::Start { reason: StopReason::LoadTimeout { .. }, .. }),
        "{error}"
    );
    assert_eq!(*seen.lock().unwrap(), [KeyRange::prefix("/a/"), KeyRange::prefix("/b/")]);
}
