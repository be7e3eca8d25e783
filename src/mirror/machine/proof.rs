//! Proving by content that the store has the history of the data.
//!
//! Owns the phase `Proving`, after every break and every load. It begins when the watch is open: a
//! connection that breaks may be made again without a word, to a store that was replaced meanwhile, but a
//! watch does not outlive its store. Its events wait in the intake, within its bound. A suspected store, or one that has to
//! be loaded, is compared before that.
//!
//! Where the range fits the budget, or the store is
//! suspected, everything is compared at the cursor's revision, values included. Otherwise the newest
//! live writes are, with their values, and the keys are counted. A deletion proves nothing: the store
//! of another history may lack that key too.

use std::time::Duration;

use super::{Action, Instant, Machine, Phase, Purpose, SourceError, SourceErrorKind};
use crate::mirror::options::Budget;
use crate::mirror::pager::{Pager, Step};
use crate::model::{Header, KeyRange, Numbers, Revision, ValueHash};
use crate::publish::LoadError;
use crate::source::{RangePage, RangeRequest};
use crate::view::{Differing, Write};

/// Bytes of keys and values in one page of a comparison.
const PAGE_BYTES: u64 = 1 << 20;
/// A range is read at most this fast while nothing is suspected, so that the mirrors of many processes
/// that reconnect together do not read all at once.
const BYTES_PER_SECOND: u64 = 2 << 20;
const PAUSE_MAX: Duration = Duration::from_secs(1);

pub(super) const OTHER_VALUE: &str = "a key has another value at a known revision";
const OTHER_KEYS: &str = "the store has other keys at the known revision";

/// What there is to compare.
#[derive(Debug)]
pub(crate) enum Basis {
    /// Everything; keys and values have no more bytes than this.
    Everything { bytes: u64 },
    /// The newest live writes, the newest first.
    Newest(Vec<Write>),
}

/// The proof under way.
#[derive(Debug)]
pub(super) struct Proof {
    /// The answer that showed which store it is, before a watch; with a watch it is not needed.
    header: Option<Header>,
    /// When the comparison begins.
    begins: Option<Instant>,
    pager: Option<Pager>,
    newest: Vec<Write>,
    /// Which of them is asked for; beyond them, the keys are counted.
    next: usize,
}

impl Machine {
    /// Begins to compare: before a watch, the store that answered with `header`, else that of the watch.
    pub(super) fn prove(&mut self, header: Option<Header>) {
        self.phase = Phase::Proving;
        let (begins, pager, newest) = (None, None, Vec::new());
        self.proof = Some(Proof { header, begins, pager, newest, next: 0 });
        // With gaps the content at the cursor is not what the store had, but single writes are.
        let budget = match (self.has_gaps(), self.is_suspected()) {
            (true, _) => None,
            (false, true) => Some(Budget::UNBOUNDED),
            (false, false) => Some(self.options.proof_budget),
        };
        self.act(Action::BeginProof(budget));
    }

    /// Whether the watch is open whose store is compared.
    pub(crate) fn proves_watch(&self) -> bool {
        let watched = self.proof.as_ref().is_some_and(|proof| proof.header.is_none());
        watched && self.phase == Phase::Proving
    }

    /// Whether events are known to be lost.
    fn has_gaps(&self) -> bool {
        self.reload.is_some_and(|reload| reload.doubted)
    }

    pub(super) fn proof_begun(&mut self, now: Instant, basis: Basis) {
        if self.phase != Phase::Proving {
            return;
        }
        match basis {
            Basis::Everything { bytes } => {
                let hurried = self.just_loaded || self.demand.is_any();
                let pause = Duration::from_millis(bytes.saturating_mul(1000) / BYTES_PER_SECOND);
                let pause = pause.min(PAUSE_MAX);
                let pause = if hurried { Duration::ZERO } else { self.jitter.up_to(pause) };
                let pager = Pager::new(self.range.clone(), self.known.cursor, PAGE_BYTES, 0);
                if let Some(proof) = &mut self.proof {
                    proof.pager = Some(pager);
                    proof.begins = Some(now + pause);
                }
                self.check_proof(now);
            }
            Basis::Newest(newest) => {
                if let Some(proof) = &mut self.proof {
                    proof.newest = newest;
                }
                self.ask_next(now);
            }
        }
    }

    /// Does what is due.
    pub(super) fn check_proof(&mut self, now: Instant) {
        let hurried = self.demand.is_any();
        let Some(proof) = &mut self.proof else { return };
        if proof.begins.take_if(|begins| hurried || *begins <= now).is_some() {
            self.ask_page();
        }
    }

    pub(super) fn proof_deadline(&self) -> Option<Instant> {
        self.proof.as_ref().and_then(|proof| proof.begins)
    }

    fn ask_page(&mut self) {
        let Some(pager) = self.proof.as_ref().and_then(|proof| proof.pager.as_ref()) else {
            return;
        };
        let request = pager.request();
        self.ask(Purpose::Compared, request);
    }

    pub(super) fn compared_page(&mut self, now: Instant, result: Result<RangePage, SourceError>) {
        let Some(pager) = self.proof.as_mut().and_then(|proof| proof.pager.as_mut()) else {
            return;
        };
        let (kvs, last) = match result.and_then(|page| pager.page(page)) {
            Ok(Step::More(kvs)) => (kvs, false),
            Ok(Step::Done(kvs, _)) => (kvs, true),
            Err(error) if error.kind() == SourceErrorKind::TooLarge && pager.shrink() => {
                return self.ask_page();
            }
            Err(error) => return self.not_proven(now, error),
        };
        if !last {
            self.ask_page();
        }
        let keys = kvs.into_iter();
        let keys = keys.map(|kv| (Numbers::from(&kv), ValueHash::of(&kv.value), kv.key));
        let keys = keys.map(|(numbers, value, key)| (key, numbers, Some(value))).collect();
        self.act(Action::AuditKeys { keys, last });
    }

    /// A page was compared.
    pub(super) fn compared(
        &mut self,
        now: Instant,
        result: Result<Differing, LoadError>,
        last: bool,
    ) {
        if self.phase != Phase::Proving {
            return;
        }
        match result {
            // Also where an old server lost events: a revision must not name two states (C1).
            Ok(differing) if differing.values > 0 => self.history_changed(now, OTHER_VALUE),
            Ok(differing) if differing.keys > 0 => self.history_changed(now, OTHER_KEYS),
            Ok(_) if last => self.proved(now),
            Ok(_) => {}
            Err(error) => {
                let kind = SourceErrorKind::Malformed;
                self.fail(now, SourceError::new(kind, "a page").with_cause(error));
            }
        }
    }

    /// Asks for the next of the newest live writes, then for the number of keys, all as of the cursor; with
    /// gaps only for the writes, each as of its own revision. One at a time, since many mirrors may ask.
    fn ask_next(&mut self, now: Instant) {
        let gaps = self.has_gaps();
        let Some(proof) = &self.proof else { return };
        let (index, newest) = (proof.next, proof.newest.first());
        let proven = newest.map_or(0, |write| write.numbers.mod_revision);
        match proof.newest.get(index) {
            Some(write) => {
                let key = KeyRange::key(write.key.as_slice());
                let at_write = write.numbers.mod_revision;
                let revision = if gaps { at_write } else { self.known.cursor };
                let request = RangeRequest { revision, limit: 1, ..RangeRequest::new(key) };
                self.ask(Purpose::Newest { index }, request);
            }
            None if gaps => self.proved(now),
            None => self.ask_census(proven),
        }
    }

    /// Asks whether the store has as many keys as are known, and none newer than `proven`.
    fn ask_census(&mut self, proven: Revision) {
        let cursor = self.known.cursor;
        let all =
            RangeRequest { revision: cursor, ..RangeRequest::new(KeyRange::clone(&self.range)) };
        let request = if proven < cursor && !self.just_loaded {
            // What moved the cursor beyond the newest write was progress, or a deletion. Another
            // history may have writes there, as by the count barrier (B13).
            let min_mod_revision = proven.saturating_add(1);
            RangeRequest { min_mod_revision, keys_only: true, limit: 1, ..all }
        } else {
            RangeRequest { count_only: true, ..all }
        };
        self.ask(Purpose::CountAtCursor, request);
    }

    pub(super) fn newest_read(
        &mut self,
        now: Instant,
        index: usize,
        result: Result<RangePage, SourceError>,
    ) {
        let proving = self.phase == Phase::Proving;
        let proof = self.proof.as_mut().filter(|proof| proving && proof.next == index);
        let Some(proof) = proof else { return };
        match result {
            Ok(page) => {
                let write = proof.newest.get(index);
                if write.is_some_and(|write| !write.is(page.kvs.first())) {
                    return self.history_changed(now, OTHER_KEYS);
                }
                proof.next += 1;
                self.ask_next(now);
            }
            Err(error) => self.not_proven(now, error),
        }
    }

    pub(super) fn census_taken(&mut self, now: Instant, result: Result<RangePage, SourceError>) {
        if self.phase != Phase::Proving {
            return;
        }
        match result {
            Ok(page) => {
                if !page.kvs.is_empty() || usize::try_from(page.count) != Ok(self.known.keys) {
                    return self.history_changed(now, OTHER_KEYS);
                }
                self.proved(now);
            }
            Err(error) => self.not_proven(now, error),
        }
    }

    fn not_proven(&mut self, now: Instant, error: SourceError) {
        match error.kind() {
            // Everything was read just now, and the watch began there: it would be compacted itself if its
            // store had been so far already. Reading again might never end under many compactions.
            SourceErrorKind::Compacted if self.proves_watch() && self.just_loaded => {
                self.act(Action::EndProof);
                self.live(now);
            }
            // The load that follows compares what is left of the known content.
            SourceErrorKind::Compacted => self.compacted(now),
            _ => self.fail(now, error),
        }
    }

    /// The store has the known content.
    fn proved(&mut self, now: Instant) {
        let Some(proof) = self.proof.take() else { return };
        self.act(Action::EndProof);
        let Some(header) = proof.header else { return self.live(now) };
        if self.is_suspected() && !self.has_gaps() {
            let (revision, raft_term) = (header.revision, header.raft_term);
            tracing::info!(name = %self.options.name, revision, raft_term,
                "the store has the known content; its history is the same");
            self.clear_suspicion(&header);
        }
        // A store that was another one may be the known one again, while its load was held.
        self.reload = self.reload.filter(|reload| reload.same_history);
        match self.reload {
            Some(reload) => self.begin_load(now, reload),
            None => self.open_watch(),
        }
    }
}
