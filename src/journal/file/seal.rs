//! Sealed records, and the integers, times and parts they are made of.
//!
//! Owns the checksum over key and body. Bytes never panic here, whatever they are (C11).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Begins a record; its seal is filled in by [`seal`].
pub(in crate::journal) fn unsealed(capacity: usize) -> Vec<u8> {
    let mut record = Vec::with_capacity(8 + capacity);
    record.extend_from_slice(&[0; 8]);
    record
}

/// Seals a record that lies under a key of which `seed` is made; gives the seal.
pub(in crate::journal) fn seal(seed: u64, record: &mut [u8]) -> u64 {
    let (head, body) = record.split_at_mut(8);
    let sum = xxh3_64_with_seed(body, seed);
    head.copy_from_slice(&sum.to_le_bytes());
    sum
}

/// The body of a sealed record, and its seal.
pub(in crate::journal) fn unseal(seed: u64, record: &[u8]) -> Option<(&[u8], u64)> {
    let (head, body) = record.split_first_chunk::<8>()?;
    let sum = u64::from_le_bytes(*head);
    (sum == xxh3_64_with_seed(body, seed)).then_some((body, sum))
}

/// The seal of a state record that is about to be replaced; a record too short has none.
pub(in crate::journal) fn seal_of(record: &[u8]) -> u64 {
    record.first_chunk::<8>().map_or(0, |head| u64::from_le_bytes(*head))
}

/// Takes parts off the front of a body.
pub(in crate::journal) struct Parts<'a>(pub(in crate::journal) &'a [u8]);

impl<'a> Parts<'a> {
    pub(in crate::journal) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(in crate::journal) fn byte(&mut self) -> Option<u8> {
        Some(self.bytes(1)?[0])
    }

    pub(in crate::journal) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }

    pub(in crate::journal) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }

    pub(in crate::journal) fn i64(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }

    /// A part with its length in front.
    pub(in crate::journal) fn part(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        self.bytes(len)
    }
}

/// Lengths are checked against `format::PART_MAX` before anything is stored.
pub(in crate::journal) fn push_part(record: &mut Vec<u8>, part: &[u8]) {
    record.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
    record.extend_from_slice(part);
}

/// Nanoseconds since 1970; what lies outside of the years 1677 to 2262 becomes the nearest of them.
pub(in crate::journal) fn nanos(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

pub(in crate::journal) fn time(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    let time =
        if nanos < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

/// A time as it comes out of the format again.
pub(in crate::journal) fn rounded(at: SystemTime) -> SystemTime {
    time(nanos(at))
}

pub(in crate::journal) fn name_seed(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}
