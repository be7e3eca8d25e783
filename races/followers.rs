//! Followers under shuttle: no change is overlooked, whenever it comes between two looks.
//!
//! Owns scenes of followers and a writer, as `scenarios` has them of waits. Must not use timers.

use std::collections::BTreeMap;
use std::pin::pin;
use std::task::{Context, Waker};

use shuttle::future::block_on;
use shuttle::thread;

use super::{apply, check, put, space};
use crate::{Changes, Delta, Revision, StopReason};

/// The keys a follower knows, with their revisions.
type Known = BTreeMap<Vec<u8>, Revision>;

fn fold(known: &mut Known, delta: &Delta<Vec<u8>>) {
    for change in delta {
        let before = known.remove(change.key());
        assert_eq!(before, change.old().map(|old| old.mod_revision()), "{change:?}");
        known.extend(change.new().map(|new| (new.key().to_vec(), new.mod_revision())));
    }
}

/// Takes items until one is of `revision`; hangs, which shuttle tells, when a wake-up is lost.
fn follow_until(changes: &mut Changes<Vec<u8>>, revision: Revision) -> Known {
    let mut known = Known::new();
    loop {
        let delta = block_on(changes.next()).unwrap();
        fold(&mut known, &delta);
        if delta.to_revision() == revision {
            return known;
        }
    }
}

#[test]
fn t52_t60_followers_are_told_of_every_step_whenever_they_begin_and_ask() {
    check(|| {
        let (ks, mut writer) = space();
        let mut early = ks.changes(..);
        let early = thread::spawn(move || follow_until(&mut early, 4));
        let handle = ks.clone();
        // Begins while steps are shown; it is of one key, whose last change is at 3.
        let late = thread::spawn(move || {
            let mut watch = handle.watch_key("/b");
            while block_on(watch.next()).unwrap().is_none() {}
            watch.current().map(|entry| entry.mod_revision())
        });
        apply(&mut writer, vec![put("/a", 2)], 2);
        apply(&mut writer, vec![put("/b", 3)], 3);
        apply(&mut writer, vec![put("/c", 4)], 4);
        let known = early.join().unwrap();
        assert_eq!(known.into_values().collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(late.join().unwrap(), Some(3));
        assert_eq!(ks.stats().followers, 0);
    });
}

#[test]
fn c8_what_is_left_is_told_before_the_end() {
    check(|| {
        let (ks, mut writer) = space();
        let followers: Vec<_> = (0..2)
            .map(|_| {
                let mut changes = ks.changes("/a".."/c");
                thread::spawn(move || {
                    let mut known = Known::new();
                    loop {
                        match block_on(changes.next()) {
                            Ok(delta) => fold(&mut known, &delta),
                            Err(StopReason::Shutdown) => return known.len(),
                            Err(reason) => panic!("{reason}"),
                        }
                    }
                })
            })
            .collect();
        apply(&mut writer, vec![put("/a", 2)], 2);
        apply(&mut writer, vec![put("/b", 3), put("/c", 3)], 3);
        drop(writer);
        for follower in followers {
            assert_eq!(follower.join().unwrap(), 2, "the last change is lost");
        }
    });
}

#[test]
fn t52_a_dropped_follower_leaves_nothing_and_takes_nobody_with_it() {
    check(|| {
        let (ks, mut writer) = space();
        let handle = ks.clone();
        let dropping = thread::spawn(move || {
            for _ in 0..2 {
                let mut changes = handle.changes(..);
                let mut context = Context::from_waker(Waker::noop());
                while pin!(changes.next()).poll(&mut context).is_ready() {}
            }
        });
        let mut changes = ks.changes(..);
        let following = thread::spawn(move || follow_until(&mut changes, 3));
        apply(&mut writer, vec![put("/a", 2)], 2);
        apply(&mut writer, vec![put("/b", 3)], 3);
        dropping.join().unwrap();
        assert_eq!(following.join().unwrap().len(), 2);
        assert_eq!(ks.stats().followers, 0);
    });
}
