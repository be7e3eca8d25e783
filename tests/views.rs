//! What can be asked of a view, and what happens outside the mirrored range.

mod common;

use std::sync::Arc;

use common::{
    History, Op, chain, check_shown, loaded, panic_of, put, record, response, shown, texts,
};
use etcd_keyspace::{
    Change, Derived, Entry, KeyRange, KeySpace, Observer, OutsideRange, Range, ReadGuard, Snapshot,
    StopReason, View, WaitError, WeakKeySpace, Writer,
};

/// Ten keys below `/pop`, some of which are prefixes of others.
const KEYS: [&str; 10] = [
    "/pop",
    "/pop/ann",
    "/pop/ann/2",
    "/pop/ann/4",
    "/pop/bob/i",
    "/pop/bob/k",
    "/pop/cat",
    "/pop/cat/grey",
    "/pop/cat/grey/old",
    "/pop/cat/tabby",
];

fn space_of(range: KeyRange, keys: &[&[u8]]) -> KeySpace<usize> {
    let entries = keys.iter().enumerate().map(|(n, key)| Entry::new(key, n, 1));
    KeySpace::from_entries(range, entries).unwrap()
}

fn ten() -> KeySpace<usize> {
    space_of(KeyRange::prefix("/"), &KEYS.map(str::as_bytes))
}

/// The ranks of a piece.
fn ranks(range: Range<'_, usize>) -> Vec<usize> {
    let ranks: Vec<_> = range.iter().map(|entry| *entry.value()).collect();
    assert_eq!((range.len(), range.is_empty()), (ranks.len(), ranks.is_empty()));
    assert_eq!(range.first().map(|e| *e.value()), ranks.first().copied());
    assert_eq!(range.last().map(|e| *e.value()), ranks.last().copied());
    ranks
}

// ---- Tables -------------------------------------------------------------------------------------

#[test]
fn t34_gz35_search_gives_the_rank_or_the_insertion_point() {
    let ks = ten();
    let view = ks.read();
    let table = [
        ("/", Err(0)),
        ("/pop", Ok(0)),
        ("/pop/ann/1", Err(2)),
        ("/pop/ann/4", Ok(3)),
        ("/pop/ann/5", Err(4)),
        ("/pop/bo", Err(4)),
        ("/pop/bob", Err(4)),
        ("/pop/bobby", Err(6)),
        ("/pop/bob/z/z/1", Err(6)),
        ("/pop/cat/grey/old", Ok(8)),
        ("/pop/cat/grey/young", Err(9)),
        ("/pop/cat/tabby/x", Err(10)),
        ("/\u{10ffff}", Err(10)),
    ];
    for (key, expected) in table {
        assert_eq!(view.search(key), expected, "{key}");
        assert_eq!(view.contains(key), expected.is_ok(), "{key}");
        let got = view.get(key).map(|entry| *entry.value());
        assert_eq!(got, expected.ok(), "{key}");
        // A piece of everything answers alike.
        assert_eq!(view.all().search(key), expected, "{key}");
    }
    for (rank, key) in KEYS.iter().enumerate() {
        assert_eq!(view.nth(rank).unwrap().key(), key.as_bytes());
    }
    assert!(view.nth(10).is_none() && view.nth(usize::MAX).is_none());
    assert_eq!((view.first().unwrap().key_str(), view.last().unwrap().key_str()).0, KEYS[0]);
}

#[test]
fn t34_t33_gz36_ranges_are_half_open_and_empty_when_reversed() {
    let ks = ten();
    let view = ks.read();
    let table = [
        ("/po", "/pop", 0..0),
        ("/pop", "/poq", 0..10),
        ("/pop/ann/3", "/pop/bob/j", 3..5),
        ("/pop/bob/i", "/pop/bob/j", 4..5),
        ("/pop/bob/i", "/pop/bob/i", 0..0),
        ("/pop/bob/k", "/pop/cat/grey/old", 5..8),
        ("/pop/bob/k", "/pop/cat/tabby", 5..9),
        ("/pop/bob/k", "/pop/cat/tabby0", 5..10),
        ("/pop/dog", "/zz", 0..0),
        ("/fop", "/foo", 0..0),
        ("/pop/cat", "/pop/ann", 0..0),
        // Reversed and outside: there is no key in it to be wrong about.
        ("9", "1", 0..0),
    ];
    for (from, to, expected) in table {
        assert_eq!(ranks(view.range(from..to)), Vec::from_iter(expected), "{from}..{to}");
    }
    // Open ends, and the whole.
    assert_eq!(ranks(view.range("/pop/cat"..)), [6, 7, 8, 9]);
    assert_eq!(ranks(view.range(.."/pop/ann/2")), [0, 1]);
    assert_eq!(ranks(view.range(..)), Vec::from_iter(0..10));
    assert_eq!(ranks(view.range(KeyRange::key("/pop/cat"))), [6]);
}

#[test]
fn t34_gz37_prefixes_are_of_bytes() {
    let ks = ten();
    let view = ks.read();
    let table = [
        ("", 0..10),
        ("/", 0..10),
        ("/pop", 0..10),
        ("/pope", 0..0),
        ("/pop/ann", 1..4),
        ("/pop/ann/", 2..4),
        ("/pop/bo", 4..6),
        ("/pop/cat", 6..10),
        ("/pop/cats", 0..0),
        ("/zz", 0..0),
    ];
    for (prefix, expected) in table {
        assert_eq!(ranks(view.prefix(prefix)), Vec::from_iter(expected.clone()), "{prefix}");
        assert_eq!(view.count(prefix), expected.len(), "{prefix}");
    }
}

#[test]
fn t31_t32_any_bytes_are_keys() {
    let keys: [&[u8]; 8] =
        [b"", b"\0", b"\0\0", b"a", b"a\0b", b"a\xff", b"a\xff\xff", b"\xff\xff"];
    let ks = space_of(KeyRange::all(), &keys);
    let view = ks.read();
    for (rank, key) in keys.iter().enumerate() {
        assert_eq!(view.search(key), Ok(rank), "{key:?}");
        assert_eq!(*view.get(key).unwrap().value(), rank);
    }
    let table: [(&[u8], &[usize]); 8] = [
        (b"", &[0, 1, 2, 3, 4, 5, 6, 7]),
        (b"\0", &[1, 2]),
        (b"a", &[3, 4, 5, 6]),
        (b"a\0", &[4]),
        (b"a\xff", &[5, 6]),
        (b"a\xff\xff", &[6]),
        (b"\xff", &[7]),
        (b"\xff\xff\xff", &[]),
    ];
    for (prefix, expected) in table {
        assert_eq!(ranks(view.prefix(prefix)), expected, "{prefix:?}");
        // Narrowing reaches the same.
        assert_eq!(ranks(view.all().prefix(prefix)), expected, "{prefix:?}");
    }
    assert_eq!(view.get(b"a\xff").unwrap().key_str(), "a\u{fffd}");
}

#[test]
fn t32_a_prefix_covers_its_siblings_and_itself() {
    let keys: [&[u8]; 3] = [b"/foo", b"/foo/a", b"/foobar"];
    let view = space_of(KeyRange::path("/foo").unwrap(), &keys).snapshot();
    assert_eq!((view.len(), view.count("/foo"), view.count("/foo/")), (3, 3, 1));
    let refused = KeySpace::from_entries(
        KeyRange::path("/foo/").unwrap(),
        keys.iter().map(|key| Entry::new(key, (), 1)),
    );
    assert!(refused.is_err(), "`/foo` is no child of itself");
}

// ---- Pieces -------------------------------------------------------------------------------------

#[test]
fn a_piece_narrows_and_clips_to_itself() {
    let ks = ten();
    let view = ks.read();
    let piece = view.prefix("/pop/").range("/pop/ann/3".."/pop/cat/grey/old");
    assert_eq!(ranks(piece), [3, 4, 5, 6, 7]);
    assert_eq!(ranks(piece.prefix("/pop/cat")), [6, 7]);
    assert_eq!(piece.count("/pop/cat"), 2);
    // What reaches beyond the piece is cut off at its ends, never outside of it.
    assert_eq!(ranks(piece.prefix("/pop")), ranks(piece));
    assert_eq!(ranks(piece.range("/pop/cat/grey"..)), [7]);
    assert_eq!(ranks(piece.range(.."/pop/bob")), [3]);
    assert_eq!(ranks(piece.range("/a".."/b")), [0; 0]);
    assert_eq!(ranks(piece.range("/pop/cat".."/pop/bob")), [0; 0]);
    assert_eq!(ranks(piece.range(..).range(..)), ranks(piece));
    // Ranks and insertion points count within the piece.
    assert_eq!((piece.search("/pop/ann/4"), piece.search("/pop/cat/grey")), (Ok(0), Ok(4)));
    assert_eq!((piece.search("/pop"), piece.search("/zzz")), (Err(0), Err(5)));
    assert_eq!(piece.search("/pop/bob"), Err(1));
    assert!(piece.contains("/pop/bob/i") && !piece.contains("/pop/ann"));
    assert!(piece.get("/pop").is_none(), "known to the view, not in the piece");
    assert_eq!(*piece.nth(1).unwrap().value(), 4);
    assert!(piece.nth(5).is_none());
}

#[test]
fn gz38_pieces_borrow_from_the_view_and_entries_can_be_kept() {
    let ks = ten();
    let kept: Arc<Entry<usize>> = {
        let view = ks.read();
        let from_piece = view.prefix("/pop/bob").nth(1).unwrap();
        assert!(std::ptr::eq(from_piece, view.get("/pop/bob/k").unwrap()), "no copy");
        Arc::clone(from_piece)
    };
    drop(ks);
    assert_eq!((kept.key(), *kept.value()), (&b"/pop/bob/k"[..], 5));
}

#[test]
fn gz39_a_snapshot_is_independent_of_what_comes() {
    let mut store = History::new();
    store.put("/a", "1");
    let (ks, mut writer) = loaded(&store);
    let before = ks.snapshot();
    let again = before.clone();
    store.delete("/a");
    store.put("/b", "2");
    writer.apply(store.after(2)).unwrap();
    check_shown(&before, &[("/a", "1")]);
    check_shown(&again, &[("/a", "1")]);
    check_shown(&ks.read(), &[("/b", "2")]);
    assert_eq!((before.revision(), before.confirmed()), (2, 2));
    drop((ks, writer));
    check_shown(&before, &[("/a", "1")]);
}

#[test]
fn gz40_equal_key_revisions_compares_keys_and_revisions() {
    let of = |entries: &[(&str, i64)]| {
        let entries = entries.iter().map(|(key, at)| Entry::new(key, (), *at));
        KeySpace::from_entries(KeyRange::prefix("/"), entries).unwrap().snapshot()
    };
    let base = of(&[("/a", 1), ("/b", 2), ("/c", 3)]);
    let equal = |other: &[(&str, i64)]| base.all().equal_key_revisions(&of(other).all());
    assert!(equal(&[("/a", 1), ("/b", 2), ("/c", 3)]));
    assert!(!equal(&[("/a", 1), ("/b", 2)]));
    assert!(!equal(&[("/a", 1), ("/b", 9), ("/c", 3)]));
    assert!(!equal(&[("/a", 1), ("/bb", 2), ("/c", 3)]));
    let empty = of(&[]);
    assert!(!base.all().equal_key_revisions(&empty.all()));
    assert!(base.prefix("/x").equal_key_revisions(&empty.all()));
    // Also between pieces, and whatever the values are.
    let other = KeySpace::from_entries(KeyRange::all(), [Entry::new("/b", "text", 2)]).unwrap();
    assert!(base.prefix("/b").equal_key_revisions(&other.read().all()));
}

#[test]
fn iterators_are_exact_and_double_ended() {
    // Enough for many runs of the storage.
    let keys: Vec<String> = (0..3_000).map(|n| format!("/{n:05}")).collect();
    let bytes: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();
    let view = space_of(KeyRange::prefix("/"), &bytes).snapshot();
    let forth: Vec<usize> = view.iter().map(|entry| *entry.value()).collect();
    assert_eq!(forth, Vec::from_iter(0..3_000));
    let back: Vec<usize> = view.iter().rev().map(|entry| *entry.value()).collect();
    assert_eq!(back, Vec::from_iter((0..3_000).rev()));
    let piece = view.range("/00700".."/02200");
    let mut iter = piece.iter();
    let (mut low, mut high) = (700, 2_200);
    // From both ends in turn, in steps of different size, until they meet.
    while iter.len() > 0 {
        assert_eq!((iter.len(), iter.size_hint().1), (high - low, Some(high - low)));
        assert_eq!(*iter.next().unwrap().value(), low);
        low += 1;
        if let Some(entry) = iter.nth(2) {
            assert_eq!(*entry.value(), low + 2);
        }
        low = (low + 3).min(high);
        if let Some(entry) = iter.next_back() {
            high -= 1;
            assert_eq!(*entry.value(), high);
        }
    }
    assert!(iter.next().is_none() && iter.next_back().is_none() && iter.nth(1).is_none());
    let mut count = 0;
    for entry in &piece {
        count += usize::from(!entry.key().is_empty());
    }
    assert_eq!(
        (count, piece.into_iter().count(), (&*view).into_iter().len()),
        (1_500, 1_500, 3_000)
    );
}

#[path = "views/outside.rs"]
mod outside;
#[path = "views/values.rs"]
mod values;
