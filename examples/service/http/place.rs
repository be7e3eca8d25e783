//! The id of an event: where a client that comes back goes on.
//!
//! Owns [`Place`], its text form, and which places are of use here. Must not know what is sent.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;

use etcd_keyspace::{KeySpace, Revision};

use super::document::Document;

/// All events through this revision were told.
///
/// An epoch counts in one process only, so a place names the process too. Another replica could not
/// tell whether etcd was replaced by a backup since, which uses revisions again: there a client begins
/// anew, rather than on top of a state that never was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) revision: Revision,
    pub(super) epoch: u64,
    pub(super) process: u64,
}

/// A number that no other process has.
pub(super) fn process() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{:x}", self.revision, self.epoch, self.process)
    }
}

impl FromStr for Place {
    /// Why nothing can be gone on from, as it is told to the client.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (revision, rest) = text.split_once('.')?;
            let (epoch, process) = rest.split_once('.')?;
            let process = u64::from_str_radix(process, 16).ok()?;
            Some(Place { revision: revision.parse().ok()?, epoch: epoch.parse().ok()?, process })
        };
        parse().ok_or("unknown_id")
    }
}

impl Place {
    /// The same place, if events of it can have been told here.
    pub(super) fn of_here(
        self,
        ks: &KeySpace<Document>,
        process: u64,
    ) -> Result<Self, &'static str> {
        if self.process != process {
            return Err("other_process");
        }
        let view = ks.snapshot();
        if self.epoch < view.epoch() {
            Err("new_epoch")
        } else if self.epoch > view.epoch() || self.revision > view.confirmed() {
            Err("unknown_id")
        } else {
            Ok(self)
        }
    }
}
