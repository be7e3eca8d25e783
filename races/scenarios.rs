//! The wait and publish core under shuttle: no lost wake-up, no early release, no torn view.
//!
//! Owns small scenes of a few threads, each run under thousands of schedules. A wait that is never
//! woken is a deadlock, which shuttle reports with the schedule that leads to it. Must not use
//! timers or sockets: shuttle schedules locks, threads and futures only.

mod followers;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use shuttle::future::block_on;
use shuttle::thread;

use crate::model::{Event, Header, RawKeyValue, Revision, WatchResponse};
use crate::publish::{Awaited, Contact, HoldCell, Verdict, Wait, Waits};
use crate::{KeyRange, KeySpace, StopReason, WaitError, Writer};

/// Schedules tried for each scene, half of them at random, half by priorities.
const SCHEDULES: usize = 2_000;
/// How many preemptions a schedule by priorities looks for.
const DEPTH: usize = 4;

fn check(scene: fn()) {
    shuttle::check_random(scene, SCHEDULES / 2);
    shuttle::check_pct(scene, SCHEDULES / 2, DEPTH);
}

type Bytes = (KeySpace<Vec<u8>>, Writer<Vec<u8>>);

/// A key space that is loaded empty at revision 1.
fn space() -> Bytes {
    let range = KeyRange::prefix("/");
    let (ks, mut writer) = KeySpace::builder(range).unwrap().bytes().writer();
    writer.load(header(1), Vec::new()).unwrap();
    (ks, writer)
}

fn header(revision: Revision) -> Header {
    Header { revision, cluster_id: 1, ..Header::default() }
}

fn put(key: &str, revision: Revision) -> Event {
    Event::Put(RawKeyValue {
        key: key.into(),
        value: revision.to_string().into(),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        lease: 0,
    })
}

fn apply(writer: &mut Writer<Vec<u8>>, events: Vec<Event>, revision: Revision) {
    let header = Some(header(revision));
    writer.apply(vec![WatchResponse { header, events, ..WatchResponse::default() }]).unwrap();
}

fn wait(waits: &Waits, awaited: Awaited) -> Wait<'_> {
    Wait::new(waits, awaited, || ())
}

#[test]
fn t52_no_wake_up_is_lost_and_none_comes_early() {
    check(|| {
        let (ks, mut writer) = space();
        let waiting: Vec<_> = [2, 3, 5]
            .map(|revision| {
                let ks = ks.clone();
                thread::spawn(move || {
                    let reached = block_on(ks.wait_for_revision(revision)).unwrap();
                    assert!(reached >= revision, "released early");
                    // C8: whoever is woken finds at least what it waited for.
                    let view = ks.read();
                    assert!(view.confirmed() >= revision);
                    assert_eq!(view.contains("/a"), view.revision() >= 2);
                    assert_eq!(view.contains("/b"), view.revision() >= 3);
                })
            })
            .into();
        apply(&mut writer, vec![put("/a", 2)], 2);
        apply(&mut writer, vec![put("/b", 3)], 3);
        writer.confirm(5);
        for thread in waiting {
            thread.join().unwrap();
        }
        assert_eq!(ks.core().waits.pending(), 0);
    });
}

#[test]
fn t54_read_at_gives_a_guard_that_has_met_its_revision() {
    check(|| {
        let (ks, mut writer) = space();
        let reader = ks.clone();
        let reading = thread::spawn(move || {
            let view = block_on(reader.read_at(3)).unwrap();
            assert!(view.confirmed() >= 3 && view.contains("/b"));
        });
        let predicate = ks.clone();
        let looking = thread::spawn(move || {
            let found = block_on(predicate.wait_until(|view| view.get("/b").cloned()));
            assert_eq!(found.unwrap().mod_revision(), 3);
        });
        let updated = ks.clone();
        let changed = thread::spawn(move || block_on(updated.updated()));
        apply(&mut writer, vec![put("/a", 2)], 2);
        apply(&mut writer, vec![put("/b", 3)], 3);
        reading.join().unwrap();
        looking.join().unwrap();
        drop(writer);
        // The call may have come after the last change: then the end releases it.
        let changed = changed.join().unwrap();
        assert!(matches!(changed, Ok(2..=3) | Err(WaitError::Stopped(StopReason::Shutdown))));
    });
}

#[test]
fn c3_c4_no_reader_sees_part_of_a_step_or_derived_state_apart_from_its_data() {
    check(|| {
        let (ks, mut writer) = space();
        let sum = ks.derive(0_i64, |sum, delta, view, _| {
            for change in delta {
                *sum += change.new().map_or(0, |new| new.mod_revision());
            }
            assert_eq!(*sum, view.iter().map(|entry| entry.mod_revision()).sum::<i64>());
        });
        let reader = ks.clone();
        let reading = thread::spawn(move || {
            for _ in 0..3 {
                let view = reader.read();
                assert_eq!(view.contains("/a"), view.contains("/b"), "half a transaction");
                let shown: i64 = view.iter().map(|entry| entry.mod_revision()).sum();
                assert_eq!(*view.derived(&sum), shown);
                assert!(view.revision() <= view.confirmed());
            }
        });
        apply(&mut writer, vec![put("/a", 2), put("/b", 2)], 2);
        apply(&mut writer, vec![put("/c", 3)], 3);
        reading.join().unwrap();
    });
}

#[test]
fn t56_a_late_observer_misses_nothing_and_sees_nothing_twice() {
    check(|| {
        let (ks, mut writer) = space();
        let late = ks.clone();
        let seen = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&seen);
        let registering = thread::spawn(move || {
            late.observe(move |delta, view, _| {
                let before = count.fetch_add(delta.len(), Ordering::SeqCst);
                assert_eq!(before + delta.len(), view.len());
            })
        });
        for revision in 2..=4 {
            apply(&mut writer, vec![put(&format!("/{revision}"), revision)], revision);
        }
        let handle = registering.join().unwrap();
        assert_eq!(seen.load(Ordering::SeqCst), 3);
        handle.remove();
        apply(&mut writer, vec![put("/5", 5)], 5);
        assert_eq!(seen.load(Ordering::SeqCst), 3);
    });
}

#[test]
fn t53_c8_waits_end_with_their_epoch_or_with_the_mirror() {
    check(|| {
        let waits = Arc::new(Waits::new());
        waits.publish(5, 5, 1, true);
        let waiting: Vec<_> = [
            Awaited::Revision { revision: 9, epoch: Some(1), ticket: None },
            Awaited::Sync { ticket: 7, epoch: Some(1) },
            Awaited::Change { after: 100 },
            Awaited::Ended,
        ]
        .map(|awaited| {
            let waits = Arc::clone(&waits);
            thread::spawn(move || block_on(wait(&waits, awaited)))
        })
        .into();
        waits.publish(2, 2, 2, true);
        waits.end(StopReason::Shutdown);
        for (index, thread) in waiting.into_iter().enumerate() {
            match (index, thread.join().unwrap()) {
                (0 | 1, Err(WaitError::HistoryChanged { was: 1, now: 2 }))
                | (2, Err(WaitError::Stopped(_)))
                | (3, Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(waits.pending(), 0);
    });
}

#[test]
fn t52_a_dropped_wait_leaves_nothing_and_takes_nobody_with_it() {
    check(|| {
        let waits = Arc::new(Waits::new());
        waits.publish(1, 1, 1, true);
        let awaited = Awaited::Revision { revision: 2, epoch: Some(1), ticket: None };
        let (dropped, kept) = (Arc::clone(&waits), Arc::clone(&waits));
        let dropping = thread::spawn(move || {
            let mut wait = Box::pin(wait(&dropped, awaited));
            let _ = wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        });
        let waiting = thread::spawn(move || block_on(wait(&kept, awaited)).unwrap());
        waits.publish(2, 2, 1, true);
        dropping.join().unwrap();
        assert_eq!(waiting.join().unwrap(), 2);
        assert_eq!(waits.pending(), 0);
    });
}

#[test]
fn b29_a_sync_is_never_met_by_a_read_that_began_before_it() {
    check(|| {
        let waits = Arc::new(Waits::new());
        waits.publish(1, 1, 1, true);
        // The store's revision, which only rises; a read gives what it is then.
        let store = Arc::new(AtomicUsize::new(1));
        let answered = Arc::new(AtomicUsize::new(0));
        let asking: Vec<thread::JoinHandle<()>> = (0..2)
            .map(|_| {
                let (waits, store) = (Arc::clone(&waits), Arc::clone(&store));
                let answered = Arc::clone(&answered);
                thread::spawn(move || {
                    let written = store.fetch_add(1, Ordering::SeqCst) + 1;
                    let awaited = Awaited::Sync { ticket: waits.ticket(), epoch: Some(1) };
                    let read = block_on(wait(&waits, awaited)).unwrap();
                    assert!(read >= Revision::try_from(written).unwrap(), "older than the call");
                    answered.fetch_add(1, Ordering::SeqCst);
                })
            })
            .collect();
        // The mirror reads for the tickets drawn before the read begins.
        while answered.load(Ordering::SeqCst) < asking.len() {
            if let Some(ticket) = waits.demand().sync {
                let revision = Revision::try_from(store.load(Ordering::SeqCst)).unwrap();
                thread::yield_now();
                waits.synced(ticket, revision);
            }
            thread::yield_now();
        }
        for thread in asking {
            thread.join().unwrap();
        }
        assert_eq!(waits.pending(), 0);
    });
}

const LIVE: Contact = Contact { live: true, suspected: false, seen: None };

#[test]
fn h50_waits_that_come_and_go_under_a_suspicion_are_met_after_it() {
    check(|| {
        let waits = Arc::new(Waits::new());
        waits.publish(5, 5, 1, true);
        waits.contact(LIVE);
        let cleared = Arc::new(AtomicUsize::new(0));
        let suspected = Arc::new(AtomicUsize::new(0));
        let waiting: Vec<_> = [4, 6]
            .map(|revision| {
                let (waits, cleared) = (Arc::clone(&waits), Arc::clone(&cleared));
                let suspected = Arc::clone(&suspected);
                thread::spawn(move || {
                    let begun = suspected.load(Ordering::SeqCst) > 0;
                    let awaited = waits.reach(revision, 0, Some(1));
                    assert!(block_on(wait(&waits, awaited)).unwrap() >= revision);
                    let open = begun && cleared.load(Ordering::SeqCst) == 0;
                    assert!(!open, "met under suspicion");
                })
            })
            .into();
        let dropping = Arc::clone(&waits);
        let dropping = thread::spawn(move || {
            let awaited = dropping.reach(4, 9, Some(1));
            let mut wait = Box::pin(wait(&dropping, awaited));
            let _ = wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        });
        waits.contact(Contact { suspected: true, ..LIVE });
        suspected.store(1, Ordering::SeqCst);
        waits.publish(6, 6, 1, true);
        cleared.store(1, Ordering::SeqCst);
        waits.contact(LIVE);
        for thread in waiting {
            thread.join().unwrap();
        }
        dropping.join().unwrap();
        assert_eq!(waits.pending(), 0);
    });
}

/// The read that covers the ticket ends before the revision is confirmed in half of the schedules.
#[test]
fn h51_a_wait_with_a_ticket_needs_read_and_revision_in_any_order() {
    check(|| {
        let waits = Arc::new(Waits::new());
        waits.publish(1, 1, 1, true);
        let read = Arc::new(AtomicUsize::new(0));
        let met = Arc::new(AtomicUsize::new(0));
        let waiting: Vec<_> = [1, 2]
            .map(|revision| {
                let (waits, read) = (Arc::clone(&waits), Arc::clone(&read));
                let met = Arc::clone(&met);
                thread::spawn(move || {
                    let awaited = waits.reach(revision, 3, Some(1));
                    let Awaited::Revision { ticket: Some(ticket), .. } = awaited else {
                        panic!("not live: {awaited:?}")
                    };
                    assert!(block_on(wait(&waits, awaited)).unwrap() >= revision);
                    let read = u64::try_from(read.load(Ordering::SeqCst)).unwrap();
                    assert!(read >= ticket, "met without a read");
                    met.fetch_add(1, Ordering::SeqCst);
                })
            })
            .into();
        let publishing = Arc::clone(&waits);
        let publishing = thread::spawn(move || publishing.publish(2, 2, 1, true));
        while met.load(Ordering::SeqCst) < waiting.len() {
            if let Some(ticket) = waits.demand().sync {
                read.store(usize::try_from(ticket).unwrap(), Ordering::SeqCst);
                waits.synced(ticket, 2);
            }
            thread::yield_now();
        }
        for thread in waiting {
            thread.join().unwrap();
        }
        publishing.join().unwrap();
        assert_eq!(waits.pending(), 0);
    });
}

#[test]
fn c8_the_mirror_is_told_of_a_demand_that_comes_while_it_looks_away() {
    check(|| {
        let waits = Arc::new(Waits::new());
        waits.publish(1, 1, 1, true);
        let waiting = [2, 2].map(|revision| {
            let waits = Arc::clone(&waits);
            let awaited = Awaited::Revision { revision, epoch: Some(1), ticket: None };
            thread::spawn(move || block_on(wait(&waits, awaited)).unwrap())
        });
        // Without the permit that a notification leaves behind, this would sleep for ever.
        block_on(waits.demanded.notified());
        assert_eq!(waits.demand().lowest, Some(2));
        waits.publish(1, 2, 1, false);
        waiting.map(|thread| thread.join().unwrap());
    });
}

#[test]
fn t70_one_decision_reaches_the_mirror_and_only_about_what_was_held() {
    check(|| {
        let cell = Arc::new(HoldCell::default());
        let held = |revision| crate::publish::Held { revision, removed: 1, known: 1, keys: 0 };
        cell.offer(held(5));
        let deciding: Vec<_> = [Verdict::Accept, Verdict::Refuse]
            .map(|verdict| {
                let cell = Arc::clone(&cell);
                thread::spawn(move || cell.decide(5, verdict).ok().map(|()| verdict))
            })
            .into();
        cell.withdraw();
        cell.offer(held(6));
        let decided: Vec<_> = deciding.into_iter().filter_map(|t| t.join().unwrap()).collect();
        assert!(decided.len() <= 1, "{decided:?}");
        assert_eq!(cell.verdict(), None, "it was about another reload");
        cell.decide(6, Verdict::Accept).unwrap();
        assert_eq!((cell.verdict(), cell.verdict()), (Some(Verdict::Accept), None));
    });
}

/// A snapshot takes no lock, so nothing but the order of publishing keeps it from being behind.
#[test]
fn c6_c8_no_snapshot_is_behind_a_guard_a_wait_or_another_snapshot() {
    check(|| {
        let (ks, mut writer) = space();
        let newest = Arc::new(AtomicUsize::new(0));
        let mut threads: Vec<_> = [0, 1]
            .map(|first| {
                let (ks, newest) = (ks.clone(), Arc::clone(&newest));
                thread::spawn(move || {
                    for turn in first..first + 2 {
                        let floor = newest.load(Ordering::SeqCst);
                        let confirmed = if turn % 2 == 0 {
                            let guard = ks.read();
                            assert_eq!(ks.snapshot().confirmed(), guard.confirmed());
                            guard.confirmed()
                        } else {
                            ks.snapshot().confirmed()
                        };
                        let confirmed = usize::try_from(confirmed).unwrap();
                        assert!(confirmed >= floor, "{confirmed} after {floor}");
                        newest.fetch_max(confirmed, Ordering::SeqCst);
                    }
                })
            })
            .into();
        threads.push({
            let ks = ks.clone();
            thread::spawn(move || {
                block_on(ks.wait_for_revision(2)).unwrap();
                let snapshot = ks.snapshot();
                assert!(snapshot.confirmed() >= 2 && snapshot.contains("/a"));
            })
        });
        apply(&mut writer, vec![put("/a", 2)], 2);
        writer.confirm(5);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// A state registered beside a step is in each later snapshot, and of its view.
#[test]
fn c4_shared_states_are_of_their_view_whenever_they_come_and_go() {
    check(|| {
        let (ks, mut writer) = space();
        let registering = {
            let ks = ks.clone();
            thread::spawn(move || {
                let entries = ks.derive_shared(Arc::new(0), |_, _, view, _| Arc::new(view.len()));
                let snapshot = ks.snapshot();
                assert_eq!(**snapshot.derived(&entries), snapshot.len());
                entries
            })
        };
        apply(&mut writer, vec![put("/a", 2)], 2);
        writer.confirm(5);
        let entries = registering.join().unwrap();
        let snapshot = ks.snapshot();
        assert_eq!((snapshot.confirmed(), **snapshot.derived(&entries)), (5, 1));
        let removing = thread::spawn(move || entries.remove());
        apply(&mut writer, vec![put("/b", 6)], 6);
        removing.join().unwrap();
        assert_eq!(ks.snapshot().len(), 2);
    });
}
