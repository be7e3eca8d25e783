//! The records of a mirror's state as they come off the file, and the check that they are the ones
//! that were stored.
//!
//! Owns both, apart, so that one page can be read while the one before it is checked. Must not give a
//! record out unchecked, nor an end before the whole is checked (J3).

use std::ops::Bound;

use redb::{ReadTransaction, ReadableTableMetadata, TableDefinition};

use super::mirror_records::{self, MirrorRecord};
use crate::journal::error::StorageFault;
use crate::model::RawKeyValue;

/// A page ends when it has this many bytes.
const PAGE_BYTES: usize = 8 << 20;

/// Records in one piece of memory, not checked yet.
#[derive(Debug, Default)]
pub(in crate::journal) struct Unchecked {
    bytes: Vec<u8>,
    /// Where each key ends, and the record behind it.
    ends: Vec<(usize, usize)>,
}

impl Unchecked {
    /// No records: the end.
    pub(in crate::journal) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn push(&mut self, key: &[u8], record: &[u8]) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(record);
        self.ends.push((key_end, self.bytes.len()));
    }

    fn records(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let begins = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        begins.zip(&self.ends).map(|(begin, (key_end, end))| {
            (&self.bytes[begin..*key_end], &self.bytes[*key_end..*end])
        })
    }
}

/// Where the reading of a state stands, all of one transaction.
pub(in crate::journal) struct Walk {
    transaction: ReadTransaction,
    mirror: String,
    /// How many there must be.
    keys: u64,
    read: u64,
    /// The key read last.
    after: Option<Vec<u8>>,
    /// The bytes of the page before, which the next one will need.
    bytes: usize,
}

impl Walk {
    pub(in crate::journal) fn new(
        transaction: ReadTransaction,
        mirror: &str,
        record: &MirrorRecord,
    ) -> Self {
        let keys = record.stored.keys;
        Walk { transaction, mirror: mirror.to_owned(), keys, read: 0, after: None, bytes: 0 }
    }

    pub(in crate::journal) fn transaction(&self) -> &ReadTransaction {
        &self.transaction
    }

    /// The next records, at most `limit` of them and at least one; none at the end. A failure leaves it
    /// where it was.
    pub(in crate::journal) fn page(&mut self, limit: usize) -> Result<Unchecked, StorageFault> {
        let name = mirror_records::state_table(&self.mirror);
        let definition: TableDefinition<&[u8], &[u8]> = TableDefinition::new(&name);
        let table = match self.transaction.open_table(definition) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) if self.keys == 0 => {
                return Ok(Unchecked::default());
            }
            Err(error) => return Err(error.into()),
        };
        let stored = table.len()?;
        if stored != self.keys {
            let what = format!("{stored} keys of state, {} expected", self.keys);
            return Err(StorageFault::damaged(what));
        }
        let left = usize::try_from(self.keys.saturating_sub(self.read)).unwrap_or(usize::MAX);
        let mut page = Unchecked {
            bytes: Vec::with_capacity(self.bytes),
            ends: Vec::with_capacity(limit.min(left)),
        };
        let from = self.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        for item in table.range::<&[u8]>((from, Bound::Unbounded))?.take(limit.max(1)) {
            let (key, record) = item?;
            page.push(key.value(), record.value());
            if page.bytes.len() >= PAGE_BYTES {
                break;
            }
        }
        self.bytes = page.bytes.len();
        self.read += page.ends.len() as u64;
        if let Some((key, _)) = page.records().last() {
            self.after = Some(key.to_vec());
        }
        Ok(page)
    }
}

/// What the records must add up to, and what they did so far.
pub(in crate::journal) struct Check {
    mirror: String,
    keys: u64,
    digest: u64,
    read: u64,
    sum: u64,
}

impl Check {
    pub(in crate::journal) fn new(mirror: &str, record: &MirrorRecord) -> Self {
        let (keys, digest) = (record.stored.keys, record.digest);
        Check { mirror: mirror.to_owned(), keys, digest, read: 0, sum: 0 }
    }

    /// The records of the next page; none only if the former ones were all there were.
    pub(in crate::journal) fn page(
        &mut self,
        page: &Unchecked,
    ) -> Result<Vec<RawKeyValue>, StorageFault> {
        if page.is_empty() && (self.read != self.keys || self.sum != self.digest) {
            let what = format!("the state of {:?} is not what was stored", self.mirror);
            return Err(StorageFault::damaged(what));
        }
        let mut kvs = Vec::with_capacity(page.ends.len());
        for (key, record) in page.records() {
            let (kv, seal) = mirror_records::read_state(key, record)?;
            self.sum = self.sum.wrapping_add(seal);
            kvs.push(kv);
        }
        self.read += kvs.len() as u64;
        Ok(kvs)
    }
}
