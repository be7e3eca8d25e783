//! Cuts: every snapshot is the store's state at one revision, whatever is written meanwhile, and
//! whoever goes away leaves no mirror behind that holds back.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use etcd_keyspace::ServerVersion;

use super::*;

const A: &str = "/a/";
const B: &str = "/b/";

/// Every snapshot is what the store was at the revision, to the last number.
pub(super) fn assert_exact(cut: &Cut<Vec<u8>>, etcd: &FakeEtcd) {
    for (range, snapshot) in cut.iter() {
        let at = cut.revision();
        assert!(snapshot.revision() <= at && at <= snapshot.confirmed(), "{cut:?} {snapshot:?}");
        let shown: Vec<_> = snapshot
            .iter()
            .map(|e| (e.key().to_vec(), e.value().clone(), e.mod_revision(), e.version()))
            .collect();
        let truth = etcd.range_at(range, at);
        let truth: Vec<_> =
            truth.into_iter().map(|kv| (kv.key, kv.value, kv.mod_revision, kv.version)).collect();
        assert_eq!(shown, truth, "{range} at {at}");
    }
}

/// Polls a future once.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Moves something from one range to the other, creating or deleting on the way.
fn mix(etcd: &FakeEtcd) -> Revision {
    let (from, to) = if etcd.random(2) == 0 { (A, B) } else { (B, A) };
    let n = etcd.random(4);
    let value = etcd.random(1000).to_string();
    match etcd.random(5) {
        0 => etcd.put(format!("{from}{n}"), value),
        1 => etcd.delete(format!("{from}{n}")),
        2 => etcd.put("/elsewhere", value),
        _ => etcd.txn([Op::delete(format!("{from}{n}")), Op::put(format!("{to}{n}"), value)]),
    }
}

/// Writes at random moments until it is told to stop.
pub(super) fn writer(etcd: &FakeEtcd, stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<()> {
    let (etcd, stop) = (etcd.clone(), Arc::clone(stop));
    tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..etcd.random(4) {
                mix(&etcd);
            }
            sleep(Duration::from_micros(etcd.random(3000))).await;
        }
    })
}

async fn cuts_under_writes(etcd: &FakeEtcd, spaces: &Spaces, cuts: usize) {
    let stop = Arc::new(AtomicBool::new(false));
    let writer = writer(etcd, &stop);
    let mut last = 0;
    for _ in 0..cuts {
        let before = etcd.revision();
        let cut = spaces.cut([A, B]).await.unwrap();
        assert!(cut.revision() >= before.max(last), "{cut:?} of {before} and {last}");
        assert_exact(&cut, etcd);
        last = cut.revision();
        sleep(Duration::from_micros(etcd.random(5000))).await;
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    for range in [A, B] {
        let ks = spaces.get(range).await.unwrap();
        ks.wait_for_revision(etcd.revision()).await.unwrap();
        assert_eq!(ks.status().counters.discontinuities, 0);
        assert_eq!(ks.read().len(), etcd.range(&KeyRange::prefix(range)).len());
    }
    assert_eq!((spaces.stats().cuts, etcd.counts().polls_after_end), (cuts as u64, 0));
}

#[tokio::test(start_paused = true)]
async fn c1_c3_a_cut_is_of_one_revision_under_writes() {
    for seed in 0..40 {
        let etcd = FakeEtcd::with_seed(seed);
        etcd.set_progress_interval(None);
        let (delay, jitter) = (etcd.random(20), etcd.random(10));
        etcd.faults().delay(Duration::from_micros(delay * 500));
        etcd.faults().jitter(Duration::from_micros(jitter * 500));
        if seed % 3 == 0 {
            etcd.faults().fragment(2);
        }
        etcd.set_sync_delay(Duration::from_millis(etcd.random(100)));
        let apply_delay = Duration::from_millis(etcd.random(3) * 30);
        let each = move |_: &KeyRange, builder: etcd_keyspace::Builder<Vec<u8>>| {
            builder.seed(seed).apply_delay(apply_delay)
        };
        let spaces = KeySpaces::builder(etcd.clone(), bytes()).each(each).build();
        cuts_under_writes(&etcd, &spaces, 25).await;
        assert_eq!(spaces.stats().cut_retries, 0, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn b13_a_cut_is_exact_where_progress_is_not_believed() {
    for seed in 0..20 {
        let etcd = FakeEtcd::with_seed(seed);
        etcd.set_progress_interval(None);
        etcd.faults().delay(MS);
        match seed % 2 {
            0 => etcd.set_version(ServerVersion { major: 3, minor: 5, patch: 1 }),
            _ => etcd.faults().proxy(),
        }
        let spaces = spaces(&etcd);
        cuts_under_writes(&etcd, &spaces, 10).await;
    }
}

/// What was written and taken back before a count of now is not seen by it, so it does not prove a
/// revision in between.
#[tokio::test(start_paused = true)]
async fn b13_a_count_of_now_proves_no_revision_before_it() {
    let etcd = etcd();
    etcd.set_version(ServerVersion { major: 3, minor: 5, patch: 1 });
    // Nothing is counted but for the cut.
    let spaces = builder(&etcd).each(|_, builder| builder.check_interval(60 * SECOND)).build();
    let (_a, b) = (spaces.get(A).await.unwrap(), spaces.get(B).await.unwrap());
    // Both see nothing of what comes until it is sent again; only reads are answered.
    etcd.faults().tamper(|message| message.events.is_empty().then_some(message));
    sleep(SECOND).await;
    let barriers = etcd.counts().barriers;
    let mut cut = pin!(spaces.cut([A, B]));
    let created = etcd.put("/b/1", "x");
    while etcd.counts().barriers < barriers + 2 {
        assert!(timeout(MS, cut.as_mut()).await.is_err());
    }
    // The revision of the cut shows the key; the store of now does not any more.
    etcd.delete("/b/1");
    assert!(timeout(300 * MS, cut.as_mut()).await.is_err());
    assert_eq!(b.read().revision(), 1);
    etcd.faults().heal();
    etcd.faults().replay(created);
    let cut = cut.await.unwrap();
    assert_eq!((cut.revision(), cut[1].len()), (created, 1));
    assert_exact(&cut, &etcd);
}

#[tokio::test(start_paused = true)]
async fn nothing_beyond_it_is_shown_meanwhile_and_waits_end_right_after() {
    let etcd = etcd();
    let spaces = builder(&etcd).build();
    let (a, b) = (spaces.get(A).await.unwrap(), spaces.get(B).await.unwrap());
    etcd.faults().delay_call(Call::Range, 200 * MS);
    let cut = tokio::spawn({
        let spaces = spaces.clone();
        async move { spaces.cut([B, A, B]).await }
    });
    sleep(10 * MS).await;
    let begun = Instant::now();
    let revision = etcd.txn([Op::put("/a/1", "x"), Op::put("/b/1", "x")]);
    assert!(timeout(100 * MS, a.wait_for_revision(revision)).await.is_err());
    assert_eq!((a.read().len(), b.read().len()), (0, 0));
    let (waited, cut) = tokio::join!(a.wait_for_revision(revision), cut);
    assert!(waited.unwrap() >= revision && begun.elapsed() < 500 * MS, "{:?}", begun.elapsed());
    let cut = cut.unwrap().unwrap();
    assert_exact(&cut, &etcd);
    // In the order asked for, each as often.
    let names: Vec<_> = cut.iter().map(|(range, _)| range.start()).collect();
    assert_eq!(names, [b"/b/", b"/a/", b"/b/"]);
    assert_eq!(cut.of(&KeyRange::prefix(A)).unwrap().len(), cut[1].len());
    assert!(cut.of(&KeyRange::prefix("/c/")).is_none() && cut.len() == 3);
    assert_eq!(cut.clone().into_snapshots().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_cut_that_is_dropped_lets_every_mirror_go_on_at_once() {
    let etcd = etcd();
    let spaces = spaces(&etcd);
    let (a, b) = (spaces.get(A).await.unwrap(), spaces.get(B).await.unwrap());
    etcd.faults().delay_call(Call::Range, SECOND);
    for after in [0, 1, 5, 50, 900, 1010] {
        let cut = timeout(after * MS, spaces.cut([A, B]));
        let revision = etcd.txn([Op::put("/a/1", "x"), Op::put("/b/1", "x")]);
        let _ = cut.await;
        let begun = Instant::now();
        for ks in [&a, &b] {
            ks.wait_for_revision(revision).await.unwrap();
            assert_eq!(ks.read().len(), 1);
        }
        assert!(begun.elapsed() <= 40 * MS, "after {after} ms: {:?}", begun.elapsed());
    }
    assert_eq!((a.stats().waits, b.stats().waits), (0, 0));
}

/// A future that nobody polls any more cannot be heard from, so the mirrors do not rely on it.
#[tokio::test(start_paused = true)]
async fn c9_a_cut_that_is_forgotten_holds_nobody_back_for_long() {
    let etcd = etcd();
    let spaces = spaces(&etcd);
    let a = spaces.get(A).await.unwrap();
    let mut cut = pin!(spaces.cut([A, B]));
    while a.status().counters.connects == 0 || spaces.stats().held < 2 || b_is_not_live(&spaces) {
        assert!(poll_once(cut.as_mut()).is_pending());
        sleep(MS).await;
    }
    assert!(poll_once(cut.as_mut()).is_pending());
    sleep(MS).await;
    let begun = Instant::now();
    let revision = etcd.put("/a/1", "x");
    a.wait_for_revision(revision).await.unwrap();
    let waited = begun.elapsed();
    assert!(waited >= SECOND && waited <= 2 * SECOND, "{waited:?}");
    // Taken up again, it is tried again.
    assert_exact(&cut.await.unwrap(), &etcd);
    assert!(spaces.stats().cut_retries > 0);
}

fn b_is_not_live(spaces: &Spaces) -> bool {
    let list = spaces.list();
    let states: Vec<_> = list.iter().filter_map(|info| info.status.as_ref()).collect();
    states.iter().any(|status| status.state != State::Live)
}

#[tokio::test(start_paused = true)]
async fn cuts_that_share_ranges_take_turns_and_never_wait_for_one_another_for_ever() {
    let etcd = etcd();
    etcd.faults().delay(3 * MS);
    let spaces = spaces(&etcd);
    let sets: [&[&'static str]; 4] = [&[A, B], &[B, A], &["/c/", A], &[B, "/c/"]];
    let mut cuts = tokio::task::JoinSet::new();
    for n in 0..100 {
        let (spaces, etcd) = (spaces.clone(), etcd.clone());
        cuts.spawn(async move {
            sleep(Duration::from_micros(etcd.random(50_000))).await;
            mix(&etcd);
            let cut = spaces.cut(sets[n % 4].iter().copied()).await.unwrap();
            assert_exact(&cut, &etcd);
        });
    }
    while let Some(cut) = cuts.join_next().await {
        cut.unwrap();
    }
    assert_eq!((spaces.stats().cuts, spaces.stats().cut_retries), (100, 0));
}

#[tokio::test(start_paused = true)]
async fn a_cut_is_use_so_nothing_of_it_is_let_go() {
    let etcd = etcd();
    let spaces = builder(&etcd).max(2).idle_ttl(Duration::ZERO).build();
    etcd.faults().delay_call(Call::Range, 200 * MS);
    let cut = tokio::spawn({
        let spaces = spaces.clone();
        async move { spaces.cut([A, B]).await }
    });
    holds(&spaces, 2).await;
    assert!(matches!(spaces.get("/c/").await, Err(GetError::Full { .. })));
    assert_exact(&cut.await.unwrap().unwrap(), &etcd);
    holds(&spaces, 0).await;
    assert_eq!((spaces.stats().starts, spaces.stats().evictions), (2, 0));
}

#[tokio::test]
#[should_panic = "waiting while this thread holds a read guard of the same key space would never end"]
async fn t55_a_cut_under_a_guard_panics_with_the_reason() {
    let etcd = etcd();
    let spaces = spaces(&etcd);
    let a = spaces.get(A).await.unwrap();
    let _b = spaces.get(B).await.unwrap();
    let _guard = a.read();
    let _ = poll_once(pin!(spaces.cut([A, B])));
}

/// What is awaited in tasks of a multi-thread runtime has to be `Send`.
#[tokio::test]
async fn what_is_awaited_can_be_sent() {
    fn sent<F: Future + Send>(future: F) -> F {
        future
    }
    let spaces = spaces(&etcd());
    sent(spaces.get(A)).await.unwrap();
    assert_eq!(sent(spaces.cut([A])).await.unwrap().revision(), 1);
    sent(spaces.shutdown()).await;
}
