//! A mirror's part in a journal: storing what it takes in, and starting from what is stored.
//!
//! Owns [`Builder::journal`] and [`Builder::restore`], by what name a mirror is stored, and reading what
//! is stored for one that starts. `appender` stores.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::appender::Appender;
use crate::journal::engine::journal::Journal;
use crate::journal::engine::read::blocking;
use crate::journal::error::ReadError;
use crate::journal::file::mirror_records;
use crate::journal::mirror_batch::StoredMirror;
use crate::journal::mirror_batch::StoredRefusal;
use crate::journal::store_options::MirrorOptions;
use crate::journal::synthesize::short;
use crate::mirror::{Builder, Restore, Stored};
use crate::model::KeyRange;
use crate::publish::tap;

/// Records read at once when starting from what is stored.
const PAGE: usize = 4_096;

impl<T: Send + Sync + 'static> Builder<T> {
    /// Stores every event in a journal: once, in order, whole revisions, from where it stands.
    ///
    /// What cannot be told event by event, because etcd had lost history, because the journal had
    /// failed, or because nothing was stored yet, is stored as the exact difference to what is stored,
    /// marked as [synthesized](crate::journal::NewEvent::synthesized) at the revision of the complete read. If what
    /// is stored turns out to be damaged, nobody can tell that difference. Then nothing more is stored, or
    /// it begins anew, as [`on_bad_store`](Builder::on_bad_store) says: with a synthesized deletion without
    /// a key for each type of object, which stands for everything told before, and all keys as synthesized
    /// creations.
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
        self.keeper(move |all, range| {
            let (tap, tapping) = tap(options.buffer_bytes);
            let mirror = mirror_id(&all.name, range);
            let name = all.name.clone();
            let keeper = Appender::new(journal, mirror, name, options, all.on_bad_store);
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
            Restore::new(Box::pin(feed(journal, mirror_id(name, range), sender)), stored)
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
        blocking(move || Ok(mirror_records::mirrors_in(&shared.begin_read()?)?)).await
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

/// Reads what is stored for a mirror that starts.
async fn feed(
    journal: Journal,
    mirror: String,
    sender: mpsc::Sender<Result<Stored, crate::mirror::Cause>>,
) {
    let result = async {
        let Some(reader) = journal.state(&mirror).await? else { return Ok(()) };
        let stored = reader.stored();
        let (through, stored_at) = (stored.cursor.into(), stored.stored_at);
        if sender.send(Ok(Stored::Found { through, stored_at })).await.is_err() {
            return Ok(());
        }
        let (reader, refused) = blocking(move || {
            let refused = reader.refused()?;
            Ok((reader, refused))
        })
        .await?;
        let refused = Stored::Refused(refused.into_iter().map(StoredRefusal::into).collect());
        if sender.send(Ok(refused)).await.is_err() {
            return Ok(());
        }
        reader.send_all(PAGE, &sender, |page| Ok(Stored::Page(page))).await
    };
    let end = result.await.map_err(|error: ReadError| Arc::new(error) as crate::mirror::Cause);
    // Without a receiver the mirror is gone.
    let _ = sender.send(end.map(|()| Stored::End)).await;
}
