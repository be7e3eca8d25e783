//! What can end the program early, in words for people; other examples use it too.
#![allow(dead_code, reason = "each example uses a part of this")]

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;

use etcd_keyspace::SourceError;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Why the program ends before its time.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Ctrl-C.
    Interrupted,
    /// Output that nobody takes.
    Output(io::Error),
    /// Anything else, said in full.
    Said(String),
}

impl Failure {
    /// The error with all its causes.
    pub(crate) fn new(error: impl StdError + 'static) -> Self {
        Failure::Said(in_full(&error))
    }

    /// What happened and what to do about it.
    pub(crate) fn with_advice(what: impl fmt::Display, advice: &str) -> Self {
        Failure::Said(format!("{what}\n  {}", advice.replace('\n', "\n  ")))
    }

    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

type Shared = Arc<dyn StdError + Send + Sync>;

/// The error and its causes on one line. A `SourceError` has its deepest cause in its own words, and
/// what lies between is the transport's talk.
pub(crate) fn in_full(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut last = error;
    while let Some(cause) = last.source().filter(|_| !last.is::<SourceError>()) {
        // Where several share a cause it is in a box that is an error itself.
        let cause: &(dyn StdError + 'static) = match cause.downcast_ref::<Shared>() {
            Some(shared) => &**shared,
            None => cause,
        };
        text = format!("{text}: {cause}");
        last = cause;
    }
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Interrupted => f.write_str("interrupted"),
            Failure::Output(error) => write!(f, "cannot write the output: {error}"),
            Failure::Said(text) => f.write_str(text),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Output(error)
    }
}

impl From<etcd_client::Error> for Failure {
    fn from(error: etcd_client::Error) -> Self {
        match error {
            // Its own display shows the transport's insides.
            etcd_client::Error::GRpcStatus(status) => {
                Failure::Said(format!("etcd refused or lost a request: {}", status.message()))
            }
            error => Failure::new(error),
        }
    }
}

/// Whether the program was asked to end.
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Ctrl-C and SIGTERM end the program in order.
    pub(crate) fn on_signals() -> Result<Self, Failure> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            sender.send_replace(true);
            // Who looks later is to find it as well.
            sender.closed().await;
        });
        Ok(Stop(receiver))
    }

    /// The flag itself, which turns true.
    pub(crate) fn flag(&self) -> watch::Receiver<bool> {
        self.0.clone()
    }

    /// Waits until the program is asked to end.
    pub(crate) async fn asked(&mut self) {
        if self.0.wait_for(|stop| *stop).await.is_err() {
            std::future::pending().await
        }
    }

    /// The outcome of `work`, unless the program is asked to end before.
    pub(crate) async fn unless<V>(
        &mut self,
        work: impl Future<Output = Result<V, Failure>>,
    ) -> Result<V, Failure> {
        tokio::select! {
            done = work => done,
            () = self.asked() => Err(Failure::Interrupted),
        }
    }
}
