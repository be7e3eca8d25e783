//! The first step of building: a range, and how its values are decoded.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::builder::Builder;
use crate::keyspace::KeySpace;
use crate::model::{IntoKeyRange, KeyRange, RangeError};
use crate::view::{BadValues, Decoder, Decoding, bytes};

impl<T: Send + Sync + 'static> KeySpace<T> {
    /// Begins to build a key space of `range`: a clean path such as `"/backends/"`, whose keys are
    /// those that begin with it, or any [`KeyRange`].
    ///
    /// # Errors
    /// [`RangeError::UncleanPath`] names the clean form of the path; [`RangeError::Empty`] when no
    /// key can lie in the range.
    pub fn builder(range: impl IntoKeyRange) -> Result<NeedsDecoder<T>, RangeError> {
        let range = range.into_key_range()?;
        if range.is_empty() {
            return Err(RangeError::Empty { range });
        }
        Ok(NeedsDecoder { range, value: PhantomData })
    }
}

/// A builder that has its range and needs to know how values are decoded.
#[must_use = "give it a decoder"]
pub struct NeedsDecoder<T> {
    range: KeyRange,
    value: PhantomData<fn() -> T>,
}

impl<T: Send + Sync + 'static> NeedsDecoder<T> {
    /// Decodes values with `decoder`: any `Fn(RawKeyValue) -> Result<T, E>`,
    /// [`json()`](crate::json), or a type of your own.
    pub fn decoder(self, decoder: impl Decoder<T>) -> Builder<T> {
        let decoding = Decoding { decoder: Arc::new(decoder), bad_values: BadValues::default() };
        Builder::new(self.range, decoding)
    }

    /// Decodes values as JSON; short for `decoder(json())`.
    #[cfg(feature = "json")]
    pub fn json(self) -> Builder<T>
    where
        T: serde::de::DeserializeOwned,
    {
        self.decoder(crate::view::json())
    }
}

impl NeedsDecoder<Vec<u8>> {
    /// Keeps values as the bytes they are; short for `decoder(bytes())`.
    pub fn bytes(self) -> Builder<Vec<u8>> {
        self.decoder(bytes())
    }
}

impl<T> fmt::Debug for NeedsDecoder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NeedsDecoder").field("range", &self.range).finish()
    }
}
