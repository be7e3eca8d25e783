//! Following a real etcd that dies, stalls, forgets and comes back as another.
//!
//! Each test ends with the comparison of the whole key space with etcd, where both are left.

#[path = "faults/connection.rs"]
mod connection;
#[path = "faults/history.rs"]
mod history;
#[path = "faults/process.rs"]
mod process;
#[path = "faults/replaced.rs"]
mod replaced;
mod support;
#[path = "faults/terms.rs"]
mod terms;

use std::collections::HashSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, TxnOp};
use etcd_keyspace::{
    DeltaOrigin, Etcd, EtcdOptions, OnHistoryChange, State, StopReason, WaitError,
};
use support::real::{
    Bytes, Steps, at, commit, delete, delete_prefix, mirror, poll_until, put, put_in_the_end,
    reaches, revision, start, waiter,
};
use support::verify::equals_etcd;
use support::{Cluster, Direction, EtcdServer, Proxy, still_pending, within};

const MS: Duration = Duration::from_millis(1);

/// A server with a proxy in front of it, and a mirror of `/k/` through the proxy.
struct Fixture {
    server: EtcdServer,
    proxy: Proxy,
    client: Client,
    ks: Bytes,
}

impl Fixture {
    /// With ten keys: `/k/0` to `/k/9`.
    async fn new() -> Self {
        let server = EtcdServer::start().await.unwrap();
        let proxy = Proxy::start(&server.endpoint()).await.unwrap();
        let mut client = server.client().await;
        for i in 0..10 {
            put(&mut client, format!("/k/{i}"), "first").await;
        }
        let ks = start(proxy.endpoint(), "/k/").await;
        equals_etcd(&ks, &mut client, "/k/").await;
        Fixture { server, proxy, client, ks }
    }

    async fn equal(&mut self) {
        equals_etcd(&self.ks, &mut self.client, "/k/").await;
        reaches(&self.ks, State::Live).await;
    }
}
