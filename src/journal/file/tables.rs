//! The journal in the storage engine: opening it, and what one transaction does.
//!
//! Owns every write to the tables. Blocks on the disk, so only the writer's thread calls it. Must not
//! queue, retry or wake anybody.

use std::ops::{Bound, Range};
use std::sync::Arc;
use std::time::SystemTime;

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use super::cache::Cache;
use super::format::{self, Checkpoint, Log};
use super::mirror_records::{self, MirrorRecord};
use super::rejected::{self, Refusals};
use super::seal;
use crate::journal::error::{StorageFault, StoreError};
use crate::journal::event::NewEvent;
use crate::journal::mirror_batch::Tally;
use crate::journal::mirror_batch::{MirrorBatch, StateChange, StoredMirror};
use crate::journal::synthesize::Synthesizer;

/// The tables of one write transaction, and the counters as they will be after it.
pub(in crate::journal) struct Tables<'t> {
    transaction: &'t WriteTransaction,
    pub(in crate::journal) meta: Table<'t, &'static str, &'static [u8]>,
    pub(in crate::journal) events: Table<'t, u64, &'static [u8]>,
    checkpoints: Table<'t, &'static str, &'static [u8]>,
    mirrors: Table<'t, &'static str, &'static [u8]>,
    pub(in crate::journal) log: Log,
    /// The newest events of this transaction.
    fresh: Cache,
}

impl<'t> Tables<'t> {
    /// Begins with an empty cache for the events that come.
    pub(in crate::journal) fn open(
        transaction: &'t WriteTransaction,
        log: Log,
        fresh: Cache,
    ) -> Result<Self, StorageFault> {
        Ok(Tables {
            transaction,
            meta: transaction.open_table(format::META)?,
            events: transaction.open_table(format::EVENTS)?,
            checkpoints: transaction.open_table(format::CHECKPOINTS)?,
            mirrors: transaction.open_table(mirror_records::MIRRORS)?,
            log,
            fresh,
        })
    }

    /// Writes the counters; call it last.
    pub(in crate::journal) fn finish(mut self) -> Result<(Log, Cache), StorageFault> {
        self.meta.insert(format::META_LOG, format::write_log(self.log).as_slice())?;
        Ok((self.log, self.fresh))
    }

    /// Stores events that were [checked](check_event), and gives their numbers.
    pub(in crate::journal) fn store(
        &mut self,
        events: impl IntoIterator<Item = NewEvent>,
        now: SystemTime,
    ) -> Result<Range<u64>, StorageFault> {
        let first = self.log.next;
        // At the end of the table, so that the engine need not search for the place of each.
        let mut end = self.events.upper_bound_mut(Bound::<u64>::Unbounded)?;
        for event in events {
            let sequence = self.log.next;
            let record = format::write_event(sequence, &event, now);
            end.insert_before(sequence, record.as_slice())?;
            self.log.next += 1;
            self.log.bytes += record.len() as u64;
            let time = seal::rounded(event.time.unwrap_or(now));
            let mut stored = event.stored(sequence, time);
            stored.time = time;
            self.fresh.push(Arc::new(stored));
        }
        end.close()?;
        Ok(first..self.log.next)
    }

    /// Stores a batch of a mirror if it continues what is stored; behind its events those that tell its
    /// changes.
    pub(in crate::journal) fn append(
        &mut self,
        batch: MirrorBatch,
        telling: Option<Synthesizer>,
        now: SystemTime,
    ) -> Result<Result<Range<u64>, StoreError>, StorageFault> {
        let name = batch.mirror.as_str();
        let stored = self.mirrors.get(name)?;
        let stored =
            stored.map(|record| mirror_records::read_mirror(name, record.value())).transpose();
        let stored = match stored {
            Ok(stored) => {
                let cursor = stored.map(|record| record.stored.cursor);
                if cursor != batch.after {
                    let (mirror, expected) = (batch.mirror, batch.after);
                    return Ok(Err(StoreError::CursorMismatch {
                        mirror,
                        expected,
                        stored: cursor,
                    }));
                }
                stored
            }
            // A complete set replaces also what cannot be read.
            Err(_) if batch.replace => None,
            // Damage of one mirror is no reason to let the others down.
            Err(fault) => return Ok(Err(StoreError::Storage(fault))),
        };
        let stored = stored.filter(|_| !batch.replace);
        let (keys, digest) = stored.map_or((0, 0), |it| (it.stored.keys, it.digest));
        let refused = stored.map_or(Tally::default(), |it| it.refused);
        let table = mirror_records::state_table(name);
        let definition: TableDefinition<&[u8], &[u8]> = TableDefinition::new(&table);
        if batch.replace {
            self.transaction.delete_table(definition)?;
            rejected::forget_all(self.transaction, name)?;
        }
        let table = self.transaction.open_table(definition)?;
        let refusals = Refusals::begin(self.transaction, refused, &batch, &table)?;
        let mut state = State { table, keys, digest };
        state.change(&batch.changes)?;
        let State { keys, digest, .. } = state;
        let refused = refusals.map_or(Ok(refused), |refusals| refusals.finish(&batch.changes))?;
        let stored = StoredMirror { cursor: batch.cursor, stored_at: now, keys };
        let record = mirror_records::write_mirror(name, MirrorRecord { stored, digest, refused });
        self.mirrors.insert(name, record.as_slice())?;
        let told = telling.iter().flat_map(|telling| telling.events(&batch.changes));
        self.store(batch.events.into_iter().chain(told), now).map(Ok)
    }

    /// Forgets a mirror's cursor and state; its events stay.
    pub(in crate::journal) fn forget_mirror(&mut self, name: &str) -> Result<(), StorageFault> {
        self.mirrors.remove(name)?;
        let table = mirror_records::state_table(name);
        let definition: TableDefinition<&[u8], &[u8]> = TableDefinition::new(&table);
        self.transaction.delete_table(definition)?;
        rejected::forget_all(self.transaction, name)
    }

    /// Moves a checkpoint; back only if told. Gives the stored one.
    pub(in crate::journal) fn checkpoint(
        &mut self,
        id: &str,
        sequence: u64,
        back: bool,
        now: SystemTime,
    ) -> Result<u64, StorageFault> {
        let stored = match self.checkpoints.get(id)? {
            Some(record) => Some(format::read_checkpoint(id, record.value())?.sequence),
            None => None,
        };
        if let Some(stored) = stored.filter(|stored| *stored >= sequence && !back) {
            return Ok(stored);
        }
        let record = format::write_checkpoint(id, Checkpoint { sequence, time: now });
        self.checkpoints.insert(id, record.as_slice())?;
        Ok(sequence)
    }

    pub(in crate::journal) fn forget_checkpoint(&mut self, id: &str) -> Result<(), StorageFault> {
        self.checkpoints.remove(id)?;
        Ok(())
    }

    /// The first event that some checkpoint has not passed.
    pub(in crate::journal) fn unpassed(&self) -> Result<u64, StorageFault> {
        let mut lowest = u64::MAX;
        for item in self.checkpoints.iter()? {
            let (id, record) = item?;
            let checkpoint = format::read_checkpoint(id.value(), record.value())?;
            lowest = lowest.min(checkpoint.sequence.saturating_add(1));
        }
        Ok(lowest)
    }
}

/// The state of a mirror while it is changed, and what it adds up to.
struct State<'t> {
    table: Table<'t, &'static [u8], &'static [u8]>,
    keys: u64,
    digest: u64,
}

impl State<'_> {
    /// Makes the changes, in the order of their keys: that is how the pages lie. Of several changes of
    /// one key only the last can be seen.
    fn change(&mut self, changes: &[StateChange]) -> Result<(), StorageFault> {
        let mut changes: Vec<&StateChange> = changes.iter().collect();
        changes.sort_by(|one, other| one.key().cmp(other.key()));
        changes.dedup_by(|later, kept| {
            let same = later.key() == kept.key();
            if same {
                *kept = *later;
            }
            same
        });
        let last = self.table.last()?.map(|(key, _)| key.value().to_vec());
        let within = last.map_or(0, |last| changes.partition_point(|it| it.key() <= &last[..]));
        let (within, behind) = changes.split_at(within);
        self.change_within(within)?;
        self.put_behind(behind)
    }

    fn change_within(&mut self, changes: &[&StateChange]) -> Result<(), StorageFault> {
        for change in changes {
            let old = match change {
                StateChange::Put(kv) => {
                    let (record, seal) = mirror_records::write_state(kv);
                    self.keys += 1;
                    self.digest = self.digest.wrapping_add(seal);
                    self.table.insert(kv.key.as_slice(), record.as_slice())?
                }
                StateChange::Delete(key) => self.table.remove(key.as_slice())?,
            };
            if let Some(old) = old {
                self.digest = self.digest.wrapping_sub(seal::seal_of(old.value()));
                let less = self.keys.checked_sub(1);
                self.keys = less.ok_or_else(|| StorageFault::damaged("keys of state"))?;
            }
        }
        Ok(())
    }

    /// Beyond the last key the engine need not search for the place of each record, and takes many at
    /// once.
    fn put_behind(&mut self, changes: &[&StateChange]) -> Result<(), StorageFault> {
        let mut end = self.table.upper_bound_mut(Bound::<&[u8]>::Unbounded)?;
        for change in changes {
            // What is not there cannot be deleted.
            if let StateChange::Put(kv) = change {
                let (record, seal) = mirror_records::write_state(kv);
                end.insert_before(kv.key.as_slice(), record.as_slice())?;
                self.keys += 1;
                self.digest = self.digest.wrapping_add(seal);
            }
        }
        Ok(end.close()?)
    }
}

/// A name of a type, watcher or mirror.
pub(in crate::journal) fn check_name(what: &'static str, name: &str) -> Result<(), StoreError> {
    check_size(what, name.len(), 1, format::NAME_MAX)
}

fn check_size(what: &'static str, len: usize, min: usize, max: usize) -> Result<(), StoreError> {
    if len < min || len > max { Err(StoreError::Size { what, len, min, max }) } else { Ok(()) }
}

pub(in crate::journal) fn check_event(event: &NewEvent) -> Result<(), StoreError> {
    check_name("an object's type", &event.object_type)?;
    check_size("an object", event.object.len(), 0, format::PART_MAX)?;
    check_size("a key", event.key.as_ref().map_or(0, Vec::len), 0, format::PART_MAX)
}

pub(in crate::journal) fn check_batch(batch: &MirrorBatch) -> Result<(), StoreError> {
    check_name("a mirror's name", &batch.mirror)?;
    batch.events.iter().try_for_each(check_event)?;
    let refused = batch.refused.iter().map(|refusal| refusal.key.len());
    refused.into_iter().try_for_each(|len| check_size("a key", len, 0, format::PART_MAX))?;
    batch.changes.iter().try_for_each(|change| {
        let (key, value) = match change {
            StateChange::Put(kv) => (&kv.key, kv.value.len()),
            StateChange::Delete(key) => (key, 0),
        };
        check_size("a key", key.len(), 0, format::PART_MAX)?;
        check_size("a value", value, 0, format::PART_MAX)
    })
}
