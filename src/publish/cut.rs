//! A cut: showing the state of exactly one revision, asked of a mirror that goes on meanwhile.
//!
//! Owns the cell through which somebody asks a mirror to hold back, says the revision, and gets the
//! snapshot; and whose turn it is. Must not know how a mirror does it, or that there are several.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::model::Revision;
use crate::publish::snapshot::Snapshot;

/// What is wanted of a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CutRequest {
    /// Distinguishes one request from the next.
    pub(crate) number: u64,
    /// The revision to stop at, once it is known; until then nothing more may be shown.
    pub(crate) at: Option<Revision>,
    /// For how long to hold back at most.
    pub(crate) hold_max: Duration,
}

/// Where a mirror stands while it holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) confirmed: Revision,
    pub(crate) epoch: u64,
    pub(crate) cluster_id: Option<u64>,
}

/// Why a mirror did not do what was requested; it continues as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CutAbort {
    /// It does not follow a watch now.
    NotLive,
    /// Its watch ended while it held back.
    Interrupted,
    /// What it would have to hold back is more than its queue may hold.
    Full,
    /// It held back for as long as it was told to, at most.
    TooLong,
    /// It ended, or shows another revision than it should.
    Gone,
}

type Answer<V> = oneshot::Sender<Result<V, CutAbort>>;

struct Asked<T> {
    request: CutRequest,
    held: Option<Answer<Position>>,
    taken: Answer<Snapshot<T>>,
}

struct Cell<T> {
    numbers: u64,
    asked: Option<Asked<T>>,
}

/// The cell between a caller of a cut and the mirror. One request at a time: see [`turn`](CutCell::turn).
pub(crate) struct CutCell<T> {
    cell: Mutex<Cell<T>>,
    /// Held by whoever asks, for as long as it asks. Who needs several takes them in one order.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

/// What the one who asked waits for.
pub(crate) struct CutReplies<T> {
    pub(crate) number: u64,
    pub(crate) held: oneshot::Receiver<Result<Position, CutAbort>>,
    pub(crate) taken: oneshot::Receiver<Result<Snapshot<T>, CutAbort>>,
}

impl<T> CutCell<T> {
    pub(crate) fn new() -> Self {
        let cell = Mutex::new(Cell { numbers: 0, asked: None });
        CutCell { cell, turn: tokio::sync::Mutex::new(()) }
    }

    /// Asks the mirror to hold back from now on. It has to be told to look.
    pub(crate) fn ask(&self, hold_max: Duration) -> CutReplies<T> {
        let (hold, held) = oneshot::channel();
        let (take, taken) = oneshot::channel();
        let mut cell = self.cell.lock();
        cell.numbers += 1;
        let number = cell.numbers;
        let request = CutRequest { number, at: None, hold_max };
        cell.asked = Some(Asked { request, held: Some(hold), taken: take });
        CutReplies { number, held, taken }
    }

    /// Says at which revision to stop. It has to be told to look.
    pub(crate) fn stop_at(&self, number: u64, revision: Revision) {
        if let Some(asked) = self.cell.lock().of(number) {
            asked.request.at = Some(revision);
        }
    }

    /// Wants nothing any more; whether anything was wanted still.
    pub(crate) fn withdraw(&self, number: u64) -> bool {
        self.cell.lock().take(number).is_some()
    }

    /// What is wanted now.
    pub(crate) fn requested(&self) -> Option<CutRequest> {
        self.cell.lock().asked.as_ref().map(|asked| asked.request)
    }

    /// The mirror shows nothing more until it knows where to stop.
    pub(crate) fn held(&self, number: u64, position: Position) {
        let held = self.cell.lock().of(number).and_then(|asked| asked.held.take());
        if let Some(held) = held {
            let _ = held.send(Ok(position));
        }
    }

    /// The mirror has shown the revision.
    pub(crate) fn taken(&self, number: u64, snapshot: Snapshot<T>) {
        let asked = self.cell.lock().take(number);
        if let Some(asked) = asked {
            // Dropped by whoever went away, which is not under the lock.
            let _ = asked.taken.send(Ok(snapshot));
        }
    }

    pub(crate) fn gave_up(&self, number: u64, why: CutAbort) {
        let asked = self.cell.lock().take(number);
        if let Some(Asked { held, taken, .. }) = asked {
            let _ = held.map(|held| held.send(Err(why)));
            let _ = taken.send(Err(why));
        }
    }

    /// The mirror ended: whoever waits is told so.
    pub(crate) fn end(&self) {
        let asked = self.cell.lock().asked.take();
        drop(asked);
    }
}

impl<T> Cell<T> {
    fn of(&mut self, number: u64) -> Option<&mut Asked<T>> {
        self.asked.as_mut().filter(|asked| asked.request.number == number)
    }

    fn take(&mut self, number: u64) -> Option<Asked<T>> {
        self.asked.take_if(|asked| asked.request.number == number)
    }
}
