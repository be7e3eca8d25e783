//! J1, J2: one order, and what is acknowledged is there.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcd_keyspace::journal::{
    Durability, Journal, JournalOptions, MemoryStorage, NewEvent, Operation, Position, Retention,
    StorageFault, StoreError,
};

use super::{all, at_once, event, events, in_memory, reopened, texts};

#[tokio::test]
async fn bw1_sequence_numbers_are_one_two_three_in_the_order_of_storing() {
    let journal = in_memory().await;
    assert_eq!(journal.store_event(event(1)).await.unwrap(), 1);
    assert_eq!(journal.store_batch(events(2..=4)).await.unwrap(), 2..5);
    assert_eq!(journal.store_batch(Vec::new()).await.unwrap(), 5..5);
    assert_eq!(journal.store_event(event(5)).await.unwrap(), 5);
    let all = all(&journal).await;
    assert_eq!(texts(&all), ["1", "2", "3", "4", "5"]);
    assert_eq!(all.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn bw1_calls_from_many_tasks_get_numbers_of_their_own() {
    let journal = in_memory().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let journal = journal.clone();
        tasks.spawn(async move { journal.store_event(event(n)).await.unwrap() });
    }
    let mut numbers = tasks.join_all().await;
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=200).collect::<Vec<_>>());
    assert_eq!(all(&journal).await.len(), 200);
}

#[tokio::test]
async fn j1_numbers_go_on_after_a_restart_and_after_everything_was_collected() {
    let storage = MemoryStorage::new();
    let journal = reopened(&storage).await;
    journal.store_batch(events(1..=3)).await.unwrap();
    let later = SystemTime::now() + Duration::from_secs(48 * 3600);
    assert_eq!(journal.collect(later).await.unwrap().events, 3);
    assert_eq!((journal.status().oldest, journal.status().next), (4, 4));
    journal.close().await.unwrap();
    let journal = reopened(&storage).await;
    assert_eq!((journal.status().oldest, journal.status().next), (4, 4));
    assert_eq!(journal.store_event(event(4)).await.unwrap(), 4);
}

#[tokio::test]
async fn bw19_all_fields_of_an_event_come_back_from_memory_and_from_the_file() {
    let storage = MemoryStorage::new();
    let journal = reopened(&storage).await;
    let time = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    let full = NewEvent::new(Operation::Delete, "node", [0, 255, 7])
        .mirrored(b"/k\xff".to_vec(), 42)
        .synthesized()
        .at(time);
    let plain = NewEvent::new(Operation::Update, "t", Vec::new());
    journal.store_batch(vec![full.clone(), plain]).await.unwrap();
    let from_memory = all(&journal).await;
    journal.close().await.unwrap();
    let from_file = all(&reopened(&storage).await).await;
    assert_eq!(from_memory, from_file);
    assert_eq!(*from_file[0], full.stored(1, time));
    assert_eq!((from_file[1].key.as_ref(), from_file[1].revision), (None, None));
    assert!(!from_file[1].synthesized);
    assert!(from_file[1].time.elapsed().unwrap() < super::SOON);
}

#[tokio::test]
async fn bw18_what_can_never_be_stored_is_refused_and_nothing_of_its_batch_is_stored() {
    let journal = in_memory().await;
    let nameless = NewEvent::new(Operation::Create, "", "x");
    let long = NewEvent::new(Operation::Create, "t".repeat(256), "x");
    for bad in [nameless, long] {
        let refused = journal.store_batch(vec![event(1), bad]).await;
        assert!(matches!(refused, Err(StoreError::Size { .. })), "{refused:?}");
    }
    assert_eq!(journal.status().next, 1);
    let longest = NewEvent::new(Operation::Create, "t".repeat(255), "x");
    assert_eq!(journal.store_event(longest).await.unwrap(), 1);
}

#[tokio::test]
async fn j2_each_durability_keeps_what_was_stored_when_the_journal_is_closed() {
    let choices = [
        Durability::EachBatch,
        Durability::Interval(Duration::from_secs(3600)),
        Durability::OnClose,
    ];
    for durability in choices {
        let storage = MemoryStorage::new();
        let options = JournalOptions::new().durability(durability);
        let journal = Journal::open_in(storage.opener(), options).await.unwrap();
        journal.store_batch(events(1..=5)).await.unwrap();
        let durable = if durability == Durability::EachBatch { 5 } else { 0 };
        assert_eq!(journal.status().durable, durable, "{durability:?}");
        journal.store_event(event(6)).await.unwrap();
        journal.flush().await.unwrap();
        assert_eq!(journal.status().durable, 6, "{durability:?}");
        journal.store_event(event(7)).await.unwrap();
        journal.close().await.unwrap();
        assert_eq!(all(&reopened(&storage).await).await.len(), 7, "{durability:?}");
    }
}

#[tokio::test]
async fn j2_the_interval_makes_durable_without_another_call() {
    let options = JournalOptions::new().durability(Durability::Interval(Duration::from_millis(5)));
    let journal = Journal::in_memory(options).await.unwrap();
    journal.store_event(event(1)).await.unwrap();
    let begun = std::time::Instant::now();
    while journal.status().durable < 1 {
        assert!(begun.elapsed() < super::SOON, "never durable");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn after_the_end_calls_fail_and_close_is_idempotent() {
    let journal = in_memory().await;
    let other = journal.clone();
    journal.store_event(event(1)).await.unwrap();
    journal.close().await.unwrap();
    other.close().await.unwrap();
    let stored = other.store_event(event(2)).await;
    assert!(matches!(stored, Err(StoreError::Storage(StorageFault::Closed))), "{stored:?}");
    other.events_with(Position::Oldest, &at_once()).await.unwrap_err();
    assert!(matches!(other.status().fault, Some(StorageFault::Closed)));
}

#[tokio::test]
async fn j7_the_last_handle_ends_the_journal_and_lets_go_of_the_storage() {
    let storage = MemoryStorage::new();
    let options = JournalOptions::new().durability(Durability::OnClose);
    let journal = Journal::open_in(storage.opener(), options.clone()).await.unwrap();
    journal.store_event(event(1)).await.unwrap();
    drop(journal);
    let begun = std::time::Instant::now();
    let journal = loop {
        // Locked until the thread of the dropped journal has ended.
        match Journal::open_in(storage.opener(), options.clone()).await {
            Ok(journal) => break journal,
            Err(error) => assert!(begun.elapsed() < super::SOON, "{error}"),
        }
    };
    assert_eq!(texts(&all(&journal).await), ["1"]);
}

// ---- Collection ----------------------------------------------------------------------------------

fn retention(change: impl FnOnce(&mut Retention)) -> JournalOptions {
    let mut retention = Retention::default();
    retention.every = None;
    change(&mut retention);
    JournalOptions::new().retention(retention)
}

fn aged(n: u64, age: u64) -> NewEvent {
    event(n).at(SystemTime::now() - Duration::from_secs(age))
}

#[tokio::test]
async fn bw20_only_events_older_than_the_threshold_go_and_the_rest_can_be_replayed() {
    let options = retention(|retention| retention.age = Some(Duration::from_secs(100)));
    let journal = Journal::in_memory(options).await.unwrap();
    // The fourth is old, but behind one that is not: what is collected is a prefix (J1).
    let batch = [(1, 500), (2, 300), (3, 50), (4, 400), (5, 0)];
    journal.store_batch(batch.map(|(n, age)| aged(n, age)).into()).await.unwrap();
    let collected = journal.collect(SystemTime::now()).await.unwrap();
    assert_eq!((collected.events, collected.unfinished), (2, false));
    assert_eq!(texts(&all(&journal).await), ["3", "4", "5"]);
    for first in 3..=5 {
        let page = journal.events_with(Position::At(first), &at_once()).await.unwrap();
        assert_eq!(page.events.len() as u64, 6 - first);
    }
    assert_eq!(journal.collect(SystemTime::now()).await.unwrap().events, 0);
}

#[tokio::test]
async fn bw20_a_run_is_bounded_in_records_and_in_time() {
    let options = retention(|retention| retention.max_records = 3);
    let journal = Journal::in_memory(options).await.unwrap();
    journal.store_batch((1..=7).map(|n| aged(n, 1_000_000)).collect()).await.unwrap();
    let mut runs = Vec::new();
    for _ in 0..4 {
        let collected = journal.collect(SystemTime::now()).await.unwrap();
        runs.push((collected.events, collected.unfinished));
    }
    assert_eq!(runs, [(3, true), (3, true), (1, false), (0, false)]);

    let options = retention(|retention| retention.max_time = Duration::ZERO);
    let journal = Journal::in_memory(options).await.unwrap();
    journal.store_batch((1..=3).map(|n| aged(n, 1_000_000)).collect()).await.unwrap();
    let collected = journal.collect(SystemTime::now()).await.unwrap();
    assert_eq!((collected.events, collected.unfinished), (1, true));
}

#[tokio::test]
async fn bw20_the_size_bound_removes_the_oldest_until_the_rest_fits() {
    let options = retention(|retention| {
        retention.age = None;
        retention.bytes = Some(3_500);
    });
    let journal = Journal::in_memory(options).await.unwrap();
    let large = |n: u8| NewEvent::new(Operation::Create, "t", vec![n; 1000]);
    journal.store_batch((1..=10).map(large).collect()).await.unwrap();
    let before = journal.status().bytes;
    let collected = journal.collect(SystemTime::now()).await.unwrap();
    assert_eq!(collected.events, 7);
    assert_eq!(before - journal.status().bytes, collected.bytes);
    assert!(journal.status().bytes <= 3_500);
    assert_eq!(all(&journal).await[0].sequence, 8);
}

#[tokio::test]
async fn bw20_collections_run_at_their_cadence_and_go_on_when_a_bound_was_reached() {
    let options = retention(|retention| {
        retention.every = Some(Duration::from_millis(5));
        retention.max_records = 2;
    });
    let journal = Journal::in_memory(options).await.unwrap();
    journal.store_batch((1..=9).map(|n| aged(n, 1_000_000)).collect()).await.unwrap();
    let begun = std::time::Instant::now();
    while journal.status().oldest < 10 {
        assert!(begun.elapsed() < super::SOON, "never collected");
        tokio::task::yield_now().await;
    }
}
