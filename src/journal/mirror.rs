//! A mirror's part in a journal: storing what it takes in, and starting from what is stored.
//!
//! Owns [`Builder::journal`] and [`Builder::restore`], and the task that stores. Must not hold the mirror
//! up but by the room on its way here: a journal that fails is left behind, and caught up with by a
//! complete read later.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::difference::Difference;
use super::error::{ReadError, StorageFault, StoreError};
use super::event::{NewEvent, Operation};
use super::format;
use super::handle::Journal;
use super::read::blocking;
use super::refusal::{Refusal, StoredRefusal};
use super::state::{Cursor, MirrorBatch, StateChange, StoredMirror};
use crate::builder::Builder;
use crate::event::Event;
use crate::mirror::{Stored, Warm};
use crate::range::KeyRange;
use crate::tap::{Tapped, Tapping, Through, tap};

/// Records read at once when starting from what is stored.
const PAGE: usize = 8_192;
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How a mirror is stored; the default suits.
#[derive(Debug, Clone)]
pub struct MirrorOptions {
    types: Vec<(KeyRange, String)>,
    buffer_bytes: usize,
    progress_interval: Duration,
}

impl Default for MirrorOptions {
    fn default() -> Self {
        MirrorOptions {
            types: Vec::new(),
            buffer_bytes: 64 << 20,
            progress_interval: Duration::from_secs(10),
        }
    }
}

impl MirrorOptions {
    /// Calls the objects of a range of keys so; of several ranges the first one counts. Others are
    /// called like the key space. Of a name the first 200 bytes count, and none is no name.
    #[must_use]
    pub fn object_type(mut self, range: impl Into<KeyRange>, name: impl Into<String>) -> Self {
        self.types.push((range.into(), name.into()));
        self
    }

    /// How many bytes may wait to be stored; 64 MiB unless set. Beyond that the mirror waits, and shows
    /// nothing newer, since every event is stored.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes.max(1);
        self
    }

    /// How often the place is stored while nothing happens, so that a later start does not find it
    /// compacted; 10 s unless set.
    #[must_use]
    pub fn progress_interval(mut self, interval: Duration) -> Self {
        self.progress_interval = interval;
        self
    }
}

impl<T: Send + Sync + 'static> Builder<T> {
    /// Stores every event in a journal: once, in order, whole revisions, from where it stands.
    ///
    /// What cannot be told event by event, because etcd had lost history, because the journal had
    /// failed, or because nothing was stored yet, is stored as the exact difference to what is stored,
    /// marked as [synthesized](NewEvent::synthesized) at the revision of the complete read.
    ///
    /// Two things are not stored: where progress is [counted](crate::ProgressBy::Count) (old servers, a
    /// gRPC proxy), a key that was created and deleted before a count, and whose events come after it; and
    /// of a key whose newest value is rejected, the value shown in its place, if that came while the
    /// journal was failing.
    ///
    /// A key space that stops waits until what it has shown is stored, for ten seconds at most. Stored is
    /// what it shows already, up to [`MirrorOptions::buffer_bytes`] later. The
    /// journal knows the mirror by the key space's name and range; only one mirror at a time may have
    /// both. When the journal fails the key space goes on,
    /// [`Status::store_error`](crate::Status::store_error) says so, and once the journal works again
    /// everything is read once more to catch up.
    pub fn journal(self, journal: &Journal) -> Self {
        self.journal_with(journal, MirrorOptions::default())
    }

    /// [`journal`](Builder::journal) with options.
    pub fn journal_with(self, journal: &Journal, options: MirrorOptions) -> Self {
        let journal = journal.clone();
        self.keeper(move |name, range| {
            let (tap, tapping) = tap(options.buffer_bytes);
            let mirror = mirror_id(name, range);
            let keeper = Keeper {
                journal,
                mirror,
                name: name.to_owned(),
                options,
                at: None,
                stored: None,
                stored_at: Instant::now(),
                taken_at: Instant::now(),
                difference: None,
                lost: None,
            };
            (tap, Box::pin(keeper.run(tapping)))
        })
    }

    /// Serves what a former mirror of this name and range stored in a journal, at once and whether or not
    /// etcd can be reached; then goes on from there.
    ///
    /// Until etcd has confirmed that it is of its history the state is
    /// [`Restored`](crate::State::Restored), with its [age](crate::Status::restored_age).
    /// [`start`](Builder::start) returns as soon as it is served. Values are decoded again: of a key whose
    /// newest one is [rejected](crate::KeySpace::rejected) first that, then the one that was shown in its
    /// place, as [`bad_values`](Builder::bad_values) says. If etcd has
    /// compacted what came since, everything is read, and the difference is exact. For another cluster, or
    /// another history, the [policies](Builder::on_other_cluster) decide as for a running mirror. Without
    /// anything stored the start is as without this.
    ///
    /// What is stored and damaged ends the key space with
    /// [`StopReason::NotRestored`](crate::StopReason::NotRestored);
    /// [`on_bad_store`](Builder::on_bad_store) can say otherwise.
    pub fn restore(self, journal: &Journal) -> Self {
        let journal = journal.clone();
        self.warm(move |name, range| {
            let (sender, stored) = mpsc::channel(2);
            Warm::new(Box::pin(feed(journal, mirror_id(name, range), sender)), stored)
        })
    }
}

impl Journal {
    /// All mirrors that are stored, by name: that of the key space, and a mark of its range.
    ///
    /// # Errors
    /// [`ReadError::Storage`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn mirrors(&self) -> Result<Vec<(String, StoredMirror)>, ReadError> {
        let shared = Arc::clone(self.shared());
        blocking(move || Ok(format::mirrors_in(&shared.begin_read()?)?)).await
    }
}

/// By what the journal knows a mirror: data of another range must never be taken for it.
fn mirror_id(name: &str, range: &KeyRange) -> String {
    let mut bytes = range.start().to_vec();
    bytes.push(u8::from(range.end().is_some()));
    let start = bytes.len() as u64;
    bytes.extend_from_slice(range.end().unwrap_or_default());
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(&bytes, start);
    format!("{}#{hash:016x}", short(name))
}

/// As much of a name as has room in the journal.
fn short(name: &str) -> &str {
    let ends = name.char_indices().map(|(at, one)| at + one.len_utf8());
    &name[..ends.take_while(|end| *end <= 200).last().unwrap_or(0)]
}

/// Reads what is stored for a mirror that starts.
async fn feed(
    journal: Journal,
    mirror: String,
    sender: mpsc::Sender<Result<Stored, crate::mirror::Cause>>,
) {
    let result = async {
        let Some(mut reader) = journal.state(&mirror).await? else { return Ok(()) };
        let stored = reader.stored();
        let (through, stored_at) = (through(stored.cursor), stored.stored_at);
        if sender.send(Ok(Stored::Found { through, stored_at })).await.is_err() {
            return Ok(());
        }
        let refused;
        (reader, refused) = blocking(move || {
            let refused = reader.refused()?;
            Ok((reader, refused))
        })
        .await?;
        let mut next = Stored::Refused(refused.into_iter().map(StoredRefusal::into).collect());
        loop {
            if sender.send(Ok(next)).await.is_err() {
                return Ok(());
            }
            let page;
            (reader, page) = reader.next_page(PAGE).await?;
            if page.is_empty() {
                return Ok(());
            }
            next = Stored::Page(page);
        }
    };
    let end = result.await.map_err(|error: ReadError| Arc::new(error) as crate::mirror::Cause);
    // Without a receiver the mirror is gone.
    let _ = sender.send(end.map(|()| Stored::End)).await;
}

fn through(cursor: Cursor) -> Through {
    let Cursor { cluster_id, epoch, revision } = cursor;
    Through { cluster_id, epoch, revision }
}

fn cursor(through: Through) -> Cursor {
    let Through { cluster_id, epoch, revision } = through;
    Cursor { cluster_id, epoch, revision }
}

/// Why the stored events do not go on, and when that may be over.
struct Lost {
    /// `None` when trying again cannot help; a complete read for another reason is tried all the same.
    retry: Option<Instant>,
    delay: Duration,
}

/// The task that stores.
struct Keeper {
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
    async fn run(mut self, mut tapping: Tapping) {
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
        let quiet = |at: &Through| recent && self.stored != Some(cursor(*at));
        if let Some(at) = self.at.filter(quiet).filter(|_| self.lost.is_none())
            && let Err(error) = self.append(at, |_| ()).await
        {
            tracing::warn!(name = %self.name, %error, "the last place was not stored");
        }
    }

    async fn find_place(&mut self) -> Result<(), StoreError> {
        let stored = self.journal.cursor(&self.mirror).await.map_err(unreadable)?;
        self.stored = stored.map(|stored| stored.cursor);
        self.at = self.stored.map(through);
        Ok(())
    }

    async fn take(&mut self, tapped: Tapped) -> Result<(), StoreError> {
        match tapped {
            Tapped::LoadBegins => {
                let reader = self.journal.state(&self.mirror).await.map_err(unreadable)?;
                self.stored = reader.as_ref().map(|reader| reader.stored().cursor);
                self.at = self.stored.map(through);
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
            expected: Some(cursor(from)),
            stored: self.at.map(cursor),
        })
    }

    async fn append(
        &mut self,
        to: Through,
        fill: impl FnOnce(&mut MirrorBatch),
    ) -> Result<(), StoreError> {
        let mut batch = MirrorBatch::new(self.mirror.clone(), self.stored, cursor(to));
        fill(&mut batch);
        self.journal.append(batch).await?;
        self.stored = Some(cursor(to));
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
