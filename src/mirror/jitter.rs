//! Chance in what is done again and again, so that processes started together do not ask together.
//!
//! Owns how much is left to chance: a time is only ever shortened, so that it stays the bound it is.
//! Must not know what is done then. Delays after failures have chance of their own, in `backoff`.

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Draws times; one seed gives one row of them.
#[derive(Debug)]
pub(crate) struct Jitter {
    seed: u64,
    drawn: u64,
}

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Jitter { seed, drawn: 0 }
    }

    /// A random part of `time`.
    pub(crate) fn up_to(&mut self, time: Duration) -> Duration {
        let shortened = self.shorten(time);
        (time - shortened) * 4
    }

    /// `time`, shortened at random by up to a quarter.
    pub(crate) fn shorten(&mut self, time: Duration) -> Duration {
        self.drawn += 1;
        let chance = xxh3_64_with_seed(&self.drawn.to_le_bytes(), self.seed);
        // The upper half alone, as a duration can be multiplied by 32 bits only.
        let share = u32::try_from(chance >> 32).unwrap_or(u32::MAX);
        time - time / 4 * share / u32::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t64_times_are_shortened_by_a_quarter_at_most_and_spread_over_it() {
        let time = Duration::from_secs(4);
        let mut jitter = Jitter::new(7);
        let mut seconds = [0; 4];
        for _ in 0..1000 {
            let drawn = jitter.shorten(time);
            assert!(drawn >= time * 3 / 4 && drawn <= time, "{drawn:?}");
            let quarter = (drawn - time * 3 / 4).as_millis() / 251;
            seconds[usize::try_from(quarter).unwrap()] += 1;
        }
        assert!(seconds.iter().all(|times| (200..300).contains(times)), "{seconds:?}");
    }

    #[test]
    fn the_longest_and_the_shortest_time_can_be_shortened() {
        let mut jitter = Jitter::new(7);
        for time in
            [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(10 * 365 * 24 * 3600)]
        {
            let drawn = jitter.shorten(time);
            assert!(drawn <= time && drawn >= time / 4 * 3, "{drawn:?}");
        }
    }

    #[test]
    fn each_seed_has_a_row_of_its_own() {
        let row = |seed| {
            let mut jitter = Jitter::new(seed);
            [(); 4].map(|()| jitter.shorten(Duration::from_secs(4)))
        };
        assert_eq!(row(3), row(3));
        assert_ne!(row(3), row(4));
    }
}
