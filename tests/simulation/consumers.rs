//! Consumers of each way to follow: what each does with what it is told.
//!
//! Owns the consumers and what each must find. Some are asked by hand, so that their pace is the
//! crowd's; some are tasks, which must be woken. None may know when it starts or ends.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use etcd_keyspace::{
    Changes, Entry, FollowError, Follower, KeyRange, Notify, Revision, StopReason, Update,
    Validator, View, WaitError, WatchKey,
};
use tokio::sync::mpsc;

use crate::told::{At, Judge, Told, part, same};
use crate::truth::Shown;
use crate::value::Value;

/// Asks once; what is not there yet is left for the next time.
pub(crate) fn ask_once<R>(future: impl Future<Output = R>) -> Option<R> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Folds net changes, asked by hand or as a task.
pub(crate) struct Folding {
    changes: Changes<Value>,
    told: Arc<Mutex<Told>>,
}

impl Folding {
    pub(crate) fn new(judge: Judge, range: KeyRange) -> Self {
        let changes = judge.ks.changes(range.clone());
        Folding { changes, told: Arc::new(Mutex::new(Told::nothing(judge, range))) }
    }

    pub(crate) fn told(&self) -> Arc<Mutex<Told>> {
        Arc::clone(&self.told)
    }

    /// Takes what there is: an item at most, and then nothing until something changes.
    pub(crate) fn ask(&mut self) -> Result<(), StopReason> {
        let Some(item) = ask_once(self.changes.next()) else {
            let told = self.told.lock().unwrap();
            let loaded = told.judge.ks.read().revision() > 0;
            assert!(!loaded || told.at != (0, 0), "C6: the first item is owed");
            told.expect_now();
            self.expect_validator(&told);
            return Ok(());
        };
        let mut told = self.told.lock().unwrap();
        let Ok(delta) = item else {
            told.expect_now();
            return item.map(drop);
        };
        told.fold(&delta);
        let entries = self.changes.entries();
        let shown = part_of_now(&told);
        assert!(entries.iter().map(Arc::as_ptr).eq(shown), "C6: what it says it told");
        self.expect_validator(&told);
        Ok(())
    }

    /// What it says the items fold to is what is shown now.
    fn expect_validator(&self, told: &Told) {
        let view = told.judge.ks.read();
        let now = (told.at != (0, 0)).then(|| view.validator(told.range.clone()));
        assert_eq!(self.changes.validator(), now, "C6: the validator of what it told");
    }

    /// Takes every item when it is woken for it, and then takes its time.
    pub(crate) async fn run(mut self, pause: Duration) -> StopReason {
        loop {
            match self.changes.next().await {
                Ok(delta) => self.told.lock().unwrap().fold(&delta),
                Err(reason) => {
                    self.told.lock().unwrap().expect_now();
                    return reason;
                }
            }
            tokio::time::sleep(pause).await;
        }
    }
}

fn part_of_now(told: &Told) -> std::vec::IntoIter<*const Entry<Value>> {
    let view = told.judge.ks.read();
    part(&view, &told.range).map(Arc::as_ptr).collect::<Vec<_>>().into_iter()
}

/// Watches one key.
pub(crate) struct Watching {
    watch: WatchKey<Value>,
    judge: Judge,
}

impl Watching {
    pub(crate) fn new(judge: Judge, key: Vec<u8>) -> Self {
        Watching { watch: judge.ks.watch_key(key), judge }
    }

    pub(crate) fn ask(&mut self) -> Result<(), StopReason> {
        let before = self.watch.current().map(Arc::as_ptr);
        let told = ask_once(self.watch.next()).map(|next| next.map(|entry| entry.cloned()));
        let view = self.judge.ks.read();
        let now = view.get(self.watch.key()).map(Arc::as_ptr);
        assert_eq!(self.watch.current().map(Arc::as_ptr), now, "MO-10: not the newest version");
        match told {
            None => assert_eq!(before, now, "MO-10: a version is overlooked"),
            Some(Ok(told)) => {
                let at = (view.epoch(), view.revision());
                let range = KeyRange::key(self.watch.key());
                self.judge.check(&range, at, told.as_ref().into_iter());
            }
            Some(Err(reason)) => return Err(reason),
        }
        Ok(())
    }
}

/// Reads the updates of several watches from one channel.
pub(crate) struct Mailbox {
    judge: Judge,
    updates: mpsc::Receiver<Update<Value>>,
    /// Each with its range and what it was told of last; its number is its id.
    watches: Vec<(Notify, KeyRange, At)>,
}

impl Mailbox {
    pub(crate) fn new(judge: Judge, ranges: Vec<KeyRange>, room: usize) -> Self {
        let (sender, updates) = mpsc::channel(room);
        let watch = |(number, range): (usize, KeyRange)| {
            let watch = judge.ks.notify(range.clone(), number.to_string(), sender.clone());
            (watch.expect("the range is mirrored"), range, (0, 0))
        };
        let watches = ranges.into_iter().enumerate().map(watch).collect();
        Mailbox { judge, updates, watches }
    }

    /// Takes one update, if there is one; at the end of the last watch the reason it was given.
    pub(crate) fn ask(&mut self) -> Result<(), StopReason> {
        let Ok(update) = self.updates.try_recv() else { return Ok(()) };
        let number: usize = update.correlation_id.parse().expect("the id that was given");
        let (_, range, last) = &mut self.watches[number];
        let at = (update.meta.epoch, update.meta.revision);
        let entries = match update.result {
            Ok(entries) => entries,
            Err(reason) => {
                assert!(at >= *last, "CN-10: {at:?} after {last:?}");
                return Err(reason);
            }
        };
        assert!(at > *last, "CN-3: {at:?} after {last:?}");
        *last = at;
        self.judge.check(range, at, entries.iter());
        Ok(())
    }

    /// Whether each watch was told of what is shown now.
    pub(crate) fn expect_now(&self) {
        assert!(self.updates.is_empty());
        let view = self.judge.ks.read();
        for (_, range, at) in &self.watches {
            let told = self.judge.shown(range, *at, |told| same(part(&view, range), told));
            assert!(told, "CN-3: a watch of {range:?} is not told of a change");
        }
    }
}

/// A follower of the entries that it lets in, which keeps a mark of each.
pub(crate) struct Marking {
    pub(crate) judge: Judge,
    pub(crate) range: KeyRange,
    pub(crate) pace: Option<Duration>,
    /// Compares what changed by mark only (MO-3).
    pub(crate) coarse: bool,
    pub(crate) marks: Marks,
    pub(crate) batches: At,
}

pub(crate) type Marks = Arc<Mutex<BTreeMap<Vec<u8>, i64>>>;

/// The mark of an entry that is let in: those whose value ends in an even digit.
pub(crate) fn mark(coarse: bool, value: &[u8], [create, modified, ..]: [i64; 4]) -> Option<i64> {
    let last = value.last().copied().unwrap_or_default();
    let fine = create << 32 | modified;
    (last % 2 == 0).then_some(if coarse { i64::from(last) } else { fine })
}

impl Marking {
    fn mark(&self, entry: &Entry<Value>) -> Option<i64> {
        let of = [entry.create_revision(), entry.mod_revision(), entry.version(), entry.lease()];
        mark(self.coarse, entry.value().bytes(), of)
    }

    fn keep(&self, old: Option<&Shown>, new: Option<&Shown>) {
        let mut marks = self.marks.lock().unwrap();
        let key = old.or(new).expect("one of them is there").key();
        let known = marks.remove(key);
        let expected = old.and_then(|old| self.mark(old));
        assert_eq!(known, expected, "MO-2, MO-11: what it knew of {}", key.escape_ascii());
        let mark = new.map(|new| self.mark(new).expect("MO-1: what fails the filter is not told"));
        marks.extend(mark.map(|mark| (key.to_vec(), mark)));
    }

    async fn take_time(&self) {
        match self.pace {
            Some(pace) => tokio::time::sleep(pace).await,
            None => std::future::pending().await,
        }
    }

    pub(crate) async fn run(self) -> StopReason {
        let (ks, range) = (self.judge.ks.clone(), self.range.clone());
        match ks.follow(range, self).await {
            FollowError::Stopped(reason) => reason,
            error => panic!("MO-5: no callback failed: {error}"),
        }
    }
}

impl Follower<Value> for Marking {
    type Error = std::convert::Infallible;

    fn filter(&self, entry: &Entry<Value>) -> bool {
        self.mark(entry).is_some()
    }

    fn equals(&self, old: &Entry<Value>, new: &Entry<Value>) -> bool {
        self.coarse && self.mark(old) == self.mark(new)
    }

    async fn added(&mut self, new: &Shown) -> Result<(), Self::Error> {
        self.keep(None, Some(new));
        Ok(())
    }

    async fn updated(&mut self, old: &Shown, new: &Shown) -> Result<(), Self::Error> {
        self.keep(Some(old), Some(new));
        Ok(())
    }

    async fn deleted(&mut self, old: &Shown) -> Result<(), Self::Error> {
        self.keep(Some(old), None);
        Ok(())
    }

    async fn batch_done(&mut self, revision: Revision) -> Result<(), Self::Error> {
        // Callbacks took no time since the difference was made, so its epoch is that of now.
        let at = (self.judge.ks.read().epoch(), revision);
        assert!(at > self.batches, "MO-4: {at:?} after {:?}", self.batches);
        let coarse = self.coarse;
        let of = |value: &[u8], numbers| mark(coarse, value, numbers);
        self.judge.check_marks(&self.range, at, of, &self.marks.lock().unwrap());
        self.batches = at;
        self.take_time().await;
        Ok(())
    }
}

/// Blocks on a range until it differs from what was seen, and looks at what it got.
pub(crate) struct Blocking {
    pub(crate) judge: Judge,
    pub(crate) range: KeyRange,
    pub(crate) patience: Duration,
    pub(crate) pause: Duration,
    pub(crate) seen: Seen,
}

/// What was read last.
pub(crate) type Seen = Arc<Mutex<Option<Content>>>;

/// What a validator tells apart: the cluster, the keys, and the revisions of their making.
#[derive(Debug, PartialEq)]
pub(crate) struct Content(Option<u64>, Vec<(Vec<u8>, Revision, Revision)>);

impl Content {
    pub(crate) fn of(view: &View<Value>, range: &KeyRange) -> Self {
        let of = |e: &Shown| (e.key().to_vec(), e.create_revision(), e.mod_revision());
        Content(view.cluster_id(), part(view, range).map(of).collect())
    }
}

impl Blocking {
    pub(crate) async fn run(self) -> StopReason {
        let mut seen = None;
        loop {
            let read = self.judge.ks.read_changed(self.range.clone(), seen, self.patience);
            let now = match read.await {
                Ok((view, now)) => self.look(&view, seen, now),
                Err(WaitError::Stopped(reason)) => return reason,
                Err(error) => panic!("C8: {error}"),
            };
            seen = Some(now);
            tokio::time::sleep(self.pause).await;
        }
    }

    /// Equal validators are equal keys at equal revisions, and others are others.
    fn look(&self, view: &View<Value>, before: Option<Validator>, now: Validator) -> Validator {
        assert_eq!(now, view.validator(self.range.clone()), "it is of the view it comes with");
        let entries: Vec<_> = part(view, &self.range).collect();
        self.judge.check(&self.range, (view.epoch(), view.revision()), entries.iter().copied());
        let content = Content::of(view, &self.range);
        let mut seen = self.seen.lock().unwrap();
        let same = seen.as_ref() == Some(&content);
        assert_eq!(before == Some(now), same, "a validator that lies: {content:?}");
        *seen = Some(content);
        now
    }
}
