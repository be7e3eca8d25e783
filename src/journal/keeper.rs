//! The task that stores what a mirror takes in.
//!
//! Owns where the stored events stand, and what is done when they do not go on. Must not hold the mirror
//! up but by the room on its way here: a journal that fails is left behind, and caught up with by a
//! complete read later.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::difference::Difference;
use super::error::{ReadError, StorageFault, StoreError};
use super::event::{NewEvent, Operation};
use super::handle::Journal;
use super::mirror::{MirrorOptions, short};
use super::refusal::Refusal;
use super::state::{Cursor, MirrorBatch, StateChange};
use crate::event::Event;
use crate::tap::{Tapped, Tapping, Through};

const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

impl From<Cursor> for Through {
    fn from(cursor: Cursor) -> Self {
        let Cursor { cluster_id, epoch, revision } = cursor;
        Through { cluster_id, epoch, revision }
    }
}

impl From<Through> for Cursor {
    fn from(through: Through) -> Self {
        let Through { cluster_id, epoch, revision } = through;
        Cursor { cluster_id, epoch, revision }
    }
}

/// Why the stored events do not go on, and when that may be over.
struct Lost {
    /// `None` when trying again cannot help; a complete read for another reason is tried all the same.
    retry: Option<Instant>,
    delay: Duration,
}

/// The task that stores.
pub(super) struct Keeper {
    journal: Journal,
    mirror: String,
    /// The key space's.
    name: String,
    options: MirrorOptions,
    /// Through where everything was taken; unknown before the journal was asked.
    at: Option<Through>,
    /// The cursor that is stored.
    stored: Option<Cursor>,
    stored_at: Instant,
    taken_at: Instant,
    /// Between a complete read under way and what is stored, and the cursor of that.
    difference: Option<(Difference, Option<Cursor>)>,
    lost: Option<Lost>,
}

impl Keeper {
    pub(super) fn new(
        journal: Journal,
        mirror: String,
        name: String,
        options: MirrorOptions,
    ) -> Self {
        Keeper {
            journal,
            mirror,
            name,
            options,
            at: None,
            stored: None,
            stored_at: Instant::now(),
            taken_at: Instant::now(),
            difference: None,
            lost: None,
        }
    }

    pub(super) async fn run(mut self, mut tapping: Tapping) {
        if let Err(error) = self.find_place().await {
            self.lose(&tapping, error);
        }
        loop {
            let retry = self.lost.as_ref().and_then(|lost| lost.retry);
            let tapped = tokio::select! {
                biased;
                tapped = tapping.next() => tapped,
                () = until(retry) => {
                    self.retry(&tapping).await;
                    continue;
                }
            };
            let Some(tapped) = tapped else { break };
            self.taken_at = Instant::now();
            if let Err(error) = self.take(tapped).await {
                self.lose(&tapping, error);
            } else if self.lost.is_none() {
                tapping.set_error(None);
            }
        }
        // The mirror is gone. What was quiet since the last event is worth storing too, unless it is
        // long ago: what is stored counts as of the time of storing.
        let recent = self.taken_at.elapsed() < self.options.progress_interval;
        let quiet = |at: &Through| recent && self.stored != Some(Cursor::from(*at));
        if let Some(at) = self.at.filter(quiet).filter(|_| self.lost.is_none())
            && let Err(error) = self.append(at, |_| ()).await
        {
            tracing::warn!(name = %self.name, %error, "the last place was not stored");
        }
    }

    async fn find_place(&mut self) -> Result<(), StoreError> {
        let stored = self.journal.cursor(&self.mirror).await.map_err(unreadable)?;
        self.stored = stored.map(|stored| stored.cursor);
        self.at = self.stored.map(Through::from);
        Ok(())
    }

    async fn take(&mut self, tapped: Tapped) -> Result<(), StoreError> {
        match tapped {
            Tapped::LoadBegins => {
                let reader = self.journal.state(&self.mirror).await.map_err(unreadable)?;
                self.stored = reader.as_ref().map(|reader| reader.stored().cursor);
                self.at = self.stored.map(Through::from);
                self.difference = Some((Difference::to(reader), self.stored));
            }
            Tapped::Page(kvs) => {
                if let Some((difference, _)) = &mut self.difference {
                    difference.page(kvs).await.map_err(unreadable)?;
                }
            }
            Tapped::LoadAbandoned => self.difference = None,
            Tapped::LoadEnds { to, refused } => {
                if let Some((difference, base)) = self.difference.take() {
                    let steps = difference.finish().await.map_err(unreadable)?;
                    // Only to what was read beside it the difference is right.
                    self.stored = base;
                    let types = self.options.clone();
                    let name = self.name.clone();
                    self.append(to, |batch| {
                        batch.refused = refused.into_iter().map(Refusal::from).collect();
                        batch.refused_is_all = true;
                        for (operation, change) in steps {
                            let event = event(&types, &name, operation, &change, to.revision);
                            batch.events.push(event.synthesized());
                            batch.changes.push(change);
                        }
                    })
                    .await?;
                    self.lost = None;
                }
            }
            Tapped::Events { from, to, events, refused } if self.lost.is_none() => {
                self.continues(from)?;
                let types = self.options.clone();
                let name = self.name.clone();
                self.append(to, |batch| {
                    batch.refused = refused.into_iter().map(Refusal::from).collect();
                    for sent in events {
                        let revision = sent.mod_revision();
                        let (operation, change) = of_event(sent);
                        batch.events.push(event(&types, &name, operation, &change, revision));
                        batch.changes.push(change);
                    }
                })
                .await?;
            }
            Tapped::Progress { from, to } if self.lost.is_none() => {
                self.continues(from)?;
                self.at = Some(to);
                if self.stored_at.elapsed() >= self.options.progress_interval {
                    self.append(to, |_| ()).await?;
                }
            }
            Tapped::Events { .. } | Tapped::Progress { .. } => {}
        }
        Ok(())
    }

    /// What was taken last must be where this begins; anything else left something out.
    fn continues(&self, from: Through) -> Result<(), StoreError> {
        if self.at == Some(from) {
            return Ok(());
        }
        Err(StoreError::CursorMismatch {
            mirror: self.mirror.clone(),
            expected: Some(Cursor::from(from)),
            stored: self.at.map(Cursor::from),
        })
    }

    async fn append(
        &mut self,
        to: Through,
        fill: impl FnOnce(&mut MirrorBatch),
    ) -> Result<(), StoreError> {
        let mut batch = MirrorBatch::new(self.mirror.clone(), self.stored, to.into());
        fill(&mut batch);
        self.journal.append(batch).await?;
        self.stored = Some(to.into());
        self.stored_at = Instant::now();
        self.at = Some(to);
        Ok(())
    }

    /// Gives up the place; what is sent from now on is left out until a complete read.
    fn lose(&mut self, tapping: &Tapping, error: StoreError) {
        let delay = self.lost.as_ref().map_or(RETRY_MIN, |lost| (lost.delay * 2).min(RETRY_MAX));
        if self.lost.is_none() {
            tracing::warn!(name = %self.name, %error, "the mirror is not stored any more");
        }
        let hopeless = matches!(
            error,
            StoreError::Size { .. } | StoreError::Storage(StorageFault::Damaged { .. })
        );
        let retry = (!hopeless).then(|| Instant::now() + delay);
        tapping.set_error(Some(Arc::new(error)));
        self.difference = None;
        self.lost = Some(Lost { retry, delay });
    }

    /// Asks for a complete read if the journal works again.
    async fn retry(&mut self, tapping: &Tapping) {
        match self.find_place().await {
            Ok(()) => {
                tapping.want_load();
                // Should that load fail, it is asked for again; what fails again waits longer.
                let delay = self.lost.as_ref().map_or(RETRY_MIN, |lost| lost.delay);
                self.lost = Some(Lost { retry: Some(Instant::now() + RETRY_MAX), delay });
            }
            Err(error) => self.lose(tapping, error),
        }
    }
}

fn unreadable(error: ReadError) -> StoreError {
    StoreError::Storage(match error {
        ReadError::Storage(fault) => fault,
        // A state has no position.
        other => StorageFault::damaged(other.to_string()),
    })
}

fn of_event(event: Event) -> (Operation, StateChange) {
    match event {
        Event::Put(kv) if kv.create_revision == kv.mod_revision => {
            (Operation::Create, StateChange::Put(kv))
        }
        Event::Put(kv) => (Operation::Update, StateChange::Put(kv)),
        Event::Delete { key, .. } => (Operation::Delete, StateChange::Delete(key)),
    }
}

fn event(
    options: &MirrorOptions,
    name: &str,
    operation: Operation,
    change: &StateChange,
    revision: i64,
) -> NewEvent {
    let (key, value) = match change {
        StateChange::Put(kv) => (&kv.key, kv.value.clone()),
        StateChange::Delete(key) => (key, Vec::new()),
    };
    let mut types = options.types.iter().filter(|(_, name)| !name.is_empty());
    let named = types.find(|(range, _)| range.contains(key));
    let object_type = named.map_or(name, |(_, object_type)| object_type);
    NewEvent::new(operation, short(object_type), value).mirrored(key.clone(), revision)
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
