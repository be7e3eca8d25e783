//! BW-1 to BW-12 of watchers: order, filters, retries, options, and the short forms for `lifecycle`.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_keyspace::BoxError;
use etcd_keyspace::journal::{
    Checkpoints, Filter, Handler, Journal, JournalOptions, MemoryStorage, NewEvent, OnFailure,
    Operation, Position, ReadError, Registry, Retry, StoredEvent, Watcher, WatcherError,
    WatcherOptions, WatcherState, async_handler_fn, handler_fn,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::faulty::{Faulty, Kind};
use super::{SOON, event, events, in_memory, reopened};

/// How often a test looks; a paused clock goes on by it.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Tells which events it saw, and fails as told.
pub(crate) struct Probe {
    seen: mpsc::UnboundedSender<(u64, Instant)>,
    /// Which tries fail, in order; then all succeed.
    failures: Mutex<VecDeque<bool>>,
}

pub(crate) struct Sight(pub(crate) mpsc::UnboundedReceiver<(u64, Instant)>);

pub(crate) fn probe(failures: impl IntoIterator<Item = bool>) -> (Probe, Sight) {
    let (seen, sight) = mpsc::unbounded_channel();
    (Probe { seen, failures: Mutex::new(failures.into_iter().collect()) }, Sight(sight))
}

impl Handler for Probe {
    async fn handle(&self, event: &Arc<StoredEvent>) -> Result<(), BoxError> {
        let _ = self.seen.send((event.sequence, Instant::now()));
        let fails = self.failures.lock().unwrap().pop_front().unwrap_or(false);
        if fails { Err("told to fail".into()) } else { Ok(()) }
    }
}

impl Sight {
    pub(crate) async fn next(&mut self) -> (u64, Instant) {
        let begun = std::time::Instant::now();
        loop {
            // The ticks are for the bound on real time, since the clock may be paused.
            tokio::select! {
                seen = self.0.recv() => return seen.expect("the handler is gone"),
                () = tokio::time::sleep(TICK) => assert!(begun.elapsed() < SOON, "not called"),
            }
        }
    }

    pub(crate) async fn take(&mut self, count: usize) -> Vec<u64> {
        let mut seen = Vec::new();
        while seen.len() < count {
            seen.push(self.next().await.0);
        }
        seen
    }

    pub(crate) fn rest(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.0.try_recv().ok()).map(|(sequence, _)| sequence).collect()
    }
}

pub(crate) fn started(handler: impl Handler) -> WatcherOptions {
    WatcherOptions::new().handler(handler).auto_start(true)
}

pub(crate) async fn stop(watcher: &Watcher) {
    watcher.stop(SOON).await.unwrap();
}

pub(crate) async fn checkpoint(journal: &Journal, id: &str) -> Option<u64> {
    journal.checkpoint(id).await.unwrap().map(|checkpoint| checkpoint.sequence)
}

/// Waits for what is bound to become true.
pub(crate) async fn until(mut what: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !what() {
        assert!(begun.elapsed() < SOON, "it never happened");
        tokio::time::sleep(TICK).await;
    }
}

#[tokio::test]
async fn bw1_a_watcher_handles_each_event_once_and_in_order() {
    let journal = in_memory().await;
    let registry = Registry::new(&journal);
    journal.store_batch(events(1..=250)).await.unwrap();
    let (handler, mut sight) = probe([]);
    let watcher = registry.watch("a", started(handler).batch_size(7)).await.unwrap();
    journal.store_batch(events(251..=500)).await.unwrap();
    assert_eq!(sight.take(500).await, (1..=500).collect::<Vec<_>>());
    stop(&watcher).await;
    assert!(sight.rest().is_empty());
    assert_eq!(checkpoint(&journal, "a").await, Some(500));
}

#[tokio::test]
async fn bw3_a_checkpoint_beats_the_initial_position() {
    let storage = MemoryStorage::new();
    let journal = reopened(&storage).await;
    journal.store_batch(events(1..=5)).await.unwrap();
    for (initial, expected) in [(Position::At(4), vec![4, 5]), (Position::Oldest, vec![6, 7])] {
        let journal = reopened_after(&storage, &journal).await;
        let (handler, mut sight) = probe([]);
        let options = started(handler).initial(initial);
        let watcher = Registry::new(&journal).watch("a", options).await.unwrap();
        assert_eq!(sight.take(2).await, expected);
        stop(&watcher).await;
        journal.store_batch(events(6..=7)).await.unwrap();
        journal.close().await.unwrap();
    }
}

pub(crate) async fn reopened_after(storage: &MemoryStorage, journal: &Journal) -> Journal {
    journal.close().await.unwrap();
    reopened(storage).await
}

#[tokio::test]
async fn bw2_bw3_latest_begins_where_it_was_first_started_also_after_a_restart() {
    let journal = in_memory().await;
    journal.store_batch(events(1..=5)).await.unwrap();
    let registry = Registry::new(&journal);
    let (handler, mut sight) = probe([]);
    let options = started(handler).initial(Position::Latest);
    let watcher = registry.watch("a", options).await.unwrap();
    stop(&watcher).await;
    journal.store_batch(events(6..=7)).await.unwrap();
    watcher.start().await.unwrap();
    assert_eq!(sight.take(2).await, [6, 7], "what was stored while it was stopped is not lost");
}

#[tokio::test]
async fn bw4_a_beginning_beyond_the_end_is_an_error_and_leaves_no_watcher() {
    let journal = in_memory().await;
    let registry = Registry::new(&journal);
    let options = started(handler_fn(|_| Ok::<_, BoxError>(()))).initial(Position::At(9));
    let refused = registry.watch("a", options).await.unwrap_err();
    let WatcherError::Begin { cause: ReadError::BeyondEnd { next: 1, .. }, .. } = refused else {
        panic!("{refused:?}")
    };
    assert!(registry.ids().is_empty());
    assert_eq!(checkpoint(&journal, "a").await, None);
    // The id is free again.
    registry.watch("a", WatcherOptions::new()).await.unwrap();
}

#[tokio::test]
async fn bw5_bw6_a_watcher_sees_what_its_filter_lets_through_and_moves_past_the_rest() {
    let journal = in_memory().await;
    let batch: Vec<_> = (1..=10)
        .map(|n| NewEvent::new(Operation::Update, if n % 5 == 0 { "x" } else { "y" }, "o"))
        .collect();
    journal.store_batch(batch).await.unwrap();
    journal.store_batch(events(11..=20)).await.unwrap();
    let (handler, mut sight) = probe([]);
    let filter = Filter::all().types(["x"]).operations([Operation::Update]);
    let options = started(handler).filter(filter);
    let watcher = Registry::new(&journal).watch("a", options).await.unwrap();
    assert_eq!(sight.take(2).await, [5, 10]);
    until(|| watcher.stats().next == Position::After(20)).await;
    stop(&watcher).await;
    assert_eq!(watcher.stats().last_processed.unwrap().0, 10);
    assert_eq!(checkpoint(&journal, "a").await, Some(20), "a restart reads nothing again");
}

#[tokio::test]
async fn bw7_watchers_do_not_hold_each_other_up() {
    let journal = in_memory().await;
    let registry = Registry::new(&journal);
    journal.store_batch(events(1..=10)).await.unwrap();
    let gate = Arc::new(Notify::new());
    let blocked = {
        let gate = Arc::clone(&gate);
        async_handler_fn(move |_| {
            let gate = Arc::clone(&gate);
            async move {
                gate.notified().await;
                Ok::<_, BoxError>(())
            }
        })
    };
    let slow = registry.watch("slow", started(blocked)).await.unwrap();
    let (failing, _failing_sight) = probe(std::iter::repeat_n(true, 1000));
    let failing = registry.watch("failing", started(failing)).await.unwrap();
    let (handler, mut sight) = probe([]);
    let fast = registry.watch("fast", started(handler).initial(Position::At(3))).await.unwrap();
    assert_eq!(sight.take(8).await, (3..=10).collect::<Vec<_>>());
    assert_eq!(slow.stats().handled, 0);
    until(|| failing.stats().failures > 0).await;
    assert_eq!(failing.stats().handled, 0);
    gate.notify_one();
    until(|| slow.stats().handled == 1).await;
    until(|| fast.stats().handled == 8).await;
}

#[tokio::test(start_paused = true)]
async fn bw8_blocking_tries_again_for_ever_with_delays_that_double_to_a_cap() {
    let journal = in_memory().await;
    journal.store_batch(events(1..=2)).await.unwrap();
    let (handler, mut sight) = probe([true; 9]);
    let options = started(handler).backoff(Duration::from_millis(100), Duration::from_secs(1));
    let watcher = Registry::new(&journal).watch("a", options).await.unwrap();
    let mut tries = Vec::new();
    for _ in 0..11 {
        tries.push(sight.next().await);
    }
    let sequences: Vec<_> = tries.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(sequences, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2], "nothing overtakes it");
    let delays: Vec<_> =
        tries.windows(2).take(9).map(|pair| (pair[1].1 - pair[0].1).as_millis()).collect();
    assert_eq!(delays, [100, 200, 400, 800, 1000, 1000, 1000, 1000, 1000]);
    until(|| watcher.stats().handled == 2).await;
    assert_eq!((watcher.stats().failures, watcher.stats().skipped), (9, 0));
}

#[tokio::test]
async fn bw8_skipping_goes_on_after_its_retries_and_with_none_tries_once() {
    for (max_retries, expected) in [(0, vec![1, 2, 3]), (2, vec![1, 1, 1, 2, 3])] {
        let journal = in_memory().await;
        journal.store_batch(events(1..=3)).await.unwrap();
        let failures = std::iter::repeat_n(true, max_retries as usize + 1);
        let (handler, mut sight) = probe(failures);
        let options = started(handler).retry(Retry::Skip { max_retries }).backoff(TICK, TICK);
        let watcher = Registry::new(&journal).watch("a", options).await.unwrap();
        assert_eq!(sight.take(expected.len()).await, expected);
        stop(&watcher).await;
        let stats = watcher.stats();
        assert_eq!((stats.handled, stats.skipped), (2, 1));
        assert_eq!(checkpoint(&journal, "a").await, Some(3));
    }
}

#[tokio::test(start_paused = true)]
async fn bw8_a_panic_of_the_handler_counts_as_an_error() {
    let journal = in_memory().await;
    journal.store_event(event(1)).await.unwrap();
    let panicked = Mutex::new(false);
    let handler = handler_fn(move |_| {
        if !std::mem::replace(&mut *panicked.lock().unwrap(), true) {
            panic!("first try");
        }
        Ok::<_, BoxError>(())
    });
    let watcher = Registry::new(&journal).watch("a", started(handler)).await.unwrap();
    until(|| watcher.stats().handled == 1).await;
    let failure = watcher.stats().last_failure.unwrap();
    assert!(failure.source.to_string().contains("first try"), "{failure:?}");
}

#[tokio::test]
async fn bw9_defaults() {
    let options = format!("{:?}", WatcherOptions::new());
    for expected in [
        "batch_size: 100",
        "buffer_size: 1000",
        "backoff: (200ms, 180s)",
        "retry: Block",
        "initial: Oldest",
        "beyond: Error",
        "ephemeral: false",
        "auto_start: false",
    ] {
        assert!(options.contains(expected), "{expected} in {options}");
    }
    let options = format!("{:?}", JournalOptions::new());
    for expected in [
        "cache_events: 1000",
        "long_poll: 10s",
        "age: Some(86400s)",
        "every: Some(600s)",
        "max_records: 1000",
        "max_time: 10s",
        "past_checkpoints: false",
        "durability: EachBatch",
    ] {
        assert!(options.contains(expected), "{expected} in {options}");
    }
}

#[tokio::test]
async fn bw10_options_are_refused_with_all_problems_at_once() {
    let journal = in_memory().await;
    let options = WatcherOptions::new()
        .batch_size(0)
        .buffer_size(0)
        .backoff(Duration::from_secs(2), Duration::from_secs(1))
        .ephemeral(true)
        .checkpoints(Checkpoints::Manual)
        .auto_start(true);
    let refused = Registry::new(&journal).watch("", options).await.unwrap_err();
    let WatcherError::Options { cause, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(cause.problems().len(), 6, "{cause}");
}

#[tokio::test]
async fn bw11_fetch_errors_back_off_and_never_end_the_watcher() {
    let disk = Faulty::default();
    let quick = Duration::from_millis(2);
    let options =
        JournalOptions::new().cache(0, 0).on_failure(OnFailure::Reopen { min: quick, max: quick });
    let journal = Journal::open_in(disk.opener(), options).await.unwrap();
    let (handler, mut sight) = probe([]);
    let options = started(handler).backoff(quick, quick);
    let watcher = Registry::new(&journal).watch("a", options).await.unwrap();
    journal.store_event(event(1)).await.unwrap();
    assert_eq!(sight.take(1).await, [1]);
    disk.fail(0, Kind::Sync, io::ErrorKind::StorageFull, usize::MAX);
    journal.store_event(event(2)).await.unwrap_err();
    until(|| watcher.stats().fetch_failure.is_some()).await;
    assert_eq!(watcher.state(), WatcherState::Running);
    disk.mend();
    until(|| journal.status().fault.is_none()).await;
    let sequence = journal.store_event(event(3)).await.unwrap();
    until(|| watcher.stats().next == Position::After(sequence)).await;
    assert!(watcher.stats().fetch_failure.is_none());
    assert_eq!(watcher.stats().handled, sequence, "none is missed and none comes twice");
}

#[tokio::test(start_paused = true)]
async fn bw18_a_failure_names_watcher_and_event_and_keeps_its_cause() {
    let journal = in_memory().await;
    journal.store_batch(events(1..=2)).await.unwrap();
    let (handler, mut sight) = probe([false, true]);
    let watcher = Registry::new(&journal).watch("mailer", started(handler)).await.unwrap();
    assert_eq!(sight.take(3).await, [1, 2, 2]);
    let failure = watcher.stats().last_failure.unwrap();
    assert_eq!((failure.watcher.as_str(), failure.sequence), ("mailer", 2));
    let cause = std::error::Error::source(&*failure).unwrap();
    assert_eq!(cause.to_string(), "told to fail");
    assert!(!failure.to_string().contains("told to fail"), "the cause is told once");
}

#[tokio::test]
async fn j7_a_watcher_fetches_no_further_ahead_than_its_buffer() {
    let journal = in_memory().await;
    journal.store_batch(events(1..=100)).await.unwrap();
    let gate = Arc::new(Notify::new());
    let handler = {
        let gate = Arc::clone(&gate);
        async_handler_fn(move |_| {
            let gate = Arc::clone(&gate);
            async move {
                gate.notified().await;
                Ok::<_, BoxError>(())
            }
        })
    };
    let options = started(handler).buffer_size(3).batch_size(50);
    let watcher = Registry::new(&journal).watch("a", options).await.unwrap();
    for n in 1..=100 {
        gate.notify_one();
        until(|| watcher.stats().handled == n).await;
    }
    stop(&watcher).await;
}
