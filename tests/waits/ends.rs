//! The end: typed, at once, for every wait, and for ever.

use super::*;

/// Every wait that needs something more than is there, with its result as text.
#[track_caller]
fn check_all_stopped(ks: &KeySpace<String>) {
    let more = ks.read().confirmed() + 1;
    check_stopped(now(ks.wait_for_revision(more)));
    check_stopped(now(ks.read_at(more)).map(drop));
    check_stopped(now(ks.snapshot_at(more)).map(drop));
    check_stopped(now(ks.wait_until(|_| None::<()>)));
    check_stopped(now(ks.updated()));
    check_stopped(now(ks.sync()));
    assert!(matches!(now(ks.closed()), StopReason::Shutdown));
    assert_eq!(ks.status().state, State::Stopped);
    assert_eq!(ks.stats().waits, 0);
}

#[test]
fn t51_c8_a_dropped_writer_ends_every_wait_before_and_during() {
    let (ks, writer, _) = at_five();
    let wakes = Wakes::new();
    let mut waiting = pin!(ks.wait_for_revision(6));
    let mut updated = pin!(ks.updated());
    let mut closed = pin!(ks.closed());
    assert!(poll_with(waiting.as_mut(), &wakes).is_pending());
    assert!(poll_with(updated.as_mut(), &wakes).is_pending());
    assert!(poll_with(closed.as_mut(), &wakes).is_pending());
    drop(writer);
    assert_eq!(wakes.count(), 3);
    check_stopped(now(waiting));
    check_stopped(now(updated));
    assert!(matches!(now(closed), StopReason::Shutdown));
    check_all_stopped(&ks);
    // The last data stays readable, and what it has met is met.
    check_shown(&ks.read(), &[("/a", "4")]);
    assert_eq!(now(ks.wait_for_revision(5)).unwrap(), 5);
    assert_eq!(now(ks.read_at(5)).unwrap().len(), 1);
    assert_eq!(now(ks.loaded()).unwrap(), 5);
    assert_eq!(now(ks.wait_until(|view| view.get("/a").map(|_| 7))).unwrap(), 7);
}

#[test]
fn t51_a_writer_dropped_before_the_load() {
    let (ks, writer) = texts().writer();
    drop(writer);
    check_all_stopped(&ks);
    check_stopped(now(ks.loaded()));
    check_stopped(now(ks.wait_for_revision(0)));
    assert!(ks.read().is_empty());
}

#[test]
fn t67_shutdown_is_idempotent_and_ends_a_hand_driven_key_space() {
    let (ks, mut writer, mut store) = at_five();
    let mut waiting = pin!(ks.wait_for_revision(6));
    assert!(poll_once(waiting.as_mut()).is_pending());
    now(ks.shutdown());
    now(ks.clone().shutdown());
    check_stopped(now(waiting));
    check_all_stopped(&ks);
    // A fixture's writer can still show things; the end stays the end.
    store.put("/a", "5");
    writer.apply(store.after(5)).unwrap();
    check_shown(&ks.read(), &[("/a", "5")]);
    check_all_stopped(&ks);
}

/// What came in the last step before the end is still told.
#[test]
fn a_wait_that_was_met_before_the_end_succeeds() {
    let (ks, mut writer, mut store) = at_five();
    let mut met = pin!(ks.wait_for_revision(6));
    let mut updated = pin!(ks.updated());
    assert!(poll_once(met.as_mut()).is_pending() && poll_once(updated.as_mut()).is_pending());
    store.put("/a", "5");
    writer.apply(store.after(5)).unwrap();
    drop(writer);
    assert_eq!((now(met).unwrap(), now(updated).unwrap()), (6, 6));
}

#[test]
fn from_entries_has_nothing_to_wait_for() {
    let entries = [Entry::new("/a", "1".to_owned(), 7)];
    let ks = KeySpace::from_entries(KeyRange::prefix("/"), entries).unwrap();
    assert_eq!(now(ks.wait_for_revision(7)).unwrap(), 7);
    assert_eq!(now(ks.loaded()).unwrap(), 7);
    assert_eq!(now(ks.wait_until(|view| view.first().map(|e| e.value().len()))).unwrap(), 1);
    check_all_stopped(&ks);
    // Nothing at all is a fixture too.
    let ks = KeySpace::<String>::from_entries(KeyRange::prefix("/"), []).unwrap();
    assert_eq!((ks.read().revision(), now(ks.loaded()).unwrap()), (1, 1));
    check_all_stopped(&ks);
}

/// A handle that outlives everything else is no reason to wait.
#[test]
fn a_waiting_task_does_not_need_another_handle() {
    let (ks, writer, _) = at_five();
    let waiting = std::thread::spawn(move || block_on(ks.wait_for_revision(6)));
    drop(writer);
    check_stopped(waiting.join().unwrap());
}
