//! From just before a write until it is visible: through the key space, and on a bare watch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Client, ResponseHeader, WatchOptions};
use etcd_keyspace::{KeySpace, Revision};
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

use crate::failure::Failure;

/// When writes began, and when each of two watchers had seen them.
pub(crate) struct Stopwatch {
    writes: Mutex<Vec<(Revision, Instant)>>,
    /// A watch of the client library on a connection of its own, with nothing behind it.
    pub(crate) bare: Seen,
    /// A reader of the key space.
    pub(crate) mirror: Seen,
}

/// How far a watcher has seen, and since when.
pub(crate) struct Seen {
    log: Mutex<Vec<(Revision, Instant)>>,
    reached: watch::Sender<Revision>,
}

impl Stopwatch {
    pub(crate) async fn start<T: Send + Sync + 'static>(
        ks: &KeySpace<T>,
        client: Client,
        prefix: &str,
    ) -> Result<Arc<Self>, Failure> {
        let stopwatch = Arc::new(Stopwatch {
            writes: Mutex::default(),
            bare: Seen::new(),
            mirror: Seen::new(),
        });
        let options = WatchOptions::new().with_prefix();
        let mut stream = client.watch_client().watch(prefix, Some(options)).await?;
        let this = Arc::clone(&stopwatch);
        tokio::spawn(async move {
            // The stream ends with its client.
            let _client = client;
            while let Ok(Some(response)) = stream.message().await {
                let last = response.events().last().and_then(|event| event.kv());
                if let Some(kv) = last {
                    this.bare.saw(kv.mod_revision());
                }
            }
        });
        let (this, ks) = (Arc::clone(&stopwatch), ks.clone());
        tokio::spawn(async move {
            loop {
                // Counted from here, so a step between the read and the wait is not missed.
                let next = ks.updated();
                let revision = ks.snapshot().revision();
                this.mirror.saw(revision);
                if next.await.is_err() {
                    return;
                }
            }
        });
        Ok(stopwatch)
    }

    /// Notes a write that began at `begun`; gives its revision.
    pub(crate) fn wrote(&self, header: Option<&ResponseHeader>, begun: Instant) -> Revision {
        let revision = header.map_or(0, ResponseHeader::revision);
        lock(&self.writes).push((revision, begun));
        revision
    }

    /// How many writes were noted.
    pub(crate) fn writes(&self) -> usize {
        lock(&self.writes).len()
    }

    /// The times of the writes from the `first` on, as one watcher saw them.
    pub(crate) fn delays(&self, seen: &Seen, first: usize) -> Delays {
        let log = lock(&seen.log);
        let mut delays: Vec<Duration> = Vec::new();
        for (revision, begun) in lock(&self.writes).iter().skip(first) {
            let at = log.partition_point(|(seen, _)| seen < revision);
            delays.extend(log.get(at).map(|(_, seen)| seen.saturating_duration_since(*begun)));
        }
        delays.sort_unstable();
        Delays(delays)
    }
}

impl Seen {
    fn new() -> Self {
        Seen { log: Mutex::default(), reached: watch::Sender::new(0) }
    }

    fn saw(&self, revision: Revision) {
        if *self.reached.borrow() < revision {
            lock(&self.log).push((revision, Instant::now()));
            self.reached.send_replace(revision);
        }
    }

    /// Waits until the watcher has seen `revision`.
    pub(crate) async fn reaches(&self, revision: Revision) {
        // The sender is right here, so this ends only when it is reached.
        let _ = self.reached.subscribe().wait_for(|reached| *reached >= revision).await;
    }
}

/// Delays in ascending order.
pub(crate) struct Delays(Vec<Duration>);

impl Delays {
    /// The delay that `percent` of all do not exceed; zero for none.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }
}

fn lock<V>(mutex: &Mutex<V>) -> std::sync::MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
