//! BW-13 to BW-21 of watchers: statistics, states, checkpoints, seeking, the registry.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use etcd_keyspace::BoxError;
use etcd_keyspace::journal::{
    CheckpointError, Checkpoints, Journal, JournalOptions, MemoryStorage, Position, Registry,
    Retention, StoredEvent, WatcherError, WatcherOptions, WatcherState, async_handler_fn,
};
use tokio::sync::{Notify, mpsc};

use super::watchers::{checkpoint, probe, reopened_after, started, stop, until};
use super::{SOON, event, events, in_memory, reopened};

#[tokio::test]
async fn bw13_stats_tell_how_it_is_at_any_time() {
    let journal = in_memory().await;
    let registry = Registry::new(&journal);
    let (handler, mut sight) = probe([]);
    let options = WatcherOptions::new().handler(handler).initial(Position::Latest);
    let watcher = registry.watch("a", options).await.unwrap();
    let stats = watcher.stats();
    assert_eq!((stats.id.as_str(), stats.state), ("a", WatcherState::Idle));
    assert_eq!(
        (stats.next, stats.last_processed, stats.last_fetch),
        (Position::Latest, None, None)
    );
    watcher.start().await.unwrap();
    let time = SystemTime::now() - Duration::from_secs(77);
    journal.store_event(event(1).at(time)).await.unwrap();
    sight.take(1).await;
    until(|| watcher.stats().last_processed == Some((1, time))).await;
    assert!(watcher.stats().last_fetch.unwrap().elapsed().unwrap() < SOON);
    stop(&watcher).await;
    let stats = watcher.stats();
    assert_eq!((stats.state, stats.next), (WatcherState::Stopped, Position::After(1)));
    assert_eq!(stats.last_processed, Some((1, time)));
}

#[tokio::test]
async fn bw14_states_and_what_they_allow() {
    let journal = in_memory().await;
    let registry = Registry::new(&journal);
    let (handler, _sight) = probe([]);
    let watcher = registry.watch("a", WatcherOptions::new().handler(handler)).await.unwrap();
    stop(&watcher).await;
    assert_eq!(watcher.state(), WatcherState::Idle, "nothing to stop");
    watcher.start().await.unwrap();
    assert_eq!(watcher.state(), WatcherState::Running);
    let refused = watcher.start().await.unwrap_err();
    let WatcherError::NotStartable { state: WatcherState::Running, .. } = refused else {
        panic!("{refused:?}")
    };
    for _ in 0..3 {
        stop(&watcher).await;
        assert_eq!(watcher.state(), WatcherState::Stopped);
    }
    watcher.start().await.unwrap();
    stop(&watcher).await;
}

#[tokio::test]
async fn bw14_a_stop_waits_for_the_handler_to_return() {
    let journal = in_memory().await;
    journal.store_event(event(1)).await.unwrap();
    let (begun, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (begun, gate) = (Arc::clone(&begun), Arc::clone(&gate));
        async_handler_fn(move |_| {
            let (begun, gate) = (Arc::clone(&begun), Arc::clone(&gate));
            async move {
                begun.notify_one();
                gate.notified().await;
                Ok::<_, BoxError>(())
            }
        })
    };
    let watcher = Registry::new(&journal).watch("a", started(handler)).await.unwrap();
    begun.notified().await;
    let stopping = tokio::spawn({
        let watcher = watcher.clone();
        async move { watcher.stop(SOON).await }
    });
    until(|| watcher.state() == WatcherState::Stopping).await;
    gate.notify_one();
    stopping.await.unwrap().unwrap();
    assert_eq!(watcher.stats().handled, 1);
    assert_eq!(checkpoint(&journal, "a").await, Some(1));
}

#[tokio::test]
async fn bw14_a_stop_is_bounded_and_what_was_cut_off_comes_again() {
    let journal = in_memory().await;
    journal.store_event(event(1)).await.unwrap();
    let (seen, mut sight) = mpsc::unbounded_channel();
    let handler = async_handler_fn(move |event: Arc<StoredEvent>| {
        seen.send(event.sequence).unwrap();
        std::future::pending::<Result<(), BoxError>>()
    });
    let watcher = Registry::new(&journal).watch("a", started(handler)).await.unwrap();
    assert_eq!(sight.recv().await, Some(1));
    let refused = watcher.stop(Duration::from_millis(1)).await.unwrap_err();
    assert!(matches!(refused, WatcherError::StopTimeout { .. }), "{refused:?}");
    stop(&watcher).await;
    assert_eq!(watcher.state(), WatcherState::Stopped);
    assert_eq!(checkpoint(&journal, "a").await, Some(0));
    watcher.start().await.unwrap();
    assert_eq!(sight.recv().await, Some(1));
    watcher.stop(Duration::ZERO).await.unwrap_err();
}

#[tokio::test]
async fn bw15_a_checkpoint_is_where_a_restart_goes_on_and_never_ahead_of_what_was_handled() {
    let storage = MemoryStorage::new();
    let journal = reopened(&storage).await;
    journal.store_batch(events(1..=10)).await.unwrap();
    let manual = |handler| started(handler).checkpoints(Checkpoints::Manual);
    let (handler, mut sight) = probe([]);
    let watcher = Registry::new(&journal).watch("a", manual(handler)).await.unwrap();
    sight.take(10).await;
    until(|| watcher.stats().handled == 10).await;
    let refused = watcher.checkpoint(11).await.unwrap_err();
    let CheckpointError::Ahead { asked: 11, processed: 10, .. } = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(watcher.checkpoint(6).await.unwrap(), 6);
    assert_eq!(watcher.checkpoint(4).await.unwrap(), 6, "a late one changes nothing");
    stop(&watcher).await;
    assert_eq!(checkpoint(&journal, "a").await, Some(6), "only the application sets it");
    let journal = reopened_after(&storage, &journal).await;
    let (handler, mut sight) = probe([]);
    let watcher = Registry::new(&journal).watch("a", manual(handler)).await.unwrap();
    assert_eq!(sight.take(4).await, [7, 8, 9, 10]);
    stop(&watcher).await;
}

#[tokio::test]
async fn bw15_an_ephemeral_watcher_keeps_no_checkpoint() {
    let journal = in_memory().await;
    journal.store_batch(events(1..=3)).await.unwrap();
    let (handler, mut sight) = probe([]);
    let options = started(handler).ephemeral(true);
    let watcher = Registry::new(&journal).watch("a", options).await.unwrap();
    for _ in 0..2 {
        assert_eq!(sight.take(3).await, [1, 2, 3]);
        let refused = watcher.checkpoint(1).await.unwrap_err();
        assert!(matches!(refused, CheckpointError::Ephemeral { .. }), "{refused:?}");
        stop(&watcher).await;
        assert_eq!(checkpoint(&journal, "a").await, None);
        watcher.start().await.unwrap();
    }
}

#[tokio::test]
async fn bw16_a_seek_goes_back_and_forth_and_is_kept() {
    let journal = in_memory().await;
    journal.store_batch(events(1..=5)).await.unwrap();
    for ephemeral in [false, true] {
        let (handler, mut sight) = probe([]);
        let options = started(handler).ephemeral(ephemeral);
        let id = format!("ephemeral {ephemeral}");
        let watcher = Registry::new(&journal).watch(&id, options).await.unwrap();
        assert_eq!(sight.take(5).await, [1, 2, 3, 4, 5]);
        watcher.seek(2).await.unwrap();
        assert_eq!(sight.take(3).await, [3, 4, 5]);
        watcher.seek(5).await.unwrap();
        watcher.seek(4).await.unwrap();
        assert_eq!(sight.take(1).await, [5]);
        let refused = watcher.seek(6).await.unwrap_err();
        assert!(matches!(refused, WatcherError::Begin { .. }), "{refused:?}");
        assert_eq!(watcher.state(), WatcherState::Running, "a refused seek changes nothing");
        stop(&watcher).await;
        watcher.seek(1).await.unwrap();
        assert_eq!(sight.take(4).await, [2, 3, 4, 5]);
        stop(&watcher).await;
        assert_eq!(checkpoint(&journal, &id).await, (!ephemeral).then_some(5));
    }
}

#[tokio::test]
async fn bw17_ids_are_unique_found_and_stopped_together() {
    let journal = in_memory().await;
    let registry = Registry::new(&journal);
    for id in ["b", "a"] {
        let (handler, _sight) = probe([]);
        registry.watch(id, started(handler)).await.unwrap();
    }
    assert_eq!(registry.ids(), ["a", "b"]);
    for other in [registry.clone(), Registry::new(&journal)] {
        let refused = other.watch("a", WatcherOptions::new()).await.unwrap_err();
        assert!(matches!(refused, WatcherError::AlreadyExists { .. }), "{refused:?}");
    }
    assert_eq!(registry.get("a").unwrap().id(), "a");
    let refused = registry.get("c").unwrap_err();
    assert!(matches!(refused, WatcherError::NotFound { .. }), "{refused:?}");
    registry.stop_all(None).await.unwrap();
    for id in ["a", "b"] {
        assert_eq!(registry.get(id).unwrap().state(), WatcherState::Stopped);
    }
    registry.remove("a", SOON).await.unwrap();
    assert_eq!(registry.ids(), ["b"]);
    registry.watch("a", WatcherOptions::new()).await.unwrap();
}

#[tokio::test]
async fn bw17_the_last_handle_of_a_watcher_tells_it_to_stop() {
    let journal = in_memory().await;
    let registry = Registry::new(&journal);
    let (handler, mut sight) = probe([]);
    let watcher = registry.watch("a", started(handler)).await.unwrap();
    drop(registry);
    journal.store_event(event(1)).await.unwrap();
    assert_eq!(sight.take(1).await, [1], "it goes on while somebody holds it");
    drop(watcher);
    // The handler goes with the task.
    assert!(tokio::time::timeout(SOON, sight.0.recv()).await.unwrap().is_none());
    assert_eq!(checkpoint(&journal, "a").await, Some(1));
}

#[tokio::test]
async fn bw20_no_collection_runs_ahead_of_a_checkpoint_unless_told() {
    let old = |n| event(n).at(SystemTime::now() - Duration::from_secs(1_000_000));
    for past_checkpoints in [false, true] {
        let mut retention = Retention::default();
        retention.past_checkpoints = past_checkpoints;
        let options = JournalOptions::new().retention(retention).cache(0, 0);
        let journal = Journal::in_memory(options).await.unwrap();
        journal.store_batch((1..=10).map(old).collect()).await.unwrap();
        let (handler, mut sight) = probe([]);
        let options = started(handler).checkpoints(Checkpoints::Manual);
        let watcher = Registry::new(&journal).watch("a", options).await.unwrap();
        sight.take(10).await;
        until(|| watcher.stats().handled == 10).await;
        watcher.checkpoint(4).await.unwrap();
        stop(&watcher).await;
        let collected = journal.collect(SystemTime::now()).await.unwrap();
        assert_eq!(collected.events, if past_checkpoints { 10 } else { 4 });
        watcher.start().await.unwrap();
        if past_checkpoints {
            // What is missed is counted, and it goes on.
            until(|| watcher.stats().missed == 6).await;
            journal.store_event(event(11)).await.unwrap();
            assert_eq!(sight.take(1).await, [11]);
        } else {
            assert_eq!(sight.take(6).await, [5, 6, 7, 8, 9, 10]);
            stop(&watcher).await;
            journal.forget_checkpoint("a").await.unwrap();
            assert_eq!(journal.collect(SystemTime::now()).await.unwrap().events, 6);
        }
        stop(&watcher).await;
    }
}

#[tokio::test]
async fn bw21_a_handler_is_needed_and_can_be_set_once() {
    let journal = in_memory().await;
    journal.store_event(event(1)).await.unwrap();
    let watcher = Registry::new(&journal).watch("a", WatcherOptions::new()).await.unwrap();
    for refused in [watcher.start().await, watcher.seek(0).await] {
        assert!(matches!(refused, Err(WatcherError::NoHandler { .. })), "{refused:?}");
    }
    let (handler, mut sight) = probe([]);
    watcher.set_handler(handler).unwrap();
    let refused = watcher.set_handler(probe([]).0);
    assert!(matches!(refused, Err(WatcherError::HandlerSet { .. })), "{refused:?}");
    watcher.start().await.unwrap();
    assert_eq!(sight.take(1).await, [1]);
    stop(&watcher).await;
}
