//! Choices of a journal, and the checks that they fit together.
//!
//! Owns [`JournalOptions`] and [`OptionsError`], which tells every problem at once (BW-10). Must not
//! act on them.

use std::fmt;
use std::time::Duration;

/// When what was stored is forced to the disk.
///
/// A call that stores returns once its transaction is committed. What a crash of the process or of
/// the machine can take back afterwards depends on this choice; whatever it takes is a suffix, and
/// events, cursors, state and checkpoints go back together (J2, J4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// With each commit: what was acknowledged survives. Calls that wait for the disk at the same
    /// time share one commit.
    #[default]
    EachBatch,
    /// At this interval, on [`flush`](super::Journal::flush) and on close: a crash can take what was
    /// stored since.
    Interval(Duration),
    /// On [`flush`](super::Journal::flush) and on close only. Space that is freed meanwhile is not
    /// used again, so the file grows until then.
    OnClose,
}

/// What a journal does after its storage failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFailure {
    /// Opens the storage again, after delays that double between these bounds, and goes on. Calls
    /// fail meanwhile.
    Reopen {
        /// The first delay.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// Stays off: every later call fails with the same fault, until the journal is opened anew.
    StayOff,
}

/// What old events are removed, and how hard a single run may work.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// Events older than this go; `None` keeps them for ever. 24 h unless set.
    pub age: Option<Duration>,
    /// The oldest events go while all together are larger than this many bytes; no bound unless set.
    pub bytes: Option<u64>,
    /// The time between runs, 10 min unless set; `None` runs only when
    /// [`collect`](super::Journal::collect) is called. A run that reached one of its bounds is followed
    /// by the next after a pause as long as it took, so that others get their turn.
    pub every: Option<Duration>,
    /// The most events that one run removes; 1000 unless set.
    pub max_records: usize,
    /// The longest time of one run; 10 s unless set.
    pub max_time: Duration,
    /// Remove events that a checkpoint has not passed yet. Never unless set.
    pub past_checkpoints: bool,
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            age: Some(Duration::from_secs(24 * 60 * 60)),
            bytes: None,
            every: Some(Duration::from_secs(10 * 60)),
            max_records: 1000,
            max_time: Duration::from_secs(10),
            past_checkpoints: false,
        }
    }
}

/// How carefully a file is looked at when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Verify {
    /// As far as opening needs it. Every record carries a checksum that is checked when it is read.
    #[default]
    AsRead,
    /// Every page of the file, which takes as long as reading it.
    Everything,
}

/// Choices of a [`Journal`](super::Journal).
#[derive(Debug, Clone)]
pub struct JournalOptions {
    pub(super) durability: Durability,
    pub(super) on_failure: OnFailure,
    pub(super) retention: Retention,
    pub(super) verify: Verify,
    pub(super) long_poll: Duration,
    pub(super) cache_events: usize,
    pub(super) cache_bytes: usize,
    pub(super) queue_calls: usize,
    pub(super) queue_bytes: usize,
    pub(super) page_cache: usize,
    pub(super) quick_recovery: bool,
}

impl Default for JournalOptions {
    fn default() -> Self {
        JournalOptions {
            durability: Durability::default(),
            on_failure: OnFailure::Reopen {
                min: Duration::from_millis(200),
                max: Duration::from_secs(30),
            },
            retention: Retention::default(),
            verify: Verify::default(),
            long_poll: Duration::from_secs(10),
            cache_events: 1000,
            cache_bytes: 16 << 20,
            queue_calls: 4096,
            queue_bytes: 64 << 20,
            page_cache: 64 << 20,
            quick_recovery: true,
        }
    }
}

impl JournalOptions {
    /// Everything as documented at the methods.
    #[must_use]
    pub fn new() -> Self {
        JournalOptions::default()
    }

    /// When what was stored is forced to the disk: each batch unless set.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// What to do after the storage failed: reopen after 200 ms to 30 s unless set.
    #[must_use]
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }

    /// What old events are removed.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// How carefully a file is looked at when it is opened: as it is read, unless set.
    #[must_use]
    pub fn verify(mut self, verify: Verify) -> Self {
        self.verify = verify;
        self
    }

    /// How long [`events`](super::Journal::events) waits for an event; 10 s unless set.
    #[must_use]
    pub fn long_poll(mut self, long_poll: Duration) -> Self {
        self.long_poll = long_poll;
        self
    }

    /// How many recent events are kept in memory, and how many bytes of them; 1000 and 16 MiB unless
    /// set. Zero keeps none.
    #[must_use]
    pub fn cache(mut self, events: usize, bytes: usize) -> Self {
        self.cache_events = events;
        self.cache_bytes = bytes;
        self
    }

    /// How many calls, and bytes of them, may wait for the writer; 4096 and 64 MiB unless set. At the
    /// bound calls wait, and [`try_append`](super::Journal::try_append) is refused. One call alone is
    /// let through whatever its size.
    #[must_use]
    pub fn queue(mut self, calls: usize, bytes: usize) -> Self {
        self.queue_calls = calls;
        self.queue_bytes = bytes;
        self
    }

    /// The memory for pages of the file; 64 MiB unless set.
    #[must_use]
    pub fn page_cache(mut self, bytes: usize) -> Self {
        self.page_cache = bytes;
        self
    }

    /// Writes with each durable commit what makes opening after a crash take no time, and forces the
    /// disk twice for it; on unless set. Without it opening after a crash, and only then, reads the whole
    /// file, and checks every page of it.
    #[must_use]
    pub fn quick_recovery(mut self, quick: bool) -> Self {
        self.quick_recovery = quick;
        self
    }

    pub(super) fn check(&self) -> Result<(), OptionsError> {
        let mut problems = Problems::default();
        problems.note(self.queue_calls == 0, "the queue must hold at least one call");
        problems.note(self.long_poll.is_zero(), "the long poll must be longer than zero");
        problems
            .note(self.retention.max_records == 0, "a collection must remove at least one event");
        problems.note(
            self.retention.every.is_some_and(|every| every.is_zero()),
            "the time between collections must be longer than zero",
        );
        if let OnFailure::Reopen { min, max } = self.on_failure {
            problems.note(max < min, "the longest delay before reopening is below the first");
        }
        if let Durability::Interval(every) = self.durability {
            problems.note(every.is_zero(), "the interval of durability must be longer than zero");
        }
        problems.finish()
    }
}

/// Options contradict each other or make no sense. Fix the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionsError {
    problems: Vec<&'static str>,
}

impl OptionsError {
    /// All that is wrong, one sentence each.
    #[must_use]
    pub fn problems(&self) -> &[&'static str] {
        &self.problems
    }
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "options: {}", self.problems.join("; "))
    }
}

impl std::error::Error for OptionsError {}

/// Collects what is wrong.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<&'static str>);

impl Problems {
    pub(super) fn note(&mut self, wrong: bool, problem: &'static str) {
        if wrong {
            self.0.push(problem);
        }
    }

    pub(super) fn finish(self) -> Result<(), OptionsError> {
        if self.0.is_empty() { Ok(()) } else { Err(OptionsError { problems: self.0 }) }
    }
}
