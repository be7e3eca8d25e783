//! A consumer of every event: what it folds is what was so, revision by revision.
//!
//! Owns the fold and its checks; goes on from its own token at times, as one that was restarted would.
//! Must not know when it is asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_keyspace::{
    Events, EventsError, EventsOptions, KeyEvent, KeyRange, Start, StopReason, SyncSet,
};

use crate::consumers::ask_once;
use crate::told::{At, Judge, part};
use crate::truth::{Shown, numbers};
use crate::value::Value;

/// Events that are taken in one turn.
const EVENTS_MAX: usize = 20;

pub(crate) struct Eventing {
    events: Events<Value>,
    judge: Judge,
    range: KeyRange,
    entries: BTreeMap<Vec<u8>, Shown>,
    /// Of the last event; its revision may have others.
    at: At,
    turns: u64,
}

impl Eventing {
    pub(crate) fn new(judge: Judge, range: KeyRange) -> Self {
        let events = judge.ks.events(range.clone(), Start::Now, EventsOptions::default());
        Eventing { events, judge, range, entries: BTreeMap::new(), at: (0, 0), turns: 0 }
    }

    /// Takes some events, or all there are; then it knows what is shown now.
    pub(crate) fn ask(&mut self) -> Result<(), StopReason> {
        self.turns += 1;
        for _ in 0..EVENTS_MAX {
            let asked = ask_once(self.events.next());
            match asked {
                Some(Ok(event)) => self.take(event),
                Some(Err(EventsError::KeySpace(reason))) => {
                    self.expect_now();
                    return Err(reason);
                }
                Some(Err(error)) => panic!("MI-13: nobody stopped it: {error}"),
                None => {
                    self.expect_now();
                    self.go_on_anew();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, event: KeyEvent<Value>) {
        let (epoch, last) = self.at;
        let revision = event.revision();
        let (old, new) = match event {
            KeyEvent::Sync(set) => return self.sync(&set),
            KeyEvent::Added(new) => (None, Some(new)),
            KeyEvent::Updated { old, new } => (Some(old), Some(new)),
            KeyEvent::Deleted { old, .. } => (Some(old), None),
        };
        assert!(epoch > 0, "MI-2: a `Sync` comes first");
        assert!(revision >= last, "MI-3, MI-5: an event at {revision} after {last}");
        if revision > last {
            // The one before is whole now.
            self.judge.check_truth(&self.range, last, self.entries.values());
        }
        let key = old.as_ref().or(new.as_ref()).expect("one of them is there").key().to_vec();
        assert!(self.range.contains(&key), "MI-3: an event of another range");
        let known = self.entries.remove(&key);
        let same = known.as_ref().map(numbers) == old.as_ref().map(numbers);
        assert!(same, "MI-3: at {revision}, {} was another", key.escape_ascii());
        self.entries.extend(new.map(|new| (key, new)));
        self.at = (epoch, revision);
    }

    fn sync(&mut self, set: &SyncSet<Value>) {
        let at = (set.epoch(), set.revision());
        assert!(at >= self.at, "MI-5: a `Sync` at {at:?} after {:?}", self.at);
        let entries: Vec<_> = set.entries().iter().cloned().collect();
        self.judge.check(&self.range, at, entries.iter());
        if let Some(difference) = set.difference() {
            for change in difference {
                let known = self.entries.remove(change.key());
                let same = known.as_ref().map(numbers) == change.old().map(numbers);
                assert!(same || self.at == (0, 0), "MI-8: {change:?} does not follow");
                self.entries.extend(change.new().map(|new| (new.key().to_vec(), new.clone())));
            }
            let led_to = self.entries.values().map(numbers);
            assert!(led_to.eq(entries.iter().map(numbers)), "MI-8: the difference is not exact");
        }
        self.entries = entries.into_iter().map(|entry| (entry.key().to_vec(), entry)).collect();
        self.at = at;
    }

    fn expect_now(&self) {
        let view = self.judge.ks.read();
        let shown = part(&view, &self.range).map(Arc::as_ptr);
        let same = shown.eq(self.entries.values().map(Arc::as_ptr));
        assert!(same, "MI-3: a consumer of {:?} is not told of an event", self.range);
        assert!(view.revision() == 0 || self.at.0 > 0, "MI-2: the first `Sync` is owed");
    }

    /// What a restarted consumer does, which has its state and its token.
    fn go_on_anew(&mut self) {
        if self.turns.is_multiple_of(5) && self.at.0 > 0 {
            let start = Start::After(self.events.token().into());
            self.events = self.judge.ks.events(self.range.clone(), start, EventsOptions::default());
        }
    }
}
