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
    if let Some(end) = skip.checked_add(8)
        && let Some(eight) = key.get(skip..end)
        && let Some(eight) = eight.first_chunk()
    {
        return u64::from_be_bytes(*eight);
    }
    padded_head(key, skip)
}

/// The head of a key with fewer than eight bytes from `skip` on.
#[cold]
fn padded_head(key: &[u8], skip: usize) -> u64 {
    let rest = key.get(skip..).unwrap_or_default();
    let mut padded = [0; 8];
    padded[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(padded)
}

/// The number of bytes that two keys have in common from the start.
pub(super) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The integer that a column keeps of a key.
pub(super) trait Head: Copy + Ord {
    /// The greatest head.
    const MAX: Self;

    fn of(key: &[u8], skip: u32) -> Self;
}

/// For runs. In a small key space they span much of it, so their keys share a short prefix and
/// half a head would often tie.
impl Head for u64 {
    const MAX: Self = u64::MAX;

    #[inline]
    fn of(key: &[u8], skip: u32) -> Self {
        head(key, skip as usize)
    }
}

/// For groups, whose keys share a long prefix: the upper half of a [`head`].
///
/// Signed and shifted by half the range, which keeps the order: every processor compares several
/// signed integers at once, and not every one does unsigned ones.
impl Head for i32 {
    const MAX: Self = i32::MAX;

    #[inline]
    fn of(key: &[u8], skip: u32) -> Self {
        let upper = (head(key, skip as usize) >> 32) as u32;
        (upper ^ (1 << 31)).cast_signed()
    }
}

/// The heads of up to `N` keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Heads<H, const N: usize> {
    /// The length of the prefix that the keys share.
    skip: u32,
    len: u32,
    /// Filled up with the greatest head, so that a scan needs no length.
    column: [H; N],
}

impl<H: Head, const N: usize> Heads<H, N> {
    /// The heads of ascending keys that share their first `skip` bytes.
    pub(super) fn new<'k>(skip: usize, keys: impl Iterator<Item = &'k [u8]>) -> Self {
        // A shorter prefix is as true as the longest.
        let skip = u32::try_from(skip).unwrap_or(u32::MAX);
        let mut heads = Heads { skip, len: 0, column: [H::MAX; N] };
        for (key, place) in keys.zip(&mut heads.column) {
            *place = H::of(key, skip);
            heads.len += 1;
        }
        heads
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    #[inline]
    pub(super) fn skip(&self) -> usize {
        self.skip as usize
    }

    /// The number of keys whose head is below that of `key`, and whether the next has the same.
    ///
    /// A call would cost as much as the search.
    #[inline(always)]
    pub(super) fn find(&self, key: &[u8]) -> (usize, bool) {
        let head = H::of(key, self.skip);
        let start = self.below(head);
        (start, self.column.get(start) == Some(&head) && start < self.len())
    }

    /// Loads the lines of the column without waiting for them.
    #[inline]
    pub(super) fn load(&self) {
        std::hint::black_box((self.column[0], self.column[N / 2], self.column[N - 1]));
    }

    /// The number of heads below `head`: first of whole quarters, then within one. No branch
    /// depends on the heads.
    #[inline(always)]
    fn below(&self, head: H) -> usize {
        let (quarters, _) = self.column.as_chunks::<4>();
        let before = &quarters[..quarters.len() - 1];
        let quarter = before.iter().map(|four| usize::from(four[3] < head)).sum::<usize>();
        let within = quarters[quarter].iter().map(|h| usize::from(*h < head)).sum::<usize>();
        4 * quarter + within
    }

    /// The end of the heads that equal the one at `start`.
    pub(super) fn end_of_ties(&self, start: usize) -> usize {
        end_of_ties(&self.column[..self.len()], start)
    }
}

fn end_of_ties<H: PartialEq>(column: &[H], start: usize) -> usize {
    start + column[start..].iter().take_while(|head| **head == column[start]).count()
}

/// The first index in `low..high` whose key is above `key`; the keys ascend.
pub(super) fn first_above<'k>(
    mut low: usize,
    mut high: usize,
    key: &[u8],
    key_at: impl Fn(usize) -> &'k [u8],
) -> usize {
    while low < high {
        let middle = usize::midpoint(low, high);
        if key_at(middle) <= key {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// The column over the first keys of any number of pieces.
#[derive(Default, Clone)]
pub(super) struct Fence {
    /// What *all* keys of the pieces share: a key that is present has it.
    prefix: Box<[u8]>,
    column: Box<[u64]>,
}

impl Fence {
    /// A fence over first keys, which ascend; `last` is the last key of the last piece.
    pub(super) fn over<'k>(
        mut firsts: impl ExactSizeIterator<Item = &'k [u8]>,
        last: &[u8],
    ) -> Self {
        let mut column = Vec::with_capacity(firsts.len());
        let Some(first) = firsts.next() else { return Fence::default() };
        let skip = common_prefix(first, last);
        column.push(head(first, skip));
        column.extend(firsts.map(|key| head(key, skip)));
        Fence { prefix: first[..skip].into(), column: column.into() }
    }

    /// The piece that holds `key`, if `key` is present. `first` gives the first key of a piece.
    #[inline]
    pub(super) fn locate<'k>(&self, key: &[u8], first: impl Fn(usize) -> &'k [u8]) -> usize {
        let head = head(key, self.prefix.len());
        let start = self.column.partition_point(|h| *h < head);
        let after = if self.column.get(start) == Some(&head) {
            first_above(start, end_of_ties(&self.column, start), key, first)
        } else {
            start
        };
        after.saturating_sub(1)
    }

    /// The piece in or behind which `key` belongs: the last whose first key is not above it, or the
    /// first piece.
    pub(super) fn locate_any<'k>(&self, key: &[u8], first: impl Fn(usize) -> &'k [u8]) -> usize {
        match key[..self.prefix.len().min(key.len())].cmp(&*self.prefix) {
            Ordering::Less => 0,
            Ordering::Greater => self.column.len().saturating_sub(1),
            Ordering::Equal => self.locate(key, first),
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.prefix.len() + size_of_val(&*self.column)
    }

    /// Panics unless this is what [`Fence::over`] makes of the same keys.
    #[cfg(test)]
    pub(super) fn validate<'k>(
        &self,
        firsts: impl ExactSizeIterator<Item = &'k [u8]>,
        last: &[u8],
    ) {
        let fresh = Fence::over(firsts, last);
        assert_eq!(self.prefix, fresh.prefix, "a fence has the wrong prefix");
        assert_eq!(self.column, fresh.column, "a fence has wrong heads");
    }
}
