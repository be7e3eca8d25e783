//! Mirrors of a real etcd, and what their tests ask of both.
//!
//! Owns the short forms: starting a mirror, writing to etcd, recording what observers are shown.
//! Must not decide what is right.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use etcd_client::{Client, Compare, CompareOp, GetOptions, Txn, TxnOp};
use etcd_keyspace::{
    Builder, Change, DeltaOrigin, Etcd, EtcdOptions, KeyRange, KeySpace, Observer, Revision, State,
    WaitError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::{EtcdServer, WAIT_MAX};

/// A key space of plain bytes.
pub type Bytes = KeySpace<Vec<u8>>;

/// Builds a mirror of `prefix` with short delays after failures.
pub fn mirror(prefix: &str) -> Builder<Vec<u8>> {
    let builder = KeySpace::builder(KeyRange::prefix(prefix)).expect("a prefix is not empty");
    builder.bytes().backoff(Duration::from_millis(20), Duration::from_millis(200))
}

/// Etcd at one endpoint, with default options.
pub fn at(endpoint: impl Into<String>) -> Etcd {
    Etcd::new([endpoint], EtcdOptions::new())
}

/// Starts a mirror of `prefix` with short delays after failures.
///
/// # Panics
/// If it does not start.
pub async fn start(endpoint: impl Into<String>, prefix: &str) -> Bytes {
    let started = mirror(prefix).start(at(endpoint));
    super::within("the mirror starts", started).await.expect("the mirror starts")
}

/// Puts a key; the revision of that.
///
/// # Panics
/// If etcd refuses it.
pub async fn put(client: &mut Client, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Revision {
    let answer = client.put(key.as_ref(), value.as_ref(), None).await.expect("a put");
    answer.header().expect("an answer has a header").revision()
}

/// Puts a key as soon as the cluster takes it; the revision of that.
///
/// # Panics
/// If it never does.
pub async fn put_in_the_end(
    client: &mut Client,
    key: impl AsRef<[u8]>,
    value: impl AsRef<[u8]>,
) -> Revision {
    let (key, value) = (key.as_ref(), value.as_ref());
    let done = async {
        loop {
            // A proposal that falls into an election is answered after seven seconds.
            match tokio::time::timeout(Duration::from_millis(500), client.put(key, value, None))
                .await
            {
                Ok(Ok(put)) => return put.header().expect("an answer has a header").revision(),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    super::within("the cluster takes a put", done).await
}

/// Deletes a key; the revision of that.
///
/// # Panics
/// If etcd refuses it.
pub async fn delete(client: &mut Client, key: impl AsRef<[u8]>) -> Revision {
    let answer = client.delete(key.as_ref(), None).await.expect("a delete");
    answer.header().expect("an answer has a header").revision()
}

/// Commits operations as one revision; that revision.
///
/// # Panics
/// If etcd refuses them.
pub async fn commit(client: &mut Client, ops: impl Into<Vec<TxnOp>>) -> Revision {
    let answer = client.txn(Txn::new().and_then(ops)).await.expect("a transaction");
    answer.header().expect("an answer has a header").revision()
}

/// Commits a transaction whose condition does not hold; the store's revision, which did not move.
///
/// # Panics
/// If etcd refuses it.
pub async fn fail_to_commit(client: &mut Client, key: &str) -> Revision {
    let never = Compare::version(key, CompareOp::Equal, 1 << 40);
    let txn = Txn::new().when([never]).and_then([TxnOp::put(key, "", None)]);
    let answer = client.txn(txn).await.expect("a transaction");
    assert!(!answer.succeeded());
    answer.header().expect("an answer has a header").revision()
}

/// The store's revision now.
///
/// # Panics
/// If etcd does not answer.
pub async fn revision(client: &mut Client) -> Revision {
    let options = GetOptions::new().with_count_only();
    let answer = client.get("revision", Some(options)).await.expect("a read");
    answer.header().expect("an answer has a header").revision()
}

/// Deletes everything under `prefix` in one revision; that revision.
///
/// # Panics
/// If etcd refuses it.
pub async fn delete_prefix(client: &mut Client, prefix: &str) -> Revision {
    let options = etcd_client::DeleteOptions::new().with_prefix();
    let answer = client.delete(prefix, Some(options)).await.expect("a delete");
    answer.header().expect("an answer has a header").revision()
}

/// A task that waits for `revision`.
pub fn waiter(ks: &Bytes, revision: Revision) -> JoinHandle<Result<Revision, WaitError>> {
    let ks = ks.clone();
    tokio::spawn(async move { ks.wait_for_revision(revision).await })
}

/// What a server counts under a name that begins so, all labels together.
///
/// # Panics
/// If it does not say.
pub async fn metric(server: &EtcdServer, name: &str) -> u64 {
    let address = server.endpoint().replace("http://", "");
    let mut stream = TcpStream::connect(address).await.expect("the server runs");
    let ask = stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n");
    ask.await.expect("the server takes a request");
    let mut text = String::new();
    let read = super::within("the metrics", stream.read_to_string(&mut text)).await;
    read.expect("metrics are text");
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

/// One step as an observer was shown it. Changes are `+key`, `~key` (updated), `!key` (deleted and
/// created again) and `-key`, without the prefix of the key space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub origin: DeltaOrigin,
    pub to: Revision,
    pub epoch: u64,
    pub changes: Vec<String>,
}

/// Records every step from now on, what is there now included.
#[derive(Debug)]
pub struct Steps {
    steps: Arc<Mutex<Vec<Step>>>,
    _observer: Observer,
}

impl Steps {
    pub fn of(ks: &Bytes) -> Self {
        let steps = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&steps);
        let skip = ks.mirrored().start().len();
        let observer = ks.observe(move |delta, view, _| {
            let changes = delta.iter().map(|change| {
                let kind = match change {
                    Change::Added(_) => '+',
                    Change::Updated { .. } => '~',
                    Change::Replaced { .. } => '!',
                    Change::Removed(_) => '-',
                };
                format!("{kind}{}", String::from_utf8_lossy(&change.key()[skip..]))
            });
            let changes = changes.collect();
            let (origin, to, epoch) = (delta.origin(), delta.to_revision(), view.epoch());
            into.lock().unwrap().push(Step { origin, to, epoch, changes });
        });
        Steps { steps, _observer: observer }
    }

    /// The steps since the last call.
    pub fn take(&self) -> Vec<Step> {
        std::mem::take(&mut self.steps.lock().unwrap())
    }
}

/// Waits for something that has no event to wait for, by asking every few milliseconds.
///
/// # Panics
/// If that takes longer than the bound of all waits; shows the last value.
#[track_caller]
pub fn poll_until<V: Debug>(
    what: &str,
    mut ask: impl FnMut() -> V,
    mut holds: impl FnMut(&V) -> bool,
) -> impl Future<Output = Duration> {
    let caller = std::panic::Location::caller();
    async move {
        let begun = Instant::now();
        loop {
            let value = ask();
            if holds(&value) {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < WAIT_MAX, "{caller}: not: {what}; last {value:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Waits until the key space is in `state`; how long that took.
///
/// # Panics
/// As [`poll_until`].
#[track_caller]
pub fn reaches(ks: &Bytes, state: State) -> impl Future<Output = Duration> {
    poll_until("the state", || ks.status(), move |status| status.state == state)
}

/// Prints the median, the 99th percentile and the greatest of measured times.
pub fn print_times(what: &str, times: &mut [Duration]) -> Duration {
    times.sort();
    let p50 = times[times.len() / 2];
    let p99 = times[times.len() * 99 / 100];
    println!("{what}: p50 {p50:?}, p99 {p99:?}, max {:?}", times[times.len() - 1]);
    p50
}
