//! A run: up to [`RUN_MAX`] consecutive groups with a column over their first keys.
//!
//! Owns the search for a group and the ranks inside a run. Must not know what stands around it.

use std::cmp::Ordering;
use std::sync::{Arc, OnceLock};

use arrayvec::ArrayVec;

use super::Fingerprint;
use super::group::Group;
use super::heads::{Heads, common_prefix, first_above};
use super::sizes::RUN_MAX;
use crate::model::Entry;

/// Pointers to at most [`RUN_MAX`] groups.
pub(super) type Groups<T> = ArrayVec<Arc<Group<T>>, RUN_MAX>;

/// At least one group, at most [`RUN_MAX`].
#[repr(C)]
pub(super) struct Run<T> {
    /// The number of entries. First, with the length in `heads` behind it: an edit reads both of
    /// every run it keeps, and the counts of the `Arc` are on the same cache line.
    len: usize,
    /// Over the first keys of the groups. The prefix is that of *all* keys of the run: a key that
    /// is present has it, so that a look-up need not check.
    heads: Heads<u64, RUN_MAX>,
    /// Entries up to the end of each group.
    ends: [u16; RUN_MAX],
    groups: Groups<T>,
    /// Of all entries, once somebody has asked. Last: a search never reads it.
    fingerprint: OnceLock<Fingerprint>,
}

impl<T> Run<T> {
    /// A run of `groups`, ascending. The heads of `like` are taken if they fit.
    pub(super) fn new(groups: Groups<T>, like: Option<&Run<T>>) -> Self {
        let heads = match like.filter(|like| like.has_heads_of(&groups)) {
            Some(like) => like.heads,
            None => heads_of(&groups),
        };
        let mut ends = [0; RUN_MAX];
        let mut sum = 0_u16;
        for (end, group) in ends.iter_mut().zip(&groups) {
            sum += group.len() as u16;
            *end = sum;
        }
        let fingerprint = OnceLock::new();
        Run { len: usize::from(sum), heads, groups, ends, fingerprint }
    }

    /// Whether `groups` have the first keys of this run's groups, and its last key.
    ///
    /// Looks into a group only where the two sides differ, and at a key only where entries do.
    fn has_heads_of(&self, groups: &[Arc<Group<T>>]) -> bool {
        self.groups.len() == groups.len()
            && self.groups.iter().zip(groups).enumerate().all(|(at, (old, new))| {
                Arc::ptr_eq(old, new) || {
                    let (old, new) = (old.entries(), new.entries());
                    let last = at + 1 == groups.len();
                    same_key(&old[0], &new[0])
                        && (!last || same_key(&old[old.len() - 1], &new[new.len() - 1]))
                }
            })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The number of groups.
    pub(super) fn width(&self) -> usize {
        self.heads.len()
    }

    pub(super) fn groups(&self) -> &[Arc<Group<T>>] {
        &self.groups
    }

    pub(super) fn first(&self) -> &Arc<Entry<T>> {
        &self.groups[0].entries()[0]
    }

    pub(super) fn last(&self) -> &Arc<Entry<T>> {
        let entries = self.groups[self.groups.len() - 1].entries();
        &entries[entries.len() - 1]
    }

    pub(super) fn first_key(&self) -> &[u8] {
        self.first().key()
    }

    /// The fingerprint of all entries: O(entries) the first time, then O(1).
    pub(super) fn fingerprint(&self) -> Fingerprint {
        *self.fingerprint.get_or_init(|| {
            let mut all = Fingerprint::default();
            let entries = self.groups.iter().flat_map(|group| group.entries());
            entries.for_each(|entry| all.add(Fingerprint::of(entry)));
            all
        })
    }

    fn end_of(&self, group: usize) -> usize {
        usize::from(self.ends[group])
    }

    fn start_of(&self, group: usize) -> usize {
        group.checked_sub(1).map_or(0, |previous| self.end_of(previous))
    }

    /// The group that holds `key`, if `key` is present.
    #[inline]
    pub(super) fn locate(&self, key: &[u8]) -> usize {
        super::load_lines(&self.groups);
        let (start, tie) = self.heads.find(key);
        let after = if tie {
            let end = self.heads.end_of_ties(start);
            first_above(start, end, key, |group| self.groups[group].first_key())
        } else {
            start
        };
        after.saturating_sub(1)
    }

    /// The entry of `key`. `FAR` is whether the pieces are too many to stay in the cache, so that
    /// lines are loaded ahead.
    #[inline]
    pub(super) fn get<const FAR: bool>(&self, key: &[u8]) -> Option<&Arc<Entry<T>>> {
        if FAR {
            super::load_lines(&self.groups);
        }
        let (group, tie) = self.guess(key);
        if FAR {
            super::load_lines(group.entries());
        }
        let found = group.get(key);
        if found.is_none() && tie { self.get_among_ties(key) } else { found }
    }

    /// The group that most likely holds `key` if it is present, and whether another one may.
    ///
    /// A key with the head of a group's first key is mostly that key. So nothing is compared here,
    /// and a search that finds nothing has to compare.
    #[inline(always)]
    pub(super) fn guess(&self, key: &[u8]) -> (&Group<T>, bool) {
        let (start, tie) = self.heads.find(key);
        (&self.groups[(start + usize::from(tie)).saturating_sub(1)], tie)
    }

    /// Loads what a search reads without waiting for it.
    #[inline]
    pub(super) fn load(&self) {
        self.heads.load();
        super::load_lines(&self.groups);
    }

    #[cold]
    fn get_among_ties(&self, key: &[u8]) -> Option<&Arc<Entry<T>>> {
        self.groups[self.locate(key)].get(key)
    }

    /// The place of `key`, given its group by [`locate`](Self::locate).
    pub(super) fn place(&self, at: usize, key: &[u8]) -> (usize, Result<usize, usize>) {
        let group = &self.groups[at];
        let found = group.search(key);
        if let Err(index) = found
            && (index == 0 || index == group.len())
        {
            // The key may lack the run's prefix, which `locate` takes for granted. Then it is
            // below or above everything here; else the group is right, as in all other cases.
            let skip = self.heads.skip();
            match key[..skip.min(key.len())].cmp(&group.first_key()[..skip]) {
                Ordering::Less => return (0, Err(0)),
                Ordering::Greater => {
                    let last = self.groups.len() - 1;
                    return (last, Err(self.groups[last].len()));
                }
                Ordering::Equal => {}
            }
        }
        (at, found)
    }

    /// The rank of `key` in the run, or the rank it would have.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (group, found) = self.place(self.locate(key), key);
        let start = self.start_of(group);
        found.map(|index| start + index).map_err(|index| start + index)
    }

    /// The index of the group that holds the entry of `rank`, and the rank of its first entry.
    pub(super) fn group_at(&self, rank: usize) -> (usize, usize) {
        let group = (0..self.groups.len()).filter(|group| self.end_of(*group) <= rank).count();
        (group, self.start_of(group))
    }

    /// Heap bytes of the run and its groups, without what the entries point to.
    pub(super) fn heap_bytes(&self) -> usize {
        ARC_COUNTS + size_of::<Self>() + self.groups.len() * (ARC_COUNTS + size_of::<Group<T>>())
    }

    #[cfg(test)]
    pub(super) fn validate(&self, alone: bool) {
        let len = self.groups.len();
        assert!((1..=RUN_MAX).contains(&len), "a run of {len} groups");
        let mut end = 0;
        for (at, group) in self.groups.iter().enumerate() {
            group.validate();
            let alone = alone && len == 1;
            assert!(alone || group.len() >= super::sizes::GROUP_MIN, "a group of {}", group.len());
            end += group.len();
            assert_eq!(self.end_of(at), end, "a run has wrong counts");
        }
        assert_eq!(self.heads, heads_of(&self.groups), "a run has wrong heads");
    }
}

/// Whether two entries have the same key; looks at keys only if it must.
pub(super) fn same_key<T>(old: &Arc<Entry<T>>, new: &Arc<Entry<T>>) -> bool {
    Arc::ptr_eq(old, new) || old.key() == new.key()
}

fn heads_of<T>(groups: &[Arc<Group<T>>]) -> Heads<u64, RUN_MAX> {
    let (first, last) = (groups[0].first_key(), groups[groups.len() - 1].entries());
    let skip = common_prefix(first, last[last.len() - 1].key());
    Heads::new(skip, groups.iter().map(|group| group.first_key()))
}

/// What an `Arc` allocates besides its content.
pub(super) const ARC_COUNTS: usize = 2 * size_of::<usize>();
