//! Ranges, prefixes and queries with any bounds, against the definition by filtering a list.
//!
//! Owns the target `ranges`. Must not change a key space: its entries are fixed.

use std::collections::BTreeSet;

use etcd_keyspace::{Entry, KeyRange, KeySpace, Range, RangeError, RawKeyValue, View};

use super::check;
use super::input::Input;
use super::keys::{any_probe, key_in, mirrored};

const QUERIES: usize = 16;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let range = mirrored(&mut input);
    let kvs = entries(&mut input, &range);
    let ks = key_space(range.clone(), &kvs);
    let view = ks.read();
    let all: Vec<_> = kvs.iter().collect();
    for _ in 0..QUERIES {
        if input.is_empty() {
            break;
        }
        let asked = any_range(&mut input, &range);
        let probe = any_probe(&mut input, &range);
        match input.below(5) {
            0 => check_words(&asked, &any_range(&mut input, &range), &probe),
            1 => check_path(&mut input),
            2 => check_view(&view, &all, &asked, &probe),
            3 => check_view_prefix(&view, &all, &probe, &mut input),
            _ => narrow(view.all(), &all, &range, &mut input),
        }
    }
}

/// The entries of a run, ascending by key.
fn entries(input: &mut Input<'_>, range: &KeyRange) -> Vec<RawKeyValue> {
    let mut keys = BTreeSet::new();
    for _ in 0..input.below(6) {
        let (family, start, stride) = (input.byte(), input.short(), u16::from(input.byte() % 8));
        for n in 0..u16::from(input.byte()) {
            keys.insert(key_in(range, family, start.wrapping_add(n.wrapping_mul(stride))));
        }
    }
    for _ in 0..input.below(8) {
        let key = any_probe(input, range);
        if range.contains(&key) {
            keys.insert(key);
        }
    }
    let kv = |(revision, key)| RawKeyValue {
        key,
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        ..RawKeyValue::default()
    };
    (2..).zip(keys).map(kv).collect()
}

fn key_space(range: KeyRange, kvs: &[RawKeyValue]) -> KeySpace<Vec<u8>> {
    let entry = |kv: &RawKeyValue| Entry::new(&kv.key, kv.value.clone(), kv.mod_revision);
    // The order in which entries are given does not matter.
    KeySpace::from_entries(range, kvs.iter().rev().map(entry)).unwrap()
}

/// Any range: of every form, of bounds inside and outside, often reversed or empty.
fn any_range(input: &mut Input<'_>, near: &KeyRange) -> KeyRange {
    let from = any_probe(input, near);
    match input.below(9) {
        0 => KeyRange::prefix(from),
        1 => KeyRange::key(from),
        2 => KeyRange::from(from),
        3 => (..from).into(),
        4 => (..).into(),
        5 => (from.as_slice()..).into(),
        6 => KeyRange::bytes(from.clone(), [from.as_slice(), &[0]].concat()),
        7 => KeyRange::prefix(vec![0xff; input.below(4)]),
        _ => (from..any_probe(input, near)).into(),
    }
}

/// What a range says of itself, of one key and of another range.
fn check_words(range: &KeyRange, other: &KeyRange, probe: &[u8]) {
    let (start, end) = (range.start(), range.end());
    let defined = |key: &[u8]| start <= key && end.is_none_or(|end| key < end);
    for key in [probe, start, end.unwrap_or(b"\xff\xff"), other.start()] {
        assert_eq!(range.contains(key), defined(key), "{range} {}", key.escape_ascii());
    }
    assert_eq!(range.is_empty(), !range.contains(start));
    let prefix = KeyRange::prefix(probe);
    for key in [start, other.start(), probe, &[probe, &[0xff; 3]].concat()] {
        assert_eq!(prefix.contains(key), key.starts_with(probe));
    }
    let only = KeyRange::key(probe);
    assert!(only.contains(probe) && !only.contains(&[probe, &[0]].concat()));
    assert!(KeyRange::all().covers(range) && range.covers(range));
    if range.covers(other) {
        assert!(!other.contains(probe) || range.contains(probe));
    } else {
        // A key that is not covered: the first of the other range, or the first after this one.
        let witness = |key: &[u8]| other.contains(key) && !range.contains(key);
        assert!(witness(other.start()) || end.is_some_and(witness), "{range} {other}");
    }
    let refused = KeySpace::<Vec<u8>>::builder(range.clone());
    assert_eq!(matches!(refused, Err(RangeError::Empty { .. })), range.is_empty());
}

/// A path is clean when all its elements are names; else the error has a path that is.
fn check_path(input: &mut Input<'_>) {
    let pieces = ["/", "/", "a", ".", "..", "ö", "\0", "a.b", "..."];
    let path: String = (0..input.below(9)).map(|_| input.pick(&pieces)).collect();
    let inner = path.strip_prefix('/').unwrap_or(&path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    let clean = path == "/" || inner.split('/').all(|one| !matches!(one, "" | "." | ".."));
    match KeyRange::path(&path) {
        Ok(range) => assert!(clean && range == KeyRange::prefix(&path), "{path:?}"),
        Err(RangeError::UncleanPath { path: given, clean: better }) => {
            assert!(!clean && given == path, "{path:?}");
            assert_eq!(KeyRange::path(&better), Ok(KeyRange::prefix(&better)));
        }
        Err(other) => panic!("{other}"),
    }
}

fn check_view(view: &View<Vec<u8>>, all: &[&RawKeyValue], asked: &KeyRange, probe: &[u8]) {
    let mirrored = view.mirrored();
    check_key(view, all, probe);
    let wanted: Vec<_> = all.iter().copied().filter(|kv| asked.contains(&kv.key)).collect();
    // An open end is as far as is mirrored; a bound that is given must lie there.
    let known =
        |bound: &[u8]| mirrored.start() <= bound && mirrored.end().is_none_or(|end| bound <= end);
    let low = asked.start().is_empty() || known(asked.start());
    let inside = asked.is_empty() || (low && asked.end().is_none_or(known));
    match view.try_range(asked.clone()) {
        Ok(piece) => {
            assert!(inside, "{asked} of {mirrored}");
            check::piece(piece, &wanted, probe);
            check::piece(view.range(asked.clone()), &wanted, asked.start());
            assert_eq!(view.all().range(asked.clone()).len(), wanted.len());
        }
        Err(outside) => {
            assert!(!inside, "{asked} of {mirrored}");
            assert!(outside.asked == *asked && outside.mirrored == *mirrored);
        }
    }
}

fn check_key(view: &View<Vec<u8>>, all: &[&RawKeyValue], key: &[u8]) {
    let rank = all.binary_search_by(|kv| kv.key.as_slice().cmp(key));
    match view.try_get(key) {
        Ok(found) => {
            assert!(view.mirrored().contains(key));
            assert_eq!(found.map(|entry| entry.key()), rank.ok().map(|_| key));
            assert_eq!((view.search(key), view.contains(key)), (rank, rank.is_ok()));
        }
        Err(outside) => {
            assert!(!view.mirrored().contains(key));
            assert_eq!(outside.asked, KeyRange::key(key));
        }
    }
}

fn check_view_prefix(
    view: &View<Vec<u8>>,
    all: &[&RawKeyValue],
    prefix: &[u8],
    input: &mut Input<'_>,
) {
    let wanted: Vec<_> = all.iter().copied().filter(|kv| kv.key.starts_with(prefix)).collect();
    let covered = prefix.is_empty() || view.mirrored().covers(&KeyRange::prefix(prefix));
    let Ok(piece) = view.try_prefix(prefix) else {
        assert!(!covered);
        return;
    };
    assert!(covered);
    assert_eq!(view.count(prefix), wanted.len());
    check::piece(piece, &wanted, prefix);
    check::walk(piece, &wanted, input);
}

/// Asks a piece for a piece, and so on; each is clipped to the one before.
fn narrow(
    mut piece: Range<'_, Vec<u8>>,
    all: &[&RawKeyValue],
    near: &KeyRange,
    input: &mut Input<'_>,
) {
    let mut wanted = all.to_vec();
    for _ in 0..=input.below(4) {
        let former = (piece, wanted.len());
        if input.chance(96) {
            let prefix = any_probe(input, near);
            piece = piece.prefix(&prefix);
            wanted.retain(|kv| kv.key.starts_with(&prefix));
        } else {
            let range = any_range(input, near);
            piece = piece.range(range.clone());
            wanted.retain(|kv| range.contains(&kv.key));
        }
        check::piece(piece, &wanted, &any_probe(input, near));
        assert_eq!(piece.equal_key_revisions(&former.0), wanted.len() == former.1);
        check::walk(piece, &wanted, input);
    }
}
