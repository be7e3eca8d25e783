//! Calls on their way to the writer's thread.
//!
//! Owns the bounded queue (C9) and the answers' way back. Must not know what calls mean.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

use super::work::{Answer, Work};
use crate::journal::error::{StorageFault, StoreError};

/// One call with the way back of its answer.
#[derive(Debug)]
pub(in crate::journal) struct Call {
    pub(in crate::journal) work: Work,
    pub(in crate::journal) bytes: usize,
    pub(in crate::journal) reply: oneshot::Sender<Result<Answer, StoreError>>,
}

impl Call {
    pub(in crate::journal) fn new(work: Work) -> (Self, Reply) {
        let (reply, answer) = oneshot::channel();
        let bytes = work.bytes();
        (Call { work, bytes, reply }, Reply { answer })
    }
}

/// An answer to come. Dropping it does not take the call back.
#[derive(Debug)]
pub(in crate::journal) struct Reply {
    answer: oneshot::Receiver<Result<Answer, StoreError>>,
}

impl Future for Reply {
    type Output = Result<Answer, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer)
            .poll(context)
            .map(|answer| answer.unwrap_or(Err(StoreError::Storage(StorageFault::Closed))))
    }
}

/// Why a call was not taken.
#[derive(Debug)]
pub(in crate::journal) enum Refused {
    Full(Call),
    Closed,
}

/// What the writer takes at once becomes one transaction; that bounds how much.
const GROUP_CALLS: usize = 4096;
const GROUP_BYTES: usize = 32 << 20;

#[derive(Debug, Default)]
struct State {
    calls: VecDeque<Call>,
    bytes: usize,
    closed: bool,
}

#[derive(Debug)]
pub(in crate::journal) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    freed: Notify,
    max_calls: usize,
    max_bytes: usize,
}

impl Queue {
    pub(in crate::journal) fn new(max_calls: usize, max_bytes: usize) -> Self {
        let state = Mutex::default();
        Queue { state, filled: Condvar::new(), freed: Notify::new(), max_calls, max_bytes }
    }

    pub(in crate::journal) fn try_push(&self, call: Call) -> Result<(), Refused> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        // A call larger than the bound gets through alone.
        let full = state.calls.len() >= self.max_calls
            || (!state.calls.is_empty() && state.bytes + call.bytes > self.max_bytes);
        if full {
            return Err(Refused::Full(call));
        }
        state.bytes += call.bytes;
        state.calls.push_back(call);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for room. Until it has come, dropping the future leaves nothing behind.
    pub(in crate::journal) async fn push(&self, mut call: Call) -> Result<(), StorageFault> {
        loop {
            let mut freed = pin!(self.freed.notified());
            // Before the try, so that room made in between is not missed.
            freed.as_mut().enable();
            match self.try_push(call) {
                Ok(()) => return Ok(()),
                Err(Refused::Closed) => return Err(StorageFault::Closed),
                Err(Refused::Full(back)) => call = back,
            }
            freed.await;
        }
    }

    /// What is there, once there is something, at the deadline or when the queue is closed; and
    /// whether it is closed and all was taken.
    pub(in crate::journal) fn take(&self, deadline: Option<Instant>) -> (Vec<Call>, bool) {
        let mut state = self.state.lock();
        while state.calls.is_empty() && !state.closed {
            let timed_out = match deadline {
                Some(deadline) => self.filled.wait_until(&mut state, deadline).timed_out(),
                None => {
                    self.filled.wait(&mut state);
                    false
                }
            };
            if timed_out {
                break;
            }
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(call) = state.calls.front() {
            let over = bytes + call.bytes > GROUP_BYTES || group.len() >= GROUP_CALLS;
            if over && !group.is_empty() {
                break;
            }
            bytes += call.bytes;
            group.extend(state.calls.pop_front());
        }
        state.bytes -= bytes;
        let finished = state.closed && state.calls.is_empty();
        drop(state);
        self.freed.notify_waiters();
        (group, finished)
    }

    /// Takes no more calls; those taken are still served.
    pub(in crate::journal) fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_one();
        self.freed.notify_waiters();
    }

    pub(in crate::journal) fn len(&self) -> usize {
        self.state.lock().calls.len()
    }
}
