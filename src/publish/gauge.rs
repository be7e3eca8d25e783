//! The door of the metrics: what shows figures elsewhere, and the figures.

use std::panic::Location;

use super::status::Report;
use super::timer::OnRecord;
use crate::model::Revision;

/// Whoever shows figures elsewhere: the feature `metrics` has one.
pub(crate) trait Gauge: Send + Sync {
    /// The figures may have changed.
    fn show(&self, figures: &Figures<'_>);
    /// A batch of so many events was applied.
    fn applied(&self, events: usize);
    /// Whom to tell the times of an observer.
    fn observer(&self, registered: &'static Location<'static>) -> OnRecord;
    /// The key space has ended.
    fn ended(&self);
}

/// What can be shown of a key space, without taking its lock.
pub(crate) struct Figures<'a> {
    pub(crate) report: &'a Report,
    pub(crate) revision: Revision,
    pub(crate) confirmed: Revision,
    pub(crate) keys: usize,
    pub(crate) key_bytes: usize,
    /// Takes time that grows with the number of runs.
    pub(crate) heap_bytes: &'a dyn Fn() -> usize,
    pub(crate) rejected: usize,
    pub(crate) waits: usize,
    pub(crate) followers: usize,
    pub(crate) kept_events: usize,
    pub(crate) resyncs: u64,
    pub(crate) ended: bool,
}
