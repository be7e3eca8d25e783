//! The difference between a complete read and the stored state, while the read comes in.
//!
//! Owns walking both side by side; keeps only what differs. Must not store.

use std::collections::VecDeque;

use crate::journal::engine::state_reader::StateReader;
use crate::journal::error::ReadError;
use crate::journal::event::Operation;
use crate::journal::mirror_batch::StateChange;
use crate::model::RawKeyValue;

/// Stored records read at once.
const PAGE: usize = 4_096;

/// What leads from the stored state to the read, as far as that has come.
pub(in crate::journal) struct Difference {
    stored: Option<StateReader>,
    read: VecDeque<RawKeyValue>,
    steps: Vec<(Operation, StateChange)>,
}

impl Difference {
    /// Of a read that begins, to what is stored.
    pub(in crate::journal) fn to(stored: Option<StateReader>) -> Self {
        Difference { stored, read: VecDeque::new(), steps: Vec::new() }
    }

    /// Takes the next records of the read, ascending by key.
    pub(in crate::journal) async fn page(
        &mut self,
        kvs: Vec<RawKeyValue>,
    ) -> Result<(), ReadError> {
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

    /// Nothing more comes: what is stored besides is gone. Lets go of what is stored.
    pub(in crate::journal) async fn rest(&mut self) -> Result<(), ReadError> {
        while self.next_stored().await?.is_some() {
            self.gone();
        }
        Ok(())
    }

    /// The steps, once the read is whole.
    pub(in crate::journal) async fn finish(
        mut self,
    ) -> Result<Vec<(Operation, StateChange)>, ReadError> {
        self.rest().await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Cursor, Journal, JournalOptions, MirrorBatch};

    fn kv(key: &str) -> RawKeyValue {
        RawKeyValue { key: key.into(), create_revision: 1, ..RawKeyValue::default() }
    }

    /// A read may be held for long, and keeps no old state of the file alive meanwhile.
    #[tokio::test]
    async fn what_is_stored_is_let_go_once_nothing_more_comes() {
        let journal = Journal::in_memory(JournalOptions::new()).await.unwrap();
        let cursor = Cursor { cluster_id: 7, epoch: 1, revision: 5 };
        let mut batch = MirrorBatch::new("m", None, cursor);
        batch.changes = ["/a", "/b", "/c"].map(|key| StateChange::Put(kv(key))).into();
        journal.append(batch).await.unwrap();
        let mut difference = Difference::to(journal.state("m").await.unwrap());
        difference.page(vec![kv("/b")]).await.unwrap();
        assert!(difference.stored.is_some());
        difference.rest().await.unwrap();
        assert!(difference.stored.is_none());
        let gone = |key: &str| (Operation::Delete, StateChange::Delete(key.into()));
        assert_eq!(difference.finish().await.unwrap(), [gone("/a"), gone("/c")]);
    }
}
