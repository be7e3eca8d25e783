//! Loads of another history: a new epoch, the exact difference, and nobody left waiting.

mod fixture;
mod threads;

use std::pin::{Pin, pin};
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::keyspace::KeySpace;
use crate::model::{Change, Numbers, ValueHash};
use crate::publish::wait::WaitError;
use crate::view::Differing;

fn kv(key: &str, create_revision: Revision, mod_revision: Revision, version: i64) -> RawKeyValue {
    let (key, value) = (key.into(), version.to_string().into_bytes());
    RawKeyValue { key, value, create_revision, mod_revision, version, lease: 0 }
}

fn header(revision: Revision) -> Header {
    Header { cluster_id: 1, member_id: 1, revision, raft_term: 1 }
}

/// At revision 9 of its first epoch, confirmed through 12.
fn space() -> (KeySpace<Vec<u8>>, Writer<Vec<u8>>) {
    let (ks, mut writer) = KeySpace::builder("/").unwrap().bytes().writer();
    writer.load(header(9), vec![kv("/a", 2, 4, 2), kv("/b", 3, 3, 1), kv("/c", 5, 9, 4)]).unwrap();
    writer.confirm(12);
    (ks, writer)
}

/// Shows a complete read of another history.
fn restore<T: Send + Sync + 'static>(
    writer: &mut Writer<T>,
    header: Header,
    kvs: Vec<RawKeyValue>,
) -> Result<Applied, LoadError> {
    let mut loading = writer.begin_load(false, false);
    writer.load_page(&mut loading, kvs).unwrap();
    writer.finish_load(loading, header, false)
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn c6_t18_another_history_begins_a_new_epoch_and_may_go_back() {
    let (ks, mut writer) = space();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observed = Arc::clone(&seen);
    ks.observe(move |delta, view, _| {
        let changes: Vec<_> =
            delta.iter().map(|change: &Change<_>| format!("{change:?}")).collect();
        observed.lock().unwrap().push((view.epoch(), delta.to_revision(), changes.join(" ")));
    });
    seen.lock().unwrap().clear();
    // The same numbers may carry another value, so numbers alone are not taken for unchanged.
    let other = RawKeyValue { value: b"other".to_vec(), ..kv("/a", 2, 4, 2) };
    let kvs = vec![other, kv("/c", 6, 6, 1)];
    let applied = restore(&mut writer, header(7), kvs).unwrap();
    assert_eq!((applied.changes, applied.revision, applied.confirmed), (3, 7, 7));
    let view = ks.snapshot();
    assert_eq!((view.epoch(), view.revision(), view.confirmed(), view.len()), (2, 7, 7, 2));
    let changes = "Updated(/a) Removed(/b) Replaced(/c)".to_owned();
    assert_eq!(*seen.lock().unwrap(), [(2, 7, changes)]);
    assert_eq!((ks.status().epoch, ks.status().revision), (2, 7));
}

#[test]
fn another_history_may_be_of_another_cluster() {
    let (ks, mut writer) = space();
    restore(&mut writer, Header { cluster_id: 2, ..header(3) }, vec![]).unwrap();
    assert_eq!((ks.read().cluster_id(), ks.read().len(), ks.read().epoch()), (Some(2), 0, 2));
    // But not have keys of its own future.
    let refused = restore(&mut writer, header(3), vec![kv("/a", 4, 4, 1)]).unwrap_err();
    assert_eq!(refused, LoadError::HeaderBehind { header: 3, entry: 4 });
    assert_eq!(ks.read().epoch(), 2);
}

#[test]
fn t53_c8_waits_of_the_old_epoch_fail_and_new_ones_count_anew() {
    let (ks, mut writer) = space();
    let mut revision = pin!(ks.wait_for_revision(13));
    let mut snapshot = pin!(ks.snapshot_at(13));
    let mut asking = pin!(ks.sync());
    let mut updated = pin!(ks.updated());
    let mut until = pin!(ks.wait_until(|view| (view.epoch() == 2).then_some(view.len())));
    assert!(poll(revision.as_mut()).is_pending() && poll(snapshot.as_mut()).is_pending());
    assert!(poll(asking.as_mut()).is_pending() && poll(until.as_mut()).is_pending());
    restore(&mut writer, header(20), vec![kv("/a", 2, 4, 2)]).unwrap();
    let results = [poll(revision), poll(snapshot).map(|result| result.map(|_| 0)), poll(asking)];
    for result in results {
        let changed = Poll::Ready(Err::<(), _>(WaitError::HistoryChanged { was: 1, now: 2 }));
        assert_eq!(format!("{result:?}"), format!("{changed:?}"));
    }
    assert!(matches!(poll(updated.as_mut()), Poll::Ready(Ok(20))));
    assert!(matches!(poll(until), Poll::Ready(Ok(1))));
    assert!(matches!(poll(pin!(ks.wait_for_revision(13))), Poll::Ready(Ok(20))));
}

/// A new history with the very same revision is a change all the same.
#[test]
fn another_history_at_the_same_revision_wakes_who_waits_for_a_change() {
    let (ks, mut writer) = space();
    let mut updated = pin!(ks.updated());
    restore(&mut writer, header(9), vec![kv("/z", 9, 9, 1)]).unwrap();
    assert!(matches!(poll(updated.as_mut()), Poll::Ready(Ok(9))));
}

/// Values rejected in one history are not shown by what another one had before.
#[test]
fn c10_nothing_of_another_history_is_kept_for_a_bad_value() {
    let decoder = |kv: RawKeyValue| String::from_utf8(kv.value);
    let (ks, mut writer) = KeySpace::builder("/").unwrap().decoder(decoder).writer();
    writer.load(header(9), vec![kv("/a", 2, 4, 2)]).unwrap();
    let bad = RawKeyValue { value: vec![0xff], ..kv("/a", 2, 10, 3) };
    // Of the same history the older value stays.
    writer.load(header(10), vec![bad.clone()]).unwrap();
    assert_eq!((ks.read().len(), ks.rejected()[0].shows_older), (1, true));
    restore(&mut writer, header(10), vec![bad]).unwrap();
    assert_eq!((ks.read().len(), ks.rejected()[0].shows_older), (0, false));
}

/// Known keys are what etcd has: entries, and rejected keys that show none (C10).
#[test]
fn c10_known_keys_count_what_etcd_has() {
    let decoder = |kv: RawKeyValue| String::from_utf8(kv.value);
    let (_ks, mut writer) = KeySpace::builder("/").unwrap().decoder(decoder).writer();
    let bad = |kv| RawKeyValue { value: vec![0xff], ..kv };
    let known = |writer: &Writer<String>| writer.view().known_keys();
    writer.load(header(9), vec![bad(kv("/a", 2, 4, 2)), kv("/b", 3, 3, 1)]).unwrap();
    assert_eq!((known(&writer), writer.view().len()), (2, 1));
    // `/a` is mended, `/b` keeps an older value, `/c` is new and bad.
    let kvs = vec![kv("/a", 2, 10, 3), bad(kv("/b", 3, 11, 2)), bad(kv("/c", 12, 12, 1))];
    writer.load(header(12), kvs.clone()).unwrap();
    assert_eq!((known(&writer), writer.view().len()), (3, 2));
    writer.load(header(13), kvs[..2].to_vec()).unwrap();
    assert_eq!((known(&writer), writer.view().len()), (2, 2));
    let deletes = [("/a", 14), ("/b", 15)]
        .map(|(key, mod_revision)| crate::model::Event::Delete { key: key.into(), mod_revision });
    let response =
        WatchResponse { header: Some(header(15)), events: deletes.into(), ..Default::default() };
    writer.apply(vec![response]).unwrap();
    assert_eq!((known(&writer), writer.view().len()), (0, 0));
}

/// A comparison counts keys of one side and other writes apart from other values of the same write;
/// the newest value of a key counts, decodable or not.
#[test]
fn a_comparison_tells_other_keys_from_other_values() {
    let decoder = |kv: RawKeyValue| String::from_utf8(kv.value);
    let (_ks, mut writer) = KeySpace::builder("/").unwrap().decoder(decoder).writer();
    let bad = |kv, byte| RawKeyValue { value: vec![byte], ..kv };
    let kvs = [
        kv("/a", 2, 4, 2),
        kv("/b", 3, 3, 1),
        bad(kv("/c", 5, 9, 4), 0xff),
        kv("/d", 6, 6, 1),
        kv("/e", 7, 7, 1),
    ];
    writer.load(header(9), kvs.to_vec()).unwrap();
    let compare = |kvs: &[RawKeyValue], values: bool| {
        let hash = |kv: &RawKeyValue| values.then(|| ValueHash::of(&kv.value));
        let keys = kvs.iter().map(|kv| (kv.key.as_slice(), Numbers::from(kv), hash(kv)));
        let Differing { keys, values } = writer.begin_audit().page(keys, true).unwrap();
        (keys, values)
    };
    assert_eq!((compare(&kvs, false), compare(&kvs, true)), ((0, 0), (0, 0)));
    let other = [
        bad(kv("/a", 2, 4, 2), b'x'),
        kv("/aa", 4, 4, 1),
        kv("/b", 3, 8, 2),
        bad(kv("/c", 5, 9, 4), 0xfe),
        kv("/d", 6, 6, 1),
    ];
    assert_eq!((compare(&other, false), compare(&other, true)), ((3, 0), (3, 2)));
    // A server that keeps no versions still keeps values.
    let unversioned = kvs.map(|kv| RawKeyValue { version: 0, ..kv });
    assert_eq!(compare(&unversioned, true), (0, 0));
}

/// A key whose value is rejected, and shows none, is known: its creation may be delivered again.
#[test]
fn h23_a_rejected_creation_may_be_delivered_again() {
    let decoder = |kv: RawKeyValue| String::from_utf8(kv.value);
    let (ks, mut writer) = KeySpace::builder("/").unwrap().decoder(decoder).writer();
    let bad = RawKeyValue { value: vec![0xff], ..kv("/a", 9, 9, 1) };
    writer.load(header(9), vec![bad.clone()]).unwrap();
    let again = |kv: &RawKeyValue| WatchResponse {
        header: Some(header(9)),
        events: vec![crate::model::Event::Put(kv.clone())],
        ..Default::default()
    };
    let applied = writer.apply(vec![again(&bad)]).unwrap();
    assert_eq!((applied.duplicates, ks.rejected().len(), ks.read().len()), (1, 1, 0));
    writer.apply(vec![again(&kv("/b", 9, 9, 1))]).unwrap_err();
}

// ---- Reads that are of another history ----------------------------------------------------------

/// The epoch after a read at revision 20 of a view that is at revision 9 and confirmed through 12.
fn epoch_after(doubted: bool, kvs: Vec<RawKeyValue>) -> u64 {
    let (ks, mut writer) = space();
    let mut loading = writer.begin_load(true, doubted);
    writer.load_page(&mut loading, kvs).unwrap();
    writer.finish_load(loading, header(20), true).unwrap();
    ks.read().epoch()
}

fn with_value(kv: RawKeyValue, value: &str) -> RawKeyValue {
    RawKeyValue { value: value.into(), ..kv }
}

/// A load is under the epoch of what is shown only if both can be of one history.
#[test]
fn h21_a_read_that_contradicts_the_view_begins_a_new_epoch() {
    let (a, b) = (|| kv("/a", 2, 4, 2), || kv("/b", 3, 3, 1));
    let all = || vec![a(), b(), kv("/c", 5, 9, 4)];
    // The known writes, newer ones, fewer keys, and numbers of a server that keeps no versions.
    let unversioned = RawKeyValue { version: 0, ..with_value(a(), "2") };
    let agree = [
        all(),
        vec![],
        vec![kv("/a", 2, 13, 3), kv("/aa", 13, 13, 1), kv("/c", 14, 14, 1)],
        vec![unversioned, b()],
    ];
    for kvs in agree {
        assert_eq!((epoch_after(false, kvs.clone()), epoch_after(true, kvs)), (1, 1));
    }
    // The known revision with another value or other numbers, or a lower revision.
    let never = [
        with_value(a(), "other"),
        RawKeyValue { lease: 7, ..a() },
        kv("/a", 2, 4, 3),
        kv("/a", 4, 4, 2),
        kv("/a", 2, 3, 2),
        with_value(RawKeyValue { version: 0, ..a() }, "other"),
    ];
    for kv in never {
        let kvs = vec![kv.clone()];
        let epochs = (epoch_after(false, kvs.clone()), epoch_after(true, kvs));
        assert_eq!(epochs, (2, 2), "{kv:?}");
    }
    // A write that should be known: only lost events excuse it.
    for kv in [kv("/a", 2, 5, 3), kv("/a", 12, 12, 1), kv("/aa", 12, 12, 1), kv("/d", 1, 1, 1)] {
        let kvs = vec![kv.clone()];
        let epochs = (epoch_after(false, kvs.clone()), epoch_after(true, kvs));
        assert_eq!(epochs, (2, 1), "{kv:?}");
    }
}

/// The first load of a view, and the one after a view that was empty.
#[test]
fn h21_an_empty_view_is_contradicted_only_below_its_revision() {
    let (ks, mut writer) = KeySpace::builder("/").unwrap().bytes().writer();
    writer.load(header(9), vec![]).unwrap();
    assert_eq!(ks.read().epoch(), 1);
    writer.load(header(11), vec![kv("/a", 10, 10, 1)]).unwrap();
    assert_eq!(ks.read().epoch(), 1);
    let (ks, mut writer) = KeySpace::builder("/").unwrap().bytes().writer();
    writer.load(header(9), vec![]).unwrap();
    writer.load(header(11), vec![kv("/a", 9, 9, 1)]).unwrap();
    assert_eq!((ks.read().epoch(), ks.read().len()), (2, 1));
}

/// Fixtures that let events be lost load later writes without a new epoch.
#[test]
fn h21_a_lenient_fixture_may_load_what_it_should_have_known() {
    let (ks, mut writer) = space();
    writer.set_continuity(Continuity::Lenient);
    writer.load(header(20), vec![kv("/aa", 12, 12, 1)]).unwrap();
    assert_eq!((ks.read().epoch(), ks.read().len()), (1, 1));
    writer.load(header(20), vec![with_value(kv("/aa", 12, 12, 1), "other")]).unwrap();
    assert_eq!(ks.read().epoch(), 2);
}

/// Equal numbers are equal values only if the hashes say so; what is equal is kept and not decoded.
#[test]
fn h20_a_reload_keeps_equal_values_and_replaces_others() {
    for same_history in [true, false] {
        let decoded = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&decoded);
        let decoder = move |kv: RawKeyValue| {
            seen.lock().unwrap().push(String::from_utf8(kv.key).unwrap());
            String::from_utf8(kv.value)
        };
        let (ks, mut writer) = KeySpace::builder("/").unwrap().decoder(decoder).writer();
        let bad = |kv| RawKeyValue { value: vec![0xff], ..kv };
        let kvs = [
            kv("/a", 2, 4, 2),
            kv("/b", 3, 3, 1),
            bad(kv("/c", 5, 5, 1)),
            bad(kv("/d", 6, 6, 1)),
            kv("/e", 7, 7, 1),
        ];
        writer.load(header(9), kvs.to_vec()).unwrap();
        let before = ks.snapshot();
        decoded.lock().unwrap().clear();
        let mut loading = writer.begin_load(same_history, false);
        let [a, b, c, _, e] = kvs;
        let d = kv("/d", 6, 6, 1);
        writer.load_page(&mut loading, vec![a, with_value(b, "other"), c, d, e]).unwrap();
        let applied = writer.finish_load(loading, header(9), same_history).unwrap();
        assert_eq!(*decoded.lock().unwrap(), ["/b", "/d"], "{same_history}");
        let after = ks.snapshot();
        assert_eq!((applied.changes, after.diff(&before).len(), after.epoch()), (2, 2, 2));
        assert_eq!(after.get("/b").unwrap().value(), "other");
        assert!(Arc::ptr_eq(after.get("/a").unwrap(), before.get("/a").unwrap()));
        assert_eq!(ks.rejected().len(), 1);
    }
}

/// An older value that stands in for a rejected one is of the history that wrote it.
#[test]
fn h20_c10_values_of_a_former_history_stand_in_for_nothing() {
    let bad = |kv, byte| RawKeyValue { value: vec![byte], ..kv };
    let same = bad(kv("/b", 2, 6, 3), 0xff);
    // Read as the same history, each of these shows that it is another one.
    let reads = [
        vec![with_value(kv("/a", 2, 4, 2), "other"), same.clone()],
        vec![same.clone(), with_value(kv("/c", 5, 5, 1), "other")],
        vec![bad(same.clone(), 0xfe)],
    ];
    for kvs in reads {
        let decoder = |kv: RawKeyValue| String::from_utf8(kv.value);
        let (ks, mut writer) = KeySpace::builder("/").unwrap().decoder(decoder).writer();
        writer.load(header(5), vec![kv("/b", 2, 4, 2), kv("/c", 5, 5, 1)]).unwrap();
        let now = vec![kv("/a", 2, 4, 2), same.clone(), kv("/c", 5, 5, 1)];
        let mut loading = writer.begin_load(true, true);
        writer.load_page(&mut loading, now).unwrap();
        writer.finish_load(loading, header(9), true).unwrap();
        assert_eq!((ks.read().epoch(), ks.rejected()[0].shows_older), (1, true));
        let known = writer.view().known_keys();
        assert_eq!(known, 3);

        let before = ks.snapshot();
        let keys = kvs.len();
        writer.load(header(10), kvs).unwrap();
        assert_eq!((ks.read().epoch(), ks.rejected()[0].shows_older), (2, false));
        assert!(!ks.read().contains("/b"));
        assert_eq!(writer.view().known_keys(), keys);
        let changes: Vec<_> =
            before.diff(&ks.snapshot()).iter().map(|c| c.key().to_vec()).collect();
        assert!(changes.is_sorted() && changes.contains(&b"/b".to_vec()), "{changes:?}");
    }
}

/// Progress has named the state by a later revision than its last change: a repair there is a new epoch too.
#[test]
fn h21_a_repair_at_the_confirmed_revision_begins_a_new_epoch() {
    let (ks, mut writer) = space();
    assert_eq!((ks.read().revision(), ks.read().confirmed()), (9, 12));
    let mut loading = writer.begin_load(true, true);
    // Events are known to be lost, so a deletion contradicts nothing.
    writer.load_page(&mut loading, vec![kv("/a", 2, 4, 2)]).unwrap();
    writer.finish_load(loading, header(12), true).unwrap();
    assert_eq!((ks.read().epoch(), ks.read().len()), (2, 1));
}
