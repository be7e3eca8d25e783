//! Readers on other threads see borders of batches only, and derived state that fits its data.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::{History, Op, loaded};
use etcd_keyspace::View;

const KEYS: usize = 40;
const READERS: usize = 3;
const STEPS: usize = 400;

/// Every revision writes the same number to all keys that are there and moves one key in or out,
/// so a torn view would show two numbers.
fn revision(store: &mut History, n: usize) {
    let moved = format!("/{:02}", n % KEYS);
    let absent = store.keys().contains_key(moved.as_bytes());
    let mut ops: Vec<_> = store
        .keys()
        .keys()
        .map(|key| String::from_utf8(key.clone()).unwrap())
        .filter(|key| *key != moved)
        .map(|key| Op::Put(key, n.to_string()))
        .collect();
    ops.push(if absent { Op::Delete(moved) } else { Op::Put(moved, n.to_string()) });
    store.txn(ops);
}

/// The one number that all entries carry; a view of nothing carries none.
fn number(view: &View<String>) -> Option<usize> {
    let mut numbers = view.iter().map(|entry| entry.value().parse().unwrap());
    let first = numbers.next();
    assert!(numbers.all(|number| Some(number) == first), "half a revision: {view:?}");
    first
}

#[test]
fn c3_readers_see_whole_batches_with_the_state_derived_from_them() {
    let mut store = History::new();
    store.txn((0..KEYS).map(|n| Op::Put(format!("/{n:02}"), "0".into())));
    let (ks, mut writer) = loaded(&store);
    // Kept from changes alone: the number of entries, and the sum of their numbers.
    let sums = ks.derive((0usize, 0usize), |(count, sum), delta, _, _| {
        for change in delta {
            if let Some(old) = change.old() {
                *count -= 1;
                *sum -= old.value().parse::<usize>().unwrap();
            }
            if let Some(new) = change.new() {
                *count += 1;
                *sum += new.value().parse::<usize>().unwrap();
            }
        }
    });
    // Of the earlier one's state, in the same step.
    let first = sums.clone();
    let doubled =
        ks.derive(0, move |doubled, _, _, earlier| *doubled = 2 * earlier.derived(&first).1);
    let done = AtomicBool::new(false);
    // How many different views each reader has seen.
    let views = [const { AtomicUsize::new(0) }; READERS];
    let (ks, done, views, sums, doubled) = (&ks, &done, &views, &sums, &doubled);
    let seen = thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                scope.spawn(move || {
                    let mut seen: Vec<i64> = Vec::new();
                    let mut last = (0, 0);
                    while !done.load(Ordering::Relaxed) {
                        let view = ks.read();
                        let number = number(&view).unwrap_or_default();
                        let sum = number * view.len();
                        assert_eq!(*view.derived(sums), (view.len(), sum));
                        assert_eq!(*view.derived(doubled), 2 * sum);
                        assert!(view.revision() <= view.confirmed());
                        // C6: nothing goes back.
                        let now = (view.revision(), view.confirmed());
                        assert!(last.0 <= now.0 && last.1 <= now.1, "{last:?} then {now:?}");
                        last = now;
                        if seen.last() != Some(&now.0) {
                            seen.push(now.0);
                            views[reader].store(seen.len(), Ordering::Relaxed);
                        }
                        if reader == 0 {
                            // A snapshot taken under the guard is of the same step.
                            assert_eq!(ks.snapshot().revision(), now.0);
                        }
                        drop(view);
                        thread::yield_now();
                    }
                    seen
                })
            })
            .collect();
        // Revisions after which a batch ends; nobody may see any other.
        let mut borders = vec![ks.read().revision()];
        let mut n = 0;
        // Batches of one to four revisions, now and then a reload or a proof of progress.
        // At least so many steps, and more until every reader has seen several.
        let behind = || views.iter().any(|views| views.load(Ordering::Relaxed) < 10);
        for step in 0..50 * STEPS {
            if step >= STEPS && !behind() {
                break;
            }
            let from = store.revision();
            for _ in 0..=step % 4 {
                n += 1;
                revision(&mut store, n);
            }
            if step % 10 == 9 {
                writer.load(store.header(), store.kvs()).unwrap();
            } else {
                writer.apply(store.after(from)).unwrap();
            }
            if step % 7 == 6 {
                store.elsewhere();
                writer.confirm(store.revision());
            }
            borders.push(ks.read().revision());
        }
        done.store(true, Ordering::Relaxed);
        let seen: Vec<_> = readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
        for revision in &seen {
            assert!(borders.contains(revision), "{revision} is inside a batch");
        }
        seen
    });
    assert!(seen.len() >= 10 * READERS, "readers and writer ran side by side");
    assert!(ks.status().poisoned_observers.is_empty(), "{:?}", ks.status());
}
