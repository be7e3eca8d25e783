//! [`Journal`]: the handle that applications and mirrors hold.
//!
//! Owns the public calls and the end of the journal with its last handle. Must not do the work: calls
//! go to the writer's thread, reads to `read`.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use redb::{ReadableTable, StorageBackend};
use tokio::sync::oneshot;

use super::queue::{Call, Refused, Reply};
use super::read::{Page, ReadOptions, blocking};
use super::shared::Shared;
use super::state_reader::StateReader;
use super::work::{Answer, Work};
use super::writer;
use crate::journal::error::{OpenError, ReadError, StorageFault, StoreError};
use crate::journal::event::NewEvent;
use crate::journal::file::backend::{self, Opener};
use crate::journal::file::format::{self, Checkpoint};
use crate::journal::file::gc::Collected;
use crate::journal::file::tables::{check_batch, check_event, check_name};
use crate::journal::filter::Filter;
use crate::journal::mirror_batch::{MirrorBatch, StoredMirror};
use crate::journal::options::JournalOptions;
use crate::journal::position::Position;
use crate::journal::synthesize::Synthesizer;

/// A durable journal. A handle, cheap to clone; the journal ends with [`close`](Journal::close), or
/// with its last handle, which watchers hold too.
#[derive(Debug, Clone)]
pub struct Journal {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

impl Journal {
    /// Opens the journal at `path`, or begins one there. The file is locked until the journal ends.
    ///
    /// # Errors
    /// Any [`OpenError`].
    pub async fn open(path: impl AsRef<Path>, options: JournalOptions) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let opened = Journal::start(backend::file(path), options).await;
        opened.map_err(|error| match error {
            OpenError::Locked { .. } => OpenError::Locked { path: Some(path.to_owned()) },
            other => other,
        })
    }

    /// Opens the journal in a storage of the caller's, or begins one there. `storage` is called again
    /// to open it anew after a failure, and must then give what was synced before.
    ///
    /// # Errors
    /// Any [`OpenError`].
    pub async fn open_in<B: StorageBackend>(
        storage: impl Fn() -> io::Result<B> + Send + Sync + 'static,
        options: JournalOptions,
    ) -> Result<Self, OpenError> {
        let boxed = move |_| storage().map(|backend| Box::new(backend) as Box<dyn StorageBackend>);
        Journal::start(Arc::new(boxed), options).await
    }

    /// A journal in memory, for tests: gone with its last handle.
    ///
    /// # Errors
    /// [`OpenError::Options`].
    pub async fn in_memory(options: JournalOptions) -> Result<Self, OpenError> {
        Journal::open_in(backend::MemoryStorage::new().opener(), options).await
    }

    /// On a thread of its own, since the engine may have to read the whole file.
    async fn start(opener: Opener, options: JournalOptions) -> Result<Self, OpenError> {
        options.check()?;
        let (done, opened) = oneshot::channel();
        let thread = std::thread::Builder::new().name("keyspace-journal-open".to_owned());
        thread
            .spawn(move || {
                let shared = writer::start(opener, options);
                if let Err(Ok(unwanted)) = done.send(shared) {
                    unwanted.queue.close();
                }
            })
            .map_err(StorageFault::of_io)?;
        let shared = opened.await.unwrap_or(Err(StorageFault::Closed.into()))?;
        Ok(Journal { handle: Arc::new(Handle { shared }) })
    }

    /// Renames a file that cannot be trusted, so that a new journal can begin in its place; gives its
    /// new name. Nothing may have it open.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_aside(path: impl AsRef<Path>) -> io::Result<PathBuf> {
        let path = path.as_ref();
        let mut number = 1_u32;
        loop {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".aside-{number}"));
            let aside = PathBuf::from(name);
            if !aside.try_exists()? {
                std::fs::rename(path, &aside)?;
                return Ok(aside);
            }
            number += 1;
        }
    }

    pub(in crate::journal) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    pub(in crate::journal) async fn call(&self, work: Work) -> Result<Answer, StoreError> {
        let (call, reply) = Call::new(work);
        self.shared().queue.push(call).await?;
        reply.await
    }

    // ---- Storing -------------------------------------------------------------------------------------

    /// Stores an event; gives its sequence number.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn store_event(&self, event: NewEvent) -> Result<u64, StoreError> {
        Ok(self.store_batch(vec![event]).await?.start)
    }

    /// Stores events together, whole or not at all; gives their sequence numbers.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn store_batch(&self, events: Vec<NewEvent>) -> Result<Range<u64>, StoreError> {
        events.iter().try_for_each(check_event)?;
        self.call(Work::Store(events)).await.map(stored)
    }

    /// Stores what a mirror has come to: events, cursor and changes of the state, in one transaction
    /// (J4). Gives the sequence numbers of the events.
    ///
    /// # Errors
    /// Any [`StoreError`]; [`CursorMismatch`](StoreError::CursorMismatch) when it does not continue
    /// what is stored.
    pub async fn append(&self, batch: MirrorBatch) -> Result<Range<u64>, StoreError> {
        check_batch(&batch)?;
        self.call(Work::Append(Box::new(batch))).await.map(stored)
    }

    /// As [`append`](Journal::append), with an event for each change.
    pub(in crate::journal) async fn append_told(
        &self,
        batch: MirrorBatch,
        telling: Synthesizer,
    ) -> Result<Range<u64>, StoreError> {
        check_batch(&batch)?;
        self.call(Work::Tell(Box::new((batch, telling)))).await.map(stored)
    }

    /// As [`append`](Journal::append), without waiting for room in the queue: for callers that hold a
    /// lock or are not async. Batches are stored in the order of the calls.
    ///
    /// # Errors
    /// [`TryAppendError::Full`] gives the batch back; [`TryAppendError::Refused`] says why it can
    /// never be stored.
    pub fn try_append(&self, batch: MirrorBatch) -> Result<Pending, TryAppendError> {
        check_batch(&batch)?;
        let (call, reply) = Call::new(Work::Append(Box::new(batch)));
        match self.shared().queue.try_push(call) {
            Ok(()) => Ok(Pending { reply }),
            Err(Refused::Closed) => Err(StoreError::Storage(StorageFault::Closed).into()),
            Err(Refused::Full(Call { work: Work::Append(batch), .. })) => {
                Err(TryAppendError::Full(batch))
            }
            Err(Refused::Full(_)) => unreachable!("it was an append"),
        }
    }

    /// Makes durable what was stored before the call.
    ///
    /// # Errors
    /// [`StoreError::Storage`].
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.call(Work::Flush).await.map(|_| ())
    }

    /// Runs one collection now, with the bounds of the [`Retention`](crate::journal::Retention); `now` is what
    /// ages are told from.
    ///
    /// # Errors
    /// [`StoreError::Storage`].
    pub async fn collect(&self, now: SystemTime) -> Result<Collected, StoreError> {
        match self.call(Work::Collect(now)).await? {
            Answer::Collected(collected) => Ok(collected),
            other => unreachable!("{other:?} for a collection"),
        }
    }

    /// Forgets a watcher's checkpoint, which holds back collections.
    ///
    /// # Errors
    /// [`StoreError::Storage`].
    pub async fn forget_checkpoint(&self, id: impl Into<String>) -> Result<(), StoreError> {
        self.call(Work::ForgetCheckpoint(id.into())).await.map(|_| ())
    }

    /// Forgets a mirror's cursor and state; its events stay.
    ///
    /// # Errors
    /// [`StoreError`], [`Size`](StoreError::Size) for a name that no mirror can have.
    pub async fn forget_mirror(&self, mirror: impl Into<String>) -> Result<(), StoreError> {
        let mirror = mirror.into();
        check_name("a mirror's name", &mirror)?;
        self.call(Work::ForgetMirror(mirror)).await.map(|_| ())
    }

    // ---- Reading -------------------------------------------------------------------------------------

    /// At most `limit` events from `position` on; waits for the first as long as the journal's
    /// [long poll](JournalOptions::long_poll). A position beyond the end is an error.
    ///
    /// # Errors
    /// Any [`ReadError`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn events(
        &self,
        position: Position,
        limit: usize,
        filter: &Filter,
    ) -> Result<Page, ReadError> {
        let filter = filter.clone();
        self.events_with(position, &ReadOptions { limit, filter, ..ReadOptions::default() }).await
    }

    /// As [`events`](Journal::events), with all choices.
    ///
    /// # Errors
    /// Any [`ReadError`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn events_with(
        &self,
        position: Position,
        options: &ReadOptions,
    ) -> Result<Page, ReadError> {
        self.shared().events(position, options).await
    }

    /// A watcher's checkpoint.
    ///
    /// # Errors
    /// [`ReadError::Storage`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn checkpoint(&self, id: &str) -> Result<Option<Checkpoint>, ReadError> {
        let (shared, id) = (Arc::clone(self.shared()), id.to_owned());
        blocking(move || {
            let table = shared.begin_read()?.open_table(format::CHECKPOINTS);
            let table = table.map_err(StorageFault::from)?;
            let record = ReadableTable::get(&table, id.as_str()).map_err(StorageFault::from)?;
            let read = record.map(|record| format::read_checkpoint(&id, record.value()));
            Ok(read.transpose()?)
        })
        .await
    }

    /// All checkpoints, by watcher.
    ///
    /// # Errors
    /// [`ReadError::Storage`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn checkpoints(&self) -> Result<Vec<(String, Checkpoint)>, ReadError> {
        let shared = Arc::clone(self.shared());
        blocking(move || {
            let table = shared.begin_read()?.open_table(format::CHECKPOINTS);
            let table = table.map_err(StorageFault::from)?;
            let mut all = Vec::new();
            for item in table.iter().map_err(StorageFault::from)? {
                let (id, record) = item.map_err(StorageFault::from)?;
                let checkpoint = format::read_checkpoint(id.value(), record.value())?;
                all.push((id.value().to_owned(), checkpoint));
            }
            Ok(all)
        })
        .await
    }

    /// How far a mirror's events and state are stored.
    ///
    /// # Errors
    /// [`ReadError::Storage`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn cursor(&self, mirror: &str) -> Result<Option<StoredMirror>, ReadError> {
        Ok(self.state(mirror).await?.map(|reader| reader.stored()))
    }

    /// A reader of a mirror's stored state, of this moment; `None` when nothing is stored.
    ///
    /// # Errors
    /// [`ReadError::Storage`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn state(&self, mirror: &str) -> Result<Option<StateReader>, ReadError> {
        let (shared, mirror) = (Arc::clone(self.shared()), mirror.to_owned());
        blocking(move || Ok(StateReader::begin(shared.begin_read()?, &mirror)?)).await
    }

    // ---- State and end -------------------------------------------------------------------------------

    /// How the journal is. Never waits.
    #[must_use]
    pub fn status(&self) -> JournalStatus {
        let shared = self.shared();
        let figures = shared.figures.lock().clone();
        let (fault, since) = figures.off.unzip();
        JournalStatus {
            oldest: figures.extent.oldest,
            next: figures.extent.next,
            durable: figures.durable_next - 1,
            bytes: figures.bytes,
            queued: shared.queue.len(),
            failures: figures.failures,
            fault,
            off_since: since,
        }
    }

    /// Ends the journal for all its handles: what was called before is stored and made durable, and
    /// the file is let go. Later calls fail with [`StorageFault::Closed`].
    ///
    /// # Errors
    /// What went wrong at the end. After an error something that was acknowledged may be lost, unless
    /// each batch was durable.
    pub async fn close(&self) -> Result<(), StorageFault> {
        let mut ended = self.shared().ended.subscribe();
        self.shared().queue.close();
        let result = ended.wait_for(Option::is_some).await;
        result.ok().and_then(|result| result.clone()).unwrap_or(Err(StorageFault::Closed))
    }
}

fn stored(answer: Answer) -> Range<u64> {
    match answer {
        Answer::Stored(sequences) => sequences,
        other => unreachable!("{other:?} for events"),
    }
}

/// The answer of a [`try_append`](Journal::try_append). Dropping it does not take the batch back.
#[derive(Debug)]
#[must_use = "nothing is acknowledged until it is awaited"]
pub struct Pending {
    reply: Reply,
}

impl Future for Pending {
    type Output = Result<Range<u64>, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.reply).poll(context).map(|answer| answer.map(stored))
    }
}

/// A batch was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TryAppendError {
    /// The queue is at its bound. Try again once something was stored; here is the batch.
    #[error("the queue to the journal is full")]
    Full(Box<MirrorBatch>),
    /// It can never be stored. Fix the caller, or give up.
    #[error("the batch was refused")]
    Refused(#[from] StoreError),
}

/// How a journal is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JournalStatus {
    /// The oldest event there is; `next` when there is none.
    pub oldest: u64,
    /// The sequence number that the next event will get.
    pub next: u64,
    /// The last event that is durable; zero for none.
    pub durable: u64,
    /// Bytes of all events.
    pub bytes: u64,
    /// Calls that wait for the writer.
    pub queued: usize,
    /// Faults of the storage since the journal was opened.
    pub failures: u64,
    /// Why the journal is off; `None` while it is on.
    pub fault: Option<StorageFault>,
    /// Since when.
    pub off_since: Option<SystemTime>,
}
