//! A history in which each step is known from its number, so that what survived can be judged.
//!
//! Step `n` stores two events and changes one key, ending at cursor `n`. Owns making the steps and
//! checking what is stored.

use std::collections::BTreeMap;

use etcd_keyspace::journal::{
    Journal, MirrorBatch, NewEvent, Operation, Position, ReadError, StateChange,
};

use super::{at_once, cursor, put};

pub(crate) const MIRROR: &str = "model";
pub(crate) const WATCHER: &str = "watcher";
/// Events of each step.
pub(crate) const EVENTS: u64 = 2;
const KEYS: u64 = 7;

fn change(n: u64) -> StateChange {
    let key = format!("/k/{}", n % KEYS);
    if n.is_multiple_of(5) {
        StateChange::Delete(key.into_bytes())
    } else {
        put(&key, &n.to_string(), i64::try_from(n).unwrap())
    }
}

fn after(n: u64) -> Option<etcd_keyspace::journal::Cursor> {
    (n > 0).then(|| cursor(i64::try_from(n).unwrap()))
}

/// The batch of step `n`.
pub(crate) fn step(n: u64) -> MirrorBatch {
    let mut batch = MirrorBatch::new(MIRROR, after(n - 1), cursor(i64::try_from(n).unwrap()));
    batch.changes = vec![change(n)];
    let event = |part| {
        NewEvent::new(Operation::Update, "step", format!("{n}/{part}"))
            .mirrored(format!("/k/{}", n % KEYS), i64::try_from(n).unwrap())
    };
    batch.events = (0..EVENTS).map(event).collect();
    batch
}

/// The step that is stored.
pub(crate) async fn stored_step(journal: &Journal) -> Result<u64, ReadError> {
    let stored = journal.cursor(MIRROR).await?;
    Ok(stored.map_or(0, |stored| u64::try_from(stored.cursor.revision).unwrap()))
}

/// Checks that events, state and cursor are those of one step (J1, J2, J4), and gives it.
pub(crate) async fn check(journal: &Journal) -> u64 {
    let step = stored_step(journal).await.unwrap();
    let status = journal.status();
    assert_eq!(status.next, step * EVENTS + 1, "events and cursor are of different steps");
    let mut position = Position::Oldest;
    let mut expected = status.oldest;
    loop {
        let page = journal.events_with(position, &at_once()).await.unwrap();
        if page.events.is_empty() {
            break;
        }
        for event in &page.events {
            let (of, part) = ((expected - 1) / EVENTS + 1, (expected - 1) % EVENTS);
            assert_eq!(event.sequence, expected, "a gap");
            assert_eq!(event.object, format!("{of}/{part}").into_bytes());
            expected += 1;
        }
        position = page.next;
    }
    assert_eq!(expected, status.next, "events are missing");
    check_state(journal, step).await;
    let checkpoint = journal.checkpoint(WATCHER).await.unwrap();
    let checkpoint = checkpoint.map_or(0, |checkpoint| checkpoint.sequence);
    assert!(checkpoint < status.next, "checkpoint {checkpoint} ran ahead of {}", status.next);
    step
}

async fn check_state(journal: &Journal, step: u64) {
    let mut expected = BTreeMap::new();
    for n in 1..=step {
        match change(n) {
            StateChange::Put(kv) => expected.insert(kv.key.clone(), kv),
            StateChange::Delete(key) => expected.remove(&key),
        };
    }
    let mut stored = Vec::new();
    if let Some(mut reader) = journal.state(MIRROR).await.unwrap() {
        loop {
            let page = reader.page(3).unwrap();
            if page.is_empty() {
                break;
            }
            stored.extend(page);
        }
    }
    assert_eq!(stored, expected.into_values().collect::<Vec<_>>(), "state of step {step}");
}
