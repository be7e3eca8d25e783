//! Removing old events.
//!
//! Owns which events a run removes, within its bounds (BW-20). Must not decide when runs take place:
//! the writer's thread does, between calls.

use std::time::{Instant, SystemTime};

use redb::ReadableTable;

use super::format;
use super::tables::Tables;
use crate::journal::error::StorageFault;
use crate::journal::options::Retention;

/// What one collection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Collected {
    /// Events removed.
    pub events: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// A bound of the run was reached: more may be left to remove.
    pub unfinished: bool,
}

/// Removes the oldest events while they are too old or all too large, but nothing that
/// a checkpoint has not passed.
pub(in crate::journal) fn collect(
    tables: &mut Tables<'_>,
    retention: &Retention,
    now: SystemTime,
) -> Result<Collected, StorageFault> {
    let begun = Instant::now();
    let floor = if retention.past_checkpoints { u64::MAX } else { tables.unpassed()? };
    let oldest_kept = retention.age.and_then(|age| now.checked_sub(age));
    let mut collected = Collected::default();
    while let Some((sequence, size, time)) = first(tables)? {
        let too_old = oldest_kept.is_some_and(|kept| time < kept);
        let too_large = retention.bytes.is_some_and(|bytes| tables.log.bytes > bytes);
        if sequence >= floor || !(too_old || too_large) {
            break;
        }
        let most = u64::try_from(retention.max_records).unwrap_or(u64::MAX);
        // At least one, so that runs make progress however short they are.
        let out_of_time = collected.events > 0 && begun.elapsed() >= retention.max_time;
        if collected.events >= most || out_of_time {
            collected.unfinished = true;
            break;
        }
        tables.events.remove(sequence)?;
        tables.log.bytes = tables.log.bytes.saturating_sub(size);
        collected.events += 1;
        collected.bytes += size;
    }
    Ok(collected)
}

/// The oldest event: its number, size and time.
fn first(tables: &Tables<'_>) -> Result<Option<(u64, u64, SystemTime)>, StorageFault> {
    let Some((sequence, record)) = tables.events.first()? else { return Ok(None) };
    let (sequence, record) = (sequence.value(), record.value());
    let time = format::event_time(sequence, record)?;
    Ok(Some((sequence, record.len() as u64, time)))
}
