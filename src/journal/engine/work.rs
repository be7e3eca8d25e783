//! What the writer is asked to do, and what comes of it.
//!
//! Owns the words only; the writer gives them their meaning.

use std::ops::Range;
use std::time::SystemTime;

use crate::journal::event::NewEvent;
use crate::journal::file::gc::Collected;
use crate::journal::mirror_batch::MirrorBatch;
use crate::journal::synthesize::Synthesizer;

/// What a call asks for.
#[derive(Debug)]
pub(in crate::journal) enum Work {
    Store(Vec<NewEvent>),
    Append(Box<MirrorBatch>),
    /// The same, with an event for each change.
    Tell(Box<(MirrorBatch, Synthesizer)>),
    Checkpoint {
        id: String,
        sequence: u64,
        back: bool,
    },
    ForgetCheckpoint(String),
    ForgetMirror(String),
    Collect(SystemTime),
    Flush,
}

impl Work {
    pub(in crate::journal) fn bytes(&self) -> usize {
        match self {
            Work::Store(events) => events.iter().map(NewEvent::bytes).sum(),
            Work::Append(batch) => batch.bytes(),
            Work::Tell(told) => told.0.bytes(),
            _ => 0,
        }
    }
}

/// What a call got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::journal) enum Answer {
    /// The sequence numbers of its events.
    Stored(Range<u64>),
    /// The checkpoint that is stored now.
    Checkpoint(u64),
    /// What was removed.
    Collected(Collected),
    /// Nothing besides that it is done.
    Done,
}
