//! Long work of the mirror's task, which would keep other tasks of its thread waiting.

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::model::RawKeyValue;

/// Records beyond one of these are long work: they may take a millisecond.
const LONG_KEYS: usize = 1024;
const LONG_BYTES: usize = 128 << 10;

/// Whether it is long work to load these records.
pub(super) fn is_long(kvs: &[RawKeyValue]) -> bool {
    let mut bytes = 0;
    kvs.len() > LONG_KEYS
        || kvs.iter().any(|kv| {
            bytes += kv.key.len() + kv.value.len();
            bytes > LONG_BYTES
        })
}

/// Does long work on this thread, while the runtime moves the other tasks of the thread to another one.
///
/// Only a runtime of several threads can, and only for a task that was `spawned` on it: elsewhere, in a
/// local set say, the runtime refuses it by a panic.
pub(super) fn aside<R>(spawned: bool, work: impl FnOnce() -> R) -> R {
    let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
    if spawned && flavor.is_ok_and(|flavor| flavor == RuntimeFlavor::MultiThread) {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}
