//! Who changes things while the page is watched: a fleet of backends whose weights move.
//!
//! Owns the writers of the embedded etcd. Must never write to an etcd that somebody brought.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcd_client::Client;
use tokio::time::sleep;

use crate::etcd::EtcdServer;
use crate::failure::Failure;

const ZONES: [&str; 4] = ["ap-south", "eu-north", "eu-west", "us-east"];
const BACKENDS: u64 = 120;
/// Between two writes, in calm and in busy times.
const CALM: Duration = Duration::from_millis(150);
const BUSY: Duration = Duration::from_millis(8);
/// Writes until calm and busy times change places.
const TURN: u64 = 200;

/// Writes until something fails; without a server it never does anything.
pub(crate) async fn run(server: Option<&EtcdServer>, prefix: &str) -> Failure {
    let Some(server) = server else { return std::future::pending().await };
    match write(server.client().await, prefix).await {
        Err(failure) => failure,
        Ok(never) => match never {},
    }
}

async fn write(mut etcd: Client, prefix: &str) -> Result<std::convert::Infallible, Failure> {
    let mut random = 1_u64;
    let mut below = move |bound: u64| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    for id in 0..BACKENDS {
        put(&mut etcd, prefix, id, 1 + below(9)).await?;
    }
    for count in 0_u64.. {
        let busy = (count / TURN) % 2 == 1;
        sleep(if busy { BUSY } else { CALM }).await;
        let id = below(BACKENDS);
        if below(12) == 0 {
            etcd.delete(key(prefix, id), None).await?;
        } else {
            put(&mut etcd, prefix, id, 1 + below(9)).await?;
        }
    }
    Err(Failure::with_advice("all writes are written", "start anew"))
}

fn key(prefix: &str, id: u64) -> String {
    let zone = ZONES[usize::try_from(id % 4).unwrap_or(0)];
    format!("{prefix}{zone}/{id:03}")
}

/// Writes a backend with the time it was written at, which the page makes its latency of.
async fn put(etcd: &mut Client, prefix: &str, id: u64, weight: u64) -> Result<(), Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let value = format!(
        r#"{{"address":"10.0.{}.{}:8080","weight":{weight},"written_us":{now}}}"#,
        id % 4,
        id / 4
    );
    etcd.put(key(prefix, id), value, None).await?;
    Ok(())
}
