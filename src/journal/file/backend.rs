//! Where a journal's bytes live: a file, memory, or a storage of the caller's.
//!
//! Owns how a storage is opened, again after a failure too, and what is done about one that a crash
//! left half made. Must not know what is stored.

use std::fs::OpenOptions;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{BackendError, StorageBackend};

/// Opens the storage; told whether it is for the first time.
pub(in crate::journal) type Opener =
    Arc<dyn Fn(bool) -> io::Result<Box<dyn StorageBackend>> + Send + Sync>;

/// Opens a file, which is created the first time only: when it is gone after a failure, a new one in
/// its place would pass for an empty journal.
pub(in crate::journal) fn file(path: &Path) -> Opener {
    let path = path.to_owned();
    Arc::new(move |first| {
        let is_new = first && !path.try_exists()?;
        let file =
            OpenOptions::new().read(true).write(true).create(first).truncate(false).open(&path)?;
        if is_new {
            sync_folder(&path)?;
        }
        let backend = FileBackend::new(file).map_err(io::Error::other)?;
        Ok(Box::new(backend) as Box<dyn StorageBackend>)
    })
}

/// A new file survives a crash of the machine once its folder is on the disk.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// A storage as the engine gets it.
///
/// The engine makes a new storage in two steps, and takes one that was left after the first for a
/// file of something else. Such a storage holds nothing, so it is emptied, under the engine's lock,
/// which is held when it first asks for the length.
#[derive(Debug)]
pub(in crate::journal) struct Backend {
    inner: Box<dyn StorageBackend>,
    looked_at: AtomicBool,
}

/// The first page holds the engine's header, which begins with its mark.
const PAGE: u64 = 4096;
const MARK: usize = 9;
/// Far more than the engine sizes a new storage to.
const HALF_MADE_MAX: u64 = 64 << 20;

impl Backend {
    pub(in crate::journal) fn new(inner: Box<dyn StorageBackend>) -> Self {
        Backend { inner, looked_at: AtomicBool::new(false) }
    }

    /// Whether there is no mark, and nothing but zeros after the header.
    fn is_half_made(&self) -> io::Result<bool> {
        let len = self.inner.len()?;
        if len == 0 || len > HALF_MADE_MAX {
            return Ok(false);
        }
        let is_zero = |from: u64, len: usize| -> io::Result<bool> {
            let mut bytes = vec![0xff; len];
            self.inner.read(from, &mut bytes)?;
            Ok(bytes.iter().all(|byte| *byte == 0))
        };
        if !is_zero(0, MARK.min(usize::try_from(len).unwrap_or(MARK)))? {
            return Ok(false);
        }
        let mut from = PAGE;
        while from < len {
            let chunk = (len - from).min(1 << 20);
            if !is_zero(from, usize::try_from(chunk).map_err(io::Error::other)?)? {
                return Ok(false);
            }
            from += chunk;
        }
        Ok(true)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        if !self.looked_at.swap(true, Ordering::AcqRel) && self.is_half_made()? {
            self.inner.set_len(0)?;
        }
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

/// A storage in memory. Clones share it, so a journal can be closed and opened again on it, as after
/// a restart of the process.
///
/// ```
/// # use etcd_keyspace::journal::{Journal, JournalOptions, MemoryStorage, NewEvent, Operation};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let storage = MemoryStorage::new();
/// let journal = Journal::open_in(storage.opener(), JournalOptions::new()).await?;
/// journal.store_event(NewEvent::new(Operation::Create, "job", "1")).await?;
/// journal.close().await?;
/// let journal = Journal::open_in(storage.opener(), JournalOptions::new()).await?;
/// assert_eq!(journal.status().next, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct MemoryStorage {
    shared: Arc<Memory>,
    /// Whether this clone is the one that locked it.
    holds: AtomicBool,
}

#[derive(Debug, Default)]
struct Memory {
    bytes: InMemoryBackend,
    locked: AtomicBool,
}

impl MemoryStorage {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        MemoryStorage::default()
    }

    /// One with the content of a journal's file.
    #[must_use]
    pub fn of_file(file: &[u8]) -> Self {
        let storage = MemoryStorage::new();
        let bytes = &storage.shared.bytes;
        let filled = bytes.set_len(file.len() as u64).and_then(|()| bytes.write(0, file));
        debug_assert!(filled.is_ok(), "memory does not fail");
        storage
    }

    /// What [`Journal::open_in`](crate::journal::Journal::open_in) takes.
    pub fn opener(&self) -> impl Fn() -> io::Result<MemoryStorage> + Send + Sync + 'static {
        let storage = self.clone();
        move || Ok(storage.clone())
    }

    fn unlock(&self) {
        if self.holds.swap(false, Ordering::AcqRel) {
            self.shared.locked.store(false, Ordering::Release);
        }
    }
}

impl Clone for MemoryStorage {
    fn clone(&self) -> Self {
        MemoryStorage { shared: Arc::clone(&self.shared), holds: AtomicBool::new(false) }
    }
}

impl Drop for MemoryStorage {
    fn drop(&mut self) {
        self.unlock();
    }
}

impl StorageBackend for MemoryStorage {
    fn len(&self) -> io::Result<u64> {
        self.shared.bytes.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.shared.bytes.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.shared.bytes.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.shared.bytes.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.shared.bytes.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.unlock();
        Ok(())
    }

    /// All of it or nothing: the engine falls back to that.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        if !matches!(start, Bound::Unbounded | Bound::Included(0)) || end != Bound::Unbounded {
            return Err(BackendError::Unsupported);
        }
        let locked = !self.shared.locked.swap(true, Ordering::AcqRel);
        self.holds.fetch_or(locked, Ordering::AcqRel);
        Ok(locked)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        self.unlock();
        Ok(())
    }
}
