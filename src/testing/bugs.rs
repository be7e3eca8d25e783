//! The bugs of old etcd servers that a replica has to survive, and which version has which.
//!
//! Owns the table only. What a bug does is written where the fake does it, in `watcher` and `server`.

use crate::source::ServerVersion;

/// A bug of etcd that the fake repeats when asked to.
///
/// Switched on one by one with [`Faults::bug`](super::Faults::bug), or all those of one version with
/// [`Faults::impersonate`](super::Faults::impersonate). Source of the table: the change logs of etcd
/// and the issues named with each bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Bug {
    /// A requested progress notification overtakes events (etcd issue 15220).
    EarlyProgress,
    /// A requested progress notification is not answered before the first event (issue 17507).
    QuietProgress,
    /// A slow watcher that a compaction overtakes loses revisions without a word (issue 17529).
    SilentGap,
    /// A watch that starts at the compaction's revision misses the deletes of it (issue 18089).
    LostDelete,
    /// A watcher that starts in the future answers progress requests with the lower revision of now,
    /// and forgets its start when the member catches up (issue 20221).
    FutureStart,
    /// A negative start revision is accepted (issue 20707).
    NegativeStart,
    /// A watch with an expired token is refused as if the permission were missing (issue 14547).
    MaskedToken,
    /// A member that catches up sends its watchers their last revision again (issue 15271).
    BackInTime,
    /// A member that lags answers linearizable reads from its old state (issue 20418).
    StaleReads,
}

impl Bug {
    /// Every bug the fake knows.
    pub const ALL: [Bug; 9] = [
        Bug::EarlyProgress,
        Bug::QuietProgress,
        Bug::SilentGap,
        Bug::LostDelete,
        Bug::FutureStart,
        Bug::NegativeStart,
        Bug::MaskedToken,
        Bug::BackInTime,
        Bug::StaleReads,
    ];

    /// Whether etcd of `version` has the bug.
    #[must_use]
    pub fn afflicts(self, version: ServerVersion) -> bool {
        // The first good patch of 3.4, 3.5 and 3.6; later minor versions never had any of these.
        let first_good = match self {
            Bug::EarlyProgress | Bug::BackInTime => [25, 8, 0],
            Bug::SilentGap | Bug::QuietProgress => [31, 13, 0],
            Bug::LostDelete => [34, 16, 0],
            Bug::FutureStart => [38, 22, 2],
            Bug::NegativeStart => [38, 24, 6],
            Bug::MaskedToken => [22, 6, 0],
            Bug::StaleReads => [42, 28, 9],
        };
        let fixed = match (version.major, version.minor) {
            (3, minor @ 4..=6) => version.patch >= first_good[(minor - 4) as usize],
            (major, minor) => (major, minor) > (3, 6),
        };
        // The silence came with the repair of the early answers.
        let not_yet = self == Bug::QuietProgress && Bug::EarlyProgress.afflicts(version);
        !fixed && !not_yet
    }
}
