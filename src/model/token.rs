//! Freshness tokens: a revision that a reader needs, carried from process to process.
//!
//! Zero stands for "unknown" in the cluster's id and in the raft term, as in etcd's own headers, so that
//! a plain revision is a token that knows nothing else.

use std::fmt;
use std::str::FromStr;

use crate::model::event::{Header, Revision};

/// A revision with its cluster and raft term: send it to a reader that must not read anything older.
///
/// Made from the header of etcd's response to a write (`Token::from(header)`, for
/// `&etcd_client::ResponseHeader` and for [`Header`]), or by [`KeySpace::token`](crate::KeySpace::token)
/// from the current view. Its text form, `cluster.revision` or `cluster.revision.term`, fits into a
/// header or a message; [`KeySpace::read_at`](crate::KeySpace::read_at) accepts it in any process that
/// mirrors the same cluster.
///
/// # The term
/// A store that was restored from a backup, or wiped, keeps its cluster id and assigns revisions a second
/// time. The raft term of a write's header lets a mirror notice that a revision does not fit what it
/// knows. If the mirror is not live when a wait begins, or if revision and term contradict the answers
/// that it has seen, only a linearizable read that began after the wait meets the token.
///
/// # What it cannot know
/// The mirror may still believe in a connection that is already broken. Then a token whose term and
/// revision are below the known ones looks like any old token, and is met at once. A token without a
/// term ([`of_write`](Token::of_write), [`KeySpace::token`](crate::KeySpace::token)) is no better than a
/// plain revision: writes of another history may meet it until the mirror finds out. Within the process
/// that made it, a token of an earlier epoch is refused. The text form does not carry the epoch, which
/// counts in one process only.
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
    term: u64,
    /// The key space of this process that made it, and the epoch.
    pub(crate) epoch: Option<(usize, u64)>,
}

impl Token {
    /// Asks for nothing: every cluster meets it, after its first load.
    pub(crate) const NOTHING: Token = Token { cluster_id: 0, revision: 0, term: 0, epoch: None };

    /// The token of a write from the cluster's id and the revision in the header of etcd's response.
    ///
    /// It has no [term](Token::term). Convert the whole header where there is one: `Token::from(header)`.
    #[must_use]
    pub fn of_write(cluster_id: u64, revision: Revision) -> Self {
        Token { cluster_id, revision: revision.max(0), ..Token::NOTHING }
    }

    /// A token made by a key space of this process, in an epoch.
    pub(crate) fn in_epoch(cluster_id: u64, revision: Revision, epoch: (usize, u64)) -> Self {
        Token { epoch: Some(epoch), ..Token::of_write(cluster_id, revision) }
    }

    /// The id of the cluster, zero if unknown: then every cluster is accepted.
    #[must_use]
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// The lowest revision that meets it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The raft term of the response that carried the revision, zero if unknown.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.term
    }
}

/// Tokens are equal when they ask for the same; where they were made does not matter.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        (self.cluster_id, self.revision, self.term)
            == (other.cluster_id, other.revision, other.term)
    }
}

impl Eq for Token {}

impl From<Header> for Token {
    fn from(header: Header) -> Self {
        let Header { cluster_id, revision, raft_term, .. } = header;
        Token { term: raft_term, ..Token::of_write(cluster_id, revision) }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{}", self.cluster_id, self.revision)?;
        if self.term > 0 { write!(f, ".{}", self.term) } else { Ok(()) }
    }
}

/// A text is not a token. Refuse the request that carried it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a token: it must be a cluster's id in hexadecimal and a revision, separated by a dot")]
#[non_exhaustive]
pub struct TokenError {}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (cluster, rest) = text.split_once('.').ok_or(TokenError {})?;
        // Without a term in texts of earlier versions, and where it is unknown.
        let (revision, term) = rest.split_once('.').unwrap_or((rest, "0"));
        let decimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let unsigned = cluster.bytes().all(|byte| byte.is_ascii_hexdigit())
            && decimal(revision)
            && decimal(term);
        let cluster_id = u64::from_str_radix(cluster, 16).ok().filter(|_| unsigned);
        match (cluster_id, revision.parse(), term.parse()) {
            (Some(cluster_id), Ok(revision), Ok(term)) => {
                Ok(Token { term, ..Token::of_write(cluster_id, revision) })
            }
            _ => Err(TokenError {}),
        }
    }
}

/// A revision that a read has to have met: a plain one, a [`Token`], or the header of a response.
#[derive(Debug, Clone, Copy)]
pub struct AtLeast(pub(crate) Token);

impl From<Revision> for AtLeast {
    fn from(revision: Revision) -> Self {
        AtLeast(Token::of_write(0, revision))
    }
}

impl From<Token> for AtLeast {
    fn from(token: Token) -> Self {
        AtLeast(token)
    }
}

impl From<Header> for AtLeast {
    fn from(header: Header) -> Self {
        AtLeast(header.into())
    }
}
