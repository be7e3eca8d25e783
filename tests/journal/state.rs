//! J4: what a mirror keeps, in one transaction with its events.

use std::collections::BTreeMap;

use etcd_keyspace::RawKeyValue;
use etcd_keyspace::journal::{
    Journal, JournalOptions, MemoryStorage, MirrorBatch, NewEvent, Operation, StateChange,
    StateReader, StorageFault, StoreError, TryAppendError,
};

use super::{all, cursor, in_memory, put, record, reopened};

/// All of a state, read in pages of `limit`.
async fn state(journal: &Journal, mirror: &str, limit: usize) -> Vec<RawKeyValue> {
    let mut reader = journal.state(mirror).await.unwrap().expect("nothing stored");
    let mut kvs = Vec::new();
    loop {
        let (next, page) = reader.next_page(limit).await.unwrap();
        if page.is_empty() {
            return kvs;
        }
        assert!(page.len() <= limit);
        kvs.extend(page);
        reader = next;
    }
}

fn batch(after: Option<i64>, revision: i64, changes: Vec<StateChange>) -> MirrorBatch {
    let mut batch = MirrorBatch::new("routes", after.map(cursor), cursor(revision));
    batch.changes = changes;
    batch.events = vec![NewEvent::new(Operation::Update, "route", "x").mirrored("/r", revision)];
    batch
}

#[tokio::test]
async fn the_state_comes_back_ascending_with_all_numbers_also_after_a_restart() {
    let storage = MemoryStorage::new();
    let journal = reopened(&storage).await;
    assert!(journal.state("routes").await.unwrap().is_none());
    assert!(journal.cursor("routes").await.unwrap().is_none());
    let changes = vec![put("/c", "1", 2), put("/a", "2", 3), put("/b", "", 4), put("/d", "4", 5)];
    journal.append(batch(None, 5, changes)).await.unwrap();
    let changes = vec![
        put("/a", "new", 6),
        StateChange::Delete(b"/c".to_vec()),
        StateChange::Delete(b"/none".to_vec()),
    ];
    journal.append(batch(Some(5), 6, changes)).await.unwrap();
    let expected = [record("/a", "new", 6), record("/b", "", 4), record("/d", "4", 5)];
    for _ in 0..2 {
        let journal = reopened_after_close(&storage, &journal).await;
        for limit in [1, 2, 3, 100] {
            assert_eq!(state(&journal, "routes", limit).await, expected);
        }
        let stored = journal.cursor("routes").await.unwrap().unwrap();
        assert_eq!((stored.cursor, stored.keys), (cursor(6), 3));
        assert!(stored.age() < super::SOON);
        assert_eq!(all(&journal).await.len(), 2);
        journal.close().await.unwrap();
    }
}

async fn reopened_after_close(storage: &MemoryStorage, journal: &Journal) -> Journal {
    journal.close().await.unwrap();
    reopened(storage).await
}

#[tokio::test]
async fn j4_a_batch_that_does_not_continue_the_cursor_is_refused_whole() {
    let journal = in_memory().await;
    journal.append(batch(None, 5, vec![put("/a", "1", 5)])).await.unwrap();
    for after in [None, Some(4), Some(6)] {
        let refused = journal.append(batch(after, 7, vec![put("/b", "1", 7)])).await;
        let Err(StoreError::CursorMismatch { stored, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(stored, Some(cursor(5)));
    }
    // The same batch again, as after an answer that got lost.
    let again = batch(None, 5, vec![put("/a", "1", 5)]);
    assert!(matches!(journal.append(again).await, Err(StoreError::CursorMismatch { .. })));
    assert_eq!(all(&journal).await.len(), 1);
    assert_eq!(state(&journal, "routes", 10).await, [record("/a", "1", 5)]);
}

#[tokio::test]
async fn j4_refused_batches_do_not_harm_those_committed_with_them() {
    let journal = in_memory().await;
    // All are queued before the first await, so they are likely to share a transaction.
    let good = journal.try_append(batch(None, 1, vec![put("/a", "1", 1)])).unwrap();
    let bad = journal.try_append(batch(None, 2, vec![put("/b", "1", 2)])).unwrap();
    let next = journal.try_append(batch(Some(1), 2, vec![put("/c", "1", 2)])).unwrap();
    assert_eq!(good.await.unwrap(), 1..2);
    assert!(matches!(bad.await, Err(StoreError::CursorMismatch { .. })));
    assert_eq!(next.await.unwrap(), 2..3);
    assert_eq!(state(&journal, "routes", 10).await, [record("/a", "1", 1), record("/c", "1", 2)]);
}

#[tokio::test]
async fn a_complete_set_replaces_what_was_stored() {
    let journal = in_memory().await;
    journal.append(batch(None, 5, vec![put("/a", "1", 5), put("/b", "1", 5)])).await.unwrap();
    let mut reload = batch(Some(5), 9, vec![put("/b", "2", 8), put("/c", "1", 9)]);
    reload.replace = true;
    journal.append(reload).await.unwrap();
    assert_eq!(state(&journal, "routes", 10).await, [record("/b", "2", 8), record("/c", "1", 9)]);
    let mut nothing = batch(Some(9), 10, Vec::new());
    nothing.replace = true;
    journal.append(nothing).await.unwrap();
    assert!(state(&journal, "routes", 10).await.is_empty());
    assert_eq!(journal.cursor("routes").await.unwrap().unwrap().keys, 0);
}

#[tokio::test]
async fn j4_a_reader_sees_one_moment_whatever_is_stored_meanwhile() {
    let journal = in_memory().await;
    let changes = (0..100).map(|n| put(&format!("/{n:03}"), "old", 5)).collect();
    journal.append(batch(None, 5, changes)).await.unwrap();
    let mut reader = journal.state("routes").await.unwrap().unwrap();
    let mut read = reader.page(10).unwrap();
    let changes = (0..100).map(|n| put(&format!("/{n:03}"), "new", 6)).collect();
    journal.append(batch(Some(5), 6, changes)).await.unwrap();
    read.extend(read_rest(&mut reader));
    assert_eq!(reader.stored().cursor, cursor(5));
    assert_eq!(read.len(), 100);
    assert!(read.iter().all(|kv| kv.value == b"old"));
}

fn read_rest(reader: &mut StateReader) -> Vec<RawKeyValue> {
    let mut rest = Vec::new();
    loop {
        let page = reader.page(7).unwrap();
        if page.is_empty() {
            return rest;
        }
        rest.extend(page);
    }
}

/// Behind the last key, before the first and in between, several times of one key.
#[tokio::test]
async fn j4_the_changes_of_a_batch_count_in_their_order_wherever_they_lie() {
    let journal = in_memory().await;
    let mut expected = BTreeMap::new();
    let mut random = 7_u64;
    for revision in 1..60_i64 {
        let mut changes = Vec::new();
        for _ in 0..revision {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (number, kind) = (random >> 33, random >> 61);
            // The keys move up, so that some lie behind all stored ones.
            let key = format!("/{:04}", number % 40 + revision.unsigned_abs() * 2);
            if kind < 3 {
                expected.remove(key.as_bytes());
                changes.push(StateChange::Delete(key.into_bytes()));
            } else {
                let kv = record(&key, &number.to_string(), revision);
                expected.insert(key.into_bytes(), kv.clone());
                changes.push(StateChange::Put(kv));
            }
        }
        let after = (revision > 1).then_some(revision - 1);
        journal.append(batch(after, revision, changes)).await.unwrap();
        let stored = state(&journal, "routes", 1_000).await;
        assert_eq!(stored, expected.values().cloned().collect::<Vec<_>>(), "{revision}");
    }
    assert!(expected.len() > 20);
}

#[tokio::test]
async fn mirrors_are_apart_and_can_be_forgotten() {
    let journal = in_memory().await;
    journal.append(batch(None, 5, vec![put("/a", "1", 5)])).await.unwrap();
    let mut other = MirrorBatch::new("nodes", None, cursor(3));
    other.changes = vec![put("/n", "1", 3)];
    journal.append(other).await.unwrap();
    journal.forget_mirror("routes").await.unwrap();
    assert!(journal.state("routes").await.unwrap().is_none());
    assert_eq!(state(&journal, "nodes", 10).await, [record("/n", "1", 3)]);
    assert_eq!(all(&journal).await.len(), 1, "the events stay");
    journal.append(batch(None, 8, vec![put("/z", "1", 8)])).await.unwrap();
    assert_eq!(state(&journal, "routes", 10).await, [record("/z", "1", 8)]);
}

#[tokio::test]
async fn j7_at_the_bound_of_the_queue_a_batch_comes_back() {
    // One call at most waits. Whether the writer took the former one already is not known, so a
    // second or a later one is refused.
    let journal = Journal::in_memory(JournalOptions::new().queue(1, 1 << 20)).await.unwrap();
    let (mut revision, mut taken) = (0, Vec::new());
    let back = loop {
        let after = (revision > 0).then_some(revision);
        match journal.try_append(batch(after, revision + 1, Vec::new())) {
            Ok(pending) => taken.push(pending),
            Err(TryAppendError::Full(back)) => break back,
            Err(error) => panic!("{error}"),
        }
        revision += 1;
        assert!(revision < 100_000, "never full");
    };
    for pending in taken {
        pending.await.unwrap();
    }
    assert_eq!(back.cursor, cursor(revision + 1));
    journal.append(*back).await.unwrap();
    assert_eq!(journal.cursor("routes").await.unwrap().unwrap().cursor, cursor(revision + 1));
    journal.close().await.unwrap();
    let refused = journal.try_append(batch(None, 1, Vec::new()));
    let Err(TryAppendError::Refused(StoreError::Storage(StorageFault::Closed))) = refused else {
        panic!("{refused:?}")
    };
}

#[tokio::test]
async fn dropping_an_answer_does_not_take_the_call_back() {
    let journal = in_memory().await;
    drop(journal.try_append(batch(None, 5, vec![put("/a", "1", 5)])).unwrap());
    journal.flush().await.unwrap();
    assert_eq!(state(&journal, "routes", 10).await, [record("/a", "1", 5)]);
}
