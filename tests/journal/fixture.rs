//! Files written by format version 1, for this and later versions to open.
//!
//! `format-1.journal` was written by [`write`] before there were refused keys, and
//! `format-1-refused.journal` by [`write_refused`]; `JOURNAL_WRITE_FIXTURE=1` writes those that are missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcd_keyspace::BoxError;
use etcd_keyspace::journal::{
    Journal, JournalOptions, MirrorBatch, NewEvent, Operation, Refusal, Registry, Retention,
    WatcherOptions, handler_fn,
};

use tempfile::TempDir;

use super::{SOON, all, cursor, put, record};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/journal").join(name)
}

/// The file as it is kept, in a folder of its own to be opened and changed; first written if it is missing and asked for.
async fn kept(name: &str, write: impl AsyncFn(&Path)) -> (TempDir, PathBuf) {
    if std::env::var_os("JOURNAL_WRITE_FIXTURE").is_some() && !fixture(name).exists() {
        write(&fixture(name)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("journal");
    fs::copy(fixture(name), &copy).unwrap();
    (folder, copy)
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
    let (folder, copy) = kept("format-1.journal", write).await;
    check(&copy).await;
    // And this version writes what it reads.
    let fresh = folder.path().join("fresh");
    write(&fresh).await;
    check(&fresh).await;
}

fn since() -> SystemTime {
    UNIX_EPOCH + Duration::new(1_790_000_000, 5)
}

/// One key whose newest record is refused, with the last good one, and one that never had any.
async fn write_refused(path: &Path) {
    let journal = Journal::open(path, options()).await.unwrap();
    let mut batch = MirrorBatch::new("routes", None, cursor(9));
    batch.changes = vec![put("/r/a", "good", 7), put("/r/a", "bad", 8), put("/r/b", "bad", 9)];
    let refused = |key: &str, shows| Refusal { key: key.into(), since: since(), shows };
    batch.refused = vec![refused("/r/a", Some(7)), refused("/r/b", None)];
    journal.append(batch).await.unwrap();
    journal.close().await.unwrap();
}

async fn check_refused(path: &Path) {
    let journal = Journal::open(path, options()).await.unwrap();
    let mut reader = journal.state("routes").await.unwrap().unwrap();
    let refused: Vec<_> = reader
        .refused()
        .unwrap()
        .into_iter()
        .map(|refusal| (refusal.key, refusal.since, refusal.last_good))
        .collect();
    let good = record("/r/a", "good", 7);
    assert_eq!(
        refused,
        [(b"/r/a".to_vec(), since(), Some(good)), (b"/r/b".to_vec(), since(), None)]
    );
    let state = [record("/r/a", "bad", 8), record("/r/b", "bad", 9)];
    assert_eq!(reader.page(10).unwrap(), state);
    assert!(reader.page(10).unwrap().is_empty());
    drop(reader);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn a_file_of_format_1_opens_with_its_refused_keys() {
    let (folder, copy) = kept("format-1-refused.journal", write_refused).await;
    check_refused(&copy).await;
    let fresh = folder.path().join("fresh");
    write_refused(&fresh).await;
    check_refused(&fresh).await;
}
