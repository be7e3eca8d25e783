//! A mirror's journal: what it brings, and what a restart begins with.

pub(in crate::journal) mod appender;
pub(in crate::journal) mod attach;
pub(in crate::journal) mod difference;
