//! Choices of how a mirror is stored.
//!
//! Must not act on them.

use std::time::Duration;

use crate::model::KeyRange;

/// How a mirror is stored; the default suits.
#[derive(Debug, Clone)]
pub struct MirrorOptions {
    pub(super) types: Vec<(KeyRange, String)>,
    pub(super) buffer_bytes: usize,
    pub(super) progress_interval: Duration,
}

impl Default for MirrorOptions {
    fn default() -> Self {
        MirrorOptions {
            types: Vec::new(),
            buffer_bytes: 64 << 20,
            progress_interval: Duration::from_secs(10),
        }
    }
}

impl MirrorOptions {
    /// Calls the objects of a range of keys so; of several ranges the first one counts. Others are
    /// called like the key space. Of a name the first 200 bytes count, and none is no name.
    #[must_use]
    pub fn object_type(mut self, range: impl Into<KeyRange>, name: impl Into<String>) -> Self {
        self.types.push((range.into(), name.into()));
        self
    }

    /// How many bytes may wait to be stored; 64 MiB unless set. Beyond that the mirror waits, and shows
    /// nothing newer, since every event is stored. As many again, but no more than 4 MiB, may be being
    /// stored; the complete read that a load is comes besides, as it is one step.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes.max(1);
        self
    }

    /// How often the place is stored while nothing happens, so that a later start does not find it
    /// compacted; 10 s unless set.
    #[must_use]
    pub fn progress_interval(mut self, interval: Duration) -> Self {
        self.progress_interval = interval;
        self
    }
}
