//! What the current thread holds of each key space: so that a mistake panics instead of hanging.
//!
//! Owns the per-thread counts of read guards and the marks of running observers. Must not know what
//! a guard or an observer is made of.

use std::cell::{Cell, RefCell};
use std::panic::Location;

#[cfg(shuttle)]
use shuttle::thread_local;
use smallvec::SmallVec;

/// Identifies a key space among those alive: the address of its shared state.
pub(crate) type SpaceId = usize;

type Counts = RefCell<SmallVec<[(SpaceId, u32); 4]>>;
type Running = RefCell<SmallVec<[(SpaceId, &'static Location<'static>); 2]>>;

/// The counts that a plain read needs. Cells alone need no destructor, so reaching them takes no check.
struct Local {
    /// A key space that this thread holds guards of; zero for none, as no address is.
    space: Cell<SpaceId>,
    /// How many guards of `space`.
    guards: Cell<u32>,
    /// How many key spaces are in `OTHERS`.
    others: Cell<u32>,
    /// How many observers are in `OBSERVING`.
    observing: Cell<u32>,
    /// Guards taken so far, wrapping.
    taken: Cell<u32>,
}

thread_local! {
    static LOCAL: Local = const {
        Local {
            space: Cell::new(0),
            guards: Cell::new(0),
            others: Cell::new(0),
            observing: Cell::new(0),
            taken: Cell::new(0),
        }
    };
    /// How many guards of further key spaces this thread holds. A guard cannot change threads.
    static OTHERS: Counts = const { RefCell::new(SmallVec::new_const()) };
    /// The observers this thread is running, innermost last.
    static OBSERVING: Running = const { RefCell::new(SmallVec::new_const()) };
}

/// How many guards of `space` this thread holds.
pub(crate) fn held(space: SpaceId) -> u32 {
    let (here, others) = LOCAL.with(|local| {
        let here = if local.space.get() == space { local.guards.get() } else { 0 };
        (here, local.others.get())
    });
    if here > 0 || others == 0 {
        return here;
    }
    let count = |counts: &Counts| {
        counts.borrow().iter().find(|(id, _)| *id == space).map_or(0, |(_, count)| *count)
    };
    OTHERS.try_with(count).unwrap_or(0)
}

/// Panics when this thread runs an observer of `space`, which has the write lock.
#[inline]
#[track_caller]
pub(crate) fn forbid_in_observer(space: SpaceId, what: &str) {
    if LOCAL.with(|local| local.observing.get() > 0) {
        refuse_if_observing(space, what);
    }
}

#[cold]
#[track_caller]
fn refuse_if_observing(space: SpaceId, what: &str) {
    let observer = OBSERVING
        .try_with(|all| all.borrow().iter().find(|(id, _)| *id == space).map(|(_, at)| *at))
        .ok()
        .flatten();
    if let Some(at) = observer {
        panic!(
            "{what} inside an observer of the same key space would never end: the observer \
             registered at {at} runs under the write lock; use the view it is given"
        );
    }
}

/// Panics when this thread holds a guard of `space`, for which a writer would wait for ever.
#[track_caller]
pub(crate) fn forbid_under_guard(space: SpaceId, what: &str) {
    if held(space) > 0 {
        panic!(
            "{what} while this thread holds a read guard of the same key space would never end: \
             drop the guard first"
        );
    }
}

/// Whether this thread runs an observer of `space`.
pub(crate) fn in_observer(space: SpaceId) -> bool {
    LOCAL.with(|local| local.observing.get() > 0)
        && OBSERVING
            .try_with(|all| all.borrow().iter().any(|(id, _)| *id == space))
            .unwrap_or(false)
}

/// Marks this thread as running an observer until dropped.
pub(crate) struct ObserverScope(());

impl ObserverScope {
    pub(crate) fn enter(space: SpaceId, registered: &'static Location<'static>) -> Self {
        OBSERVING.with(|all| all.borrow_mut().push((space, registered)));
        LOCAL.with(|local| local.observing.set(local.observing.get() + 1));
        ObserverScope(())
    }
}

impl Drop for ObserverScope {
    fn drop(&mut self) {
        LOCAL.with(|local| local.observing.set(local.observing.get() - 1));
        OBSERVING.with(|all| all.borrow_mut().pop());
    }
}

/// One guard in 64 is timed, and the first of each thread.
const SAMPLE: u32 = 64;

/// Counts one guard of this thread until dropped.
pub(crate) struct Hold(SpaceId);

/// A guard that was counted, and is to be taken now.
pub(crate) struct Counted {
    pub(crate) hold: Hold,
    /// Whether this thread holds another guard of the key space.
    pub(crate) nested: bool,
    /// Whether this guard is to be timed.
    pub(crate) sampled: bool,
}

impl Hold {
    /// Counts a guard before the lock is taken.
    ///
    /// # Panics
    /// Inside an observer of `space`.
    #[inline]
    #[track_caller]
    pub(crate) fn count(space: SpaceId) -> Counted {
        let (sampled, alone) = LOCAL.with(|local| {
            let taken = local.taken.get();
            local.taken.set(taken.wrapping_add(1));
            let alone =
                local.guards.get() == 0 && local.others.get() == 0 && local.observing.get() == 0;
            if alone {
                local.space.set(space);
                local.guards.set(1);
            }
            (taken % SAMPLE == 0, alone)
        });
        let nested = !alone && Hold::count_among_others(space);
        Counted { hold: Hold(space), nested, sampled }
    }

    /// Counts a guard beside others; returns whether one of them is of the same key space.
    #[cold]
    #[track_caller]
    fn count_among_others(space: SpaceId) -> bool {
        forbid_in_observer(space, "reading");
        let nested = held(space) > 0;
        let in_local = LOCAL.with(|local| {
            let free = local.guards.get() == 0 && !nested;
            if free {
                local.space.set(space);
            }
            let in_local = local.space.get() == space;
            local.guards.set(local.guards.get() + u32::from(in_local));
            in_local
        });
        if !in_local {
            Hold::count_in_others(space);
        }
        nested
    }

    fn count_in_others(space: SpaceId) {
        // Where the list of this thread is gone, nothing is left to count.
        let _ = OTHERS.try_with(|others| {
            let mut others = others.borrow_mut();
            match others.iter_mut().find(|(id, _)| *id == space) {
                Some((_, count)) => *count += 1,
                None => {
                    others.push((space, 1));
                    LOCAL.with(|local| local.others.set(local.others.get() + 1));
                }
            }
        });
    }

    #[cold]
    fn uncount_in_others(space: SpaceId) {
        // A guard may outlive this list of its thread; nothing is left to count then.
        let _ = OTHERS.try_with(|others| {
            let mut others = others.borrow_mut();
            if let Some(index) = others.iter().position(|(id, _)| *id == space) {
                others[index].1 -= 1;
                if others[index].1 == 0 {
                    others.swap_remove(index);
                    LOCAL.with(|local| local.others.set(local.others.get() - 1));
                }
            }
        });
    }
}

impl Drop for Hold {
    #[inline]
    fn drop(&mut self) {
        let in_local = LOCAL.with(|local| {
            let in_local = local.space.get() == self.0;
            if in_local {
                let left = local.guards.get() - 1;
                local.guards.set(left);
                if left == 0 {
                    local.space.set(0);
                }
            }
            in_local
        });
        if !in_local {
            Hold::uncount_in_others(self.0);
        }
    }
}
