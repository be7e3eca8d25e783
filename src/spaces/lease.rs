//! How long nobody has used a key space, and the task that keeps its mirror until then.
//!
//! Owns counting what is lent, and the end of a mirror that nobody wants. Must not decide who gets a
//! key space.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Inner;
use crate::mirror::Mirror;
use crate::model::KeyRange;

/// What is lent of one key space, and since when nothing is.
#[derive(Debug)]
pub(super) struct Leases {
    state: Mutex<State>,
    returned: Notify,
}

#[derive(Debug)]
struct State {
    out: usize,
    since: Instant,
    /// How long it may be idle: not at all before anybody has got it started.
    ttl: Duration,
}

impl Leases {
    pub(super) fn new() -> Arc<Self> {
        let state = State { out: 0, since: Instant::now(), ttl: Duration::ZERO };
        Arc::new(Leases { state: Mutex::new(state), returned: Notify::new() })
    }

    pub(super) fn with_own_count(&self) {
        self.state.lock().out += 1;
    }

    /// Runs wherever the last handle of a lease is dropped.
    pub(super) fn give_back(&self) {
        let mut state = self.state.lock();
        state.out -= 1;
        state.since = Instant::now();
        drop(state);
        self.returned.notify_one();
    }

    /// Somebody has got it started, so it may be idle for `ttl` from now on.
    pub(super) fn started(&self, ttl: Duration) {
        self.state.lock().ttl = ttl;
    }

    /// Since when nobody has used it.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.state.lock();
        (state.out == 0).then_some(state.since)
    }

    /// When it has been idle for long enough, if nobody takes it before.
    pub(super) fn due(&self) -> Option<Instant> {
        let state = self.state.lock();
        (state.out == 0).then(|| state.since + state.ttl)
    }

    async fn until_due(&self) {
        loop {
            let returned = self.returned.notified();
            match self.due() {
                None => returned.await,
                // Taken and given back meanwhile, it is looked at again.
                Some(due) => return sleep_until(due).await,
            }
        }
    }
}

/// The place of a mirror's task: however the task ends, the place is cleared.
pub(super) struct Place<T: Send + Sync + 'static> {
    pub(super) cache: Weak<Inner<T>>,
    pub(super) range: KeyRange,
    pub(super) id: u64,
    pub(super) leases: Arc<Leases>,
    pub(super) running: Arc<tokio::sync::watch::Sender<usize>>,
}

impl<T: Send + Sync + 'static> Place<T> {
    /// Drives the mirror until it ends, by itself or since nobody wanted it for too long.
    pub(super) async fn keep(self, mirror: Mirror<T>) {
        let mut run = pin!(mirror.run());
        loop {
            tokio::select! {
                biased;
                _ = &mut run => return,
                () = self.leases.until_due() => {
                    let held = self.cache.upgrade().is_some_and(|cache| !cache.let_go(&self));
                    if !held {
                        break;
                    }
                }
            }
        }
        run.await;
    }
}

impl<T: Send + Sync + 'static> Drop for Place<T> {
    fn drop(&mut self) {
        if let Some(cache) = self.cache.upgrade() {
            cache.ended(self);
        }
        self.running.send_modify(|running| *running -= 1);
    }
}
