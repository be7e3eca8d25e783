//! J2: failing and forgetting storage. Whatever fails below the engine, what was acknowledged is
//! there, whole and in order, and the journal opens again.

use std::io::ErrorKind;
use std::time::Duration;

use etcd_keyspace::journal::{
    Durability, Journal, JournalOptions, MemoryStorage, OnFailure, OpenError, Retention,
    StorageBackend, StorageFault, StoreError,
};

use super::faulty::{Faulty, Kind};
use super::model::{EVENTS, WATCHER, check, step, stored_step};
use super::{SOON, event};

const QUICK: OnFailure =
    OnFailure::Reopen { min: Duration::from_millis(1), max: Duration::from_millis(1) };

fn options(durability: Durability) -> JournalOptions {
    let mut retention = Retention::default();
    retention.every = None;
    retention.bytes = Some(1500);
    JournalOptions::new()
        .durability(durability)
        .retention(retention)
        .on_failure(QUICK)
        .cache(4, 4096)
}

/// Waits until the journal is open again.
async fn until_open(journal: &Journal) {
    let begun = std::time::Instant::now();
    while journal.status().fault.is_some() {
        assert!(begun.elapsed() < SOON, "never open again: {:?}", journal.status());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Runs steps until one fails or `last` is done; gives the last acknowledged one.
async fn run_until_failure(disk: &Faulty, options: JournalOptions, last: u64) -> u64 {
    let Ok(journal) = Journal::open_in(disk.opener(), options).await else { return 0 };
    let mut acknowledged = stored_step(&journal).await.unwrap_or(0);
    while acknowledged < last {
        let n = acknowledged + 1;
        if journal.append(step(n)).await.is_err() {
            break;
        }
        acknowledged = n;
        // Collections in between must not harm either.
        if n % 4 == 0 && journal.collect(std::time::SystemTime::now()).await.is_err() {
            break;
        }
    }
    // Ends the thread, so that the next process has the disk for itself.
    let _ = journal.close().await;
    acknowledged
}

/// How many calls a run makes when nothing fails.
async fn calls_of(options: JournalOptions, last: u64) -> usize {
    let disk = Faulty::default();
    assert_eq!(run_until_failure(&disk, options, last).await, last);
    disk.calls()
}

async fn reopened(disk: &Faulty, options: JournalOptions) -> Journal {
    Journal::open_in(disk.opener(), options).await.expect("it opens again")
}

const LAST: u64 = 9;

/// The indexes of calls that one of several variants of a run takes: every so many, which
/// `JOURNAL_FAULT_STRIDE` sets. The variants begin at different ones.
fn indexes(calls: usize, variant: usize) -> impl Iterator<Item = usize> {
    let stride = std::env::var("JOURNAL_FAULT_STRIDE").map_or(7, |stride| stride.parse().unwrap());
    (variant % stride..calls).step_by(stride)
}

/// A write, a sync or a resize fails at every call there is, once or from then on.
#[tokio::test]
async fn j2_a_failing_call_at_every_index_loses_nothing_that_was_acknowledged() {
    let calls = calls_of(options(Durability::EachBatch), LAST).await;
    let mut failed = 0;
    for kind in [Kind::Write, Kind::Sync, Kind::SetLen, Kind::Read] {
        for (index, times) in
            indexes(calls, kind as usize).flat_map(|index| [(index, 1), (index, usize::MAX)])
        {
            let disk = Faulty::default();
            disk.fail(index, kind, ErrorKind::StorageFull, times);
            let options = options(Durability::EachBatch);
            let acknowledged = run_until_failure(&disk, options.clone(), LAST).await;
            failed += usize::from(acknowledged < LAST);
            disk.mend();
            let journal = reopened(&disk, options).await;
            let found = check(&journal).await;
            // A step that failed may be there, whole: its outcome was open.
            assert!(
                found == acknowledged || found == acknowledged + 1,
                "{kind:?} {index} x{times}: {acknowledged} acknowledged, {found} found"
            );
            assert_eq!(journal.append(step(found + 1)).await.unwrap().start, found * EVENTS + 1);
            journal.close().await.unwrap();
        }
    }
    assert!(failed > 20, "{failed} runs failed of {calls} calls");
}

/// The same within one process: the journal opens its storage again and goes on.
#[tokio::test]
async fn j2_the_journal_goes_on_after_a_failure_without_being_opened_anew() {
    let calls = calls_of(options(Durability::EachBatch), LAST).await;
    for kind in [Kind::Write, Kind::Sync] {
        for index in indexes(calls, kind as usize) {
            let disk = Faulty::default();
            let options = options(Durability::EachBatch);
            let journal = Journal::open_in(disk.opener(), options.clone()).await.unwrap();
            disk.fail(index, kind, ErrorKind::StorageFull, 1);
            let (mut acknowledged, mut failures) = (0, 0);
            while acknowledged < LAST {
                match journal.append(step(acknowledged + 1)).await {
                    Ok(_) => acknowledged += 1,
                    Err(StoreError::Storage(StorageFault::DiskFull(_))) => {
                        failures += 1;
                        until_open(&journal).await;
                        let found = stored_step(&journal).await.unwrap();
                        assert!(found == acknowledged || found == acknowledged + 1);
                        acknowledged = found;
                    }
                    Err(error) => panic!("{kind:?} {index}: {error:?}"),
                }
            }
            assert!(failures <= 1 && failures == journal.status().failures);
            assert_eq!(check(&journal).await, LAST);
            // The failing call may be one of those that closing makes.
            let closed = journal.close().await;
            assert!(closed.is_ok() || failures == 0, "{closed:?}");
            disk.mend();
            assert_eq!(check(&reopened(&disk, options).await).await, LAST);
        }
    }
}

/// The machine loses power at every call, and of what was not synced the disk has kept nothing, all,
/// or any part.
#[tokio::test]
async fn j2_a_crash_at_every_call_keeps_what_was_acknowledged_as_durable() {
    for quick in [false, true] {
        let options = options(Durability::EachBatch).quick_recovery(quick);
        let calls = calls_of(options.clone(), LAST).await;
        let masks = [0, u64::MAX, 0x5555_5555_5555_5555, 0x9e37_79b9_7f4a_7c15];
        for (variant, mask) in masks.into_iter().enumerate() {
            for index in indexes(calls, 2 * variant + usize::from(quick)) {
                let kept = u64::rotate_left(mask, u32::try_from(index % 64).unwrap());
                let disk = Faulty::default();
                disk.die_at(index);
                let acknowledged = run_until_failure(&disk, options.clone(), LAST).await;
                disk.crash(kept);
                let journal = reopened(&disk, options.clone()).await;
                let found = check(&journal).await;
                assert!(
                    found == acknowledged || found == acknowledged + 1,
                    "call {index}, kept {kept:x}: {acknowledged} acknowledged, {found} found"
                );
                journal.append(step(found + 1)).await.unwrap();
                journal.close().await.unwrap();
            }
        }
    }
}

/// Without durability for each batch a crash takes a suffix, and never a part out of the middle.
#[tokio::test]
async fn j2_what_a_crash_takes_is_a_suffix() {
    let mut taken = 0;
    let lazy = options(Durability::OnClose);
    let calls = calls_of(lazy.clone(), LAST).await;
    for (variant, kept) in [0, 0x5555_5555_5555_5555, u64::MAX].into_iter().enumerate() {
        for index in indexes(calls, variant) {
            let disk = Faulty::default();
            disk.die_at(index);
            let acknowledged = run_until_failure(&disk, lazy.clone(), LAST).await;
            disk.crash(kept);
            let journal = reopened(&disk, lazy.clone()).await;
            let found = check(&journal).await;
            assert!(found <= acknowledged + 1, "{found} of {acknowledged}");
            taken += u64::from(found < acknowledged);
            journal.close().await.unwrap();
        }
    }
    assert!(taken > 0, "the storage never forgot anything");
}

/// What was flushed survives whatever the durability is.
#[tokio::test]
async fn j2_a_flush_is_a_promise() {
    let disk = Faulty::default();
    let lazy = options(Durability::OnClose);
    let journal = Journal::open_in(disk.opener(), lazy.clone()).await.unwrap();
    for n in 1..=4 {
        journal.append(step(n)).await.unwrap();
    }
    journal.flush().await.unwrap();
    journal.append(step(5)).await.unwrap();
    assert_eq!(journal.status().durable, 4 * EVENTS);
    disk.crash(0);
    let _ = journal.close().await;
    assert_eq!(check(&reopened(&disk, lazy).await).await, 4);
}

#[tokio::test]
async fn bw18_a_full_and_a_read_only_disk_are_told_apart_and_the_status_says_so() {
    let cases = [
        (ErrorKind::StorageFull, "DiskFull"),
        (ErrorKind::QuotaExceeded, "DiskFull"),
        (ErrorKind::ReadOnlyFilesystem, "ReadOnly"),
        (ErrorKind::PermissionDenied, "ReadOnly"),
        (ErrorKind::TimedOut, "Io"),
    ];
    for (kind, expected) in cases {
        let disk = Faulty::default();
        let options = options(Durability::EachBatch);
        let journal = Journal::open_in(disk.opener(), options).await.unwrap();
        journal.store_event(event(1)).await.unwrap();
        disk.fail(0, Kind::Write, kind, usize::MAX);
        for _ in 0..2 {
            let error = journal.store_event(event(2)).await.unwrap_err();
            let StoreError::Storage(fault) = &error else { panic!("{error:?}") };
            assert!(format!("{fault:?}").starts_with(expected), "{kind:?}: {fault:?}");
            assert!(std::error::Error::source(&error).is_some());
            let status = journal.status();
            assert!(status.fault.is_some() && status.failures >= 1, "{status:?}");
        }
        disk.mend();
        until_open(&journal).await;
        journal.store_event(event(2)).await.unwrap();
    }
}

#[tokio::test]
async fn a_journal_that_stays_off_stays_off_until_it_is_opened_anew() {
    let disk = Faulty::default();
    let off = options(Durability::EachBatch).on_failure(OnFailure::StayOff);
    let journal = Journal::open_in(disk.opener(), off.clone()).await.unwrap();
    journal.append(step(1)).await.unwrap();
    disk.fail(0, Kind::Sync, ErrorKind::StorageFull, 1);
    journal.append(step(2)).await.unwrap_err();
    for _ in 0..3 {
        let refused = journal.append(step(2)).await;
        let full = matches!(refused, Err(StoreError::Storage(StorageFault::DiskFull(_))));
        assert!(full, "{refused:?}");
    }
    assert_eq!(journal.status().failures, 1);
    journal.close().await.unwrap_err();
    let journal = reopened(&disk, off).await;
    assert!(check(&journal).await >= 1);
}

/// Another journal in the place of the one that failed is no continuation.
#[tokio::test]
async fn j3_a_storage_that_lost_what_was_durable_is_not_taken_back() {
    let (full, empty) = (Faulty::default(), MemoryStorage::new());
    let choice = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let opener = {
        let (full, empty, choice) = (full.opener(), empty.opener(), choice.clone());
        move || -> std::io::Result<Either> {
            if choice.load(std::sync::atomic::Ordering::SeqCst) {
                Ok(Either(Box::new(empty()?)))
            } else {
                Ok(Either(Box::new(full()?)))
            }
        }
    };
    let journal = Journal::open_in(opener, options(Durability::EachBatch)).await.unwrap();
    journal.append(step(1)).await.unwrap();
    choice.store(true, std::sync::atomic::Ordering::SeqCst);
    full.fail(0, Kind::Sync, ErrorKind::StorageFull, 1);
    journal.append(step(2)).await.unwrap_err();
    let begun = std::time::Instant::now();
    while !matches!(journal.status().fault, Some(StorageFault::Damaged { .. })) {
        assert!(begun.elapsed() < SOON, "{:?}", journal.status());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    choice.store(false, std::sync::atomic::Ordering::SeqCst);
    until_open(&journal).await;
    assert!(check(&journal).await >= 1);
}

#[derive(Debug)]
struct Either(Box<dyn StorageBackend>);

impl StorageBackend for Either {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }
    fn close(&self) -> std::io::Result<()> {
        self.0.close()
    }
}

#[tokio::test]
async fn an_opening_that_fails_says_why_and_can_be_repeated() {
    for (kind, error) in
        [(Kind::Write, ErrorKind::ReadOnlyFilesystem), (Kind::Sync, ErrorKind::StorageFull)]
    {
        let disk = Faulty::default();
        disk.fail(0, kind, error, usize::MAX);
        let refused = Journal::open_in(disk.opener(), options(Durability::EachBatch)).await;
        let Err(OpenError::Storage(fault)) = refused else { panic!("{refused:?}") };
        let expected = if kind == Kind::Write { "ReadOnly" } else { "DiskFull" };
        assert!(format!("{fault:?}").starts_with(expected), "{fault:?}");
        disk.mend();
        let journal = reopened(&disk, options(Durability::EachBatch)).await;
        journal.append(step(1)).await.unwrap();
        assert!(journal.checkpoint(WATCHER).await.unwrap().is_none());
    }
}
