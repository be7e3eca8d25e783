//! Batches of events: net effects, revisions, redelivery, what is decoded.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::common::{Op, text};
use etcd_keyspace::{Continuity, KeyRange, RawKeyValue};

// ---- Revisions ----------------------------------------------------------------------------------

#[test]
fn c1_c2_events_move_both_revisions_and_headers_neither() {
    let (ks, mut writer) = loaded(&store());
    let ahead = |events| WatchResponse { header: Some(header(900)), ..response(events) };
    let applied = writer.apply(vec![ahead(vec![put("/d", "d1", 7, 7, 1)])]).unwrap();
    assert_eq!((ks.read().revision(), ks.read().confirmed()), (7, 7));
    assert_eq!((applied.events, applied.changes, applied.revision), (1, 1, 7));
    // C2: neither a created response nor a notification that nobody vouched for.
    let created = WatchResponse { created: true, ..ahead(vec![]) };
    writer.apply(vec![created, ahead(vec![])]).unwrap();
    assert_eq!((ks.read().revision(), ks.read().confirmed()), (7, 7));
}

#[test]
fn c1_c2_gz14_proof_moves_confirmed_alone_and_never_back() {
    let (ks, mut writer) = loaded(&store());
    let log = logged(&ks);
    take(&log);
    for (proof, confirmed) in [(40, 40), (12, 40), (-1, 40), (41, 41)] {
        writer.confirm(proof);
        assert_eq!((ks.read().revision(), ks.read().confirmed()), (5, confirmed));
        assert_eq!(writer.view().confirmed(), confirmed);
    }
    assert_eq!(take(&log), [""; 0]);
    // The next event catches up.
    writer.apply(vec![response(vec![put("/d", "d1", 42, 42, 1)])]).unwrap();
    assert_eq!((ks.read().revision(), ks.read().confirmed()), (42, 42));
}

#[test]
fn gz22_batches_without_events_change_nothing() {
    let (ks, mut writer) = loaded(&store());
    let before = ks.snapshot();
    let mut updated = std::pin::pin!(ks.updated());
    for responses in [vec![], vec![WatchResponse::default()]] {
        let applied = writer.apply(responses).unwrap();
        assert_eq!((applied.events, applied.changes, applied.revision), (0, 0, 5));
    }
    assert!(ks.snapshot().diff(&before).is_empty());
    assert!(poll_once(updated.as_mut()).is_pending());
}

#[test]
fn t17_redelivery_is_dropped_and_counted() {
    let mut store = store();
    let (ks, mut writer) = loaded(&store);
    let log = logged(&ks);
    take(&log);
    store.put("/d", "d1");
    store.delete("/a");
    let applied = writer.apply(store.after(5)).unwrap();
    assert_eq!((applied.events, applied.duplicates), (2, 0));
    take(&log);
    // Everything since the beginning once more, then with something new at its end.
    let applied = writer.apply(store.after(1)).unwrap();
    assert_eq!((applied.events, applied.duplicates), (0, 6));
    assert_eq!(take(&log), [""; 0]);
    store.put("/d", "d2");
    let applied = writer.apply(store.after_at_once(1)).unwrap();
    assert_eq!((applied.events, applied.duplicates, applied.changes), (1, 6, 1));
    assert_eq!(take(&log), ["Events 7..8: Updated(/d) d1>d2"]);
}

// ---- Net effects --------------------------------------------------------------------------------

/// Applies what `ops` does to the small store, each operation a revision, as one batch; gives what
/// the observer saw.
fn net(ops: &[Op]) -> (KeySpace<String>, Vec<String>, Applied) {
    let mut store = store();
    let (ks, mut writer) = loaded(&store);
    let log = logged(&ks);
    take(&log);
    for op in ops {
        store.txn([op.clone()]);
    }
    let applied = writer.apply(store.after(5)).unwrap();
    assert_eq!(ks.read().revision(), store.revision());
    assert_eq!(applied.changes, usize::from(!log.lock().unwrap().is_empty()));
    let seen = take(&log);
    (ks, seen, applied)
}

fn write(key: &str, value: &str) -> Op {
    Op::Put(key.to_owned(), value.to_owned())
}

fn remove(key: &str) -> Op {
    Op::Delete(key.to_owned())
}

#[test]
fn gz_c6_delete_and_recreate_in_one_batch_is_a_replacement() {
    let (ks, seen, _) = net(&[remove("/a"), write("/a", "a2")]);
    assert_eq!(seen, ["Events 5..7: Replaced(/a) a1>a2"]);
    assert_eq!(ks.read().get("/a").unwrap().create_revision(), 7);
}

#[test]
fn t36_put_delete_put_is_a_replacement() {
    let (_, seen, _) = net(&[write("/a", "x"), remove("/a"), write("/a", "y"), write("/a", "z")]);
    assert_eq!(seen, ["Events 5..9: Replaced(/a) a1>z"]);
    let (_, seen, _) = net(&[write("/new", "x"), remove("/new"), write("/new", "y")]);
    assert_eq!(seen, ["Events 5..8: Added(/new) ->y"]);
}

#[test]
fn t36_put_then_delete_is_a_removal_of_the_old() {
    let (_, seen, _) = net(&[write("/a", "x"), remove("/a")]);
    assert_eq!(seen, ["Events 5..7: Removed(/a) a1>-"]);
}

#[test]
fn t36_put_delete_of_a_fresh_key_is_nothing_and_the_revision_moves() {
    let mut store = store();
    let (ks, mut writer) = loaded(&store);
    let log = logged(&ks);
    take(&log);
    let mut updated = std::pin::pin!(ks.updated());
    let mut waiting = std::pin::pin!(ks.wait_for_revision(7));
    assert!(poll_once(waiting.as_mut()).is_pending());
    store.put("/new", "x");
    store.delete("/new");
    let applied = writer.apply(store.after(5)).unwrap();
    assert_eq!(take(&log), [""; 0], "observers are not called");
    assert_eq!((applied.events, applied.changes), (2, 0));
    assert_eq!((ks.read().revision(), ks.read().confirmed()), (7, 7));
    assert!(poll_once(updated.as_mut()).is_pending());
    assert_eq!(now(waiting).unwrap(), 7);
}

#[test]
fn t36_many_updates_of_one_key_are_one_change_and_one_decode() {
    static DECODED: AtomicUsize = AtomicUsize::new(0);
    let counting = |kv: RawKeyValue| {
        DECODED.fetch_add(1, Ordering::SeqCst);
        text(kv)
    };
    let (ks, mut writer) = KeySpace::builder("/").unwrap().decoder(counting).writer();
    let mut store = store();
    writer.load(store.header(), store.kvs()).unwrap();
    let log = logged(&ks);
    take(&log);
    DECODED.store(0, Ordering::SeqCst);
    for n in 1..=10 {
        store.put("/a", &n.to_string());
    }
    assert_eq!(writer.apply(store.after(5)).unwrap().events, 10);
    assert_eq!(DECODED.load(Ordering::SeqCst), 1);
    assert_eq!(take(&log), ["Events 5..15: Updated(/a) a1>10"]);
    // A load decodes what has changed and nothing else.
    store.put("/b", "b3");
    DECODED.store(0, Ordering::SeqCst);
    writer.load(store.header(), store.kvs()).unwrap();
    assert_eq!(DECODED.load(Ordering::SeqCst), 1);
}

#[test]
fn t15_c3_one_revision_may_touch_a_key_twice() {
    let mut store = store();
    let (ks, mut writer) = loaded(&store);
    store.txn([remove("/a"), write("/a", "new"), write("/ghost", "x"), remove("/ghost")]);
    writer.apply(store.after(5)).unwrap();
    check_shown(&ks.read(), &[("/a", "new"), ("/b", "b2"), ("/c", "c1")]);
    assert_eq!(ks.read().get("/a").unwrap().create_revision(), 6);
    // The stream breaks here and the resume, which is inclusive, brings the revision again.
    let again = writer.apply(store.after(5)).unwrap();
    assert_eq!((again.events, again.duplicates), (0, 4));
    check_shown(&ks.read(), &[("/a", "new"), ("/b", "b2"), ("/c", "c1")]);
}

#[test]
fn t14_a_mass_deletion_in_one_revision_is_one_step() {
    let mut store = History::new();
    store.txn((0..5_000).map(|n| write(&format!("/lease/{n:05}"), "x")));
    store.put("/stays", "x");
    let (ks, mut writer) = loaded(&store);
    let log = logged(&ks);
    take(&log);
    store.txn((0..5_000).map(|n| remove(&format!("/lease/{n:05}"))));
    let applied = writer.apply(store.after(3)).unwrap();
    assert_eq!((applied.events, applied.changes, log.lock().unwrap().len()), (5_000, 5_000, 1));
    check_shown(&ks.read(), &[("/stays", "x")]);
}

// ---- Continuity ---------------------------------------------------------------------------------

#[test]
fn gz33_gz27_lenient_fixtures_may_write_events_by_hand() {
    let (ks, mut writer) = texts().writer();
    writer.set_continuity(Continuity::Lenient);
    let events = vec![
        put("/a", "1", 2, 2, 1),
        put("/bad", "!", 3, 3, 1),
        put("/b", "2", 1, 4, 9),
        delete("/none", 5),
        put("/a", "!", 2, 6, 2),
    ];
    let headless = WatchResponse { header: None, ..response(events) };
    let applied = writer.apply(vec![headless]).unwrap();
    // GZ-33: a bad value on insert shows nothing, on modify the old value stays.
    check_shown(&ks.read(), &[("/a", "1"), ("/b", "2")]);
    let tolerated: Vec<_> =
        applied.tolerated.iter().map(|t| (t.key.as_slice(), t.reason, t.applied)).collect();
    let expected: [(&[u8], _, _); 2] =
        [(b"/b", Break::UnknownKeyModified, true), (b"/none", Break::UnknownKeyDeleted, false)];
    assert_eq!(tolerated, expected);
    assert_eq!((ks.read().revision(), ks.rejected().len()), (6, 2));
    // A later good value is shown, a later delete removes.
    let events = vec![put("/bad", "good", 3, 7, 2), delete("/a", 8)];
    writer.apply(vec![response(events)]).unwrap();
    check_shown(&ks.read(), &[("/b", "2"), ("/bad", "good")]);
    assert!(ks.rejected().is_empty());
}

#[test]
fn a_new_create_revision_without_a_deletion_replaces_leniently() {
    let (ks, mut writer) = loaded(&store());
    writer.set_continuity(Continuity::Lenient);
    let log = logged(&ks);
    take(&log);
    writer.apply(vec![response(vec![put("/a", "again", 6, 6, 1)])]).unwrap();
    assert_eq!(take(&log), ["Events 5..6: Replaced(/a) a1>again"]);
    // And the former life's value is not kept for it when the new one is bad.
    writer.apply(vec![response(vec![put("/a", "!", 7, 7, 1)])]).unwrap();
    assert_eq!(take(&log), ["Events 6..7: Removed(/a) again>-"]);
    drop(ks);
}

#[test]
fn a_discontinuity_is_mended_by_a_reload() {
    let mut store = store();
    let (ks, mut writer) = loaded(&store);
    store.put("/a", "lost");
    let lost = store.revision();
    store.put("/a", "a3");
    let refused = writer.apply(store.after(lost)).unwrap_err();
    let reason = Break::Version;
    assert_eq!(refused, ApplyError::Discontinuity { key: b"/a".into(), mod_revision: 7, reason });
    check_shown(&ks.read(), &[("/a", "a1"), ("/b", "b2"), ("/c", "c1")]);
    writer.load(store.header(), store.kvs()).unwrap();
    store.put("/a", "a4");
    writer.apply(store.after(lost)).unwrap();
    check_shown(&ks.read(), &[("/a", "a4"), ("/b", "b2"), ("/c", "c1")]);
}

// ---- Fixtures without a writer ------------------------------------------------------------------

#[test]
fn from_entries_shows_them_in_key_order_at_their_greatest_revision() {
    use etcd_keyspace::Entry;
    let entries = [Entry::new("/b", "2".to_owned(), 9), Entry::new("/a", "1".to_owned(), 4)];
    let ks = KeySpace::from_entries(KeyRange::prefix("/"), entries).unwrap();
    check_shown(&ks.read(), &[("/a", "1"), ("/b", "2")]);
    assert_eq!((ks.read().revision(), ks.read().confirmed()), (9, 9));
    let log = logged(&ks);
    assert_eq!(take(&log), ["Registration 0..9: Added(/a) ->1, Added(/b) ->2"]);
    for key in ["/a", "0"] {
        let entries = [Entry::new("/a", (), 1), Entry::new(key, (), 2)];
        let refused = KeySpace::from_entries(KeyRange::prefix("/"), entries).unwrap_err();
        assert_eq!(refused, LoadError::Unordered { key: key.into() });
    }
}
