//! C8: waits end by event, by progress or with a typed error; they cost nothing when dropped, and a
//! wait that could never end panics.

mod common;

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use common::{
    History, Wakes, block_on, check_shown, header, loaded, now, poll_once, poll_with, put,
    response, texts,
};
use etcd_keyspace::{Entry, KeyRange, KeySpace, State, StopReason, WaitError, Writer};

/// A key space at revision 5, with the store it is of.
fn at_five() -> (KeySpace<String>, Writer<String>, History) {
    let mut store = History::new();
    for value in ["1", "2", "3", "4"] {
        store.put("/a", value);
    }
    let (ks, writer) = loaded(&store);
    assert_eq!(ks.read().confirmed(), 5);
    (ks, writer, store)
}

#[track_caller]
fn check_stopped<V: std::fmt::Debug>(result: Result<V, WaitError>) {
    let stopped = matches!(&result, Err(WaitError::Stopped(StopReason::Shutdown)));
    assert!(stopped, "{result:?}");
}

// ---- By event, by progress ----------------------------------------------------------------------

#[test]
fn t49_a_revision_already_met_returns_at_once() {
    let (ks, mut writer, _) = at_five();
    writer.confirm(9);
    // Below the load's revision, exactly met, met by progress, and nothing at all.
    for revision in [i64::MIN, -1, 0, 1, 5, 8, 9] {
        assert_eq!(now(ks.wait_for_revision(revision)).unwrap(), 9);
    }
    for revision in [10, i64::MAX] {
        assert!(poll_once(pin!(ks.wait_for_revision(revision))).is_pending());
    }
    assert_eq!(ks.stats().waits, 0);
}

#[test]
fn t49_nothing_is_met_before_the_first_load() {
    let (ks, mut writer) = texts().writer();
    let mut waits = [pin!(ks.wait_for_revision(0)), pin!(ks.wait_for_revision(3))];
    assert!(waits.iter_mut().all(|wait| poll_once(wait.as_mut()).is_pending()));
    let mut loaded = pin!(ks.loaded());
    assert!(poll_once(loaded.as_mut()).is_pending());
    writer.load(header(3), vec![]).unwrap();
    for wait in waits {
        assert_eq!(now(wait).unwrap(), 3);
    }
    assert_eq!(now(loaded).unwrap(), 3);
}

#[test]
fn gz_c5_t50_c8_a_wait_ends_by_event_and_by_progress() {
    let (ks, mut writer, mut store) = at_five();
    let (by_event, by_progress) = (Wakes::new(), Wakes::new());
    let mut six = pin!(ks.wait_for_revision(6));
    let mut seven = pin!(ks.wait_for_revision(7));
    assert!(poll_with(six.as_mut(), &by_event).is_pending());
    assert!(poll_with(seven.as_mut(), &by_progress).is_pending());
    assert_eq!(ks.stats().waits, 2);
    store.put("/a", "5");
    writer.apply(store.after(5)).unwrap();
    assert_eq!((by_event.count(), by_progress.count()), (1, 0));
    assert_eq!(now(six).unwrap(), 6);
    // Revision 7 touched nothing here: only progress can tell.
    store.elsewhere();
    writer.confirm(7);
    assert_eq!((by_event.count(), by_progress.count()), (1, 1));
    assert_eq!(now(seven).unwrap(), 7);
    assert_eq!((ks.read().revision(), ks.read().confirmed(), ks.stats().waits), (6, 7, 0));
}

/// What did not confirm anything wakes nobody.
#[test]
fn t50_refusals_and_unproved_headers_wake_nobody() {
    let (ks, mut writer, _) = at_five();
    let wakes = Wakes::new();
    let mut wait = pin!(ks.wait_for_revision(6));
    let mut updated = pin!(ks.updated());
    assert!(poll_with(wait.as_mut(), &wakes).is_pending());
    assert!(poll_with(updated.as_mut(), &wakes).is_pending());
    writer.confirm(5);
    writer
        .apply(vec![etcd_keyspace::WatchResponse {
            header: Some(header(99)),
            ..Default::default()
        }])
        .unwrap();
    writer.apply(vec![response(vec![put("/a", "hole", 2, 6, 9)])]).unwrap_err();
    writer.load(header(4), vec![]).unwrap_err();
    assert_eq!(wakes.count(), 0);
    assert!(poll_with(wait, &wakes).is_pending() && poll_with(updated, &wakes).is_pending());
}

#[test]
fn t54_gz45_gz_c3_read_at_gives_a_guard_that_has_met_it() {
    let (ks, mut writer, mut store) = at_five();
    assert_eq!(now(ks.read_at(3)).unwrap().confirmed(), 5);
    let mut wait = pin!(ks.read_at(7));
    let mut snapshot = pin!(ks.snapshot_at(7));
    assert!(poll_once(wait.as_mut()).is_pending() && poll_once(snapshot.as_mut()).is_pending());
    store.put("/a", "5");
    store.put("/a", "6");
    writer.apply(store.after(5)).unwrap();
    {
        let view = now(wait).unwrap();
        assert_eq!((view.confirmed(), view.get("/a").unwrap().value().as_str()), (7, "6"));
    }
    let snapshot = now(snapshot).unwrap();
    store.delete("/a");
    writer.apply(store.after(7)).unwrap();
    check_shown(&snapshot, &[("/a", "6")]);
    check_shown(&now(ks.snapshot_at(8)).unwrap(), &[]);
}

/// GZ-C1: whoever knows the revision of its own write finds it.
#[test]
fn gz_c1_gz_c5_a_write_is_read_after_waiting_for_its_revision() {
    let (ks, mut writer, mut store) = at_five();
    let own = store.put("/own", "here");
    let reader = ks.clone();
    let reading = std::thread::spawn(move || {
        let view = block_on(reader.read_at(own)).unwrap();
        view.get("/own").map(|entry| entry.value().clone())
    });
    writer.apply(store.after(5)).unwrap();
    assert_eq!(reading.join().unwrap().as_deref(), Some("here"));
}

#[test]
fn gz_c10_wait_until_looks_after_every_step_and_every_progress() {
    let (ks, mut writer, mut store) = at_five();
    // Found at the first look.
    assert_eq!(now(ks.wait_until(|view| Some(view.revision()))).unwrap(), 5);
    let looks = RefCell::new(Vec::new());
    let wakes = Wakes::new();
    let mut wait = pin!(ks.wait_until(|view| {
        looks.borrow_mut().push((view.revision(), view.confirmed()));
        view.get("/b").map(|entry| entry.value().clone())
    }));
    assert!(poll_with(wait.as_mut(), &wakes).is_pending());
    writer.confirm(6);
    assert_eq!(wakes.count(), 1);
    assert!(poll_with(wait.as_mut(), &wakes).is_pending());
    store.elsewhere();
    store.put("/a", "x");
    writer.apply(store.after(5)).unwrap();
    assert!(poll_with(wait.as_mut(), &wakes).is_pending());
    store.put("/b", "found");
    writer.apply(store.after(7)).unwrap();
    assert_eq!(wakes.count(), 3);
    assert_eq!(poll_with(wait, &wakes).map(Result::unwrap), Poll::Ready("found".to_owned()));
    assert_eq!(*looks.borrow(), [(5, 5), (5, 6), (7, 7), (8, 8)]);
}

/// The wait is set up while the step it waits for is being published, again and again, at every
/// distance in time.
#[test]
fn t52_no_wake_up_is_lost_in_a_race() {
    const ROUNDS: i64 = 30_000;
    type WaitFor = fn(&KeySpace<String>, i64);
    let kinds: [WaitFor; 2] = [
        |ks, n| assert!(block_on(ks.wait_for_revision(n)).unwrap() >= n),
        |ks, n| block_on(ks.wait_until(|view| (view.confirmed() >= n).then_some(()))).unwrap(),
    ];
    for wait_for in kinds {
        let (ks, mut writer, _) = at_five();
        let met = Arc::new(AtomicI64::new(5));
        let meeting = Arc::clone(&met);
        let waiting = std::thread::spawn(move || {
            for n in 6..ROUNDS {
                wait_for(&ks, n);
                meeting.store(n, Ordering::SeqCst);
            }
        });
        let begun = Instant::now();
        for n in 6..ROUNDS {
            (0..n % 300).for_each(|_| std::hint::spin_loop());
            writer.confirm(n);
            let mut turns = 0;
            while met.load(Ordering::SeqCst) < n {
                assert!(begun.elapsed() < Duration::from_secs(60), "nobody woke up for {n}");
                std::hint::spin_loop();
                turns += 1;
                if turns > 2_000 {
                    std::thread::yield_now();
                }
            }
        }
        waiting.join().unwrap();
    }
}

#[test]
fn gz44_updated_counts_from_the_call_and_only_steps_that_change() {
    let (ks, mut writer, mut store) = at_five();
    let before = ks.updated();
    store.put("/a", "5");
    writer.apply(store.after(5)).unwrap();
    let mut between = pin!(ks.updated());
    assert_eq!(now(before).unwrap(), 6);
    assert!(poll_once(between.as_mut()).is_pending());
    writer.confirm(9);
    writer.load(header(9), store.kvs()).unwrap();
    store.put("/c", "gone");
    store.delete("/c");
    assert!(poll_once(between.as_mut()).is_pending(), "nothing changed");
    writer.load(header(12), vec![]).unwrap();
    assert_eq!(now(between).unwrap(), 12);
}

// ---- Many waits ---------------------------------------------------------------------------------

#[test]
fn t52_ten_thousand_waits_are_woken_once_each_and_freed_on_drop() {
    const WAITS: usize = 10_000;
    let (ks, mut writer, _) = at_five();
    type Waiting<'a> = (Pin<Box<dyn Future<Output = Result<i64, WaitError>> + 'a>>, Arc<Wakes>);
    let mut waits: Vec<Waiting<'_>> = (0..WAITS)
        .map(|n| {
            let revision = 6 + i64::try_from(n % 1_000).unwrap();
            let future: Pin<Box<dyn Future<Output = _>>> = Box::pin(ks.wait_for_revision(revision));
            (future, Wakes::new())
        })
        .collect();
    for (wait, wakes) in &mut waits {
        assert!(poll_with(wait.as_mut(), wakes).is_pending());
    }
    assert_eq!(ks.stats().waits, WAITS);
    // Each step wakes those it satisfies, once, and no others.
    let woken = |waits: &[Waiting<'_>]| waits.iter().map(|(_, wakes)| wakes.count()).sum::<usize>();
    let mut expected = 0;
    for revision in 6..16 {
        writer.confirm(revision);
        expected += WAITS / 1_000;
        assert_eq!(woken(&waits), expected);
    }
    assert!(waits.iter().all(|(_, wakes)| wakes.count() <= 1));
    assert_eq!(ks.stats().waits, WAITS - expected);
    // Polled again and again a wait still counts once.
    for (wait, wakes) in &mut waits {
        if wakes.count() == 0 {
            assert!(poll_with(wait.as_mut(), wakes).is_pending());
        }
    }
    assert_eq!(ks.stats().waits, WAITS - expected);
    waits.truncate(WAITS / 2);
    assert_eq!(ks.stats().waits, WAITS / 2 - expected / 2);
    drop(waits);
    assert_eq!(ks.stats().waits, 0);
    writer.confirm(2_000);
}

/// Every kind of wait takes itself out when dropped, and wakes only the last waker it was given.
#[test]
fn c8_every_kind_of_wait_is_freed_on_drop() {
    for dropped in [true, false] {
        let (ks, writer) = texts().writer();
        let (old, new) = (Wakes::new(), Wakes::new());
        let mut waits: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = vec![
            Box::pin(async { drop(ks.wait_for_revision(1).await) }),
            Box::pin(async { drop(ks.snapshot_at(1).await) }),
            Box::pin(async { drop(ks.wait_until(|view| view.first().map(|_| ())).await) }),
            Box::pin(async { drop(ks.updated().await) }),
            Box::pin(async { drop(ks.sync().await) }),
            Box::pin(async { drop(ks.loaded().await) }),
            Box::pin(async { drop(ks.closed().await) }),
        ];
        for (n, wait) in waits.iter_mut().enumerate() {
            assert!(poll_with(wait.as_mut(), &old).is_pending());
            assert!(poll_with(wait.as_mut(), &new).is_pending());
            assert_eq!(ks.stats().waits, n + 1);
        }
        if dropped {
            drop(waits);
            assert_eq!((old.count(), new.count(), ks.stats().waits), (0, 0, 0));
            drop(writer);
            assert_eq!(new.count(), 0);
        } else {
            drop(writer);
            assert_eq!((old.count(), new.count(), ks.stats().waits), (0, 7, 0));
            assert!(waits.iter_mut().all(|wait| poll_once(wait.as_mut()).is_ready()));
        }
    }
}

#[path = "waits/ends.rs"]
mod ends;
#[path = "waits/guards.rs"]
mod guards;
#[path = "waits/tokens.rs"]
mod tokens;
