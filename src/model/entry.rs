//! One key of a view: the decoded value with etcd's own numbers beside it.
//!
//! Owns the entry's layout: what a look-up reads comes first, and a short key lies inside the
//! entry's allocation (see `key`), as do etcd's numbers if they are small (see `compact`). Must not know where entries are stored or how values are decoded.

mod compact;

use std::borrow::Cow;
use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use self::compact::Compact;
use crate::model::event::{RawKeyValue, Revision};
use crate::model::key::Key;

/// One key of the mirrored range with its decoded value. Immutable once made.
///
/// Entries are handed out borrowed from a view, or as `Arc<Entry<T>>` that can be kept for ever:
/// an update of the key makes a new entry and leaves old ones as they are.
#[repr(C)]
pub struct Entry<T> {
    key: Key,
    value: T,
    numbers: Compact,
    value_hash: ValueHash,
}

impl<T> Entry<T> {
    /// An entry made by hand, for fixtures; mirrors make theirs from what etcd sends.
    ///
    /// The entry is as after its creating write: `create_revision` is `mod_revision`, the version
    /// is 1, and there is no lease.
    pub fn new(key: impl AsRef<[u8]>, value: T, mod_revision: Revision) -> Self {
        let numbers = Numbers { create_revision: mod_revision, mod_revision, version: 1, lease: 0 };
        Entry::decoded(key.as_ref(), numbers, ValueHash::default(), value)
    }

    /// An entry with the numbers of `numbers` and a decoded value, whose raw bytes have `value_hash`.
    pub(crate) fn decoded(key: &[u8], numbers: Numbers, value_hash: ValueHash, value: T) -> Self {
        Entry { key: Key::new(key), value, numbers: Compact::new(numbers), value_hash }
    }

    /// The key's bytes.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.key.as_slice()
    }

    /// The key as text; bytes that are not UTF-8 are shown as replacement characters.
    #[must_use]
    pub fn key_str(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.key())
    }

    /// The decoded value.
    #[must_use]
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The revision at which the key was created (etcd: `mvccpb.KeyValue.create_revision`).
    #[must_use]
    pub fn create_revision(&self) -> Revision {
        self.numbers.get().create_revision
    }

    /// The revision of the last write of the key (etcd: `mvccpb.KeyValue.mod_revision`).
    #[must_use]
    pub fn mod_revision(&self) -> Revision {
        self.numbers.mod_revision()
    }

    /// Writes since creation, the creating one included (etcd: `mvccpb.KeyValue.version`).
    #[must_use]
    pub fn version(&self) -> i64 {
        self.numbers.get().version
    }

    /// The lease the key is attached to, zero for none.
    #[must_use]
    pub fn lease(&self) -> i64 {
        self.numbers.get().lease
    }

    pub(crate) fn numbers(&self) -> Numbers {
        self.numbers.get()
    }

    /// The hash of the raw value that etcd keeps under these numbers.
    pub(crate) fn value_hash(&self) -> ValueHash {
        self.value_hash
    }

    /// Heap bytes of the key and the numbers beyond the entry itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.key.heap_bytes() + self.numbers.heap_bytes()
    }

    /// A word of each of the lines that a comparison reads: of the key, and of what is behind the
    /// value. Does not depend on the words, so that the loads of many entries overlap.
    #[inline]
    pub(crate) fn words(&self) -> u64 {
        u64::from(self.key.as_slice().first().copied().unwrap_or_default()) ^ self.value_hash.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &format_args!("{}", self.key().escape_ascii()))
            .field("value", &self.value)
            .field("create_revision", &self.create_revision())
            .field("mod_revision", &self.mod_revision())
            .field("version", &self.version())
            .field("lease", &self.lease())
            .finish()
    }
}

/// The numbers etcd keeps beside a key: what continuity is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) create_revision: Revision,
    pub(crate) mod_revision: Revision,
    pub(crate) version: i64,
    pub(crate) lease: i64,
}

impl Numbers {
    /// Whether etcd can give these numbers to a key; the one rule for events, loads and audits.
    ///
    /// Version 0 comes from a server that keeps none. A creation may have any other version, since a
    /// transaction that writes a key twice creates it with version 2; but only a creation has version 1.
    pub(crate) fn is_possible(self) -> bool {
        let created = self.create_revision == self.mod_revision;
        let revisions = self.create_revision > 0 && self.mod_revision >= self.create_revision;
        revisions && self.version >= 0 && (self.version != 1 || created)
    }

    /// Whether both are of the same write; versions count only where the server keeps them.
    pub(crate) fn is_same_write(self, other: Numbers) -> bool {
        let versions = self.version == other.version || self.version == 0 || other.version == 0;
        self.create_revision == other.create_revision
            && self.mod_revision == other.mod_revision
            && versions
    }
}

impl From<&RawKeyValue> for Numbers {
    fn from(kv: &RawKeyValue) -> Self {
        Numbers {
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }
}

/// Bits of a [`ValueHash`] that hold the size class.
const SIZE_BITS: u32 = 6;

/// A hash of a raw value, with the order of magnitude of its length. Numbers alone do not distinguish two
/// histories: a store that is written again in the same order gets the same numbers.
///
/// The low six bits are the size class, the number of bits of the length in bytes; the others are
/// from xxh3. Never stored, so the function may change. The default belongs to entries made without a raw
/// value and equals the hash of no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ValueHash(u64);

impl ValueHash {
    pub(crate) fn of(value: &[u8]) -> Self {
        // A slice has less than 2^63 bytes, so the class fits. The hash of the empty value is not zero.
        let class = u64::from(usize::BITS - value.len().leading_zeros());
        ValueHash(xxh3_64(value) >> SIZE_BITS << SIZE_BITS | class)
    }

    /// An upper bound for the length of the value: below twice the length, and exact for none.
    pub(crate) fn bytes_at_most(self) -> u64 {
        let class = self.0 & ((1 << SIZE_BITS) - 1);
        (1 << class) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_equal_hashes_and_others_have_others() {
        let values = [&b""[..], b"\0", b"\0\0", b"a", b"b", b"ab", b"ba", &[7; 300], &[7; 301]];
        for (at, value) in values.iter().enumerate() {
            let copy = value.to_vec();
            assert_eq!(ValueHash::of(value), ValueHash::of(&copy));
            assert_ne!(ValueHash::of(value), ValueHash::default());
            for other in &values[at + 1..] {
                assert_ne!(ValueHash::of(value), ValueHash::of(other), "{value:?} {other:?}");
            }
        }
        // One flipped bit anywhere in a long value, of equal size class.
        let value = vec![0_u8; 1000];
        for bit in 0..8_000 {
            let mut other = value.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(ValueHash::of(&value), ValueHash::of(&other), "bit {bit}");
        }
    }

    #[test]
    fn the_size_class_bounds_the_length() {
        let bound = |bytes: usize| ValueHash::of(&vec![1; bytes]).bytes_at_most();
        assert_eq!([bound(0), bound(1), bound(2), bound(3), bound(4)], [0, 1, 3, 3, 7]);
        for power in 1..21 {
            let (below, at) = (bound((1 << power) - 1), bound(1 << power));
            assert_eq!((below, at), ((1 << power) - 1, (2 << power) - 1));
        }
        assert_eq!(ValueHash(u64::MAX).bytes_at_most(), (1 << 63) - 1);
    }

    #[test]
    fn an_entry_keeps_the_hash_it_was_decoded_with() {
        let numbers = Numbers { create_revision: 1, mod_revision: 2, version: 2, lease: 0 };
        let hash = ValueHash::of(b"5");
        assert_eq!(Entry::decoded(b"/a", numbers, hash, 5).value_hash(), hash);
        assert_eq!(Entry::new("/a", 5, 2).value_hash(), ValueHash::default());
    }
}
