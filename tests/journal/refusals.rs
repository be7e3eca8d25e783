//! J3, J4: what is stored of keys whose newest record cannot be decoded, as the batches say.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcd_keyspace::journal::{
    Journal, JournalOptions, MirrorBatch, ReadError, Refusal, StateChange, StorageFault,
};

use super::{cursor, in_memory, put};

fn since() -> SystemTime {
    UNIX_EPOCH + Duration::new(1_790_000_000, 5)
}

fn refused(key: &str, shows: impl Into<Option<i64>>) -> Refusal {
    Refusal { key: key.into(), since: since(), shows: shows.into() }
}

fn batch(
    after: Option<i64>,
    revision: i64,
    changes: Vec<StateChange>,
    refused: Vec<Refusal>,
) -> MirrorBatch {
    let mut batch = MirrorBatch::new("routes", after.map(cursor), cursor(revision));
    (batch.changes, batch.refused) = (changes, refused);
    batch
}

/// Key and last good value of each refused key.
async fn stored(journal: &Journal) -> Vec<(String, Option<String>)> {
    let refused = journal.state("routes").await.unwrap().unwrap().refused().unwrap();
    let plain = refused.into_iter().map(|refusal| {
        assert_eq!(refusal.since, since());
        let good = refusal.last_good.inspect(|good| assert_eq!(good.key, refusal.key));
        let good = good.map(|good| String::from_utf8(good.value).unwrap());
        (String::from_utf8(refusal.key).unwrap(), good)
    });
    plain.collect()
}

fn one(key: &str, good: &str) -> (String, Option<String>) {
    (key.to_owned(), Some(good.to_owned()))
}

fn none(key: &str) -> (String, Option<String>) {
    (key.to_owned(), None)
}

#[tokio::test]
async fn j4_the_record_that_is_shown_is_found_in_the_batch_or_in_what_is_stored() {
    let journal = in_memory().await;
    // Good, better and bad in one batch; bad from the start.
    let changes = vec![put("/a", "1", 1), put("/a", "2", 2), put("/a", "!", 3), put("/b", "!", 4)];
    let refusals = vec![refused("/a", 2), refused("/b", None)];
    journal.append(batch(None, 4, changes, refusals)).await.unwrap();
    assert_eq!(stored(&journal).await, [one("/a", "2"), none("/b")]);
    // Bad again: it was stored as the one shown. And one whose newest record was good.
    let changes = vec![put("/a", "!!", 5), put("/c", "c", 6)];
    journal.append(batch(Some(4), 6, changes, vec![refused("/a", 2)])).await.unwrap();
    let changes = vec![put("/c", "!", 7)];
    journal.append(batch(Some(6), 7, changes, vec![refused("/c", 6)])).await.unwrap();
    assert_eq!(stored(&journal).await, [one("/a", "2"), none("/b"), one("/c", "c")]);
    // A record that nobody has is not made up.
    let changes = vec![put("/c", "!", 8)];
    journal.append(batch(Some(7), 8, changes, vec![refused("/c", 3)])).await.unwrap();
    assert_eq!(stored(&journal).await, [one("/a", "2"), none("/b"), none("/c")]);
    // Mended, gone, and without a change the same.
    let changes = vec![put("/b", "b", 9), StateChange::Delete(b"/c".to_vec())];
    journal.append(batch(Some(8), 9, changes, Vec::new())).await.unwrap();
    assert_eq!(stored(&journal).await, [one("/a", "2")]);
}

#[tokio::test]
async fn j4_a_complete_list_ends_all_others_and_a_complete_state_everything() {
    let journal = in_memory().await;
    let changes = vec![put("/a", "1", 1), put("/a", "!", 3), put("/b", "1", 2), put("/b", "!", 4)];
    let refusals = vec![refused("/a", 1), refused("/b", 2)];
    journal.append(batch(None, 4, changes, refusals)).await.unwrap();
    let mut all = batch(Some(4), 5, Vec::new(), vec![refused("/b", 2)]);
    all.refused_is_all = true;
    journal.append(all).await.unwrap();
    assert_eq!(stored(&journal).await, [one("/b", "1")]);
    // What is replaced cannot be taken from any more.
    let mut anew = batch(Some(5), 6, vec![put("/b", "!", 4)], vec![refused("/b", 2)]);
    anew.replace = true;
    journal.append(anew).await.unwrap();
    assert_eq!(stored(&journal).await, [none("/b")]);
    journal.forget_mirror("routes").await.unwrap();
    journal.append(batch(None, 7, vec![put("/b", "!", 4)], Vec::new())).await.unwrap();
    assert_eq!(stored(&journal).await, []);
}

/// Altered, missing, or moved there from the state: none is taken for what was stored.
#[tokio::test]
async fn j3_refused_keys_that_are_not_those_that_were_stored_are_damage() {
    type Table = redb::TableDefinition<'static, &'static [u8], &'static [u8]>;
    const REFUSED: Table = Table::new("refused:routes");
    const STATE: Table = Table::new("state:routes");
    for damage in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = Journal::open(&path, JournalOptions::new()).await.unwrap();
        let changes = vec![put("/a", "1", 1), put("/a", "!", 2), put("/b", "!", 2)];
        let refusals = vec![refused("/a", 1), refused("/b", None)];
        journal.append(batch(None, 2, changes, refusals)).await.unwrap();
        journal.close().await.unwrap();
        let database = redb::Database::open(&path).unwrap();
        let write = database.begin_write().unwrap();
        if damage == 3 {
            write.delete_table(REFUSED).unwrap();
        } else {
            let state = write.open_table(STATE).unwrap();
            let mut table = write.open_table(REFUSED).unwrap();
            let mut record = table.remove(&b"/a"[..]).unwrap().unwrap().value().to_vec();
            match damage {
                0 => record[10] ^= 1,
                1 => {
                    record = redb::ReadableTable::get(&state, &b"/a"[..])
                        .unwrap()
                        .unwrap()
                        .value()
                        .to_vec()
                }
                _ => record.clear(),
            }
            if !record.is_empty() {
                table.insert(&b"/a"[..], record.as_slice()).unwrap();
            }
        }
        write.commit().unwrap();
        drop(database);
        let journal = Journal::open(&path, JournalOptions::new()).await.unwrap();
        let read = journal.state("routes").await.unwrap().unwrap().refused();
        let Err(ReadError::Storage(StorageFault::Damaged { .. })) = read else {
            panic!("{damage}: {read:?}")
        };
    }
}
