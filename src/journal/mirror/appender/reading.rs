//! A complete read beside what is stored, which becomes one step of it: the difference, or everything anew.
//!
//! Belongs to the keeper. Must not ask for a read; it is told of each, whatever it was made for.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Appender, Damage};
use crate::journal::error::StoreError;
use crate::journal::mirror::difference::Difference;
use crate::journal::mirror_batch::{Cursor, Refusal};
use crate::journal::synthesize::Synthesizer;
use crate::publish::{Refused, Through};

/// A complete read under way.
pub(super) struct Reading {
    /// To what is stored.
    pub(super) difference: Difference,
    /// The cursor of that.
    base: Option<Cursor>,
    /// What is stored cannot be used and is replaced, so nobody knows the difference to it.
    anew: bool,
}

impl Appender {
    /// A complete read begins.
    pub(super) async fn begin(&mut self) -> Result<(), StoreError> {
        let reader = match self.journal.state(&self.mirror).await {
            Ok(reader) => {
                self.damaged = self.damaged.filter(|damage| *damage == Damage::Records);
                reader
            }
            Err(error) => {
                let error = self.unreadable(error, Damage::Cursor);
                if self.damaged.is_none() {
                    return Err(error);
                }
                None
            }
        };
        self.stored = reader.as_ref().map(|reader| reader.stored().cursor);
        self.at = self.stored.map(Through::from);
        let anew = self.damaged.is_some();
        let difference = Difference::to(reader.filter(|_| !anew));
        self.reading = Some(Reading { difference, base: self.stored, anew });
        Ok(())
    }

    /// A complete read is whole.
    pub(super) async fn finish(
        &mut self,
        reading: Reading,
        to: Through,
        refused: Vec<Refused>,
    ) -> Result<(), StoreError> {
        let Reading { difference, base, anew } = reading;
        let steps = difference.finish().await;
        let steps = steps.map_err(|error| self.unreadable(error, Damage::Records))?;
        // Only to what was read beside it the difference is right.
        self.stored = base;
        self.epochs.get_or_insert_with(|| match base {
            Some(base) => base.epoch,
            // How far the damaged cursor had counted, nobody knows; not to the seconds since 1970.
            None if anew => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
            }
            None => 0,
        });
        let to = self.placed(to);
        let mut batch = self.batch(to);
        batch.refused = refused.into_iter().map(Refusal::from).collect();
        batch.refused_is_all = true;
        if anew {
            batch.replace = true;
            batch.events = self.names.forgotten(to.revision);
        }
        let mut telling = Synthesizer::new(&self.names, true);
        for (operation, change) in steps {
            telling.push(operation, to.revision);
            batch.changes.push(change);
        }
        self.append(batch, telling).await?;
        self.at = Some(to);
        self.damaged = None;
        if anew {
            tracing::warn!(name = %self.name, "what was stored was damaged, and is replaced");
        }
        self.lost = None;
        Ok(())
    }
}
