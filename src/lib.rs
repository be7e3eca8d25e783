//! A live, complete, typed replica of one etcd prefix inside the process that needs it.

mod batch;
mod builder;
mod decode;
mod delta;
mod edits;
mod entry;
mod error;
mod event;
mod guard;
mod keyspace;
mod mirror;
mod observer;
mod packed;
mod range;
mod reentry;
mod shared;
mod snapshot;
mod source;
mod status;
#[cfg(feature = "test-util")]
pub mod testing;
mod view;
mod wait;
mod writer;

pub use batch::{ApplyError, Break, Continuity, Tolerated};
pub use builder::{Builder, IntoKeyRange, NeedsDecoder};
#[cfg(feature = "json")]
pub use decode::json;
pub use decode::{BadValues, BoxError, DecodeError, Decoder, bytes};
pub use delta::{Change, Delta, DeltaOrigin};
pub use entry::Entry;
pub use error::StopReason;
/// The client library [`Etcd`] speaks through, for its options and TLS types.
pub use etcd_client;
pub use event::{Event, Header, RawKeyValue, Revision, WatchResponse};
pub use guard::ReadGuard;
pub use keyspace::{KeySpace, Rejected, WeakKeySpace};
pub use mirror::{Mirror, OnHistoryChange};
pub use observer::{Derived, DerivedError, Earlier, Observer, PoisonedObserver};
pub use range::{KeyRange, RangeError};
pub use snapshot::Snapshot;
pub use source::etcd::{Etcd, EtcdOptions};
pub use source::{ServerVersion, Source, SourceError, SourceErrorKind};
pub use status::{Counters, LoadProgress, ProgressBy, State, Stats, Status};
pub use view::{Entries, OutsideRange, Range, View};
pub use wait::WaitError;
pub use writer::{Applied, LoadError, Writer};
