//! What the example keeps in etcd, and who writes it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Client, Txn, TxnOp};
use tokio::task::JoinSet;

use crate::etcd::EtcdServer;
use crate::failure::Failure;
use crate::latency::Stopwatch;

const ZONES: [&str; 5] = ["ap-south", "eu-north", "eu-west", "us-east", "us-west"];
const BACKENDS: u64 = 10_000;
/// etcd refuses transactions of more operations (`--max-txn-ops`).
const TXN_OPS_MAX: u64 = 128;
const WRITERS: u64 = 3;
const BETWEEN_WRITES: Duration = Duration::from_millis(3);

/// The value of a key, in etcd as JSON.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Backend {
    pub(crate) zone: String,
    pub(crate) address: String,
    pub(crate) weight: u32,
}

/// The key and the JSON of backend `id`; each backend stays in its zone.
pub(crate) fn record(prefix: &str, id: u64, weight: u64) -> (String, String) {
    let zone = ZONES[usize::try_from(id % 5).unwrap_or(0)];
    let key = format!("{prefix}{zone}/{id:05}");
    let address = format!("10.{}.{}.{}:8080", id % 5, id / 250, id % 250);
    (key, format!(r#"{{"zone":"{zone}","address":"{address}","weight":{weight}}}"#))
}

/// Writes all backends; gives their number.
pub(crate) async fn seed(client: &mut Client, prefix: &str) -> Result<u64, Failure> {
    for first in (0..BACKENDS).step_by(128) {
        let ids = first..(first + TXN_OPS_MAX).min(BACKENDS);
        let put = |id| {
            let (key, json) = record(prefix, id, 1 + id % 10);
            TxnOp::put(key, json, None)
        };
        client.txn(Txn::new().and_then(ids.map(put).collect::<Vec<_>>())).await?;
    }
    Ok(BACKENDS)
}

/// Tasks that change weights, and now and then remove a backend or bring one back.
pub(crate) struct Writers {
    tasks: JoinSet<Failure>,
}

impl Writers {
    pub(crate) async fn start(server: &EtcdServer, prefix: &str, watch: &Arc<Stopwatch>) -> Self {
        let mut tasks = JoinSet::new();
        for seed in 1..=WRITERS {
            let (prefix, watch) = (prefix.to_owned(), Arc::clone(watch));
            let client = server.client().await;
            tasks.spawn(async move {
                match write(client, &prefix, seed, &watch).await {
                    Err(failure) => failure,
                    Ok(never) => match never {},
                }
            });
        }
        Writers { tasks }
    }

    /// Waits for a writer to fail; they never end otherwise.
    pub(crate) async fn failed(&mut self) -> Failure {
        match self.tasks.join_next().await {
            Some(Ok(failure)) => failure,
            Some(Err(error)) => Failure::new(error),
            None => std::future::pending().await,
        }
    }
}

async fn write(
    mut client: Client,
    prefix: &str,
    seed: u64,
    watch: &Stopwatch,
) -> Result<std::convert::Infallible, Failure> {
    let mut random = seed;
    let mut below = move |bound: u64| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    loop {
        tokio::time::sleep(BETWEEN_WRITES).await;
        let (key, json) = record(prefix, below(BACKENDS), 1 + below(10));
        let begun = Instant::now();
        if below(20) == 0 {
            let deleted = client.delete(key, None).await?;
            if deleted.deleted() > 0 {
                watch.wrote(deleted.header(), begun);
            }
        } else {
            let put = client.put(key, json, None).await?;
            watch.wrote(put.header(), begun);
        }
    }
}
