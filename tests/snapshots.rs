//! Snapshots: taken without a lock, never behind what was seen before, and kept by nothing but themselves.

mod common;
#[path = "snapshots/derived.rs"]
mod derived;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use common::{History, header, loaded, panic_of, put, response, texts};
use etcd_keyspace::{KeyRange, KeySpace, RawKeyValue, ReadGuard, Snapshot, Writer};

/// Applies the next write of `/a`: at revision 2 first, or the revision after the newest.
fn write<T: Send + Sync + 'static>(writer: &mut Writer<T>) {
    let (revision, version) = match writer.view().get("/a") {
        Some(entry) => (writer.view().confirmed() + 1, entry.version() + 1),
        None => (2, 1),
    };
    writer.apply(vec![response(vec![put("/a", "x", 2, revision, version)])]).unwrap();
}

fn space() -> (KeySpace<String>, Writer<String>) {
    let (ks, mut writer) = texts().writer();
    writer.load(header(1), Vec::new()).unwrap();
    (ks, writer)
}

#[test]
fn c6_nothing_goes_back_between_guards_and_snapshots_of_any_thread() {
    let (ks, mut writer) = space();
    write(&mut writer);
    let sum = ks.derive(0, |sum, _, view, _| *sum = view.revision());
    let (stop, newest, reads) = (AtomicBool::new(false), AtomicI64::new(0), AtomicUsize::new(0));
    let reader = |first: usize| {
        for turn in first.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let floor = newest.load(Ordering::SeqCst);
            let confirmed = match turn % 3 {
                0 => {
                    let guard = ks.read();
                    let (snapshot, same) = (ks.snapshot(), guard.snapshot());
                    assert_eq!(*guard.derived(&sum), guard.revision());
                    assert_eq!(snapshot.confirmed(), guard.confirmed(), "the guard's view");
                    assert_eq!(same.confirmed(), guard.confirmed(), "the guard's view");
                    guard.confirmed()
                }
                1 => ks.snapshot().confirmed(),
                _ => {
                    let kept = ks.snapshot().clone();
                    assert!(ks.read().confirmed() >= kept.confirmed());
                    kept.confirmed()
                }
            };
            assert!(confirmed >= floor, "{confirmed} after {floor}");
            newest.fetch_max(confirmed, Ordering::SeqCst);
            reads.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for first in 0..4 {
            scope.spawn(move || reader(first));
        }
        let mut written = 0;
        // Ends too where readers have panicked.
        while written < 2_000 || (reads.load(Ordering::Relaxed) < 2_000 && written < 100_000) {
            write(&mut writer);
            let confirmed = writer.view().confirmed();
            writer.confirm(confirmed + 1);
            written += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// A value that counts the values that live.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn counted() -> (KeySpace<Counted>, Writer<Counted>, Arc<AtomicUsize>) {
    let live = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&live);
    let decoder = move |_: RawKeyValue| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok::<_, std::convert::Infallible>(Counted(Arc::clone(&counter)))
    };
    let builder = KeySpace::builder(KeyRange::prefix("/")).unwrap().decoder(decoder);
    let (ks, mut writer) = builder.writer();
    writer.load(header(1), Vec::new()).unwrap();
    write(&mut writer);
    (ks, writer, live)
}

#[test]
fn c9_a_thread_that_has_read_and_idles_or_ends_keeps_no_view() {
    let (ks, mut writer, live) = counted();
    let (there, go) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let idle = {
        let (ks, there, go) = (ks.clone(), Arc::clone(&there), Arc::clone(&go));
        std::thread::spawn(move || {
            // More than a thread has slots for, and some of them taken again.
            drop((0..20).map(|_| ks.snapshot()).collect::<Vec<_>>());
            drop((ks.snapshot(), ks.read()));
            there.wait();
            go.wait();
        })
    };
    there.wait();
    let other = ks.clone();
    std::thread::spawn(move || drop((other.snapshot(), other.read()))).join().unwrap();
    for _ in 0..3 {
        write(&mut writer);
        assert_eq!(live.load(Ordering::SeqCst), 1, "the value before is dropped at once");
    }
    go.wait();
    idle.join().unwrap();
}

#[test]
fn c5_what_is_replaced_is_dropped_with_the_last_snapshot() {
    let (ks, mut writer, live) = counted();
    let live = || live.load(Ordering::SeqCst);
    let take = |count: usize| (0..count).map(|_| ks.snapshot()).collect::<Vec<Snapshot<_>>>();
    // Taken by a thread that has ended since.
    let kept = std::thread::scope(|scope| scope.spawn(|| take(20)).join().unwrap());
    let revision = ks.snapshot().revision();
    write(&mut writer);
    assert_eq!(live(), 2);
    assert!(kept.iter().all(|kept| kept.get("/a").unwrap().mod_revision() == revision));
    let clones = kept.clone();
    drop(kept);
    assert_eq!(live(), 2);
    drop(clones);
    assert_eq!(live(), 1);
    // Dropped by another thread.
    let many = take(20);
    write(&mut writer);
    assert_eq!(live(), 2);
    std::thread::spawn(move || drop(many)).join().unwrap();
    assert_eq!(live(), 1);
    let last = ks.snapshot();
    drop((ks, writer));
    assert_eq!(live(), 1, "a snapshot outlives its key space");
    assert!(last.contains("/a"));
    drop(last);
    assert_eq!(live(), 0);
}

#[test]
fn c4_while_an_observer_runs_a_snapshot_is_of_the_view_before() {
    let (ks, mut writer) = space();
    let other = ks.clone();
    let (saw, seen) = mpsc::channel();
    ks.observe(move |_, view, _| {
        let other = other.clone();
        // It would hang if the snapshot took the lock.
        let snapshot = std::thread::spawn(move || other.snapshot()).join().unwrap();
        saw.send((snapshot.confirmed(), view.confirmed())).unwrap();
    });
    write(&mut writer);
    assert_eq!(seen.recv().unwrap(), (1, 2));
    assert_eq!(ks.snapshot().confirmed(), 2);
    assert_eq!(ks.status().poisoned_observers, []);
}

#[test]
fn c4_reads_inside_an_observer_panic_on_a_thread_that_has_read_before() {
    let (ks, mut writer) = space();
    drop((ks.read(), ks.snapshot()));
    let (inner, elsewhere) = (ks.clone(), loaded(&History::new()).0);
    let (refused, refusals) = mpsc::channel();
    ks.observe(move |_, _, _| {
        drop((elsewhere.read(), elsewhere.snapshot()));
        refused.send(panic_of(|| drop(inner.read())).0).unwrap();
        refused.send(panic_of(|| drop(inner.snapshot())).0).unwrap();
    });
    write(&mut writer);
    let refusals: Vec<_> = refusals.try_iter().collect();
    assert_eq!(refusals.len(), 2);
    assert!(refusals.iter().all(|message| message.starts_with("reading inside an observer")));
    drop((ks.read(), ks.snapshot()));
}

/// A guard is counted for its key space, among guards of others and in any order of dropping.
#[test]
fn c8_guards_of_several_key_spaces_are_counted_for_each() {
    let spaces: Vec<_> = (0..4).map(|_| space().0).collect();
    let mut held: Vec<(usize, ReadGuard<'_, _>)> = Vec::new();
    let mut random = 7_u64;
    for turn in 0..5_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (takes, at) =
            ((random >> 40).is_multiple_of(2), usize::try_from(random >> 48).unwrap());
        if takes && held.len() < 9 {
            held.push((at % 4, spaces[at % 4].read()));
        } else if !held.is_empty() {
            drop(held.swap_remove(at % held.len()));
        }
        if turn % 50 > 0 {
            continue;
        }
        for (at, ks) in spaces.iter().enumerate() {
            if held.iter().any(|(of, _)| *of == at) {
                assert!(panic_of(|| ks.observe(|_, _, _| ())).0.contains("read guard"), "{turn}");
            } else {
                ks.observe(|_, _, _| ()).remove();
            }
        }
    }
}

#[test]
fn h65_a_guard_that_the_writer_waits_for_is_measured() {
    const HELD: Duration = Duration::from_millis(50);
    let (ks, mut writer) = space();
    // The first guard of a thread is a sample.
    drop(ks.read());
    let before = ks.stats();
    let (there, held) = mpsc::channel();
    let writing = std::thread::spawn(move || {
        held.recv().unwrap();
        write(&mut writer);
        writer
    });
    {
        let _guard = ks.read();
        there.send(()).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < HELD {
            std::thread::yield_now();
        }
        // The writer waits since long before, or the machine was too slow to prove anything.
    }
    drop(writing.join().unwrap());
    let stats = ks.stats();
    assert!(stats.longest_read_hold >= before.longest_read_hold);
    let waited = stats.longest_write_wait.min(HELD);
    assert!(stats.longest_read_hold >= waited / 2, "{stats:?}");
}
