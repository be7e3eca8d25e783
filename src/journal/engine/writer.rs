//! The one thread that writes: takes calls from the queue and commits them in groups.
//!
//! Owns when to commit durably, to collect, to reopen after a failure and to close. Must not be
//! waited for on an async thread: answers come through the queue.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, RwLock};
use redb::Database;
use tokio::sync::watch;

use super::queue::{Call, Queue};
use super::shared::{Figures, Head, Shared, Slot};
use super::work::{Answer, Work};
use crate::journal::error::{OpenError, StorageFault, StoreError};
use crate::journal::file::backend::Opener;
use crate::journal::file::cache::Cache;
use crate::journal::file::format::Log;
use crate::journal::file::gc::{self, Collected};
use crate::journal::file::open::{self, contained};
use crate::journal::file::tables::Tables;
use crate::journal::options::{Durability, JournalOptions, OnFailure};
use crate::journal::position::Extent;

/// Opens the storage and leaves it to a thread of its own.
pub(in crate::journal) fn start(
    opener: Opener,
    options: JournalOptions,
) -> Result<Arc<Shared>, OpenError> {
    let (database, log) = open::open(&opener, true, &options)?;
    let extent = contained(|| open::extent_of(&database))??;
    let shared = Arc::new(Shared {
        queue: Queue::new(options.queue_calls, options.queue_bytes),
        slot: RwLock::new(Slot::Open(database)),
        head: watch::Sender::new(Head { next: log.next, turns: 0 }),
        figures: Mutex::new(Figures {
            extent,
            bytes: log.bytes,
            durable_next: log.next,
            off: None,
            failures: 0,
        }),
        cache: Mutex::new(Cache::new(options.cache_events, options.cache_bytes)),
        watchers: Mutex::default(),
        ended: watch::Sender::new(None),
        options,
    });
    let mut writer = Writer::new(Arc::clone(&shared), opener, log);
    let thread = std::thread::Builder::new().name("keyspace-journal".to_owned());
    thread.spawn(move || writer.run()).map_err(StorageFault::of_io)?;
    Ok(shared)
}

/// What a transaction led to.
struct Outcome {
    answers: Vec<Result<Answer, StoreError>>,
    log: Log,
    fresh: Cache,
    extent: Extent,
}

struct Writer {
    shared: Arc<Shared>,
    opener: Opener,
    log: Log,
    /// Since when something is committed that is not durable.
    unsynced_since: Option<Instant>,
    collect_at: Option<Instant>,
    /// While off: when to try next, and the delay after that.
    reopen: Option<(Instant, Duration)>,
}

impl Writer {
    fn new(shared: Arc<Shared>, opener: Opener, log: Log) -> Self {
        // A process that restarts often must come to it as well.
        let first = shared.options.retention.every.map(|every| every.min(Duration::from_secs(60)));
        let collect_at = first.map(|delay| Instant::now() + delay);
        Writer { shared, opener, log, unsynced_since: None, collect_at, reopen: None }
    }

    fn run(&mut self) {
        loop {
            let (calls, finished) = self.shared.queue.take(self.deadline());
            let now = Instant::now();
            if self.reopen.is_some_and(|(at, _)| at <= now) {
                self.try_reopen();
            }
            if !calls.is_empty() {
                self.serve(calls);
            }
            if self.sync_due().is_some_and(|due| due <= now) {
                // A fault is in the status.
                let _ = self.transact(vec![Work::Flush]);
            }
            if self.collect_at.is_some_and(|due| due <= now) {
                self.collect();
            }
            if finished {
                self.close();
                return;
            }
        }
    }

    fn sync_due(&self) -> Option<Instant> {
        match self.shared.options.durability {
            Durability::Interval(every) => self.unsynced_since.map(|since| since + every),
            _ => None,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let reopen = self.reopen.map(|(at, _)| at);
        [self.sync_due(), self.collect_at, reopen].into_iter().flatten().min()
    }

    fn serve(&mut self, calls: Vec<Call>) {
        let (works, replies): (Vec<_>, Vec<_>) =
            calls.into_iter().map(|call| (call.work, call.reply)).unzip();
        // Who no longer waits for an answer does not mind.
        match self.transact(works) {
            Ok(answers) => {
                for (reply, answer) in replies.into_iter().zip(answers) {
                    let _ = reply.send(answer);
                }
            }
            Err(fault) => {
                for reply in replies {
                    let _ = reply.send(Err(StoreError::Storage(fault.clone())));
                }
            }
        }
    }

    /// Does the work in one transaction; on a fault none of it is acknowledged.
    fn transact(
        &mut self,
        works: Vec<Work>,
    ) -> Result<Vec<Result<Answer, StoreError>>, StorageFault> {
        let flushes = works.iter().any(|work| matches!(work, Work::Flush));
        let durable = flushes || self.shared.options.durability == Durability::EachBatch;
        let idle = works.iter().all(|work| matches!(work, Work::Flush));
        let result = match &*self.shared.slot.read() {
            Slot::Off(fault) => return Err(fault.clone()),
            Slot::Open(_) if idle && self.unsynced_since.is_none() => {
                return Ok(works.iter().map(|_| Ok(Answer::Done)).collect());
            }
            Slot::Open(database) => {
                contained(|| commit(&self.shared, database, self.log, works, durable))
            }
        };
        match result.and_then(|outcome| outcome) {
            Ok(outcome) => Ok(self.publish(outcome, durable)),
            Err(fault) => {
                self.fail(fault.clone());
                Err(fault)
            }
        }
    }

    /// Lets everybody see what is committed. Readers find events before they are told of them.
    fn publish(&mut self, outcome: Outcome, durable: bool) -> Vec<Result<Answer, StoreError>> {
        let Outcome { answers, log, fresh, extent } = outcome;
        self.log = log;
        self.unsynced_since =
            if durable { None } else { self.unsynced_since.or_else(|| Some(Instant::now())) };
        self.shared.cache.lock().append(fresh);
        {
            let mut figures = self.shared.figures.lock();
            figures.extent = extent;
            figures.bytes = log.bytes;
            if durable {
                figures.durable_next = log.next;
            }
        }
        self.shared.head.send_if_modified(|head| {
            let more = head.next != log.next;
            head.next = log.next;
            more
        });
        answers
    }

    /// Closes the storage after a fault: what the engine holds in memory may not be what the file
    /// holds, so nothing is served from it any more.
    fn fail(&mut self, fault: StorageFault) {
        tracing::warn!(error = %fault, cause = ?fault, "journal: the storage failed");
        let old = std::mem::replace(&mut *self.shared.slot.write(), Slot::Off(fault.clone()));
        // Closing what failed may fail again, which says nothing new.
        let _ = contained(|| drop(old));
        self.shared.cache.lock().clear();
        self.unsynced_since = None;
        {
            let mut figures = self.shared.figures.lock();
            figures.failures += 1;
            figures.off = Some((fault, SystemTime::now()));
        }
        self.reopen = match self.shared.options.on_failure {
            OnFailure::Reopen { min, max } => Some((Instant::now() + min, (min * 2).min(max))),
            OnFailure::StayOff => None,
        };
        self.shared.turn(self.log.next);
    }

    fn try_reopen(&mut self) {
        match self.open_again() {
            Ok((database, log, extent)) => {
                tracing::info!(next = log.next, "journal: the storage is open again");
                self.log = log;
                // Before it is said to be on: who was refused finds the reason in the status.
                *self.shared.slot.write() = Slot::Open(database);
                {
                    let mut figures = self.shared.figures.lock();
                    figures.extent = extent;
                    figures.bytes = log.bytes;
                    figures.durable_next = log.next;
                    figures.off = None;
                }
                self.reopen = None;
                self.shared.turn(log.next);
            }
            Err(fault) => {
                tracing::debug!(error = %fault, "journal: the storage is still off");
                *self.shared.slot.write() = Slot::Off(fault.clone());
                if let Some((was, _)) = &mut self.shared.figures.lock().off {
                    *was = fault;
                }
                if let OnFailure::Reopen { max, .. } = self.shared.options.on_failure {
                    self.reopen = self
                        .reopen
                        .map(|(_, delay)| (Instant::now() + delay, (delay * 2).min(max)));
                }
            }
        }
    }

    /// What was acknowledged as durable must be there again.
    fn open_again(&self) -> Result<(Database, Log, Extent), StorageFault> {
        let opened = open::open(&self.opener, false, &self.shared.options);
        let (database, log) = opened.map_err(|error| match error {
            OpenError::Storage(fault) => fault,
            other => StorageFault::Io(Arc::new(std::io::Error::other(other))),
        })?;
        let durable = self.shared.figures.lock().durable_next;
        if log.next < durable {
            let what = format!("it ends before event {}, and {durable} was next", log.next);
            return Err(StorageFault::damaged(what));
        }
        let extent = contained(|| open::extent_of(&database))??;
        Ok((database, log, extent))
    }

    fn collect(&mut self) {
        let begun = Instant::now();
        let answers = self.transact(vec![Work::Collect(SystemTime::now())]);
        let took = begun.elapsed();
        let unfinished = answers.is_ok_and(|answers| {
            matches!(answers[..], [Ok(Answer::Collected(Collected { unfinished: true, .. }))])
        });
        let every = self.shared.options.retention.every;
        self.collect_at =
            every.map(|every| Instant::now() + if unfinished { took.min(every) } else { every });
    }

    /// Makes everything durable and lets go of the storage.
    fn close(&mut self) {
        let flushed = self.transact(vec![Work::Flush]).map(|_| ());
        let slot =
            std::mem::replace(&mut *self.shared.slot.write(), Slot::Off(StorageFault::Closed));
        let closed = match slot {
            Slot::Open(database) => contained(|| database.close()).and_then(|closed| {
                closed.map_err(|error| match OpenError::from(error) {
                    OpenError::Storage(fault) => fault,
                    other => StorageFault::Io(Arc::new(std::io::Error::other(other))),
                })
            }),
            Slot::Off(_) => Ok(()),
        };
        self.shared.cache.lock().clear();
        self.shared.figures.lock().off = Some((StorageFault::Closed, SystemTime::now()));
        self.shared.ended.send_replace(Some(flushed.and(closed)));
        self.shared.turn(self.log.next);
    }
}

/// One transaction with all the work.
fn commit(
    shared: &Shared,
    database: &Database,
    log: Log,
    works: Vec<Work>,
    durable: bool,
) -> Result<Outcome, StorageFault> {
    let mut transaction = database.begin_write()?;
    let durability = if durable { redb::Durability::Immediate } else { redb::Durability::None };
    transaction
        .set_durability(durability)
        .map_err(|error| StorageFault::Io(Arc::new(std::io::Error::other(error))))?;
    transaction.set_quick_repair(durable && shared.options.quick_recovery);
    let now = SystemTime::now();
    let fresh = Cache::new(shared.options.cache_events, shared.options.cache_bytes);
    let mut tables = Tables::open(&transaction, log, fresh)?;
    let mut answers = Vec::with_capacity(works.len());
    for work in works {
        answers.push(apply(shared, &mut tables, work, now)?);
    }
    let extent = open::extent(&tables.events, tables.log)?;
    let (log, fresh) = tables.finish()?;
    transaction.commit()?;
    Ok(Outcome { answers, log, fresh, extent })
}

/// A refusal leaves the transaction as it was; a fault ends it.
fn apply(
    shared: &Shared,
    tables: &mut Tables<'_>,
    work: Work,
    now: SystemTime,
) -> Result<Result<Answer, StoreError>, StorageFault> {
    Ok(match work {
        Work::Store(events) => Ok(Answer::Stored(tables.store(events, now)?)),
        Work::Append(batch) => tables.append(*batch, None, now)?.map(Answer::Stored),
        Work::Tell(told) => {
            let (batch, telling) = *told;
            tables.append(batch, Some(telling), now)?.map(Answer::Stored)
        }
        Work::Checkpoint { id, sequence, back } => {
            Ok(Answer::Checkpoint(tables.checkpoint(&id, sequence, back, now)?))
        }
        Work::ForgetCheckpoint(id) => {
            tables.forget_checkpoint(&id)?;
            Ok(Answer::Done)
        }
        Work::ForgetMirror(name) => {
            tables.forget_mirror(&name)?;
            Ok(Answer::Done)
        }
        Work::Collect(now) => {
            Ok(Answer::Collected(gc::collect(tables, &shared.options.retention, now)?))
        }
        Work::Flush => Ok(Answer::Done),
    })
}
