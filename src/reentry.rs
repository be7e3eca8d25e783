//! What the current thread holds of each key space: so that a mistake panics instead of hanging.
//!
//! Owns the per-thread counts of read guards and the marks of running observers. Must not know what
//! a guard or an observer is made of.

use std::cell::RefCell;
use std::panic::Location;

#[cfg(shuttle)]
use shuttle::thread_local;
use smallvec::SmallVec;

/// Identifies a key space among those alive: the address of its shared state.
pub(crate) type SpaceId = usize;

thread_local! {
    /// How many guards of each key space this thread holds. A guard cannot change threads.
    static HELD: RefCell<SmallVec<[(SpaceId, u32); 4]>> = const { RefCell::new(SmallVec::new_const()) };
    /// The observers this thread is running, innermost last.
    static OBSERVING: RefCell<SmallVec<[(SpaceId, &'static Location<'static>); 2]>> =
        const { RefCell::new(SmallVec::new_const()) };
}

/// How many guards of `space` this thread holds.
pub(crate) fn held(space: SpaceId) -> u32 {
    HELD.try_with(|held| {
        held.borrow().iter().find(|(id, _)| *id == space).map_or(0, |(_, count)| *count)
    })
    .unwrap_or(0)
}

/// Panics when this thread runs an observer of `space`, which has the write lock.
#[track_caller]
pub(crate) fn refuse_in_observer(space: SpaceId, what: &str) {
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
pub(crate) fn refuse_under_guard(space: SpaceId, what: &str) {
    if held(space) > 0 {
        panic!(
            "{what} while this thread holds a read guard of the same key space would never end: \
             drop the guard first"
        );
    }
}

/// Whether this thread runs an observer of `space`.
pub(crate) fn in_observer(space: SpaceId) -> bool {
    OBSERVING.try_with(|all| all.borrow().iter().any(|(id, _)| *id == space)).unwrap_or(false)
}

/// Marks this thread as running an observer until dropped.
pub(crate) struct ObserverScope(());

impl ObserverScope {
    pub(crate) fn enter(space: SpaceId, registered: &'static Location<'static>) -> Self {
        OBSERVING.with(|all| all.borrow_mut().push((space, registered)));
        ObserverScope(())
    }
}

impl Drop for ObserverScope {
    fn drop(&mut self) {
        OBSERVING.with(|all| all.borrow_mut().pop());
    }
}

/// Counts one guard of this thread until dropped.
pub(crate) struct Hold(SpaceId);

impl Hold {
    pub(crate) fn new(space: SpaceId) -> Self {
        HELD.with(|held| {
            let mut held = held.borrow_mut();
            match held.iter_mut().find(|(id, _)| *id == space) {
                Some((_, count)) => *count += 1,
                None => held.push((space, 1)),
            }
        });
        Hold(space)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // A guard may outlive the thread's own storage; nothing is left to count then.
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(index) = held.iter().position(|(id, _)| *id == self.0) {
                held[index].1 -= 1;
                if held[index].1 == 0 {
                    held.swap_remove(index);
                }
            }
        });
    }
}
