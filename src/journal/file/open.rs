//! Opening the file, and what is there to read.
//!
//! Owns the first look at a file, which nothing in it is trusted before (J3). Blocks on the disk. Must not
//! change what is there, but to begin a new journal.

use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};

use super::backend::{Backend, Opener};
use super::cache::Cache;
use super::format::{self, Log};
use super::mirror_records;
use super::tables::Tables;
use crate::journal::error::{OpenError, StorageFault};
use crate::journal::options::{JournalOptions, Verify};
use crate::journal::position::Extent;

/// Runs what may panic on a damaged file: the engine's checks are assertions in places.
pub(in crate::journal) fn contained<R>(run: impl FnOnce() -> R) -> Result<R, StorageFault> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let message = crate::view::caught_message(payload);
        StorageFault::damaged(format!("the storage engine panicked: {message}"))
    })
}

/// Opens the storage, as a new journal when it is empty.
pub(in crate::journal) fn open(
    opener: &Opener,
    first: bool,
    options: &JournalOptions,
) -> Result<(Database, Log), OpenError> {
    contained(|| {
        let backend = Backend::new(opener(first).map_err(StorageFault::of_io)?);
        let database = Database::builder()
            .set_cache_size(options.page_cache)
            .set_check_integrity_on_open(options.verify == Verify::Everything)
            .create_with_backend(backend)
            .map_err(of_foreign)?;
        let log = read_or_begin(&database)?;
        Ok((database, log))
    })?
}

/// The engine says that a file is not its own by an error of the system.
fn of_foreign(error: redb::DatabaseError) -> OpenError {
    match &error {
        redb::DatabaseError::Storage(redb::StorageError::Io(io))
            if io.kind() == std::io::ErrorKind::InvalidData =>
        {
            OpenError::NotAJournal
        }
        _ => error.into(),
    }
}

fn read_or_begin(database: &Database) -> Result<Log, OpenError> {
    let read = database.begin_read().map_err(StorageFault::from)?;
    if read.list_tables().map_err(StorageFault::from)?.next().is_none() {
        drop(read);
        begin(database)?;
        return Ok(Log::EMPTY);
    }
    let meta = match read.open_table(format::META) {
        Ok(meta) => meta,
        Err(redb::TableError::Storage(error)) => return Err(StorageFault::from(error).into()),
        Err(_) => return Err(OpenError::NotAJournal),
    };
    let record = |name: &str| {
        let record = ReadableTable::get(&meta, name).map_err(StorageFault::from)?;
        Ok::<_, StorageFault>(record.map(|record| record.value().to_vec()))
    };
    let found = record(format::META_FORMAT)?.and_then(|record| format::read_format(&record));
    match found {
        None => return Err(OpenError::NotAJournal),
        Some(format::VERSION) => {}
        Some(found) => return Err(OpenError::OtherFormat { found, known: format::VERSION }),
    }
    let log = record(format::META_LOG)?.ok_or_else(|| StorageFault::damaged("no counters"))?;
    let log = format::read_log(&log)?;
    let events = read.open_table(format::EVENTS).map_err(StorageFault::from)?;
    check_gapless(&events, log)?;
    for definition in [format::CHECKPOINTS, mirror_records::MIRRORS] {
        read.open_table(definition).map_err(StorageFault::from)?;
    }
    Ok(log)
}

/// The first event, the last, their number and the next number fit together (J1).
fn check_gapless(
    events: &impl ReadableTable<u64, &'static [u8]>,
    log: Log,
) -> Result<(), StorageFault> {
    let extent = extent(events, log)?;
    let last = events.last()?.map_or(log.next - 1, |(sequence, _)| sequence.value());
    if last != log.next - 1 || events.len()? != log.next - extent.oldest {
        return Err(StorageFault::damaged("the events have a gap"));
    }
    Ok(())
}

pub(in crate::journal) fn extent(
    events: &impl ReadableTable<u64, &'static [u8]>,
    log: Log,
) -> Result<Extent, StorageFault> {
    let oldest = events.first()?.map_or(log.next, |(sequence, _)| sequence.value());
    if oldest > log.next {
        return Err(StorageFault::damaged("the oldest event lies beyond the end"));
    }
    Ok(Extent { oldest, next: log.next })
}

fn begin(database: &Database) -> Result<(), StorageFault> {
    let transaction = database.begin_write()?;
    {
        let mut tables = Tables::open(&transaction, Log::EMPTY, Cache::new(0, 0))?;
        tables.meta.insert(format::META_FORMAT, format::write_format().as_slice())?;
        tables.finish()?;
    }
    Ok(transaction.commit()?)
}

/// What is there to read, as of now.
pub(in crate::journal) fn extent_of(database: &Database) -> Result<Extent, StorageFault> {
    let transaction = database.begin_read()?;
    let events = transaction.open_table(format::EVENTS)?;
    extent(&events, log_in(&transaction)?)
}

pub(in crate::journal) fn log_in(
    transaction: &ReadTransaction,
) -> Result<format::Log, StorageFault> {
    let meta = transaction.open_table(format::META)?;
    let log = ReadableTable::get(&meta, format::META_LOG)?;
    format::read_log(log.ok_or_else(|| StorageFault::damaged("no counters"))?.value())
}
