//! The mirror's loop on a fake etcd and a paused clock: loading, batching, progress, liveness.
#![cfg(feature = "test-util")]

#[path = "mirror/ages.rs"]
mod ages;
#[path = "mirror/batching.rs"]
mod batching;
mod fake;
#[path = "mirror/histories.rs"]
mod histories;
#[path = "mirror/liveness.rs"]
mod liveness;
#[path = "mirror/loading.rs"]
mod loading;
#[path = "mirror/logs.rs"]
mod logs;
#[path = "mirror/own_writes.rs"]
mod own_writes;
#[path = "mirror/panics.rs"]
mod panics;
#[path = "mirror/progress.rs"]
mod progress;
#[path = "mirror/spans.rs"]
mod spans;
#[path = "mirror/wire.rs"]
mod wire;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_keyspace::testing::{Bug, Call, FakeEtcd, Op};
use etcd_keyspace::{
    Etcd, EtcdOptions, Header, KeySpace, OnHistoryChange, OnHold, ProgressBy, RawKeyValue,
    Revision, SourceErrorKind, State, StopReason, WaitError, WatchResponse,
};
use fake::{assert_same, assert_shows, builder, etcd, reaches, start, version};
use tokio::time::{Instant, timeout};

const MS: Duration = Duration::from_millis(1);

/// Counts the steps observers see.
fn count_steps(ks: &KeySpace<Vec<u8>>) -> Arc<AtomicUsize> {
    let steps = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&steps);
    ks.observe(move |_, _, _| {
        seen.fetch_add(1, Ordering::SeqCst);
    });
    steps
}
