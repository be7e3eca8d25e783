//! Cuts while etcd or the network fails: tried again until they can be made, right whenever they are,
//! and a clear error in the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use etcd_keyspace::ServerVersion;

use super::cuts::assert_exact;
use super::*;

const A: &str = "/a/";
const B: &str = "/b/";

/// The first range is mirrored from endpoint 0, the other from endpoint 1.
fn at_two_endpoints() -> (FakeEtcd, KeySpacesBuilder<Vec<u8>>) {
    let etcd = etcd().with_endpoints(2);
    let spaces = builder(&etcd).each(|range, builder| {
        let seed = u64::from(*range != KeyRange::prefix(A));
        builder.seed(seed).check_interval(SECOND).backoff(100 * MS, SECOND)
    });
    (etcd, spaces)
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_cannot_answer_delays_the_others_for_seconds_and_is_named() {
    let (etcd, spaces) = at_two_endpoints();
    let spaces = spaces.cut_timeout(10 * SECOND).build();
    let (_a, b) = (spaces.get(A).await.unwrap(), spaces.get(B).await.unwrap());
    assert_eq!((etcd.counts_at(0).watchers, etcd.counts_at(1).watchers), (1, 1));
    // It is still taken to be live, and is the one that is asked for the revision.
    etcd.faults_at(0).stall();
    etcd.faults_at(1).refuse(Call::Watch, SourceErrorKind::Unavailable);
    let begun = Instant::now();
    let cut = tokio::spawn({
        let spaces = spaces.clone();
        async move { spaces.cut([A, B]).await }
    });
    let mut longest = Duration::ZERO;
    while !cut.is_finished() {
        let asked = Instant::now();
        b.wait_for_revision(etcd.put("/b/1", "x")).await.unwrap();
        longest = longest.max(asked.elapsed());
        sleep(10 * MS).await;
    }
    assert!(longest >= SECOND && longest <= 2100 * MS, "{longest:?}");
    let error = cut.await.unwrap().unwrap_err();
    let CutError::TimedOut { range, state, limit, .. } = &error else { panic!("{error:?}") };
    assert_eq!((range, *limit), (&KeyRange::prefix(A), 10 * SECOND));
    assert_eq!((*state, begun.elapsed() < 10_100 * MS), (State::Reconnecting, true), "{error}");
    // Once it is back, there is nothing left of that.
    etcd.faults().heal();
    assert_exact(&spaces.cut([A, B]).await.unwrap(), &etcd);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_is_reconnecting_is_waited_for_while_the_others_go_on() {
    let (etcd, spaces) = at_two_endpoints();
    let spaces = spaces.build();
    let (a, b) = (spaces.get(A).await.unwrap(), spaces.get(B).await.unwrap());
    etcd.faults_at(0).refuse(Call::Watch, SourceErrorKind::Unavailable);
    etcd.faults_at(1).down();
    while b.status().state == State::Live {
        sleep(MS).await;
    }
    let cut = tokio::spawn({
        let spaces = spaces.clone();
        async move { spaces.cut([A, B]).await }
    });
    let begun = Instant::now();
    while begun.elapsed() < 5 * SECOND {
        let asked = Instant::now();
        a.wait_for_revision(etcd.put("/a/1", "x")).await.unwrap();
        assert!(asked.elapsed() <= 100 * MS, "{:?}", asked.elapsed());
        sleep(10 * MS).await;
    }
    assert!(!cut.is_finished());
    etcd.faults().heal();
    assert_exact(&cut.await.unwrap().unwrap(), &etcd);
}

#[tokio::test(start_paused = true)]
async fn a_reload_or_a_restore_in_the_middle_of_a_cut_is_survived() {
    type Fault = fn(&FakeEtcd);
    let faults: [(&str, Fault); 5] = [
        ("cut", |etcd| etcd.faults().cut()),
        ("end", |etcd| etcd.faults().end_streams()),
        ("cancel", |etcd| etcd.faults().cancel("")),
        ("compacted", |etcd| etcd.faults().cancel_compacted(etcd.revision())),
        ("restore", |etcd| etcd.restore(etcd.revision() - 2)),
    ];
    for (name, fault) in faults {
        for after in [1, 50, 99, 101, 150, 250, 299, 301, 350] {
            let etcd = etcd();
            for n in 0..5 {
                etcd.txn([Op::put(format!("/a/{n}"), "x"), Op::put(format!("/b/{n}"), "x")]);
            }
            let spaces = spaces(&etcd);
            drop((spaces.get(A).await.unwrap(), spaces.get(B).await.unwrap()));
            etcd.faults().delay(100 * MS);
            let cut = tokio::spawn({
                let spaces = spaces.clone();
                async move { spaces.cut([A, B]).await }
            });
            sleep(after * MS).await;
            etcd.txn([Op::put("/a/x", "x"), Op::delete("/b/1")]);
            fault(&etcd);
            etcd.txn([Op::put("/b/x", "x"), Op::delete("/a/1")]);
            let cut = cut.await.unwrap();
            let cut = cut.unwrap_or_else(|error| panic!("{name} after {after}: {error}"));
            // A restored store has another history behind it than the cut may be of.
            if name != "restore" {
                assert_exact(&cut, &etcd);
            }
            assert_exact(&spaces.cut([A, B]).await.unwrap(), &etcd);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c9_what_is_held_back_is_bounded_by_the_queue() {
    let etcd = etcd();
    let spaces = builder(&etcd)
        .cut_timeout(3 * SECOND)
        .each(|_, builder| builder.queue_bounds(10, 1 << 20).check_interval(SECOND));
    let spaces = spaces.build();
    let (a, _b) = (spaces.get(A).await.unwrap(), spaces.get(B).await.unwrap());
    etcd.faults().delay_call(Call::Range, 100 * MS);
    let cut = tokio::spawn({
        let spaces = spaces.clone();
        async move { spaces.cut([A, B]).await }
    });
    // More comes within one round trip than may be held back, so it is shown instead.
    let mut behind = 0;
    while !cut.is_finished() {
        let revision = etcd.put("/a/1", "x");
        sleep(MS).await;
        behind = behind.max(revision - a.read().revision());
    }
    assert!((5..20).contains(&behind), "{behind}");
    let error = cut.await.unwrap().unwrap_err();
    let CutError::TimedOut { range, state: State::Live, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*range, KeyRange::prefix(A));
    assert!(spaces.stats().cut_retries > 3);
    // When the flood is over it is fine.
    assert_exact(&spaces.cut([A, B]).await.unwrap(), &etcd);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_stops_in_the_middle_ends_the_cut_with_its_reason() {
    for after in [50, 150, 250] {
        let etcd = etcd();
        etcd.faults().delay(100 * MS);
        let spaces = spaces(&etcd);
        let b = spaces.get(B).await.unwrap();
        let _a = spaces.get(A).await.unwrap();
        etcd.faults().delay_call(Call::Range, 300 * MS);
        let cut = tokio::spawn({
            let spaces = spaces.clone();
            async move { spaces.cut([A, B]).await }
        });
        sleep(after * MS).await;
        b.shutdown().await;
        let error = cut.await.unwrap().unwrap_err();
        let CutError::Stopped { range, reason: StopReason::Shutdown } = &error else {
            panic!("after {after}: {error:?}")
        };
        assert_eq!(*range, KeyRange::prefix(B));
        // The next one starts it again.
        assert_exact(&spaces.cut([A, B]).await.unwrap(), &etcd);
    }
}

/// Whatever goes wrong, and when: a cut that is made is exact.
#[tokio::test(start_paused = true)]
async fn c3_a_cut_is_exact_or_an_error_under_random_faults() {
    let mut retries = 0;
    for seed in 0..60 {
        let etcd = FakeEtcd::with_seed(seed).with_endpoints(2);
        etcd.set_progress_interval(None);
        etcd.set_sync_delay(Duration::from_millis(etcd.random(50)));
        etcd.faults().jitter(3 * MS);
        if etcd.random(3) == 0 {
            etcd.set_version(ServerVersion { major: 3, minor: 4, patch: 20 });
        }
        if etcd.random(2) == 0 {
            etcd.faults().fragment(2);
        }
        let spaces = builder(&etcd).each(move |_, builder| {
            builder.seed(seed).check_interval(SECOND).backoff(10 * MS, 50 * MS)
        });
        let spaces = spaces.build();
        let stop = Arc::new(AtomicBool::new(false));
        let writer = super::cuts::writer(&etcd, &stop);
        let breaker = tokio::spawn(break_it(etcd.clone(), Arc::clone(&stop)));
        for _ in 0..15 {
            let before = etcd.revision();
            let cut = spaces.cut([A, B]).await.unwrap_or_else(|error| panic!("{seed}: {error}"));
            assert!(cut.revision() >= before, "seed {seed}");
            assert_exact(&cut, &etcd);
            sleep(Duration::from_millis(etcd.random(200))).await;
        }
        stop.store(true, Ordering::Relaxed);
        writer.await.unwrap();
        breaker.await.unwrap();
        etcd.faults().heal();
        assert_exact(&spaces.cut([A, B]).await.unwrap(), &etcd);
        assert_eq!(etcd.counts().polls_after_end, 0);
        retries += spaces.stats().cut_retries;
    }
    println!("{retries} retries");
    assert!(retries > 50, "little went wrong: {retries}");
}

/// Breaks something every now and then, and never for long.
async fn break_it(etcd: FakeEtcd, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(etcd.random(300))).await;
        let endpoint = usize::try_from(etcd.random(2)).unwrap();
        let faults = etcd.faults_at(endpoint);
        match etcd.random(8) {
            0 => faults.cut(),
            1 => faults.end_streams(),
            2 => faults.cancel(""),
            3 => faults.cancel_compacted(etcd.revision()),
            4 => faults.duplicate(3),
            5 => etcd.compact(etcd.revision()),
            6 => faults.refuse_times(Call::Range, SourceErrorKind::Unavailable, 1),
            _ => {
                faults.hold_back();
                sleep(Duration::from_millis(etcd.random(100))).await;
                faults.catch_up();
            }
        }
    }
}
