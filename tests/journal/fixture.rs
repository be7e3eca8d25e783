//! A file written by format version 1, for this and later versions to open.
//!
//! `format-1.journal` was written by [`write`], which `JOURNAL_WRITE_FIXTURE=1` runs again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use etcd_keyspace::BoxError;
use etcd_keyspace::journal::{
    Journal, JournalOptions, MirrorBatch, NewEvent, Operation, Registry, Retention, WatcherOptions,
    handler_fn,
};

use super::{SOON, all, cursor, put, record};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/journal/format-1.journal")
}

fn options() -> JournalOptions {
    // The events are old, and must stay.
    let mut retention = Retention::default();
    (retention.age, retention.every) = (None, None);
    JournalOptions::new().retention(retention)
}

fn expected() -> [NewEvent; 3] {
    let time = UNIX_EPOCH + Duration::new(1_790_000_000, 123_456_789);
    [
        NewEvent::new(Operation::Create, "note", "by the application").at(time),
        NewEvent::new(Operation::Update, "route", "{}").mirrored(b"/r/a\xff".to_vec(), 41).at(time),
        NewEvent::new(Operation::Delete, "route", "").mirrored("/r/b", 42).synthesized().at(time),
    ]
}

/// Writes the file; not into the repository unless asked to.
async fn write(path: &Path) {
    let journal = Journal::open(path, options()).await.unwrap();
    let [note, update, delete] = expected();
    journal.store_event(note).await.unwrap();
    let mut batch = MirrorBatch::new("routes", None, cursor(42));
    batch.events = vec![update, delete];
    batch.changes = vec![put("/r/a", "1", 41), put("/r/c", "", 40)];
    journal.append(batch).await.unwrap();
    let watcher = WatcherOptions::new().handler(handler_fn(|_| Ok::<_, BoxError>(())));
    let watcher = Registry::new(&journal).watch("mailer", watcher).await.unwrap();
    watcher.seek(2).await.unwrap();
    watcher.stop(SOON).await.unwrap();
    // At two or three: depends on when it was stopped.
    watcher.seek(3).await.unwrap();
    watcher.stop(SOON).await.unwrap();
    journal.close().await.unwrap();
}

async fn check(path: &Path) {
    let journal = Journal::open(path, options()).await.unwrap();
    let events = all(&journal).await;
    assert_eq!(events.len(), 3);
    for (event, expected) in events.iter().zip(expected()) {
        assert_eq!(**event, expected.stored(event.sequence, UNIX_EPOCH));
    }
    let mut reader = journal.state("routes").await.unwrap().unwrap();
    assert_eq!(reader.stored().cursor, cursor(42));
    assert_eq!(reader.page(10).unwrap(), [record("/r/a", "1", 41), record("/r/c", "", 40)]);
    assert!(reader.page(10).unwrap().is_empty());
    assert_eq!(journal.checkpoint("mailer").await.unwrap().unwrap().sequence, 3);
    assert_eq!(journal.store_event(super::event(4)).await.unwrap(), 4);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn a_file_of_format_1_opens_with_all_that_was_stored() {
    if std::env::var_os("JOURNAL_WRITE_FIXTURE").is_some() {
        write(&fixture()).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("journal");
    fs::copy(fixture(), &copy).unwrap();
    check(&copy).await;
    // And this version writes what it reads.
    let fresh = folder.path().join("fresh");
    write(&fresh).await;
    check(&fresh).await;
}
