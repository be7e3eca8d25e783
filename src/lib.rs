//! A live, complete, typed replica of one etcd prefix inside the process that needs it.
//!
//! A service keeps its control-plane data in etcd and needs it in every request: routes, members,
//! assignments, flags. A [`KeySpace<T>`](KeySpace) loads a prefix at one revision, follows it with a
//! watch, and answers point, prefix and range queries from memory, with state derived under the same
//! lock and waits for a given revision.
//!
//! ```no_run
//! use etcd_keyspace::{Etcd, EtcdOptions, KeySpace, RawKeyValue};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! // Any `Fn(RawKeyValue) -> Result<T, E>` decodes; `json()` does with the feature of that name.
//! let utf8 = |kv: RawKeyValue| String::from_utf8(kv.value);
//!
//! // Returns once loaded and watching; a task follows etcd until the last handle is dropped.
//! let routes: KeySpace<String> = KeySpace::builder("/routes/")?
//!     .decoder(utf8)
//!     .start(Etcd::new(["http://127.0.0.1:2379"], EtcdOptions::new()))
//!     .await?;
//!
//! routes.sync().await?; // everything committed before this call is in the view now
//! let view = routes.snapshot(); // of one revision: owned, never changing, taken without a lock
//! for entry in view.prefix("/routes/eu/") {
//!     println!("{} -> {} (revision {})", entry.key_str(), entry.value(), entry.mod_revision());
//! }
//! println!("{} keys through revision {}", view.len(), view.confirmed());
//! # Ok(())
//! # }
//! ```
//!
//! # Where to read on
//!
//! | question | page |
//! |---|---|
//! | which read shows what, what is promised and what is not | [`guide::guarantees`] |
//! | how state is derived under the lock | [`guide::observers`] |
//! | which way to follow changes fits what | [`guide::following`] |
//! | what happens when etcd, the network or an operator misbehave | [`guide::failures`] |
//! | readiness, alerts, sizes, many processes | [`guide::production`] |
//! | how to test code that uses a key space | [`guide::testing`] |
//! | how entries are stored, and what operations cost | [`guide::storage`] |
//! | durable events, warm restart, the file's format | [`journal`], with the feature of that name |
//! | what else one could use | [`guide::comparison`] |
//!
//! # The contract
//!
//! The rest of the documentation, the code and the tests quote these numbers. [`promises`] names the
//! test behind each promise that applications of earlier key spaces rely on, [`hazards`] the test for each
//! way in which etcd, the network or an operator is known to go wrong.
//!
//! 1. **C1 Two revisions.** [`revision`](View::revision) is the greatest `mod_revision` applied,
//!    deletions included; a first load, and a reload that changed anything, set it to the load's
//!    revision. [`confirmed`](View::confirmed) is the greatest store revision through which the view is
//!    known complete. `revision <= confirmed`. Within one mirror equal ([`epoch`](View::epoch),
//!    `revision`) means equal entries. Between mirrors of one range only `confirmed` compares: equal
//!    `confirmed`, and no rejected keys or policy [`Drop`](BadValues::Drop), means equal entries.
//! 2. **C2 Only proof moves `confirmed`:** a load's revision; the `mod_revision` of the last event of a
//!    completed revision; the header revision of a trusted progress notification, after every event
//!    queued before it is applied; the header revision of a count that fits (a linearizable read which
//!    shows that nothing is newer and nothing is missing). Never the header of a response with events.
//! 3. **C3 Whole revisions.** Nobody ever sees part of an etcd transaction. A batch is visible whole or
//!    not at all; on an error nothing changed.
//! 4. **C4 Observers** run in the order of registration, once per batch that changes entries, after the
//!    data is in place, before the lock is released and before any waiter wakes. Each gets the net
//!    [`Delta`] and the [`View`].
//! 5. **C5 Thin lock.** Under the write lock: a swap and the observers. No I/O, no decoding, no work
//!    that grows with the number of keys, no dropping of old values.
//! 6. **C6 Nothing goes back.** `revision` and `confirmed` never decrease within an epoch. A reload
//!    serves the old data until one swap; its delta is the exact difference, deletions included; an
//!    unchanged entry keeps its allocation and produces no change.
//! 7. **C7 Never silently stale.** [`status`](KeySpace::status) says the [`State`], both revisions, the
//!    age of the last contact, the last error, and [`current_as_of`](Status::current_as_of): how long
//!    ago the last linearizable store revision known to be in the view was asked for.
//! 8. **C8 Waits end** by an event, by progress (also when the revision touched nothing in the range), or
//!    with a typed error when the mirror stopped or the history changed. They never poll, need no task,
//!    can be dropped at any time, and have no built-in deadline.
//! 9. **C9 Bounded.** Every queue has a stated bound and behaviour at it ([`Builder`] lists them).
//!    Nothing a consumer does reaches the intake from etcd.
//! 10. **C10 Bad values do not stop the world.** A value that fails to decode is
//!     [rejected](KeySpace::rejected): listed with key, revision, error and since when. Its numbers stay
//!     known, so completeness is still proven on all keys. [`BadValues::KeepLast`] shows the last value
//!     this mirror decoded since the key was created, and is not convergent; [`BadValues::Drop`] is.
//! 11. **C11 Input never panics.** Whatever etcd or a proxy sends: a typed error or a documented
//!     tolerance. Panics are for bugs of the caller, documented, with the caller's location.
//!
//! # Batches
//!
//! When nothing was applied within the last [`apply_delay`](Builder::apply_delay) (30 ms), a response is
//! applied at once; under steady load there is one batch per delay. What is queued is applied at once
//! when somebody waits for a revision in it, at the queue's [bounds](Builder::queue_bounds), and before
//! progress moves `confirmed`.
//!
//! # Waiting
//!
//! [`wait_for_revision`](KeySpace::wait_for_revision), [`read_at`](KeySpace::read_at) and
//! [`snapshot_at`](KeySpace::snapshot_at) wait until the view is complete through a revision: pass the
//! header of your own write's response, a [`Token`], or a plain number. [`sync`](KeySpace::sync) asks etcd for its revision first.
//! [`wait_until`](KeySpace::wait_until) waits for a condition, [`updated`](KeySpace::updated) for any
//! change. While somebody waits and no event comes, the mirror asks etcd for progress about every
//! 100 ms. A wait that could never end, since its thread holds a guard of the same key space, panics and
//! says so.
//!
//! # Observers and derived state
//!
//! [`observe`](KeySpace::observe) registers a function, [`derive`](KeySpace::derive) a function with
//! state. The state is reached through a [guard](ReadGuard::derived) or a [later
//! observer](Earlier::derived) only, so nobody sees it apart from its data. A late observer is first
//! shown everything as added. One that panics is not called again: its state is poisoned, the others and
//! the data go on, and the status names it.
//!
//! # Following
//!
//! Whoever must act on changes, outside the lock and at its own pace, can take the net
//! [`changes`](KeySpace::changes) of a range, be told [every event](KeySpace::events) of it in order,
//! [`follow`](KeySpace::follow) the objects of a filtered view, [watch one key](KeySpace::watch_key), be
//! [notified](KeySpace::notify) of many ranges in one channel, [block](KeySpace::read_changed) until a range
//! differs from what a client has seen, or read [what another process has seen](KeySpace::read_at).
//! [`guide::following`] says which fits what, what each costs, and what it guarantees at a reload, in a
//! new epoch and at the end.
//!
//! A follower is woken when a key of its range changed. It delays nobody, has no queue that could
//! overflow, and keeps alive what its range looked like when it was told last. One of every event reads
//! a history with a [bound](Builder::event_history), and is told the whole range when it falls behind it.
//!
//! # Many prefixes
//!
//! Where prefixes are known at run time only, or several have to agree:
//!
//! | you want | use |
//! |---|---|
//! | a key space per tenant, loaded when it is needed and stopped when it is not | [`KeySpaces::get`] |
//! | several prefixes as of exactly one revision, so that a transaction is in all of them or in none | [`KeySpaces::cut`] |
//! | all of them all the time | one key space of what they have in common |
//!
//! # Reconnects and reloads
//!
//! After a failure the mirror takes the next endpoint, with delays that double and are reset by an event
//! or progress only. It proves by content that the endpoint serves the history the data is of
//! ([`guide::guarantees`] says how), and resumes *at* its position, dropping what it has. When the position is
//! compacted, or an event does not continue what is known, it reads everything anew beside the data that
//! is served, and shows the exact difference in one step. A store restored from a backup is read under a
//! new [`epoch`](View::epoch); revisions compare only within one. So is a reload that finds other
//! entries at the very revision that was shown: a server had lost events, and one revision must not
//! name two states (C1). What to do about another history or cluster is
//! [yours to choose](OnHistoryChange).
//!
//! # Trade-offs
//!
//! - **Memory.** Every entry of the prefix is in memory: an allocation with the key (up to 46 bytes of
//!   it inline), your value and etcd's numbers, and some bytes of columns around it. A snapshot keeps
//!   what was replaced since it was taken. [`stats`](KeySpace::stats) estimates. [`guide::storage`] explains
//!   the data structure.
//! - **Writes.** A batch copies the parts of the storage that it touches, which are of bounded size, so
//!   it costs its events and not the number of keys. A reload costs a pass over everything, outside the
//!   lock.
//! - **Readers can delay the writer.** A guard held for long delays the next batch, and with it every
//!   waiter and later reader. Keep guards short, or take a snapshot.
//! - **Observers delay readers.** They run under the write lock, so they should cost what changed.
//! - **Throughput over latency under load.** A change within 30 ms of the last batch waits for the rest
//!   of that time, unless somebody waits for it.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `json` | yes | `json()`, a decoder for JSON values |
//! | `journal` | | `journal`, durable events with watchers that resume, and the state for a warm restart |
//! | `metrics` | | `metrics`, figures for the recorder of the `metrics` crate, and their table |
//! | `test-util` | | `testing`, an in-process etcd for tests of code that uses a key space |
//! | `tls`, `tls-aws-lc`, `tls-native-roots`, `tls-webpki-roots` | | TLS of `etcd-client`, under its names |
//!
//! Building needs the protobuf compiler `protoc`, for the build script of `etcd-client`.

#![cfg_attr(docsrs, feature(doc_cfg))]

// The order decides in which order rustdoc lists methods: reading first.
mod model;
mod view;
mod publish;
mod keyspace;
mod mirror;
mod source;
mod follow;
mod spaces;
#[cfg(feature = "journal")]
pub mod journal;
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub mod metrics;
#[cfg(feature = "test-util")]
pub mod testing;

#[cfg(all(test, shuttle))]
#[path = "../races/scenarios.rs"]
mod races;

/// The client library [`Etcd`] speaks through, for its options and TLS types.
pub use etcd_client;
pub use follow::{
    Changes, EventKind, Events, EventsError, EventsOptions, EventsStop, FollowError, FollowPhase,
    Follower, KeyEvent, Notify, SimpleFollower, Start, SyncReason, SyncSet, Update, UpdateMeta,
    Validator, ValidatorError, WatchKey,
};
pub use keyspace::{KeySpace, Rejected, WeakKeySpace};
#[cfg(feature = "journal")]
pub use mirror::OnBadStore;
pub use mirror::{Builder, NeedsDecoder};
pub use mirror::{Mirror, OnHistoryChange, OnHold};
pub use model::Entry;
pub use model::StopReason;
pub use model::{AtLeast, Token, TokenError};
pub use model::{Change, Delta, DeltaOrigin};
pub use model::{Event, Header, RawKeyValue, Revision, WatchResponse};
pub use model::{IntoKeyRange, KeyRange, RangeError};
pub use publish::ReadGuard;
pub use publish::Snapshot;
pub use publish::Timing;
pub use publish::WaitError;
pub use publish::{Applied, LoadError, Writer};
pub use publish::{
    Counters, FailureCounts, LoadProgress, ObserverTimes, ProgressBy, State, Stats, Status,
};
pub use publish::{Derived, DerivedError, Earlier, Observer, PoisonedObserver, SharedDerived};
pub use publish::{Held, NotHeld};
pub use source::{Etcd, EtcdOptions};
pub use source::{ServerVersion, Source, SourceError, SourceErrorKind};
pub use spaces::{
    Cut, CutError, GetError, KeySpaces, KeySpacesBuilder, KeySpacesStats, SpaceInfo, SpaceState,
};
#[cfg(feature = "json")]
pub use view::json;
pub use view::{ApplyError, Break, Continuity, Tolerated};
pub use view::{BadValues, BoxError, DecodeError, Decoder, bytes};
pub use view::{Entries, OutsideRange, Range, View};

/// What is promised, and the test that holds it.
///
#[cfg(doc)]
#[doc = include_str!("../docs/promises.md")]
pub mod promises {}

/// What goes wrong around a mirror, what it does then, and the test that holds it.
///
#[cfg(doc)]
#[doc = include_str!("../docs/hazards.md")]
pub mod hazards {}

/// Guides: a page for each question that has a longer answer.
#[cfg(any(doc, doctest))]
pub mod guide {
    /// What the contract means for programs: which read shows what, and what is not promised.
    ///
    #[doc = include_str!("../docs/guarantees.md")]
    pub mod guarantees {}

    /// Derived state under the lock: when observers run, what they get, and their rules.
    ///
    #[doc = include_str!("../docs/observers.md")]
    pub mod observers {}

    /// Which way to follow a key space fits what, what each costs, and what it guarantees.
    ///
    #[doc = include_str!("../docs/following.md")]
    pub mod following {}

    /// What goes wrong, how it shows, how long it takes, and what to do.
    ///
    #[doc = include_str!("../docs/failures.md")]
    pub mod failures {}

    /// Testing code that uses a key space, without etcd and without waiting.
    ///
    #[doc = include_str!("../docs/testing.md")]
    pub mod testing {}

    /// Readiness, alerts, sizes, many processes, and operation.
    ///
    #[doc = include_str!("../docs/production.md")]
    pub mod production {}

    /// How the entries are stored, what each operation costs, and why.
    ///
    #[doc = include_str!("../docs/storage.md")]
    pub mod storage {}

    /// This crate beside what else there is, and what is lost to whom.
    ///
    #[doc = include_str!("../docs/comparison.md")]
    pub mod comparison {}
}

/// Compiles the examples of the README, all of whose features are needed.
#[cfg(all(doctest, feature = "journal", feature = "json", feature = "test-util"))]
#[doc = include_str!("../README.md")]
struct Readme;
