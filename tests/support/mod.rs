//! What the integration tests share: a real etcd, a proxy with faults, and bounded waiting.
//!
//! Waiting is for an event, with a bound that fails the test and says for what it waited. Nothing
//! here sleeps to let something happen. Times are real: not for tests that pause tokio's clock.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test uses a part of this")]

pub mod etcd;
pub mod proxy;
pub mod real;
pub mod verify;

use std::fmt::Debug;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OnceCell, watch};

pub use etcd::{Cluster, EtcdBuilder, EtcdServer, GrpcProxy, StartError};
pub use proxy::{Direction, Mode, Proxy};

/// The bound of a wait that ends at once when all is well: long enough for a loaded machine.
pub const WAIT_MAX: Duration = Duration::from_secs(20);

/// The one server of this test process, for tests that share it politely: keys under a
/// [`unique_prefix`] of their own, no compaction, no fault, no conclusion from the store revision.
/// It ends with the process.
///
/// # Panics
/// If it cannot be started, with the reason.
pub async fn shared() -> &'static EtcdServer {
    static SHARED: OnceCell<EtcdServer> = OnceCell::const_new();
    let start = async || EtcdServer::start().await.expect("the shared etcd starts");
    SHARED.get_or_init(start).await
}

/// A prefix that no other call in this process gets: `/name-1/`.
pub fn unique_prefix(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("/{name}-{}/", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The output of `future`.
///
/// # Panics
/// If it takes longer than [`WAIT_MAX`]; `what` says what did not happen.
#[track_caller]
pub fn within<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(WAIT_MAX, future).await {
            Ok(output) => output,
            Err(_) => panic!("{caller}: not in {WAIT_MAX:?}: {what}"),
        }
    }
}

/// Waits until the watched value meets `condition` and returns it. Wakes at each change only.
///
/// # Panics
/// If that takes longer than [`WAIT_MAX`] or the sender is dropped before; shows the last value.
#[track_caller]
pub fn wait_until<T: Clone + Debug>(
    what: &str,
    values: &mut watch::Receiver<T>,
    condition: impl FnMut(&T) -> bool,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let found = async { values.wait_for(condition).await.map(|value| value.clone()) };
        let fault = match tokio::time::timeout(WAIT_MAX, found).await {
            Ok(Ok(value)) => return value,
            Ok(Err(_)) => "not before the sender went",
            Err(_) => "not in 20 seconds",
        };
        panic!("{caller}: {fault}: {what}; last {:?}", *values.borrow())
    }
}

/// Asserts that `future` is still pending after `quiet`; it can be awaited afterwards.
///
/// # Panics
/// If it completes; `what` says what should not have happened.
#[track_caller]
pub fn still_pending<F: Future<Output: Debug> + Unpin>(
    what: &str,
    quiet: Duration,
    future: &mut F,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        if let Ok(output) = tokio::time::timeout(quiet, future).await {
            panic!("{caller}: {what}, but it gave {output:?}");
        }
    }
}
