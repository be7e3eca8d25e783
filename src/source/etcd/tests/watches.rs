//! One watch on the fake and on a real etcd, whose messages are compared.
//!
//! Owns reading both until they have said everything; must not write to either.

use std::future::poll_fn;
use std::time::{Duration, Instant};

use super::{Failure, failure};
use crate::model::{Revision, WatchResponse};
use crate::source::WatchStream;
use crate::testing::FakeEtcd;

const WAIT_MAX: Duration = Duration::from_secs(20);
/// How long an answer must not come to count as kept back.
const QUIET: Duration = Duration::from_millis(150);

/// The same watch on both.
pub(super) struct Watches {
    pub(super) what: String,
    pub(super) start: Revision,
    pub(super) fake: Box<dyn WatchStream>,
    pub(super) real: Box<dyn WatchStream>,
    pub(super) cancelled: bool,
}

impl Watches {
    pub(super) async fn compare_created(&mut self) {
        let fake = told(&next(&mut self.fake).await);
        let real = told(&next(&mut self.real).await);
        assert_eq!(fake, real, "left is the fake: {}", self.what);
        self.cancelled = real.iter().any(|what| what.contains("canceled"));
    }

    /// Compares everything until both say that they have nothing more.
    pub(super) async fn compare(&mut self, etcd: &FakeEtcd) {
        let revision = etcd.revision();
        if self.cancelled {
            return;
        }
        if self.start > revision {
            if etcd.random(4) > 0 {
                return;
            }
            let fake = early_answer(&mut self.fake, QUIET).await;
            // Old servers do answer. What is not to come is not waited for as long as what is.
            let patience = if fake.is_some() { WAIT_MAX } else { QUIET };
            let real = early_answer(&mut self.real, patience).await;
            assert_eq!(fake, real, "left is the fake: {} before its start", self.what);
            return;
        }
        let (fake, _) = read_until(&mut self.fake, revision, &self.what).await;
        let (real, cancelled) = read_until(&mut self.real, revision, &self.what).await;
        assert_eq!(fake, real, "left is the fake: {} until {revision}", self.what);
        self.cancelled = cancelled;
    }
}

pub(super) async fn next(
    stream: &mut Box<dyn WatchStream>,
) -> Result<Option<WatchResponse>, Failure> {
    let message = tokio::time::timeout(WAIT_MAX, poll_fn(|cx| stream.poll_next(cx))).await;
    let message = message.expect("the watch says something").transpose();
    message.map_err(|error| failure(&error))
}

/// What a message tells, one line for each thing.
fn told(message: &Result<Option<WatchResponse>, Failure>) -> Vec<String> {
    let message = match message {
        Ok(Some(message)) => message,
        over => return vec![format!("over: {over:?}")],
    };
    let mut told = Vec::new();
    let header = message.header.map(|header| header.revision);
    if message.created {
        told.push(format!("created {header:?} id {}", message.watch_id));
    }
    if message.canceled {
        let (compacted, reason) = (message.compact_revision, &message.cancel_reason);
        told.push(format!("canceled {header:?} {compacted} {reason:?} id {}", message.watch_id));
    }
    told.extend(
        message.events.iter().map(|event| format!("{event:?} fragment {}", message.fragment)),
    );
    told
}

/// What a watch answers to a request before it has begun.
async fn early_answer(stream: &mut Box<dyn WatchStream>, patience: Duration) -> Option<String> {
    stream.request_progress();
    let message = tokio::time::timeout(patience, next(stream)).await.ok()?;
    let message = message.map(|message| {
        message.map(|message| (message.header.map(|header| header.revision), message.events))
    });
    Some(format!("{message:?}"))
}

/// Reads until the watch is cancelled or says that it has told everything through `revision`; gives
/// everything told before, and whether it was cancelled.
async fn read_until(
    stream: &mut Box<dyn WatchStream>,
    revision: Revision,
    what: &str,
) -> (Vec<String>, bool) {
    let mut heard = Vec::new();
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < WAIT_MAX, "{what}: no progress to {revision} after {heard:?}");
        stream.request_progress();
        // A server that has events to send drops the request, so it is repeated.
        while let Ok(message) = tokio::time::timeout(QUIET, next(stream)).await {
            let progress = matches!(&message, Ok(Some(message)) if message.is_progress());
            if let (true, Ok(Some(message))) = (progress, &message) {
                let reached = message.header.map_or(0, |header| header.revision);
                assert_eq!(message.watch_id, -1, "{what}: the answer to a request");
                if reached >= revision {
                    return (heard, false);
                }
                continue;
            }
            let over = !matches!(&message, Ok(Some(message)) if !message.canceled);
            heard.extend(told(&message));
            if over {
                return (heard, true);
            }
        }
    }
}
