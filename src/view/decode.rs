//! From etcd's bytes to the application's type, and the record of bytes that do not decode.
//!
//! Owns the [`Decoder`] trait, the ready-made decoders and [`Rejection`]. Decoders run outside every lock.
//! What a view shows for a rejected value is decided in `next::edits`.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::SystemTime;

use crate::model::RawKeyValue;

/// Any error a decoder may give.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Makes the application's value from one record of etcd.
///
/// Every `Fn(RawKeyValue) -> Result<T, E>` is a decoder. It is called once for the last value of a
/// key in a batch (earlier values are tried only when the last one fails under
/// [`BadValues::KeepLast`]), outside every lock. It should be pure: how often it is called for values
/// that are never visible is not part of the contract. A panic in it is contained and rejects the value.
///
/// # Threads
/// Batches of events are decoded on the task that drives the mirror, one value after the other. The
/// values of a load are decoded by several threads at once and in any order, unless
/// [`Builder::load_threads`](crate::Builder::load_threads) is one. The helping threads end with the page, so
/// what a decoder keeps in thread-locals is lost, and have 2 MiB of stack; they run in the span and with the
/// subscriber of the mirror. A decoder must not wait for a lock, or read under a guard, that the caller of
/// [`Writer::load`](crate::Writer::load) holds.
///
/// ```
/// use etcd_keyspace::{Decoder, RawKeyValue};
///
/// fn weight(kv: RawKeyValue) -> Result<u32, std::num::ParseIntError> {
///     String::from_utf8_lossy(&kv.value).parse()
/// }
/// let kv = RawKeyValue { value: b"3".to_vec(), ..RawKeyValue::default() };
/// assert_eq!(weight.decode(kv).unwrap(), 3);
/// ```
pub trait Decoder<T>: Send + Sync + 'static {
    /// Decodes one record, which is given by value so that its bytes can be kept without a copy. (A helping
    /// thread of a load copies values of up to 4 KiB first, to spare the allocator.)
    ///
    /// # Errors
    /// Any error: the value is rejected, listed by `KeySpace::rejected`, and the mirror goes on.
    fn decode(&self, kv: RawKeyValue) -> Result<T, BoxError>;
}

impl<T, E, F> Decoder<T> for F
where
    F: Fn(RawKeyValue) -> Result<T, E> + Send + Sync + 'static,
    E: Into<BoxError>,
{
    fn decode(&self, kv: RawKeyValue) -> Result<T, BoxError> {
        self(kv).map_err(Into::into)
    }
}

/// Decodes values as JSON.
#[cfg(feature = "json")]
pub fn json<T>() -> impl Decoder<T>
where
    T: serde::de::DeserializeOwned,
{
    |kv: RawKeyValue| serde_json::from_slice::<T>(&kv.value)
}

/// Keeps values as the bytes they are; nothing is copied and nothing is rejected.
pub fn bytes() -> impl Decoder<Vec<u8>> {
    |kv: RawKeyValue| Ok::<_, BoxError>(kv.value)
}

/// What a view shows for a key whose newest value cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BadValues {
    /// The last value that this mirror decoded since the key was created, else nothing.
    ///
    /// Not convergent: a mirror that started later may have seen no good value and show nothing.
    #[default]
    KeepLast,
    /// Nothing. Convergent: all mirrors of a range at one revision show the same.
    Drop,
}

/// Why a value was rejected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The decoder gave an error. Fix the value or the decoder.
    #[error("the decoder refused the value")]
    Refused(#[source] BoxError),
    /// The decoder panicked. Fix the decoder.
    #[error("the decoder panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
}

/// The newest value of one key that could not be decoded.
#[derive(Clone)]
pub(crate) struct Rejection {
    pub(crate) error: Arc<DecodeError>,
    pub(crate) since: SystemTime,
    /// Whether an older value of the key is shown in its place.
    pub(crate) shown: bool,
}

impl fmt::Debug for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejection").field("error", &self.error).field("shown", &self.shown).finish()
    }
}

/// What a former mirror stored of a key whose newest value it could not decode.
#[derive(Debug)]
pub(crate) struct FormerRejection {
    pub(crate) key: Vec<u8>,
    pub(crate) since: SystemTime,
    /// What it showed in its place.
    pub(crate) last_good: Option<RawKeyValue>,
}

/// Decodes with panics contained (C10: a bad value never stops the mirror).
pub(crate) fn decode<T: 'static>(
    decoder: &dyn Decoder<T>,
    kv: RawKeyValue,
) -> Result<T, DecodeError> {
    match catch_unwind(AssertUnwindSafe(|| decoder.decode(kv))) {
        Ok(decoded) => decoded.map_err(DecodeError::Refused),
        Err(payload) => Err(DecodeError::Panicked { message: caught_message(payload) }),
    }
}

/// The text of a caught panic; drops the payload, whose own `Drop` may panic too.
pub(crate) fn caught_message(payload: Box<dyn Any + Send>) -> String {
    let message = panic_message(&*payload);
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Dropping it could go on like that for ever.
        std::mem::forget(again);
    }
    message
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without text".to_owned()
    }
}
