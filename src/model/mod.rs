//! The words of the crate: what etcd sends, ranges, entries, changes, positions and ends.
//!
//! Plain data. Must not know views, locks, sources or tasks.

mod change;
mod entry;
mod error;
mod event;
mod key;
mod range;
mod token;

pub use self::change::{Change, Delta, DeltaOrigin};
pub(crate) use self::change::{EventChange, Trace};
pub use self::entry::Entry;
pub(crate) use self::entry::{Numbers, ValueHash};
pub use self::error::StopReason;
pub use self::event::{Event, Header, RawKeyValue, Revision, WatchResponse};
pub use self::range::{IntoKeyRange, KeyRange, RangeError};
pub use self::token::{AtLeast, Token, TokenError};
