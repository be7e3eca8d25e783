//! The async shell around the machine: it waits for what happens, and executes what the machine decides.
//!
//! Owns [`Mirror`], and what runs beside it to bring stored data and to store. Must not decide anything.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::aside::{aside, is_long};
use super::caught::caught;
use super::executor::Executor;
use super::intake::Item;
use super::machine::{Action, Input, Machine};
use super::options::Options;
use super::requests::{Answer, Requests, next_chunk, next_messages};
use super::restore::{Cause, Feed, Restore, Restored, Stored};
use crate::model::StopReason;
use crate::publish::{FeedSender, FeedState, Writer};
use crate::source::{RangeChunk, Source, SourceError};

/// How long a mirror that stops waits until what it has shown is stored.
const STORED_WITHIN: Duration = Duration::from_secs(10);

/// The part of a key space that talks to etcd.
///
/// [`Builder::start`](crate::Builder::start) spawns it; [`Builder::build`](crate::Builder::build)
/// gives it to be spawned later ([`run`](Mirror::run)) or driven by hand ([`step`](Mirror::step)).
/// Dropping it ends the key space with [`StopReason::Shutdown`].
pub struct Mirror<T: Send + Sync + 'static> {
    sink: Executor<T>,
    options: Options,
    machine: Machine,
    requests: Requests,
    /// Messages that came with the beginning of a proof, for after it.
    unread: VecDeque<Item>,
    /// What a former mirror stored, until it is taken in.
    warm: Option<Restore<T>>,
    /// What stores for a later one, until it runs.
    keeper: Option<Feed>,
    keeping: Option<JoinHandle<()>>,
    /// Whoever stores had no room, so that messages may have come since that nobody has looked at.
    backpressured: bool,
    shutdown: watch::Receiver<bool>,
    started: bool,
    /// Why it is about to stop, and when at the latest.
    stopping: Option<(StopReason, Instant)>,
    stopped: Option<StopReason>,
}

/// What the shell woke up for.
enum Wake {
    Shutdown,
    Demand,
    Answer(Result<Answer, JoinError>),
    Chunk(Result<Option<RangeChunk>, SourceError>),
    Timer,
    Stored(Option<Result<Stored, Cause>>),
    /// Whoever stores what is taken in needs a complete read.
    ReloadRequested,
    Messages(VecDeque<Item>),
}

impl<T: Send + Sync + 'static> Mirror<T> {
    /// Begins with what `warm` brings, and runs `keeper` beside it from the first step.
    pub(crate) fn new(
        writer: Writer<T>,
        source: Arc<dyn Source>,
        options: Options,
        warm: Option<Restore<T>>,
        keeper: Option<Feed>,
    ) -> Self {
        let core = writer.core();
        core.driven.store(true, Ordering::Release);
        let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(()));
        let endpoints: Vec<String> =
            (0..source.endpoints()).map(|index| source.endpoint_name(index)).collect();
        let count = u64::try_from(endpoints.len()).unwrap_or(1).max(1);
        // Many processes that start together should not all begin with the same member.
        let first = usize::try_from(seed % count).unwrap_or(0);
        let range = (*core.mirrored).clone();
        let report = core.report.read();
        let machine = Machine::new(options.clone(), range, endpoints, first, seed, report);
        let shutdown = core.shutdown.subscribe();
        let requests = Requests::new(source, Arc::clone(&core.mirrored), options.clone());
        Mirror {
            sink: Executor::new(writer, options.name.clone()),
            requests,
            options,
            machine,
            unread: VecDeque::new(),
            warm,
            keeper,
            keeping: None,
            backpressured: false,
            shutdown,
            started: false,
            stopping: None,
            stopped: None,
        }
    }

    /// Runs until the mirror stops, and says why: the last handle was dropped, somebody called
    /// `shutdown`, going on would be wrong, or a step panicked ([`StopReason::Panicked`]).
    ///
    /// While a reader holds a guard it waits to apply, and blocks its thread meanwhile. Only the task
    /// that [`Builder::start`](crate::Builder::start) makes on a runtime of several threads hands the
    /// other tasks of its thread over to another one; whether this future may is not known here.
    ///
    /// # Cancel safety
    /// Dropping the future drops the mirror and so ends the key space; the last data stays readable.
    pub async fn run(mut self) -> StopReason {
        loop {
            if let Some(reason) = self.step().await {
                return reason;
            }
            // A flood of events is always ready; the other tasks of this thread get their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Waits for the next thing that happens and handles it; the reason once the mirror has stopped.
    ///
    /// A panic is caught, that of a value's `Drop` for example: it ends the key space with
    /// [`StopReason::Panicked`], and the last data stays readable.
    ///
    /// # Cancel safety
    /// Cancel safe: what has not been handled is handled by the next call.
    pub async fn step(&mut self) -> Option<StopReason> {
        if let Err(message) = caught(self.step_uncaught()).await {
            self.panicked(message).await;
        }
        self.stopped.clone()
    }

    async fn step_uncaught(&mut self) {
        if !self.started {
            self.started = true;
            let feed = self.warm.as_mut().and_then(|warm| warm.feed.take());
            feed.into_iter().for_each(|feed| drop(self.spawn("reads stored data", feed, None)));
            let room = self.sink.writer.tap().map(FeedSender::shared);
            self.keeping = self.keeper.take().map(|keeper| self.spawn("stores", keeper, room));
            if self.warm.is_none() {
                self.handle(Input::Start);
            }
        } else if self.stopping.is_none() && self.stopped.is_none() {
            match self.wake().await {
                Wake::Shutdown => self.handle(Input::Shutdown),
                Wake::Demand => {
                    let verdict = self.sink.writer.core().holds.verdict();
                    self.handle(verdict.map_or(Input::Tick, Input::Decided));
                }
                Wake::Timer => self.handle(Input::Tick),
                Wake::Stored(stored) => self.restore(stored),
                Wake::ReloadRequested => self.handle(Input::ReloadRequested),
                Wake::Answer(answer) => {
                    if let Some(input) = self.requests.finished(answer) {
                        self.handle(input);
                    }
                }
                Wake::Chunk(chunk) => self.handle(Input::Chunk(chunk)),
                Wake::Messages(messages) => self.receive(messages),
            }
        }
        self.end().await;
    }

    /// Ends the key space after a panic, whose stack may have been anywhere. The mirror keeps what owns
    /// values: dropping them could panic again.
    async fn panicked(&mut self, message: String) {
        let reason = StopReason::Panicked { message };
        self.machine.report.last_error = Some(Arc::new(reason.clone()));
        self.report();
        self.requests.close();
        self.stop(reason);
        self.end().await;
    }

    /// Runs a task beside the mirror, which continues without it after a panic. The panic is logged, and
    /// is the store error of the room if there is one.
    fn spawn(
        &self,
        what: &'static str,
        task: Feed,
        room: Option<Arc<FeedState>>,
    ) -> JoinHandle<()> {
        let name = self.options.name.clone();
        tokio::spawn(async move {
            if let Err(message) = caught(task).await {
                tracing::error!(%name, %message, "the task that {what} panicked");
                if let Some(room) = room {
                    let message = format!("the task that {what} panicked: {message}");
                    room.set_error(Some(Arc::new(std::io::Error::other(message))));
                }
            }
        })
    }

    /// The order matters when several are ready: the watch comes last, as it may always be, unless
    /// nobody could look at it.
    async fn wake(&mut self) -> Wake {
        if let Some(wake) = self.wake_before_others().await {
            return wake;
        }
        let core = Arc::clone(self.sink.writer.core());
        let deadline = self.machine.deadline();
        // Until the store is proven, events wait in the intake.
        let listens = !self.machine.proves_watch();
        if listens && !self.unread.is_empty() {
            return Wake::Messages(std::mem::take(&mut self.unread));
        }
        let wake = tokio::select! {
            biased;
            // An error means that no handle and no key space is left, which is the same.
            _ = self.shutdown.wait_for(|stop| *stop) => Wake::Shutdown,
            () = reload_requested(self.sink.writer.tap()) => Wake::ReloadRequested,
            () = core.waits.demanded.notified() => Wake::Demand,
            Some(answer) = self.requests.tasks.join_next() => Wake::Answer(answer),
            chunk = next_chunk(&mut self.requests.chunks) => Wake::Chunk(chunk),
            // They came in time: the watch was not silent, the mirror did not listen.
            messages = next_messages(self.requests.intake.as_ref()), if self.backpressured && listens => {
                Wake::Messages(messages)
            }
            () = until(deadline) => Wake::Timer,
            messages = next_messages(self.requests.intake.as_ref()), if listens => {
                Wake::Messages(messages)
            }
        };
        if matches!(wake, Wake::Messages(_) | Wake::Timer) {
            self.backpressured = false;
        }
        wake
    }

    /// What comes before everything else: taking in what is stored, and room for whoever stores.
    async fn wake_before_others(&mut self) -> Option<Wake> {
        let stored = async {
            match (&mut self.warm, self.sink.writer.tap()) {
                (Some(warm), _) => Some(Wake::Stored(warm.next().await)),
                (None, Some(tap)) => {
                    self.backpressured |= !tap.has_room();
                    tap.room().await;
                    None
                }
                (None, None) => None,
            }
        };
        tokio::select! {
            biased;
            _ = self.shutdown.wait_for(|stop| *stop) => Some(Wake::Shutdown),
            wake = stored => wake,
        }
    }

    /// Takes in what is stored; then, or if that fails and may, etcd is asked.
    fn restore(&mut self, stored: Option<Result<Stored, Cause>>) {
        let Some(warm) = &mut self.warm else { return };
        let long = matches!(&stored, Some(Ok(Stored::Page(kvs))) if is_long(kvs));
        let spawned = self.sink.spawned();
        match aside(spawned && long, || warm.take(stored, &mut self.sink.writer)) {
            Restored::More => return,
            Restored::Nothing => {}
            Restored::Whole(taken) => {
                // Whoever is woken by the data must find that it is stored data.
                self.decide(Input::Restoring(taken.stored_at));
                self.report();
                match aside(spawned, || taken.show(&mut self.sink.writer)) {
                    Ok(()) => {
                        self.machine.known = self.sink.known();
                        self.decide(Input::Restored);
                    }
                    Err(cause) => self.decide(Input::NotRestored(cause)),
                }
            }
            Restored::Failed(cause) => self.decide(Input::NotRestored(cause)),
        }
        self.warm = None;
        self.handle(Input::Start);
    }

    /// Takes in all that arrived before anything is applied, so that a burst is one batch.
    fn receive(&mut self, mut messages: VecDeque<Item>) {
        while let Some(message) = messages.pop_front() {
            self.decide(Input::Message(message));
            if self.machine.proves_watch() {
                self.unread = messages;
                break;
            }
        }
        self.execute();
    }

    fn handle(&mut self, input: Input) {
        self.decide(input);
        self.execute();
    }

    fn decide(&mut self, input: Input) {
        let demand = self.sink.writer.core().waits.demand();
        self.machine.cut_request = self.sink.writer.core().cuts.requested();
        self.machine.handle(Instant::now(), demand, input);
        // Before any action that follows from it can meet a wait.
        self.sink.writer.core().waits.contact(self.machine.contact());
    }

    /// Executes actions until none is left; those on the key space answer at once.
    fn execute(&mut self) {
        while let Some(action) = self.machine.action() {
            if matches!(action, Action::Watching) {
                // Whoever waits for it must find the state that goes with it.
                self.report();
            }
            match self.sink.execute(action) {
                Ok(answer) => {
                    self.machine.known = self.sink.known();
                    if let Some(input) = answer {
                        self.decide(input);
                    }
                }
                Err(action) => self.act(action),
            }
        }
        self.report();
        #[cfg(feature = "metrics")]
        self.sink.writer.core().show(&self.machine.report, self.sink.writer.view());
    }

    fn report(&self) {
        self.sink.writer.core().report.write(&self.machine.report);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Connect(index) => {
                self.let_go();
                self.requests.connect(index);
            }
            Action::Disconnect => {
                self.let_go();
                self.requests.disconnect();
            }
            Action::CloseWatch => {
                self.requests.intake = None;
                self.unread.clear();
                self.sink.end_audit();
            }
            Action::RequestProgress => {
                if let Some(intake) = &self.requests.intake {
                    intake.request_progress();
                }
            }
            Action::AbandonLoad => {
                self.sink.abandon();
                self.requests.chunks = None;
            }
            Action::Stop(reason) => self.stop(reason),
            request => self.requests.ask(request),
        }
    }

    /// Drops what belongs to a connection.
    fn let_go(&mut self) {
        self.unread.clear();
        self.sink.abandon();
    }

    fn stop(&mut self, reason: StopReason) {
        match &reason {
            StopReason::Shutdown => tracing::info!(name = %self.options.name, "mirror stopped"),
            reason => tracing::error!(name = %self.options.name, %reason, "mirror stopped"),
        }
        self.sink.writer.close_feed();
        self.stopping = Some((reason, Instant::now() + STORED_WITHIN));
    }

    /// Ends the key space once what was shown is stored, or that takes too long.
    async fn end(&mut self) {
        if let (Some((_, limit)), Some(keeping)) = (&self.stopping, &mut self.keeping) {
            // Whether it ended well is told by the status.
            let _ = timeout_at(*limit, keeping).await;
        }
        if let Some((reason, _)) = self.stopping.take() {
            self.sink.writer.end(reason.clone());
            self.stopped = Some(reason);
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Mirror<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror")
            .field("source", &self.requests.source())
            .field("writer", &self.sink.writer)
            .finish_non_exhaustive()
    }
}

async fn reload_requested(tap: Option<&FeedSender>) {
    match tap {
        Some(tap) => tap.reload_requested().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
