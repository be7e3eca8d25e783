//! One revision across several key spaces.
//!
//! Owns [`Cut`] and how it is made: all mirrors hold back, then the store is asked for its revision,
//! then each stops there. Must not know how a mirror holds back: that is the business of `mirror`.

use std::fmt;
use std::ops::Index;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::MutexGuard;
use tokio::time::{Instant, timeout_at};

use super::error::CutError;
use super::{KeySpaces, key_range, order};
use crate::keyspace::KeySpace;
use crate::model::{IntoKeyRange, KeyRange, Revision, StopReason};
use crate::publish::{Awaited, CutAbort, CutReplies, Position, Snapshot, WaitError};

/// So often a cut can be tried when mirrors hold back for as long as they may each time.
const ATTEMPTS: u32 = 5;

/// Snapshots of several ranges, all of one revision of the store. Made by [`KeySpaces::cut`].
///
/// Indexed in the order in which the ranges were given.
pub struct Cut<T> {
    revision: Revision,
    parts: Vec<(KeyRange, Snapshot<T>)>,
}

impl<T> Cut<T> {
    /// The revision: what was committed through it is in the snapshots, and nothing else.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many ranges there are, at least one.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a cut is never empty")]
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// The snapshot of `range`, if it was among those asked for.
    #[must_use]
    pub fn of(&self, range: &KeyRange) -> Option<&Snapshot<T>> {
        self.iter().find(|(part, _)| *part == range).map(|(_, snapshot)| snapshot)
    }

    /// Ranges and snapshots in the order in which they were asked for.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&KeyRange, &Snapshot<T>)> {
        self.parts.iter().map(|(range, snapshot)| (range, snapshot))
    }

    /// The snapshots alone, in the order in which their ranges were asked for.
    #[must_use]
    pub fn into_snapshots(self) -> Vec<Snapshot<T>> {
        self.parts.into_iter().map(|(_, snapshot)| snapshot).collect()
    }
}

impl<T> Index<usize> for Cut<T> {
    type Output = Snapshot<T>;

    fn index(&self, index: usize) -> &Snapshot<T> {
        &self.parts[index].1
    }
}

impl<T> Clone for Cut<T> {
    fn clone(&self) -> Self {
        Cut { revision: self.revision, parts: self.parts.clone() }
    }
}

impl<T> fmt::Debug for Cut<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<_> = self.iter().map(|(range, _)| range).collect();
        f.debug_struct("Cut").field("revision", &self.revision).field("ranges", &ranges).finish()
    }
}

impl<T: Send + Sync + 'static> KeySpaces<T> {
    /// One snapshot of each range, all of exactly one revision of the store, which was asked for after
    /// this call began: an etcd transaction that writes to several of the ranges is in all of the
    /// snapshots or in none.
    ///
    /// Ranges that are not held are started as by [`get`](KeySpaces::get), and are in use meanwhile. A
    /// range may be given twice.
    ///
    /// ```
    /// # #[cfg(feature = "test-util")]
    /// # use etcd_keyspace::{bytes, KeySpaces, testing::{FakeEtcd, Op}};
    /// # #[cfg(not(feature = "test-util"))]
    /// # fn main() {}
    /// # #[cfg(feature = "test-util")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let etcd = FakeEtcd::new();
    /// let spaces = KeySpaces::builder(etcd.clone(), bytes()).build();
    /// let moved = etcd.txn([Op::put("/done/job", ""), Op::delete("/todo/job")]);
    ///
    /// let cut = spaces.cut(["/todo/", "/done/"]).await?;
    /// assert!(cut.revision() >= moved);
    /// assert_eq!((cut[0].len(), cut[1].len()), (0, 1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # How it is made, and what it costs
    /// Each mirror holds back what it would show next. When all do, etcd is asked for its revision, with
    /// one linearizable read. Each mirror then shows what it has up to that revision, gives a snapshot
    /// of it, and goes on; one whose range is quiet asks for progress, as for any wait. So a cut takes two
    /// round trips to etcd, three when it meets a read under way, and costs each range a batch and a
    /// reference count.
    ///
    /// Until then readers of the ranges see their last state, and waits on them wait. Watches are read
    /// all the while: what is held back stays within the [queue's bounds](crate::Builder::queue_bounds),
    /// and no mirror holds back for more than a fifth of the
    /// [`cut_timeout`](crate::KeySpacesBuilder::cut_timeout) at a time. A mirror that reconnects, reloads,
    /// or has more to hold back than it may lets all the others go on at once; when it has caught up,
    /// the cut is tried again, until that time is over. A write load that fills a queue within a round trip never lets a cut succeed: raise the bounds.
    ///
    /// Cuts that have a range in common are made one after the other, and others at the same time. The
    /// future has to be polled like any other: one that is put aside keeps its turn.
    ///
    /// Values that do not decode are [rejected](KeySpace::rejected) here as anywhere (C10): the
    /// snapshots are exact for all others.
    ///
    /// # Errors
    /// Any [`CutError`].
    ///
    /// # Panics
    /// As [`get`](KeySpaces::get), and while this thread holds a read guard, or runs an observer, of
    /// one of the key spaces.
    ///
    /// # Cancel safety
    /// Dropping the future lets every mirror go on at once.
    pub async fn cut<R: IntoKeyRange>(
        &self,
        ranges: impl IntoIterator<Item = R>,
    ) -> Result<Cut<T>, CutError> {
        let asked: Result<Vec<KeyRange>, _> = ranges.into_iter().map(key_range).collect();
        let asked = asked.map_err(super::GetError::from)?;
        let mut ranges = asked.clone();
        ranges.sort_by(|a, b| order(a).cmp(&order(b)));
        ranges.dedup();
        let members = self.members(ranges).await?;
        let limit = self.inner.options.cut_timeout;
        let waited_for = AtomicUsize::new(0);
        let attempts = self.attempts(&members, limit / ATTEMPTS, &waited_for);
        let Ok(made) = timeout_at(Instant::now() + limit, attempts).await else {
            let Member { range, ks } = &members[waited_for.load(Ordering::Relaxed)];
            let status = ks.status();
            let (state, confirmed) = (status.state, status.confirmed);
            return Err(CutError::TimedOut { range: range.clone(), state, confirmed, limit });
        };
        let (revision, snapshots) = made?;
        self.inner.table.lock().stats.cuts += 1;
        let parts = asked.into_iter().filter_map(|range| {
            let member = members.iter().position(|member| member.range == range)?;
            Some((range, snapshots[member].clone()))
        });
        Ok(Cut { revision, parts: parts.collect() })
    }

    /// Handles of all ranges, whose starts go on side by side.
    async fn members(&self, ranges: Vec<KeyRange>) -> Result<Vec<Member<T>>, CutError> {
        if ranges.is_empty() {
            return Err(CutError::NoRange);
        }
        let with_own_count = |range: &KeyRange| self.inner.with_own_count(range);
        let starting: Vec<_> = ranges.iter().map(with_own_count).collect::<Result<_, _>>()?;
        let mut members = Vec::with_capacity(ranges.len());
        for range in ranges {
            let ks = self.get(range.clone()).await?;
            ks.core().forbid_waiting();
            members.push(Member { range, ks });
        }
        drop(starting);
        Ok(members)
    }

    /// Tries until it is made or cannot be; notes which member is waited for.
    async fn attempts(
        &self,
        members: &[Member<T>],
        hold_max: Duration,
        waited_for: &AtomicUsize,
    ) -> Result<(Revision, Vec<Snapshot<T>>), CutError> {
        let mut turns: Vec<MutexGuard<'_, ()>> = Vec::with_capacity(members.len());
        for (index, member) in members.iter().enumerate() {
            waited_for.store(index, Ordering::Relaxed);
            // In the one order of ranges, so two cuts never wait for one another.
            turns.push(member.ks.core().cuts.turn.lock().await);
        }
        loop {
            match attempt(members, hold_max, waited_for).await {
                Ok(made) => return Ok(made),
                Err(Obstacle::Final(error)) => return Err(error),
                Err(Obstacle::Passing(index, why)) => {
                    let Member { range, ks } = &members[index];
                    waited_for.store(index, Ordering::Relaxed);
                    tracing::debug!(%range, ?why, "a cut is tried again");
                    self.inner.table.lock().stats.cut_retries += 1;
                    // Nobody holds back now. When this is done the mirror is live and current; under
                    // a new epoch it is tried anew.
                    if let Err(WaitError::Stopped(reason)) = ks.sync().await {
                        return Err(members[index].stopped(reason));
                    }
                }
            }
        }
    }
}

/// One key space of a cut.
struct Member<T> {
    range: KeyRange,
    ks: KeySpace<T>,
}

impl<T: Send + Sync + 'static> Member<T> {
    fn stopped(&self, reason: StopReason) -> CutError {
        CutError::Stopped { range: self.range.clone(), reason }
    }

    /// Why there was no answer.
    fn obstacle(&self, index: usize, why: CutAbort) -> Obstacle {
        match self.ks.core().waits.ended() {
            Some(reason) => Obstacle::Final(self.stopped(reason)),
            None => Obstacle::Passing(index, why),
        }
    }
}

/// Why an attempt came to nothing.
enum Obstacle {
    /// This member could not hold back, or did not get to the revision.
    Passing(usize, CutAbort),
    Final(CutError),
}

/// A mirror that was asked to hold back. Dropping it lets the mirror go on.
struct Asked<'a, T: Send + Sync + 'static> {
    index: usize,
    member: &'a Member<T>,
    answers: CutReplies<T>,
}

impl<'a, T: Send + Sync + 'static> Asked<'a, T> {
    fn new(index: usize, member: &'a Member<T>, hold_max: Duration) -> Self {
        let core = member.ks.core();
        let answers = core.cuts.ask(hold_max);
        if core.waits.ended().is_some() {
            // It ended before it was asked, so nobody would answer.
            core.cuts.end();
        }
        core.waits.demanded.notify_one();
        Asked { index, member, answers }
    }

    async fn held(&mut self) -> Result<Position, Obstacle> {
        let answer = (&mut self.answers.held).await;
        answer.unwrap_or(Err(CutAbort::Gone)).map_err(|why| self.member.obstacle(self.index, why))
    }

    fn stop_at(&self, revision: Revision) {
        let core = self.member.ks.core();
        core.cuts.stop_at(self.answers.number, revision);
        core.waits.demanded.notify_one();
    }

    async fn taken(&mut self) -> Result<Snapshot<T>, Obstacle> {
        let answer = (&mut self.answers.taken).await;
        answer.unwrap_or(Err(CutAbort::Gone)).map_err(|why| self.member.obstacle(self.index, why))
    }
}

impl<T: Send + Sync + 'static> Drop for Asked<'_, T> {
    fn drop(&mut self) {
        let core = self.member.ks.core();
        if core.cuts.withdraw(self.answers.number) {
            core.waits.demanded.notify_one();
        }
    }
}

async fn attempt<T: Send + Sync + 'static>(
    members: &[Member<T>],
    hold_max: Duration,
    waited_for: &AtomicUsize,
) -> Result<(Revision, Vec<Snapshot<T>>), Obstacle> {
    let wait_for = |index: usize| waited_for.store(index, Ordering::Relaxed);
    let ask = |(index, member)| Asked::new(index, member, hold_max);
    let mut all: Vec<_> = members.iter().enumerate().map(ask).collect();
    let mut positions = Vec::with_capacity(all.len());
    for asked in &mut all {
        wait_for(asked.index);
        positions.push(asked.held().await?);
    }
    check_clusters(members, &positions)?;
    wait_for(0);
    let revision = revision_now(&mut all[0], positions[0].epoch).await?;
    // It is asked for after all have said where they stand, so only another history is behind.
    if let Some(ahead) = positions.iter().position(|position| position.confirmed > revision) {
        return Err(members[ahead].obstacle(ahead, CutAbort::Gone));
    }
    all.iter().for_each(|asked| asked.stop_at(revision));
    let mut snapshots = Vec::with_capacity(all.len());
    for asked in &mut all {
        wait_for(asked.index);
        snapshots.push(asked.taken().await?);
    }
    Ok((revision, snapshots))
}

/// Asks etcd for its revision, through the mirror that was asked first.
async fn revision_now<T: Send + Sync + 'static>(
    asked: &mut Asked<'_, T>,
    epoch: u64,
) -> Result<Revision, Obstacle> {
    let core = asked.member.ks.core();
    let (index, member) = (asked.index, asked.member);
    let ticket = core.waits.ticket();
    tokio::select! {
        biased;
        // The others need not wait for a mirror that does not hold back any more.
        gave_up = asked.taken() => match gave_up {
            Err(obstacle) => Err(obstacle),
            Ok(_) => Err(Obstacle::Passing(index, CutAbort::Gone)),
        },
        revision = core.wait(Awaited::Sync { ticket, epoch: Some(epoch) }) => match revision {
            Ok(revision) => Ok(revision),
            Err(WaitError::Stopped(reason)) => Err(Obstacle::Final(member.stopped(reason))),
            Err(_) => Err(Obstacle::Passing(index, CutAbort::Interrupted)),
        },
    }
}

fn check_clusters<T: Send + Sync + 'static>(
    members: &[Member<T>],
    positions: &[Position],
) -> Result<(), Obstacle> {
    let expected = positions[0].cluster_id;
    for (member, position) in members.iter().zip(positions) {
        if let (Some(expected), Some(got)) = (expected, position.cluster_id)
            && expected != got
        {
            let range = member.range.clone();
            return Err(Obstacle::Final(CutError::OtherCluster { range, expected, got }));
        }
    }
    Ok(())
}
