//! Shared states: those that a snapshot carries are of exactly its view.

use std::sync::{Mutex, Weak};

use etcd_keyspace::{DerivedError, SharedDerived};

use super::*;

/// Publishes the revision of the view.
fn revision_of(ks: &KeySpace<String>) -> SharedDerived<i64> {
    ks.derive_shared(Arc::new(0), |_, _, view, _| Arc::new(view.revision()))
}

#[test]
fn c4_the_states_of_a_snapshot_are_of_its_view() {
    let (ks, mut writer) = space();
    let revision = revision_of(&ks);
    let twice = ks.derive_shared(Arc::new(0), {
        let revision = revision.clone();
        move |_, _, _, earlier| Arc::new(2 * **earlier.derived(&revision))
    });
    assert_eq!((**ks.snapshot().derived(&revision), **ks.snapshot().derived(&twice)), (0, 0));
    let stop = AtomicBool::new(false);
    let read = || {
        while !stop.load(Ordering::Relaxed) {
            let snapshot = ks.snapshot();
            let entries = snapshot.revision() * i64::try_from(snapshot.len()).unwrap();
            assert_eq!(**snapshot.derived(&revision), entries);
            assert_eq!(**snapshot.derived(&twice), 2 * entries);
            let guard = ks.read();
            assert_eq!(guard.derived(&revision), guard.snapshot().derived(&revision));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(read);
        scope.spawn(read);
        for _ in 0..1_000 {
            write(&mut writer);
            // Progress publishes a view with the states of before.
            writer.confirm(writer.view().confirmed() + 1);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn c4_a_state_registered_late_is_published_with_the_view_that_is_there() {
    let (ks, mut writer) = space();
    write(&mut writer);
    let before = ks.snapshot();
    let revision = revision_of(&ks);
    assert_eq!(**ks.snapshot().derived(&revision), 2);
    assert_eq!(before.try_derived(&revision), Err(DerivedError::NotHere));
    assert_eq!(space().0.snapshot().try_derived(&revision), Err(DerivedError::NotHere));
    assert!(panic_of(|| before.derived(&revision)).1.contains("derived.rs"), "the caller's place");
}

#[test]
fn c4_an_unchanged_state_keeps_its_arc() {
    let (ks, mut writer) = space();
    let same = ks.derive_shared(Arc::new(7), |old, _, _, _| Arc::clone(old));
    let before = Arc::clone(ks.snapshot().derived(&same));
    write(&mut writer);
    assert!(Arc::ptr_eq(&before, ks.snapshot().derived(&same)));
}

#[test]
fn c5_a_state_is_dropped_with_its_last_snapshot_and_outside_the_lock() {
    /// Reads when it is dropped, which would hang or panic under the lock.
    struct Reads(Weak<Mutex<Option<KeySpace<String>>>>);
    impl Drop for Reads {
        fn drop(&mut self) {
            if let Some(ks) = self.0.upgrade().and_then(|ks| ks.lock().unwrap().clone()) {
                drop((ks.read(), ks.snapshot()));
            }
        }
    }
    let (ks, mut writer) = space();
    let shared = Arc::new(Mutex::new(Some(ks.clone())));
    let state = Arc::new(Reads(Arc::downgrade(&shared)));
    let first = Arc::downgrade(&state);
    let reads = ks.derive_shared(state, {
        let shared = Arc::downgrade(&shared);
        move |_, _, _, _| Arc::new(Reads(Weak::clone(&shared)))
    });
    let snapshot = ks.snapshot();
    write(&mut writer);
    assert!(first.upgrade().is_some(), "the snapshot has it");
    drop(snapshot);
    assert!(first.upgrade().is_none());
    let second = Arc::downgrade(ks.snapshot().derived(&reads));
    write(&mut writer);
    assert!(second.upgrade().is_none());
    let third = Arc::downgrade(ks.snapshot().derived(&reads));
    reads.remove();
    assert!(third.upgrade().is_none(), "removed, it is published no longer");
    assert_eq!(ks.snapshot().try_derived(&reads).err(), Some(DerivedError::NotHere));
    shared.lock().unwrap().take();
}

/// Counts the time that it is held up, if it is dropped while the lock is taken.
struct DropsUnlocked(KeySpace<String>);

impl Drop for DropsUnlocked {
    fn drop(&mut self) {
        // It would hang, or panic inside the observer.
        drop((self.0.read(), self.0.snapshot()));
    }
}

#[test]
fn c5_the_initial_state_is_dropped_outside_the_lock() {
    let (ks, mut writer) = space();
    write(&mut writer);
    let first = Arc::new(DropsUnlocked(ks.clone()));
    let weak = Arc::downgrade(&first);
    let (inner, kept) = (ks.clone(), Arc::new(Mutex::new(None)));
    let keep = Arc::clone(&kept);
    let token = ks.derive_shared(first, move |_, _, _, _| {
        let next = Arc::new(DropsUnlocked(inner.clone()));
        *keep.lock().unwrap() = Some(Arc::clone(&next));
        next
    });
    assert!(weak.upgrade().is_none(), "replaced at its registration");
    assert!(ks.snapshot().try_derived(&token).is_ok());
    assert_eq!(ks.status().poisoned_observers, []);
    token.remove();
    drop(kept.lock().unwrap().take());
}

#[test]
fn c8_waits_are_met_though_a_replaced_state_panics() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let (ks, mut writer) = space();
    write(&mut writer);
    let states = Mutex::new(Some(Arc::new(Some(Panics))));
    let state = states.lock().unwrap().take().unwrap();
    let token = ks.derive_shared(state, |old, _, view, _| match view.revision() {
        2 => Arc::clone(old),
        _ => Arc::new(None),
    });
    assert_eq!(panic_of(|| write(&mut writer)).0, "dropped");
    assert_eq!(ks.snapshot().revision(), 3);
    assert_eq!(common::now(ks.wait_for_revision(3)).unwrap(), 3);
    assert_eq!(writer.view().revision(), 3);
    write(&mut writer);
    assert_eq!(ks.snapshot().get("/a").unwrap().version(), 3);
    assert!(ks.snapshot().derived(&token).is_none());
}

#[test]
fn c4_after_a_panic_snapshots_say_so_and_earlier_ones_keep_their_state() {
    let (ks, mut writer) = space();
    let fragile = ks.derive_shared(Arc::new(0), |old, _, view, _| {
        assert!(view.revision() < 3, "too far");
        Arc::new(**old + 1)
    });
    write(&mut writer);
    let before = ks.snapshot();
    write(&mut writer);
    let error = ks.snapshot().try_derived(&fragile).unwrap_err();
    assert!(matches!(&error, DerivedError::Poisoned { message, .. } if message == "too far"));
    assert_eq!(ks.read().try_derived(&fragile).unwrap_err(), error);
    assert_eq!(**before.derived(&fragile), 1);
}
