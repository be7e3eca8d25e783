//! All bars side by side: ratios of two things measured in turn in one run.
//!
//! `cargo bench --bench side_by_side` runs them all; `-- --quick` with fewer keys; `-- S1 S6` only those;
//! `-- storage` (with what follows it and the reads of handlers) or `-- etcd` one half (with those of the
//! journal, given the feature); `-- holds` how long the write lock is held by size.
//! The bar of decoding on several threads (R6) is in `cargo bench --bench loads`.

mod changes;
mod contenders;
mod data;
mod etcd_bars;
mod fan_out;
mod handlers;
mod items;
#[cfg(feature = "journal")]
mod journal_bars;
mod reads;
mod report;
mod storage;
mod tails;

use peak_alloc::PeakAlloc;
use report::Report;

/// Counts live heap bytes, at the same small price for every contender.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let flag = |name: &str| args.iter().any(|arg| arg == name);
    let quick = flag("--quick");
    let halves = [flag("storage"), flag("etcd")];
    let bars = args.iter().filter(|arg| {
        *arg == "holds"
            || arg.starts_with(['S', 'E', 'F', 'J', 'R'])
                && arg[1..].starts_with(|c: char| c.is_ascii_digit())
    });
    let bars: Vec<String> = bars.cloned().collect();
    let wants = |half: usize, letter: char| match (&halves, bars.is_empty()) {
        (_, false) => {
            bars.iter().any(|bar| bar.starts_with(letter) || (letter, &**bar) == ('S', "holds"))
        }
        ([false, false], true) => true,
        (halves, true) => halves[half],
    };
    let (keys, small) = if quick { (100_000, 10_000) } else { (1_000_000, 10_000) };
    let mut report = Report::new(bars.clone());
    println!("{keys} keys of 41 bytes, values of {} bytes", data::VALUE_BYTES);
    if wants(0, 'S') {
        storage::run(&mut report, keys, small);
    }
    if wants(0, 'F') {
        fan_out::run(&mut report, keys);
    }
    if wants(0, 'R') {
        handlers::run(&mut report, quick);
        tails::run(&mut report, quick);
    }
    if wants(1, 'E') {
        etcd_bars::run(&mut report, keys, quick);
    }
    #[cfg(feature = "journal")]
    if wants(1, 'J') {
        journal_bars::run(&mut report, keys, quick);
    }
    report.finish();
}
