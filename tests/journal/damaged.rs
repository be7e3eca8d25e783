//! A stored state that is damaged: replaced by the next complete read where that is wanted, never
//! silently, and never taken for what was stored.

use std::path::Path;
use std::time::Duration;

use etcd_keyspace::journal::{Journal, JournalOptions, MirrorOptions, StorageFault, StoreError};
use etcd_keyspace::testing::FakeEtcd;
use etcd_keyspace::{Builder, OnBadStore, State, StopReason};

use super::mirrored::{self, etcd, soon, text, things};
use super::{all, put};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Damage {
    RecordAltered,
    RecordGone,
    TableGone,
    CursorAltered,
    RefusalsGone,
}

impl Damage {
    const ALL: [Damage; 5] = [
        Damage::RecordAltered,
        Damage::RecordGone,
        Damage::TableGone,
        Damage::CursorAltered,
        Damage::RefusalsGone,
    ];

    fn does(self, path: &Path, mirror: &str) {
        let database = redb::Database::open(path).unwrap();
        let write = database.begin_write().unwrap();
        let (state, refused) = (format!("state:{mirror}"), format!("refused:{mirror}"));
        let table = redb::TableDefinition::<&[u8], &[u8]>::new(&state);
        let altered = |record: &[u8]| {
            let mut record = record.to_vec();
            record[12] ^= 1;
            record
        };
        match self {
            Damage::RecordAltered => {
                let mut table = write.open_table(table).unwrap();
                let record = altered(table.remove(&b"/k/b"[..]).unwrap().unwrap().value());
                table.insert(&b"/k/b"[..], record.as_slice()).unwrap();
            }
            Damage::RecordGone => {
                write.open_table(table).unwrap().remove(&b"/k/b"[..]).unwrap().unwrap();
            }
            Damage::TableGone => assert!(write.delete_table(table).unwrap()),
            Damage::CursorAltered => {
                let table = redb::TableDefinition::<&str, &[u8]>::new("mirrors");
                let mut table = write.open_table(table).unwrap();
                let record = altered(table.remove(mirror).unwrap().unwrap().value());
                table.insert(mirror, record.as_slice()).unwrap();
            }
            Damage::RefusalsGone => {
                let table = redb::TableDefinition::<&[u8], &[u8]>::new(&refused);
                assert!(write.delete_table(table).unwrap());
            }
        }
        write.commit().unwrap();
    }
}

fn builder(journal: &Journal) -> Builder<String> {
    let options = MirrorOptions::default().object_type("/k/b".."/k/c", "bee");
    things(text).journal_with(journal, options)
}

async fn open(path: &Path) -> Journal {
    Journal::open(path, JournalOptions::new()).await.unwrap()
}

/// A file with a mirror of three keys, one of them refused, then damaged; the mirror's name.
async fn damaged(etcd: &FakeEtcd, path: &Path, damage: Damage) -> String {
    let journal = open(path).await;
    let ks = soon("a start", builder(&journal).start(etcd.clone())).await.unwrap();
    etcd.put("/k/c", "1");
    etcd.put("/k/c", "!2");
    soon("the newest", ks.wait_for_revision(etcd.revision())).await.unwrap();
    ks.shutdown().await;
    let mirror = journal.mirrors().await.unwrap()[0].0.clone();
    journal.close().await.unwrap();
    damage.does(path, &mirror);
    // Nobody can tell from what is stored then that this key was there.
    etcd.delete("/k/b");
    mirror
}

async fn stored_through(journal: &Journal, mirror: &str, revision: i64) {
    soon("it is stored", async {
        let reached = |cursor: etcd_keyspace::journal::Cursor| cursor.revision >= revision;
        while !matches!(journal.cursor(mirror).await, Ok(Some(it)) if reached(it.cursor)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// The events after the first `from`, once there are `count` of them.
async fn told(journal: &Journal, from: usize, count: usize) -> Vec<String> {
    mirrored::stored(journal, (from + count) as u64).await;
    let events = all(journal).await;
    let tell = events[from..].iter().map(|event| {
        let key = event.key.as_ref().map_or("*".into(), |key| String::from_utf8_lossy(key));
        let made = if event.synthesized { " made" } else { "" };
        format!("{} {} {key}{made}", event.operation, event.object_type)
    });
    tell.collect()
}

#[tokio::test]
async fn j3_a_damaged_state_is_replaced_by_the_next_complete_read_and_the_break_is_told() {
    for damage in Damage::ALL {
        for restores in [true, false] {
            let (etcd, folder) = (etcd(), tempfile::tempdir().unwrap());
            let path = folder.path().join("journal");
            let mirror = damaged(&etcd, &path, damage).await;
            let journal = open(&path).await;
            let before = all(&journal).await.len();
            let mut builder = builder(&journal).on_bad_store(OnBadStore::Load);
            if restores {
                builder = builder.restore(&journal);
            }
            let ks = soon("a start", builder.start(etcd.clone())).await.unwrap();
            assert_eq!((ks.status().state, ks.read().len()), (State::Live, 1), "{damage:?}");
            stored_through(&journal, &mirror, etcd.revision()).await;
            if damage == Damage::RefusalsGone {
                // That what is shown for a refused key is gone does not touch the state.
                assert_eq!(told(&journal, before, 1).await, ["delete bee /k/b made"]);
            } else {
                let anew = [
                    "delete bee * made",
                    "delete things * made",
                    "create things /k/a made",
                    "create things /k/c made",
                ];
                assert_eq!(told(&journal, before, 4).await, anew, "{damage:?}, {restores}");
            }
            // A start without what is stored is of another history.
            let epoch = journal.cursor(&mirror).await.unwrap().unwrap().cursor.epoch;
            let expected = if damage == Damage::CursorAltered { 1_700_000_000.. } else { 2.. };
            assert!(expected.contains(&epoch), "{damage:?}, {restores}: {epoch}");
            let made = all(&journal).await.len();
            etcd.put("/k/a", "next");
            stored_through(&journal, &mirror, etcd.revision()).await;
            assert_eq!(told(&journal, made, 1).await, ["update things /k/a"]);
            let status = ks.status();
            assert!(status.store_error.is_none() && status.counters.loads <= 2, "{status:?}");
            ks.shutdown().await;
            // What is stored then is sound.
            etcd.faults().down();
            let ks = self::builder(&journal).restore(&journal).start(etcd.clone());
            let ks = soon("a start", ks).await.unwrap();
            assert_eq!((ks.status().state, ks.read().len()), (State::Restored, 1));
            assert_eq!(ks.rejected().len(), 1);
        }
    }
}

/// Unless told otherwise, what is damaged stays for whoever looks into it, and that is said.
#[tokio::test]
async fn j3_a_damaged_state_stays_as_it_is_unless_it_may_be_replaced() {
    let (etcd, folder) = (etcd(), tempfile::tempdir().unwrap());
    let path = folder.path().join("journal");
    let mirror = damaged(&etcd, &path, Damage::RecordAltered).await;
    let journal = open(&path).await;
    let stored = journal.cursor(&mirror).await.unwrap();
    let restoring = builder(&journal).restore(&journal).start(etcd.clone());
    let refused = soon("a start", restoring).await.unwrap_err();
    assert!(matches!(refused, StopReason::NotRestored { .. }), "{refused:?}");
    let ks = soon("a start", builder(&journal).start(etcd.clone())).await.unwrap();
    let error = soon("the error", async {
        loop {
            if let Some(error) = ks.status().store_error {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let error = error.downcast_ref::<StoreError>();
    let damage = matches!(error, Some(StoreError::Storage(StorageFault::Damaged { .. })));
    assert!(damage, "{error:?}");
    etcd.put("/k/a", "2");
    soon("the newest", ks.wait_for_revision(etcd.revision())).await.unwrap();
    ks.shutdown().await;
    assert_eq!(journal.cursor(&mirror).await.unwrap(), stored);
}

/// The damage of one mirror lets neither the journal nor the others down.
#[tokio::test]
async fn a_damaged_cursor_refuses_its_own_batches_only() {
    use etcd_keyspace::journal::{Cursor, MirrorBatch};
    let (etcd, folder) = (etcd(), tempfile::tempdir().unwrap());
    let path = folder.path().join("journal");
    let mirror = damaged(&etcd, &path, Damage::CursorAltered).await;
    let journal = open(&path).await;
    let cursor = Cursor { cluster_id: 7, epoch: 1, revision: 1 };
    let mut batch = MirrorBatch::new(&mirror, None, cursor);
    batch.changes = vec![put("/k/z", "1", 1)];
    let refused = journal.append(batch.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Storage(StorageFault::Damaged { .. })), "{refused:?}");
    let mut other = batch.clone();
    other.mirror = "another".to_owned();
    journal.append(other).await.unwrap();
    assert!(journal.status().fault.is_none());
    batch.replace = true;
    journal.append(batch).await.unwrap();
    assert_eq!(journal.cursor(&mirror).await.unwrap().unwrap().cursor, cursor);
}
