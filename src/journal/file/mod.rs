//! The file: its format, its tables, and opening it.

pub(in crate::journal) mod backend;
pub(in crate::journal) mod cache;
pub(in crate::journal) mod format;
pub(in crate::journal) mod gc;
pub(in crate::journal) mod mirror_records;
pub(in crate::journal) mod open;
pub(in crate::journal) mod pages;
pub(in crate::journal) mod rejected;
pub(in crate::journal) mod seal;
pub(in crate::journal) mod tables;
