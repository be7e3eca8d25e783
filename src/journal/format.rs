//! How the journal lies in its file: format version 1.
//!
//! Owns tables, layouts and checksums; the module's documentation describes them for readers of
//! other versions. Must not open files or decide anything: bytes in, words out. Bytes never panic
//! here, whatever they are (C11).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redb::{ReadTransaction, ReadableTable, TableDefinition};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::batch::{Cursor, StoredMirror};
use super::batch::{StoredRefusal, Tally};
use super::error::StorageFault;
use super::event::{NewEvent, Operation, StoredEvent};
use crate::event::RawKeyValue;

/// The format that this version reads and writes.
pub(super) const VERSION: u32 = 1;
const MAGIC: &[u8] = b"etcd-keyspace journal\n";

pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
pub(super) const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");
pub(super) const CHECKPOINTS: TableDefinition<&str, &[u8]> = TableDefinition::new("checkpoints");
pub(super) const MIRRORS: TableDefinition<&str, &[u8]> = TableDefinition::new("mirrors");

pub(super) const META_FORMAT: &str = "format";
pub(super) const META_LOG: &str = "log";

/// The longest name of a type, watcher or mirror, in bytes.
pub(super) const NAME_MAX: usize = 255;
/// The largest object and the longest key, in bytes. etcd's own limits are far lower.
pub(super) const PART_MAX: usize = 256 << 20;

/// The table with the state of a mirror.
pub(super) fn state_table(mirror: &str) -> String {
    format!("state:{mirror}")
}

/// The table with the refused keys of a mirror.
pub(super) fn refused_table(mirror: &str) -> String {
    format!("refused:{mirror}")
}

// ---- Sealed records: a checksum over key and body, then the body ---------------------------------

/// Begins a record; its seal is filled in by [`seal`].
fn unsealed(capacity: usize) -> Vec<u8> {
    let mut record = Vec::with_capacity(8 + capacity);
    record.extend_from_slice(&[0; 8]);
    record
}

/// Seals a record that lies under a key of which `seed` is made; gives the seal.
fn seal(seed: u64, record: &mut [u8]) -> u64 {
    let (head, body) = record.split_at_mut(8);
    let sum = xxh3_64_with_seed(body, seed);
    head.copy_from_slice(&sum.to_le_bytes());
    sum
}

/// The body of a sealed record, and its seal.
fn unseal(seed: u64, record: &[u8]) -> Option<(&[u8], u64)> {
    let (head, body) = record.split_first_chunk::<8>()?;
    let sum = u64::from_le_bytes(*head);
    (sum == xxh3_64_with_seed(body, seed)).then_some((body, sum))
}

/// The seal of a state record that is about to be replaced; a record too short has none.
pub(super) fn seal_of(record: &[u8]) -> u64 {
    record.first_chunk::<8>().map_or(0, |head| u64::from_le_bytes(*head))
}

/// Takes parts off the front of a body.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.bytes(1)?[0])
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }

    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }

    /// A part with its length in front.
    fn part(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        self.bytes(len)
    }
}

/// Lengths are checked against [`PART_MAX`] before anything is stored.
fn push_part(record: &mut Vec<u8>, part: &[u8]) {
    record.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
    record.extend_from_slice(part);
}

/// Nanoseconds since 1970; what lies outside of the years 1677 to 2262 becomes the nearest of them.
fn nanos(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

fn time(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    let time =
        if nanos < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

/// A time as it comes out of the format again.
pub(super) fn rounded(at: SystemTime) -> SystemTime {
    time(nanos(at))
}

// ---- Meta ----------------------------------------------------------------------------------------

/// The record that names the format.
pub(super) fn write_format() -> Vec<u8> {
    [MAGIC, &VERSION.to_le_bytes()].concat()
}

/// The format's number; `None` for what is no journal. Never changes, so that every version can say
/// which format a file has.
pub(super) fn read_format(record: &[u8]) -> Option<u32> {
    let version = record.strip_prefix(MAGIC)?;
    Some(u32::from_le_bytes(*version.first_chunk::<4>()?))
}

/// Counters of the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Log {
    /// The sequence number of the next event.
    pub(super) next: u64,
    /// Bytes of all event records.
    pub(super) bytes: u64,
}

impl Log {
    pub(super) const EMPTY: Log = Log { next: 1, bytes: 0 };
}

fn name_seed(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

pub(super) fn write_log(log: Log) -> Vec<u8> {
    let mut record = unsealed(16);
    record.extend_from_slice(&log.next.to_le_bytes());
    record.extend_from_slice(&log.bytes.to_le_bytes());
    seal(name_seed(META_LOG), &mut record);
    record
}

pub(super) fn read_log(record: &[u8]) -> Result<Log, StorageFault> {
    let read = || {
        let mut parts = Parts(unseal(name_seed(META_LOG), record)?.0);
        Some(Log { next: parts.u64()?, bytes: parts.u64()? })
    };
    read().filter(|log| log.next > 0).ok_or_else(|| StorageFault::damaged("the counters of events"))
}

// ---- Events --------------------------------------------------------------------------------------

const SYNTHESIZED: u8 = 1;
const WITH_KEY: u8 = 2;
const WITH_REVISION: u8 = 4;

pub(super) fn write_event(sequence: u64, event: &NewEvent, now: SystemTime) -> Vec<u8> {
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
pub(super) fn read_event(
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
pub(super) fn event_time(sequence: u64, record: &[u8]) -> Result<SystemTime, StorageFault> {
    let read = || {
        let mut parts = Parts(unseal(sequence, record)?.0);
        parts.bytes(2)?;
        parts.i64().map(time)
    };
    read().ok_or_else(|| StorageFault::damaged(format!("event {sequence}")))
}

// ---- Checkpoints ---------------------------------------------------------------------------------

/// A watcher's checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The last event that was handled; zero for none.
    pub sequence: u64,
    /// When it was set.
    pub time: SystemTime,
}

pub(super) fn write_checkpoint(id: &str, checkpoint: Checkpoint) -> Vec<u8> {
    let mut record = unsealed(16);
    record.extend_from_slice(&checkpoint.sequence.to_le_bytes());
    record.extend_from_slice(&nanos(checkpoint.time).to_le_bytes());
    seal(name_seed(id), &mut record);
    record
}

pub(super) fn read_checkpoint(id: &str, record: &[u8]) -> Result<Checkpoint, StorageFault> {
    let read = || {
        let mut parts = Parts(unseal(name_seed(id), record)?.0);
        Some(Checkpoint { sequence: parts.u64()?, time: time(parts.i64()?) })
    };
    read().ok_or_else(|| StorageFault::damaged(format!("the checkpoint of {id:?}")))
}

// ---- Mirrors -------------------------------------------------------------------------------------

/// A mirror's cursor with what its state must add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MirrorRecord {
    pub(super) stored: StoredMirror,
    /// The sum of the seals of all state records.
    pub(super) digest: u64,
    /// Number and sum of the refused keys.
    pub(super) refused: Tally,
}

pub(super) fn write_mirror(mirror: &str, record: MirrorRecord) -> Vec<u8> {
    let StoredMirror { cursor, stored_at, keys } = record.stored;
    let mut bytes = unsealed(64);
    bytes.extend_from_slice(&cursor.cluster_id.to_le_bytes());
    bytes.extend_from_slice(&cursor.epoch.to_le_bytes());
    bytes.extend_from_slice(&cursor.revision.to_le_bytes());
    bytes.extend_from_slice(&nanos(stored_at).to_le_bytes());
    bytes.extend_from_slice(&keys.to_le_bytes());
    bytes.extend_from_slice(&record.digest.to_le_bytes());
    if record.refused != Tally::default() {
        bytes.extend_from_slice(&record.refused.count.to_le_bytes());
        bytes.extend_from_slice(&record.refused.digest.to_le_bytes());
    }
    seal(name_seed(mirror), &mut bytes);
    bytes
}

pub(super) fn read_mirror(mirror: &str, bytes: &[u8]) -> Result<MirrorRecord, StorageFault> {
    let read = || {
        let mut parts = Parts(unseal(name_seed(mirror), bytes)?.0);
        let cursor =
            Cursor { cluster_id: parts.u64()?, epoch: parts.u64()?, revision: parts.i64()? };
        let (stored_at, keys) = (time(parts.i64()?), parts.u64()?);
        let stored = StoredMirror { cursor, stored_at, keys };
        let digest = parts.u64()?;
        let refused = match parts.0.is_empty() {
            true => Tally::default(),
            false => Tally { count: parts.u64()?, digest: parts.u64()? },
        };
        Some(MirrorRecord { stored, digest, refused })
    };
    read().ok_or_else(|| StorageFault::damaged(format!("the cursor of mirror {mirror:?}")))
}

/// The record of a mirror, if there is one.
pub(super) fn mirror_in(
    transaction: &ReadTransaction,
    mirror: &str,
) -> Result<Option<MirrorRecord>, StorageFault> {
    let mirrors = transaction.open_table(MIRRORS)?;
    let stored = ReadableTable::get(&mirrors, mirror)?;
    stored.map(|stored| read_mirror(mirror, stored.value())).transpose()
}

/// All mirrors that have something stored.
pub(super) fn mirrors_in(
    transaction: &ReadTransaction,
) -> Result<Vec<(String, StoredMirror)>, StorageFault> {
    let mut all = Vec::new();
    for item in transaction.open_table(MIRRORS)?.iter()? {
        let (mirror, record) = item?;
        all.push((mirror.value().to_owned(), read_mirror(mirror.value(), record.value())?.stored));
    }
    Ok(all)
}

/// The record of one key, and its seal.
pub(super) fn write_state(kv: &RawKeyValue) -> (Vec<u8>, u64) {
    let mut record = unsealed(32 + kv.value.len());
    push_record(&mut record, kv);
    let sum = seal(xxh3_64(&kv.key), &mut record);
    (record, sum)
}

pub(super) fn read_state(key: &[u8], record: &[u8]) -> Result<(RawKeyValue, u64), StorageFault> {
    let read = || {
        let (body, sum) = unseal(xxh3_64(key), record)?;
        Some((record_of(key, body)?, sum))
    };
    read().ok_or_else(|| damaged_key("record", key))
}

fn push_record(record: &mut Vec<u8>, kv: &RawKeyValue) {
    for number in [kv.create_revision, kv.mod_revision, kv.version, kv.lease] {
        record.extend_from_slice(&number.to_le_bytes());
    }
    record.extend_from_slice(&kv.value);
}

fn record_of(key: &[u8], body: &[u8]) -> Option<RawKeyValue> {
    let mut parts = Parts(body);
    Some(RawKeyValue {
        create_revision: parts.i64()?,
        mod_revision: parts.i64()?,
        version: parts.i64()?,
        lease: parts.i64()?,
        value: parts.0.to_vec(),
        key: key.to_vec(),
    })
}

fn damaged_key(what: &str, key: &[u8]) -> StorageFault {
    StorageFault::damaged(format!("the {what} of key {}", key.escape_ascii()))
}

/// What a refused key is sealed with: another seed than its state, so that neither passes for the other.
fn refused_seed(key: &[u8]) -> u64 {
    !xxh3_64(key)
}

/// The record of a refused key, and its seal.
pub(super) fn write_refusal(refusal: &StoredRefusal) -> (Vec<u8>, u64) {
    let value = refusal.last_good.as_ref().map_or(0, |kv| kv.value.len());
    let mut record = unsealed(40 + value);
    record.extend_from_slice(&nanos(refusal.since).to_le_bytes());
    if let Some(kv) = &refusal.last_good {
        push_record(&mut record, kv);
    }
    let sum = seal(refused_seed(&refusal.key), &mut record);
    (record, sum)
}

pub(super) fn read_refusal(
    key: &[u8],
    record: &[u8],
) -> Result<(StoredRefusal, u64), StorageFault> {
    let read = || {
        let (body, sum) = unseal(refused_seed(key), record)?;
        let mut parts = Parts(body);
        let since = time(parts.i64()?);
        let last_good = match parts.0.is_empty() {
            true => None,
            false => Some(record_of(key, parts.0)?),
        };
        Some((StoredRefusal { key: key.to_vec(), since, last_good }, sum))
    };
    read().ok_or_else(|| damaged_key("last good record", key))
}

#[cfg(test)]
mod tests {
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
    fn a_record_is_of_its_key_and_no_other() {
        let kv = RawKeyValue { key: b"/a".to_vec(), value: b"1".to_vec(), ..Default::default() };
        let (record, sum) = write_state(&kv);
        assert_eq!(read_state(b"/a", &record).unwrap(), (kv, sum));
        assert_eq!(seal_of(&record), sum);
        read_state(b"/b", &record).unwrap_err();
        let checkpoint = Checkpoint { sequence: 3, time: time(17) };
        let record = write_checkpoint("a", checkpoint);
        assert_eq!(read_checkpoint("a", &record).unwrap(), checkpoint);
        read_checkpoint("b", &record).unwrap_err();
    }
}
