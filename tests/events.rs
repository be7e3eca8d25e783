//! Following every event: in order, none summed up, none twice, and what a `Sync` replaces.

mod common;
#[cfg(feature = "test-util")]
#[path = "events/etcd.rs"]
mod etcd;
#[cfg(feature = "test-util")]
mod fake;
#[path = "events/positions.rs"]
mod positions;
#[path = "events/resuming.rs"]
mod resuming;

use std::collections::BTreeMap;
use std::pin::pin;
use std::task::Poll;

use common::{History, Op, Wakes, loaded, now, poll_once, poll_with, text, texts};
use etcd_keyspace::{
    BadValues, Event, EventKind, Events, EventsError, EventsOptions, KeyEvent, KeyRange, KeySpace,
    Revision, Start, StopReason, SyncReason, Writer,
};
use proptest::collection::vec;
use proptest::prelude::*;

type Bytes = Vec<u8>;

fn follow(ks: &KeySpace<String>, range: impl Into<KeyRange>, start: Start) -> Events<String> {
    ks.events(range, start, EventsOptions::default())
}

/// What is there to be told, and the end if it has come.
fn told(events: &mut Events<String>) -> (Vec<KeyEvent<String>>, Option<EventsError>) {
    let mut told = Vec::new();
    loop {
        match poll_once(pin!(events.next())) {
            Poll::Ready(Ok(event)) => told.push(event),
            Poll::Ready(Err(error)) => return (told, Some(error)),
            Poll::Pending => return (told, None),
        }
    }
}

fn texts_of(events: &[KeyEvent<String>]) -> Vec<String> {
    events.iter().map(|event| format!("{event:?}")).collect()
}

#[test]
fn mi2_mi3_mi9_a_sync_first_and_then_each_event_in_order() {
    let mut store = History::new();
    store.put("/a", "1");
    store.put("/b", "1");
    let (ks, mut writer) = loaded(&store);
    let mut events = follow(&ks, .., Start::Now);
    let (first, _) = told(&mut events);
    let [KeyEvent::Sync(set)] = &first[..] else { panic!("{first:?}") };
    assert_eq!((set.revision(), set.entries().len(), set.epoch()), (store.revision(), 2, 1));
    assert!(set.reason() == SyncReason::Start && set.difference().is_none());
    assert_eq!(first[0].key(), None);

    let from = store.revision();
    store.txn([Op::Put("/b".into(), "2".into()), Op::Put("/a".into(), "2".into())]);
    store.put("/c", "1");
    store.put("/c", "2");
    store.delete("/c");
    store.txn([Op::Delete("/a".into()), Op::Put("/a".into(), "3".into())]);
    // All in one batch, which sums them up for everybody else.
    writer.apply(store.after(from)).unwrap();
    let (then, end) = told(&mut events);
    let expected = [
        "updated(/b at 4)",
        "updated(/a at 4)",
        "added(/c at 5)",
        "updated(/c at 6)",
        "deleted(/c at 7)",
        "deleted(/a at 8)",
        "added(/a at 8)",
    ];
    assert_eq!((texts_of(&then), end.is_none()), (expected.map(str::to_owned).to_vec(), true));
    let KeyEvent::Updated { old, new } = &then[3] else { panic!("{:?}", then[3]) };
    assert_eq!((old.value().as_str(), new.value().as_str(), new.mod_revision()), ("1", "2", 6));
    let KeyEvent::Deleted { old, revision: 7 } = &then[4] else { panic!("{:?}", then[4]) };
    assert_eq!(old.value(), "2");
}

#[test]
fn mi17_kinds_have_readable_names() {
    let kinds = [EventKind::Sync, EventKind::Added, EventKind::Updated, EventKind::Deleted];
    assert_eq!(kinds.map(|kind| kind.to_string()), ["sync", "added", "updated", "deleted"]);
    assert_eq!(format!("[{:>8}]", EventKind::Sync), "[    sync]");
}

#[test]
fn mi4_mi5_idle_progress_moves_the_place_and_tells_nothing() {
    let mut store = History::new();
    store.put("/a", "1");
    let (ks, mut writer) = loaded(&store);
    let mut events = follow(&ks, KeyRange::key("/a"), Start::Now);
    assert_eq!(events.token().revision(), 0, "nothing was told");
    told(&mut events);
    assert_eq!(events.token().revision(), 2);
    for revision in [5, 9] {
        writer.confirm(revision);
        assert_eq!((told(&mut events).0.len(), events.token().revision()), (0, revision));
    }
    let wakes = Wakes::new();
    let mut next = pin!(events.next());
    assert!(poll_with(next.as_mut(), &wakes).is_pending());
    writer.confirm(11);
    assert_eq!(wakes.count(), 0, "progress wakes nobody");
}

#[test]
fn wakes_come_for_events_of_the_range_also_when_they_undo_each_other() {
    let mut store = History::new();
    store.put("/a", "1");
    let (ks, mut writer) = loaded(&store);
    let (mut events, mut changes) =
        (follow(&ks, KeyRange::key("/m"), Start::Now), ks.changes(KeyRange::key("/m")));
    told(&mut events);
    now(changes.next()).unwrap();
    let (woken, changed) = (Wakes::new(), Wakes::new());
    assert!(poll_with(pin!(events.next()), &woken).is_pending());
    assert!(poll_with(pin!(changes.next()), &changed).is_pending());
    let from = store.revision();
    store.put("/a", "2");
    writer.apply(store.after(from)).unwrap();
    assert_eq!(woken.count(), 0);
    let from = store.revision();
    store.put("/m", "1");
    store.delete("/m");
    writer.apply(store.after(from)).unwrap();
    assert_eq!((woken.count(), changed.count()), (1, 0));
    assert_eq!(told(&mut events).0.len(), 2);
    assert_eq!(events.wake_ups(), 1);
}

/// Half told revisions are told again from their begin, by whoever goes on from the token.
#[test]
fn a_token_goes_on_after_the_last_whole_revision() {
    let mut store = History::new();
    store.put("/a", "1");
    let (ks, mut writer) = loaded(&store);
    let mut events = follow(&ks, .., Start::Now);
    told(&mut events);
    let from = store.revision();
    store.put("/a", "2");
    store.txn(["/x", "/y", "/z"].map(|key| Op::Put(key.into(), "1".into())));
    writer.apply(store.after(from)).unwrap();
    let mut told_of_it = 0;
    for at in [3, 4, 4, 4] {
        let event = now(events.next()).unwrap();
        assert_eq!(event.revision(), at);
        told_of_it += 1;
        let (through, left) = if told_of_it == 4 { (4, 0) } else { (3, 3) };
        assert_eq!(events.token().revision(), through, "{event:?}");
        let (rest, _) = told(&mut follow(&ks, .., Start::after(events.token())));
        assert_eq!(rest.len(), left, "the whole revision, or nothing of it");
    }
    assert!(poll_once(pin!(events.next())).is_pending());
    assert_eq!(events.token().revision(), 4);
    assert!(told(&mut follow(&ks, .., Start::after(events.token()))).0.is_empty());
}

#[test]
fn a_start_is_served_from_the_history_or_by_a_sync_or_waits() {
    let mut store = History::new();
    store.put("/a", "1");
    let (ks, mut writer) = texts().event_history(4, 1 << 20).writer();
    writer.load(store.header(), store.kvs()).unwrap();
    for n in 3..=9 {
        store.put("/a", &n.to_string());
        writer.apply(store.after(n - 1)).unwrap();
    }
    assert_eq!(ks.stats().kept_events, 4);
    for from in 0..=9 {
        let (first, _) = told(&mut follow(&ks, .., Start::after(from)));
        if from < 5 {
            let [KeyEvent::Sync(set)] = &first[..] else { panic!("{from}: {first:?}") };
            assert_eq!((set.reason(), set.revision()), (SyncReason::Behind, 9), "{from}");
        } else {
            let revisions: Vec<_> = first.iter().map(KeyEvent::revision).collect();
            assert_eq!(revisions, (from + 1..=9).collect::<Vec<_>>(), "{from}");
        }
    }
    // What is not reached yet is waited for; what comes on the way was asked to be left out.
    let mut future = follow(&ks, .., Start::after(11));
    assert!(told(&mut future).0.is_empty());
    for n in 10..=12 {
        store.put("/a", &n.to_string());
        writer.apply(store.after(n - 1)).unwrap();
        let revisions: Vec<_> = told(&mut future).0.iter().map(KeyEvent::revision).collect();
        assert_eq!(revisions, if n == 12 { vec![12] } else { vec![] });
    }
    // A token of elsewhere means nothing here.
    let foreign = etcd_keyspace::Token::of_write(0xbad, 3);
    let (first, _) = told(&mut follow(&ks, .., Start::after(foreign)));
    let [KeyEvent::Sync(set)] = &first[..] else { panic!("{first:?}") };
    assert_eq!(set.reason(), SyncReason::NewEpoch);
}

/// A consumer that never reads costs what the history is bounded by, and nothing is kept at all while
/// nobody follows.
#[test]
fn mi1_mi11_a_slow_consumer_is_fed_from_the_history_and_then_synced() {
    let mut store = History::new();
    store.put("/a", "1");
    let (ks, mut writer) = texts().event_history(10, 1 << 20).writer();
    writer.load(store.header(), store.kvs()).unwrap();
    let mut slow = follow(&ks, .., Start::Now);
    told(&mut slow);
    let mut write = |count: usize| {
        for _ in 0..count {
            let from = store.revision();
            store.put("/a", "x");
            writer.apply(store.after(from)).unwrap();
        }
        store.revision()
    };
    write(10);
    assert_eq!(told(&mut slow).0.len(), 10, "the history reaches back");
    let newest = write(11);
    let (first, _) = told(&mut slow);
    let [KeyEvent::Sync(set)] = &first[..] else { panic!("{first:?}") };
    assert_eq!((set.reason(), set.revision()), (SyncReason::Behind, newest));
    assert_eq!(ks.stats().kept_events, 10);

    // Bytes count too: of two such values one is kept.
    let (ks, mut writer) = texts().event_history(10, 150).writer();
    let mut store = History::new();
    store.put("/a", "1");
    writer.load(store.header(), store.kvs()).unwrap();
    for n in 0..3 {
        let from = store.revision();
        store.put("/a", &format!("{n}").repeat(100));
        writer.apply(store.after(from)).unwrap();
    }
    assert_eq!(ks.stats().kept_events, 1);

    let (ks, mut writer) = loaded(&store);
    let events = follow(&ks, .., Start::Now);
    assert_eq!(ks.stats().followers, 1);
    let from = store.revision();
    store.put("/a", "1");
    writer.apply(store.after(from)).unwrap();
    assert_eq!(ks.stats().kept_events, 1);
    drop(events);
    let from = store.revision();
    store.put("/a", "2");
    writer.apply(store.after(from)).unwrap();
    assert_eq!((ks.stats().kept_events, ks.stats().followers), (0, 0), "nobody follows");
}

#[test]
fn mi12_mi13_mi15_stopping_ends_a_waiting_consumer_and_is_idempotent() {
    let (ks, mut writer) = loaded(&History::new());
    let mut events = follow(&ks, .., Start::Now);
    let stop = events.stop_handle();
    let wakes = Wakes::new();
    told(&mut events);
    assert!(poll_with(pin!(events.next()), &wakes).is_pending());
    std::thread::scope(|scope| {
        for stop in [stop.clone(), stop.clone(), stop] {
            scope.spawn(move || {
                stop.stop();
                stop.stop();
            });
        }
    });
    assert_eq!(wakes.count(), 1);
    for _ in 0..2 {
        assert!(matches!(now(events.next()), Err(EventsError::Stopped)));
    }
    let mut store = History::new();
    store.put("/a", "1");
    writer.apply(store.after(1)).unwrap();
    assert!(matches!(now(events.next()), Err(EventsError::Stopped)), "for ever");
    drop(events);
    assert_eq!(ks.stats().followers, 0);
}

#[test]
fn at_the_end_what_is_left_is_told_and_then_the_reason() {
    let mut store = History::new();
    store.put("/a", "1");
    let (ks, mut writer) = loaded(&store);
    let mut events = follow(&ks, .., Start::Now);
    let mut never = follow(&ks, .., Start::after(1_000));
    told(&mut events);
    assert!(told(&mut never).1.is_none());
    store.put("/a", "2");
    writer.apply(store.after(2)).unwrap();
    drop(writer);
    let (left, end) = told(&mut events);
    assert_eq!(left.len(), 1);
    assert!(matches!(end, Some(EventsError::KeySpace(StopReason::Shutdown))), "{end:?}");
    for _ in 0..2 {
        let (left, end) = told(&mut never);
        assert!(left.is_empty() && matches!(end, Some(EventsError::KeySpace(_))), "{end:?}");
    }
    // Whoever comes late is told what is there.
    let (first, end) = told(&mut follow(&ks, .., Start::Now));
    assert!(matches!(&first[..], [KeyEvent::Sync(_)]) && end.is_some());
}

#[test]
fn mi14_synced_is_true_from_the_first_sync_that_was_told() {
    let (ks, mut writer) = texts().writer();
    let mut events = follow(&ks, .., Start::Now);
    let mut synced = Box::pin(events.synced());
    let other = events.synced();
    assert!(poll_once(synced.as_mut()).is_pending());
    let mut store = History::new();
    store.put("/a", "1");
    writer.load(store.header(), store.kvs()).unwrap();
    assert!(poll_once(synced.as_mut()).is_pending(), "there, but not told");
    told(&mut events);
    assert!(now(synced) && now(events.synced()));
    drop(events);
    assert!(now(other), "it stays");
    let never = follow(&ks, .., Start::Now);
    let synced = never.synced();
    drop(never);
    assert!(!now(synced));
}

#[test]
fn mi7_mi8_a_reload_is_told_whole_with_the_exact_difference() {
    let mut store = History::new();
    for key in ["/a", "/b", "/c"] {
        store.put(key, "1");
    }
    let (ks, mut writer) = loaded(&store);
    let mut events = follow(&ks, "/b".."/z", Start::Now);
    told(&mut events);
    store.delete("/b");
    store.put("/a", "2");
    store.put("/d", "1");
    writer.load(store.header(), store.kvs()).unwrap();
    let (reload, _) = told(&mut events);
    let [KeyEvent::Sync(set)] = &reload[..] else { panic!("{reload:?}") };
    assert_eq!((set.reason(), set.revision()), (SyncReason::Reload, store.revision()));
    let difference: Vec<_> = set.difference().unwrap().iter().map(|c| format!("{c:?}")).collect();
    assert_eq!(difference, ["Removed(/b)", "Added(/d)"]);
    assert_eq!(set.entries().len(), 2);
    // One that changed nothing is told too: what came and went in between is not known.
    writer.load(store.header(), store.kvs()).unwrap();
    let (again, _) = told(&mut events);
    let [KeyEvent::Sync(set)] = &again[..] else { panic!("{again:?}") };
    assert_eq!(set.difference().map(<[_]>::len), Some(0));
}

#[test]
fn a_range_outside_is_refused_and_said_where() {
    let (ks, _writer) = loaded(&History::new());
    assert!(ks.try_events("x".."y", Start::Now, EventsOptions::default()).is_err());
    let (message, at) = common::panic_of(|| follow(&ks, "x".."y", Start::Now));
    assert!(message.contains("try_events") && at.contains("events.rs"), "{message} {at}");
}

// ---- any history ---------------------------------------------------------------------------------

/// A consumer's fold, checked against what was shown at each revision.
struct Folded {
    events: Events<String>,
    range: KeyRange,
    state: BTreeMap<Bytes, (String, Revision)>,
    at: (u64, Revision),
    token: Revision,
    synced: bool,
}

/// What a key space that applied each revision by itself showed at each.
type Truth = BTreeMap<(u64, Revision), BTreeMap<Bytes, (String, Revision)>>;

fn shown(ks: &KeySpace<String>) -> BTreeMap<Bytes, (String, Revision)> {
    let view = ks.snapshot();
    view.iter().map(|e| (e.key().to_vec(), (e.value().clone(), e.mod_revision()))).collect()
}

impl Folded {
    fn new(ks: &KeySpace<String>, range: KeyRange, start: Start) -> Self {
        let events = follow(ks, range.clone(), start);
        Folded { events, range, state: BTreeMap::new(), at: (0, 0), token: 0, synced: false }
    }

    /// The token never goes down, whatever happens to the key space.
    fn check_token(&mut self) {
        let token = self.events.token().revision();
        assert!(token >= self.token, "from {} to {token}", self.token);
        self.token = token;
    }

    fn check(&self, truth: &Truth) {
        if self.synced {
            let (_, expected) = truth.range(..=self.at).next_back().unwrap();
            let within = |(key, _): &(&Bytes, _)| self.range.contains(key);
            let expected: BTreeMap<_, _> = expected.iter().filter(within).collect();
            assert_eq!(self.state.iter().collect::<BTreeMap<_, _>>(), expected, "{:?}", self.at);
        }
    }

    /// Reads at most so many events.
    fn read(&mut self, most: usize, truth: &Truth) {
        for _ in 0..most {
            let Poll::Ready(event) = poll_once(pin!(self.events.next())) else {
                return self.check(truth);
            };
            let event = event.unwrap();
            let next = self.token + i64::from(event.kind() != EventKind::Sync);
            assert!(event.revision() >= next.max(self.at.1), "{event:?} after {}", self.token);
            if event.revision() > self.at.1 {
                // The revision before is whole.
                self.check(truth);
            }
            self.at.1 = event.revision();
            self.fold(event);
            self.check_token();
        }
    }

    fn fold(&mut self, event: KeyEvent<String>) {
        match event {
            KeyEvent::Sync(set) => {
                let entry = |e: &std::sync::Arc<etcd_keyspace::Entry<String>>| {
                    (e.key().to_vec(), (e.value().clone(), e.mod_revision()))
                };
                let whole: BTreeMap<_, _> = set.entries().iter().map(entry).collect();
                if let Some(difference) = set.difference().filter(|_| self.synced) {
                    for change in difference {
                        let old = self.state.remove(change.key());
                        let expected = change.old().map(|e| entry(e).1);
                        assert_eq!(old, expected, "{change:?}");
                        self.state.extend(change.new().map(entry));
                    }
                    assert_eq!(self.state, whole, "the difference leads to the whole");
                }
                (self.state, self.synced, self.at.0) = (whole, true, set.epoch());
            }
            KeyEvent::Added(new) => {
                let value = (new.value().clone(), new.mod_revision());
                assert_eq!(self.state.insert(new.key().to_vec(), value), None);
            }
            KeyEvent::Updated { old, new } => {
                let value = (new.value().clone(), new.mod_revision());
                let before = self.state.insert(new.key().to_vec(), value);
                assert_eq!(before, Some((old.value().clone(), old.mod_revision())));
            }
            KeyEvent::Deleted { old, .. } => {
                let before = self.state.remove(old.key());
                assert_eq!(before, Some((old.value().clone(), old.mod_revision())));
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Act {
    Write(Vec<(u8, Option<u8>)>),
    Apply,
    Reload,
    /// Idle progress.
    Progress,
    /// From a key on, after a revision so far back, or now.
    Follow(u8, Option<u8>),
    Read(usize, usize),
    Drop(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let op = (0..6u8, proptest::option::weighted(0.7, 0..5u8));
    prop_oneof![
        8 => vec(op, 1..5).prop_map(Act::Write),
        4 => Just(Act::Apply),
        1 => Just(Act::Reload),
        1 => Just(Act::Progress),
        2 => (0..6u8, proptest::option::of(0..20u8)).prop_map(|(key, back)| Act::Follow(key, back)),
        4 => (0..4usize, 0..12usize).prop_map(|(who, most)| Act::Read(who, most)),
        1 => (0..4usize).prop_map(Act::Drop),
    ]
}

struct World {
    store: History,
    ks: KeySpace<String>,
    writer: Writer<String>,
    reference: (KeySpace<String>, Writer<String>),
    truth: Truth,
}

impl World {
    fn new(bad: BadValues, kept: usize) -> Self {
        let space = || KeySpace::builder("/").unwrap().decoder(text).bad_values(bad);
        let (ks, writer) = space().event_history(kept, 1 << 20).writer();
        let mut world = World {
            store: History::new(),
            ks,
            writer,
            reference: space().writer(),
            truth: Truth::new(),
        };
        world.reload();
        world
    }

    fn note(&mut self, revision: Revision) {
        let shown = shown(&self.reference.0);
        self.truth.insert((self.reference.0.snapshot().epoch(), revision), shown);
    }

    fn write(&mut self, ops: &[(u8, Option<u8>)]) {
        let from = self.store.revision();
        self.store.txn(ops.iter().map(|(key, value)| {
            let key = format!("/{key}");
            match value {
                Some(0) => Op::Put(key, "!bad".into()),
                Some(value) => Op::Put(key, value.to_string()),
                None => Op::Delete(key),
            }
        }));
        for response in self.store.after(from) {
            self.reference.1.apply(vec![response]).unwrap();
            self.note(self.store.revision());
        }
    }

    fn apply(&mut self) {
        let from = self.ks.snapshot().revision();
        self.writer.apply(self.store.after(from)).unwrap();
    }

    fn progress(&mut self) {
        self.apply();
        self.writer.confirm(self.store.elsewhere());
    }

    fn reload(&mut self) {
        self.writer.load(self.store.header(), self.store.kvs()).unwrap();
        self.reference.1.load(self.store.header(), self.store.kvs()).unwrap();
        self.note(self.store.revision());
    }
}

fn run(bad: BadValues, acts: Vec<Act>) {
    let mut world = World::new(bad, 25);
    let mut followers: Vec<Folded> = Vec::new();
    for act in acts {
        match act {
            Act::Write(ops) => world.write(&ops),
            Act::Apply => world.apply(),
            // Under `KeepLast` what a reload shows for a bad value depends on what was seen before.
            Act::Reload if bad == BadValues::Drop => world.reload(),
            Act::Reload => {}
            Act::Progress => world.progress(),
            Act::Follow(key, back) if followers.len() < 4 => {
                let range = KeyRange::from(format!("/{key}"));
                let now = world.ks.snapshot().revision();
                let after = back.map(|back| (now - i64::from(back)).max(0));
                let start = after.map_or(Start::Now, Start::after);
                let mut follower = Folded::new(&world.ks, range, start);
                if let Some(after) = after {
                    // What it has from before.
                    if let Some((_, before)) = world.truth.range(..=(1, after)).next_back() {
                        let within = |(key, _): &(&Bytes, _)| follower.range.contains(key);
                        let before = before.iter().filter(within);
                        follower.state = before.map(|(k, v)| (k.clone(), v.clone())).collect();
                        (follower.at, follower.synced) = ((1, after), true);
                    }
                }
                followers.push(follower);
            }
            Act::Follow(..) => {}
            Act::Read(who, most) => {
                let truth = &world.truth;
                followers.get_mut(who).into_iter().for_each(|f| f.read(most, truth));
            }
            Act::Drop(who) if who < followers.len() => drop(followers.swap_remove(who)),
            Act::Drop(_) => {}
        }
        followers.iter_mut().for_each(Folded::check_token);
    }
    world.apply();
    for follower in &mut followers {
        follower.read(usize::MAX, &world.truth);
        assert_eq!(follower.events.token().revision(), world.ks.snapshot().confirmed());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn events_fold_to_what_is_shown_at_every_revision(acts in vec(act(), 1..80)) {
        run(BadValues::Drop, acts);
    }

    #[test]
    fn events_fold_also_while_bad_values_show_the_last_good_one(acts in vec(act(), 1..80)) {
        run(BadValues::KeepLast, acts);
    }

    /// Without bad values there is an event for each of etcd's, whatever the batches.
    #[test]
    fn mi3_each_event_of_etcd_is_told_once_in_its_order(
        writes in vec(vec((0..6u8, proptest::option::weighted(0.7, 1..5u8)), 1..5), 1..40),
        cuts in vec(1..9usize, 1..9),
    ) {
        let mut world = World::new(BadValues::Drop, 1_000);
        let mut events = follow(&world.ks, .., Start::Now);
        told(&mut events);
        let mut heard = Vec::new();
        let mut cuts = cuts.into_iter().cycle();
        let mut left = 0;
        for ops in &writes {
            world.write(ops);
            if left == 0 {
                world.apply();
                heard.extend(told(&mut events).0);
                left = cuts.next().unwrap();
            }
            left -= 1;
        }
        world.apply();
        heard.extend(told(&mut events).0);
        let sent = world.store.after(1).into_iter().flat_map(|response| response.events);
        let sent: Vec<_> = sent.map(|e| (e.key().to_vec(), e.mod_revision(), put(&e))).collect();
        let heard: Vec<_> = heard
            .iter()
            .map(|e| (e.key().unwrap().to_vec(), e.revision(), e.kind() != EventKind::Deleted))
            .collect();
        prop_assert_eq!(heard, sent);
    }
}

fn put(event: &Event) -> bool {
    matches!(event, Event::Put(_))
}
