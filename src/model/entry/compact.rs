//! Etcd's numbers beside a key, in half their size.

use super::Numbers;
use crate::model::event::Revision;

/// [`Numbers`] in 16 bytes, and an allocation where they are not small. Exact for all.
///
/// The `mod_revision` is in two parts, `high` and `low`, in the first eight bytes.
pub(super) enum Compact {
    /// No lease, and fewer than 2^32 revisions and 2^32 writes since the creation.
    Small {
        high: u16,
        low: u32,
        age: u32,
        version: u32,
    },
    /// A `mod_revision` below 2^48.
    Apart {
        high: u16,
        low: u32,
        others: Box<Others>,
    },
    Large(Box<Numbers>),
}

/// All numbers but the `mod_revision`.
pub(super) struct Others {
    create_revision: Revision,
    version: i64,
    lease: i64,
}

impl Compact {
    pub(super) fn new(numbers: Numbers) -> Self {
        let Numbers { create_revision, mod_revision, version, lease } = numbers;
        let Ok(high) = u16::try_from(mod_revision >> 32) else {
            return Compact::Large(Box::new(numbers));
        };
        let low = mod_revision as u32;
        let age = mod_revision.checked_sub(create_revision).and_then(|age| age.try_into().ok());
        match (age, version.try_into().ok()) {
            (Some(age), Some(version)) if lease == 0 => Compact::Small { high, low, age, version },
            _ => {
                let others = Box::new(Others { create_revision, version, lease });
                Compact::Apart { high, low, others }
            }
        }
    }

    #[inline]
    pub(super) fn mod_revision(&self) -> Revision {
        match self {
            Compact::Small { high, low, .. } | Compact::Apart { high, low, .. } => {
                i64::from(*high) << 32 | i64::from(*low)
            }
            Compact::Large(numbers) => numbers.mod_revision,
        }
    }

    #[inline]
    pub(super) fn get(&self) -> Numbers {
        let mod_revision = self.mod_revision();
        match self {
            Compact::Small { age, version, .. } => Numbers {
                create_revision: mod_revision - i64::from(*age),
                mod_revision,
                version: i64::from(*version),
                lease: 0,
            },
            Compact::Apart { others, .. } => Numbers {
                create_revision: others.create_revision,
                mod_revision,
                version: others.version,
                lease: others.lease,
            },
            Compact::Large(numbers) => **numbers,
        }
    }

    /// Heap bytes of the numbers.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Compact::Small { .. } => 0,
            Compact::Apart { .. } => size_of::<Others>(),
            Compact::Large(_) => size_of::<Numbers>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any number, most often one at a bound of the compact form.
    fn number() -> impl Strategy<Value = i64> {
        let bounds = [0, 1 << 8, 1 << 32, 1 << 48, i64::MAX, i64::MIN];
        let near = (prop::sample::select(bounds.to_vec()), -2_i64..3);
        prop_oneof![
            4 => near.prop_map(|(bound, step)| bound.wrapping_add(step)),
            1 => any::<i64>(),
            2 => 0..1000_i64,
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn all_numbers_are_kept_exactly(
            mod_revision in number(), age in number(), version in number(), lease in prop_oneof![Just(0), number()],
        ) {
            let create_revision = mod_revision.wrapping_sub(age);
            let numbers = Numbers { create_revision, mod_revision, version, lease };
            let compact = Compact::new(numbers);
            prop_assert_eq!(compact.get(), numbers);
            prop_assert_eq!(compact.mod_revision(), mod_revision);
            let expected = if !(0..1 << 48).contains(&mod_revision) {
                size_of::<Numbers>()
            } else if lease == 0
                && (0..1 << 32).contains(&(i128::from(mod_revision) - i128::from(create_revision)))
                && (0..1 << 32).contains(&version)
            {
                0
            } else {
                size_of::<Others>()
            };
            prop_assert_eq!(compact.heap_bytes(), expected);
        }
    }

    #[test]
    fn numbers_take_half_their_size() {
        assert_eq!(2 * size_of::<Compact>(), size_of::<Numbers>());
    }
}
