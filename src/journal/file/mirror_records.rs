//! How what is stored of a mirror lies in the file: its place, its records, and its refused keys.
//!
//! Owns their tables and layouts, a part of format version 1. Must not open files or decide anything: bytes
//! in, words out.

use redb::{ReadTransaction, ReadableTable, TableDefinition};
use xxhash_rust::xxh3::xxh3_64;

use super::seal::{Parts, name_seed, nanos, seal, time, unseal, unsealed};
use crate::journal::error::StorageFault;
use crate::journal::mirror_batch::{Cursor, StoredMirror, StoredRefusal, Tally};
use crate::model::RawKeyValue;

pub(in crate::journal) const MIRRORS: TableDefinition<&str, &[u8]> =
    TableDefinition::new("mirrors");

/// The table with the state of a mirror.
pub(in crate::journal) fn state_table(mirror: &str) -> String {
    format!("state:{mirror}")
}

/// The table with the refused keys of a mirror.
pub(in crate::journal) fn refused_table(mirror: &str) -> String {
    format!("refused:{mirror}")
}

/// A mirror's cursor with what its state must add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) struct MirrorRecord {
    pub(in crate::journal) stored: StoredMirror,
    /// The sum of the seals of all state records.
    pub(in crate::journal) digest: u64,
    /// Number and sum of the refused keys.
    pub(in crate::journal) refused: Tally,
}

pub(in crate::journal) fn write_mirror(mirror: &str, record: MirrorRecord) -> Vec<u8> {
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

pub(in crate::journal) fn read_mirror(
    mirror: &str,
    bytes: &[u8],
) -> Result<MirrorRecord, StorageFault> {
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
pub(in crate::journal) fn mirror_in(
    transaction: &ReadTransaction,
    mirror: &str,
) -> Result<Option<MirrorRecord>, StorageFault> {
    let mirrors = transaction.open_table(MIRRORS)?;
    let stored = ReadableTable::get(&mirrors, mirror)?;
    stored.map(|stored| read_mirror(mirror, stored.value())).transpose()
}

/// All mirrors that have something stored.
pub(in crate::journal) fn mirrors_in(
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
pub(in crate::journal) fn write_state(kv: &RawKeyValue) -> (Vec<u8>, u64) {
    let mut record = unsealed(32 + kv.value.len());
    push_record(&mut record, kv);
    let sum = seal(xxh3_64(&kv.key), &mut record);
    (record, sum)
}

pub(in crate::journal) fn read_state(
    key: &[u8],
    record: &[u8],
) -> Result<(RawKeyValue, u64), StorageFault> {
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
pub(in crate::journal) fn write_refusal(refusal: &StoredRefusal) -> (Vec<u8>, u64) {
    let value = refusal.last_good.as_ref().map_or(0, |kv| kv.value.len());
    let mut record = unsealed(40 + value);
    record.extend_from_slice(&nanos(refusal.since).to_le_bytes());
    if let Some(kv) = &refusal.last_good {
        push_record(&mut record, kv);
    }
    let sum = seal(refused_seed(&refusal.key), &mut record);
    (record, sum)
}

pub(in crate::journal) fn read_refusal(
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
    use super::super::seal::seal_of;
    use super::*;

    #[test]
    fn a_record_is_of_its_key_and_no_other() {
        let kv = RawKeyValue { key: b"/a".to_vec(), value: b"1".to_vec(), ..Default::default() };
        let (record, sum) = write_state(&kv);
        assert_eq!(read_state(b"/a", &record).unwrap(), (kv, sum));
        assert_eq!(seal_of(&record), sum);
        read_state(b"/b", &record).unwrap_err();
    }
}
