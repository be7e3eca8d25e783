//! The value type of the simulation: bytes that know when they are made and dropped.
//!
//! Owns the proof of C5: whoever decodes or drops a value under the write lock finds the lock taken by
//! his own thread and hangs, which the runner sees. Must not judge what is shown.

use std::cell::{Cell, RefCell};

use etcd_keyspace::{KeySpace, RawKeyValue, WeakKeySpace};

thread_local! {
    /// The key spaces of the run on this thread.
    static SPACES: RefCell<Vec<WeakKeySpace<Value>>> = const { RefCell::new(Vec::new()) };
    /// An observer runs: it may drop what it likes, and the lock is taken.
    static OBSERVING: Cell<bool> = const { Cell::new(false) };
    /// How many values there are in the run on this thread.
    static ALIVE: Cell<i64> = const { Cell::new(0) };
}

/// A decoded value.
pub(crate) struct Value(Vec<u8>);

impl Value {
    /// Decodes a record; bad ones are refused.
    pub(crate) fn decode(kv: RawKeyValue) -> Result<Value, &'static str> {
        assert!(!OBSERVING.get(), "C5: decoding while observers run");
        expect_unlocked();
        if Value::is_bad(&kv.value) {
            return Err("bad");
        }
        ALIVE.set(ALIVE.get() + 1);
        Ok(Value(kv.value))
    }

    /// How many there are, whoever keeps them.
    pub(crate) fn alive() -> i64 {
        ALIVE.get()
    }

    pub(crate) fn is_bad(bytes: &[u8]) -> bool {
        bytes.starts_with(b"bad")
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        let _ = ALIVE.try_with(|alive| alive.set(alive.get() - 1));
        if !OBSERVING.try_with(Cell::get).unwrap_or(true) {
            expect_unlocked();
        }
    }
}

/// Reads each key space, which is possible only while this thread does not hold its write lock.
fn expect_unlocked() {
    let _ = SPACES.try_with(|spaces| {
        for space in spaces.borrow().iter().filter_map(WeakKeySpace::upgrade) {
            drop(space.read());
        }
    });
}

/// Makes `ks` one of those that have to be unlocked from now on.
pub(crate) fn watch_lock_of(ks: &KeySpace<Value>) {
    SPACES.with_borrow_mut(|spaces| spaces.push(ks.downgrade()));
}

/// Forgets the key spaces of the run before, also of one that panicked.
pub(crate) fn forget_locks() {
    OBSERVING.set(false);
    ALIVE.set(0);
    SPACES.take();
}

/// Marks that an observer runs, until dropped.
pub(crate) struct Observing;

impl Observing {
    pub(crate) fn begin() -> Self {
        OBSERVING.set(true);
        Observing
    }
}

impl Drop for Observing {
    fn drop(&mut self) {
        OBSERVING.set(false);
    }
}
