//! The difference between two histories that a mirror does not find, as the docs of `proof_budget` say.
//!
//! Within the budget all content is compared, values included. Beyond it, and without evidence of another
//! history, the newest live writes are compared, with their values, and the number of keys.

use etcd_keyspace::RawKeyValue;

/// How many of the newest live writes are compared beyond the budget.
const NEWEST: usize = 4;

/// Whether a mirror that knows `known` and compares all content of at most `budget` keys does not find that
/// a store holds `held` at the same revision, which is other content.
pub(crate) fn looks_the_same(known: &[&RawKeyValue], held: &[&RawKeyValue], budget: usize) -> bool {
    let counted = known.len() > budget && known.len() == held.len();
    counted && newest_agree(known, held)
}

/// Of writes of one revision any may be among the newest.
fn newest_agree(known: &[&RawKeyValue], held: &[&RawKeyValue]) -> bool {
    let mut newest = known.to_vec();
    newest.sort_by_key(|kv| std::cmp::Reverse(kv.mod_revision));
    let Some(last) = newest.get(NEWEST.min(newest.len()).wrapping_sub(1)) else { return true };
    let last = last.mod_revision;
    let newer = newest.iter().filter(|kv| kv.mod_revision > last);
    let (count, all) = (newer.clone().count(), newer.clone().all(|kv| held.contains(kv)));
    let as_new = newest.iter().filter(|kv| kv.mod_revision == last && held.contains(kv));
    all && count + as_new.count() >= NEWEST.min(newest.len())
}

#[test]
fn h32_beyond_the_budget_the_newest_writes_and_the_number_of_keys_must_agree() {
    let kv = |key: u8, mod_revision, value: u8| RawKeyValue {
        key: vec![key],
        value: vec![value],
        mod_revision,
        ..RawKeyValue::default()
    };
    let known: Vec<_> = (1..=6).map(|key| kv(key, key.into(), 0)).collect();
    let is_hidden = |change: &dyn Fn(&mut Vec<RawKeyValue>), budget| {
        let mut held = known.clone();
        change(&mut held);
        looks_the_same(&known.iter().collect::<Vec<_>>(), &held.iter().collect::<Vec<_>>(), budget)
    };
    assert!(is_hidden(&|held| held[1].value = vec![1], 5));
    assert!(!is_hidden(&|held| held[1].value = vec![1], 6), "all of it is compared");
    assert!(is_hidden(&|held| held[0] = kv(9, 1, 0), 0));
    assert!(!is_hidden(&|held| held[2].value = vec![1], 0), "the fourth newest");
    assert!(!is_hidden(&|held| drop(held.remove(0)), 0), "there are fewer keys");

    // Any four of the writes of one revision.
    let known: Vec<_> = (1..=6).map(|key| kv(key, 7, 0)).collect();
    let mut held = known.clone();
    let hidden = [true, true, false].map(|hidden| {
        let at = held.iter().rposition(|kv| kv.value == [0]).unwrap();
        held[at].value = vec![1];
        hidden
            == looks_the_same(
                &known.iter().collect::<Vec<_>>(),
                &held.iter().collect::<Vec<_>>(),
                0,
            )
    });
    assert_eq!(hidden, [true; 3]);
}
