//! The running journal: the thread that writes, and reading beside it.

pub(in crate::journal) mod journal;
pub(in crate::journal) mod queue;
pub(in crate::journal) mod read;
pub(in crate::journal) mod shared;
pub(in crate::journal) mod state_reader;
pub(in crate::journal) mod work;
pub(in crate::journal) mod writer;
