//! Reads choices from the bytes of a fuzz input.
//!
//! Owns [`Input`]. Must take every byte string: past the end all choices are zero. Must not know
//! what is chosen.

/// The bytes that are left.
#[derive(Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(rest: &'a [u8]) -> Self {
        Input { rest }
    }

    /// Whether only zeros would follow, so that a loop over steps should end.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Up to `len` bytes as they are.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// A number below `bound`, which is at most 256; zero for the bound zero.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound.max(1)
    }

    /// True for about `of_256` of all bytes, and false past the end.
    pub fn chance(&mut self, of_256: u8) -> bool {
        // Counted from the top, so that zeros say no.
        self.byte() > u8::MAX - of_256
    }

    pub fn pick<V: Copy>(&mut self, values: &[V]) -> V {
        values[self.below(values.len())]
    }

    /// A number near `around`, or one from the edges of its type.
    pub fn number(&mut self, around: i64) -> i64 {
        match self.byte() {
            byte @ 0..=199 => around.saturating_add(i64::from(byte % 16) - 4),
            byte @ 200..=239 => i64::from(byte) - 205,
            240..=243 => i64::MAX,
            244..=246 => i64::MIN,
            247..=249 => i64::MAX - 1,
            250.. => i64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }
}
