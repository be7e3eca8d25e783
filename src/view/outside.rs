//! The rule for keys outside the mirrored range: a view knows nothing about them.

use crate::model::KeyRange;

/// A query reached outside the mirrored range, where the view knows nothing.
///
/// Ask the key space that mirrors the keys, or etcd.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{asked} is outside the mirrored range {mirrored}")]
#[non_exhaustive]
pub struct OutsideRange {
    /// What was asked for.
    pub asked: KeyRange,
    /// What the key space mirrors.
    pub mirrored: KeyRange,
}

impl OutsideRange {
    /// Gives a range back of which everything is mirrored.
    pub(crate) fn check(asked: KeyRange, mirrored: &KeyRange) -> Result<KeyRange, OutsideRange> {
        let (start, end) = (mirrored.start(), mirrored.end());
        // An open end means as far as is mirrored; a bound that is given must lie within, also the
        // only one: beyond it nothing is known.
        let within = |bound: &[u8]| start <= bound && end.is_none_or(|end| bound <= end);
        let low = asked.start().is_empty() || within(asked.start());
        let high = asked.end().is_none_or(within);
        if (low && high) || asked.is_empty() {
            Ok(asked)
        } else {
            Err(OutsideRange { asked, mirrored: mirrored.clone() })
        }
    }
}
