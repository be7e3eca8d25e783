//! BW-2 to BW-6, BW-12: positions, filters, the long poll and the cache.

use std::time::Duration;

use etcd_keyspace::journal::{
    Beyond, Filter, Journal, JournalOptions, NewEvent, Operation, Page, Position, ReadError,
    ReadOptions,
};
use tokio::time::Instant;

use super::{SOON, all, at_once, event, events, in_memory, sequences, texts};

fn beyond(wait: Duration) -> ReadOptions {
    let mut options = at_once();
    options.beyond = Beyond::Wait;
    options.timeout = Some(wait);
    options
}

/// Journals that answer from memory, from the file, and from both.
async fn of_all_caches(events: &[NewEvent]) -> Vec<Journal> {
    let mut journals = Vec::new();
    for cached in [1000, 0, 2] {
        let options = JournalOptions::new().cache(cached, usize::MAX);
        let journal = Journal::in_memory(options).await.unwrap();
        journal.store_batch(events.to_vec()).await.unwrap();
        journals.push(journal);
    }
    journals
}

#[tokio::test]
async fn bw2_reading_begins_at_the_position() {
    for journal in of_all_caches(&events(1..=5)).await {
        let cases = [
            (Position::Oldest, vec![1, 2, 3, 4, 5]),
            (Position::At(3), vec![3, 4, 5]),
            (Position::After(3), vec![4, 5]),
            (Position::After(4), vec![5]),
        ];
        for (position, expected) in cases {
            assert_eq!(sequences(&journal, position, &Filter::all()).await, expected, "{position}");
        }
        for position in [Position::Latest, Position::After(5), Position::At(6)] {
            let page = journal.events_with(position, &at_once()).await.unwrap();
            assert!(page.events.is_empty(), "{position}");
        }
    }
}

#[tokio::test]
async fn bw4_beyond_the_end_is_refused_unless_waiting_was_asked_for() {
    let journal = in_memory().await;
    journal.store_batch(events(1..=2)).await.unwrap();
    for position in [Position::At(4), Position::After(3)] {
        let refused = journal.events_with(position, &at_once()).await;
        assert!(matches!(refused, Err(ReadError::BeyondEnd { next: 3, .. })), "{refused:?}");
    }
    let page = journal.events_with(Position::At(5), &beyond(Duration::ZERO)).await.unwrap();
    assert_eq!((page.events.len(), page.next), (0, Position::At(5)));
    let waiting = tokio::spawn({
        let journal = journal.clone();
        async move { journal.events_with(Position::At(5), &beyond(SOON)).await.unwrap() }
    });
    for n in 3..=5 {
        journal.store_event(event(n)).await.unwrap();
    }
    // What was stored before the position is not given.
    assert_eq!(waiting.await.unwrap().events[0].sequence, 5);
}

#[tokio::test]
async fn bw5_types_and_operations_restrict_and_empty_means_all() {
    use Operation::{Create, Delete, Update};
    let batch: Vec<_> = [("a", Create), ("b", Create), ("a", Update), ("b", Delete), ("c", Delete)]
        .map(|(object_type, operation)| NewEvent::new(operation, object_type, "x"))
        .into();
    for journal in of_all_caches(&batch).await {
        let cases = [
            (Filter::all(), vec![1, 2, 3, 4, 5]),
            (Filter::all().types(["a"]), vec![1, 3]),
            (Filter::all().types(["a", "c"]), vec![1, 3, 5]),
            (Filter::all().operations([Delete]), vec![4, 5]),
            (Filter::all().types(["b"]).operations([Delete, Update]), vec![4]),
        ];
        for (filter, expected) in cases {
            assert_eq!(
                sequences(&journal, Position::Oldest, &filter).await,
                expected,
                "{filter:?}"
            );
        }
    }
}

#[tokio::test]
async fn bw6_the_position_moves_past_what_the_filter_leaves_out() {
    // More than one look at the file reads.
    let batch: Vec<_> = events(1..=10_000);
    for journal in of_all_caches(&batch).await {
        let mut options = at_once();
        options.filter = Filter::all().types(["other"]);
        let mut position = Position::Oldest;
        let mut looks = 0;
        while position != Position::After(10_000) {
            let Page { events, next, .. } = journal.events_with(position, &options).await.unwrap();
            assert!(events.is_empty());
            assert_ne!(next, position, "the same events would be read again");
            position = next;
            looks += 1;
        }
        assert!(looks <= 4, "{looks} looks");
        journal.store_event(NewEvent::new(Operation::Create, "other", "x")).await.unwrap();
        let page = journal.events_with(position, &options).await.unwrap();
        assert_eq!(page.events[0].sequence, 10_001);
    }
}

#[tokio::test(start_paused = true)]
async fn bw12_a_long_poll_ends_empty_after_its_time_with_the_position_unchanged() {
    let options = JournalOptions::new().long_poll(Duration::from_secs(7));
    let journal = Journal::in_memory(options).await.unwrap();
    journal.store_batch(events(1..=2)).await.unwrap();
    for position in [Position::After(2), Position::At(3)] {
        let begun = Instant::now();
        let page = journal.events(position, 10, &Filter::all()).await.unwrap();
        assert_eq!((page.events.len(), page.next), (0, position));
        assert_eq!(begun.elapsed().as_secs(), 7);
    }
    // The latest is a moving place: what is stored between two polls must not be passed over.
    let page = journal.events(Position::Latest, 10, &Filter::all()).await.unwrap();
    assert_eq!(page.next, Position::After(2));
}

#[tokio::test]
async fn bw12_a_store_during_the_poll_wakes_it_and_no_wake_up_is_lost() {
    let journal = in_memory().await;
    let reader = tokio::spawn({
        let journal = journal.clone();
        async move {
            let mut options = ReadOptions::default();
            // Far longer than the test may take: a lost wake-up would show as a hang.
            options.timeout = Some(Duration::from_secs(3600));
            let (mut position, mut seen) = (Position::Oldest, Vec::new());
            while seen.len() < 500 {
                let page = journal.events_with(position, &options).await.unwrap();
                seen.extend(page.events.iter().map(|event| event.sequence));
                position = page.next;
            }
            seen
        }
    });
    for n in 1..=500 {
        journal.store_event(event(n)).await.unwrap();
    }
    let seen = tokio::time::timeout(SOON, reader).await.expect("a wake-up was lost").unwrap();
    assert_eq!(seen, (1..=500).collect::<Vec<_>>());
}

#[tokio::test]
async fn bw12_a_poll_past_filtered_events_is_woken_by_one_that_matches() {
    let journal = in_memory().await;
    let reader = tokio::spawn({
        let journal = journal.clone();
        async move {
            let mut options = ReadOptions::default();
            options.filter = Filter::all().types(["wanted"]);
            options.timeout = Some(Duration::from_secs(3600));
            journal.events_with(Position::Oldest, &options).await.unwrap()
        }
    });
    journal.store_batch(events(1..=20)).await.unwrap();
    journal.store_event(NewEvent::new(Operation::Create, "wanted", "x")).await.unwrap();
    let page = tokio::time::timeout(SOON, reader).await.expect("not woken").unwrap();
    assert_eq!((page.events[0].sequence, page.next), (21, Position::After(21)));
}

#[tokio::test]
async fn a_page_has_at_most_the_events_asked_for_and_goes_on_where_it_ended() {
    for journal in of_all_caches(&events(1..=10)).await {
        let mut options = at_once();
        options.limit = 4;
        let (mut position, mut pages) = (Position::Oldest, Vec::new());
        for _ in 0..3 {
            let page = journal.events_with(position, &options).await.unwrap();
            pages.push(texts(&page.events));
            position = page.next;
        }
        assert_eq!(pages, [vec!["1", "2", "3", "4"], vec!["5", "6", "7", "8"], vec!["9", "10"]]);
        options.limit = 0;
        let page = journal.events_with(Position::At(2), &options).await.unwrap();
        assert_eq!(texts(&page.events), ["2"], "at least one");
    }
}

#[tokio::test]
async fn j7_a_page_ends_early_when_events_are_large() {
    let large = |n: u8| NewEvent::new(Operation::Create, "t", vec![n; 3 << 20]);
    for journal in of_all_caches(&(1..=5).map(large).collect::<Vec<_>>()).await {
        let page = journal.events_with(Position::Oldest, &at_once()).await.unwrap();
        assert_eq!(page.events.len(), 3);
        assert_eq!(all(&journal).await.len(), 5);
    }
}
