//! Following a key space outside its lock.
//!
//! Owns the ways to follow; all of them stand on one registration of a range (`interest`) and on the
//! difference of two views, but for `events`, which stands on the kept steps (`history`). Must not be
//! known to the writer: nothing a consumer does reaches it (C9).

mod blocking;
mod changes;
mod events;
mod follower;
mod interested;
mod key;
mod notify;
mod reading;

pub use self::blocking::{Validator, ValidatorError};
pub use self::changes::Changes;
pub use self::events::{
    EventKind, Events, EventsError, EventsOptions, EventsStop, KeyEvent, Start, SyncReason, SyncSet,
};
pub use self::follower::{FollowError, FollowPhase, Follower, SimpleFollower};
pub use self::key::WatchKey;
pub use self::notify::{Notify, Update, UpdateMeta};
