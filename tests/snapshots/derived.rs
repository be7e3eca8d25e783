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
