//! How the journal lies in its file: format version 1; what is of a mirror is in `mirror_format`.
//!
//! Owns tables and layouts; the module's documentation describes them for readers of
//! other versions. Must not open files or decide anything: bytes in, words out. Bytes never panic
//! here, whatever they are (C11).

use std::time::SystemTime;

use redb::TableDefinition;

use super::seal::{Parts, name_seed, nanos, push_part, seal, time, unseal, unsealed};
use crate::journal::error::StorageFault;
use crate::journal::event::{NewEvent, Operation, StoredEvent};

/// The format that this version reads and writes.
pub(in crate::journal) const VERSION: u32 = 1;
const MAGIC: &[u8] = b"etcd-keyspace journal\n";

pub(in crate::journal) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
pub(in crate::journal) const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");
pub(in crate::journal) const CHECKPOINTS: TableDefinition<&str, &[u8]> =
    TableDefinition::new("checkpoints");

pub(in crate::journal) const META_FORMAT: &str = "format";
pub(in crate::journal) const META_LOG: &str = "log";

/// The longest name of a type, watcher or mirror, in bytes.
pub(in crate::journal) const NAME_MAX: usize = 255;
/// The largest object and the longest key, in bytes. etcd's own limits are far lower.
pub(in crate::journal) const PART_MAX: usize = 256 << 20;

/// The record that names the format.
pub(in crate::journal) fn write_format() -> Vec<u8> {
    [MAGIC, &VERSION.to_le_bytes()].concat()
}

/// The format's number; `None` for what is no journal. Never changes, so that every version can say
/// which format a file has.
pub(in crate::journal) fn read_format(record: &[u8]) -> Option<u32> {
    let version = record.strip_prefix(MAGIC)?;
    Some(u32::from_le_bytes(*version.first_chunk::<4>()?))
}

/// Counters of the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) struct Log {
    /// The sequence number of the next event.
    pub(in crate::journal) next: u64,
    /// Bytes of all event records.
    pub(in crate::journal) bytes: u64,
}

impl Log {
    pub(in crate::journal) const EMPTY: Log = Log { next: 1, bytes: 0 };
}

pub(in crate::journal) fn write_log(log: Log) -> Vec<u8> {
    let mut record = unsealed(16);
    record.extend_from_slice(&log.next.to_le_bytes());
    record.extend_from_slice(&log.bytes.to_le_bytes());
    seal(name_seed(META_LOG), &mut record);
    record
}

pub(in crate::journal) fn read_log(record: &[u8]) -> Result<Log, StorageFault> {
    let read = || {
        let mut parts = Parts(unseal(name_seed(META_LOG), record)?.0);
        Some(Log { next: parts.u64()?, bytes: parts.u64()? })
    };
    read().filter(|log| log.next > 0).ok_or_else(|| StorageFault::damaged("the counters of events"))
}

const SYNTHESIZED: u8 = 1;
const WITH_KEY: u8 = 2;
const WITH_REVISION: u8 = 4;

pub(in crate::journal) fn write_event(sequence: u64, event: &NewEvent, now: SystemTime) -> Vec<u8> {
    let mut record = unsealed(event.bytes() + 40);
    record.push(match event.operation {
        Operation::Create => 1,
        Operation::Update => 2,
        Operation::Delete => 3,
    });
    let flag = |set, flag| if set { flag } else { 0 };
    record.push(
        flag(event.synthesized, SYNTHESIZED)
            | flag(event.key.is_some(), WITH_KEY)
            | flag(event.revision.is_some(), WITH_REVISION),
    );
    record.extend_from_slice(&nanos(event.time.unwrap_or(now)).to_le_bytes());
    if let Some(revision) = event.revision {
        record.extend_from_slice(&revision.to_le_bytes());
    }
    push_part(&mut record, event.object_type.as_bytes());
    if let Some(key) = &event.key {
        push_part(&mut record, key);
    }
    record.extend_from_slice(&event.object);
    seal(sequence, &mut record);
    record
}

/// Reads an event if `wanted` by its type and operation; `None` when it is not.
pub(in crate::journal) fn read_event(
    sequence: u64,
    record: &[u8],
    wanted: impl FnOnce(&str, Operation) -> bool,
) -> Result<Option<StoredEvent>, StorageFault> {
    let damaged = || StorageFault::damaged(format!("event {sequence}"));
    let (body, _) = unseal(sequence, record).ok_or_else(damaged)?;
    read_event_body(sequence, body, wanted).ok_or_else(damaged)
}

fn read_event_body(
    sequence: u64,
    body: &[u8],
    wanted: impl FnOnce(&str, Operation) -> bool,
) -> Option<Option<StoredEvent>> {
    let mut parts = Parts(body);
    let operation = match parts.byte()? {
        1 => Operation::Create,
        2 => Operation::Update,
        3 => Operation::Delete,
        _ => return None,
    };
    let flags = parts.byte()?;
    let nanos = parts.i64()?;
    let revision = if flags & WITH_REVISION != 0 { Some(parts.i64()?) } else { None };
    let object_type = std::str::from_utf8(parts.part()?).ok()?;
    if !wanted(object_type, operation) {
        return Some(None);
    }
    let key = if flags & WITH_KEY != 0 { Some(parts.part()?.to_vec()) } else { None };
    Some(Some(StoredEvent {
        sequence,
        operation,
        object_type: object_type.to_owned(),
        object: parts.0.to_vec(),
        time: time(nanos),
        key,
        revision,
        synthesized: flags & SYNTHESIZED != 0,
    }))
}

/// When an event happened, without reading the rest.
pub(in crate::journal) fn event_time(
    sequence: u64,
    record: &[u8],
) -> Result<SystemTime, StorageFault> {
    let read = || {
        let mut parts = Parts(unseal(sequence, record)?.0);
        parts.bytes(2)?;
        parts.i64().map(time)
    };
    read().ok_or_else(|| StorageFault::damaged(format!("event {sequence}")))
}

/// A watcher's checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The last event that was handled; zero for none.
    pub sequence: u64,
    /// When it was set.
    pub time: SystemTime,
}

pub(in crate::journal) fn write_checkpoint(id: &str, checkpoint: Checkpoint) -> Vec<u8> {
    let mut record = unsealed(16);
    record.extend_from_slice(&checkpoint.sequence.to_le_bytes());
    record.extend_from_slice(&nanos(checkpoint.time).to_le_bytes());
    seal(name_seed(id), &mut record);
    record
}

pub(in crate::journal) fn read_checkpoint(
    id: &str,
    record: &[u8],
) -> Result<Checkpoint, StorageFault> {
    let read = || {
        let mut parts = Parts(unseal(name_seed(id), record)?.0);
        Some(Checkpoint { sequence: parts.u64()?, time: time(parts.i64()?) })
    };
    read().ok_or_else(|| StorageFault::damaged(format!("the checkpoint of {id:?}")))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn event() -> NewEvent {
        NewEvent::new(Operation::Update, "node", "object")
            .mirrored("/a", 7)
            .synthesized()
            .at(UNIX_EPOCH + Duration::new(5, 6))
    }

    #[test]
    fn bw19_a_round_trip_keeps_all_fields_of_an_event() {
        let plain = NewEvent::new(Operation::Create, "t", Vec::new());
        let early =
            NewEvent::new(Operation::Delete, "t", "x").at(UNIX_EPOCH - Duration::from_nanos(9));
        for event in [event(), plain, early] {
            let now = SystemTime::now();
            let record = write_event(8, &event, now);
            let read = read_event(8, &record, |_, _| true).unwrap().unwrap();
            // The clock may count finer than the format does.
            let expected = event.stored(8, time(nanos(now)));
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn c11_every_altered_or_cut_record_is_damage_and_never_a_panic() {
        let record = write_event(8, &event(), UNIX_EPOCH);
        for len in 0..record.len() {
            read_event(8, &record[..len], |_, _| true).unwrap_err();
        }
        for at in 0..record.len() {
            let mut altered = record.clone();
            altered[at] ^= 0x40;
            read_event(8, &altered, |_, _| true).unwrap_err();
        }
        read_event(9, &record, |_, _| true).unwrap_err();
        let body = &record[8..];
        for len in 0..body.len() - event().object.len() {
            assert!(read_event_body(8, &body[..len], |_, _| true).is_none(), "{len}");
        }
    }

    #[test]
    fn a_checkpoint_is_of_its_watcher_and_no_other() {
        let checkpoint = Checkpoint { sequence: 3, time: time(17) };
        let record = write_checkpoint("a", checkpoint);
        assert_eq!(read_checkpoint("a", &record).unwrap(), checkpoint);
        read_checkpoint("b", &record).unwrap_err();
    }
}
