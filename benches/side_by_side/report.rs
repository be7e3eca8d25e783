//! Measuring two things in turn, and what is printed of it.
//!
//! Owns rounds, medians and the lines of the report. Must not know what is measured.

use std::time::{Duration, Instant};

/// What was measured so far.
#[derive(Default)]
pub(crate) struct Report {
    met: usize,
    all: usize,
    only: Vec<String>,
}

pub(crate) const ROUNDS: usize = 7;

impl Report {
    /// A report of all bars, or of those named.
    pub(crate) fn new(only: Vec<String>) -> Self {
        Report { only, ..Report::default() }
    }

    /// Whether one of the bars is asked for. `S1` asks for all of its variants, such as `S1@each`.
    pub(crate) fn wants(&self, ids: &[&str]) -> bool {
        let asks = |only: &String, id: &str| match (only.split_once('@'), id.split_once('@')) {
            (Some(_), Some(_)) => only == id,
            (Some((bar, _)), None) => bar == id,
            (None, Some((bar, _))) => only == bar,
            (None, None) => only == id,
        };
        self.only.is_empty() || ids.iter().any(|id| self.only.iter().any(|only| asks(only, id)))
    }

    /// Runs both in turn, so that a machine that changes its speed changes both, and judges the
    /// median of the rounds' ratios.
    pub(crate) fn compare(
        &mut self,
        id: &str,
        what: &str,
        limit: f64,
        mut ours: impl FnMut() -> Duration,
        mut theirs: impl FnMut() -> Duration,
    ) {
        if !self.wants(&[id]) {
            return;
        }
        let (mut a, mut b, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        // One uncounted round warms caches and branch predictors of both.
        for round in 0..=ROUNDS {
            let (mine, other) = (ours().as_secs_f64(), theirs().as_secs_f64());
            if round > 0 {
                a.push(mine);
                b.push(other);
                ratios.push(mine / other.max(1e-12));
            }
        }
        let (ours, theirs) = (median(a), median(b));
        println!("{id:<4} {what}: {} against {}", show(ours), show(theirs));
        self.bar(id, median(ratios), limit);
    }

    /// Judges a ratio measured elsewhere.
    pub(crate) fn bar(&mut self, id: &str, ratio: f64, limit: f64) {
        self.all += 1;
        self.met += usize::from(ratio <= limit);
        println!("BAR {id} ratio={ratio:.4} limit={limit}");
    }

    pub(crate) fn finish(&self) {
        println!("BARS {}/{}", self.met, self.all);
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The shortest slice of each contender, in seconds; `slice` measures one of each.
///
/// Other work on the machine only lengthens a slice, so the shortest of many short ones is the
/// least disturbed.
pub(crate) fn shortest<const N: usize>(
    slices: usize,
    mut slice: impl FnMut(usize) -> [Duration; N],
) -> [f64; N] {
    let mut best = [f64::INFINITY; N];
    for number in 0..slices {
        for (best, taken) in best.iter_mut().zip(slice(number)) {
            *best = best.min(taken.as_secs_f64());
        }
    }
    best
}

/// Seconds in the unit that fits.
pub(crate) fn show(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s if s >= 1e-6 => format!("{:.2} us", s * 1e6),
        s => format!("{:.0} ns", s * 1e9),
    }
}

/// How long `work` takes.
pub(crate) fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
