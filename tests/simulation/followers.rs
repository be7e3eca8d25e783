//! The crowd of a run: consumers of every way to follow, who come and go, are slow, or never read.
//!
//! Owns who there is, who is asked when, and what holds at the end: nobody missed anything, everybody
//! is told why it ended, and who never reads keeps no more than what it was told last. Draws from a chance of
//! its own, so that a world goes the same way with and without it: nothing here reaches the store.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_keyspace::{KeyRange, KeySpace, StopReason};
use tokio::task::JoinHandle;

use crate::consumers::{Blocking, Content, Folding, Mailbox, Marking, Marks, Seen, Watching, mark};
use crate::eventing::Eventing;
use crate::fake::PREFIX;
use crate::reader::Reader;
use crate::told::{Judge, Told};
use crate::value::Value;
use crate::worlds::{KEYS, World};

const CONSUMERS_MAX: usize = 8;
/// A crowd that fills more than one block of the index of ranges.
const MANY: u64 = 150;
/// The group's four keys and the one that is written last.
const ENTRIES_MAX: i64 = KEYS as i64 + 5;
/// More than the updates that can wait for one channel.
const ASKS_MAX: usize = 20;
/// Longer than any consumer takes for two items, unless it never reads.
const PATIENCE: Duration = Duration::from_secs(7);

/// Chance from the seed (SplitMix64), apart from the store's.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn key(&mut self) -> Vec<u8> {
        match self.below(4) {
            0 => format!("{PREFIX}g{}", self.below(4)).into_bytes(),
            _ => format!("{PREFIX}{}", self.below(KEYS)).into_bytes(),
        }
    }

    /// Everything, one key, or what lies between two; at times nothing.
    fn range(&mut self) -> KeyRange {
        match self.below(8) {
            0 => KeyRange::all(),
            1 | 2 => KeyRange::key(self.key()),
            3 => KeyRange::from(self.key()),
            4 => KeyRange::prefix(format!("{PREFIX}g")),
            _ => {
                let (a, b) = (self.key(), self.key());
                let (a, b) = if a < b { (a, b) } else { (b, a) };
                KeyRange::bytes(a, b)
            }
        }
    }

    fn pause(&mut self) -> Duration {
        Duration::from_millis([0, 0, 20, 700, 3_000][self.below(5) as usize])
    }
}

/// One consumer, by how it is fed.
enum Consumer {
    Folding(Box<Folding>),
    Eventing(Box<Eventing>),
    Watching(Watching),
    Mailbox(Mailbox),
    Task { task: JoinHandle<StopReason>, knows: Knows },
}

/// What a task knows, to be compared with what is shown.
enum Knows {
    Told(Arc<Mutex<Told>>),
    Marks(Judge, KeyRange, bool, Marks),
    Seen(Judge, KeyRange, Seen),
    /// It hangs in a callback for ever.
    Nothing,
}

impl Knows {
    fn expect_now(&self) {
        match self {
            Knows::Told(told) => told.lock().unwrap().expect_now(),
            Knows::Marks(judge, range, coarse, marks) => {
                let view = judge.ks.read();
                let at = (view.epoch(), view.revision());
                let of = |value: &[u8], numbers| mark(*coarse, value, numbers);
                judge.check_marks(range, at, of, &marks.lock().unwrap());
            }
            Knows::Seen(judge, range, seen) => {
                let view = judge.ks.read();
                let same = seen.lock().unwrap().as_ref() == Some(&Content::of(&view, range));
                assert!(same, "a blocking read of {range:?} is not told of a change");
            }
            Knows::Nothing => {}
        }
    }
}

struct Member {
    judge: Judge,
    consumer: Consumer,
    /// Of ten turns, how many it asks in; zero never reads.
    eager: u64,
}

impl Member {
    /// Gives the reason at the end.
    async fn ask(&mut self) -> Option<StopReason> {
        let asked = match &mut self.consumer {
            Consumer::Folding(folding) => folding.ask(),
            Consumer::Eventing(eventing) => eventing.ask(),
            Consumer::Watching(watching) => watching.ask(),
            Consumer::Mailbox(mailbox) => mailbox.ask(),
            Consumer::Task { task, .. } if task.is_finished() => {
                return Some(task.await.expect("a consumer finds what it was told"));
            }
            Consumer::Task { .. } => Ok(()),
        };
        asked.err()
    }

    /// Asks until there is no more, and compares what it knows with what is shown.
    async fn settle(&mut self) -> Option<StopReason> {
        for _ in 0..ASKS_MAX {
            let ended = self.ask().await;
            if ended.is_some() {
                return ended;
            }
            tokio::task::yield_now().await;
        }
        match &self.consumer {
            Consumer::Mailbox(mailbox) => mailbox.expect_now(),
            Consumer::Task { knows, .. } => knows.expect_now(),
            Consumer::Folding(_) | Consumer::Eventing(_) | Consumer::Watching(_) => {}
        }
        None
    }
}

pub(crate) struct Crowd {
    chance: Chance,
    members: Vec<Member>,
    /// Nobody follows in half of the runs: then nobody but the mirror keeps what was.
    empty: bool,
}

impl Crowd {
    pub(crate) fn new(seed: u64, readers: &[Reader]) -> Self {
        let mut chance = Chance(seed ^ 0x666f_6c6c_6f77);
        let empty = chance.below(2) == 0;
        let mut crowd = Crowd { chance, members: Vec::new(), empty };
        if !empty {
            let many = if crowd.chance.below(40) == 0 { MANY } else { 0 };
            for _ in 0..many {
                let folding = Folding::new(Judge::of(&readers[0]), crowd.chance.range());
                crowd.join(&readers[0], Consumer::Folding(Box::new(folding)), 10);
            }
            // Some are there before the load.
            for _ in 0..crowd.chance.below(4) {
                crowd.begin(readers);
            }
        }
        crowd
    }

    fn join(&mut self, reader: &Reader, consumer: Consumer, eager: u64) {
        self.members.push(Member { judge: Judge::of(reader), consumer, eager });
    }

    fn begin(&mut self, readers: &[Reader]) {
        let reader = &readers[self.chance.below(readers.len() as u64) as usize];
        let (judge, range) = (Judge::of(reader), self.chance.range());
        let eager = [0, 1, 3, 10][self.chance.below(4) as usize];
        let consumer = match self.chance.below(10) {
            0..=2 => Consumer::Folding(Box::new(Folding::new(judge, range))),
            3 => Consumer::Watching(Watching::new(judge, self.chance.key())),
            4 => {
                let ranges = (0..=self.chance.below(3)).map(|_| self.chance.range()).collect();
                let room = 1 + self.chance.below(2) as usize;
                Consumer::Mailbox(Mailbox::new(judge, ranges, room))
            }
            5 => {
                let folding = Folding::new(judge, range);
                let knows = Knows::Told(folding.told());
                let task = tokio::spawn(folding.run(self.chance.pause()));
                Consumer::Task { task, knows }
            }
            6 => self.follower(judge, range, eager > 0),
            7 | 8 => Consumer::Eventing(Box::new(Eventing::new(judge, range))),
            _ => {
                let seen = Seen::default();
                let knows = Knows::Seen(judge.clone(), range.clone(), Arc::clone(&seen));
                let patience = [Duration::from_millis(900), Duration::MAX];
                let patience = patience[self.chance.below(2) as usize];
                let pause = self.chance.pause();
                let blocking = Blocking { judge, range, patience, pause, seen };
                Consumer::Task { task: tokio::spawn(blocking.run()), knows }
            }
        };
        self.join(reader, consumer, eager);
    }

    fn follower(&mut self, judge: Judge, range: KeyRange, reads: bool) -> Consumer {
        let (coarse, marks) = (self.chance.below(2) == 0, Marks::default());
        let pace = reads.then(|| self.chance.pause());
        let knows = match pace {
            Some(_) => Knows::Marks(judge.clone(), range.clone(), coarse, Arc::clone(&marks)),
            None => Knows::Nothing,
        };
        let batches = (0, 0);
        let marking = Marking { judge, range, pace, coarse, marks, batches };
        Consumer::Task { task: tokio::spawn(marking.run()), knows }
    }

    /// A turn: somebody may come or go, and each asks if it is so inclined.
    pub(crate) async fn act(&mut self, readers: &[Reader]) {
        if self.empty {
            return;
        }
        if self.members.len() < CONSUMERS_MAX && self.chance.below(3) == 0 {
            self.begin(readers);
        }
        if !self.members.is_empty() && self.chance.below(8) == 0 {
            let gone = self.chance.below(self.members.len() as u64) as usize;
            self.leave(gone);
        }
        let mut at = 0;
        while at < self.members.len() {
            let member = &mut self.members[at];
            let is_task = matches!(member.consumer, Consumer::Task { .. });
            let asks = is_task || self.chance.below(10) < member.eager;
            match if asks { member.ask().await } else { None } {
                Some(reason) => {
                    self.allow(at, &reason);
                    self.leave(at);
                }
                None => at += 1,
            }
        }
    }

    fn allow(&self, at: usize, reason: &StopReason) {
        assert!(self.members[at].judge.may_stop(), "C7: a consumer ended: {reason}");
    }

    fn leave(&mut self, at: usize) {
        if let Consumer::Task { task, .. } = self.members.swap_remove(at).consumer {
            task.abort();
        }
    }

    /// Everybody who reads has asked until there was no more, and knows what is shown.
    pub(crate) async fn settle(&mut self) {
        if self.empty {
            return;
        }
        tokio::time::sleep(PATIENCE).await;
        let mut at = 0;
        while at < self.members.len() {
            let member = &mut self.members[at];
            match if member.eager > 0 { member.settle().await } else { None } {
                Some(reason) => {
                    self.allow(at, &reason);
                    self.leave(at);
                }
                None => at += 1,
            }
        }
    }

    /// Whether to spend the time on seeing what is kept.
    pub(crate) fn weighs(&mut self) -> bool {
        // Events are kept up to a bound of their own, once for all who follow them.
        let events = |member: &Member| matches!(member.consumer, Consumer::Eventing(_));
        !self.members.is_empty() && self.chance.below(8) == 0 && !self.members.iter().any(events)
    }

    /// C9: what is written while some never read is kept by nobody.
    pub(crate) async fn weigh(&mut self, world: &mut World, readers: &[&mut Reader]) {
        let mut before = None;
        for round in 0..10 {
            world.touch_everything();
            world.truth.lock().unwrap().refresh();
            for reader in readers {
                reader.catches_up(world.etcd.revision()).await;
            }
            if round == 1 || round == 9 {
                self.settle().await;
                let now = Value::alive();
                // Consumers that had the same view may have views of their own by now; what leaks would be
                // a view for each round.
                let slack = 3 * ENTRIES_MAX;
                let before = *before.get_or_insert(now);
                assert!(now <= before + slack, "C9: {before} values were kept, and then {now}");
            }
        }
    }

    /// Once all key spaces have ended everybody is told so, also who never asked before; what is left
    /// of nobody is a registration.
    pub(crate) async fn end(mut self, spaces: &[KeySpace<Value>]) {
        if self.empty {
            return;
        }
        tokio::time::sleep(PATIENCE).await;
        for mut member in self.members.drain(..) {
            if let Consumer::Task { task, knows: Knows::Nothing } = &member.consumer {
                task.abort();
                continue;
            }
            let mut ended = None;
            for _ in 0..ASKS_MAX {
                ended = member.ask().await;
                if ended.is_some() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let fits = matches!(ended, Some(StopReason::Shutdown)) || member.judge.may_stop();
            assert!(fits && ended.is_some(), "C8: a consumer is told of the end: {ended:?}");
        }
        tokio::task::yield_now().await;
        for ks in spaces {
            assert_eq!(ks.stats().followers, 0, "C9: registrations are left");
        }
    }
}
