//! A live, complete, typed replica of one etcd prefix inside the process that needs it.
#![allow(dead_code)]

mod entry;
mod event;
mod range;
mod source;

pub use entry::Entry;
pub use event::{Event, Header, RawKeyValue, Revision, WatchResponse};
pub use range::{KeyRange, RangeError};
pub use source::{ServerVersion, Source, SourceError, SourceErrorKind};
/// What a decoder gets.
pub trait Decoder {}
