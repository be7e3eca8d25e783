//! Where reading begins, and what a position beyond the end means.
//!
//! Owns [`Position`] and [`Beyond`]. Pure; must not know how events are stored.

use std::fmt;

use super::error::ReadError;

/// A place in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Position {
    /// At the oldest event there is.
    #[default]
    Oldest,
    /// After the newest event there is.
    Latest,
    /// At an event, inclusive.
    At(u64),
    /// After an event, exclusive.
    After(u64),
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Oldest => f.write_str("oldest"),
            Position::Latest => f.write_str("latest"),
            Position::At(sequence) => write!(f, "at {sequence}"),
            Position::After(sequence) => write!(f, "after {sequence}"),
        }
    }
}

/// What a position means that lies beyond the next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Beyond {
    /// An error, [`ReadError::BeyondEnd`].
    #[default]
    Error,
    /// Waiting until the journal reaches it; what is stored before it is not given.
    Wait,
}

/// What is there to read: events from `oldest` to the one before `next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) oldest: u64,
    pub(super) next: u64,
}

impl Position {
    /// The sequence number of the first event asked for.
    pub(super) fn resolve(self, extent: Extent, beyond: Beyond) -> Result<u64, ReadError> {
        let first = match self {
            Position::Oldest => extent.oldest,
            Position::Latest => extent.next,
            Position::At(sequence) => sequence,
            // What comes after the last number there can be is that number, which is never given.
            Position::After(sequence) => sequence.saturating_add(1),
        };
        // The first event of all has number one, so asking from zero misses nothing.
        let first = first.max(1);
        if first > extent.next && beyond == Beyond::Error {
            return Err(ReadError::BeyondEnd { asked: self, next: extent.next });
        }
        if first < extent.oldest {
            return Err(ReadError::Collected { asked: first, oldest: extent.oldest });
        }
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENT: Extent = Extent { oldest: 4, next: 9 };

    #[test]
    fn bw2_positions_resolve_and_print() {
        let cases = [
            (Position::Oldest, 4, "oldest"),
            (Position::Latest, 9, "latest"),
            (Position::At(5), 5, "at 5"),
            (Position::At(9), 9, "at 9"),
            (Position::After(5), 6, "after 5"),
            (Position::After(8), 9, "after 8"),
            (Position::After(3), 4, "after 3"),
        ];
        for (position, first, printed) in cases {
            assert_eq!(position.resolve(EXTENT, Beyond::Error).unwrap(), first, "{position}");
            assert_eq!(position.to_string(), printed);
        }
    }

    #[test]
    fn bw4_beyond_the_end_is_an_error_or_a_wait_never_silent() {
        for position in [Position::At(10), Position::After(9), Position::After(u64::MAX)] {
            let refused = position.resolve(EXTENT, Beyond::Error);
            assert!(matches!(refused, Err(ReadError::BeyondEnd { next: 9, .. })), "{refused:?}");
            assert!(position.resolve(EXTENT, Beyond::Wait).unwrap() > 9);
        }
    }

    #[test]
    fn bw20_what_was_collected_is_said() {
        for position in [Position::At(3), Position::After(2), Position::At(0)] {
            let refused = position.resolve(EXTENT, Beyond::Error);
            assert!(matches!(refused, Err(ReadError::Collected { oldest: 4, .. })), "{refused:?}");
        }
        let whole = Extent { oldest: 1, next: 1 };
        assert_eq!(Position::At(0).resolve(whole, Beyond::Error).unwrap(), 1);
        assert_eq!(Position::After(0).resolve(whole, Beyond::Error).unwrap(), 1);
    }
}
