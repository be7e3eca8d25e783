//! Opening: locks, other formats, damage, and rights.

use std::fs;
use std::path::Path;

use etcd_keyspace::journal::{
    Journal, JournalOptions, OnFailure, OpenError, Position, ReadError, Retention, StorageFault,
    Verify,
};
use std::time::Duration;

use super::{all, at_once, event, events, texts};

async fn open(path: &Path) -> Result<Journal, OpenError> {
    Journal::open(path, JournalOptions::new()).await
}

#[tokio::test]
async fn a_second_handle_is_told_that_the_file_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let journal = open(&path).await.unwrap();
    let refused = open(&path).await.unwrap_err();
    let OpenError::Locked { path: Some(named) } = &refused else { panic!("{refused:?}") };
    assert_eq!(named, &path);
    assert!(refused.to_string().contains("in use by another process"), "{refused}");
    journal.store_event(event(1)).await.unwrap();
    journal.close().await.unwrap();
    assert_eq!(texts(&all(&open(&path).await.unwrap()).await), ["1"]);
}

#[tokio::test]
async fn bw10_journal_options_are_refused_with_all_problems_at_once() {
    let mut retention = Retention::default();
    retention.max_records = 0;
    let backwards = OnFailure::Reopen { min: Duration::from_secs(2), max: Duration::from_secs(1) };
    let options = JournalOptions::new()
        .queue(0, 0)
        .long_poll(Duration::ZERO)
        .retention(retention)
        .on_failure(backwards);
    let refused = Journal::in_memory(options).await.unwrap_err();
    let OpenError::Options(error) = refused else { panic!("{refused:?}") };
    assert_eq!(error.problems().len(), 4, "{error}");
}

#[tokio::test]
async fn a_file_of_something_else_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    for content in [vec![b'x'; 5], vec![b'x'; 100_000], b"redb".to_vec()] {
        fs::write(&path, &content).unwrap();
        let refused = open(&path).await.unwrap_err();
        assert!(matches!(refused, OpenError::NotAJournal), "{refused:?}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    // A file of the same engine with other tables.
    let other = folder.path().join("other");
    let database = redb::Database::create(&other).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(redb::TableDefinition::<u64, u64>::new("meta")).unwrap();
    write.commit().unwrap();
    drop(database);
    let refused = open(&other).await.unwrap_err();
    assert!(matches!(refused, OpenError::NotAJournal), "{refused:?}");
}

#[tokio::test]
async fn a_newer_format_is_refused_with_both_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    open(&path).await.unwrap().close().await.unwrap();
    let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
    let database = redb::Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    let newer = [b"etcd-keyspace journal\n".as_slice(), &9_u32.to_le_bytes(), b"more"].concat();
    write.open_table(meta).unwrap().insert("format", newer.as_slice()).unwrap();
    write.commit().unwrap();
    drop(database);
    let refused = open(&path).await.unwrap_err();
    assert!(matches!(refused, OpenError::OtherFormat { found: 9, known: 1 }), "{refused:?}");
}

/// What a file lacks is noticed when it is opened.
#[tokio::test]
async fn j3_events_that_are_gone_are_damage() {
    let table = redb::TableDefinition::<u64, &[u8]>::new("events");
    for gone in [vec![2], vec![5], vec![4, 5]] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = open(&path).await.unwrap();
        journal.store_batch(events(1..=5)).await.unwrap();
        journal.close().await.unwrap();
        let database = redb::Database::open(&path).unwrap();
        let write = database.begin_write().unwrap();
        for sequence in &gone {
            write.open_table(table).unwrap().remove(sequence).unwrap();
        }
        write.commit().unwrap();
        drop(database);
        let refused = open(&path).await.unwrap_err();
        let damaged = matches!(refused, OpenError::Storage(StorageFault::Damaged { .. }));
        assert!(damaged, "{gone:?}: {refused:?}");
    }
}

/// A file that is cut off, or has a page of other bytes, is refused or read whole and right: never
/// wrong, never a panic.
#[tokio::test]
async fn c11_a_torn_or_altered_file_is_damage_or_reads_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let journal = open(&path).await.unwrap();
    journal.store_batch(events(1..=300)).await.unwrap();
    let expected = texts(&all(&journal).await);
    journal.close().await.unwrap();
    let whole = fs::read(&path).unwrap();
    let mut refusals = 0;
    let spots: Vec<_> = (0..whole.len()).step_by(1500).collect();
    for spot in spots {
        for cut in [true, false] {
            let mut bytes = whole.clone();
            if cut {
                bytes.truncate(spot.max(1));
            } else {
                let end = (spot + 700).min(bytes.len());
                bytes[spot..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
            }
            for verify in [Verify::Everything, Verify::AsRead] {
                fs::write(&path, &bytes).unwrap();
                let options = JournalOptions::new().verify(verify);
                refusals += u32::from(!reads_as(&path, options, &expected).await);
            }
        }
    }
    assert!(refusals > 40, "{refusals} refusals");
}

/// Whether the journal opens and reads as expected; anything else must be a typed error.
async fn reads_as(path: &Path, options: JournalOptions, expected: &[String]) -> bool {
    let journal = match Journal::open(path, options).await {
        Ok(journal) => journal,
        Err(OpenError::Storage(_) | OpenError::NotAJournal) => return false,
        Err(OpenError::OtherEngineFormat { .. }) => return false,
        Err(error) => panic!("{error:?}"),
    };
    let mut options = at_once();
    options.limit = 1000;
    let (mut position, mut read) = (Position::Oldest, Vec::new());
    let whole = loop {
        match journal.events_with(position, &options).await {
            Ok(page) if page.events.is_empty() => {
                assert_eq!(read, expected);
                break true;
            }
            Ok(page) => {
                read.extend(texts(&page.events));
                assert_eq!(read, expected[..read.len()]);
                position = page.next;
            }
            Err(ReadError::Storage(_)) => break false,
            Err(error) => panic!("{error:?}"),
        }
    };
    let _ = journal.close().await;
    whole
}

/// The engine keeps two states, of the last commit and of the one before. Which one is meant must not
/// depend on a damaged byte.
#[tokio::test]
async fn j3_damage_in_the_header_never_shows_an_older_state() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let journal = open(&path).await.unwrap();
    for n in 1..=5 {
        journal.store_event(event(n)).await.unwrap();
    }
    let expected = texts(&all(&journal).await);
    journal.close().await.unwrap();
    let whole = fs::read(&path).unwrap();
    let mut whole_again = 0;
    for at in 0..320 {
        for bits in [0x02, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= bits;
            fs::write(&path, &bytes).unwrap();
            let same = reads_as(&path, JournalOptions::new(), &expected).await;
            whole_again += u32::from(same);
        }
    }
    assert!(whole_again > 0, "bytes that mean nothing");
}

#[tokio::test]
async fn a_folder_that_is_not_there_and_a_file_that_is_a_folder_are_errors_of_the_system() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("no/journal"), folder.path().to_owned()] {
        let refused = open(&path).await.unwrap_err();
        assert!(matches!(refused, OpenError::Storage(StorageFault::Io(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_a_new_journal_begins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    for n in 1..=2 {
        fs::write(&path, "junk").unwrap();
        open(&path).await.unwrap_err();
        let aside = Journal::set_aside(&path).unwrap();
        assert_eq!(aside, folder.path().join(format!("journal.aside-{n}")));
        assert_eq!(fs::read(&aside).unwrap(), b"junk");
        open(&path).await.unwrap().close().await.unwrap();
    }
}
