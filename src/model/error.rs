//! Errors that more than one layer speaks of: why a key space came to its end.
//!
//! Owns [`StopReason`]. Must not name a layer: causes are carried as plain errors.

use std::error::Error as StdError;
use std::sync::Arc;

use crate::model::event::Revision;

/// Why a key space is no longer kept current. Its last data stays readable.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StopReason {
    /// `shutdown` was called, or the mirror or writer was dropped. Start a new one if needed.
    #[error("the mirror was shut down")]
    Shutdown,
    /// The endpoints now serve another cluster. Fix the endpoints, then start a new mirror.
    #[error("the endpoints serve cluster {got:x}, expected {expected:x}")]
    AnotherCluster {
        /// The cluster the data is of.
        expected: u64,
        /// The cluster that answered.
        got: u64,
    },
    /// The store's history is not the one the data is of, and the policy is to stop. Start a new
    /// mirror once the restore is understood.
    #[error("the store's history changed: {what}")]
    HistoryChanged {
        /// How it was found.
        what: &'static str,
    },
    /// The revision to load at was compacted. Load at a newer one.
    #[error("revision {revision} to load at is compacted")]
    Compacted {
        /// The revision asked for.
        revision: Revision,
        /// What etcd said.
        #[source]
        cause: Arc<dyn StdError + Send + Sync>,
    },
    /// etcd refused the request in a way that repeating cannot mend. Fix the configuration or the
    /// user's rights.
    #[error("etcd refused the request")]
    Refused {
        /// What etcd said.
        #[source]
        cause: Arc<dyn StdError + Send + Sync>,
    },
    /// A reload would have removed too many keys, and the policy is to stop. Find out where the keys
    /// went, then start a new mirror.
    #[error("the reload at revision {revision} would remove {removed} of {known} keys")]
    RemovesTooMuch {
        /// Keys it would remove.
        removed: usize,
        /// Keys known before.
        known: usize,
        /// The revision of the reload.
        revision: Revision,
    },
    /// What a former mirror stored cannot be used, and the policy is to stop. Set it aside, or allow
    /// a load instead.
    #[error("what is stored cannot be used")]
    NotRestored {
        /// What is wrong with it.
        #[source]
        cause: Arc<dyn StdError + Send + Sync>,
    },
    /// The mirror had not loaded and begun to watch within its time limit. Retry, or raise the limit.
    #[error("the mirror did not load and begin to watch in time")]
    LoadTimeout {
        /// The last failure before the limit, if there was one.
        #[source]
        cause: Option<Arc<dyn StdError + Send + Sync>>,
    },
    /// The mirror panicked: in code of the application that runs on its task, a value's `Drop` for
    /// example, or by a defect of this crate. Fix the one, or report the other.
    #[error("the mirror's task panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
}
