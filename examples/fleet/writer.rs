//! Filling the prefix, and writing into it at a steady pace.
//!
//! Owns the keys and what a value says: when it was written. Must not know who follows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::{Client, Txn, TxnOp};
use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::etcd::EtcdServer;
use crate::{Failure, PREFIX, Settings};

/// etcd takes so many operations in one transaction.
const OPS: usize = 128;
/// Puts under way at a time: a pace that etcd does not keep must not pile up for ever.
const UNDER_WAY: usize = 256;
/// How long a pause between two rounds of puts is.
const ROUND: Duration = Duration::from_millis(5);

/// The key number `index`, 41 bytes long.
pub(crate) fn key(index: usize) -> String {
    format!("{PREFIX}services/instances/{index:015}")
}

/// Times in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct Times(Arc<Mutex<Histogram<u64>>>);

impl Times {
    pub(crate) fn new() -> Self {
        Times(Arc::new(Mutex::new(Histogram::new(3).expect("three digits are allowed"))))
    }

    pub(crate) fn note(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.record(micros).expect("it grows to what it is given");
    }

    /// What was noted since the last call.
    pub(crate) fn take(&self) -> Histogram<u64> {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = times.clone();
        times.reset();
        taken
    }
}

/// A clock that values are written by, shared with whoever reads them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Clock(Instant::now())
    }

    /// A value of now.
    fn value(self, bytes: usize) -> Vec<u8> {
        let micros = u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut value = micros.to_be_bytes().to_vec();
        value.resize(bytes.max(8), b'v');
        value
    }

    /// How long ago `value` was written.
    pub(crate) fn age(self, value: &[u8]) -> Option<Duration> {
        let micros = u64::from_be_bytes(*value.first_chunk()?);
        Some(self.0.elapsed().saturating_sub(Duration::from_micros(micros)))
    }
}

/// Writes every key once.
pub(crate) async fn fill(
    client: &Client,
    clock: Clock,
    settings: &Settings,
) -> Result<(), Failure> {
    let all: Vec<usize> = (0..settings.keys).collect();
    for some in all.chunks(OPS) {
        let put = |index: &usize| TxnOp::put(key(*index), clock.value(settings.value_bytes), None);
        client
            .kv_client()
            .txn(Txn::new().and_then(some.iter().map(put).collect::<Vec<_>>()))
            .await?;
    }
    Ok(())
}

/// Puts at a pace until it is dropped.
pub(crate) struct Writer {
    /// How long puts took.
    pub(crate) times: Times,
    task: JoinHandle<()>,
}

impl Writer {
    pub(crate) fn start(client: Client, clock: Clock, rate: u32, settings: &Settings) -> Self {
        let times = Times::new();
        let task = tokio::spawn(write(client, clock, rate, settings.clone(), times.clone()));
        Writer { times, task }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn write(client: Client, clock: Clock, rate: u32, settings: Settings, times: Times) {
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    let mut puts = JoinSet::new();
    let begun = Instant::now();
    for number in 0.. {
        let due = begun + Duration::from_secs(number as u64) / rate.max(1);
        while Instant::now() < due {
            tokio::time::sleep(ROUND).await;
        }
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        while puts.try_join_next().is_some() {}
        // A stride that shares no factor with round numbers visits all keys in no order.
        let key = key(number * 7_919 % settings.keys.max(1));
        let (mut kv, times, value) =
            (client.kv_client(), times.clone(), clock.value(settings.value_bytes));
        puts.spawn(async move {
            let asked = Instant::now();
            // While etcd is away a put fails; the pace goes on.
            if kv.put(key, value, None).await.is_ok() {
                times.note(asked.elapsed());
            }
            drop(permit);
        });
    }
}

/// A server with the prefix filled, and a client of it.
pub(crate) async fn server(
    clock: Clock,
    settings: &Settings,
) -> Result<(EtcdServer, Client), Failure> {
    let server = EtcdServer::start().await?;
    let client = server.client().await;
    fill(&client, clock, settings).await?;
    Ok((server, client))
}
