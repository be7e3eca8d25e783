//! Key spaces on demand: shared starts, idle stops, bounds, and one revision across several; on a fake
//! etcd with a paused clock, and on a real one.
#![cfg(feature = "test-util")]

#[path = "cache/bounds.rs"]
mod bounds;
#[path = "cache/cuts.rs"]
mod cuts;
#[path = "cache/faults.rs"]
mod faults;
#[path = "cache/idle.rs"]
mod idle;
#[path = "cache/money.rs"]
mod money;
#[path = "cache/starts.rs"]
mod starts;
mod support;

use std::time::Duration;

use etcd_keyspace::testing::{Call, FakeEtcd, Op};
use etcd_keyspace::{
    Cut, CutError, GetError, KeyRange, KeySpaces, KeySpacesBuilder, Revision, SourceErrorKind,
    SpaceState, State, StopReason, bytes,
};
use tokio::time::{Instant, sleep, timeout};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

type Spaces = KeySpaces<Vec<u8>>;

/// An etcd without periodic progress, so that an idle paused clock does not jump by minutes.
fn etcd() -> FakeEtcd {
    let etcd = FakeEtcd::new();
    etcd.set_progress_interval(None);
    etcd
}

/// A cache with short, repeatable times.
fn builder(etcd: &FakeEtcd) -> KeySpacesBuilder<Vec<u8>> {
    let each = |_: &KeyRange, builder: etcd_keyspace::Builder<Vec<u8>>| {
        builder.seed(7).check_interval(SECOND).backoff(100 * MS, 2 * SECOND)
    };
    KeySpaces::builder(etcd.clone(), bytes()).seed(7).each(each)
}

fn spaces(etcd: &FakeEtcd) -> Spaces {
    builder(etcd).build()
}

/// Waits until the fake has this many watchers.
async fn watchers(etcd: &FakeEtcd, watchers: u64) {
    etcd.until(|counts| counts.watchers == watchers).await;
}

/// Lets the clock run, in steps of a millisecond, until so many are held.
async fn holds(spaces: &Spaces, held: usize) {
    for _ in 0..600_000 {
        if spaces.stats().held == held {
            return;
        }
        sleep(MS).await;
    }
    panic!("{held} are never held: {spaces:?}");
}

/// How many of each state are listed: starting, in use, idle, failed.
fn listed(spaces: &Spaces) -> [usize; 4] {
    let mut states = [0; 4];
    for info in spaces.list() {
        let index = match info.state {
            SpaceState::Starting => 0,
            SpaceState::InUse => 1,
            SpaceState::Idle { .. } => 2,
            SpaceState::Failed { .. } => 3,
            other => panic!("{other:?}"),
        };
        states[index] += 1;
    }
    states
}
