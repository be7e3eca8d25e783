//! Where a mirror gets its data: the sealed [`Source`] trait and its plain request and answer types.
//!
//! Owns the vocabulary between the mirror's loop and a store. Must not decide anything: when to
//! connect, what to ask and what to believe is the business of `mirror`.

mod classify;
mod etcd;

pub(crate) use self::classify::classify_cancel_reason;
pub use self::etcd::{Etcd, EtcdOptions};

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::model::{Header, KeyRange, RawKeyValue, Revision, WatchResponse};

/// A future owned by its caller; dropping it abandons the request.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub(crate) mod sealed {
    /// Keeps [`Source`](super::Source) closed, so that it can grow without breaking anybody.
    pub trait Sealed {}
}

/// A store a mirror can follow. Sealed: real etcd, and `FakeEtcd` of the test kit.
///
/// A source has one or more endpoints and never chooses between them: the mirror does, since the
/// client library neither fails over nor reopens a stream.
pub trait Source: sealed::Sealed + fmt::Debug + Send + Sync + 'static {
    /// How many endpoints there are, at least one.
    fn endpoints(&self) -> usize;

    /// What to call endpoint `index` (below [`endpoints`](Source::endpoints)) in logs and status.
    fn endpoint_name(&self, index: usize) -> String;

    /// Connects to one endpoint. The mirror bounds it with a timeout of its own.
    fn connect(&self, index: usize)
    -> BoxFuture<'static, Result<Box<dyn Connection>, SourceError>>;
}

/// A connection to one endpoint. Requests may be made concurrently.
pub trait Connection: fmt::Debug + Send + Sync + 'static {
    /// What the endpoint says it runs; decides which of its answers are believed.
    fn version(&self) -> BoxFuture<'static, Result<ServerVersion, SourceError>>;

    /// Reads part of `request.range`; see [`RangeRequest`].
    fn range(&self, request: RangeRequest) -> BoxFuture<'static, Result<RangePage, SourceError>>;

    /// Reads the whole range at one revision as a stream of chunks (etcd 3.7 and later).
    ///
    /// Fails with [`SourceErrorKind::Unimplemented`] where the server does not have it.
    fn range_stream(
        &self,
        range: &KeyRange,
    ) -> BoxFuture<'static, Result<Box<dyn RangeStream>, SourceError>>;

    /// Opens a watch stream with one watcher; the `created` answer comes on the stream.
    ///
    /// Asks for progress notifications, for fragments where whole responses are too large, and
    /// requires a leader. The stream has a transport of its own, so that unread events never block
    /// other requests.
    fn watch(
        &self,
        range: &KeyRange,
        start_revision: Revision,
    ) -> BoxFuture<'static, Result<Box<dyn WatchStream>, SourceError>>;

    /// Fetches a new authentication token, once, after a refusal.
    fn refresh_token(&self) -> BoxFuture<'static, Result<(), SourceError>>;
}

/// A watch stream. Dropping it cancels the watcher.
pub trait WatchStream: fmt::Debug + Send + 'static {
    /// The next message; `None` when the server ended the stream.
    ///
    /// After an error or an end the stream is fused and only ever gives `None`: the client library
    /// would parse left-over payload as messages.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<WatchResponse, SourceError>>>;

    /// Asks for a progress notification. Never blocks; `false` when the request could not even be
    /// queued. `true` proves nothing: only an answer does.
    fn request_progress(&mut self) -> bool;
}

/// Chunks of a range at one revision.
pub trait RangeStream: fmt::Debug + Send + 'static {
    /// The next chunk; `None` at the end. The chunks are one read of the store only when the last
    /// one carried a header; without it the stream was cut.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<RangeChunk, SourceError>>>;
}

/// A linearizable range read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeRequest {
    /// The keys to read.
    pub range: KeyRange,
    /// At which revision; zero for now.
    pub revision: Revision,
    /// At most this many keys; zero for no limit.
    pub limit: u64,
    /// Only keys and their numbers, no values.
    pub keys_only: bool,
    /// Only the number of keys.
    pub count_only: bool,
    /// Only keys written at this revision or later (`count` still counts all); zero for all.
    pub min_mod_revision: Revision,
}

impl RangeRequest {
    /// All of `range` now.
    #[must_use]
    pub fn new(range: KeyRange) -> Self {
        RangeRequest {
            range,
            revision: 0,
            limit: 0,
            keys_only: false,
            count_only: false,
            min_mod_revision: 0,
        }
    }
}

/// The answer to a [`RangeRequest`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangePage {
    /// The header; its revision is the store's *now*, not the revision that was read.
    pub header: Option<Header>,
    /// The keys, ascending.
    pub kvs: Vec<RawKeyValue>,
    /// Keys in the whole requested range, regardless of the limit.
    pub count: i64,
    /// The limit cut the answer.
    pub more: bool,
}

/// One chunk of a [`RangeStream`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeChunk {
    /// The next keys, ascending.
    pub kvs: Vec<RawKeyValue>,
    /// On the last chunk only: the header, whose revision is the one that was read.
    pub header: Option<Header>,
    /// On the last chunk only: keys in the whole range.
    pub count: i64,
}

/// What an endpoint runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl ServerVersion {
    /// Reads `3.5.13` or `3.6.0-rc.1`; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let numbers = text.split(['-', '+']).next()?;
        let mut parts = numbers.split('.').map(|part| part.parse::<u32>().ok());
        let version =
            ServerVersion { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
        parts.next().is_none().then_some(version)
    }

    /// Whether a *requested* progress notification of this server may be believed.
    ///
    /// Older servers send it ahead of events (etcd issue 15220), or lose events without a word and
    /// then report progress past them (17529). Trusted from 3.4.31, 3.5.13 and 3.6.0 on.
    #[must_use]
    pub fn progress_is_trusted(self) -> bool {
        match (self.major, self.minor) {
            (3, 4) => self.patch >= 31,
            (3, 5) => self.patch >= 13,
            (3, minor) => minor >= 6,
            (major, _) => major > 3,
        }
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A request or stream failed. [`kind`](SourceError::kind) says what follows from it.
#[derive(Debug, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct SourceError {
    kind: SourceErrorKind,
    message: String,
    #[source]
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

impl SourceError {
    /// An error of `kind` with the store's own words.
    #[must_use]
    pub fn new(kind: SourceErrorKind, message: impl Into<String>) -> Self {
        SourceError { kind, message: message.into(), cause: None }
    }

    /// The same error with the error that caused it.
    #[must_use]
    pub fn with_cause(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// What follows from the error.
    #[must_use]
    pub fn kind(&self) -> SourceErrorKind {
        self.kind
    }

    /// The store's own words.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// The kinds of failure a mirror treats differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceErrorKind {
    /// The endpoint or its cluster cannot answer now. Retry, on another endpoint.
    Unavailable,
    /// No answer within the mirror's own time limit. Retry, on another endpoint.
    Timeout,
    /// The revision asked for is compacted. Reload at a newer one.
    Compacted,
    /// The revision asked for is not known to this member yet. Retry, on another endpoint.
    FutureRevision,
    /// An answer is larger than the client accepts. Ask for less, or raise the limit.
    TooLarge,
    /// The token is missing, expired or unknown. Refresh it, then retry.
    Unauthenticated,
    /// The user may not read the range. Refresh the token once, then report and retry slowly.
    Denied,
    /// The server does not have the request. Do without it.
    Unimplemented,
    /// The server calls the request wrong; repeating it cannot help. Fix the configuration.
    InvalidRequest,
    /// The answer breaks the protocol. Retry, and distrust what came before on the same stream.
    Malformed,
}

impl SourceErrorKind {
    /// Whether the same request may succeed later or elsewhere without anybody changing anything.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        !matches!(self, SourceErrorKind::InvalidRequest | SourceErrorKind::Unimplemented)
    }
}

impl fmt::Display for SourceErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SourceErrorKind::Unavailable => "etcd is unavailable",
            SourceErrorKind::Timeout => "etcd did not answer in time",
            SourceErrorKind::Compacted => "the revision is compacted",
            SourceErrorKind::FutureRevision => "the member does not know the revision yet",
            SourceErrorKind::TooLarge => "the answer is too large",
            SourceErrorKind::Unauthenticated => "the token is not valid",
            SourceErrorKind::Denied => "permission denied",
            SourceErrorKind::Unimplemented => "the server does not have the request",
            SourceErrorKind::InvalidRequest => "the request is invalid",
            SourceErrorKind::Malformed => "the answer breaks the protocol",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::ServerVersion;

    /// T-4, B-table of section 2: which servers' requested progress is believed.
    #[test]
    fn t4_progress_is_trusted_by_version() {
        let trusted =
            ["3.4.31", "3.4.45", "3.5.13", "3.5.34", "3.6.0", "3.6.0-rc.1", "3.7.2", "4.0.0"];
        let distrusted = ["3.3.27", "3.4.23", "3.4.30", "3.5.1", "3.5.12", "2.3.8"];
        for version in trusted {
            assert!(ServerVersion::parse(version).unwrap().progress_is_trusted(), "{version}");
        }
        for version in distrusted {
            assert!(!ServerVersion::parse(version).unwrap().progress_is_trusted(), "{version}");
        }
        for text in ["", "3", "3.5", "3.5.1.1", "v3.5.1", "3.x.1", "not_decided"] {
            assert_eq!(ServerVersion::parse(text), None, "{text}");
        }
    }
}
