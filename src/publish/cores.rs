//! Independent jobs of one caller, run on several threads and delivered in order.
//!
//! The helping threads live within one call, so nothing idles between calls and a job may borrow. They
//! run in the caller's tracing span. A helper must not run while the caller holds a lock that a job takes.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{Dispatch, Span, dispatcher};

/// Above it a load gains little: the caller feeds the helpers and collects what they did.
const DEFAULT_MAX: usize = 8;

/// More threads than this are not started, whatever is asked for.
const MOST: usize = 256;

/// Jobs in flight for each thread: waiting, running, or done and not delivered.
const AHEAD: usize = 4;

/// A job of this length is worth a thread: a fraction of it is what starting one costs, and what jobs that
/// change threads cost the caches and the allocator.
const WORTH: Duration = Duration::from_micros(100);

/// How many threads work on one call, the caller's own included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cores {
    threads: usize,
    /// How long a job must take to be given to another thread.
    pub(crate) worth: Duration,
}

impl Default for Cores {
    /// Those that the process may use, at most 8.
    fn default() -> Self {
        Cores::new(thread::available_parallelism().map_or(1, usize::from).min(DEFAULT_MAX))
    }
}

/// Which thread a job runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Worker {
    Caller,
    Helper,
}

impl Cores {
    /// At least one, and at most [`MOST`].
    pub(crate) fn new(threads: usize) -> Self {
        Cores { threads: threads.clamp(1, MOST), worth: WORTH }
    }

    /// Passes the result of every job to `deliver`, on this thread and in the order of the jobs.
    ///
    /// Jobs are made on this thread too, and at most [`AHEAD`] for each thread are in flight. This thread
    /// runs them itself until one takes long; only those behind it are spread. If threads cannot
    /// be started, this one does all the work. A panic of a job is resumed here when its turn comes.
    pub(crate) fn in_order<I: Send, O: Send>(
        self,
        mut jobs: impl Iterator<Item = I>,
        work: impl Fn(I, Worker) -> O + Sync,
        mut deliver: impl FnMut(O),
    ) {
        while let Some(job) = jobs.next() {
            let began = Instant::now();
            let result = work(job, Worker::Caller);
            let spreads = self.threads > 1 && began.elapsed() >= self.worth;
            deliver(result);
            if spreads {
                return self.spread(jobs, work, deliver);
            }
        }
    }

    fn spread<I: Send, O: Send>(
        self,
        jobs: impl Iterator<Item = I>,
        work: impl Fn(I, Worker) -> O + Sync,
        mut deliver: impl FnMut(O),
    ) {
        let mut jobs = jobs.fuse();
        let line = Line::new();
        let (dispatch, span) = (dispatcher::get_default(Dispatch::clone), Span::current());
        let run = || span.in_scope(|| line.help(|job| work(job, Worker::Helper)));
        // Setting a default, even none, ends the forwarding of records to the crate `log`.
        let traced = dispatcher::has_been_set();
        let help = || {
            if traced { dispatcher::with_default(&dispatch, run) } else { run() }
        };
        thread::scope(|scope| {
            let _closed = Closing(&line);
            let (mut threads, mut ahead) = (1, 0);
            loop {
                while ahead < self.threads * AHEAD {
                    let Some(job) = jobs.next() else { break };
                    ahead += 1;
                    // Each thread that runs finds a job; one more is for another thread.
                    if line.push(job) > threads && threads < self.threads {
                        let thread = thread::Builder::new().name("keyspace-load".to_owned());
                        threads += usize::from(thread.spawn_scoped(scope, help).is_ok());
                    }
                }
                match line.turn() {
                    Turn::Deliver(result) => {
                        ahead -= 1;
                        deliver(result.unwrap_or_else(|panic| resume_unwind(panic)));
                    }
                    Turn::Work(number, job) => line.finish(number, Ok(work(job, Worker::Caller))),
                    Turn::End => return,
                }
            }
        });
    }
}

/// The next action of the caller.
enum Turn<I, O> {
    Deliver(thread::Result<O>),
    Work(usize, I),
    End,
}

/// The jobs in flight. Its locks are those of `std`, since the threads are.
struct Line<I, O> {
    state: Mutex<State<I, O>>,
    queued: Condvar,
    finished: Condvar,
}

struct State<I, O> {
    jobs: VecDeque<(usize, I)>,
    /// One slot for each job in flight, in order.
    results: VecDeque<Option<thread::Result<O>>>,
    delivered: usize,
    closed: bool,
}

impl<I, O> Line<I, O> {
    fn new() -> Self {
        let (jobs, results) = (VecDeque::new(), VecDeque::new());
        let state = Mutex::new(State { jobs, results, delivered: 0, closed: false });
        Line { state, queued: Condvar::new(), finished: Condvar::new() }
    }

    /// Nothing can panic while it is locked.
    fn lock(&self) -> MutexGuard<'_, State<I, O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a job and returns how many wait to be run.
    fn push(&self, job: I) -> usize {
        let mut state = self.lock();
        let number = state.delivered + state.results.len();
        state.results.push_back(None);
        state.jobs.push_back((number, job));
        self.queued.notify_one();
        state.jobs.len()
    }

    fn finish(&self, number: usize, result: thread::Result<O>) {
        let mut state = self.lock();
        let slot = number - state.delivered;
        state.results[slot] = Some(result);
        if slot == 0 {
            self.finished.notify_one();
        }
    }

    /// Delivers before it works, and waits only when all jobs in flight are being run elsewhere.
    fn turn(&self) -> Turn<I, O> {
        let mut state = self.lock();
        loop {
            match state.results.front_mut().map(Option::take) {
                None => return Turn::End,
                Some(Some(result)) => {
                    state.results.pop_front();
                    state.delivered += 1;
                    return Turn::Deliver(result);
                }
                Some(None) => {}
            }
            if let Some((number, job)) = state.jobs.pop_front() {
                return Turn::Work(number, job);
            }
            state = self.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs jobs until the line is closed.
    fn help(&self, work: impl Fn(I) -> O) {
        loop {
            let mut state = self.lock();
            let (number, job) = loop {
                if state.closed {
                    return;
                }
                if let Some(next) = state.jobs.pop_front() {
                    break next;
                }
                state = self.queued.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            self.finish(number, catch_unwind(AssertUnwindSafe(|| work(job))));
        }
    }
}

/// Ends the helpers, also when the caller unwinds: the scope waits for them.
struct Closing<'a, I, O>(&'a Line<I, O>);

impl<I, O> Drop for Closing<'_, I, O> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.queued.notify_all();
    }
}

#[cfg(test)]
mod tests;
