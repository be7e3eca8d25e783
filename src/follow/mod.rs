//! Following a key space outside its lock.
//!
//! Owns the ways to follow; all of them stand on one registration of a range (`subscription`) and on the
//! difference of two views, but for `events`, which stands on the kept steps (`history`). Must not be
//! known to the writer: nothing a consumer does reaches it (C9).

mod changes;
mod channel;
mod events;
mod follower;
mod newest;
mod subscription;
mod validator;

pub use self::changes::Changes;
pub use self::channel::{Notify, Update, UpdateMeta};
pub use self::events::{
    EventKind, Events, EventsError, EventsOptions, EventsStop, KeyEvent, Start, SyncReason, SyncSet,
};
pub use self::follower::{FollowError, FollowPhase, Follower, SimpleFollower};
pub use self::newest::WatchKey;
pub use self::validator::{Validator, ValidatorError};
