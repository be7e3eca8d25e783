//! What etcd does, fact by fact, and that the fake does the same. F numbers are those of the team's
//! measurements on etcd 3.4.23 and 3.5.1.

mod faults;
mod model;
mod range;
mod store;
mod terms;
mod wake;
mod watch;

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use super::FakeEtcd;
use crate::model::{Event, KeyRange, Revision, WatchResponse};
use crate::source::{
    Connection, RangeChunk, RangeRequest, RangeStream, ServerVersion, Source, SourceError,
    SourceErrorKind, WatchStream,
};

const V34: ServerVersion = ServerVersion { major: 3, minor: 4, patch: 23 };
const V35: ServerVersion = ServerVersion { major: 3, minor: 5, patch: 1 };
const V36: ServerVersion = ServerVersion { major: 3, minor: 6, patch: 6 };

async fn connect(etcd: &FakeEtcd) -> Box<dyn Connection> {
    etcd.connect(0).await.expect("a healthy fake takes connections")
}

async fn watch(etcd: &FakeEtcd, prefix: &str, start: Revision) -> Box<dyn WatchStream> {
    connect(etcd).await.watch(&KeyRange::prefix(prefix), start).await.expect("the watch opens")
}

/// A watch whose `created` answer is read already.
async fn created(etcd: &FakeEtcd, prefix: &str, start: Revision) -> Box<dyn WatchStream> {
    let mut stream = watch(etcd, prefix, start).await;
    let answer = next(&mut stream).await;
    assert!(answer.created && !answer.canceled, "{answer:?}");
    stream
}

async fn try_next(stream: &mut Box<dyn WatchStream>) -> Option<Result<WatchResponse, SourceError>> {
    poll_fn(|cx| stream.poll_next(cx)).await
}

#[track_caller]
fn message(next: Option<Result<WatchResponse, SourceError>>) -> WatchResponse {
    next.expect("the stream lives").expect("the stream is healthy")
}

async fn next(stream: &mut Box<dyn WatchStream>) -> WatchResponse {
    message(try_next(stream).await)
}

/// What is there already, without waiting.
fn now(stream: &mut Box<dyn WatchStream>) -> Poll<Option<Result<WatchResponse, SourceError>>> {
    stream.poll_next(&mut Context::from_waker(Waker::noop()))
}

#[track_caller]
fn silent(stream: &mut Box<dyn WatchStream>) {
    let next = now(stream);
    assert!(next.is_pending(), "{next:?}");
}

/// Everything that is there already.
fn drain(stream: &mut Box<dyn WatchStream>) -> Vec<WatchResponse> {
    let mut messages = Vec::new();
    while let Poll::Ready(next) = now(stream) {
        messages.push(message(next));
    }
    messages
}

fn header(response: &WatchResponse) -> Revision {
    response.header.expect("a header").revision
}

fn revisions(events: &[Event]) -> Vec<Revision> {
    events.iter().map(Event::mod_revision).collect()
}

async fn read(
    etcd: &FakeEtcd,
    request: RangeRequest,
) -> Result<crate::source::RangePage, SourceError> {
    connect(etcd).await.range(request).await
}

async fn chunk(stream: &mut Box<dyn RangeStream>) -> Option<Result<RangeChunk, SourceError>> {
    poll_fn(|cx| stream.poll_next(cx)).await
}

#[track_caller]
fn failed<T: std::fmt::Debug>(result: Result<T, SourceError>, kind: SourceErrorKind) {
    match result {
        Err(error) => assert_eq!(error.kind(), kind, "{error}"),
        Ok(answer) => panic!("expected {kind:?}, got {answer:?}"),
    }
}
