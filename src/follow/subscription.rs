//! A registration of a range, held together with its key space.
//!
//! Owns taking the registration back, and waiting on it. Must not read data.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::keyspace::KeySpace;
use crate::model::{KeyRange, StopReason};
use crate::publish::{Bell, Ticket};

/// A followed range of a key space, which it keeps alive like any handle.
pub(super) struct Subscription<T: Send + Sync + 'static> {
    pub(super) ks: KeySpace<T>,
    ticket: Ticket,
    /// Among those who follow the history, or those who follow what is shown.
    history: bool,
}

impl<T: Send + Sync + 'static> Subscription<T> {
    pub(super) fn new(ks: &KeySpace<T>, range: KeyRange) -> Self {
        let ticket = ks.core().interests.register(range);
        Subscription { ks: ks.clone(), ticket, history: false }
    }

    /// Registered for every event of the range, also for those that a step undid.
    pub(super) fn in_history(ks: &KeySpace<T>, range: KeyRange) -> Self {
        let ticket = ks.core().history.interests.register(range);
        Subscription { ks: ks.clone(), ticket, history: true }
    }

    /// What wakes a waiting [`touched`](Subscription::touched) without any change.
    pub(super) fn bell(&self) -> Bell {
        self.ticket.bell()
    }

    pub(super) fn range(&self) -> &KeyRange {
        self.ticket.range()
    }

    /// Why nothing will change any more. Ask before looking at the view: then the look is the last.
    pub(super) fn ended(&self) -> Option<StopReason> {
        self.ks.core().waits.ended()
    }

    /// Ready when the range may have changed since it was ready last, at the first load, in a new
    /// epoch and at the end; the first time at once.
    ///
    /// # Panics
    /// When it is pending while this thread holds a guard of the key space or runs its observer.
    pub(super) fn poll_touched(&self, cx: &mut Context<'_>) -> Poll<()> {
        let touched = self.ticket.poll_touched(cx);
        if touched.is_pending() {
            self.ks.core().forbid_waiting();
        }
        touched
    }

    pub(super) async fn touched(&self) {
        poll_fn(|cx| self.poll_touched(cx)).await;
    }

    /// How often somebody who waited was woken.
    pub(super) fn wake_ups(&self) -> u64 {
        self.ticket.woken()
    }
}

impl<T: Send + Sync + 'static> Drop for Subscription<T> {
    fn drop(&mut self) {
        let core = self.ks.core();
        let interests = if self.history { &core.history.interests } else { &core.interests };
        interests.remove(&self.ticket);
    }
}
