//! Derived state: the keys summed up by group, always exactly as of the data.

use std::collections::BTreeMap;

use etcd_keyspace::{Delta, DeltaOrigin, Derived, Entry, KeySpace};

/// What is known of one group of keys.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Group {
    pub(crate) keys: u64,
    /// The sum of what the keys count for: weights, or bytes.
    pub(crate) amount: u64,
    /// Changes since the load.
    pub(crate) updates: u64,
}

pub(crate) type Groups = BTreeMap<Box<str>, Group>;

/// Keeps a sum per group up to date, under the lock of `ks`: whoever reads it through a guard sees
/// the sums of exactly the entries he sees. It costs what changed, not what is there.
pub(crate) fn derive<T: Send + Sync + 'static>(
    ks: &KeySpace<T>,
    group_of: impl Fn(&Entry<T>) -> (Box<str>, u64) + Send + 'static,
) -> Derived<Groups> {
    ks.derive(Groups::new(), move |groups, delta: &Delta<T>, _view, _earlier| {
        for old in delta.old_entries() {
            let (name, amount) = group_of(old);
            let group = groups.entry(name).or_default();
            group.keys -= 1;
            group.amount -= amount;
        }
        for new in delta.new_entries() {
            let (name, amount) = group_of(new);
            let group = groups.entry(name).or_default();
            group.keys += 1;
            group.amount += amount;
        }
        if delta.origin() == DeltaOrigin::Events {
            for change in delta {
                let entry = change.new().or(change.old());
                if let Some(group) = entry.and_then(|entry| groups.get_mut(&group_of(entry).0)) {
                    group.updates += 1;
                }
            }
        }
    })
}

/// The part of `key` after `prefix` up to and with the next slash; keys that have none are one group.
pub(crate) fn next_segment(key: &[u8], prefix: &[u8]) -> Box<str> {
    let rest = key.strip_prefix(prefix).unwrap_or(key);
    let lead = usize::from(rest.first() == Some(&b'/'));
    match rest[lead..].iter().position(|byte| *byte == b'/') {
        Some(slash) => String::from_utf8_lossy(&rest[..=lead + slash]).into(),
        None => "(no further segment)".into(),
    }
}
