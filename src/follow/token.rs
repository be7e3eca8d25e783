//! Freshness tokens: what a reader wants to see at least, carried from process to process.
//!
//! Owns [`Token`], its text form, and reads that wait for one. Must not know who carries it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::event::Revision;
use crate::guard::ReadGuard;
use crate::keyspace::KeySpace;
use crate::wait::{AtLeast, WaitError};

/// A revision of a cluster: give it to whoever must not read anything older.
///
/// Made by [`KeySpace::token`], or from etcd's answer to a write by [`Token::of_write`]. Its text form
/// goes into a header or a message; [`KeySpace::read_at`] takes it in any process that mirrors the same
/// cluster.
///
/// # What it cannot know
/// That the store was replaced by a backup: that keeps the cluster's id and uses revisions again, so
/// elsewhere a token of the lost history may be met by other writes. Within the process that made it, a
/// token of an earlier epoch is refused; the text form does not have the epoch, which counts in one
/// process only.
///
/// ```
/// # use etcd_keyspace::{KeySpace, Token};
/// # #[cfg(feature = "test-util")]
/// # use etcd_keyspace::testing::FakeEtcd;
/// # #[cfg(not(feature = "test-util"))]
/// # fn main() {}
/// # #[cfg(feature = "test-util")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let etcd = FakeEtcd::new();
/// # let ks = KeySpace::builder("/app/")?.bytes().start(etcd.clone()).await?;
/// let header = ks.token().to_string();
/// let view = ks.read_at(header.parse::<Token>()?).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Token {
    cluster_id: u64,
    revision: Revision,
    /// Of which key space of this process, and in which epoch.
    epoch: Option<(usize, u64)>,
}

impl Token {
    /// The token of a write, from the header of etcd's answer: its cluster's id and its revision.
    #[must_use]
    pub fn of_write(cluster_id: u64, revision: Revision) -> Self {
        Token { cluster_id, revision, epoch: None }
    }

    /// One that is of a key space of this process, in an epoch.
    pub(super) fn in_epoch(cluster_id: u64, revision: Revision, epoch: (usize, u64)) -> Self {
        Token { cluster_id, revision, epoch: Some(epoch) }
    }

    /// The cluster it is of.
    #[must_use]
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// The revision to be seen at least.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }
}

/// Tokens are equal when they ask for the same; where they were made does not matter.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        (self.cluster_id, self.revision) == (other.cluster_id, other.revision)
    }
}

impl Eq for Token {}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{}", self.cluster_id, self.revision)
    }
}

/// A text is no token. Refuse the request that carried it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no token: it must be a cluster's id in hexadecimal, a dot, and a revision")]
#[non_exhaustive]
pub struct TokenError {}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (cluster, revision) = text.split_once('.').ok_or(TokenError {})?;
        let unsigned = cluster.bytes().all(|byte| byte.is_ascii_hexdigit())
            && revision.bytes().all(|byte| byte.is_ascii_digit());
        let cluster_id = u64::from_str_radix(cluster, 16).ok().filter(|_| unsigned);
        match (cluster_id, revision.parse()) {
            (Some(cluster_id), Ok(revision)) => Ok(Token::of_write(cluster_id, revision)),
            _ => Err(TokenError {}),
        }
    }
}

impl From<Token> for AtLeast {
    fn from(token: Token) -> Self {
        AtLeast { revision: token.revision, cluster_id: Some(token.cluster_id), epoch: token.epoch }
    }
}

impl<T: Send + Sync + 'static> KeySpace<T> {
    /// The token of what is shown now: whoever reads with it elsewhere sees at least that.
    ///
    /// # Panics
    /// Inside an observer of the same key space.
    #[must_use]
    #[track_caller]
    pub fn token(&self) -> Token {
        let view = self.read();
        let cluster_id = view.cluster_id().unwrap_or_default();
        Token::in_epoch(cluster_id, view.confirmed(), (self.shared().id(), view.epoch()))
    }

    /// [`sync`](KeySpace::sync), then a guard whose view shows what it asked for: a linearizable read.
    ///
    /// # Errors
    /// # Panics
    /// # Cancel safety
    /// As [`sync`](KeySpace::sync).
    pub async fn read_linearizable(&self) -> Result<ReadGuard<'_, T>, WaitError> {
        let revision = self.sync().await?;
        self.read_at(revision).await
    }

    /// A guard whose view is known to have been current not longer than `max_stale` ago, by
    /// [`Status::current_as_of`](crate::Status::current_as_of); asks etcd only if it is not.
    ///
    /// # Errors
    /// # Panics
    /// # Cancel safety
    /// As [`sync`](KeySpace::sync). While etcd cannot be asked it waits: bound it with a timeout.
    pub async fn read_fresh(&self, max_stale: Duration) -> Result<ReadGuard<'_, T>, WaitError> {
        let ended = self.shared().waits.ended();
        let as_of = self.shared().report.read().current_as_of;
        if ended.is_none() && as_of.is_some_and(|asked| asked.elapsed() <= max_stale) {
            return Ok(self.read());
        }
        self.read_linearizable().await
    }
}
