//! From what arrives to what is shown: the delay, whole revisions, and breaks with a queue.

use super::*;

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

#[tokio::test(start_paused = true)]
async fn t30_a_reload_with_events_still_queued_shows_them_once_and_in_order() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = builder().apply_delay(10_000 * MS).start(etcd.clone()).await.unwrap();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&steps);
    ks.observe(move |delta, view, _| {
        let changes: Vec<_> = delta.iter().map(|change| format!("{change:?}")).collect();
        seen.lock().unwrap().push((view.revision(), changes.join(" ")));
    });
    let first = etcd.put("/k/a", "2");
    ks.wait_for_revision(first).await.unwrap();
    steps.lock().unwrap().clear();
    // Both are queued when the watch is cancelled as compacted, and the load is newer than both.
    etcd.put("/k/b", "1");
    let queued = etcd.delete("/k/b");
    etcd.put("/k/a", "3");
    etcd.until(|counts| counts.events >= 4).await;
    assert_eq!(ks.read().revision(), first);
    etcd.faults().cancel_compacted(queued);
    assert_same(&ks, &etcd).await;
    let revisions: Vec<_> = steps.lock().unwrap().iter().map(|(revision, _)| *revision).collect();
    assert!(revisions.is_sorted(), "{steps:?}");
    let changes: Vec<_> = steps.lock().unwrap().drain(..).map(|(_, changes)| changes).collect();
    assert_eq!(changes.join(" "), "Updated(/k/a)", "each change once");
}
