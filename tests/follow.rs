//! Following a key space outside its lock: what each follower is told folds to what is shown, wakes
//! come for its own range only, and a follower that never asks keeps nothing but its range.

mod common;

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use common::{
    History, Model, Op, Wakes, block_on, header, loaded, now, panic_of, poll_once, poll_with, texts,
};
use etcd_keyspace::{
    Changes, DeltaOrigin, Entry, KeyRange, KeySpace, StopReason, Token, Validator, WaitError,
};
use proptest::prelude::*;

const KEYS: u32 = 3_000;

fn key(n: u32) -> String {
    format!("/{:05}", n % KEYS)
}

/// Some keys in use, so that there are pages, runs and groups to share.
fn filled() -> History {
    let mut store = History::new();
    store.txn((0..KEYS).step_by(2).map(|n| Op::Put(key(n), "0".into())));
    store
}

/// What is shown in a range.
fn part(ks: &KeySpace<String>, range: &KeyRange) -> Model {
    let mut model = Model::shown(&ks.read());
    model.keys.retain(|key, _| range.contains(key));
    model
}

// ---- changes ------------------------------------------------------------------------------------

/// What a test does next.
#[derive(Debug, Clone)]
enum Act {
    /// Puts or deletes some keys from one on, in one revision.
    Write(u32, u32, bool),
    /// Applies what was written since.
    Apply,
    /// Shows what was written since by a load.
    Reload,
    /// A follower of the keys from one on, that many.
    Follow(u32, u32),
    /// The follower asks, if there is one with the number.
    Ask(usize),
    Drop(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let keys = || (0..KEYS, prop_oneof![3 => 1..40u32, 1 => 1..KEYS]);
    prop_oneof![
        6 => (keys(), any::<bool>()).prop_map(|((from, count), put)| Act::Write(from, count, put)),
        4 => Just(Act::Apply),
        1 => Just(Act::Reload),
        2 => keys().prop_map(|(from, count)| Act::Follow(from, count)),
        4 => (0..8usize).prop_map(Act::Ask),
        1 => (0..8usize).prop_map(Act::Drop),
    ]
}

struct Follower {
    changes: Changes<String>,
    known: Model,
}

impl Follower {
    /// Takes everything there is, and is right then.
    fn ask(&mut self, ks: &KeySpace<String>) {
        while let Poll::Ready(delta) = poll_once(pin!(self.changes.next())) {
            let delta = delta.unwrap();
            self.known.fold(&delta);
            assert_eq!(delta.to_revision(), ks.read().revision());
        }
        let range = self.changes.range().clone();
        assert_eq!(
            self.changes.validator(),
            Some(ks.read().validator(range)),
            "C1, of what was told"
        );
        assert_eq!(self.known, part(ks, self.changes.range()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn c3_c6_t60_whatever_happens_between_two_items_folding_them_gives_what_is_shown(
        acts in prop::collection::vec(act(), 1..60)
    ) {
        let mut store = filled();
        let (ks, mut writer) = loaded(&store);
        let mut followers: Vec<Follower> = Vec::new();
        for act in acts {
            match act {
                Act::Write(from, count, true) => {
                    store.txn((from..from + count).map(|n| Op::Put(key(n), count.to_string())));
                }
                Act::Write(from, count, false) => {
                    store.txn((from..from + count).map(|n| Op::Delete(key(n))));
                }
                Act::Apply => {
                    writer.apply(store.after(writer.view().revision())).unwrap();
                }
                Act::Reload => {
                    writer.load(store.header(), store.kvs()).unwrap();
                }
                Act::Follow(from, count) => {
                    let end = (from + count).min(KEYS - 1);
                    let range = KeyRange::bytes(key(from.min(end)), key(end));
                    let changes = ks.changes(range);
                    followers.push(Follower { changes, known: Model::default() });
                }
                Act::Ask(n) => {
                    if let Some(follower) = followers.get_mut(n) {
                        follower.ask(&ks);
                    }
                }
                Act::Drop(n) => {
                    if n < followers.len() {
                        followers.swap_remove(n);
                    }
                }
            }
        }
        for follower in &mut followers {
            follower.ask(&ks);
        }
    }
}

#[test]
fn the_first_item_is_everything_in_the_range_and_waits_for_the_load() {
    let (ks, mut writer) = texts().writer();
    let mut changes = ks.changes("/b".."/d");
    let wakes = Wakes::new();
    {
        let mut next = pin!(changes.next());
        assert!(poll_with(next.as_mut(), &wakes).is_pending());
        let mut store = History::new();
        for key in ["/a", "/b", "/c", "/d"] {
            store.put(key, "1");
        }
        writer.load(store.header(), store.kvs()).unwrap();
        assert_eq!(wakes.count(), 1);
        let Poll::Ready(Ok(first)) = poll_with(next, &wakes) else { panic!("loaded") };
        let keys: Vec<_> = first.iter().map(|change| change.key().to_vec()).collect();
        assert_eq!(keys, [b"/b", b"/c"]);
        assert_eq!(first.origin(), DeltaOrigin::Registration);
        assert_eq!((first.from_revision(), first.to_revision(), first.epoch()), (0, 5, 1));
    }
    // An empty range has a first item too, which says of which revision it is.
    let nothing = now(ks.changes("/x".."/z").next()).unwrap();
    assert_eq!((nothing.len(), nothing.to_revision()), (0, 5));
}

#[test]
fn a_follower_is_woken_for_keys_of_its_range_only() {
    let mut store = filled();
    let (ks, mut writer) = loaded(&store);
    let mut changes = ks.changes(key(100)..key(200));
    now(changes.next()).unwrap();
    let wakes = Wakes::new();
    let mut next = Box::pin(changes.next());
    assert!(poll_with(next.as_mut(), &wakes).is_pending());
    for n in [0, 98, 99, 200, 201, KEYS - 1] {
        store.put(&key(n), "beside");
        writer.apply(store.after(writer.view().revision())).unwrap();
        writer.confirm(store.elsewhere());
    }
    assert_eq!(wakes.count(), 0);
    store.put(&key(199), "inside");
    writer.apply(store.after(writer.view().revision())).unwrap();
    assert_eq!(wakes.count(), 1);
    let Poll::Ready(Ok(delta)) = poll_with(next.as_mut(), &wakes) else { panic!("woken") };
    drop(next);
    assert_eq!((delta.len(), delta.origin()), (1, DeltaOrigin::Difference));
    assert_eq!(changes.wake_ups(), 1);
    // What changed and changed back is no change, and no item.
    store.put(&key(151), "1");
    writer.apply(store.after(writer.view().revision())).unwrap();
    store.delete(&key(151));
    writer.apply(store.after(writer.view().revision())).unwrap();
    assert!(poll_once(pin!(changes.next())).is_pending());
}

/// C9: it holds the runs that cover its range, and what stood beside them is gone.
#[test]
fn c9_a_follower_that_never_asks_keeps_the_runs_of_its_range_only() {
    let mut store = filled();
    let (ks, mut writer) = loaded(&store);
    let mut changes = ks.changes(key(1_000)..key(1_010));
    now(changes.next()).unwrap();
    let watched: Vec<(u32, Weak<Entry<String>>)> =
        (0..KEYS).step_by(2).map(|n| (n, Arc::downgrade(ks.read().get(key(n)).unwrap()))).collect();
    for round in 0..50 {
        store.txn((0..KEYS).step_by(2).map(|n| Op::Put(key(n), round.to_string())));
        writer.apply(store.after(writer.view().revision())).unwrap();
    }
    let kept: Vec<u32> =
        watched.iter().filter(|(_, old)| old.strong_count() > 0).map(|(n, _)| *n).collect();
    assert!((1_000..1_010).step_by(2).all(|n| kept.contains(&n)), "its range as it was");
    assert!(kept.len() <= 2 * 256, "two runs at most, not {} entries", kept.len());
    // One item tells all of it, and lets go of the old.
    let delta = now(changes.next()).unwrap();
    assert_eq!(delta.len(), 5);
    drop(delta);
    assert!(watched.iter().all(|(_, old)| old.strong_count() == 0));
}

#[test]
fn at_the_end_what_is_left_is_told_first_and_then_the_reason() {
    let mut store = filled();
    let (ks, mut writer) = loaded(&store);
    let mut changes = ks.changes(..);
    now(changes.next()).unwrap();
    let wakes = Wakes::new();
    assert!(poll_with(pin!(changes.next()), &wakes).is_pending());
    store.put(&key(1), "last");
    writer.apply(store.after(writer.view().revision())).unwrap();
    drop(writer);
    assert_eq!(wakes.count(), 1, "a waker is used once");
    assert_eq!(now(changes.next()).unwrap().len(), 1);
    for _ in 0..2 {
        assert!(matches!(now(changes.next()), Err(StopReason::Shutdown)));
    }
    // A late one is told what there is, too. As a stream each gives the reason once.
    let mut late = ks.changes(..);
    let mut items = Vec::new();
    while let Some(item) = block_on(std::future::poll_fn(|cx| {
        futures_core::Stream::poll_next(std::pin::Pin::new(&mut late), cx)
    })) {
        items.push(item.map(|delta| delta.len()));
    }
    assert!(matches!(items[..], [Ok(1_501), Err(StopReason::Shutdown)]), "{items:?}");
}

#[test]
fn a_follower_is_a_handle_and_a_dropped_one_leaves_nothing_behind() {
    let store = filled();
    let (ks, mut writer) = loaded(&store);
    let weak = ks.downgrade();
    let mut changes = ks.changes(..);
    drop(ks);
    assert_eq!(now(changes.next()).unwrap().len(), 1_500);
    assert!(weak.upgrade().is_some());
    let before = weak.upgrade().unwrap();
    assert_eq!(before.stats().followers, 1);
    drop(changes);
    assert_eq!(before.stats().followers, 0);
    writer.confirm(store.revision() + 1);
}

#[test]
fn waiting_under_a_guard_and_ranges_outside_are_refused() {
    let (ks, _writer) = loaded(&filled());
    let mut changes = ks.changes(..);
    let guard = ks.read();
    // What is there can be taken; waiting for more could never end.
    now(changes.next()).unwrap();
    panic_of(|| drop(poll_once(pin!(changes.next()))));
    drop(guard);
    let asked = KeyRange::bytes("a", "b");
    assert!(ks.try_changes(asked.clone()).is_err());
    panic_of(|| drop(ks.changes(asked)));
}

/// What handlers await must be able to move between threads, although guards cannot.
#[test]
fn futures_can_be_sent() {
    fn sent(_: impl Send) {}
    let (ks, _writer) = loaded(&History::new());
    let mut changes = ks.changes(..);
    sent(changes.next());
    let mut watch = ks.watch_key("/a");
    sent(watch.next());
    sent(ks.read_changed(.., None, Duration::ZERO));
    sent(ks.read_at(ks.token()));
    sent(ks.read_fresh(Duration::ZERO));
    sent(ks.read_linearizable());
    sent(ks.follow(.., etcd_keyspace::SimpleFollower::<String>::new()));
}

// ---- Blocking reads -----------------------------------------------------------------------------

#[test]
fn a_validator_is_the_same_for_the_same_keys_and_other_for_others() {
    let mut store = filled();
    let (ks, mut writer) = loaded(&store);
    let of = |range: std::ops::Range<u32>| ks.read().validator(key(range.start)..key(range.end));
    let (whole, inside, beside) = (ks.read().validator(..), of(100..200), of(200..300));
    store.put(&key(150), "1");
    writer.apply(store.after(writer.view().revision())).unwrap();
    assert_ne!(ks.read().validator(..), whole);
    assert_ne!(of(100..200), inside);
    assert_eq!(of(200..300), beside);
    // By count and hash, where the greatest revision stays.
    let now = of(100..200);
    store.delete(&key(100));
    writer.apply(store.after(writer.view().revision())).unwrap();
    assert_ne!(of(100..200), now);
    // Another process that loaded the same has the same, however its storage came about.
    let (other, _) = loaded(&store);
    for range in [0..KEYS - 1, 7..8, 100..200, 1_000..2_900] {
        let range = KeyRange::bytes(key(range.start), key(range.end));
        assert_eq!(other.read().validator(range.clone()), ks.read().validator(range));
    }
    assert_eq!(other.read().validator(..), ks.read().validator(..));
}

#[test]
fn validators_and_tokens_have_a_stable_text_form() {
    let mut store = History::new();
    store.put("/a", "1");
    let (ks, _writer) = loaded(&store);
    // Kept by others: a change of these texts is a change of the format.
    let text = ks.read().validator(..).to_string();
    assert_eq!(text, "c1.2.1.7d35640fece03403");
    assert_eq!(text.parse::<Validator>().unwrap(), ks.read().validator(..));
    assert_eq!(ks.read().validator("/x".."/y").to_string(), "c1.0.0.0");
    for bad in
        ["", "1.2.3", "1.2.3.4.5", "1.2.3.g", "+1.2.3.4", "1.-2.3.4", "1.8000000000000000.1.1"]
    {
        assert!(bad.parse::<Validator>().is_err(), "{bad}");
    }
    let token = ks.token();
    assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
    assert_eq!(token, Token::of_write(token.cluster_id(), 2));
    for bad in ["", "1", "1.", ".1", "g.1", "1.-1", "1.+1", "1.9223372036854775808"] {
        assert!(bad.parse::<Token>().is_err(), "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_blocking_read_ends_when_its_range_differs_and_at_its_deadline_as_it_was() {
    let mut store = filled();
    let (ks, mut writer) = loaded(&store);
    let minute = Duration::from_secs(60);
    let range = || KeyRange::bytes(key(100), key(200));
    // At once: nothing seen, or something else.
    let (_, seen) = ks.read_changed(range(), None, minute).await.unwrap();
    let (_, other) = ks.read_changed(range(), Some(ks.read().validator(..)), minute).await.unwrap();
    assert_eq!(seen, other);
    // Keys beside it do not end it; its deadline does.
    {
        let wakes = Wakes::new();
        let mut read = pin!(ks.read_changed(range(), Some(seen), minute));
        assert!(poll_with(read.as_mut(), &wakes).is_pending());
        store.put(&key(99), "beside");
        writer.apply(store.after(writer.view().revision())).unwrap();
        assert_eq!(wakes.count(), 0);
        let began = tokio::time::Instant::now();
        assert_eq!(read.await.unwrap().1, seen);
        assert_eq!(began.elapsed(), minute);
    }
    // A key of its range ends it; one that was changed back does not.
    let mut read = pin!(ks.read_changed(range(), Some(seen), minute));
    assert!(poll_once(read.as_mut()).is_pending());
    store.put(&key(101), "1");
    store.delete(&key(101));
    writer.apply(store.after(writer.view().revision())).unwrap();
    assert!(poll_once(read.as_mut()).is_pending());
    store.put(&key(101), "1");
    writer.apply(store.after(writer.view().revision())).unwrap();
    let Poll::Ready(Ok((view, now))) = poll_once(read.as_mut()) else { panic!("changed") };
    assert!(now != seen && view.contains(key(101)));
    drop(view);
    // The end ends it with the reason.
    let mut read = pin!(ks.read_changed(range(), Some(now), minute));
    assert!(poll_once(read.as_mut()).is_pending());
    drop(writer);
    assert!(matches!(
        poll_once(read.as_mut()),
        Poll::Ready(Err(WaitError::Stopped(StopReason::Shutdown)))
    ));
    assert_eq!(ks.stats().followers, 0, "what ended left nothing behind");
}

// ---- Tokens -------------------------------------------------------------------------------------

#[test]
fn a_token_is_waited_for_and_refused_by_another_cluster() {
    let mut store = filled();
    let (ks, mut writer) = loaded(&store);
    let here = ks.token();
    assert_eq!(here.revision(), store.revision());
    assert_eq!(now(ks.read_at(here)).unwrap().confirmed(), store.revision());

    let later = Token::of_write(here.cluster_id(), store.revision() + 1);
    let mut read = pin!(ks.read_at(later));
    assert!(poll_once(read.as_mut()).is_pending());
    store.put(&key(1), "1");
    writer.apply(store.after(writer.view().revision())).unwrap();
    assert!(matches!(poll_once(read.as_mut()), Poll::Ready(Ok(view)) if view.len() == 1_501));

    let elsewhere = Token::of_write(here.cluster_id() + 1, 1);
    let refused = now(ks.read_at(elsewhere)).err();
    assert!(matches!(refused, Some(WaitError::OtherCluster { .. })), "{refused:?}");
    // Before the first load nobody knows which cluster it will be.
    let (young, mut writer) = texts().writer();
    let mut read = pin!(young.read_at(elsewhere));
    assert!(poll_once(read.as_mut()).is_pending());
    writer.load(header(5), vec![]).unwrap();
    assert!(matches!(poll_once(read.as_mut()), Poll::Ready(Err(WaitError::OtherCluster { .. }))));
}
