//! What every publication of one key space must show, progress included.
//!
//! Owns the checks of single views against the truth; must not know what is done to the store.

use std::sync::Arc;

use etcd_keyspace::{Rejected, Revision, View};

use crate::observed::{Expect, SharedFolded, check_groups};
use crate::reader::Options;
use crate::truth::{SharedTruth, Shown, Truth};
use crate::value::Value;

/// What was published so far.
pub(crate) struct Audit {
    truth: SharedTruth,
    expect: Expect,
    folded: SharedFolded,
    epoch: u64,
    revision: Revision,
    confirmed: Revision,
    /// Where the entries are that were shown at `revision`. They are not kept, so that it is the
    /// writer who drops them (C5).
    places: Vec<usize>,
    /// The entries themselves, where another history may have to be compared with them.
    shown: Vec<Shown>,
    /// The eras of the store that fit everything shown in this epoch.
    eras: Vec<usize>,
    /// A server has lost history without a word, which only a later touch of the key reveals.
    tainted: bool,
    /// Another history was not found, where the docs of `proof_budget` say so. Nothing is checked until
    /// the next epoch.
    pub(crate) excused: bool,
    /// Within this epoch a later era looked like the one that is shown, so it may be shown already.
    confusable: bool,
    /// The mirror has loaded since events may have been lost. Such a load repairs what differs, and begins
    /// an epoch only where no loss of events explains it.
    pub(crate) gaps: bool,
    /// How many keys the mirror compares whole.
    budget: usize,
    /// Nothing of what the server says is sure to be true.
    pub(crate) forged: bool,
}

impl Audit {
    pub(crate) fn new(folded: SharedFolded, truth: SharedTruth, of: &Options) -> Self {
        Audit {
            truth,
            expect: of.expect,
            folded,
            budget: of.budget,
            epoch: 0,
            revision: 0,
            confirmed: 0,
            places: Vec::new(),
            shown: Vec::new(),
            eras: vec![0],
            tainted: false,
            excused: false,
            confusable: false,
            gaps: false,
            forged: false,
        }
    }

    pub(crate) fn see(&mut self, view: &View<Value>, rejected: &[Rejected]) {
        if view.revision() == 0 {
            return;
        }
        self.tainted = self.truth.lock().unwrap().is_tainted();
        self.check_numbers(view);
        if !self.forged && !self.excused {
            if !self.tainted {
                check_groups(view);
            }
            self.check_truth(view, rejected);
        }
        let mut folded = self.folded.lock().unwrap();
        folded.bookmark = folded.bookmark.max(view.confirmed());
        drop(folded);
        self.places = places(view).collect();
        if !self.expect.honest {
            self.shown = view.iter().cloned().collect();
        }
        (self.revision, self.confirmed) = (view.revision(), view.confirmed());
    }

    fn check_numbers(&mut self, view: &View<Value>) {
        assert!(view.revision() <= view.confirmed(), "C1");
        if view.epoch() != self.epoch {
            assert!(view.epoch() > self.epoch, "C6: the epoch went back");
            self.epoch = view.epoch();
            let mut truth = self.truth.lock().unwrap();
            truth.refresh();
            let first = self.eras.first().copied().unwrap_or(0);
            self.eras = (first..truth.eras()).collect();
            self.places.clear();
            (self.excused, self.confusable) = (false, false);
            return;
        }
        assert!(view.revision() >= self.revision, "C6: the revision went back");
        assert!(view.confirmed() >= self.confirmed, "C6: confirmed went back");
        // Also of what was forged or lost: where that is mended at the same revision, an epoch begins.
        if view.revision() == self.revision && !self.places.is_empty() {
            let same = places(view).eq(self.places.iter().copied());
            assert!(same, "C1: two views of one revision");
        }
    }

    /// C2, C10: what is confirmed is what the store was, in one and the same history per epoch.
    fn check_truth(&mut self, view: &View<Value>, rejected: &[Rejected]) {
        let mut truth = self.truth.lock().unwrap();
        truth.refresh();
        let at = view.confirmed();
        let mut misfits = Vec::new();
        let mut fits = |era: &usize| {
            let fits = if self.tainted {
                let once = truth.was_true(*era, at, view.iter());
                if once { Ok(()) } else { Err("something that never was".to_owned()) }
            } else {
                let fits = truth.fits(*era, at, self.expect.bad_values, view.iter());
                fits.and_then(|()| truth.fits_rejected(*era, at, rejected))
            };
            fits.map_err(|what| misfits.push(format!("era {era}: {what}"))).is_ok()
        };
        let mut eras: Vec<usize> = self.eras.iter().copied().filter(&mut fits).collect();
        if eras.is_empty() {
            // Where a backup has all that was known, or compaction hides what was lost, no new epoch
            // is due: the view of before is continued.
            let last = self.eras.last().copied().unwrap_or(0);
            let hidden = self.gaps || truth.compacted_after(last) > self.confirmed;
            let continued = |era: &usize| {
                let policy = self.expect.bad_values;
                hidden
                    || truth.fits(*era, self.confirmed, policy, self.shown.iter()).is_ok()
                    || self.eras.iter().any(|old| truth.agree(*old, *era, self.confirmed))
            };
            eras = (last + 1..truth.eras()).filter(continued).filter(&mut fits).collect();
        }
        self.confusable |= self.is_excused(&truth);
        if eras.is_empty() {
            self.excused = self.confusable;
        }
        if eras.is_empty() && !self.excused {
            let first = self.eras.first().map_or(0, |first| first + 1);
            let later = (first..truth.eras()).map(|era| {
                let before =
                    truth.fits(era, self.confirmed, self.expect.bad_values, self.shown.iter());
                (era, before, truth.fits(era, at, self.expect.bad_values, view.iter()))
            });
            let later: Vec<_> = later.collect();
            panic!(
                "C2, C10: confirmed {at} after {} and it is not so: {misfits:#?}, and later eras are {later:#?} \
                 (before, now), budget {}",
                self.confirmed, self.budget
            );
        }
        self.eras = eras;
    }

    /// Asserts that the view shows `era` or a later one, since a `sync` began in that era.
    pub(crate) fn expect_since(&mut self, era: usize, view: &View<Value>, rejected: &[Rejected]) {
        self.see(view, rejected);
        // A view that equals two histories is one of both.
        if self.equals_since(era, view, rejected) {
            return;
        }
        if !self.may_be_since(era) {
            // Nothing was written yet that would show it.
            self.excused = self.confusable || self.is_excused(&self.truth.lock().unwrap());
        }
        let since = self.may_be_since(era);
        assert!(since, "C2, C8: synced in era {era} with one that is gone, of {:?}", self.eras);
    }

    fn equals_since(&self, era: usize, view: &View<Value>, rejected: &[Rejected]) -> bool {
        let truth = self.truth.lock().unwrap();
        let (at, policy) = (view.confirmed(), self.expect.bad_values);
        (era..truth.eras()).any(|era| {
            truth.fits(era, at, policy, view.iter()).is_ok()
                && truth.fits_rejected(era, at, rejected).is_ok()
        })
    }

    /// Whether the mirror may have taken a later era for one that it knows.
    fn is_excused(&self, truth: &Truth) -> bool {
        let confused = |old: &usize| {
            let mut later = *old + 1..truth.eras();
            later.any(|new| truth.may_confuse(*old, new, self.confirmed, self.budget))
        };
        self.eras.iter().any(confused)
    }

    /// Whether what is shown may be the store of now.
    pub(crate) fn is_of_now(&self) -> bool {
        self.may_be_since(self.truth.lock().unwrap().eras() - 1)
    }

    fn may_be_since(&self, era: usize) -> bool {
        self.tainted || self.forged || self.excused || self.eras.iter().any(|fits| *fits >= era)
    }
}

fn places(view: &View<Value>) -> impl Iterator<Item = usize> {
    view.iter().map(|entry| Arc::as_ptr(entry).addr())
}
