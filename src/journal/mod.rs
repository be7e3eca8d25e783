//! A durable journal of events in one file, with watchers that resume where they stood, and the
//! state that a mirror needs to start warm.
//!
//! ```
//! # use etcd_keyspace::journal::{Filter, Journal, JournalOptions, NewEvent, Operation, Position};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("journal");
//! let journal = Journal::open(&path, JournalOptions::new()).await?;
//! let sequence = journal.store_event(NewEvent::new(Operation::Create, "job", "{}")).await?;
//! let page = journal.events(Position::At(sequence), 10, &Filter::all()).await?;
//! assert_eq!(page.events[0].object, b"{}");
//! assert_eq!(page.next, Position::After(sequence));
//! journal.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # With a key space
//!
//! A mirror stores what it takes in, and the next process starts from that. A named watcher handles each
//! event at least once, in order, wherever the process was killed.
//!
//! ```no_run
//! use etcd_keyspace::journal::{Journal, JournalOptions, Registry, WatcherOptions, handler_fn};
//! use etcd_keyspace::{BoxError, Etcd, EtcdOptions, KeySpace};
//!
//! # async fn run() -> Result<(), BoxError> {
//! let journal = Journal::open("orders.journal", JournalOptions::new()).await?;
//! let orders = KeySpace::<Vec<u8>>::builder("/orders/")?.bytes().name("orders");
//! let etcd = Etcd::new(["http://127.0.0.1:2379"], EtcdOptions::new());
//! // `journal` stores, `restore` serves at once what a former process stored, and goes on from there.
//! let orders = orders.journal(&journal).restore(&journal).start(etcd).await?;
//!
//! let handler = handler_fn(|event| {
//!     println!("{} {:?} at {:?}", event.operation, event.key, event.revision);
//!     Ok::<_, BoxError>(()) // an error is tried again, with delays
//! });
//! let registry = Registry::new(&journal);
//! registry.watch("mailer", WatcherOptions::new().handler(handler).auto_start(true)).await?;
//! # drop(orders);
//! # Ok(())
//! # }
//! ```
//!
//! | question | answer |
//! |---|---|
//! | which events | every one etcd told; after lost history, or when nothing is stored yet, the exact difference, [marked](NewEvent::synthesized) |
//! | how late | what is shown is stored a moment later, [bounded in bytes](MirrorOptions::buffer_bytes) |
//! | a slow or broken disk | the key space serves on; [`Status::store_error`](crate::Status::store_error) tells; it is caught up with by a complete read |
//! | another range under the same name | is another mirror to the journal |
//! | how large | [`Retention`] collects by age and by size, and not past a watcher's checkpoint unless told |
//!
//! # What holds
//!
//! The code and the tests quote these numbers.
//!
//! 1. **J1 One order.** Events have sequence numbers 1, 2, 3, ... in the order they were stored, without
//!    a gap and never used twice, also across restarts and collections. What is collected is a prefix.
//! 2. **J2 Acknowledged is kept.** What a call acknowledged, a later opening finds, as far as
//!    [`Durability`] says; what a crash takes is a suffix of the acknowledged steps, never a part out of
//!    the middle. A call that failed below the journal ([`StoreError::Storage`]) is stored whole or not
//!    at all, and nobody sees it before the journal is open again.
//! 3. **J3 Never trusted silently.** Every record has a checksum over itself and its key; the events'
//!    numbers are checked against gaps; a state is checked against the number and the sum of its
//!    records. What does not fit is [`StorageFault::Damaged`], and so is a panic of the storage engine.
//! 4. **J4 One transaction.** Events, cursor and state, refused keys included, of a [`MirrorBatch`] are stored together, and only
//!    if the batch continues the stored cursor. A [`StateReader`] reads cursor and state of one moment.
//! 5. **J5 No wake-up is lost.** A reader subscribes before it looks. The position moves past what the
//!    filter left out, and is unmoved when nothing was looked at.
//! 6. **J6 At least once, in order.** A watcher calls its handler for each event that its filter lets
//!    through, in order, one at a time. Its checkpoint never runs ahead of what was handled, and after a
//!    restart it goes on strictly after it.
//! 7. **J7 Bounded.** The queue to the writer, the cache, a watcher's buffer and a collection have stated
//!    bounds ([`JournalOptions`], [`WatcherOptions`], [`Retention`]).
//! 8. **J8 Blocking stays away from async threads.** One thread of the journal's own writes; reads that
//!    memory cannot answer go to tokio's threads for blocking work.
//!
//! # Cancelling
//!
//! Dropping the future of a call that stores, before it got its place in the queue, leaves nothing
//! behind; afterwards the call is carried out and only its answer is lost. Dropping a read changes
//! nothing.
//!
//! In tests with tokio's paused clock, time runs ahead to the next timer while the journal's own thread
//! works: that thread is not the runtime's to see.
//!
//! # Failures
//!
//! After a fault of the storage (a full disk, a failing one, damage) the journal is off: calls fail with
//! the fault and [`status`](Journal::status) tells it. As [`OnFailure`] says, it opens the file again
//! after growing delays, and goes on if everything that was durable is there; or it stays off.
//!
//! # The file, format version 1
//!
//! A file of [redb](https://docs.rs/redb) 4 (file format 3 of that engine) with these tables; integers are
//! little-endian, strings UTF-8, times nanoseconds since 1970 as `i64`:
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `"format"` | `etcd-keyspace journal\n`, then the version as `u32` |
//! | `meta` | `"log"` | sealed: next sequence number `u64`, bytes of all event records `u64` |
//! | `events` | sequence `u64` | sealed: operation `u8` (1 create, 2 update, 3 delete), flags `u8` (1 synthesized, 2 with key, 4 with revision), time, revision `i64` if there is one, type, key if there is one, then the object to the end |
//! | `checkpoints` | watcher `str` | sealed: sequence `u64`, time |
//! | `mirrors` | mirror `str` | sealed: cluster id `u64`, epoch `u64`, revision `i64`, time, number of keys `u64`, sum of the seals of its state `u64`; if there are refused keys, their number `u64` and the sum of their seals `u64` |
//! | `state:` and the mirror | key | sealed: create revision, mod revision, version, lease (`i64` each), then the value to the end |
//! | `refused:` and the mirror | key whose newest record could not be decoded | sealed: since when as a time; if an older record was shown in its place, that as under `state:` |
//!
//! A sealed value begins with the XXH3-64 of the rest, seeded with the key: the number itself for
//! events, else the XXH3-64 of the key's bytes, for refused keys its complement. Type and key have their
//! length in front as `u32`. Sums are modulo 2^64.
//!
//! **The rule for changing it.** Whatever makes an older version misread a file, or a file of an older
//! version unreadable, gets the next version number. A version reads the formats it names and refuses
//! others with [`OpenError::OtherFormat`], never guessing; the record under `"format"` keeps its place
//! and form for ever. A file of each version is kept under `tests/journal/` and opened by a test.

mod engine;
mod error;
mod event;
mod file;
mod filter;
mod mirror;
mod mirror_batch;
mod options;
mod position;
mod store_options;
mod synthesize;
#[cfg(feature = "test-util")]
mod testing;
mod types;
mod watch;

pub use self::engine::journal::{Journal, JournalStatus, Pending, TryAppendError};
pub use self::engine::read::{Page, ReadOptions};
pub use self::engine::state_reader::StateReader;
pub use self::error::{
    CheckpointError, HandlingError, OpenError, ReadError, StorageFault, StoreError,
};
pub use self::event::{NewEvent, Operation, StoredEvent};
pub use self::file::backend::MemoryStorage;
pub use self::file::format::Checkpoint;
pub use self::file::gc::Collected;
pub use self::filter::Filter;
pub use self::mirror_batch::{
    Cursor, MirrorBatch, Refusal, StateChange, StoredMirror, StoredRefusal,
};
pub use self::options::{Durability, JournalOptions, OnFailure, OptionsError, Retention, Verify};
pub use self::position::{Beyond, Position};
pub use self::store_options::MirrorOptions;
#[cfg(feature = "test-util")]
pub use self::testing::{Recorder, replay};
pub use self::types::{
    DeserializationError, Json, RegisterError, SerializationError, Serializer, Types,
};
pub use self::watch::handler::{Handler, async_handler_fn, handler_fn};
pub use self::watch::options::{
    Checkpoints, Retry, WatcherError, WatcherOptions, WatcherState, WatcherStats,
};
pub use self::watch::registry::Registry;
pub use self::watch::watcher::Watcher;
/// The trait of the storage engine, redb 4, for what a journal is stored in; see
/// [`Journal::open_in`].
pub use redb::StorageBackend;
