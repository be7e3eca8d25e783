//! The task that stores what a mirror takes in.
//!
//! Owns where the stored events stand, and what is done when they do not go on. Must not hold the mirror
//! up but by the room on its way here: a journal that fails is left behind, and caught up with by a
//! complete read later.

mod reading;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use self::reading::Reading;
use crate::journal::engine::journal::Journal;
use crate::journal::error::{ReadError, StorageFault, StoreError};
use crate::journal::mirror_batch::Refusal;
use crate::journal::mirror_batch::{Cursor, MirrorBatch};
use crate::journal::store_options::MirrorOptions;
use crate::journal::synthesize::{Names, Synthesizer, change_of};
use crate::mirror::OnBadStore;
use crate::model::Event;
use crate::publish::{FeedItem, FeedReceiver, Refused, Through};

const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Events are stored together up to so many bytes, however many may wait.
const GATHERED_BYTES: usize = 4 << 20;

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
    /// The mirror knows that a complete read is needed; it may take one that is under way for it.
    asked: bool,
}

/// What of the stored state cannot be used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// Its place; a place that can be read after all is none.
    Cursor,
    /// Its records.
    Records,
}

/// The task that stores.
pub(in crate::journal) struct Appender {
    journal: Journal,
    mirror: String,
    /// The key space's.
    name: String,
    names: Arc<Names>,
    /// How often a place is stored where nothing happens.
    progress_interval: Duration,
    /// Events are stored together up to so many bytes.
    gathered_max: usize,
    /// Through where everything was taken; unknown before the journal was asked.
    at: Option<Through>,
    /// The cursor that is stored.
    stored: Option<Cursor>,
    stored_at: Instant,
    taken_at: Instant,
    reading: Option<Reading>,
    lost: Option<Lost>,
    /// Whether what is stored may be replaced when it is damaged, and what of it is.
    replaces: bool,
    damaged: Option<Damage>,
    /// What is stored counts epochs over all processes, a key space that was not restored from one on:
    /// so many are added. Not known before the first data.
    epochs: Option<u64>,
    /// Events that were taken and are not stored yet, and their bytes.
    gathered: Option<(MirrorBatch, Synthesizer, usize)>,
}

impl Appender {
    pub(in crate::journal) fn new(
        journal: Journal,
        mirror: String,
        name: String,
        options: MirrorOptions,
        on_bad_store: OnBadStore,
    ) -> Self {
        Appender {
            journal,
            mirror,
            names: Arc::new(Names::new(&options.types, &name)),
            name,
            progress_interval: options.progress_interval,
            gathered_max: options.buffer_bytes.min(GATHERED_BYTES),
            at: None,
            stored: None,
            stored_at: Instant::now(),
            taken_at: Instant::now(),
            reading: None,
            lost: None,
            replaces: on_bad_store == OnBadStore::Load,
            damaged: None,
            epochs: None,
            gathered: None,
        }
    }

    pub(in crate::journal) async fn run(mut self, mut tapping: FeedReceiver) {
        if let Err(error) = self.find_place().await {
            self.lose(&tapping, error);
        }
        while let Some(tapped) = self.next(&mut tapping).await {
            self.taken_at = Instant::now();
            // One that is abandoned is begun again without being asked for.
            let ends = matches!(tapped, FeedItem::LoadEnds { .. });
            if let Err(error) = self.take(tapped).await {
                self.lose(&tapping, error);
            } else if self.lost.is_none() {
                tapping.set_error(None);
            } else if ends && self.lost.as_ref().is_some_and(|lost| lost.asked) {
                // It had begun before that, and did not serve.
                tapping.request_reload();
            }
        }
        // The mirror is gone. What was quiet since the last event is worth storing too, unless it is
        // long ago: what is stored counts as of the time of storing.
        let recent = self.taken_at.elapsed() < self.progress_interval;
        let quiet = |at: &Through| recent && self.stored != Some(Cursor::from(*at));
        if let Some(at) = self.at.filter(quiet).filter(|_| self.lost.is_none())
            && let Err(error) = self.append_place(at).await
        {
            tracing::warn!(name = %self.name, %error, "the last place was not stored");
        }
    }

    /// The next message. Events that come while others are stored become one batch, which is stored when
    /// nothing or something else comes: storing costs much the same for one event as for many.
    async fn next(&mut self, tapping: &mut FeedReceiver) -> Option<FeedItem> {
        if let Some((_, _, bytes)) = &self.gathered {
            let tapped = if *bytes < self.gathered_max { tapping.now() } else { None };
            if let Some(FeedItem::Events { .. } | FeedItem::Progress { .. }) = tapped {
                return tapped;
            }
            if let Err(error) = self.store_gathered().await {
                self.lose(tapping, error);
            }
            if tapped.is_some() {
                return tapped;
            }
        }
        loop {
            let retry = self.lost.as_ref().and_then(|lost| lost.retry);
            tokio::select! {
                biased;
                tapped = tapping.next() => return tapped,
                () = until(retry) => self.retry(tapping).await,
            }
        }
    }

    async fn find_place(&mut self) -> Result<(), StoreError> {
        let stored = self.journal.cursor(&self.mirror).await;
        let stored = stored.map_err(|error| self.unreadable(error, Damage::Cursor))?;
        self.stored = stored.map(|stored| stored.cursor);
        self.at = self.stored.map(Through::from);
        Ok(())
    }

    async fn take(&mut self, tapped: FeedItem) -> Result<(), StoreError> {
        match tapped {
            FeedItem::ReloadAcknowledged => {
                if let Some(lost) = &mut self.lost {
                    lost.asked = true;
                }
            }
            FeedItem::Restored => self.epochs = Some(0),
            FeedItem::LoadBegins => self.begin().await?,
            FeedItem::Page(kvs) => {
                if let Some(reading) = &mut self.reading
                    && let Err(error) = reading.difference.page(kvs).await
                {
                    return Err(self.unreadable(error, Damage::Records));
                }
            }
            FeedItem::LoadHeld => {
                if let Some(reading) = &mut self.reading
                    && let Err(error) = reading.difference.rest().await
                {
                    return Err(self.unreadable(error, Damage::Records));
                }
            }
            FeedItem::LoadAbandoned => self.reading = None,
            FeedItem::LoadEnds { to, refused } => {
                if let Some(reading) = self.reading.take() {
                    self.finish(reading, to, refused).await?;
                }
            }
            FeedItem::Events { from, to, events, refused } if self.lost.is_none() => {
                self.goes_on(from).await?;
                self.gather(self.placed(to), events, refused);
            }
            FeedItem::Progress { from, to } if self.lost.is_none() => {
                self.goes_on(from).await?;
                let to = self.placed(to);
                self.at = Some(to);
                if let Some((batch, ..)) = &mut self.gathered {
                    batch.cursor = to.into();
                } else if self.stored_at.elapsed() >= self.progress_interval {
                    self.append_place(to).await?;
                }
            }
            FeedItem::Events { .. } | FeedItem::Progress { .. } => {}
        }
        Ok(())
    }

    /// A place as it is stored.
    fn placed(&self, place: Through) -> Through {
        Through { epoch: place.epoch + self.epochs.unwrap_or(0), ..place }
    }

    /// Stores what came before a gap, which is in order, and tells of it.
    async fn goes_on(&mut self, from: Through) -> Result<(), StoreError> {
        let Err(gap) = self.continues(self.placed(from)) else { return Ok(()) };
        self.store_gathered().await?;
        Err(gap)
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

    /// Begins what is to be stored next.
    fn batch(&self, to: Through) -> MirrorBatch {
        MirrorBatch::new(self.mirror.clone(), self.stored, to.into())
    }

    async fn append(&mut self, batch: MirrorBatch, telling: Synthesizer) -> Result<(), StoreError> {
        let cursor = batch.cursor;
        self.journal.append_told(batch, telling).await?;
        self.stored = Some(cursor);
        self.stored_at = Instant::now();
        Ok(())
    }

    /// Stores a place where nothing happened.
    async fn append_place(&mut self, to: Through) -> Result<(), StoreError> {
        self.append(self.batch(to), Synthesizer::new(&self.names, false)).await
    }

    /// Puts events behind those that are to be stored next.
    fn gather(&mut self, to: Through, events: Vec<Event>, refused: Vec<Refused>) {
        let mut gathered = self
            .gathered
            .take()
            .unwrap_or_else(|| (self.batch(to), Synthesizer::new(&self.names, false), 0));
        let (batch, telling, bytes) = &mut gathered;
        batch.cursor = to.into();
        if !batch.refused.is_empty() {
            // Of a key that changes again only the last word counts.
            let again: HashSet<&[u8]> = events.iter().map(Event::key).collect();
            batch.refused.retain(|refusal| !again.contains(refusal.key.as_slice()));
        }
        batch.refused.extend(refused.into_iter().map(Refusal::from));
        for sent in events {
            let revision = sent.mod_revision();
            let (operation, change) = change_of(sent);
            *bytes += change.bytes() + size_of::<Event>();
            telling.push(operation, revision);
            batch.changes.push(change);
        }
        self.gathered = Some(gathered);
        self.at = Some(to);
    }

    async fn store_gathered(&mut self) -> Result<(), StoreError> {
        match self.gathered.take() {
            Some((batch, telling, _)) => self.append(batch, telling).await,
            None => Ok(()),
        }
    }

    /// Gives up the place; what is sent from now on is left out until a complete read.
    fn lose(&mut self, tapping: &FeedReceiver, error: StoreError) {
        let delay = self.lost.as_ref().map_or(RETRY_MIN, |lost| (lost.delay * 2).min(RETRY_MAX));
        if self.lost.is_none() {
            tracing::warn!(name = %self.name, %error, "the mirror is not stored any more");
        }
        let hopeless = match &error {
            StoreError::Size { .. } => true,
            StoreError::Storage(StorageFault::Damaged { .. }) => {
                // A journal that is off as a whole may be opened again.
                let own = self.journal.status().fault.is_none();
                if own && self.replaces {
                    self.damaged.get_or_insert(Damage::Cursor);
                }
                own && self.damaged.is_none()
            }
            _ => false,
        };
        let retry = (!hopeless).then(|| Instant::now() + delay);
        tapping.set_error(Some(Arc::new(error)));
        self.reading = None;
        self.gathered = None;
        self.lost = Some(Lost { retry, delay, asked: false });
    }

    /// Asks for a complete read if the journal works again.
    async fn retry(&mut self, tapping: &FeedReceiver) {
        let found = if self.damaged.is_some() { Ok(()) } else { self.find_place().await };
        match found {
            Ok(()) => {
                tapping.request_reload();
                // Should that load fail, it is asked for again; what fails again waits longer.
                let delay = self.lost.as_ref().map_or(RETRY_MIN, |lost| lost.delay);
                let retry = Some(Instant::now() + RETRY_MAX);
                self.lost = Some(Lost { retry, delay, asked: false });
            }
            Err(error) => self.lose(tapping, error),
        }
    }

    /// What is stored could not be read. If that is damaged, and not the journal as a whole, the next
    /// complete read may replace it.
    fn unreadable(&mut self, error: ReadError, what: Damage) -> StoreError {
        let fault = match error {
            ReadError::Storage(fault) => fault,
            // A state has no position.
            other => StorageFault::damaged(other.to_string()),
        };
        let damaged = matches!(fault, StorageFault::Damaged { .. });
        let own = damaged && self.journal.status().fault.is_none();
        self.damaged = (self.replaces && own).then_some(what);
        StoreError::Storage(fault)
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
