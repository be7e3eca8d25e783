//! Reads that block until their range differs from what the caller holds.
//!
//! Owns [`Validator`], its text form, and the wait. Must not keep anything between calls: the caller
//! holds the validator.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::subscription::Subscription;
use crate::keyspace::KeySpace;
use crate::model::KeyRange;
use crate::publish::{ReadGuard, WaitError};
use crate::view::{Fingerprint, OutsideRange, View};

/// Which state of a range somebody has seen: a short text for HTTP's `ETag`, or a cursor of a poll.
///
/// Equal for equal keys at equal create and mod revisions in one cluster, whichever process made it,
/// now or in another release; other for other ones, but for hashes that collide (64 bits). A restored
/// backup keeps the cluster's id, so the revisions alone would not do. The text form is four
/// hexadecimal numbers with dots between, without quotes.
///
/// ```
/// # use etcd_keyspace::{KeySpace, Validator};
/// # #[cfg(feature = "test-util")]
/// # use etcd_keyspace::testing::FakeEtcd;
/// # #[cfg(not(feature = "test-util"))]
/// # fn main() {}
/// # #[cfg(feature = "test-util")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let etcd = FakeEtcd::new();
/// # let ks = KeySpace::builder("/app/")?.bytes().start(etcd.clone()).await?;
/// let etag = ks.read().validator(..).to_string();
/// assert_eq!(etag.parse::<Validator>()?, ks.read().validator(..));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Validator {
    cluster_id: u64,
    newest: i64,
    count: u64,
    sum: u64,
}

impl Validator {
    /// Of what has this fingerprint in a cluster; nothing is loaded while there is none.
    pub(super) fn new(cluster_id: Option<u64>, fingerprint: Fingerprint) -> Self {
        let Fingerprint { newest, count, sum } = fingerprint;
        Validator { cluster_id: cluster_id.unwrap_or_default(), newest, count, sum }
    }
}

impl fmt::Display for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Validator { cluster_id, newest, count, sum } = self;
        write!(f, "{cluster_id:x}.{newest:x}.{count:x}.{sum:x}")
    }
}

/// A text is no validator. Answer as if none had been given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no validator: it must be four hexadecimal numbers with dots between")]
#[non_exhaustive]
pub struct ValidatorError {}

impl FromStr for Validator {
    type Err = ValidatorError;

    fn from_str(text: &str) -> Result<Self, ValidatorError> {
        let mut parts = text.split('.').map(|part| {
            // `from_str_radix` takes a sign.
            let digits = part.bytes().all(|byte| byte.is_ascii_hexdigit());
            u64::from_str_radix(part, 16).ok().filter(|_| digits)
        });
        let mut next = || parts.next().flatten().ok_or(ValidatorError {});
        let (cluster_id, newest, count, sum) = (next()?, next()?, next()?, next()?);
        let newest = i64::try_from(newest).map_err(|_| ValidatorError {})?;
        match parts.next() {
            None => Ok(Validator { cluster_id, newest, count, sum }),
            Some(_) => Err(ValidatorError {}),
        }
    }
}

impl<T> View<T> {
    /// The validator of a range (`from..to`, a [`KeyRange`], or `..`) as it is in this view.
    ///
    /// Hashes are kept for each run of some 200 entries, so it costs O(runs of the range), and
    /// O(entries) for runs that changed since somebody asked.
    ///
    /// # Panics
    /// When a bound is outside the mirrored range.
    #[must_use]
    #[track_caller]
    pub fn validator(&self, range: impl Into<KeyRange>) -> Validator {
        match self.try_validator(range) {
            Ok(validator) => validator,
            Err(error) => panic!("{error}; use `try_validator` for ranges that come from users"),
        }
    }

    /// [`validator`](View::validator) of a range that comes from a user.
    ///
    /// # Errors
    /// [`OutsideRange`] when the view cannot know all keys of the range.
    pub fn try_validator(&self, range: impl Into<KeyRange>) -> Result<Validator, OutsideRange> {
        let range = OutsideRange::check(range.into(), self.mirrored())?;
        let fingerprint = self.entries.fingerprint(range.start(), range.end());
        Ok(Validator::new(self.cluster_id(), fingerprint))
    }
}

impl<T: Send + Sync + 'static> KeySpace<T> {
    /// Reads a range once it differs from the state that the caller has seen: at once if it does
    /// now, or if the caller has seen none, else when it does, at the latest after `max_wait`. Gives a
    /// guard with the validator of its view: the same one if nothing changed in time.
    ///
    /// Changes of other keys do not wake it. A change that was taken back is none. While nothing is
    /// loaded it waits for the load. A wait costs nothing while it waits, and when its range is
    /// touched O(runs of the range).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[cfg(feature = "test-util")]
    /// # use etcd_keyspace::{KeySpace, testing::FakeEtcd};
    /// # #[cfg(not(feature = "test-util"))]
    /// # fn main() {}
    /// # #[cfg(feature = "test-util")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let etcd = FakeEtcd::new();
    /// # let ks = KeySpace::builder("/app/")?.bytes().start(etcd.clone()).await?;
    /// let seen = ks.read().validator(..);
    /// etcd.put("/app/a", "1");
    /// let (view, now) = ks.read_changed(.., Some(seen), Duration::from_secs(30)).await?;
    /// assert!(now != seen && view.len() == 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`WaitError::Stopped`] when the key space stopped and shows what the caller has seen.
    ///
    /// # Panics
    /// When a bound is outside the mirrored range, and when it would have to wait while this thread
    /// holds a read guard of the same key space or runs one of its observers.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn read_changed(
        &self,
        range: impl Into<KeyRange>,
        seen: Option<Validator>,
        max_wait: Duration,
    ) -> Result<(ReadGuard<'_, T>, Validator), WaitError> {
        let range = range.into();
        self.loaded().await?;
        let interested = Subscription::new(self, range.clone());
        let differs = async {
            loop {
                let ended = interested.ended();
                if seen != Some(self.snapshot().validator(range.clone())) {
                    return Ok(());
                }
                if let Some(reason) = ended {
                    return Err(WaitError::Stopped(reason));
                }
                interested.touched().await;
            }
        };
        match tokio::time::timeout(max_wait, differs).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) | Err(_) => {
                let view = self.read();
                let validator = view.validator(range);
                Ok((view, validator))
            }
        }
    }
}
