//! What a mirror keeps of keys whose newest record it could not decode: since when, and the older record
//! that it showed instead.
//!
//! Owns the words of it and their table, which changes in the transaction of the state (J4). Must not
//! decode: whoever starts from it does, and may come to another result.

use std::collections::HashMap;

use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::mirror_records;
use super::seal;
use crate::journal::error::StorageFault;
use crate::journal::mirror_batch::{MirrorBatch, Refusal, StateChange, StoredRefusal, Tally};
use crate::model::{RawKeyValue, Revision};

/// Records by key.
type State<'t> = Table<'t, &'static [u8], &'static [u8]>;

/// The refused keys of one mirror, while a batch of it is stored.
pub(in crate::journal) struct Refusals<'t> {
    table: State<'t>,
    tally: Tally,
    /// What is to be stored once the state is changed.
    next: Vec<StoredRefusal>,
}

impl<'t> Refusals<'t> {
    /// Finds the records that are to be kept, before the state is changed; `None` when no key is
    /// refused, before and after.
    pub(in crate::journal) fn begin(
        transaction: &'t WriteTransaction,
        mut tally: Tally,
        batch: &MirrorBatch,
        state: &State<'_>,
    ) -> Result<Option<Self>, StorageFault> {
        if tally.count == 0 && batch.refused.is_empty() {
            return Ok(None);
        }
        let name = mirror_records::refused_table(&batch.mirror);
        let definition: TableDefinition<&[u8], &[u8]> = TableDefinition::new(&name);
        let mut table = transaction.open_table(definition)?;
        let next = refusals_of(batch, state, &table)?;
        if batch.refused_is_all {
            drop(table);
            transaction.delete_table(definition)?;
            table = transaction.open_table(definition)?;
            tally = Tally::default();
        }
        Ok(Some(Refusals { table, tally, next }))
    }

    /// Forgets that keys are refused whose records changed, stores what was found, and gives what all
    /// add up to.
    pub(in crate::journal) fn finish(
        mut self,
        changes: &[StateChange],
    ) -> Result<Tally, StorageFault> {
        for change in changes {
            if self.tally.count == 0 {
                break;
            }
            if let Some(old) = self.table.remove(change.key())? {
                self.tally.subtract(seal::seal_of(old.value())).ok_or_else(too_many)?;
            }
        }
        for refusal in &self.next {
            let (record, seal) = mirror_records::write_refusal(refusal);
            if let Some(old) = self.table.insert(refusal.key.as_slice(), record.as_slice())? {
                self.tally.subtract(seal::seal_of(old.value())).ok_or_else(too_many)?;
            }
            self.tally.add(seal);
        }
        Ok(self.tally)
    }
}

fn too_many() -> StorageFault {
    StorageFault::damaged("more refused keys than were counted")
}

/// The refused keys that a batch names, with their last good records.
fn refusals_of(
    batch: &MirrorBatch,
    state: &State<'_>,
    refused: &State<'_>,
) -> Result<Vec<StoredRefusal>, StorageFault> {
    let mut puts = HashMap::new();
    if batch.refused.iter().any(|refusal| refusal.shows.is_some()) {
        puts.extend(batch.changes.iter().filter_map(|change| match change {
            StateChange::Put(kv) => Some(((kv.key.as_slice(), kv.mod_revision), kv)),
            StateChange::Delete(_) => None,
        }));
    }
    let all = batch.refused.iter().map(|Refusal { key, since, shows }| {
        let last_good = match *shows {
            None => None,
            Some(shows) => match puts.get(&(key.as_slice(), shows)) {
                Some(kv) => Some((*kv).clone()),
                None => stored(key, shows, state, refused)?,
            },
        };
        Ok(StoredRefusal { key: key.clone(), since: *since, last_good })
    });
    all.collect()
}

/// The stored record of a key that has this revision: the newest one, or the one shown in its place.
fn stored(
    key: &[u8],
    revision: Revision,
    state: &State<'_>,
    refused: &State<'_>,
) -> Result<Option<RawKeyValue>, StorageFault> {
    let is_it = |kv: &RawKeyValue| kv.mod_revision == revision;
    if let Some(record) = refused.get(key)?
        && let Some((refusal, _)) = intact(mirror_records::read_refusal(key, record.value()))
        && let Some(kv) = refusal.last_good.filter(is_it)
    {
        return Ok(Some(kv));
    }
    let newest = state.get(key)?;
    let newest = newest.and_then(|record| intact(mirror_records::read_state(key, record.value())));
    Ok(newest.map(|(kv, _)| kv).filter(is_it))
}

/// A damaged record is none: what is stored instead does not go by it.
fn intact<R>(record: Result<R, StorageFault>) -> Option<R> {
    record.inspect_err(|error| tracing::warn!(%error, "a last good record is lost")).ok()
}

/// Reads them all.
pub(in crate::journal) fn read(
    transaction: &ReadTransaction,
    mirror: &str,
    expected: Tally,
) -> Result<Vec<StoredRefusal>, StorageFault> {
    if expected.count == 0 {
        return Ok(Vec::new());
    }
    let name = mirror_records::refused_table(mirror);
    let definition: TableDefinition<&[u8], &[u8]> = TableDefinition::new(&name);
    let (mut all, mut tally) = (Vec::new(), Tally::default());
    for item in transaction.open_table(definition)?.iter()? {
        let (key, record) = item?;
        let (refusal, seal) = mirror_records::read_refusal(key.value(), record.value())?;
        tally.add(seal);
        all.push(refusal);
    }
    if tally != expected {
        let what = format!("the refused keys of {mirror:?} are not what was stored");
        return Err(StorageFault::damaged(what));
    }
    Ok(all)
}

/// Forgets all of a mirror.
pub(in crate::journal) fn forget_all(
    transaction: &WriteTransaction,
    mirror: &str,
) -> Result<(), StorageFault> {
    let name = mirror_records::refused_table(mirror);
    let definition: TableDefinition<&[u8], &[u8]> = TableDefinition::new(&name);
    transaction.delete_table(definition)?;
    Ok(())
}
