//! The difference between a complete read and the stored state, while the read comes in.
//!
//! Owns walking both side by side; keeps only what differs. Must not store.

use std::collections::VecDeque;

use super::error::ReadError;
use super::event::Operation;
use super::state::{StateChange, StateReader};
use crate::event::RawKeyValue;

/// Stored records read at once.
const PAGE: usize = 4_096;

/// What leads from the stored state to the read, as far as that has come.
pub(super) struct Difference {
    stored: Option<StateReader>,
    read: VecDeque<RawKeyValue>,
    steps: Vec<(Operation, StateChange)>,
}

impl Difference {
    /// Of a read that begins, to what is stored.
    pub(super) fn to(stored: Option<StateReader>) -> Self {
        Difference { stored, read: VecDeque::new(), steps: Vec::new() }
    }

    /// Takes the next records of the read, ascending by key.
    pub(super) async fn page(&mut self, kvs: Vec<RawKeyValue>) -> Result<(), ReadError> {
        for kv in kvs {
            while self.next_stored().await?.is_some_and(|stored| stored.key < kv.key) {
                self.gone();
            }
            match self.read.front().filter(|stored| stored.key == kv.key) {
                Some(stored) if *stored == kv => {
                    self.read.pop_front();
                    continue;
                }
                Some(stored) if stored.create_revision == kv.create_revision => {
                    self.read.pop_front();
                    self.steps.push((Operation::Update, StateChange::Put(kv)));
                    continue;
                }
                Some(_) => self.gone(),
                None => {}
            }
            self.steps.push((Operation::Create, StateChange::Put(kv)));
        }
        Ok(())
    }

    /// The steps, once the read is whole.
    pub(super) async fn finish(mut self) -> Result<Vec<(Operation, StateChange)>, ReadError> {
        while self.next_stored().await?.is_some() {
            self.gone();
        }
        Ok(self.steps)
    }

    /// The first stored record that was not passed.
    async fn next_stored(&mut self) -> Result<Option<&RawKeyValue>, ReadError> {
        if self.read.is_empty()
            && let Some(reader) = self.stored.take()
        {
            let (reader, page) = reader.next_page(PAGE).await?;
            // Nothing comes after an empty page.
            self.stored = (!page.is_empty()).then_some(reader);
            self.read = page.into();
        }
        Ok(self.read.front())
    }

    /// Passes a stored record that the read does not have.
    fn gone(&mut self) {
        if let Some(kv) = self.read.pop_front() {
            self.steps.push((Operation::Delete, StateChange::Delete(kv.key)));
        }
    }
}
