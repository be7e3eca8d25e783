//! The journal: its order, what an acknowledgement is worth, reading, watchers, and failing storage.
//!
//! Owns the short forms; each theme has its file under `tests/journal/`. The numbers J1 to J8 are
//! those of the module's documentation.
#![cfg(feature = "journal")]

#[cfg(feature = "test-util")]
#[path = "journal/audited.rs"]
mod audited;
#[path = "journal/crash.rs"]
mod crash;
#[path = "journal/crash_mirrored.rs"]
mod crash_mirrored;
#[cfg(feature = "test-util")]
#[path = "journal/damaged.rs"]
mod damaged;
#[path = "journal/faults.rs"]
mod faults;
#[path = "journal/faulty.rs"]
mod faulty;
#[path = "journal/fixture.rs"]
mod fixture;
#[path = "journal/history.rs"]
mod history;
#[path = "journal/kit.rs"]
mod kit;
#[path = "journal/lifecycle.rs"]
mod lifecycle;
#[cfg(feature = "test-util")]
#[path = "journal/mirrored.rs"]
mod mirrored;
#[path = "journal/model.rs"]
mod model;
#[path = "journal/opening.rs"]
mod opening;
#[cfg(feature = "test-util")]
#[path = "journal/power.rs"]
mod power;
#[path = "journal/reading.rs"]
mod reading;
#[path = "journal/refusals.rs"]
mod refusals;
#[cfg(feature = "test-util")]
#[path = "journal/rejected.rs"]
mod rejected;
#[path = "journal/state.rs"]
mod state;
#[path = "journal/storing.rs"]
mod storing;
mod support;
#[path = "journal/watchers.rs"]
mod watchers;

use std::sync::Arc;
use std::time::Duration;

use etcd_keyspace::RawKeyValue;
use etcd_keyspace::journal::{
    Cursor, Filter, Journal, JournalOptions, MemoryStorage, NewEvent, Operation, Page, Position,
    ReadOptions, StateChange, StoredEvent,
};

/// How long something may take that is bound to happen.
const SOON: Duration = Duration::from_secs(30);

fn event(n: u64) -> NewEvent {
    NewEvent::new(Operation::Create, "thing", n.to_string())
}

fn events(numbers: impl IntoIterator<Item = u64>) -> Vec<NewEvent> {
    numbers.into_iter().map(event).collect()
}

async fn in_memory() -> Journal {
    Journal::in_memory(JournalOptions::new()).await.unwrap()
}

async fn reopened(storage: &MemoryStorage) -> Journal {
    Journal::open_in(storage.opener(), JournalOptions::new()).await.unwrap()
}

/// What is there now, without waiting.
fn at_once() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.limit = usize::MAX;
    options.timeout = Some(Duration::ZERO);
    options
}

/// Everything there is, in order. The numbers have no gap (J1).
async fn all(journal: &Journal) -> Vec<Arc<StoredEvent>> {
    let mut all = Vec::new();
    let mut position = Position::Oldest;
    loop {
        let Page { events, next, .. } = journal.events_with(position, &at_once()).await.unwrap();
        if events.is_empty() {
            break;
        }
        all.extend(events);
        position = next;
    }
    for pair in all.windows(2) {
        assert_eq!(pair[0].sequence + 1, pair[1].sequence, "a gap");
    }
    all
}

fn texts(events: &[Arc<StoredEvent>]) -> Vec<String> {
    events.iter().map(|event| String::from_utf8(event.object.clone()).unwrap()).collect()
}

fn cursor(revision: i64) -> Cursor {
    Cursor { cluster_id: 7, epoch: 1, revision }
}

fn record(key: &str, value: &str, revision: i64) -> RawKeyValue {
    RawKeyValue {
        key: key.into(),
        value: value.into(),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        lease: 9,
    }
}

fn put(key: &str, value: &str, revision: i64) -> StateChange {
    StateChange::Put(record(key, value, revision))
}

async fn sequences(journal: &Journal, position: Position, filter: &Filter) -> Vec<u64> {
    let page = journal.events(position, usize::MAX, filter).await.unwrap();
    page.events.iter().map(|event| event.sequence).collect()
}
