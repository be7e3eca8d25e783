//! Single situations: extreme keys, long histories, memory, sharing.

use std::sync::Arc;

use super::super::{Edit, Packed, PackedBuilder};
use super::{Model, apply, built, check_diff, check_same, check_slice, edited, entry};

/// Deterministic numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

const STEPS: u64 = if cfg!(miri) { 40 } else { 3000 };

fn key(n: u64) -> Vec<u8> {
    format!("/registry/items/zone-{:02}/{n:06}", n % 16).into_bytes()
}

#[test]
fn keys_of_every_kind_live_together() {
    let mut keys: Vec<Vec<u8>> = vec![vec![], vec![0], vec![0, 0], vec![0xff], vec![0xff; 9]];
    // Miri runs everything a hundred times slower.
    let lengths = [1, 8, 9, 46, 47, 7, 15, 16, 17, 48, 49, 1000, 65_535, 65_536];
    for len in &lengths[..if cfg!(miri) { 5 } else { lengths.len() }] {
        for byte in [0, b'a', 0xff] {
            keys.push(vec![byte; *len]);
            keys.push([vec![byte; *len], vec![0]].concat());
            keys.push([vec![byte; *len], b"tail".to_vec()].concat());
        }
    }
    keys.extend(
        (0..=if cfg!(miri) { 20 } else { 255 })
            .map(|byte| [b"one-long-common-middle/".as_slice(), &[byte]].concat()),
    );
    keys.sort();
    keys.dedup();
    let (packed, mut model) = built(&keys);
    check_same(&packed, &model);
    for key in &keys {
        assert_eq!(packed.get(key).map(Arc::as_ptr), model.get(key).map(Arc::as_ptr));
        let above = [key.as_slice(), b"\0"].concat();
        for probe in [key, &above, &key[..key.len() / 2].to_vec()] {
            assert_eq!(packed.get(probe).map(Arc::as_ptr), model.get(probe).map(Arc::as_ptr));
        }
        check_slice(packed.slice(key, Some(&above)), &model, key, Some(&above), key);
    }
    let (mut grown, mut grown_model) = (Packed::default(), Model::new());
    for key in keys.iter().rev() {
        grown = apply(&grown, &mut grown_model, &vec![(key.clone(), Some(1))]);
    }
    for (at, key) in keys.iter().enumerate() {
        let removed = apply(&grown, &mut grown_model, &vec![(key.clone(), None)]);
        assert_eq!(removed.len(), keys.len() - at - 1);
        grown = removed;
    }
    let emptied = apply(&packed, &mut model, &keys.into_iter().map(|key| (key, None)).collect());
    check_same(&emptied, &Model::new());
}

#[test]
fn snapshots_never_change() {
    let mut numbers = Numbers(7);
    let (mut packed, mut model) = built(
        &(0..if cfg!(miri) { 60 } else { 500 }).map(key).collect::<std::collections::BTreeSet<_>>(),
    );
    let mut held: Vec<(Packed<u64>, Model)> = Vec::new();
    for step in 0..STEPS {
        if step % (STEPS / 12) == 0 {
            held.push((packed.clone(), model.clone()));
        }
        let batch = (0..1 + numbers.below(4))
            .map(|_| (key(numbers.below(1000)), (numbers.below(10) < 6).then_some(step)))
            .collect();
        packed = apply(&packed, &mut model, &batch);
    }
    for (snapshot, as_it_was) in &held {
        snapshot.validate();
        check_same(snapshot, as_it_was);
        check_diff(&packed, &model, snapshot, as_it_was);
        check_diff(snapshot, as_it_was, &packed, &model);
    }
}

#[test]
fn deleting_gives_the_memory_back() {
    let count = if cfg!(miri) { 400 } else { 4000 };
    let keys: std::collections::BTreeSet<_> = (0..count).map(key).collect();
    let (full, mut model) = built(&keys);
    let kept = model.values().nth(17).cloned().expect("there are more");
    let mut packed = full.clone();
    let mut numbers = Numbers(3);
    while packed.len() > count as usize / 40 {
        let victims = packed.all().iter().filter(|_| numbers.below(3) == 0);
        let batch = victims.map(|entry| (entry.key().to_vec(), None)).collect();
        packed = apply(&packed, &mut model, &batch);
        check_same(&packed, &model);
    }
    let per_key = |packed: &Packed<u64>| packed.heap_bytes() / packed.len();
    assert!(per_key(&packed) < 3 * per_key(&full), "{} a key", per_key(&packed));
    let batch = keys.iter().map(|key| (key.clone(), None)).collect();
    packed = apply(&packed, &mut model, &batch);
    assert_eq!((packed.len(), packed.key_bytes()), (0, 0));
    assert_eq!(packed.heap_bytes(), Packed::<u64>::default().heap_bytes());
    drop(full);
    assert_eq!(Arc::strong_count(&kept), 1, "something still holds an entry");
}

#[test]
fn one_change_shares_all_but_one_group() {
    let keys: std::collections::BTreeSet<_> = (0..300).map(key).collect();
    let (before, mut model) = built(&keys);
    let after = apply(&before, &mut model, &vec![(key(150), Some(9))]);
    let groups = |packed: &Packed<u64>| {
        let runs = packed.root.pages().iter().flat_map(|page| page.runs().to_vec());
        runs.flat_map(|run| run.groups().to_vec()).collect::<Vec<_>>()
    };
    let (old, new) = (groups(&before), groups(&after));
    assert_eq!(old.len(), new.len());
    assert_eq!(old.iter().zip(&new).filter(|(old, new)| !Arc::ptr_eq(old, new)).count(), 1);
    let found = after.diff(&before);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].old.map(|entry| *entry.value()), Some(0));
    assert_eq!(found[0].new.map(|entry| *entry.value()), Some(9));
}

#[test]
fn a_batch_without_effect_gives_the_same_version() {
    let keys: std::collections::BTreeSet<_> = (0..100).map(key).collect();
    let (packed, _) = built(&keys);
    let absent = vec![Edit::Remove(Box::from(*b"")), Edit::Remove(Box::from(*b"/zzz"))];
    for same in [edited(&packed, Vec::new()), edited(&packed, absent)] {
        assert!(Arc::ptr_eq(&same.root, &packed.root));
        assert!(same.diff(&packed).is_empty());
    }
    let empty = Packed::<u64>::default();
    assert_eq!(edited(&empty, vec![Edit::Remove(Box::from(*b"x"))]).len(), 0);
    assert!(empty.get(b"").is_none());
    assert!(empty.all().first().is_none() && empty.all().last().is_none());
    assert_eq!(empty.all().search(b"x"), Err(0));
}

#[test]
fn a_builder_wants_ascending_keys_and_gives_back_others() {
    let mut builder = PackedBuilder::new();
    assert!(builder.push(entry(b"b", 1)).is_ok());
    for key in [&b"b"[..], b"a", b""] {
        let refused = builder.push(entry(key, 2)).expect_err("not above the last");
        assert_eq!(refused.key(), key);
    }
    assert!(builder.push(entry(b"b\0", 3)).is_ok());
    let packed = builder.finish();
    packed.validate();
    assert_eq!(packed.len(), 2);
}

#[test]
fn a_builder_of_any_length_equals_edits() {
    for count in 0..if cfg!(miri) { 30 } else { 260 } {
        let keys: Vec<_> = (0..count).map(|n| u64::to_be_bytes(n).to_vec()).collect();
        let (built, model) = built(&keys);
        check_same(&built, &model);
        let edits = model.values().map(|entry| Edit::Put(Arc::clone(entry))).collect();
        let packed = edited(&Packed::default(), edits);
        packed.validate();
        assert!(packed.diff(&built).is_empty());
    }
}
