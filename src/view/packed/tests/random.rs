//! Random histories and queries.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::Packed;
use super::{Batch, EqByPtr, Model, apply, built, check_diff, check_same, check_slice};

const CASES: u32 = if cfg!(miri) { 3 } else { 120 };

fn config() -> ProptestConfig {
    ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() }
}

/// Keys that lie close together, so that edits hit, tie and split.
fn small_key() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::sample::select(vec![0, b'a', b'b', 0xff]);
    prop_oneof![
        3 => prop::collection::vec(bytes.clone(), 0..6),
        3 => prop::collection::vec(bytes.clone(), 0..4).prop_map(|end| [b"same-8-bytes".as_slice(), &end].concat()),
        4 => (0_u64..2000).prop_map(tenant),
        4 => (0_u32..2000).prop_map(|n| format!("/registry/items/zone-{:02}/{n:04}", n % 16).into_bytes()),
        1 => (0_usize..4, bytes).prop_map(|(n, byte)| vec![byte; [7, 8, 9, 300][n]]),
    ]
}

fn tenant(n: u64) -> Vec<u8> {
    let id = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("/tenants/{id:016x}/deployments/production/status").into_bytes()
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let batch = |len| {
        let change = (small_key(), prop::option::weighted(0.6, 0_u64..10));
        prop::collection::vec(change, 0..len)
    };
    let large = if cfg!(miri) { 60 } else { 600 };
    prop::collection::vec(prop_oneof![3 => batch(4), 2 => batch(60), 1 => batch(large)], 1..12)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_batches_give_the_models_state(batches in batches()) {
        let (mut packed, mut model) = (Packed::default(), Model::new());
        for batch in &batches {
            let (before, model_before) = (packed.clone(), model.clone());
            packed = apply(&packed, &mut model, batch);
            check_same(&packed, &model);
            check_same(&before, &model_before);
            check_diff(&packed, &model, &before, &model_before);
            // Found one by one, and all at once.
            let keys: Vec<_> = batch.iter().map(|(key, _)| key).collect();
            let places = packed.places(&keys);
            for (key, place) in keys.into_iter().zip(&places) {
                let wanted = model.get(key).map(Arc::as_ptr);
                prop_assert_eq!(packed.get(key).map(Arc::as_ptr), wanted);
                prop_assert_eq!(packed.at(place).map(Arc::as_ptr), wanted);
                prop_assert_eq!(packed.at(&packed.place(key)).map(Arc::as_ptr), wanted);
            }
        }
        check_diff(&packed, &model, &Packed::default(), &Model::new());
        check_diff(&Packed::default(), &Model::new(), &packed, &model);
        let (rebuilt, _) = built(model.keys());
        prop_assert!(rebuilt.all().iter().map(|e| e.key()).eq(model.keys()));
    }

    #[test]
    fn slices_answer_as_the_model(
        keys in prop::collection::btree_set(small_key(), 0..if cfg!(miri) { 30 } else { 700 }),
        bounds in prop::collection::vec((small_key(), prop::option::of(small_key()), small_key()), 1..if cfg!(miri) { 3 } else { 8 }),
        picks in prop::collection::vec(any::<Index>(), 8),
    ) {
        let (packed, model) = built(&keys);
        let present: Vec<_> = keys.iter().collect();
        for (at, (lower, upper, probe)) in bounds.iter().enumerate() {
            let upper = upper.as_deref();
            check_slice(packed.slice(lower, upper), &model, lower, upper, probe);
            check_slice(packed.all(), &model, b"", None, probe);
            if present.is_empty() { continue }
            let known = *picks[at].get(&present);
            check_slice(packed.slice(lower, Some(known)), &model, lower, Some(known), known);
            check_slice(packed.slice(known, upper), &model, known, upper, lower);
            let inner = packed.slice(known, None).slice(lower, upper);
            check_slice(inner, &model, lower.max(known), upper, probe);
        }
    }

    #[test]
    fn many_keys_are_found_as_each_alone(
        keys in prop::collection::btree_set(small_key(), 0..if cfg!(miri) { 30 } else { 700 }),
        absent in prop::collection::vec(small_key(), 0..40),
        picks in prop::collection::vec(any::<Index>(), 0..if cfg!(miri) { 40 } else { 300 }),
    ) {
        let (packed, model) = built(&keys);
        let probes: Vec<&Vec<u8>> = keys.iter().chain(&absent).collect();
        for key in &probes {
            prop_assert_eq!(packed.get(key).map(Arc::as_ptr), model.get(*key).map(Arc::as_ptr));
        }
        // Ascending, then in any order and with repetitions.
        let picked = picks.iter().filter(|_| !probes.is_empty()).map(|pick| *pick.get(&probes));
        for asked in [probes.clone(), picked.collect()] {
            let mut found = Vec::new();
            packed.get_many(&asked, &mut found);
            let wanted: Vec<_> = asked.iter().map(|key| model.get(*key).map(Arc::as_ptr)).collect();
            prop_assert_eq!(found.iter().map(|e| e.map(Arc::as_ptr)).collect::<Vec<_>>(), wanted);
        }
    }

    #[test]
    fn iterators_work_from_both_ends(
        count in 0_u64..300,
        lower in 0_u64..50, upper in 0_u64..300,
        steps in prop::collection::vec((0_u8..5, 0_usize..40), 0..60),
    ) {
        let keys: Vec<_> = (0..count).map(|n| n.to_be_bytes().to_vec()).collect();
        let (packed, model) = built(&keys);
        let model: Vec<_> = model.values().collect();
        let range = lower.min(count) as usize..upper.clamp(lower, count.max(lower)).min(count) as usize;
        let range = range.start..range.end.max(range.start);
        let mut wanted = model[range].iter().copied();
        let mut found = packed.slice(&lower.to_be_bytes(), Some(&upper.to_be_bytes())).iter();
        for (step, n) in steps {
            let (found, wanted) = match step {
                0 => (found.next(), wanted.next()),
                1 => (found.next_back(), wanted.next_back()),
                2 => (found.nth(n), wanted.nth(n)),
                3 => (found.nth_back(n), wanted.nth_back(n)),
                _ => (found.clone().last(), wanted.clone().last()),
            };
            prop_assert_eq!(found.map(Arc::as_ptr), wanted.map(Arc::as_ptr));
        }
        prop_assert_eq!(found.len(), wanted.len());
        prop_assert_eq!(found.clone().count(), wanted.len());
        prop_assert!(found.eq_by_ptr(wanted));
    }
}
