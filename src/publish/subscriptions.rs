//! Who wants to know of which keys: ranges under which somebody waits for a change.
//!
//! Owns the index of the ranges, and waking those in which something changed. Must not know what a
//! follower does with that, and keeps no data for it: one flag a follower, so a consumer that never
//! reads costs nothing (C9).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::model::KeyRange;

/// More ranges than this in one block, and it is cut in two.
const BLOCK_MAX: usize = if cfg!(test) { 4 } else { 128 };

/// Whether something changed since it was last asked, and whom to tell.
#[derive(Debug, Default)]
struct Signal {
    state: Mutex<SignalState>,
}

#[derive(Debug, Default)]
struct SignalState {
    touched: bool,
    waker: Option<Waker>,
    /// How often somebody who waited was woken.
    woken: u64,
}

impl Signal {
    /// Notes a change; gives whom to wake.
    fn touch(&self) -> Option<Waker> {
        let mut state = self.state.lock();
        state.touched = true;
        let waker = state.waker.take();
        state.woken += u64::from(waker.is_some());
        waker
    }
}

/// One range with its signal.
struct Slot {
    range: Arc<KeyRange>,
    id: u64,
    signal: Arc<Signal>,
}

impl Slot {
    fn order(&self) -> (&[u8], u64) {
        (self.range.start(), self.id)
    }
}

/// Consecutive slots, at least one, and which of them reaches furthest.
struct Block {
    slots: Vec<Slot>,
    furthest: usize,
}

impl Block {
    fn new(slots: Vec<Slot>) -> Self {
        let mut block = Block { slots, furthest: 0 };
        block.find_furthest();
        block
    }

    fn find_furthest(&mut self) {
        let past = |at: &usize| {
            let end = self.slots[*at].range.end();
            (end.is_none(), end)
        };
        self.furthest = (0..self.slots.len()).max_by_key(past).unwrap_or(0);
    }

    fn starts_at(&self) -> (&[u8], u64) {
        self.slots[0].order()
    }
}

/// Ranges ascending by start, in blocks.
///
/// A step with m changed keys looks at every block, and at the slots of those blocks into which a
/// changed key falls: O(blocks + m + slots of these blocks), with one comparison or two for each.
#[derive(Default)]
struct Index {
    blocks: Vec<Block>,
}

impl Index {
    /// The block in which a slot of this order belongs.
    fn locate(&self, order: (&[u8], u64)) -> usize {
        self.blocks.partition_point(|block| block.starts_at() <= order).saturating_sub(1)
    }

    fn insert(&mut self, slot: Slot) {
        let at = self.locate(slot.order());
        let Some(block) = self.blocks.get_mut(at) else {
            return self.blocks.push(Block::new(vec![slot]));
        };
        let place = block.slots.partition_point(|other| other.order() < slot.order());
        block.slots.insert(place, slot);
        if block.slots.len() > BLOCK_MAX {
            let upper = block.slots.split_off(BLOCK_MAX / 2);
            self.blocks.insert(at + 1, Block::new(upper));
        }
        self.blocks[at].find_furthest();
    }

    fn remove(&mut self, order: (&[u8], u64)) -> Option<Slot> {
        let at = self.locate(order);
        let block = self.blocks.get_mut(at)?;
        let place = block.slots.binary_search_by(|slot| slot.order().cmp(&order)).ok()?;
        let slot = block.slots.remove(place);
        if block.slots.is_empty() {
            self.blocks.remove(at);
        } else {
            block.find_furthest();
        }
        Some(slot)
    }

    /// Calls `touch` for each slot in whose range one of the keys lies; they ascend.
    fn find<C>(&self, changes: &[C], key: impl Fn(&C) -> &[u8], mut touch: impl FnMut(&Slot)) {
        let mut from = 0;
        let lies_below = |at: usize, end: Option<&[u8]>| {
            changes.get(at).is_some_and(|change| end.is_none_or(|end| key(change) < end))
        };
        for block in &self.blocks {
            from = first_at_or_above(changes, from, block.starts_at().0, &key);
            if !lies_below(from, block.slots[block.furthest].range.end()) {
                continue;
            }
            let mut at = from;
            for slot in &block.slots {
                at = first_at_or_above(changes, at, slot.range.start(), &key);
                if lies_below(at, slot.range.end()) {
                    touch(slot);
                }
            }
        }
    }
}

/// The first of the changes from `from` on whose key is not below `bound`: near ones are found soon.
fn first_at_or_above<C>(
    changes: &[C],
    from: usize,
    bound: &[u8],
    key: impl Fn(&C) -> &[u8],
) -> usize {
    let rest = &changes[from..];
    let mut step = 1;
    while step < rest.len() && key(&rest[step - 1]) < bound {
        step *= 2;
    }
    let (low, high) = (step / 2, step.min(rest.len()));
    from + low + rest[low..high].partition_point(|change| key(change) < bound)
}

/// The ranges of one key space that somebody follows.
#[derive(Default)]
pub(crate) struct Subscriptions {
    index: Mutex<(Index, u64)>,
    /// Read without the lock: most key spaces are followed by nobody.
    count: AtomicUsize,
}

impl Subscriptions {
    /// Registers a range. What changes from now on is noted; the first look counts as a change.
    pub(crate) fn register(&self, range: KeyRange) -> Ticket {
        let signal = Arc::new(Signal::default());
        signal.state.lock().touched = true;
        let range = Arc::new(range);
        let mut index = self.index.lock();
        index.1 += 1;
        let id = index.1;
        // Counted before the publisher can miss it: it reads the count after its data is in place.
        self.count.fetch_add(1, Ordering::SeqCst);
        let slot = Slot { range: Arc::clone(&range), id, signal: Arc::clone(&signal) };
        index.0.insert(slot);
        Ticket { range, id, signal }
    }

    /// Takes a registration back.
    pub(crate) fn remove(&self, ticket: &Ticket) {
        let removed = self.index.lock().0.remove((ticket.range.start(), ticket.id));
        if removed.is_some() {
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// How many ranges are followed.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Wakes those in whose range one of the changed keys lies; the keys ascend.
    pub(crate) fn wake<C>(&self, changes: &[C], key: impl Fn(&C) -> &[u8]) {
        if self.len() == 0 || changes.is_empty() {
            return;
        }
        let mut wakers = Vec::new();
        self.index.lock().0.find(changes, key, |slot| wakers.extend(slot.signal.touch()));
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wakes everybody: at the first load, in a new epoch, at the end.
    pub(crate) fn wake_all(&self) {
        if self.len() == 0 {
            return;
        }
        let mut wakers = Vec::new();
        {
            let index = self.index.lock();
            let slots = index.0.blocks.iter().flat_map(|block| &block.slots);
            slots.for_each(|slot| wakers.extend(slot.signal.touch()));
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interests").field("len", &self.len()).finish()
    }
}

/// A registered range. Whoever holds it must give it back to [`Subscriptions::remove`].
#[derive(Debug)]
pub(crate) struct Ticket {
    range: Arc<KeyRange>,
    id: u64,
    signal: Arc<Signal>,
}

impl Ticket {
    pub(crate) fn range(&self) -> &KeyRange {
        &self.range
    }

    /// Whether something may have changed since the last time this was ready; else wakes `cx` then.
    pub(crate) fn poll_touched(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.signal.state.lock();
        if std::mem::take(&mut state.touched) {
            return Poll::Ready(());
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            waker => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// How often somebody who waited here was woken.
    pub(crate) fn woken(&self) -> u64 {
        self.signal.state.lock().woken
    }

    /// What wakes the one who waits here without any change.
    pub(crate) fn bell(&self) -> Bell {
        Bell { signal: Arc::clone(&self.signal) }
    }
}

/// Wakes whoever waits with one ticket.
#[derive(Debug, Clone)]
pub(crate) struct Bell {
    signal: Arc<Signal>,
}

impl Bell {
    pub(crate) fn ring(&self) {
        // Not in one expression: the waker may take the lock.
        let waker = self.signal.touch();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(ticket: &Ticket) -> bool {
        std::mem::take(&mut ticket.signal.state.lock().touched)
    }

    /// All ranges with ends among a few bytes, an open end included.
    fn ranges() -> Vec<KeyRange> {
        let keys = || (b'a'..b'h').map(|byte| vec![byte]);
        let bounded = keys().flat_map(|a| keys().map(move |b| KeyRange::bytes(a.clone(), b)));
        bounded.chain(keys().map(KeyRange::from)).chain([KeyRange::all()]).collect()
    }

    /// A consumer may be polled by another task than before: the one that asked last is woken.
    #[test]
    fn t52_the_waker_of_the_last_look_is_woken_once() {
        #[derive(Default)]
        struct Woken(AtomicUsize);
        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let interests = Subscriptions::default();
        let ticket = interests.register(KeyRange::all());
        let [first, last] = [Arc::new(Woken::default()), Arc::new(Woken::default())];
        let look = |by: &Arc<Woken>| {
            ticket.poll_touched(&mut Context::from_waker(&Waker::from(Arc::clone(by))))
        };
        assert!(look(&first).is_ready(), "the first look is owed");
        assert!(look(&first).is_pending() && look(&last).is_pending());
        interests.wake(&[b"a"], |key| *key);
        interests.wake(&[b"a"], |key| *key);
        let woken = [&first, &last].map(|woken| woken.0.load(Ordering::SeqCst));
        assert_eq!((woken, ticket.woken()), ([0, 1], 1));
        assert!(look(&last).is_ready() && look(&last).is_pending());
        interests.remove(&ticket);
    }

    #[test]
    fn exactly_those_are_touched_in_whose_range_a_key_changed() {
        let interests = Subscriptions::default();
        let mut tickets: Vec<Ticket> = Vec::new();
        // In an order that fills and cuts blocks everywhere; some are taken back again.
        let all = ranges();
        for at in 0..all.len() * 3 {
            tickets.push(interests.register(all[at * 37 % all.len()].clone()));
            if at % 3 == 2 {
                let gone = tickets.swap_remove(at * 17 % tickets.len());
                interests.remove(&gone);
            }
        }
        assert_eq!(interests.len(), tickets.len());
        tickets.iter().for_each(|ticket| assert!(touched(ticket), "the first look is owed"));
        for picked in 0_u32..256 {
            let bit = |at: &u32| picked & (1 << at) != 0;
            let keys: Vec<Vec<u8>> = (0..8).filter(bit).map(|at| vec![b'a' + at as u8]).collect();
            interests.wake(&keys, |key| key);
            for ticket in &tickets {
                let expected = keys.iter().any(|key| ticket.range().contains(key));
                assert_eq!(touched(ticket), expected, "{:?} by {keys:?}", ticket.range());
            }
        }
        for ticket in &tickets {
            interests.remove(ticket);
            interests.remove(ticket);
        }
        assert_eq!((interests.len(), interests.index.lock().0.blocks.len()), (0, 0));
    }
}
