//! The rules by which watch responses are judged, one test per promise, without any view.

mod delivery;

use super::*;
use crate::model::Header;

const CLUSTER: u64 = 0xc1;

type Keys<'a> = &'a [(&'a str, Numbers)];

/// Numbers of a key: create revision, mod revision, version.
fn at(create_revision: Revision, mod_revision: Revision, version: i64) -> Numbers {
    Numbers { create_revision, mod_revision, version, lease: 0 }
}

fn put(key: &str, value: &str, create: Revision, modified: Revision, version: i64) -> Event {
    Event::Put(RawKeyValue {
        key: key.into(),
        value: value.into(),
        create_revision: create,
        mod_revision: modified,
        version,
        lease: 0,
    })
}

fn delete(key: &str, mod_revision: Revision) -> Event {
    Event::Delete { key: key.into(), mod_revision }
}

fn header(revision: Revision) -> Option<Header> {
    Some(Header { cluster_id: CLUSTER, member_id: 1, revision, raft_term: 1 })
}

/// A response whose header is at its last event, as of a watcher that is not behind.
fn response(events: Vec<Event>) -> WatchResponse {
    let revision = events.last().map_or(0, Event::mod_revision);
    WatchResponse { header: header(revision), events, ..WatchResponse::default() }
}

fn judged(
    continuity: Continuity,
    confirmed: Revision,
    keys: Keys<'_>,
    responses: Vec<WatchResponse>,
) -> Result<Batch, ApplyError> {
    let known = Known {
        range: &KeyRange::prefix("/"),
        cluster_id: Some(CLUSTER),
        confirmed,
        numbers: |asked: &[&[u8]]| {
            let of = |key: &&[u8]| keys.iter().find(|(k, _)| k.as_bytes() == *key).map(|(_, n)| *n);
            asked.iter().map(of).collect()
        },
        continuity,
    };
    judge(known, responses)
}

fn strict(confirmed: Revision, keys: Keys<'_>, events: Vec<Event>) -> Result<Batch, ApplyError> {
    judged(Continuity::Strict, confirmed, keys, vec![response(events)])
}

/// What a batch does to each key: "gone", or the values written since the last deletion, with a
/// "new " in front when the key was deleted on the way.
fn net(batch: &Batch) -> Vec<(String, String)> {
    let value = |(_, event): &(u32, Event)| match event {
        Event::Put(kv) => String::from_utf8_lossy(&kv.value).into_owned(),
        Event::Delete { .. } => panic!("a deletion among the writes after it"),
    };
    let describe = |history: &KeyEvents| {
        let values: Vec<_> = history.events.iter().skip(history.life).map(value).collect();
        let key = String::from_utf8_lossy(history.key()).into_owned();
        let what = match (values.is_empty(), history.deleted) {
            (true, _) => "gone".to_owned(),
            (false, true) => format!("new {}", values.join(" ")),
            (false, false) => values.join(" "),
        };
        (key, what)
    };
    batch.keys.iter().map(describe).collect()
}

#[track_caller]
fn check_net(batch: &Batch, expected: &[(&str, &str)]) {
    let net = net(batch);
    let net: Vec<_> = net.iter().map(|(key, what)| (key.as_str(), what.as_str())).collect();
    assert_eq!(net, expected);
}

/// One row of the table of breaks: an event on known keys is refused when strict, and tolerated
/// with the named outcome when lenient.
#[track_caller]
fn check_break(keys: Keys<'_>, event: Event, reason: Break, applied: bool) {
    let (key, mod_revision) = (event.key().to_vec(), event.mod_revision());
    let refused = strict(0, keys, vec![event.clone()]).unwrap_err();
    assert_eq!(refused, ApplyError::Discontinuity { key: key.clone(), mod_revision, reason });

    let batch = judged(Continuity::Lenient, 0, keys, vec![response(vec![event])]).unwrap();
    assert_eq!(batch.tolerated, [Tolerated { key, mod_revision, reason, applied }]);
    assert_eq!(batch.keys.len(), usize::from(applied));
    assert_eq!(batch.revision, mod_revision);
}

/// An event that is a break in neither mode.
#[track_caller]
fn check_continues(keys: Keys<'_>, event: Event) {
    for continuity in [Continuity::Strict, Continuity::Lenient] {
        let batch = judged(continuity, 0, keys, vec![response(vec![event.clone()])]).unwrap();
        assert_eq!((batch.keys.len(), batch.tolerated.len()), (1, 0), "{continuity:?}");
    }
}

// ---- Continuity: the table of breaks ------------------------------------------------------------

#[test]
fn gz27_delete_of_an_unknown_key() {
    check_break(&[], delete("/a", 7), Break::UnknownKeyDeleted, false);
    check_break(&[("/b", at(1, 1, 1))], delete("/a", 7), Break::UnknownKeyDeleted, false);
    check_continues(&[("/a", at(1, 1, 1))], delete("/a", 7));
}

#[test]
fn gz28_put_of_an_unknown_key_that_is_not_its_creation() {
    check_break(&[], put("/a", "1", 3, 7, 2), Break::UnknownKeyModified, true);
    check_break(&[], put("/a", "1", 0, 7, 1), Break::UnknownKeyModified, true);
    check_break(&[], put("/a", "1", 8, 7, 1), Break::UnknownKeyModified, true);
    check_continues(&[], put("/a", "1", 7, 7, 1));
}

#[test]
fn gz29_creation_with_another_version_than_one() {
    check_break(&[], put("/a", "1", 7, 7, 2), Break::CreatedVersion, true);
    check_break(&[], put("/a", "1", 7, 7, -1), Break::CreatedVersion, true);
    check_break(&[], put("/a", "1", 7, 7, i64::MIN), Break::CreatedVersion, true);
}

#[test]
fn gz30_events_not_above_their_key() {
    let keys = [("/a", at(2, 7, 3))];
    check_break(&keys, put("/a", "1", 2, 7, 4), Break::ModRevision, false);
    check_break(&keys, put("/a", "1", 2, 6, 4), Break::ModRevision, false);
    check_break(&keys, delete("/a", 7), Break::ModRevision, false);
    check_break(&keys, delete("/a", 1), Break::ModRevision, false);
}

#[test]
fn gz31_put_with_another_create_revision() {
    let keys = [("/a", at(2, 5, 3))];
    check_break(&keys, put("/a", "1", 7, 7, 1), Break::CreateRevision, true);
    check_break(&keys, put("/a", "1", 1, 7, 4), Break::CreateRevision, true);
    // The missing deletion is implied, so nothing of the former life may be shown.
    let events = vec![put("/a", "x", 2, 6, 4), put("/a", "y", 7, 7, 1), put("/a", "z", 7, 8, 2)];
    let batch = judged(Continuity::Lenient, 0, &keys, vec![response(events)]).unwrap();
    check_net(&batch, &[("/a", "new y z")]);
}

#[test]
fn gz32_put_with_a_gap_in_versions() {
    let keys = [("/a", at(2, 5, 3))];
    check_break(&keys, put("/a", "1", 2, 7, 3), Break::Version, true);
    check_break(&keys, put("/a", "1", 2, 7, 5), Break::Version, true);
    check_break(&keys, put("/a", "1", 2, 7, 1), Break::Version, true);
    check_break(&keys, put("/a", "1", 2, 7, i64::MIN), Break::Version, true);
    check_continues(&keys, put("/a", "1", 2, 7, 4));
}

#[test]
fn t35_a_lenient_history_with_every_break_ends_as_in_the_model() {
    let histories = [
        (delete("/none", 1), Some((Break::UnknownKeyDeleted, false))),
        (put("/a", "1", 2, 2, 1), None),
        (put("/a", "2", 2, 3, 2), None),
        (put("/a", "3", 4, 4, 1), Some((Break::CreateRevision, true))),
        (put("/b", "4", 3, 5, 2), Some((Break::UnknownKeyModified, true))),
        (put("/c", "5", 6, 6, 2), Some((Break::CreatedVersion, true))),
        (put("/c", "6", 6, 7, 4), Some((Break::Version, true))),
        (put("/d", "7", 8, 8, 1), None),
        (delete("/d", 9), None),
        (delete("/e", 10), Some((Break::UnknownKeyDeleted, false))),
    ];
    let mut expected: Vec<_> = histories
        .iter()
        .filter_map(|(event, outcome)| {
            let (reason, applied) = (*outcome)?;
            let (key, mod_revision) = (event.key().to_vec(), event.mod_revision());
            Some(Tolerated { key, mod_revision, reason, applied })
        })
        .collect();
    expected.sort_by(|a, b| a.key.cmp(&b.key));
    let events = histories.iter().map(|(event, _)| event.clone()).collect();
    let batch = judged(Continuity::Lenient, 0, &[], vec![response(events)]).unwrap();
    check_net(&batch, &[("/a", "new 3"), ("/b", "4"), ("/c", "5 6"), ("/d", "gone")]);
    assert_eq!(batch.tolerated, expected);
    assert_eq!((batch.revision, batch.events), (10, 10));
}

#[test]
fn servers_without_versions_are_checked_by_create_revision_only() {
    check_continues(&[], put("/a", "1", 7, 7, 0));
    check_continues(&[("/a", at(2, 5, 0))], put("/a", "1", 2, 7, 9));
    check_continues(&[("/a", at(2, 5, 3))], put("/a", "1", 2, 7, 0));
    check_break(&[("/a", at(2, 5, 0))], put("/a", "1", 3, 7, 0), Break::CreateRevision, true);
    check_break(&[], put("/a", "1", 2, 7, 0), Break::UnknownKeyModified, true);
}

#[test]
fn continuity_is_judged_along_the_batch() {
    let events = vec![
        put("/a", "1", 5, 5, 1),
        put("/a", "2", 5, 6, 2),
        delete("/a", 7),
        put("/a", "3", 8, 8, 1),
        put("/a", "4", 8, 9, 2),
    ];
    check_net(&strict(4, &[], events.clone()).unwrap(), &[("/a", "new 3 4")]);
    // Without one of these the batch has a hole. (A write whose key is deleted right after leaves no
    // trace in etcd's numbers.)
    for hole in [0, 2, 3] {
        let mut events = events.clone();
        events.remove(hole);
        assert!(
            matches!(strict(4, &[], events), Err(ApplyError::Discontinuity { .. })),
            "without event {hole}"
        );
    }
}

/// Without versions to compare, an event still has to have numbers that etcd can give.
#[test]
fn h73_events_refuse_impossible_numbers() {
    for (version, fits) in [(0, true), (4, true), (1, false), (-1, false), (i64::MIN, false)] {
        let responses = vec![response(vec![put("/a", "x", 2, 6, version)])];
        let result = judged(Continuity::Strict, 5, &[("/a", at(2, 5, 0))], responses);
        assert_eq!(result.is_ok(), fits, "version {version}");
    }
}
