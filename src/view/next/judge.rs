//! Judging watch responses: whole revisions, in order, continuous with what is known.
//!
//! Owns the checks on what etcd delivers and the coalescing of many events into one history per
//! key. Pure: it reads known numbers through a closure and changes nothing, so a refused batch
//! leaves no trace. Must not decode values or build views.

use smallvec::SmallVec;

use super::continuity::{ApplyError, Break, Continuity, Tolerated};
use crate::model::{Event, KeyRange, Numbers, RawKeyValue, Revision, WatchResponse};

/// What the events of one batch did to one key.
#[derive(Debug)]
pub(crate) struct KeyEvents {
    /// Which of the keys whose numbers were asked for it is.
    pub(crate) asked: usize,
    /// Its events, oldest first and at least one, each with its place in the batch.
    pub(crate) events: SmallVec<[(u32, Event); 1]>,
    /// Where the writes since the last deletion begin; nowhere when the key ends absent.
    life: usize,
    /// The key was deleted on the way, so nothing of its earlier life may be shown again.
    pub(crate) deleted: bool,
}

impl KeyEvents {
    pub(crate) fn key(&self) -> &[u8] {
        self.events.last().map_or(&[], |(_, event)| event.key())
    }

    /// The writes since the last deletion, oldest first; none when the key ends absent.
    pub(crate) fn into_writes(self) -> impl DoubleEndedIterator<Item = RawKeyValue> {
        self.events.into_iter().skip(self.life).filter_map(|(_, event)| match event {
            Event::Put(kv) => Some(kv),
            Event::Delete { .. } => None,
        })
    }
}

/// A batch that may be applied.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Ascending by key, each key once.
    pub(crate) keys: Vec<KeyEvents>,
    /// The last event's revision; zero when every event was redelivered.
    pub(crate) revision: Revision,
    pub(crate) events: usize,
    /// Those of them that delete.
    pub(crate) deletes: usize,
    pub(crate) duplicates: usize,
    pub(crate) tolerated: Vec<Tolerated>,
    pub(crate) cluster_id: Option<u64>,
}

impl Batch {
    /// Its events as they arrived, without those that were dropped.
    pub(crate) fn arrivals(&self) -> Vec<Event> {
        let mut events: Vec<_> = self.keys.iter().flat_map(|key| &key.events).collect();
        events.sort_by_key(|(at, _)| *at);
        events.into_iter().map(|(_, event)| event.clone()).collect()
    }
}

/// What a batch is judged against.
pub(crate) struct Known<'a, F> {
    pub(crate) range: &'a KeyRange,
    pub(crate) cluster_id: Option<u64>,
    /// Events at or below it were applied before (B7).
    pub(crate) confirmed: Revision,
    /// The numbers of keys, of each key that is known: its entry's, or its rejected value's (C10).
    /// All keys of the batch are asked for at once, ascending, since finding many together is
    /// faster.
    pub(crate) numbers: F,
    pub(crate) continuity: Continuity,
}

/// An event in arrival order with its verdict from the order checks.
struct Arrival {
    event: Event,
    /// Its place in the batch.
    at: u32,
    redelivered: bool,
}

/// Checks the responses as one batch and sums the events up per key.
pub(crate) fn judge<F>(
    known: Known<'_, F>,
    responses: Vec<WatchResponse>,
) -> Result<Batch, ApplyError>
where
    F: FnOnce(&[&[u8]]) -> Vec<Option<Numbers>>,
{
    let mut batch = Batch::default();
    let mut arrivals = order(&known, responses, &mut batch)?;
    // A stable sort keeps the arrival order within a key, which decides when one revision touches
    // a key twice (C3).
    arrivals.sort_by(|a, b| a.event.key().cmp(b.event.key()));
    let (keys, lengths): (Vec<&[u8]>, Vec<usize>) = arrivals
        .chunk_by(|a, b| a.event.key() == b.event.key())
        .map(|arrivals| (arrivals[0].event.key(), arrivals.len()))
        .unzip();
    let numbers = (known.numbers)(&keys);
    batch.keys.reserve_exact(lengths.len());
    let mut arrivals = arrivals.into_iter().peekable();
    for (asked, (length, now)) in lengths.into_iter().zip(numbers).enumerate() {
        let mut history = History::new(asked, now, known.confirmed, known.continuity);
        for left in (0..length).rev() {
            let Some(this) = arrivals.next() else { break };
            let revision = this.event.mod_revision();
            let next = arrivals.peek().filter(|_| left > 0);
            let superseded = next.is_some_and(|next| next.event.mod_revision() == revision);
            history.step(this, superseded, &mut batch)?;
        }
        if !history.sum.events.is_empty() {
            batch.keys.push(history.sum);
        }
    }
    Ok(batch)
}

/// Header, range and order checks; flattens the responses into arrivals.
fn order<F>(
    known: &Known<'_, F>,
    responses: Vec<WatchResponse>,
    batch: &mut Batch,
) -> Result<Vec<Arrival>, ApplyError> {
    if responses.last().is_some_and(|last| last.fragment) {
        return Err(ApplyError::Incomplete);
    }
    let mut arrivals = Vec::with_capacity(responses.iter().map(|r| r.events.len()).sum());
    let mut cursor = known.confirmed;
    let mut previous = 0;
    for response in responses {
        check_header(known, &response, batch)?;
        let fragment = response.fragment;
        for event in response.events {
            let revision = event.mod_revision();
            if revision < previous || revision <= 0 {
                return Err(ApplyError::OutOfOrder { previous, got: revision });
            }
            if !known.range.contains(event.key()) {
                return Err(ApplyError::OutsideRange { key: event.key().to_vec() });
            }
            previous = revision;
            let redelivered = revision <= cursor;
            if redelivered {
                batch.duplicates += 1;
            } else {
                batch.events += 1;
                batch.deletes += usize::from(matches!(event, Event::Delete { .. }));
                batch.revision = revision;
            }
            // No response has as many events as that: each is a few bytes long at least.
            let at = u32::try_from(arrivals.len()).unwrap_or(u32::MAX);
            arrivals.push(Arrival { event, at, redelivered });
        }
        if !fragment {
            // Response borders are revision borders, so the next response starts above; what does
            // not is redelivered. Order is judged within a response only.
            cursor = cursor.max(previous);
            previous = 0;
        }
    }
    Ok(arrivals)
}

fn check_header<F>(
    known: &Known<'_, F>,
    response: &WatchResponse,
    batch: &mut Batch,
) -> Result<(), ApplyError> {
    if response.canceled || response.compact_revision != 0 {
        return Err(ApplyError::Canceled { reason: response.cancel_reason.clone() });
    }
    let Some(header) = response.header else {
        let allowed = response.events.is_empty() || known.continuity == Continuity::Lenient;
        return if allowed { Ok(()) } else { Err(ApplyError::MissingHeader) };
    };
    let expected = known.cluster_id.or(batch.cluster_id);
    if let Some(expected) = expected.filter(|expected| *expected != header.cluster_id) {
        return Err(ApplyError::ClusterMismatch { expected, got: header.cluster_id });
    }
    batch.cluster_id = Some(header.cluster_id);
    match response.events.last().map(Event::mod_revision) {
        Some(event) if event > header.revision => {
            Err(ApplyError::HeaderBehind { header: header.revision, event })
        }
        _ => Ok(()),
    }
}

/// The running state of one key while its events pass.
struct History {
    sum: KeyEvents,
    now: Option<Numbers>,
    /// The revision of the last event of this batch that touched the key.
    last: Option<Revision>,
    /// Before the batch, what is known was complete through it.
    confirmed: Revision,
    continuity: Continuity,
}

impl History {
    fn new(
        asked: usize,
        now: Option<Numbers>,
        confirmed: Revision,
        continuity: Continuity,
    ) -> Self {
        let sum = KeyEvents { asked, events: SmallVec::new(), life: 0, deleted: false };
        History { sum, now, last: None, confirmed, continuity }
    }

    /// Judges and takes the next event of the key. `superseded`: another event of the key and the
    /// same revision follows, so there is no effect of this one to look for.
    fn step(
        &mut self,
        arrival: Arrival,
        superseded: bool,
        batch: &mut Batch,
    ) -> Result<(), ApplyError> {
        let Arrival { event, at, redelivered } = arrival;
        let mod_revision = event.mod_revision();
        let lenient = self.continuity == Continuity::Lenient;
        if redelivered && (lenient || superseded || self.has_effect_of(&event)) {
            return Ok(());
        }
        let repeated = matches!(event, Event::Delete { .. })
            && self.now.is_none()
            && self.last == Some(mod_revision);
        if repeated {
            // One transaction can delete a key twice; the second has no effect.
            return Ok(());
        }
        let reason = if redelivered { Some(Break::ModRevision) } else { self.break_of(&event) };
        if let Some(reason) = reason {
            let key = event.key().to_vec();
            if self.continuity == Continuity::Strict {
                return Err(ApplyError::Discontinuity { key, mod_revision, reason });
            }
            let applied = reason.applies_leniently();
            batch.tolerated.push(Tolerated { key, mod_revision, reason, applied });
            if !applied {
                return Ok(());
            }
        }
        self.take(at, event);
        Ok(())
    }

    /// Whether the view has the effect of a redelivered event, the last of its key and revision (B7).
    /// If not, the event was never applied, or it belongs to another history.
    fn has_effect_of(&self, event: &Event) -> bool {
        match (self.now, event) {
            (None, Event::Delete { .. }) => true,
            // Below the confirmed revision it may have been deleted since; from there on only by this batch.
            (None, Event::Put(kv)) => self.last.is_some() || kv.mod_revision < self.confirmed,
            (Some(now), Event::Delete { mod_revision, .. }) => now.mod_revision > *mod_revision,
            (Some(now), Event::Put(kv)) if now.mod_revision == kv.mod_revision => {
                now.create_revision == kv.create_revision
                    && (now.version == kv.version || now.version == 0 || kv.version == 0)
            }
            (Some(now), Event::Put(kv)) => now.mod_revision > kv.mod_revision,
        }
    }

    fn break_of(&self, event: &Event) -> Option<Break> {
        let revision = event.mod_revision();
        let same_revision = self.last == Some(revision);
        match (self.now, event) {
            (None, Event::Delete { .. }) => Some(Break::UnknownKeyDeleted),
            (None, Event::Put(kv)) if kv.create_revision != kv.mod_revision => {
                Some(Break::UnknownKeyModified)
            }
            (None, Event::Put(kv)) => {
                let first = kv.version <= 1 && Numbers::from(kv).is_possible();
                (!first).then_some(Break::CreatedVersion)
            }
            (Some(now), _) if revision <= now.mod_revision && !same_revision => {
                Some(Break::ModRevision)
            }
            (Some(_), Event::Delete { .. }) => None,
            (Some(now), Event::Put(kv)) if kv.create_revision != now.create_revision => {
                Some(Break::CreateRevision)
            }
            (Some(now), Event::Put(kv)) => {
                // Version 0 comes from a server that keeps none.
                let kept = now.version != 0 && kv.version != 0;
                let follows = !kept || kv.version.checked_sub(1) == Some(now.version);
                let follows = follows && Numbers::from(kv).is_possible();
                (!follows).then_some(Break::Version)
            }
        }
    }

    fn take(&mut self, at: u32, event: Event) {
        self.last = Some(event.mod_revision());
        match &event {
            Event::Put(kv) => {
                let numbers = Numbers::from(kv);
                if self.now.is_some_and(|now| now.create_revision != numbers.create_revision) {
                    // Only the lenient mode gets here: the missing deletion is implied.
                    self.sum.deleted = true;
                    self.sum.life = self.sum.events.len();
                }
                self.now = Some(numbers);
            }
            Event::Delete { .. } => {
                self.now = None;
                self.sum.deleted = true;
                self.sum.life = self.sum.events.len() + 1;
            }
        }
        self.sum.events.push((at, event));
    }
}

#[cfg(test)]
mod tests;
