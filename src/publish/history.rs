//! The last steps of a key space, event by event, for consumers that must not have them summed up.
//!
//! Owns the bounded record of steps, and waking those who follow it. Keeps nothing, and costs nothing,
//! while nobody follows and no [`Builder::event_history`](crate::Builder::event_history) asked for it.
//! Must not know what a consumer has read (C9): at its bound the oldest steps go, and whoever still
//! needed them finds out by their numbers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

use crate::model::{Delta, DeltaOrigin, Revision, Trace};
use crate::publish::subscriptions::Subscriptions;
use crate::view::{Packed, View};

/// How much is kept, besides the newest step: the oldest go when either is exceeded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HistoryBounds {
    pub(crate) events: usize,
    /// Of keys and values, as etcd sent them.
    pub(crate) bytes: usize,
}

impl HistoryBounds {
    /// For a history that begins with the first who follows.
    const DEFAULT: HistoryBounds = HistoryBounds { events: 10_000, bytes: 16 << 20 };
}

/// A revision in its epoch, by which it is ordered first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Place {
    pub(crate) epoch: u64,
    pub(crate) revision: Revision,
}

impl Place {
    pub(crate) fn of<T>(view: &View<T>) -> Self {
        Place { epoch: view.epoch, revision: view.revision }
    }

    /// The position of a consumer that has seen the whole view, idle progress included.
    pub(crate) fn confirmed<T>(view: &View<T>) -> Self {
        Place { epoch: view.epoch, revision: view.confirmed }
    }
}

/// One step of the key space: from the view of the number before to that of its own.
pub(crate) struct Step<T> {
    pub(crate) number: u64,
    pub(crate) from: Place,
    /// At revisions from `loaded` to `quiet` the same was shown as at `from`; between `from` and `loaded`
    /// something may have been done and undone.
    loaded: Revision,
    quiet: Revision,
    pub(crate) to: Place,
    /// The position of a consumer once it has seen the step: `to`, or for a load the load's revision even
    /// if nothing changed. A consumer between the two may have seen what was undone before the load.
    pub(crate) reach: Place,
    pub(crate) what: What<T>,
}

pub(crate) enum What<T> {
    /// What each event changed, in etcd's order.
    Events(Trace<T>),
    /// A complete read: of what happened between the two revisions only the sum is known.
    Load {
        entries: Packed<T>,
        cluster_id: Option<u64>,
        /// The exact difference; absent when nothing was shown before.
        delta: Option<Delta<T>>,
    },
}

impl<T> Step<T> {
    /// The step that led from one view to another; none when its events were not told one by one.
    pub(crate) fn leading_to(
        view: &View<T>,
        before: &View<T>,
        origin: DeltaOrigin,
        delta: Option<Delta<T>>,
        effects: Option<Trace<T>>,
    ) -> Option<Self> {
        let what = match (origin, effects) {
            (DeltaOrigin::Events, Some(effects)) => What::Events(effects),
            (DeltaOrigin::Events, None) => return None,
            _ => {
                let (entries, cluster_id) = (view.entries.clone(), view.cluster_id);
                What::Load { entries, cluster_id, delta }
            }
        };
        let (from, to) = (Place::of(before), Place::of(view));
        let (loaded, quiet) = (before.loaded, before.confirmed);
        let reach = match what {
            What::Events(_) => to,
            What::Load { .. } => Place { revision: view.confirmed, ..to },
        };
        Some(Step { number: view.step, from, loaded, quiet, to, reach, what })
    }

    /// Whether what was shown at a place is what this step led away from.
    pub(crate) fn begins_at(&self, place: Place) -> bool {
        place == self.from
            || place.epoch == self.from.epoch
                && (self.from.revision.max(self.loaded)..=self.quiet).contains(&place.revision)
    }

    /// Whether whoever has seen a place can be told this step: all that happened since is in it, or it
    /// tells everything.
    fn can_follow(&self, place: Place) -> bool {
        let nothing_unknown = place == self.from || place.revision >= self.loaded;
        let tells_all = matches!(self.what, What::Load { .. });
        place.epoch == self.from.epoch && place >= self.from && (nothing_unknown || tells_all)
    }

    fn size(&self) -> HistoryBounds {
        match &self.what {
            What::Events(Trace { effects, bytes }) => {
                HistoryBounds { events: effects.len().max(1), bytes: *bytes }
            }
            What::Load { delta, .. } => {
                let changed = delta.as_ref().map_or(0, Delta::len);
                HistoryBounds { events: changed.max(1), bytes: 0 }
            }
        }
    }
}

/// What comes after a step.
pub(crate) enum NextRecord<T> {
    Nothing,
    Step(Arc<Step<T>>),
    /// It is not kept any more.
    Gone,
}

/// Where in the history a place is.
pub(crate) enum Lookup<T> {
    /// This step passed it, or left it.
    By(Arc<Step<T>>),
    /// The newest step, of this number, had not passed it. One that does is made and not noted yet.
    NotYet(u64),
    /// It is not kept any more.
    Gone,
}

/// Consecutive steps, the newest last.
struct Kept<T> {
    steps: VecDeque<Arc<Step<T>>>,
    size: HistoryBounds,
    /// The newest step there was, kept or not.
    newest: u64,
    /// As somebody asked for; then it is kept although nobody follows.
    bounds: Option<HistoryBounds>,
}

/// The history of one key space.
pub(crate) struct History<T> {
    /// Those who follow it.
    pub(crate) interests: Subscriptions,
    kept: Mutex<Kept<T>>,
    /// How often somebody was told everything, since what they were told last is not kept.
    pub(crate) behind: AtomicU64,
}

impl<T> Default for History<T> {
    fn default() -> Self {
        let size = HistoryBounds { events: 0, bytes: 0 };
        let kept = Kept { steps: VecDeque::new(), size, newest: 0, bounds: None };
        History {
            interests: Subscriptions::default(),
            kept: Mutex::new(kept),
            behind: AtomicU64::new(0),
        }
    }
}

impl<T> History<T> {
    /// Keeps a history from now on, whether anybody follows or not.
    pub(crate) fn keep(&self, bounds: HistoryBounds) {
        self.kept.lock().bounds = Some(bounds);
    }

    /// Whether the next step is to be kept, so that its events must be told one by one.
    pub(crate) fn is_kept(&self) -> bool {
        self.interests.len() > 0 || self.kept.lock().bounds.is_some()
    }

    /// Notes that the step of this number was made, and wakes who follows; the view is in place.
    pub(crate) fn push(&self, number: u64, step: Option<Step<T>>) {
        let Some(step) = step.map(Arc::new) else {
            // Whoever followed meanwhile looks, and finds it gone.
            let gone = self.kept.lock().forget(number);
            drop(gone);
            return self.interests.wake_all();
        };
        let dropped = self.kept.lock().push(Arc::clone(&step));
        drop(dropped);
        match &step.what {
            What::Load { .. } => self.interests.wake_all(),
            What::Events(Trace { effects, .. }) => {
                let mut keys: Vec<_> = effects.iter().map(|effect| effect.change.key()).collect();
                keys.sort_unstable();
                self.interests.wake(&keys, |key| key);
            }
        }
    }

    /// What comes after the step of this number.
    pub(crate) fn after(&self, number: u64) -> NextRecord<T> {
        let kept = self.kept.lock();
        if number >= kept.newest {
            return NextRecord::Nothing;
        }
        kept.after(number).map_or(NextRecord::Gone, NextRecord::Step)
    }

    /// Which step has passed or left a place behind which something is shown already.
    pub(crate) fn passing(&self, place: Place) -> Lookup<T> {
        let kept = self.kept.lock();
        let at = kept.steps.partition_point(|step| step.reach <= place);
        match (kept.steps.get(at), kept.steps.back()) {
            (Some(step), _) if step.can_follow(place) => Lookup::By(Arc::clone(step)),
            (None, Some(newest)) if newest.reach.epoch == place.epoch => {
                Lookup::NotYet(newest.number)
            }
            _ => Lookup::Gone,
        }
    }

    /// How many events are kept.
    pub(crate) fn len(&self) -> usize {
        self.kept.lock().size.events
    }
}

impl<T> Kept<T> {
    /// Adds a step and gives those that went for it, to be dropped outside the lock.
    fn push(&mut self, step: Arc<Step<T>>) -> VecDeque<Arc<Step<T>>> {
        let mut gone = match step.number - self.newest {
            1 => VecDeque::new(),
            _ => self.forget(step.number),
        };
        self.newest = step.number;
        let HistoryBounds { events, bytes } = step.size();
        self.size.events += events;
        self.size.bytes += bytes;
        self.steps.push_back(step);
        let bounds = self.bounds.unwrap_or(HistoryBounds::DEFAULT);
        let over = |size: &HistoryBounds| size.events > bounds.events || size.bytes > bounds.bytes;
        // The newest is kept whatever its size, for those who are not behind.
        while self.steps.len() > 1 && over(&self.size) {
            let Some(oldest) = self.steps.pop_front() else { break };
            let HistoryBounds { events, bytes } = oldest.size();
            self.size.events -= events;
            self.size.bytes -= bytes;
            gone.push_back(oldest);
        }
        gone
    }

    /// Begins anew after a step that is not kept; gives what was, to be dropped outside the lock.
    fn forget(&mut self, newest: u64) -> VecDeque<Arc<Step<T>>> {
        self.newest = newest;
        self.size = HistoryBounds { events: 0, bytes: 0 };
        std::mem::take(&mut self.steps)
    }

    fn after(&self, number: u64) -> Option<Arc<Step<T>>> {
        let first = self.steps.front()?.number;
        let at = usize::try_from((number + 1).checked_sub(first)?).ok()?;
        self.steps.get(at).cloned()
    }
}
