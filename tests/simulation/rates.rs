//! How much is asked of the servers: bounded in every stretch of simulated time (no tight loop).
//!
//! Owns the bounds. They are generous factors above what a run needs, and orders of magnitude below
//! what a loop without delay asks.

use etcd_keyspace::testing::Counts;
use tokio::time::Instant;

/// What one reader may ask for per simulated second, whatever the servers do. A connection, and a load, is
/// followed by a proof of six small reads, or by as many pages as there are keys: some readers have pages of
/// one key.
const CONNECTS_PER_SECOND: u64 = 20;
const LOADS_PER_SECOND: u64 = 40;
const REQUESTS_PER_SECOND: u64 = 300;

/// What each thing done to the store or asked by a waiter may cost on top.
const CONNECTS_PER_ACT: u64 = 2;
const LOADS_PER_ACT: u64 = 4;
const REQUESTS_PER_ACT: u64 = 30;

/// Buckets that fill with time and acts, and empty with requests.
pub(crate) struct Rates {
    readers: u64,
    at: Instant,
    counts: Counts,
    connects: u64,
    loads: u64,
    requests: u64,
}

fn loads(counts: &Counts) -> u64 {
    counts.loads + counts.range_streams
}

fn requests(counts: &Counts) -> u64 {
    counts.reads() + counts.versions + counts.watches + counts.progress_requests
}

impl Rates {
    pub(crate) fn new(readers: usize) -> Self {
        let readers = readers as u64;
        Rates {
            readers,
            at: Instant::now(),
            counts: Counts::default(),
            connects: 4 * readers,
            loads: 8 * readers,
            requests: 40 * readers,
        }
    }

    /// Takes from the buckets what was asked for since the last time, during `acts` acts.
    pub(crate) fn check(&mut self, counts: Counts, acts: u64) {
        let now = Instant::now();
        let millis = u64::try_from((now - self.at).as_millis()).unwrap();
        let before = std::mem::replace(&mut self.counts, counts);
        self.at = now;
        let readers = self.readers;
        let refill = |bucket: u64, per_second: u64, per_act: u64, asked: u64, what: &str| {
            let full = bucket + readers * (per_second * millis / 1000 + per_act * acts);
            assert!(
                asked <= full,
                "C9, a tight loop: {asked} {what} in {millis} ms and {acts} acts, {full} allowed"
            );
            // A long silence saves nothing up for a loop: a second's worth at most.
            (full - asked).min(readers * (per_second + 8 * per_act))
        };
        let asked = counts.connects - before.connects;
        self.connects =
            refill(self.connects, CONNECTS_PER_SECOND, CONNECTS_PER_ACT, asked, "connects");
        let asked = loads(&counts) - loads(&before);
        self.loads = refill(self.loads, LOADS_PER_SECOND, LOADS_PER_ACT, asked, "loads");
        let asked = requests(&counts) - requests(&before);
        self.requests =
            refill(self.requests, REQUESTS_PER_SECOND, REQUESTS_PER_ACT, asked, "requests");
        assert!(counts.watchers <= readers, "C9: {} watchers are open", counts.watchers);
        assert_eq!(counts.polls_after_end, 0, "C11: a stream was polled after its end");
    }
}
