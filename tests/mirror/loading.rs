//! Loading: at which revision, in which pieces, and what refuses a load.

use super::*;

#[tokio::test(start_paused = true)]
async fn gz4_a_load_at_a_past_revision_follows_from_there() {
    let etcd = etcd();
    etcd.put("/k/old", "1");
    let then = etcd.put("/k/a", "1");
    etcd.delete("/k/old");
    etcd.put("/k/raced", "1");
    let (ks, mut mirror) = builder().load_at(then).build(etcd.clone());
    while ks.status().counters.loads == 0 {
        mirror.step().await;
    }
    assert_eq!(ks.read().revision(), then);
    assert!(ks.read().contains("/k/old") && !ks.read().contains("/k/raced"));
    tokio::spawn(mirror.run());
    assert_same(&ks, &etcd).await;
    assert!(!ks.read().contains("/k/old") && ks.read().contains("/k/raced"));
}

#[tokio::test(start_paused = true)]
async fn t25_a_compacted_revision_to_load_at_ends_the_start() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let now = etcd.put("/k/a", "2");
    etcd.compact(now);
    let result = builder().load_at(now - 1).start(etcd).await;
    assert!(matches!(result, Err(StopReason::Compacted { revision, .. }) if revision == now - 1));
}

#[tokio::test(start_paused = true)]
async fn t25_a_future_revision_to_load_at_is_waited_for() {
    let etcd = etcd();
    let now = etcd.put("/k/a", "1");
    let starting = builder().load_at(now + 1).start(etcd.clone());
    tokio::pin!(starting);
    assert!(timeout(30_000 * MS, &mut starting).await.is_err());
    etcd.put("/k/b", "1");
    let ks = starting.await.unwrap();
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn t24_zero_keys_and_page_borders() {
    for keys in [0, 1, 99, 100, 101, 3_300] {
        let etcd = etcd();
        etcd.set_version(version("3.5.34"));
        for key in 0..keys {
            etcd.put(format!("/k/{key:05}"), "v");
        }
        let ks = start(&etcd).await;
        assert_eq!(ks.read().len(), keys);
        assert_same(&ks, &etcd).await;
        assert_eq!(etcd.counts().range_streams, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn b14_a_cut_range_stream_is_no_load() {
    let etcd = etcd();
    for key in 0..200 {
        etcd.put(format!("/k/{key:05}"), "v");
    }
    etcd.faults().truncate_range_streams(2);
    let ks = start(&etcd).await;
    assert_eq!(ks.read().len(), 200);
    assert!(ks.status().counters.failures >= 2);
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn t28_unordered_pages_are_refused_and_read_again() {
    let etcd = etcd();
    etcd.set_version(version("3.5.34"));
    for key in 0..10 {
        etcd.put(format!("/k/{key:05}"), "v");
    }
    etcd.faults().scramble_pages(2);
    let ks = start(&etcd).await;
    assert_same(&ks, &etcd).await;
    assert!(ks.status().counters.failures >= 1);
}

#[tokio::test(start_paused = true)]
async fn b12_pages_that_are_too_large_shrink() {
    let etcd = etcd();
    etcd.set_version(version("3.5.34"));
    for key in 0..300 {
        etcd.put(format!("/k/{key:05}"), vec![b'v'; 100]);
    }
    etcd.faults().limit_message(1_000);
    let ks = start(&etcd).await;
    assert_eq!(ks.read().len(), 300);
    assert_eq!(ks.status().counters.failures, 0);
    etcd.faults().heal();
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn b11_compaction_between_pages_restarts_the_load() {
    let etcd = etcd();
    etcd.set_version(version("3.5.34"));
    for key in 0..1_000 {
        etcd.put(format!("/k/{key:05}"), "v");
    }
    etcd.faults().delay(10 * MS);
    let compactor = {
        let etcd = etcd.clone();
        tokio::spawn(async move {
            loop {
                let now = etcd.put("/k/00000", "w");
                etcd.compact(now);
                tokio::time::sleep(15 * MS).await;
            }
        })
    };
    let ks = start(&etcd).await;
    assert!(ks.status().counters.load_restarts >= 1);
    compactor.abort();
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn t26_a_load_that_fails_midway_changes_nothing() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    let steps = count_steps(&ks);
    let seen = steps.load(Ordering::SeqCst);
    etcd.faults().refuse(Call::Range, SourceErrorKind::Unavailable);
    etcd.faults().refuse(Call::RangeStream, SourceErrorKind::Unavailable);
    etcd.faults().cancel_compacted(etcd.revision());
    reaches(&ks, State::Reloading).await;
    tokio::time::sleep(5_000 * MS).await;
    assert_eq!(ks.read().len(), 1);
    assert_eq!(steps.load(Ordering::SeqCst), seen);
    etcd.faults().heal();
    reaches(&ks, State::Live).await;
    // T-29: nothing changed, so nobody is told.
    assert_eq!(steps.load(Ordering::SeqCst), seen);
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn load_progress_is_shown_and_the_load_timeout_says_why() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    etcd.faults().refuse(Call::Range, SourceErrorKind::Unavailable);
    etcd.faults().refuse(Call::RangeStream, SourceErrorKind::Unavailable);
    let begun = Instant::now();
    let result = builder().load_timeout(3_000 * MS).start(etcd).await;
    assert!(matches!(result, Err(StopReason::LoadTimeout { cause: Some(_) })), "{result:?}");
    assert_eq!(begun.elapsed().as_millis() / 10, 300);
}

/// Loading is not enough to start: the limit covers the watch too, but nothing after it.
#[tokio::test(start_paused = true)]
async fn h71_the_load_timeout_covers_the_first_watch() {
    for created in [false, true] {
        let etcd = etcd();
        etcd.put("/k/a", "1");
        if created {
            etcd.faults().delay_created(1_000_000 * MS);
        } else {
            etcd.faults().refuse(Call::Watch, SourceErrorKind::Unavailable);
        }
        let begun = Instant::now();
        let starting = builder().load_timeout(3_000 * MS).start(etcd.clone());
        let result = timeout(60_000 * MS, starting).await.expect("the limit ends the start");
        assert!(matches!(result, Err(StopReason::LoadTimeout { .. })), "{result:?}");
        assert_eq!(begun.elapsed().as_millis() / 10, 300);
    }
}

#[tokio::test(start_paused = true)]
async fn h71_a_mirror_that_was_live_once_outlives_the_load_timeout() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = builder().load_timeout(3_000 * MS).start(etcd.clone()).await.unwrap();
    etcd.faults().refuse(Call::Watch, SourceErrorKind::Unavailable);
    etcd.faults().cut();
    tokio::time::sleep(60_000 * MS).await;
    assert_eq!(ks.status().state, State::Reconnecting);
    etcd.faults().heal();
    assert_same(&ks, &etcd).await;
}

static ALIVE: AtomicUsize = AtomicUsize::new(0);
struct Counted;
impl Drop for Counted {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A comparison that a compaction ends lets go of the view that it kept.
#[tokio::test(start_paused = true)]
async fn c9_a_comparison_that_a_compaction_ends_keeps_no_old_view() {
    let etcd = etcd();
    for n in 0..20 {
        etcd.put(format!("/k/{n}"), "old");
    }
    let builder = KeySpace::builder("/k/").unwrap().decoder(|_: RawKeyValue| {
        ALIVE.fetch_add(1, Ordering::SeqCst);
        Ok::<_, std::convert::Infallible>(Counted)
    });
    let ks: KeySpace<Counted> =
        builder.seed(7).check_interval(Duration::from_secs(1)).start(etcd.clone()).await.unwrap();
    etcd.faults().down();
    while ks.status().state != State::Reconnecting {
        tokio::time::sleep(MS).await;
    }
    for n in 0..20 {
        etcd.put(format!("/k/{n}"), "new");
    }
    etcd.compact(etcd.revision());
    etcd.faults().up();
    ks.wait_for_revision(etcd.revision()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((ks.status().state, ks.status().counters.loads_compacted), (State::Live, 1));
    assert_eq!(ALIVE.load(Ordering::SeqCst), 20, "old values are kept");
}

/// The runtime has one thread, which decodes and waits until another task has run.
#[test]
fn other_tasks_of_the_thread_run_while_a_long_page_is_decoded() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let etcd = etcd();
        etcd.set_version(version("3.5.34"));
        for key in 0..20_000 {
            etcd.put(format!("/k/{key:05}"), "v");
        }
        let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
        let (answer, answers) = std::sync::mpsc::channel();
        tokio::spawn(async move {
            begins.recv().await;
            let _ = answer.send(());
        });
        let answers = std::sync::Mutex::new(answers);
        let decoder =
            move |kv: RawKeyValue| -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
                if kv.key == b"/k/19999" {
                    begun.send(())?;
                    let answers = answers.lock().map_err(|error| error.to_string())?;
                    answers.recv_timeout(Duration::from_secs(20))?;
                }
                Ok(())
            };
        let ks = KeySpace::builder("/k/").unwrap().decoder(decoder).start(etcd).await.unwrap();
        assert_eq!((ks.read().len(), ks.rejected().len()), (20_000, 0));
    });
}
