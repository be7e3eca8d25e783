//! Columns of heads: sorted keys as integers.
//!
//! Owns how a key becomes a `u64` and how columns are searched. Must not know what the keys lead
//! to. The head of a key is the eight bytes behind the column's common prefix, big-endian, padded
//! with zeros: heads never order two keys against their bytes, but keys that differ later, or by
//! trailing zeros only, have equal heads and need a comparison of the keys.

use std::cmp::Ordering;

/// The eight bytes of `key` from `skip` on.
#[inline]
pub(super) fn head(key: &[u8], skip: usize) -> u64 {
    let rest = key.get(skip..).unwrap_or_default();
    if let Some(eight) = rest.first_chunk::<8>() {
        return u64::from_be_bytes(*eight);
    }
    let mut padded = [0; 8];
    padded[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(padded)
}

/// The number of bytes that two keys have in common from the start.
pub(super) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The number of heads below `head`.
#[inline]
pub(super) fn below(column: &[u64], head: u64) -> usize {
    column.partition_point(|h| *h < head)
}

/// The end of the heads equal to `head` that begin at `start`.
#[inline]
pub(super) fn end_of_equal(column: &[u64], start: usize, head: u64) -> usize {
    start + column[start..].iter().take_while(|h| **h == head).count()
}

/// The column over the first keys of a sequence of pieces, with the prefix they share.
#[derive(Default)]
pub(super) struct Fence {
    prefix: Box<[u8]>,
    column: Box<[u64]>,
}

impl Fence {
    /// A fence over keys that ascend.
    pub(super) fn over<'k, I>(keys: I) -> Self
    where
        I: DoubleEndedIterator<Item = &'k [u8]> + Clone,
    {
        let mut ends = keys.clone();
        let Some(first) = ends.next() else { return Fence::default() };
        let skip = ends.next_back().map_or(first.len(), |last| common_prefix(first, last));
        Fence { prefix: first[..skip].into(), column: keys.map(|key| head(key, skip)).collect() }
    }

    /// The piece that holds `key` if any does: the last whose first key is not above it, or the
    /// first piece. `first` gives the first key of a piece.
    #[inline]
    pub(super) fn locate<'k>(&self, key: &[u8], first: impl Fn(usize) -> &'k [u8]) -> usize {
        let skip = self.prefix.len();
        let shared = &key[..skip.min(key.len())];
        let after = match shared.cmp(&*self.prefix) {
            Ordering::Less => 0,
            Ordering::Greater => self.column.len(),
            Ordering::Equal => {
                let head = head(key, skip);
                let start = below(&self.column, head);
                if self.column.get(start) == Some(&head) {
                    self.after_ties(start, head, key, first)
                } else {
                    start
                }
            }
        };
        after.saturating_sub(1)
    }

    /// The end of the pieces whose first key is not above `key`, among those of equal heads.
    #[cold]
    fn after_ties<'k>(
        &self,
        start: usize,
        head: u64,
        key: &[u8],
        first: impl Fn(usize) -> &'k [u8],
    ) -> usize {
        let (mut low, mut high) = (start, end_of_equal(&self.column, start, head));
        while low < high {
            let middle = usize::midpoint(low, high);
            if first(middle) <= key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.prefix.len() + size_of_val(&*self.column)
    }

    /// Panics unless this is what [`Fence::over`] makes of `keys`.
    #[cfg(test)]
    pub(super) fn validate<'k, I>(&self, keys: I)
    where
        I: DoubleEndedIterator<Item = &'k [u8]> + Clone,
    {
        let fresh = Fence::over(keys);
        assert_eq!(self.prefix, fresh.prefix, "a fence has the wrong prefix");
        assert_eq!(self.column, fresh.column, "a fence has wrong heads");
    }
}
