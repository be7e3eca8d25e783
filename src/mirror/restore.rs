//! Starting from what a former mirror stored, before etcd is asked for anything.
//!
//! Owns taking the stored records in. Must not read them: they are fed from outside, so that dropping a
//! step loses nothing.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;

use crate::model::RawKeyValue;
use crate::publish::{Through, Writer};
use crate::view::{FormerRejection, Loading};

/// Why what is stored cannot be used.
pub(crate) type Cause = Arc<dyn StdError + Send + Sync>;
/// What runs beside the mirror.
pub(crate) type Feed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is stored, in this order; nothing at all if there is nothing.
#[derive(Debug)]
pub(crate) enum Stored {
    /// How far it goes, and when it was stored.
    Found { through: Through, stored_at: SystemTime },
    /// Keys whose newest record could not be decoded, before their records.
    Refused(Vec<FormerRejection>),
    /// The next records, ascending by key.
    Page(Vec<RawKeyValue>),
    /// That was everything.
    End,
}

/// The way on which stored records come.
pub(crate) struct Restore<T> {
    pub(crate) feed: Option<Feed>,
    stored: mpsc::Receiver<Result<Stored, Cause>>,
    taken: Option<RestoreLoad<T>>,
}

/// What was stored, as far as it has come.
pub(crate) struct RestoreLoad<T> {
    loading: Loading<T>,
    through: Through,
    pub(crate) stored_at: SystemTime,
}

impl<T: Send + Sync + 'static> RestoreLoad<T> {
    /// Shows it.
    pub(crate) fn show(self: Box<Self>, writer: &mut Writer<T>) -> Result<(), Cause> {
        writer.restore(self.loading, self.through).map_err(|error| Arc::new(error) as Cause)
    }
}

/// What became of it.
pub(crate) enum Restored<T> {
    /// There is more to come.
    More,
    /// Nothing is stored.
    Nothing,
    /// Everything is here, and can be shown.
    Whole(Box<RestoreLoad<T>>),
    Failed(Cause),
}

impl<T: Send + Sync + 'static> Restore<T> {
    pub(crate) fn new(feed: Feed, stored: mpsc::Receiver<Result<Stored, Cause>>) -> Self {
        Restore { feed: Some(feed), stored, taken: None }
    }

    /// The next of what is stored; cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Stored, Cause>> {
        self.stored.recv().await
    }

    /// Takes it in.
    pub(crate) fn take(
        &mut self,
        stored: Option<Result<Stored, Cause>>,
        writer: &mut Writer<T>,
    ) -> Restored<T> {
        match (stored.transpose(), &mut self.taken) {
            (Err(cause), _) => Restored::Failed(cause),
            (Ok(Some(Stored::Found { through, stored_at })), _) => {
                let loading = writer.begin_load(false, false);
                self.taken = Some(RestoreLoad { loading, through, stored_at });
                Restored::More
            }
            (Ok(Some(Stored::Refused(former))), Some(taken)) => {
                taken.loading.remember(former);
                Restored::More
            }
            (Ok(Some(Stored::Page(kvs))), Some(taken)) => {
                match writer.load_page(&mut taken.loading, kvs) {
                    Ok(()) => Restored::More,
                    Err(bad) => Restored::Failed(Arc::new(bad)),
                }
            }
            (Ok(Some(Stored::End)), taken) => match taken.take() {
                Some(taken) => Restored::Whole(Box::new(taken)),
                None => Restored::Nothing,
            },
            // The feed is gone before its end.
            (Ok(Some(Stored::Page(_) | Stored::Refused(_)) | None), _) => {
                let gone = std::io::Error::other("what is stored ended before its end");
                Restored::Failed(Arc::new(gone))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::KeySpace;

    #[test]
    fn h73_restored_records_have_numbers_that_etcd_can_give() {
        for (version, fits) in [(1, true), (-1, false)] {
            let builder = KeySpace::<Vec<u8>>::builder("/k/").unwrap().bytes();
            let (_ks, mut writer) = builder.writer();
            let (_sender, stored) = mpsc::channel(1);
            let mut warm = Restore::new(Box::pin(async {}), stored);
            let through = Through { cluster_id: 1, epoch: 1, revision: 9 };
            let found = Stored::Found { through, stored_at: SystemTime::UNIX_EPOCH };
            assert!(matches!(warm.take(Some(Ok(found)), &mut writer), Restored::More));
            let kv = RawKeyValue {
                key: b"/k/a".into(),
                create_revision: 3,
                mod_revision: 3,
                version,
                ..RawKeyValue::default()
            };
            let taken = warm.take(Some(Ok(Stored::Page(vec![kv]))), &mut writer);
            assert_eq!(matches!(taken, Restored::More), fits);
            assert_eq!(matches!(taken, Restored::Failed(_)), !fits);
        }
    }
}
