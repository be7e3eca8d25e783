//! The published state of a key space, and whether it meets a wait.
//!
//! Pure: no lock, no waker.

use super::WaitError;
use crate::model::{Revision, StopReason};

/// What a wait waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Awaited {
    /// `confirmed` at or above a revision, in an epoch. `None` is the first published epoch, for waits
    /// that begin before it. With a ticket, also a linearizable read that began after the ticket was
    /// drawn.
    Revision { revision: Revision, epoch: Option<u64>, ticket: Option<u64> },
    /// More changing steps than this.
    Change { after: u64 },
    /// More publications (changes or progress) than this.
    Publication { after: u64 },
    /// A linearizable read that began after this ticket was drawn, in an epoch; gives its revision.
    Sync { ticket: u64, epoch: Option<u64> },
    /// The first load.
    Loaded,
    /// The first watch after it.
    Watching,
    /// The end.
    Ended,
}

/// What a mirror knows about its contact with the store. The default is that of a mirror which has not
/// connected yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Contact {
    /// The watch is open, on a connection that is believed to work.
    pub(crate) live: bool,
    /// The store may have another history than the view: until content refutes it, no revision wait and
    /// no sync is met.
    pub(crate) suspected: bool,
    /// Revision and raft term of the last linearizable answer.
    pub(crate) seen: Option<(Revision, u64)>,
}

/// The published state that waits are judged by.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) revision: Revision,
    pub(crate) confirmed: Revision,
    pub(crate) epoch: u64,
    /// The epoch of the first publication.
    pub(super) first_epoch: Option<u64>,
    pub(crate) loaded: bool,
    pub(crate) watching: bool,
    pub(crate) contact: Contact,
    /// Steps that changed entries.
    pub(crate) changes: u64,
    /// All publications, progress included.
    pub(crate) publications: u64,
    /// The newest ticket that a finished linearizable read covers, and the read's revision.
    pub(super) synced: (u64, Revision),
    pub(super) ended: Option<StopReason>,
}

impl Default for Published {
    fn default() -> Self {
        Published {
            revision: 0,
            confirmed: 0,
            epoch: 1,
            first_epoch: None,
            loaded: false,
            watching: false,
            contact: Contact::default(),
            changes: 0,
            publications: 0,
            synced: (0, 0),
            ended: None,
        }
    }
}

impl Published {
    /// The epoch of a wait that begins now.
    pub(crate) fn awaited_epoch(&self) -> Option<u64> {
        self.loaded.then_some(self.epoch)
    }

    /// Why the key space stopped, if it did.
    pub(crate) fn ended(&self) -> Option<&StopReason> {
        self.ended.as_ref()
    }

    /// Whether the epoch `now` is still that one.
    pub(crate) fn check_epoch(&self, awaited: Option<u64>, now: u64) -> Result<(), WaitError> {
        match awaited.or(self.first_epoch) {
            Some(was) if was != now => Err(WaitError::HistoryChanged { was, now }),
            _ => Ok(()),
        }
    }

    /// Whether a finished linearizable read began after the ticket was drawn.
    pub(super) fn covers(&self, ticket: u64) -> bool {
        self.synced.0 >= ticket
    }

    /// Whether only a linearizable read can show that a revision of this raft term belongs to the known
    /// history. Revisions and terms rise together within a history, so of two answers neither has the
    /// higher revision and the lower term. Zero is no term.
    pub(super) fn doubts(&self, revision: Revision, term: u64) -> bool {
        let Contact { live, suspected, seen } = self.contact;
        let contradicts = |(known, known_term): (Revision, u64)| {
            revision >= known && term < known_term || revision <= known && term > known_term
        };
        let seen = seen.filter(|(_, known_term)| *known_term > 0);
        term > 0 && (!live || suspected || seen.is_some_and(contradicts))
    }
}

/// The result of a wait, once there is one.
pub(super) fn judge(
    published: &Published,
    awaited: Awaited,
) -> Option<Result<Revision, WaitError>> {
    if let Awaited::Revision { epoch, .. } | Awaited::Sync { epoch, .. } = awaited
        && let Err(changed) = published.check_epoch(epoch, published.epoch)
    {
        return Some(Err(changed));
    }
    let believed = !published.contact.suspected;
    let met = match awaited {
        Awaited::Revision { revision, ticket, .. } => {
            let reached = published.loaded && published.confirmed >= revision;
            let read = ticket.is_none_or(|ticket| published.covers(ticket));
            (reached && read && believed).then_some(published.confirmed)
        }
        Awaited::Change { after } => (published.changes > after).then_some(published.revision),
        Awaited::Publication { after } => {
            (published.publications > after).then_some(published.revision)
        }
        Awaited::Sync { ticket, .. } => {
            (published.covers(ticket) && believed).then_some(published.synced.1)
        }
        Awaited::Watching => published.watching.then_some(published.revision),
        Awaited::Loaded => published.loaded.then_some(published.revision),
        Awaited::Ended => published.ended.is_some().then_some(published.revision),
    };
    match (met, &published.ended) {
        (Some(revision), _) => Some(Ok(revision)),
        (None, Some(reason)) => Some(Err(WaitError::Stopped(reason.clone()))),
        (None, None) => None,
    }
}
