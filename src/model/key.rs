//! The bytes of a key, inside what holds them when they are short.
//!
//! Owns the layout of [`Key`]. Must not know what a key is a key of.

/// The longest key that needs no allocation of its own.
pub(crate) const INLINE: usize = 46;

/// A key: 48 bytes with up to [`INLINE`] bytes of it inside.
///
/// A growable small vector would spend eight bytes more on each of millions of keys that never
/// grow.
#[derive(Clone)]
pub(crate) enum Key {
    Inline { len: u8, bytes: [u8; INLINE] },
    Heap(Box<[u8]>),
}

impl Key {
    pub(crate) fn new(key: &[u8]) -> Self {
        let mut bytes = [0; INLINE];
        match (bytes.get_mut(..key.len()), u8::try_from(key.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(key);
                Key::Inline { len, bytes }
            }
            _ => Key::Heap(key.into()),
        }
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Key::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Key::Heap(bytes) => bytes,
        }
    }

    /// Heap bytes of the key.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Key::Inline { .. } => 0,
            Key::Heap(bytes) => bytes.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_length_are_kept_as_they_are() {
        for length in (0..=2 * INLINE).chain([255, 256, 64 * 1024]) {
            let bytes: Vec<u8> = (0..length).map(|n| n.to_le_bytes()[0]).collect();
            let key = Key::new(&bytes);
            assert_eq!(key.as_slice(), bytes);
            assert_eq!(key.heap_bytes(), if length <= INLINE { 0 } else { length });
            assert_eq!(key.clone().as_slice(), bytes);
        }
    }

    #[test]
    fn a_key_wastes_no_room() {
        assert_eq!(size_of::<Key>(), INLINE + 2);
    }
}
