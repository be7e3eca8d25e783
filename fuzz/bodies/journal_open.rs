//! Opening any file as a journal, and reading and writing what opens.
//!
//! Owns the target `journal_open`. A file is refused, or read without a panic, a hang or a gap; what
//! is read twice is the same, and the journal goes on after it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_keyspace::journal::{
    Journal, JournalOptions, MemoryStorage, NewEvent, OnFailure, Operation, Position, ReadError,
    ReadOptions, StorageBackend, Verify,
};

/// A journal of format 1, which most inputs alter.
const WHOLE: &[u8] = include_bytes!("../../tests/journal/format-1.journal");
/// A file that claims to be larger is one that the disk has no room for.
const LARGEST: u64 = 64 << 20;

pub fn run(bytes: &[u8]) {
    let Some((form, rest)) = bytes.split_first() else { return };
    let file = match form {
        b'r' => rest.to_vec(),
        b'c' => WHOLE[..number(rest) % (WHOLE.len() + 1)].to_vec(),
        _ => altered(rest),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        for verify in [Verify::AsRead, Verify::Everything] {
            open(&file, verify).await;
        }
    });
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().take(4).fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// The journal with some of its bytes replaced: three bytes of place, one of length, then the bytes.
fn altered(mut patches: &[u8]) -> Vec<u8> {
    let mut file = WHOLE.to_vec();
    while let Some((head, rest)) = patches.split_at_checked(4) {
        let place = number(&head[..3]) % file.len();
        let len = (usize::from(head[3]) % 32).min(rest.len()).min(file.len() - place);
        file[place..place + len].copy_from_slice(&rest[..len]);
        patches = &rest[len..];
    }
    file
}

#[derive(Debug)]
struct Bounded(MemoryStorage);

impl StorageBackend for Bounded {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        // Places as they stand in a damaged file may add up to more than there can be.
        offset.checked_add(out.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > LARGEST { Err(io::ErrorKind::StorageFull.into()) } else { self.0.set_len(len) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        offset.checked_add(data.len() as u64).ok_or(io::ErrorKind::StorageFull)?;
        self.0.write(offset, data)
    }
}

async fn open(file: &[u8], verify: Verify) {
    let storage = MemoryStorage::of_file(file);
    let opened = AtomicBool::new(false);
    let opener = move || {
        // The second opening would be one after a failure, which stays off here.
        assert!(!opened.swap(true, Ordering::SeqCst), "opened again");
        Ok(Bounded(storage.clone()))
    };
    let options = JournalOptions::new().verify(verify).on_failure(OnFailure::StayOff).cache(0, 0);
    let Ok(journal) = Journal::open_in(opener, options).await else { return };
    if let Ok(first) = read(&journal).await {
        assert_eq!(read(&journal).await.ok(), Some(first), "read twice");
    }
    let _ = journal.checkpoints().await;
    if let Ok(Some(mut reader)) = journal.state("routes").await {
        let mut last = None;
        while let Ok(page) = reader.page(1)
            && let Some(kv) = page.into_iter().next()
        {
            assert!(last < Some(kv.key.clone()), "keys do not ascend");
            last = Some(kv.key);
        }
    }
    let next = journal.status().next;
    if let Ok(sequence) = journal.store_event(NewEvent::new(Operation::Create, "t", "x")).await {
        assert_eq!(sequence, next);
    }
    let _ = journal.close().await;
}

/// How many events there are, checked to be without a gap.
async fn read(journal: &Journal) -> Result<u64, ReadError> {
    let mut options = ReadOptions::default();
    options.timeout = Some(Duration::ZERO);
    let (mut position, mut last, mut count) = (Position::Oldest, None, 0);
    loop {
        let page = journal.events_with(position, &options).await?;
        if page.events.is_empty() {
            return Ok(count);
        }
        for event in &page.events {
            assert!(last.is_none_or(|last: u64| last + 1 == event.sequence), "a gap");
            last = Some(event.sequence);
            count += 1;
        }
        position = page.next;
    }
}
