//! Choices of a watcher, what it tells of itself, and its errors.
//!
//! Owns the words; `watcher` acts on them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::handler::{AnyHandler, Handler};
use crate::journal::error::{CheckpointError, HandlingError, ReadError};
use crate::journal::filter::Filter;
use crate::journal::options::{OptionsError, Problems};
use crate::journal::position::{Beyond, Position};

/// What a watcher does with an event whose handler fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Retry {
    /// Tries again for ever; nothing overtakes it.
    #[default]
    Block,
    /// After this many more tries goes on with the next event. With zero each event is tried once.
    Skip {
        /// Tries after the first one.
        max_retries: u32,
    },
}

/// Who sets a watcher's checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Checkpoints {
    /// The watcher: after each batch that was handled, and when it is stopped.
    #[default]
    EachBatch,
    /// The application, by [`checkpoint`](crate::journal::Watcher::checkpoint).
    Manual,
}

/// Choices of a [`Watcher`](crate::journal::Watcher). They are validated together, and an error tells all
/// that is wrong.
#[derive(Debug, Clone)]
pub struct WatcherOptions {
    pub(in crate::journal) handler: Option<AnyHandler>,
    pub(in crate::journal) filter: Filter,
    pub(in crate::journal) batch_size: usize,
    pub(in crate::journal) buffer_size: usize,
    pub(in crate::journal) backoff: (Duration, Duration),
    pub(in crate::journal) retry: Retry,
    pub(in crate::journal) initial: Position,
    pub(in crate::journal) beyond: Beyond,
    pub(in crate::journal) ephemeral: bool,
    pub(in crate::journal) checkpoints: Checkpoints,
    pub(in crate::journal) auto_start: bool,
}

impl Default for WatcherOptions {
    fn default() -> Self {
        WatcherOptions {
            handler: None,
            filter: Filter::all(),
            batch_size: 100,
            buffer_size: 1000,
            backoff: (Duration::from_millis(200), Duration::from_secs(3 * 60)),
            retry: Retry::default(),
            initial: Position::Oldest,
            beyond: Beyond::Error,
            ephemeral: false,
            checkpoints: Checkpoints::default(),
            auto_start: false,
        }
    }
}

impl WatcherOptions {
    /// Everything as documented at the methods.
    #[must_use]
    pub fn new() -> Self {
        WatcherOptions::default()
    }

    /// What is called for each event. It can be set later, but only once.
    #[must_use]
    pub fn handler(mut self, handler: impl Handler) -> Self {
        self.handler = Some(AnyHandler::new(handler));
        self
    }

    /// Which events; all unless set.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// The most events fetched at once; 100 unless set.
    #[must_use]
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = batch_size;
        self
    }

    /// The most events that wait for the handler; 1000 unless set. At the bound fetching waits.
    #[must_use]
    pub fn buffer_size(mut self, buffer_size: usize) -> Self {
        self.buffer_size = buffer_size;
        self
    }

    /// How long to wait after a failure of the handler or of a fetch: the first delay, which doubles up
    /// to the second; 200 ms and 3 min unless set.
    #[must_use]
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.backoff = (min, max);
        self
    }

    /// What to do with an event whose handler fails; block unless set.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Where to begin when there is no checkpoint; the oldest event unless set. From its first start
    /// on a watcher has a checkpoint, unless it is ephemeral.
    #[must_use]
    pub fn initial(mut self, initial: Position) -> Self {
        self.initial = initial;
        self
    }

    /// What a beginning beyond the end means; an error unless set.
    #[must_use]
    pub fn beyond(mut self, beyond: Beyond) -> Self {
        self.beyond = beyond;
        self
    }

    /// Keeps no checkpoint: each start begins at the initial position.
    #[must_use]
    pub fn ephemeral(mut self, ephemeral: bool) -> Self {
        self.ephemeral = ephemeral;
        self
    }

    /// Who sets the checkpoint; the watcher unless set.
    #[must_use]
    pub fn checkpoints(mut self, checkpoints: Checkpoints) -> Self {
        self.checkpoints = checkpoints;
        self
    }

    /// Starts the watcher as soon as it is registered, for which it needs a handler.
    #[must_use]
    pub fn auto_start(mut self, auto_start: bool) -> Self {
        self.auto_start = auto_start;
        self
    }

    pub(in crate::journal) fn check(&self, id: &str) -> Result<(), OptionsError> {
        let mut problems = Problems::default();
        let fits = (1..=crate::journal::file::format::NAME_MAX).contains(&id.len());
        problems.note(!fits, "the id must have 1 to 255 bytes");
        problems.note(self.batch_size == 0, "the batch size must be greater than zero");
        problems.note(self.buffer_size == 0, "the buffer size must be greater than zero");
        problems.note(self.backoff.1 < self.backoff.0, "the longest back-off is below the first");
        problems.note(
            self.auto_start && self.handler.is_none(),
            "a watcher that starts by itself needs a handler",
        );
        problems.note(
            self.ephemeral && self.checkpoints == Checkpoints::Manual,
            "an ephemeral watcher has no checkpoint to set",
        );
        problems.finish()
    }
}

/// Whether a watcher runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WatcherState {
    /// It was not started yet.
    Idle,
    /// It fetches and handles.
    Running,
    /// It was told to stop, and its handler has not returned yet.
    Stopping,
    /// It was stopped, and can be started again.
    Stopped,
}

/// What a watcher tells of itself.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WatcherStats {
    /// Its id.
    pub id: String,
    /// Whether it runs.
    pub state: WatcherState,
    /// Where it goes on.
    pub next: Position,
    /// The event handled last, and when that event happened.
    pub last_processed: Option<(u64, SystemTime)>,
    /// When a fetch succeeded last.
    pub last_fetch: Option<SystemTime>,
    /// Events handled since it was registered.
    pub handled: u64,
    /// Events given up under [`Retry::Skip`].
    pub skipped: u64,
    /// Events that were collected before it came to them.
    pub missed: u64,
    /// Calls of the handler that failed.
    pub failures: u64,
    /// The last failure of the handler.
    pub last_failure: Option<Arc<HandlingError>>,
    /// Why fetching fails; `None` while it succeeds.
    pub fetch_failure: Option<ReadError>,
}

/// Something asked of a watcher or a registry was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatcherError {
    /// Options contradict each other. Fix the caller.
    #[error("watcher {id:?} has contradicting options")]
    Options {
        /// The watcher.
        id: String,
        /// All that is wrong.
        #[source]
        cause: OptionsError,
    },
    /// Another watcher of the journal has the id. Use another one, or look that one up.
    #[error("there is a watcher {id:?} already")]
    AlreadyExists {
        /// The id.
        id: String,
    },
    /// No watcher of the registry has the id. Fix the caller.
    #[error("there is no watcher {id:?}")]
    NotFound {
        /// The id.
        id: String,
    },
    /// It has no handler. Set one first.
    #[error("watcher {id:?} has no handler")]
    NoHandler {
        /// The watcher.
        id: String,
    },
    /// It has a handler, which can be set once only. Fix the caller.
    #[error("watcher {id:?} has a handler already")]
    HandlerSet {
        /// The watcher.
        id: String,
    },
    /// Only an idle or stopped watcher can be started. Stop it first.
    #[error("watcher {id:?} cannot be started while it is {state:?}")]
    NotStartable {
        /// The watcher.
        id: String,
        /// What it is.
        state: WatcherState,
    },
    /// Its handler did not return in time. It was told to end at its next await; stop again to wait
    /// longer.
    #[error("watcher {id:?} did not stop within {within:?}")]
    StopTimeout {
        /// The watcher.
        id: String,
        /// The time it had.
        within: Duration,
    },
    /// Where it should begin cannot be read. As the cause says.
    #[error("watcher {id:?} cannot begin")]
    Begin {
        /// The watcher.
        id: String,
        /// Why.
        #[source]
        cause: ReadError,
    },
    /// Its checkpoint could not be set. As the cause says.
    #[error("the checkpoint of watcher {id:?} was not set")]
    Checkpoint {
        /// The watcher.
        id: String,
        /// Why.
        #[source]
        cause: Box<CheckpointError>,
    },
}
