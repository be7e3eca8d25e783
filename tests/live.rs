//! Following a real etcd that behaves. What the themes under `tests/live/` share.
//!
//! Each test ends with the comparison of the whole key space with etcd, where both are left.

#[path = "live/ends.rs"]
mod ends;
#[path = "live/following.rs"]
mod following;
#[path = "live/loading.rs"]
mod loading;
#[path = "live/sizes.rs"]
mod sizes;
mod support;
#[path = "live/waiting.rs"]
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{
    Client, ConnectOptions, Permission, PutOptions, RoleRevokePermissionOptions, TxnOp,
    WatchOptions,
};
use etcd_keyspace::{DeltaOrigin, Etcd, EtcdOptions, Revision, State, StopReason, View, WaitError};
use support::etcd::free_port;
use support::real::{
    Bytes, Steps, at, commit, delete, delete_prefix, fail_to_commit, mirror, poll_until,
    print_times, put, reaches, revision, start,
};
use support::verify::equals_etcd;
use support::{EtcdServer, Proxy, shared, still_pending, unique_prefix, within};
use tokio::task::JoinSet;

/// The delays each way of following is tried with: none, the default, a long one.
const DELAYS: [Option<Duration>; 3] =
    [Some(Duration::ZERO), None, Some(Duration::from_millis(200))];

/// Starts one mirror for each of [`DELAYS`].
async fn start_all(server: &EtcdServer, prefix: &str) -> Vec<Bytes> {
    let mut all = Vec::new();
    for delay in DELAYS {
        let builder = mirror(prefix);
        let builder = match delay {
            Some(delay) => builder.apply_delay(delay),
            None => builder,
        };
        all.push(builder.start(at(server.endpoint())).await.unwrap());
    }
    all
}

/// Puts `keys` keys named by seven digits in few large transactions.
async fn fill(client: &mut Client, prefix: &str, keys: usize, value_bytes: usize) {
    let value = "v".repeat(value_bytes);
    let numbers: Vec<usize> = (0..keys).collect();
    for chunk in numbers.chunks(10_000.min(1_000_000 / (value_bytes + 30))) {
        let put = |n| TxnOp::put(format!("{prefix}{n:07}"), value.as_str(), None);
        commit(client, chunk.iter().map(put).collect::<Vec<_>>()).await;
    }
}
