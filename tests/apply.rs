//! The writer's contract: loads, batches, proof of progress, and nothing at all on an error.

#[path = "apply/batches.rs"]
mod batches;
mod common;

use std::sync::{Arc, Mutex};

use common::{
    CLUSTER, History, check_shown, delete, header, loaded, now, poll_once, put, record, response,
    texts,
};
use etcd_keyspace::{
    Applied, ApplyError, Break, Change, Header, KeySpace, LoadError, RawKeyValue, WatchResponse,
    Writer,
};

/// What observers were shown: origin, revisions from and to, and each change in short.
type Log = Arc<Mutex<Vec<String>>>;

fn logged(ks: &KeySpace<String>) -> Log {
    let log = Log::default();
    let writing = Arc::clone(&log);
    ks.observe(move |delta, view, _| {
        assert_eq!(view.revision(), delta.to_revision());
        let changes: Vec<_> = delta.iter().map(describe).collect();
        let (from, to) = (delta.from_revision(), delta.to_revision());
        let line = format!("{:?} {from}..{to}: {}", delta.origin(), changes.join(", "));
        writing.lock().unwrap().push(line);
    });
    log
}

fn describe(change: &Change<String>) -> String {
    let value = |change: Option<&Arc<etcd_keyspace::Entry<String>>>| {
        change.map_or("-".to_owned(), |entry| entry.value().clone())
    };
    format!("{change:?} {}>{}", value(change.old()), value(change.new()))
}

fn take(log: &Log) -> Vec<String> {
    std::mem::take(&mut log.lock().unwrap())
}

/// A small store: `/a` at 2, `/b` at 3 and 4, `/c` at 5.
fn store() -> History {
    let mut store = History::new();
    store.put("/a", "a1");
    store.put("/b", "b1");
    store.put("/b", "b2");
    store.put("/c", "c1");
    store
}

// ---- The first load -----------------------------------------------------------------------------

#[test]
fn gz3_a_fresh_key_space_is_empty_at_zero_and_not_updated() {
    let (ks, writer) = texts().writer();
    assert_eq!((ks.read().len(), ks.read().revision(), ks.read().confirmed()), (0, 0, 0));
    assert_eq!((ks.read().cluster_id(), ks.read().epoch()), (None, 1));
    assert!(poll_once(std::pin::pin!(ks.updated())).is_pending());
    assert!(poll_once(std::pin::pin!(ks.loaded())).is_pending());
    drop(writer);
}

#[test]
fn gz4_gz5_gz6_c1_a_load_shows_exactly_the_read_at_its_revision() {
    let (ks, mut writer) = texts().writer();
    let applied = writer.load(header(9), store().kvs()).unwrap();
    check_shown(&ks.read(), &[("/a", "a1"), ("/b", "b2"), ("/c", "c1")]);
    assert_eq!((ks.read().revision(), ks.read().confirmed()), (9, 9));
    assert_eq!((applied.revision, applied.confirmed, applied.changes), (9, 9, 3));
    assert_eq!(ks.read().cluster_id(), Some(CLUSTER));
    let view = ks.read();
    let b = view.get("/b").unwrap();
    assert_eq!((b.create_revision(), b.mod_revision(), b.version()), (3, 4, 2));
}

#[test]
fn gz7_a_load_with_bad_values_shows_the_others() {
    let (ks, mut writer) = texts().writer();
    let kvs = vec![record("/a", "!", 2, 2, 1), record("/b", "b", 3, 3, 1)];
    writer.load(header(5), kvs).unwrap();
    check_shown(&ks.read(), &[("/b", "b")]);
    assert_eq!(ks.rejected().len(), 1);
}

#[test]
fn c1_an_empty_first_load_is_a_load() {
    let (ks, mut writer) = texts().writer();
    let log = logged(&ks);
    let applied = writer.load(header(7), vec![]).unwrap();
    assert_eq!((applied.changes, ks.read().revision(), ks.read().confirmed()), (0, 7, 7));
    assert_eq!(now(ks.loaded()).unwrap(), 7);
    assert_eq!(take(&log), [""; 0], "nothing changed, so there is nothing to observe");
}

// ---- Reloads ------------------------------------------------------------------------------------

#[test]
fn gz8_t61_c6_a_reload_replaces_everything_and_shows_the_exact_difference() {
    let (ks, mut writer) = loaded(&store());
    let log = logged(&ks);
    take(&log);
    let updated = ks.updated();
    let mut later = store();
    later.delete("/a");
    later.put("/b", "b3");
    later.delete("/c");
    later.put("/c", "c9");
    later.put("/d", "d1");
    let applied = writer.load(later.header(), later.kvs()).unwrap();
    check_shown(&ks.read(), &[("/b", "b3"), ("/c", "c9"), ("/d", "d1")]);
    let expected = "Load 5..10: Removed(/a) a1>-, Updated(/b) b2>b3, Replaced(/c) c1>c9, \
                    Added(/d) ->d1";
    assert_eq!(take(&log), [expected], "once, with the old values");
    assert_eq!((applied.changes, applied.revision, applied.confirmed), (4, 10, 10));
    assert_eq!(now(updated).unwrap(), 10);
}

#[test]
fn t29_c6_a_reload_of_the_same_keeps_allocations_and_changes_nothing() {
    for observed in [true, false] {
        let (ks, mut writer) = loaded(&store());
        let log = observed.then(|| logged(&ks));
        log.as_ref().map(take);
        let before = ks.snapshot();
        let mut updated = std::pin::pin!(ks.updated());
        let applied = writer.load(header(50), store().kvs()).unwrap();
        let after = ks.snapshot();
        for (old, new) in before.iter().zip(&*after) {
            assert!(Arc::ptr_eq(old, new));
        }
        assert_eq!((after.len(), applied.changes), (3, 0));
        // C1: only a reload that changed anything moves the revision; the proof counts all the same.
        assert_eq!((after.revision(), after.confirmed()), (5, 50));
        assert!(poll_once(updated.as_mut()).is_pending(), "observed: {observed}");
        assert!(log.is_none_or(|log| take(&log).is_empty()));
    }
}

#[test]
fn c6_a_reload_keeps_the_allocations_of_what_is_unchanged() {
    let (ks, mut writer) = loaded(&store());
    let before = ks.snapshot();
    let mut later = store();
    later.put("/b", "b3");
    writer.load(later.header(), later.kvs()).unwrap();
    let after = ks.snapshot();
    let same = |key| Arc::ptr_eq(before.get(key).unwrap(), after.get(key).unwrap());
    assert!(same("/a") && !same("/b") && same("/c"));
    assert_eq!(*before.get("/b").unwrap().value(), "b2", "a snapshot never changes");
}

/// Whether anybody observes makes no difference to who is woken.
#[test]
fn updated_tells_a_change_of_entries_from_one_of_rejected_values() {
    for observed in [true, false] {
        let (ks, mut writer) = loaded(&store());
        let log = observed.then(|| logged(&ks));
        let mut updated = std::pin::pin!(ks.updated());
        let mut later = store();
        later.put("/b", "!bad");
        let applied = writer.load(later.header(), later.kvs()).unwrap();
        assert_eq!(applied.changes, 0);
        check_shown(&ks.read(), &[("/a", "a1"), ("/b", "b2"), ("/c", "c1")]);
        assert!(poll_once(updated.as_mut()).is_pending(), "observed: {observed}");
        later.put("/b", "good");
        writer.load(later.header(), later.kvs()).unwrap();
        assert!(poll_once(updated.as_mut()).is_ready(), "observed: {observed}");
        drop(log);
    }
}

// ---- Errors leave no trace ----------------------------------------------------------------------

/// Runs `step`, which must fail, and checks that nothing at all can tell that it was tried.
#[track_caller]
fn check_no_trace<E>(
    ks: &KeySpace<String>,
    writer: &mut Writer<String>,
    step: impl FnOnce(&mut Writer<String>) -> Result<Applied, E>,
) -> E {
    let log = logged(ks);
    take(&log);
    let before = ks.snapshot();
    let mut updated = std::pin::pin!(ks.updated());
    let mut waiting = std::pin::pin!(ks.wait_for_revision(before.confirmed() + 1));
    let Err(error) = step(writer) else { panic!("the step is refused") };
    let after = ks.snapshot();
    assert!(before.diff(&after).is_empty());
    assert_eq!(
        (after.revision(), after.confirmed(), after.cluster_id()),
        (before.revision(), before.confirmed(), before.cluster_id())
    );
    assert_eq!(writer.view().confirmed(), before.confirmed());
    assert!(poll_once(updated.as_mut()).is_pending() && poll_once(waiting.as_mut()).is_pending());
    assert_eq!(take(&log), [""; 0]);
    error
}

#[test]
fn t26_t28_c3_a_refused_load_leaves_no_trace() {
    let (ks, mut writer) = loaded(&store());
    writer.confirm(8);
    let mut refused = |header: Header, kvs: Vec<RawKeyValue>| {
        check_no_trace(&ks, &mut writer, |writer| writer.load(header, kvs))
    };
    let new = |key: &str| record(key, "new", 9, 9, 1);
    let unordered = |key: &str| LoadError::Unordered { key: key.into() };
    assert_eq!(refused(header(9), vec![new("/b"), new("/a")]), unordered("/a"));
    assert_eq!(refused(header(9), vec![new("/a"), new("/a")]), unordered("/a"));
    assert_eq!(refused(header(9), vec![new("/a"), new("0")]), unordered("0"));
    assert_eq!(refused(header(7), vec![]), LoadError::Behind { confirmed: 8, got: 7 });
    let other = Header { cluster_id: 2, ..header(9) };
    let expected = LoadError::ClusterMismatch { expected: CLUSTER, got: 2 };
    assert_eq!(refused(other, vec![]), expected);
}

#[test]
fn h73_a_load_refuses_impossible_numbers() {
    let (ks, mut writer) = loaded(&store());
    for (create, modified, version) in [(0, 2, 1), (-2, 2, 1), (5, 4, 1), (2, 4, -1), (2, 4, 1)] {
        let kvs = vec![record("/a", "new", create, modified, version)];
        let error = check_no_trace(&ks, &mut writer, |writer| writer.load(header(9), kvs));
        let expected = LoadError::Impossible {
            key: b"/a".into(),
            create_revision: create,
            mod_revision: modified,
            version,
        };
        assert_eq!(error, expected);
    }
    writer.load(header(9), vec![record("/a", "new", 2, 4, 0)]).unwrap();
}

/// A read at a revision cannot hold what was written after it.
#[test]
fn t28_a_load_with_keys_of_the_future_is_refused() {
    let (ks, mut writer) = loaded(&store());
    let kvs = vec![record("/a", "new", 2, 99, 2), record("/b", "new", 3, 8, 2)];
    let error = check_no_trace(&ks, &mut writer, |writer| writer.load(header(9), kvs));
    assert_eq!(error, LoadError::HeaderBehind { header: 9, entry: 99 });
}

#[test]
fn c3_a_refused_batch_leaves_no_trace() {
    let (ks, mut writer) = loaded(&store());
    let good = || response(vec![put("/new", "1", 6, 6, 1)]);
    let headed = |header| WatchResponse { header, ..response(vec![put("/x", "1", 7, 7, 1)]) };
    let behind = vec![put("/x", "1", 8, 8, 1), put("/y", "1", 7, 7, 1)];
    let refused: [(WatchResponse, ApplyError); 9] = [
        (
            headed(Some(Header { cluster_id: 2, ..header(7) })),
            ApplyError::ClusterMismatch { expected: CLUSTER, got: 2 },
        ),
        (headed(None), ApplyError::MissingHeader),
        (headed(Some(header(6))), ApplyError::HeaderBehind { header: 6, event: 7 }),
        (
            WatchResponse { header: Some(header(9)), ..response(behind) },
            ApplyError::OutOfOrder { previous: 8, got: 7 },
        ),
        (WatchResponse { fragment: true, ..headed(Some(header(7))) }, ApplyError::Incomplete),
        (
            WatchResponse { canceled: true, cancel_reason: "r".into(), ..headed(None) },
            ApplyError::Canceled { reason: "r".into() },
        ),
        (response(vec![delete("x", 7)]), ApplyError::OutsideRange { key: b"x".to_vec() }),
        (
            response(vec![put("/x", "1", 7, 7, 1), delete("/none", 7)]),
            ApplyError::Discontinuity {
                key: b"/none".to_vec(),
                mod_revision: 7,
                reason: Break::UnknownKeyDeleted,
            },
        ),
        // Redelivered, and not what is known.
        (
            response(vec![put("/a", "a2", 2, 4, 2)]),
            ApplyError::Discontinuity {
                key: b"/a".to_vec(),
                mod_revision: 4,
                reason: Break::ModRevision,
            },
        ),
    ];
    for (bad, expected) in refused {
        // The good part comes first, so an apply that is not whole would show it.
        let error = check_no_trace(&ks, &mut writer, |w| w.apply(vec![good(), bad]));
        assert_eq!(error, expected);
    }
    // And the writer is not spoiled: the same good part goes through.
    assert_eq!(writer.apply(vec![good()]).unwrap().events, 1);
}
