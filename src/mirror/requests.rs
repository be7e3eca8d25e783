//! Requests to one endpoint: each is a task with a time limit, and its answer an input of the machine.
//!
//! Owns the connection, the tasks, and the streams that they open. Does not decide what to ask.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::intake::{Intake, Item};
use super::machine::{Action, Input, Purpose};
use super::options::Options;
use crate::model::KeyRange;
use crate::source::{
    Connection, RangeChunk, RangeStream, Source, SourceError, SourceErrorKind, WatchStream,
};

/// Chunks of a range stream read ahead while earlier ones are decoded.
const CHUNKS_AHEAD: usize = 4;

type Chunk = Result<Option<RangeChunk>, SourceError>;

/// The requests and streams that are open at an endpoint.
pub(super) struct Requests {
    source: Arc<dyn Source>,
    mirrored: Arc<KeyRange>,
    options: Options,
    connection: Option<Arc<dyn Connection>>,
    pub(super) tasks: JoinSet<Answer>,
    /// Answers to requests of an earlier connection are dropped by it.
    generation: u64,
    /// The watch that is open.
    pub(super) intake: Option<Intake>,
    /// The range stream that is open.
    pub(super) chunks: Option<mpsc::Receiver<Chunk>>,
}

/// The result of a finished request.
pub(super) struct Answer {
    generation: u64,
    outcome: Outcome,
}

enum Outcome {
    Input(Input),
    Connected(Result<Box<dyn Connection>, SourceError>),
    Watch(Result<Box<dyn WatchStream>, SourceError>),
    RangeStream(Result<Box<dyn RangeStream>, SourceError>),
}

impl Requests {
    pub(super) fn new(source: Arc<dyn Source>, mirrored: Arc<KeyRange>, options: Options) -> Self {
        Requests {
            source,
            mirrored,
            options,
            connection: None,
            tasks: JoinSet::new(),
            generation: 0,
            intake: None,
            chunks: None,
        }
    }

    pub(super) fn source(&self) -> &dyn Source {
        &*self.source
    }

    /// Connects to an endpoint, without what is left of the last connection.
    pub(super) fn connect(&mut self, index: usize) {
        self.disconnect();
        let connect = self.source.connect(index);
        self.start(self.options.connect_timeout, connect, Outcome::Connected);
    }

    pub(super) fn disconnect(&mut self) {
        self.generation += 1;
        self.close();
    }

    /// Drops the connection with everything on it.
    pub(super) fn close(&mut self) {
        self.tasks.abort_all();
        (self.connection, self.intake, self.chunks) = (None, None, None);
    }

    /// Starts a request that needs a connection; other actions are not its business.
    pub(super) fn ask(&mut self, action: Action) {
        let Some(connection) = self.connection.clone() else { return };
        let limit = self.options.request_timeout;
        match action {
            Action::Version => {
                let version = connection.version();
                self.start(limit, version, |result| Outcome::Input(Input::Version(result)));
            }
            Action::RefreshToken => {
                let refresh = connection.refresh_token();
                self.start(limit, refresh, |result| Outcome::Input(Input::TokenRefreshed(result)));
            }
            Action::Range(asked, request) => {
                let purpose = asked.purpose;
                let paged =
                    matches!(purpose, Purpose::Page | Purpose::Audit { .. } | Purpose::Compared);
                let limit = if paged { self.options.page_timeout } else { limit };
                let range = connection.range(*request);
                self.start(limit, range, move |result| Outcome::Input(Input::Range(asked, result)));
            }
            Action::RangeStream => {
                let stream = connection.range_stream(&self.mirrored);
                self.start(limit, stream, Outcome::RangeStream);
            }
            Action::Watch(start) => {
                let stream = connection.watch(&self.mirrored, start);
                self.start(limit, stream, Outcome::Watch);
            }
            _ => {}
        }
    }

    /// Runs a request as a task, within a time limit of the mirror's own.
    fn start<V: Send + 'static>(
        &mut self,
        limit: Duration,
        request: impl Future<Output = Result<V, SourceError>> + Send + 'static,
        outcome: impl FnOnce(Result<V, SourceError>) -> Outcome + Send + 'static,
    ) {
        let generation = self.generation;
        self.tasks.spawn(async move {
            let result = timeout(limit, request).await.unwrap_or_else(|_| {
                let message = format!("no answer within {limit:?}");
                Err(SourceError::new(SourceErrorKind::Timeout, message))
            });
            Answer { generation, outcome: outcome(result) }
        });
    }

    /// Keeps the connection or stream that a finished request has opened; returns the machine's input.
    pub(super) fn finished(&mut self, answer: Result<Answer, JoinError>) -> Option<Input> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.is_panic() => {
                return Some(Input::RequestPanicked(error.to_string()));
            }
            // Aborted with its connection.
            Err(_) => return Some(Input::Tick),
        };
        if answer.generation != self.generation {
            return None;
        }
        Some(match answer.outcome {
            Outcome::Input(input) => input,
            Outcome::Connected(result) => {
                Input::Connected(result.map(|connection| self.connection = Some(connection.into())))
            }
            Outcome::Watch(result) => {
                let bound = self.options.intake_bytes;
                let opened = result.map(|stream| self.intake = Some(Intake::spawn(stream, bound)));
                Input::WatchOpened(opened)
            }
            Outcome::RangeStream(Ok(stream)) => {
                self.chunks = Some(read_ahead(stream));
                return None;
            }
            Outcome::RangeStream(Err(error)) => Input::Chunk(Err(error)),
        })
    }
}

/// The messages of the watch that have arrived; never, without a watch.
pub(super) async fn next_messages(intake: Option<&Intake>) -> VecDeque<Item> {
    match intake {
        Some(intake) => intake.next().await,
        None => std::future::pending().await,
    }
}

/// The next chunk of the range stream; never, without one.
pub(super) async fn next_chunk(chunks: &mut Option<mpsc::Receiver<Chunk>>) -> Chunk {
    let Some(receiver) = chunks else { return std::future::pending().await };
    match receiver.recv().await {
        Some(chunk) => chunk,
        None => {
            // The end has been delivered; nothing more comes.
            *chunks = None;
            std::future::pending().await
        }
    }
}

/// Reads a range stream a few chunks ahead, so that decoding and transport overlap.
fn read_ahead(mut stream: Box<dyn RangeStream>) -> mpsc::Receiver<Chunk> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    tokio::spawn(async move {
        loop {
            let chunk = poll_fn(|cx| stream.poll_next(cx)).await.transpose();
            let last = !matches!(chunk, Ok(Some(_)));
            // A closed channel means that the load was abandoned.
            if sender.send(chunk).await.is_err() || last {
                return;
            }
        }
    });
    receiver
}
