//! The store against a model: the state at any revision is the replay of the history up to it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{FakeEtcd, Op};
use crate::model::{Event, KeyRange, RawKeyValue};

/// Replays events as a client would, checking what etcd promises of each.
fn replay(state: &mut BTreeMap<Vec<u8>, RawKeyValue>, event: &Event) {
    match event {
        Event::Put(kv) => {
            match state.get(&kv.key) {
                Some(old) => {
                    assert_eq!(kv.create_revision, old.create_revision);
                    assert_eq!(kv.version, old.version + 1);
                }
                None => {
                    assert_eq!(kv.create_revision, kv.mod_revision);
                    assert_eq!(kv.version, 1);
                }
            }
            state.insert(kv.key.clone(), kv.clone());
        }
        Event::Delete { key, .. } => {
            state.remove(key).expect("only a key that is there is deleted");
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Txn(Vec<Change>),
    RevokeLease,
    Compact,
    Restore(u8),
}

#[derive(Debug, Clone)]
enum Change {
    Put(u8, bool),
    Delete(u8),
    DeleteRange(u8, u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        5 => (0..8_u8, any::<bool>()).prop_map(|(key, leased)| Change::Put(key, leased)),
        3 => (0..8_u8).prop_map(Change::Delete),
        1 => (0..8_u8, 0..8_u8).prop_map(|(from, to)| Change::DeleteRange(from, to)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => vec(change(), 1..4).prop_map(Step::Txn),
        1 => Just(Step::RevokeLease),
        1 => Just(Step::Compact),
        1 => any::<u8>().prop_map(Step::Restore),
    ]
}

fn run(etcd: &FakeEtcd, step: Step, lease: &mut i64) {
    match step {
        Step::Txn(changes) => {
            let op = |change| match change {
                Change::Put(key, true) => Op::put_leased([key], [key], *lease),
                Change::Put(key, false) => Op::put([key], [key]),
                Change::Delete(key) => Op::delete([key]),
                Change::DeleteRange(from, to) => Op::delete_range([from]..[to]),
            };
            etcd.txn(changes.into_iter().map(op));
        }
        Step::RevokeLease => {
            etcd.revoke_lease(*lease);
            *lease = etcd.grant_lease();
        }
        Step::Compact => etcd.compact(etcd.revision()),
        Step::Restore(back) => etcd.restore((etcd.revision() - i64::from(back % 4)).max(1)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn history_replays_to_the_state_of_every_revision(steps in vec(step(), 0..40)) {
        let etcd = FakeEtcd::new();
        let mut lease = etcd.grant_lease();
        for step in steps {
            run(&etcd, step, &mut lease);
        }
        let all = KeyRange::all();
        let history = etcd.history(&all, 0);
        prop_assert!(history.is_sorted_by_key(Event::mod_revision));
        let mut state = BTreeMap::new();
        let mut events = history.iter().peekable();
        for revision in 1..=etcd.revision() {
            while let Some(event) = events.next_if(|event| event.mod_revision() == revision) {
                replay(&mut state, event);
            }
            let shown = etcd.range_at(&all, revision);
            prop_assert_eq!(shown, state.values().cloned().collect::<Vec<_>>());
        }
        prop_assert!(events.next().is_none());
        let leases: BTreeSet<i64> = state.values().map(|kv| kv.lease).filter(|id| *id != 0).collect();
        for lease in leases {
            etcd.revoke_lease(lease);
        }
        prop_assert!(etcd.range(&all).iter().all(|kv| kv.lease == 0));
    }
}

#[test]
fn t15_a_key_may_come_twice_in_one_revision() {
    let etcd = FakeEtcd::new();
    etcd.put("a", "1");
    etcd.put("b", "1");
    let revision = etcd.txn([
        Op::delete("a"),
        Op::put("a", "2"),
        Op::put("b", "2"),
        Op::delete("b"),
        Op::put("c", "1"),
        Op::put("c", "2"),
    ]);
    assert_eq!(revision, 4);
    let a = etcd.get("a").unwrap();
    assert_eq!((a.create_revision, a.version), (4, 1));
    assert_eq!(etcd.get("b"), None);
    let c = etcd.get("c").unwrap();
    assert_eq!((c.create_revision, c.mod_revision, c.version), (4, 4, 2));
    let events = etcd.history(&KeyRange::all(), 4);
    let kinds: Vec<_> = events.iter().map(|event| matches!(event, Event::Put(_))).collect();
    assert_eq!(kinds, [false, true, true, false, true, true]);
}

#[test]
fn nothing_changed_takes_no_revision() {
    let etcd = FakeEtcd::new();
    assert_eq!(etcd.revision(), 1);
    assert_eq!(etcd.delete("a"), 1);
    assert_eq!(etcd.delete_range(KeyRange::all()), 1);
    assert_eq!(etcd.txn([]), 1);
    assert_eq!(etcd.put("a", ""), 2);
    assert_eq!(etcd.put("a", ""), 3, "a put of the same value is a write");
}

#[test]
fn f16_a_lease_takes_its_keys_at_one_revision() {
    let etcd = FakeEtcd::new();
    let lease = etcd.grant_lease();
    for key in 0..5_u8 {
        etcd.txn([Op::put_leased([key], "", lease)]);
    }
    etcd.put([1], "detached");
    etcd.put("z", "kept");
    assert_eq!(etcd.attach("z", lease), 9);
    assert_eq!(etcd.get("z").unwrap().value, b"kept");
    assert_eq!(etcd.revoke_lease(lease), 10);
    assert_eq!(etcd.range(&KeyRange::all()).len(), 1);
    assert_eq!(etcd.history(&KeyRange::all(), 10).len(), 5);
}

#[test]
fn f37_a_restore_keeps_ids_and_writes_another_history() {
    let etcd = FakeEtcd::new();
    for value in 0..10_u8 {
        etcd.put("a", [value]);
    }
    etcd.compact(8);
    etcd.restore(5);
    assert_eq!((etcd.revision(), etcd.compacted()), (5, 5));
    assert_eq!(etcd.get("a").unwrap().value, [3]);
    assert_eq!(etcd.put("a", "new"), 6);
    assert_eq!(etcd.get("a").unwrap().version, 5);
    etcd.restore_bumped(3, 1000);
    assert_eq!((etcd.revision(), etcd.compacted()), (1003, 1003));
    assert_eq!(etcd.put("a", "newer"), 1004);
}

#[test]
#[should_panic(expected = "key is not provided")]
fn an_empty_key_is_refused() {
    FakeEtcd::new().put("", "");
}

#[test]
#[should_panic(expected = "requested lease not found")]
fn an_unknown_lease_is_refused() {
    FakeEtcd::new().txn([Op::put_leased("a", "", 7)]);
}

#[test]
#[should_panic(expected = "future revision")]
fn a_compaction_of_the_future_is_refused() {
    FakeEtcd::new().compact(2);
}
