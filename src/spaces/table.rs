//! Which key spaces are held, and which starts have failed.
//!
//! Owns the bound on both and the choice of what is let go for another. Everything is done under one
//! short lock of the caller's; what is removed is handed out, to be dropped outside it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::error::GetError;
use super::lease::Leases;
use super::options::Options;
use super::stats::KeySpacesStats;
use crate::keyspace::{KeySpace, WeakKeySpace};
use crate::mirror::Backoff;
use crate::model::{KeyRange, StopReason};

/// A key space that is held.
pub(super) struct Slot<T: Send + Sync + 'static> {
    pub(super) id: u64,
    pub(super) root: KeySpace<T>,
    pub(super) leases: Arc<Leases>,
    lent: Option<WeakKeySpace<T>>,
}

impl<T: Send + Sync + 'static> Slot<T> {
    pub(super) fn new(id: u64, root: KeySpace<T>) -> Self {
        Slot { id, root, leases: Leases::new(), lent: None }
    }

    /// A handle that counts as use until its last clone is dropped.
    pub(super) fn with_own_count(&mut self) -> KeySpace<T> {
        if let Some(lent) = self.lent.as_ref().and_then(WeakKeySpace::upgrade) {
            return lent;
        }
        self.leases.with_own_count();
        let leases = Arc::clone(&self.leases);
        let ks = self.root.with_own_count(move || leases.give_back());
        self.lent = Some(ks.downgrade());
        ks
    }

    pub(super) fn is_of(&self, ks: &KeySpace<T>) -> bool {
        self.root.core().id() == ks.core().id()
    }

    pub(super) fn has_started(&self) -> bool {
        self.root.core().waits.published().watching
    }

    fn ended(&self) -> Option<StopReason> {
        self.root.core().waits.ended()
    }
}

/// The last of a row of failed starts.
#[derive(Debug)]
pub(super) struct Failure {
    backoff: Backoff,
    pub(super) reason: StopReason,
    pub(super) until: Instant,
}

pub(super) struct Table<T: Send + Sync + 'static> {
    pub(super) slots: HashMap<KeyRange, Slot<T>>,
    pub(super) failures: HashMap<KeyRange, Failure>,
    pub(super) closed: bool,
    pub(super) stats: KeySpacesStats,
    ids: u64,
}

/// What was removed, to be dropped outside the lock.
pub(super) type Gone<T> = Vec<Slot<T>>;

impl<T: Send + Sync + 'static> Table<T> {
    pub(super) fn new() -> Self {
        Table {
            slots: HashMap::new(),
            failures: HashMap::new(),
            closed: false,
            stats: KeySpacesStats::default(),
            ids: 0,
        }
    }

    pub(super) fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// A handle of the range, if it is held; an error, if it must not be started now.
    pub(super) fn find(
        &mut self,
        range: &KeyRange,
        options: &Options,
        now: Instant,
        gone: &mut Gone<T>,
    ) -> Result<Option<KeySpace<T>>, GetError> {
        if self.closed {
            return Err(GetError::Shutdown);
        }
        self.settle(range, options, now, gone);
        if let Some(slot) = self.slots.get_mut(range) {
            return Ok(Some(slot.with_own_count()));
        }
        match self.failures.get(range) {
            Some(failure) if failure.until > now => Err(GetError::Start {
                range: range.clone(),
                reason: failure.reason.clone(),
                retry_in: failure.until - now,
            }),
            _ => Ok(None),
        }
    }

    /// Makes room for one more: lets go of the one that nobody has used for longest.
    pub(super) fn make_room(
        &mut self,
        range: &KeyRange,
        options: &Options,
        now: Instant,
        gone: &mut Gone<T>,
    ) -> Result<(), GetError> {
        if self.slots.len() < options.max {
            return Ok(());
        }
        let ended = self.slots.iter().filter(|(_, slot)| slot.ended().is_some());
        let ended: Vec<_> = ended.map(|(range, _)| range.clone()).collect();
        for range in &ended {
            self.settle(range, options, now, gone);
        }
        while self.slots.len() >= options.max {
            let idle = self.slots.iter().filter_map(|(range, slot)| {
                slot.leases.idle_since().map(|since| (since, slot.id, range))
            });
            let longest = idle.min_by_key(|(since, id, _)| (*since, *id));
            let Some((_, _, longest)) = longest else {
                return Err(GetError::Full { range: range.clone(), max: options.max });
            };
            let longest = longest.clone();
            self.stats.evictions += 1;
            gone.extend(self.slots.remove(&longest));
        }
        Ok(())
    }

    /// Forgets a mirror that has ended. If it never started, the next start has to wait.
    pub(super) fn settle(
        &mut self,
        range: &KeyRange,
        options: &Options,
        now: Instant,
        gone: &mut Gone<T>,
    ) {
        let Some(slot) = self.slots.get(range) else { return };
        let Some(reason) = slot.ended() else { return };
        let started = slot.has_started();
        gone.extend(self.slots.remove(range));
        if started {
            self.stats.stopped += 1;
        } else {
            self.stats.failed_starts += 1;
            self.note_failure(range, reason, options, now);
        }
    }

    fn note_failure(
        &mut self,
        range: &KeyRange,
        reason: StopReason,
        options: &Options,
        now: Instant,
    ) {
        // What nobody has asked for since is forgotten, so this is as bounded as what is held.
        self.failures.retain(|_, failure| failure.until + options.backoff_max > now);
        while self.failures.len() >= options.max && !self.failures.contains_key(range) {
            let oldest = self.failures.iter().min_by_key(|(_, failure)| failure.until);
            let Some(oldest) = oldest.map(|(range, _)| range.clone()) else { break };
            self.failures.remove(&oldest);
        }
        let id = self.id();
        let failure = self.failures.entry(range.clone()).or_insert_with(|| {
            let seed = options.seed.wrapping_add(id);
            let backoff = Backoff::new(options.backoff_min, options.backoff_max, seed);
            Failure { backoff, reason: reason.clone(), until: now }
        });
        failure.until = now + failure.backoff.next();
        failure.reason = reason;
    }

    /// How long the next start of the range has to wait.
    pub(super) fn retry_in(&self, range: &KeyRange, now: Instant) -> Duration {
        let until = self.failures.get(range).map(|failure| failure.until);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }
}
