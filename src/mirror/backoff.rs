//! How long to wait after a failure.
//!
//! Owns the growing, jittered delays. Counts failures, never turns of the loop; who calls
//! [`Backoff::reset`] must have proof of health (an event or progress), not just an open stream.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Delays that double from a minimum to a maximum. With jitter each lies between half of its
/// nominal value and the whole.
#[derive(Debug)]
pub(crate) struct Backoff {
    builder: ExponentialBuilder,
    delays: ExponentialBackoff,
    max: Duration,
    seed: u64,
}

impl Backoff {
    /// A maximum below the minimum is raised to it.
    pub(crate) fn new(min: Duration, max: Duration, seed: u64) -> Self {
        let max = max.max(min);
        // The library's jitter adds up to the whole delay, so half the wanted delay is asked for.
        let builder = ExponentialBuilder::new()
            .with_min_delay(min / 2)
            .with_max_delay(max / 2)
            .with_factor(2.0)
            .with_jitter()
            .without_max_times();
        let delays = builder.with_jitter_seed(seed).build();
        Backoff { builder, delays, max, seed }
    }

    /// The delay after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.max).min(self.max)
    }

    /// Starts over after proof of health.
    pub(crate) fn reset(&mut self) {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.delays = self.builder.with_jitter_seed(self.seed).build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t64_delays_double_within_bounds_and_start_over_only_when_told() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::new(min, max, 7);
        let mut nominal = min;
        for _ in 0..20 {
            let delay = backoff.next();
            assert!(delay >= nominal / 2 && delay <= nominal, "{delay:?} for {nominal:?}");
            nominal = (nominal * 2).min(max);
        }
        backoff.reset();
        assert!(backoff.next() <= min);
    }

    #[test]
    fn t64_a_maximum_below_the_minimum_is_raised() {
        let min = Duration::from_secs(1);
        let mut backoff = Backoff::new(min, Duration::ZERO, 7);
        for _ in 0..5 {
            let delay = backoff.next();
            assert!(delay >= min / 2 && delay <= min);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_delays() {
        let delays = |seed| {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(9), seed);
            [backoff.next(), backoff.next(), backoff.next()]
        };
        assert_eq!(delays(3), delays(3));
        assert_ne!(delays(3), delays(4));
    }
}
