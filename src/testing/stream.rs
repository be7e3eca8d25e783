//! The client's ends of a watch stream and of a range stream.
//!
//! Owns the timers that polls need and the rule that a finished stream stays finished. Must not know
//! why a message comes when it comes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep};

use super::cluster::{Cluster, Shared, broken_transport};
use super::watcher::Next;
use crate::model::{KeyRange, RawKeyValue, Revision, WatchResponse};
use crate::source::{RangeChunk, RangeStream, SourceError, WatchStream};

/// Keys in the first chunk of a range stream (measured on etcd 3.7.2).
const FIRST_CHUNK: usize = 10;

/// Chunks grow and shrink by half until their bytes are near this (etcd: `--max-request-bytes`).
const CHUNK_BYTES: usize = 3 * 512 * 1024;

/// A timer that is made only when somebody has to wait.
#[derive(Debug, Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    fn poll_until(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        match &mut self.0 {
            Some(sleep) if sleep.deadline() != until => sleep.as_mut().reset(until),
            Some(_) => {}
            None => self.0 = Some(Box::pin(tokio::time::sleep_until(until))),
        }
        self.0.as_mut().map_or(Poll::Ready(()), |sleep| sleep.as_mut().poll(cx))
    }
}

/// A watch stream; dropping it closes the watcher.
pub(super) struct FakeWatchStream {
    shared: Arc<Shared>,
    member: usize,
    /// Absent before the server has the request, and after the end.
    watcher: Option<u64>,
    timer: Timer,
}

impl FakeWatchStream {
    pub(super) fn new(shared: Arc<Shared>, member: usize) -> Self {
        FakeWatchStream { shared, member, watcher: None, timer: Timer::default() }
    }

    pub(super) fn attach(&mut self, watcher: u64) {
        self.watcher = Some(watcher);
    }
}

impl fmt::Debug for FakeWatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeWatchStream")
            .field("member", &self.member)
            .field("watcher", &self.watcher)
            .finish_non_exhaustive()
    }
}

impl WatchStream for FakeWatchStream {
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<WatchResponse, SourceError>>> {
        let Some(watcher) = self.watcher else {
            let member = self.member;
            self.shared.update(|cluster| cluster.count(member, |c| c.polls_after_end += 1));
            return Poll::Ready(None);
        };
        loop {
            let (next, tamper) =
                self.shared.update(|cluster| cluster.poll_watcher(watcher, cx.waker()));
            match next {
                Next::Message(message) => {
                    let message = match &tamper {
                        Some(tamper) => tamper.0(message),
                        None => Some(message),
                    };
                    if let Some(message) = message {
                        return Poll::Ready(Some(Ok(message)));
                    }
                }
                Next::Nothing(None) => return Poll::Pending,
                Next::Nothing(Some(until)) => ready!(self.timer.poll_until(cx, until)),
                Next::Failed(error) => {
                    self.watcher = None;
                    return Poll::Ready(Some(Err(error)));
                }
                Next::Ended => {
                    self.watcher = None;
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn request_progress(&mut self) -> bool {
        let Some(watcher) = self.watcher else { return false };
        self.shared.update(|cluster| cluster.request_progress(watcher))
    }
}

impl Drop for FakeWatchStream {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher {
            self.shared.update(|cluster| cluster.close_watcher(watcher));
        }
    }
}

/// A range stream: each chunk is a read of its own at the revision of the first.
pub(super) struct FakeRangeStream {
    shared: Arc<Shared>,
    member: usize,
    generation: u64,
    range: KeyRange,
    revision: Revision,
    /// The last key sent.
    after: Option<Vec<u8>>,
    chunk: usize,
    at: Option<Instant>,
    /// What is read, and waits for the member's capacity.
    waiting: Option<Result<Option<RangeChunk>, SourceError>>,
    timer: Timer,
    finished: bool,
}

impl FakeRangeStream {
    pub(super) fn new(
        shared: Arc<Shared>,
        member: usize,
        generation: u64,
        range: KeyRange,
        revision: Revision,
    ) -> Self {
        FakeRangeStream {
            shared,
            member,
            generation,
            range,
            revision,
            after: None,
            chunk: FIRST_CHUNK,
            at: None,
            waiting: None,
            timer: Timer::default(),
            finished: false,
        }
    }

    /// Reads the next chunk; `None` where the stream was told to stop short.
    fn read(&mut self, cluster: &mut Cluster) -> Result<Option<RangeChunk>, SourceError> {
        let revision =
            cluster.members[self.member].applied(&cluster.store).readable(self.revision)?;
        let rest = match &self.after {
            Some(after) => KeyRange::from([after.as_slice(), &[0]].concat()),
            None => self.range.clone(),
        };
        let mut kvs: Vec<RawKeyValue> = cluster
            .store
            .live(&rest, revision)
            .take_while(|record| self.range.contains(&record.key))
            .take(self.chunk + 1)
            .cloned()
            .collect();
        let last = kvs.len() <= self.chunk;
        kvs.truncate(self.chunk);
        let mut chunk = RangeChunk { kvs, ..RangeChunk::default() };
        if last {
            let count = cluster.store.live(&self.range, revision).count();
            chunk.count = i64::try_from(count).unwrap_or(i64::MAX);
            chunk.header = cluster.header(self.member);
            if let Some(header) = &mut chunk.header {
                header.revision = revision;
            }
            self.finished = true;
        }
        let member = &mut cluster.members[self.member];
        if last && member.faults.truncate > 0 {
            member.faults.truncate -= 1;
            return Ok(None);
        }
        let bytes = chunk.kvs.iter().map(RawKeyValue::bytes).sum();
        member.check_size(bytes)?;
        self.after = chunk.kvs.last().map(|record| record.key.clone());
        if bytes < CHUNK_BYTES / 2 {
            self.chunk *= 2;
        } else if bytes > CHUNK_BYTES * 2 {
            self.chunk = (self.chunk / 2).max(1);
        }
        Ok(Some(chunk))
    }
}

impl fmt::Debug for FakeRangeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeRangeStream")
            .field("member", &self.member)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl RangeStream for FakeRangeStream {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<RangeChunk, SourceError>>> {
        if self.finished && self.waiting.is_none() {
            return Poll::Ready(None);
        }
        if let Some(at) = self.at {
            ready!(self.timer.poll_until(cx, at));
        }
        let shared = Arc::clone(&self.shared);
        let polled = shared.update(|cluster| {
            if cluster.members[self.member].generation != self.generation {
                return Poll::Ready(Some(Err(broken_transport())));
            }
            if cluster.members[self.member].holds(true) {
                cluster.park(cx.waker());
                return Poll::Pending;
            }
            if let Some(chunk) = self.waiting.take() {
                return Poll::Ready(chunk.transpose());
            }
            let delay = cluster.message_delay(self.member);
            let chunk = self.read(cluster);
            let kvs = chunk.as_ref().ok().and_then(Option::as_ref).map(|chunk| &chunk.kvs);
            let read = kvs.map_or(0, |kvs| kvs.iter().map(RawKeyValue::bytes).sum());
            let turn = cluster.members[self.member].work(1, read);
            self.at = (!(delay + turn).is_zero()).then(|| Instant::now() + delay + turn);
            if turn.is_zero() {
                return Poll::Ready(chunk.transpose());
            }
            self.waiting = Some(chunk);
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        if let Poll::Ready(Some(Err(_)) | None) = &polled {
            self.finished = true;
        }
        polled
    }
}
