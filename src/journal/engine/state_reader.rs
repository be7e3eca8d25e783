//! What a mirror keeps in the journal beside events: its cursor and the last record of each key.
//!
//! Owns the paged reader. Does not write: batches go through the one writer, so that events, cursor and
//! state are of one transaction (J4).

use redb::ReadTransaction;
use tokio::sync::mpsc;

use super::read::blocking;
use crate::journal::error::{ReadError, StorageFault};
use crate::journal::file::mirror_records;
use crate::journal::file::open::contained;
use crate::journal::file::pages::{Check, Unchecked, Walk};
use crate::journal::file::rejected;
use crate::journal::mirror_batch::{StoredMirror, StoredRefusal, Tally};
use crate::model::RawKeyValue;

/// Pages that are read before those before them are checked.
const PAGES_AHEAD: usize = 1;

/// Reads the state of a mirror page by page, ascending by key, all of one transaction.
///
/// Whatever is stored meanwhile does not show. The pages together are checked against the number
/// and the digest of the records that were stored: a state with a record missing, added or altered
/// ends with [`StorageFault::Damaged`], never with a page that looks complete. So what was read is to be
/// trusted once the empty page has come. A reader keeps the space of what is replaced meanwhile, and the
/// end of the journal ends it with an error.
///
/// The methods block on the disk. On an async thread use
/// [`next_page`](StateReader::next_page).
pub struct StateReader {
    mirror: String,
    stored: StoredMirror,
    walk: Walk,
    check: Check,
    refused: Tally,
    /// What was found once holds.
    damaged: Option<StorageFault>,
    read: usize,
    done: bool,
}

impl StateReader {
    /// Begins to read; `None` when nothing is stored of the mirror.
    pub(in crate::journal) fn begin(
        transaction: ReadTransaction,
        mirror: &str,
    ) -> Result<Option<Self>, StorageFault> {
        let Some(record) = mirror_records::mirror_in(&transaction, mirror)? else {
            return Ok(None);
        };
        let reader = StateReader {
            mirror: mirror.to_owned(),
            stored: record.stored,
            walk: Walk::new(transaction, mirror, &record),
            check: Check::new(mirror, &record),
            refused: record.refused,
            damaged: None,
            read: 0,
            done: false,
        };
        Ok(Some(reader))
    }

    /// The cursor and the size of what is read.
    #[must_use]
    pub fn stored(&self) -> StoredMirror {
        self.stored
    }

    /// The keys whose newest record the mirror could not decode, with what it showed instead; ascending
    /// by key, and all at once.
    ///
    /// # Errors
    /// [`ReadError::Storage`].
    pub fn refused(&self) -> Result<Vec<StoredRefusal>, ReadError> {
        Ok(contained(|| rejected::read(self.walk.transaction(), &self.mirror, self.refused))??)
    }

    /// The next records, at most `limit` of them, or some 8 MiB, and at least one; empty at the end.
    ///
    /// # Errors
    /// [`ReadError::Storage`]; after damage every later call gives it again.
    pub fn page(&mut self, limit: usize) -> Result<Vec<RawKeyValue>, ReadError> {
        if self.done {
            return Ok(Vec::new());
        }
        if let Some(fault) = &self.damaged {
            return Err(fault.clone().into());
        }
        let page = contained(|| self.check.page(&self.walk.page(limit)?)).and_then(|page| page);
        let page = page.inspect_err(|fault| {
            self.damaged =
                Some(fault.clone()).filter(|fault| matches!(fault, StorageFault::Damaged { .. }));
        })?;
        self.read += page.len();
        self.done = page.is_empty();
        Ok(page)
    }

    /// As [`page`](StateReader::page), on a thread that may block. Dropping the future loses the
    /// reader; begin anew then.
    ///
    /// # Errors
    /// As [`page`](StateReader::page).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn next_page(
        self,
        limit: usize,
    ) -> Result<(StateReader, Vec<RawKeyValue>), ReadError> {
        blocking(move || {
            let mut reader = self;
            let page = reader.page(limit)?;
            Ok((reader, page))
        })
        .await
    }

    /// Sends all pages, `wrap`ped, reading one while the one before it is checked. It is the end only
    /// when this is over without an error; nobody may want that any more by then.
    pub(in crate::journal) async fn send_all<P>(
        self,
        limit: usize,
        to: &mpsc::Sender<P>,
        wrap: impl Fn(Vec<RawKeyValue>) -> P,
    ) -> Result<(), ReadError> {
        let (mut walk, mut check) = (self.walk, self.check);
        let (sender, mut unchecked) = mpsc::channel::<Unchecked>(PAGES_AHEAD);
        // Neither occupies a thread while it waits for the other: there may be one only.
        let reading = async move {
            loop {
                let page;
                (walk, page) = blocking(move || {
                    let page = walk.page(limit)?;
                    Ok((walk, page))
                })
                .await?;
                let last = page.is_empty();
                if sender.send(page).await.is_err() || last {
                    return Ok(());
                }
            }
        };
        let checking = async move {
            // Without an end the reading has failed, which it tells itself.
            while let Some(page) = unchecked.recv().await {
                let kvs;
                (check, kvs) = blocking(move || {
                    let kvs = check.page(&page)?;
                    Ok((check, kvs))
                })
                .await?;
                if kvs.is_empty() || to.send(wrap(kvs)).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        tokio::try_join!(reading, checking).map(drop)
    }
}

impl std::fmt::Debug for StateReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateReader")
            .field("mirror", &self.mirror)
            .field("stored", &self.stored)
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}
