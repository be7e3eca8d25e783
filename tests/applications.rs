//! What brokers and allocators build on a key space: signals for each part, joins of two parts, and
//! waiting for a condition over both. The promises GZ-C7, GZ-C8 and GZ-C10.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use common::{History, Op, Wakes, loaded, now, poll_once, poll_with};
use etcd_keyspace::{Changes, KeyRange, KeySpace, Range, Snapshot, View, Writer};

const ITEMS: usize = 8;

fn item(n: usize) -> String {
    format!("/items/{n:02}")
}

/// Assignments are below the name of their item, as `/assign/05#member`.
fn assignment(n: usize, member: usize) -> String {
    format!("/assign/{n:02}#{member}")
}

fn assignments_of(n: usize) -> KeyRange {
    KeyRange::prefix(format!("/assign/{n:02}#"))
}

struct Scene {
    store: History,
    ks: KeySpace<String>,
    writer: Writer<String>,
    chance: u64,
}

impl Scene {
    fn new() -> Self {
        let mut store = History::new();
        store.txn((0..ITEMS).map(|n| Op::Put(item(n), "1".into())));
        store.txn((0..ITEMS).map(|n| Op::Put(assignment(n, n % 3), "1".into())));
        let (ks, writer) = loaded(&store);
        Scene { store, ks, writer, chance: 7 }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.chance >> 33).unwrap() % bound
    }

    fn apply(&mut self) {
        self.writer.apply(self.store.after(self.writer.view().revision())).unwrap();
    }

    /// Some writes anywhere, shown as one step.
    fn write_something(&mut self) {
        for _ in 0..=self.below(3) {
            let (n, member) = (self.below(ITEMS), self.below(4));
            let key =
                [item(n), assignment(n, member), format!("/other/{n}")][self.below(3)].clone();
            if self.below(3) == 0 {
                self.store.delete(&key);
            } else {
                let value = self.below(100).to_string();
                self.store.put(&key, &value);
            }
        }
        self.apply();
    }
}

/// GZ-C7: what is derived of one part is thrown away when that part changes, and only then.
#[test]
fn gz_c7_each_part_has_a_signal_that_fires_exactly_when_its_slice_changes() {
    struct Part {
        changes: Changes<String>,
        range: KeyRange,
        wakes: Arc<Wakes>,
        derived_from: Snapshot<String>,
    }
    let mut scene = Scene::new();
    let mut parts: Vec<Part> = (0..ITEMS)
        .map(|n| {
            let range = assignments_of(n);
            let mut changes = scene.ks.changes(range.clone());
            now(changes.next()).unwrap();
            let (wakes, derived_from) = (Wakes::new(), scene.ks.snapshot());
            assert!(poll_with(pin!(changes.next()), &wakes).is_pending());
            Part { changes, range, wakes, derived_from }
        })
        .collect();
    let (mut fired, mut quiet) = (0, 0);
    for _ in 0..200 {
        scene.write_something();
        let view = scene.ks.snapshot();
        for part in &mut parts {
            let (before, after) =
                (part.derived_from.range(part.range.clone()), view.range(part.range.clone()));
            let same = before.equal_key_revisions(&after);
            assert_eq!(same, before.iter().map(Arc::as_ptr).eq(after.iter().map(Arc::as_ptr)));
            let woken = part.wakes.count();
            let item = poll_with(pin!(part.changes.next()), &part.wakes);
            assert_eq!(item.is_ready(), !same, "{:?}", part.range);
            if same {
                quiet += 1;
                continue;
            }
            assert_eq!(woken, 1, "the waiting consumer was woken once");
            fired += 1;
            part.wakes = Wakes::new();
            part.derived_from = view.clone();
            assert!(poll_with(pin!(part.changes.next()), &part.wakes).is_pending());
        }
    }
    assert!(fired > 50 && quiet > 500, "{fired} fired, {quiet} did not");
}

type Joined = BTreeMap<String, Vec<String>>;

/// The items with their assignments, in one walk over both slices, which ascend.
fn left_join(items: Range<'_, String>, assignments: Range<'_, String>) -> Joined {
    let mut right = assignments.iter().peekable();
    let mut joined = Joined::new();
    for item in items {
        let name = item.key_str().replace("/items/", "/assign/");
        let (first, end) = (format!("{name}#"), format!("{name}$"));
        while right.next_if(|entry| entry.key() < first.as_bytes()).is_some() {}
        let mut own = Vec::new();
        while let Some(entry) = right.next_if(|entry| entry.key() < end.as_bytes()) {
            own.push(format!("{}={}", entry.key_str(), entry.value()));
        }
        joined.insert(format!("{}={}", item.key_str(), item.value()), own);
    }
    joined
}

/// The same, found by asking for each.
fn looked_up(view: &View<String>) -> Joined {
    let own = |n: usize| {
        let entries = view.range(assignments_of(n));
        entries.iter().map(|entry| format!("{}={}", entry.key_str(), entry.value())).collect()
    };
    let items = (0..ITEMS).filter_map(|n| Some((n, view.get(item(n))?)));
    items.map(|(n, entry)| (format!("{}={}", item(n), entry.value()), own(n))).collect()
}

/// GZ-C8: two slices are joined in one walk; as long as both have the validators they had, the join is
/// what it was.
#[test]
fn gz_c8_slices_are_joined_in_a_walk_and_unchanged_while_their_validators_are() {
    let mut scene = Scene::new();
    let (mut cached, mut computed, mut kept) = (None, 0, 0);
    for round in 0..300 {
        if round % 3 == 0 {
            scene.store.put("/other/x", &round.to_string());
            scene.apply();
        } else {
            scene.write_something();
        }
        let view = scene.ks.read();
        let validators =
            (view.validator("/items/".."/items0"), view.validator("/assign/".."/assign0"));
        let fresh = left_join(view.prefix("/items/"), view.prefix("/assign/"));
        assert_eq!(fresh, looked_up(&view));
        match &cached {
            Some((of, joined)) if *of == validators => {
                assert_eq!(*joined, fresh, "unchanged by its validators");
                kept += 1;
            }
            _ => {
                computed += 1;
                cached = Some((validators, fresh));
            }
        }
    }
    assert!(kept >= 100 && computed > 50, "{kept} times kept, {computed} times computed");
}

/// GZ-C8: whoever lists a slice is told that it is unchanged, and waits for the next change of it.
#[tokio::test(start_paused = true)]
async fn gz_c8_a_list_with_the_validator_it_was_given_waits_for_another_one() {
    let mut scene = Scene::new();
    let ks = scene.ks.clone();
    let range = assignments_of(3);
    let (_, seen) = ks.read_changed(range.clone(), None, Duration::ZERO).await.unwrap();
    let (_, again) = ks.read_changed(range.clone(), Some(seen), Duration::ZERO).await.unwrap();
    assert_eq!(again, seen, "unchanged");
    let mut listed = pin!(ks.read_changed(range.clone(), Some(seen), Duration::MAX));
    assert!(poll_once(listed.as_mut()).is_pending());
    scene.store.put(&assignment(4, 0), "elsewhere");
    scene.apply();
    assert!(poll_once(listed.as_mut()).is_pending());
    // The newest revision stays when an older key goes: that is a change all the same.
    scene.store.put(&assignment(3, 9), "1");
    scene.apply();
    let Poll::Ready(Ok((_, seen))) = poll_once(listed.as_mut()) else { panic!("it changed") };
    let mut listed = pin!(ks.read_changed(range, Some(seen), Duration::MAX));
    assert!(poll_once(listed.as_mut()).is_pending());
    scene.store.delete(&assignment(3, 0));
    scene.apply();
    assert!(matches!(poll_once(listed.as_mut()), Poll::Ready(Ok((_, now))) if now != seen));
}

/// GZ-C10: until every item has as many assignments as it wants.
#[test]
fn gz_c10_a_condition_over_two_slices_is_waited_for() {
    let mut scene = Scene::new();
    let wanted = 2;
    let satisfied = |view: &View<String>| {
        let joined = left_join(view.prefix("/items/"), view.prefix("/assign/"));
        joined.values().all(|own| own.len() >= wanted).then(|| view.revision())
    };
    let ks = scene.ks.clone();
    let wakes = Wakes::new();
    let mut wait = pin!(ks.wait_until(satisfied));
    let mut missing: BTreeSet<usize> = (0..ITEMS).collect();
    while let Some(n) = missing.pop_last() {
        assert!(poll_with(wait.as_mut(), &wakes).is_pending(), "{missing:?} are missing");
        scene.store.put(&assignment(n, 7), "1");
        scene.apply();
        assert_eq!(wakes.count(), ITEMS - missing.len());
    }
    let revision = scene.store.revision();
    assert!(matches!(poll_once(wait.as_mut()), Poll::Ready(Ok(found)) if found == revision));
}
