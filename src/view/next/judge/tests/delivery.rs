//! Headers, order, fragments and redelivery: how events may arrive.

use super::*;

fn apply(confirmed: Revision, keys: Keys<'_>, responses: Vec<WatchResponse>) -> Batch {
    judged(Continuity::Strict, confirmed, keys, responses).unwrap()
}

#[track_caller]
fn check_refused(confirmed: Revision, responses: Vec<WatchResponse>, expected: &ApplyError) {
    for continuity in [Continuity::Strict, Continuity::Lenient] {
        let refused = judged(continuity, confirmed, &[], responses.clone()).unwrap_err();
        assert_eq!(&refused, expected, "{continuity:?}");
    }
}

fn fragment(events: Vec<Event>) -> WatchResponse {
    WatchResponse { fragment: true, ..response(events) }
}

// ---- Headers ------------------------------------------------------------------------------------

#[test]
fn gz20_another_cluster_is_refused() {
    let other = Some(Header { cluster_id: 0xdead, ..header(5).unwrap() });
    let with_events = response(vec![put("/a", "1", 5, 5, 1)]);
    let expected = ApplyError::ClusterMismatch { expected: CLUSTER, got: 0xdead };
    check_refused(4, vec![WatchResponse { header: other, ..with_events.clone() }], &expected);
    // Also by a response without events, and after one that was right.
    let progress = WatchResponse { header: other, ..WatchResponse::default() };
    check_refused(4, vec![progress.clone()], &expected);
    check_refused(4, vec![with_events, progress], &expected);
}

#[test]
fn gz20_a_view_of_no_cluster_takes_the_first_one_of_the_batch() {
    let range = KeyRange::all();
    let known = || Known {
        range: &range,
        cluster_id: None,
        confirmed: 0,
        numbers: |asked: &[&[u8]]| vec![None; asked.len()],
        continuity: Continuity::Strict,
    };
    let first = response(vec![put("/a", "1", 5, 5, 1)]);
    assert_eq!(judge(known(), vec![first.clone()]).unwrap().cluster_id, Some(CLUSTER));
    let second = WatchResponse {
        header: Some(Header { cluster_id: 2, ..header(6).unwrap() }),
        ..response(vec![put("/b", "1", 6, 6, 1)])
    };
    let refused = judge(known(), vec![first, second]).unwrap_err();
    assert_eq!(refused, ApplyError::ClusterMismatch { expected: CLUSTER, got: 2 });
}

#[test]
fn t11_events_without_a_header_are_refused_but_by_fixtures() {
    let headless = WatchResponse { header: None, ..response(vec![put("/a", "1", 5, 5, 1)]) };
    let refused = judged(Continuity::Strict, 0, &[], vec![headless.clone()]).unwrap_err();
    assert_eq!(refused, ApplyError::MissingHeader);
    let batch = judged(Continuity::Lenient, 0, &[], vec![headless]).unwrap();
    check_net(&batch, &[("/a", "1")]);
    // Without events there is nothing to refuse.
    assert_eq!(apply(0, &[], vec![WatchResponse::default()]).events, 0);
}

#[test]
fn gz20_a_header_behind_its_events_is_refused() {
    let events = vec![put("/a", "1", 5, 5, 1), put("/b", "1", 6, 6, 1)];
    let behind = WatchResponse { header: header(5), ..response(events) };
    check_refused(4, vec![behind], &ApplyError::HeaderBehind { header: 5, event: 6 });
}

#[test]
fn t1_gz26_a_header_ahead_of_its_events_moves_nothing() {
    let ahead = WatchResponse { header: header(900), ..response(vec![put("/a", "1", 5, 5, 1)]) };
    let batch = apply(4, &[], vec![ahead]);
    assert_eq!(batch.revision, 5);
    // What the rest of the backlog brings is new, not redelivered.
    let later = WatchResponse { header: header(900), ..response(vec![put("/b", "1", 6, 6, 1)]) };
    let first = WatchResponse { header: header(900), ..response(vec![put("/a", "1", 5, 5, 1)]) };
    let batch = apply(4, &[], vec![first, later]);
    assert_eq!((batch.events, batch.duplicates, batch.revision), (2, 0, 6));
}

#[test]
fn gz24_member_and_term_may_change() {
    let other = Some(Header { member_id: 9, raft_term: 44, ..header(6).unwrap() });
    let second = WatchResponse { header: other, ..response(vec![put("/b", "1", 6, 6, 1)]) };
    let batch = apply(4, &[], vec![response(vec![put("/a", "1", 5, 5, 1)]), second]);
    assert_eq!(batch.events, 2);
}

#[test]
fn gz22_gz18_responses_without_events_do_nothing() {
    let empty = WatchResponse { header: header(77), ..WatchResponse::default() };
    let created = WatchResponse { created: true, ..empty.clone() };
    for responses in [vec![], vec![WatchResponse::default()], vec![empty.clone(), created, empty]] {
        let batch = apply(4, &[], responses);
        assert_eq!((batch.keys.len(), batch.revision, batch.events), (0, 0, 0));
    }
}

#[test]
fn cancelled_watches_are_not_applied() {
    let events = vec![put("/a", "1", 5, 5, 1)];
    let reason = "etcdserver: mvcc: required revision has been compacted".to_owned();
    let canceled =
        WatchResponse { canceled: true, cancel_reason: reason.clone(), ..response(events.clone()) };
    check_refused(4, vec![canceled], &ApplyError::Canceled { reason });
    let compacted = WatchResponse { compact_revision: 3, ..response(events) };
    check_refused(4, vec![compacted], &ApplyError::Canceled { reason: String::new() });
}

// ---- Order and range ----------------------------------------------------------------------------

#[test]
fn gz20_revisions_never_go_down_within_a_response() {
    let events = vec![put("/a", "1", 6, 6, 1), put("/b", "1", 5, 5, 1)];
    let responses = vec![WatchResponse { header: header(9), ..response(events) }];
    check_refused(4, responses, &ApplyError::OutOfOrder { previous: 6, got: 5 });
    // Not even among redelivered ones.
    let events = vec![put("/a", "1", 3, 3, 1), put("/b", "1", 2, 2, 1)];
    let responses = vec![WatchResponse { header: header(9), ..response(events) }];
    check_refused(4, responses, &ApplyError::OutOfOrder { previous: 3, got: 2 });
}

#[test]
fn t11_revisions_that_are_not_positive_are_refused() {
    for got in [0, -1, i64::MIN] {
        let responses =
            vec![WatchResponse { header: header(9), ..response(vec![delete("/a", got)]) }];
        check_refused(0, responses, &ApplyError::OutOfOrder { previous: 0, got });
    }
}

#[test]
fn keys_outside_the_range_are_refused() {
    let outside = put("0", "1", 5, 5, 1);
    let expected = ApplyError::OutsideRange { key: b"0".to_vec() };
    check_refused(4, vec![response(vec![put("/a", "1", 5, 5, 1), outside])], &expected);
    let expected = ApplyError::OutsideRange { key: b"".to_vec() };
    check_refused(4, vec![response(vec![delete("", 5)])], &expected);
}

#[test]
fn gz23_keys_come_in_any_order_and_may_change_often_in_a_batch() {
    let keys = [("/m", at(2, 3, 2))];
    let responses = vec![
        response(vec![
            put("/x", "x1", 5, 5, 1),
            put("/b", "b1", 5, 5, 1),
            put("/gone", "g1", 5, 5, 1),
            put("/b", "b2", 5, 6, 2),
            put("/m", "m3", 2, 6, 3),
        ]),
        response(vec![put("/x", "x2", 5, 7, 2), delete("/gone", 7)]),
        response(vec![put("/b", "b3", 5, 9, 3), put("/a", "a1", 9, 9, 1)]),
    ];
    let batch = apply(4, &keys, responses);
    let expected =
        [("/a", "a1"), ("/b", "b1 b2 b3"), ("/gone", "gone"), ("/m", "m3"), ("/x", "x1 x2")];
    check_net(&batch, &expected);
    assert_eq!((batch.revision, batch.events, batch.duplicates), (9, 9, 0));
}

// ---- Fragments ----------------------------------------------------------------------------------

#[test]
fn t12_fragments_of_one_revision_are_one_response() {
    let first = fragment(vec![put("/a", "1", 5, 5, 1), put("/b", "1", 5, 5, 1)]);
    let second = fragment(vec![put("/c", "1", 5, 5, 1)]);
    let last = response(vec![put("/d", "1", 5, 5, 1)]);
    let batch = apply(4, &[], vec![first, second, last]);
    assert_eq!((batch.keys.len(), batch.events, batch.duplicates), (4, 4, 0));
}

#[test]
fn t12_a_batch_that_ends_in_a_fragment_is_incomplete() {
    let whole = response(vec![put("/a", "1", 5, 5, 1)]);
    let part = fragment(vec![put("/b", "1", 6, 6, 1)]);
    check_refused(4, vec![whole.clone(), part.clone()], &ApplyError::Incomplete);
    check_refused(4, vec![part], &ApplyError::Incomplete);
    // A marked border counts even where a message is empty.
    check_refused(4, vec![whole, fragment(vec![])], &ApplyError::Incomplete);
}

#[test]
fn t12_order_is_judged_across_fragments() {
    let first = WatchResponse { header: header(9), ..fragment(vec![put("/a", "1", 6, 6, 1)]) };
    let last = WatchResponse { header: header(9), ..response(vec![put("/b", "1", 5, 5, 1)]) };
    check_refused(4, vec![first, last], &ApplyError::OutOfOrder { previous: 6, got: 5 });
}

// ---- The same key twice in one revision ---------------------------------------------------------

#[test]
fn t15_delete_then_put_in_one_revision_replaces() {
    let keys = [("/a", at(2, 3, 2))];
    let batch = strict(4, &keys, vec![delete("/a", 5), put("/a", "new", 5, 5, 1)]).unwrap();
    check_net(&batch, &[("/a", "new new")]);
}

#[test]
fn t15_put_then_delete_in_one_revision_leaves_no_ghost() {
    let keys = [("/a", at(2, 3, 2))];
    let batch = strict(4, &keys, vec![put("/a", "x", 2, 5, 3), delete("/a", 5)]).unwrap();
    check_net(&batch, &[("/a", "gone")]);
    let batch = strict(4, &[], vec![put("/a", "x", 5, 5, 1), delete("/a", 5)]).unwrap();
    check_net(&batch, &[("/a", "gone")]);
}

#[test]
fn t15_delete_twice_in_one_revision_is_one_deletion() {
    let keys = [("/a", at(2, 3, 2))];
    let batch = strict(4, &keys, vec![delete("/a", 5), delete("/a", 5)]).unwrap();
    check_net(&batch, &[("/a", "gone")]);
    // Both are of this batch: nothing was redelivered.
    assert_eq!((batch.events, batch.duplicates), (2, 0));
    // A second delete at a later revision is a hole in history.
    let refused = strict(4, &keys, vec![delete("/a", 5), delete("/a", 6)]).unwrap_err();
    assert!(matches!(
        refused,
        ApplyError::Discontinuity { mod_revision: 6, reason: Break::UnknownKeyDeleted, .. }
    ));
}

#[test]
fn t15_put_delete_put_in_one_revision() {
    let keys = [("/a", at(2, 3, 2))];
    let events = vec![put("/a", "x", 2, 5, 3), delete("/a", 5), put("/a", "y", 5, 5, 1)];
    let batch = strict(4, &keys, events).unwrap();
    check_net(&batch, &[("/a", "new y")]);
}

#[test]
fn t15_two_puts_in_one_revision_keep_their_order() {
    let keys = [("/a", at(2, 3, 2))];
    let batch = strict(4, &keys, vec![put("/a", "x", 2, 5, 3), put("/a", "y", 2, 5, 4)]).unwrap();
    check_net(&batch, &[("/a", "x y")]);
}

#[test]
fn t16_deletes_need_no_numbers_but_their_revision() {
    // `Event::Delete` has no room for create revision and version, which etcd sends as zero.
    for known in [at(2, 3, 2), at(2, 3, 0), at(2, 3, i64::MAX)] {
        let batch = strict(4, &[("/a", known)], vec![delete("/a", 5)]).unwrap();
        check_net(&batch, &[("/a", "gone")]);
    }
}

// ---- Redelivery ---------------------------------------------------------------------------------

#[test]
fn t17_a_whole_response_redelivered_is_dropped_and_counted() {
    let keys = [("/a", at(5, 6, 2)), ("/b", at(6, 6, 1))];
    let again = response(vec![
        put("/a", "1", 5, 5, 1),
        put("/a", "2", 5, 6, 2),
        put("/b", "1", 6, 6, 1),
        delete("/c", 6),
    ]);
    let batch = apply(6, &keys, vec![again.clone()]);
    assert_eq!((batch.events, batch.duplicates, batch.revision), (0, 4, 0));
    assert!(batch.keys.is_empty());
    // Twice within one batch, too.
    let fresh = [("/c", at(1, 1, 1))];
    let batch = apply(4, &fresh, vec![again.clone(), again]);
    assert_eq!((batch.events, batch.duplicates, batch.revision), (4, 4, 6));
    check_net(&batch, &[("/a", "1 2"), ("/b", "1"), ("/c", "gone")]);
}

#[test]
fn t17_an_overlap_is_dropped_and_the_rest_applied() {
    let keys = [("/a", at(5, 5, 1))];
    let overlap = response(vec![put("/a", "1", 5, 5, 1), put("/a", "2", 5, 6, 2)]);
    let batch = apply(5, &keys, vec![overlap]);
    check_net(&batch, &[("/a", "2")]);
    assert_eq!((batch.events, batch.duplicates, batch.revision), (1, 1, 6));
}

#[test]
fn b7_events_below_what_progress_confirmed_are_redelivered_too() {
    // The entry is at 5, and the view is known complete through 9.
    let keys = [("/a", at(5, 5, 1))];
    let batch = apply(9, &keys, vec![response(vec![put("/a", "1", 5, 5, 1)])]);
    assert_eq!((batch.events, batch.duplicates), (0, 1));
}

/// A redelivered event whose effect is not there shows that history was lost or is another one.
#[test]
fn b9_redelivered_content_that_is_not_there_is_a_break() {
    let keys = [("/a", at(2, 5, 3))];
    let breaks = [
        // Newer than the entry, yet at or below what is confirmed.
        put("/a", "1", 2, 6, 4),
        delete("/a", 6),
        // The entry's own revision with other numbers.
        put("/a", "1", 5, 5, 1),
        put("/a", "1", 4, 5, 3),
        put("/a", "1", 2, 5, 4),
        // Its deletion at its own revision, which leaves nothing.
        delete("/a", 5),
    ];
    for event in breaks {
        let mod_revision = event.mod_revision();
        let refused = strict(7, &keys, vec![event.clone()]).unwrap_err();
        let reason = Break::ModRevision;
        let expected = ApplyError::Discontinuity { key: b"/a".to_vec(), mod_revision, reason };
        assert_eq!(refused, expected, "{event:?}");
        // The fixture mode drops whatever is not above the confirmed revision.
        let batch = judged(Continuity::Lenient, 7, &keys, vec![response(vec![event])]).unwrap();
        assert_eq!((batch.keys.len(), batch.duplicates), (0, 1));
    }
    // A server that keeps no versions gives no reason to doubt.
    strict(7, &keys, vec![put("/a", "1", 2, 5, 0)]).unwrap();
    // Older than the entry, or of a key that was deleted since: nothing to compare with.
    strict(7, &keys, vec![put("/a", "1", 2, 4, 2), delete("/b", 4)]).unwrap();
}

#[track_caller]
fn check_not_there(confirmed: Revision, keys: Keys<'_>, responses: Vec<WatchResponse>, key: &str) {
    let refused = judged(Continuity::Strict, confirmed, keys, responses.clone()).unwrap_err();
    let expected = (key.as_bytes(), Break::ModRevision);
    let found = match &refused {
        ApplyError::Discontinuity { key, reason, .. } => Some((key.as_slice(), *reason)),
        _ => None,
    };
    assert_eq!(found, Some(expected), "{refused:?}");
    // The fixture mode drops whatever was delivered before.
    judged(Continuity::Lenient, confirmed, keys, responses).unwrap();
}

/// Nothing can have deleted since what was written at the confirmed revision itself.
#[test]
fn h23_a_redelivered_write_at_the_confirmed_revision_must_be_known() {
    let created = || put("/c", "1", 7, 7, 1);
    check_not_there(7, &[], vec![response(vec![created()])], "/c");
    check_not_there(7, &[], vec![response(vec![put("/c", "1", 2, 7, 4)])], "/c");
    check_not_there(7, &[], vec![response(vec![put("/c", "1", 7, 7, 0)])], "/c");
    check_not_there(7, &[], vec![response(vec![delete("/c", 7), created()])], "/c");
    // Other keys, before and after, excuse nothing.
    let known = [("/b", at(7, 7, 1)), ("/d", at(7, 7, 1))];
    let all = vec![put("/b", "1", 7, 7, 1), created(), put("/d", "1", 7, 7, 1)];
    check_not_there(7, &known, vec![response(all)], "/c");
    // Nor does a revision that began in this batch.
    let responses =
        vec![response(vec![put("/a", "1", 8, 8, 1)]), response(vec![put("/c", "1", 8, 8, 1)])];
    check_not_there(7, &[], responses, "/c");

    // Known, deleted by the same revision, or below the confirmed one: it was delivered before.
    for (keys, events) in [
        (&[("/c", at(7, 7, 1))][..], vec![created()]),
        (&[][..], vec![created(), delete("/c", 7)]),
        (&[][..], vec![put("/c", "1", 6, 6, 1)]),
        (&[][..], vec![put("/c", "1", 6, 6, 1), delete("/c", 7)]),
    ] {
        let (count, batch) = (events.len(), strict(7, keys, events).unwrap());
        assert_eq!((batch.events, batch.duplicates), (0, count));
    }
    // Deleted by this batch before it is delivered again.
    let known = [("/c", at(7, 7, 1))];
    let batch = apply(7, &known, vec![response(vec![delete("/c", 8)]), response(vec![created()])]);
    assert_eq!((batch.events, batch.duplicates), (1, 1));
    check_net(&batch, &[("/c", "gone")]);
}

/// An event of another key at the same revision supersedes nothing.
#[test]
fn h23_the_next_keys_event_does_not_excuse_a_missing_effect() {
    let known = [("/a", at(2, 5, 3)), ("/b", at(5, 5, 1))];
    let events = vec![put("/a", "1", 2, 5, 4), put("/b", "1", 5, 5, 1)];
    check_not_there(7, &known, vec![response(events)], "/a");
}

/// Only the last event of a key in a revision has an effect that must be there.
#[test]
fn t15_redelivery_of_a_key_written_twice_in_one_revision() {
    let twice = [
        vec![delete("/a", 5), put("/a", "y", 5, 5, 1)],
        vec![put("/a", "x", 2, 5, 3), delete("/a", 5), put("/a", "y", 5, 5, 1)],
    ];
    for events in twice {
        let batch = strict(5, &[("/a", at(5, 5, 1))], events.clone()).unwrap();
        assert_eq!((batch.events, batch.duplicates), (0, events.len()), "{events:?}");
    }
    let twice = vec![put("/a", "x", 2, 5, 3), put("/a", "y", 2, 5, 4)];
    assert_eq!(strict(5, &[("/a", at(2, 5, 4))], twice.clone()).unwrap().duplicates, 2);
    // The last one's effect is still demanded.
    strict(5, &[("/a", at(2, 5, 3))], twice).unwrap_err();
}

#[test]
fn refusals_are_one_lower_case_line() {
    let all = [
        ApplyError::ClusterMismatch { expected: 1, got: 2 },
        ApplyError::MissingHeader,
        ApplyError::HeaderBehind { header: 1, event: 2 },
        ApplyError::OutOfOrder { previous: 2, got: 1 },
        ApplyError::Incomplete,
        ApplyError::Canceled { reason: "no leader".into() },
        ApplyError::OutsideRange { key: b"k\n".to_vec() },
        ApplyError::Discontinuity {
            key: b"\xff".to_vec(),
            mod_revision: 3,
            reason: Break::Version,
        },
    ];
    for error in all {
        let text = error.to_string();
        assert!(!text.contains('\n') && !text.ends_with('.'), "{text}");
        assert!(!text.starts_with(char::is_uppercase), "{text}");
    }
}
