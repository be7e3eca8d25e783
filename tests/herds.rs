//! Many mirrors of one etcd that can only do so much: how long they queue when all want the same at the
//! same moment, and that chance keeps them from doing so again and again.
//!
//! On a paused clock, with a fake etcd that works on one answer after the other. `cargo test --features
//! test-util --test herds -- --nocapture` prints the table that `guide::production` quotes.
#![cfg(feature = "test-util")]

mod fake;

use std::time::Duration;

use etcd_keyspace::testing::{Counts, FakeEtcd};
use etcd_keyspace::{Builder, KeySpace, State};
use tokio::task::JoinSet;
use tokio::time::Instant;

type Mirror = KeySpace<Vec<u8>>;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// One etcd on two processors, as the example `fleet` has measured it: a complete read of 20,000 keys
/// takes it some 50 ms, and a small request, its share of the connection included, half of one.
const KEYS: usize = 100;
const VALUE: usize = 100;
const REQUESTS_PER_SECOND: u32 = 2000;
const BYTES_PER_SECOND: u32 = 20 * (KEYS * (VALUE + 6)) as u32;

fn filled() -> FakeEtcd {
    let etcd = fake::etcd();
    for key in 0..KEYS {
        etcd.put(format!("{}{key:03}", fake::PREFIX), [b'v'; VALUE]);
    }
    etcd
}

/// With the default times. The range stands for one of 20,000 keys, which is beyond the budget of what is
/// compared whole.
fn builder(seed: u64) -> Builder<Vec<u8>> {
    KeySpace::builder(fake::PREFIX).unwrap().bytes().proof_budget(0, 0).seed(seed)
}

/// How long one mirror took from its own start, and the mirror.
type Started = (Duration, Mirror);

/// Starts mirrors evenly over `spread`.
async fn start(etcd: &FakeEtcd, count: u32, spread: Duration) -> Vec<Started> {
    let mut starts = JoinSet::new();
    for index in 0..count {
        let etcd = etcd.clone();
        starts.spawn(async move {
            tokio::time::sleep(spread * index / count).await;
            let begun = Instant::now();
            let ks = builder(index.into()).start(etcd).await.unwrap();
            (begun.elapsed(), ks)
        });
    }
    starts.join_all().await
}

/// Looks less often than would be too much work for a thousand at a time.
async fn until(ks: &Mirror, state: State) {
    while ks.status().state != state {
        tokio::time::sleep(10 * MS).await;
    }
}

/// Breaks all watches and waits until all are live again: what a warm restart asks etcd for is what a
/// watch that is resumed asks for.
async fn resume(etcd: &FakeEtcd, mirrors: Vec<Started>) -> Vec<Started> {
    let begun = Instant::now();
    etcd.faults().cut();
    let mut resumed = JoinSet::new();
    for (_, ks) in mirrors {
        resumed.spawn(async move {
            until(&ks, State::Reconnecting).await;
            until(&ks, State::Live).await;
            (begun.elapsed(), ks)
        });
    }
    resumed.join_all().await
}

/// What a herd has cost.
#[derive(Debug)]
struct Cost {
    all_live: Duration,
    median: Duration,
    longest_queue: Duration,
    failures: u64,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Cold(Duration),
    Warm,
}

async fn herd(count: u32, how: How) -> Cost {
    let etcd = filled();
    let limit = || etcd.faults().capacity(REQUESTS_PER_SECOND, BYTES_PER_SECOND);
    let begun = Instant::now();
    let (begun, started) = match how {
        How::Cold(spread) => {
            limit();
            (begun, start(&etcd, count, spread).await)
        }
        How::Warm => {
            let mirrors = start(&etcd, count, Duration::ZERO).await;
            limit();
            (Instant::now(), resume(&etcd, mirrors).await)
        }
    };
    let all_live = begun.elapsed();
    let mut each: Vec<_> = started.iter().map(|(took, _)| *took).collect();
    each.sort();
    let failures = started.iter().map(|(_, ks)| ks.status().counters.failures).sum();
    let longest_queue = etcd.counts().longest_queue;
    Cost { all_live, median: each[each.len() / 2], longest_queue, failures }
}

/// Prints a row of the table.
fn tell(count: u32, how: &str, cost: &Cost) {
    println!(
        "| {count} | {how} | {:.1} | {:.1} | {:.2} | {} |",
        cost.all_live.as_secs_f64(),
        cost.median.as_secs_f64(),
        cost.longest_queue.as_secs_f64(),
        cost.failures,
    );
}

/// T-64: whoever asks etcd for anything waits as long as the queue is.
#[tokio::test(start_paused = true)]
async fn t64_spread_starts_and_warm_restarts_shorten_the_queue() {
    println!("| mirrors | start | all live after s | median s | longest queue s | failures |");
    println!("|---|---|---|---|---|---|");
    for count in [100, 1000] {
        let together = herd(count, How::Cold(Duration::ZERO)).await;
        tell(count, "cold, together", &together);
        let slowly = 100 * MS * count;
        let spread = herd(count, How::Cold(slowly)).await;
        tell(count, &format!("cold, spread over {} s", slowly.as_secs()), &spread);
        let warm = herd(count, How::Warm).await;
        tell(count, "warm, together", &warm);

        assert!(spread.longest_queue * 10 < together.longest_queue, "{spread:?} {together:?}");
        assert!(spread.median * 10 < together.median, "{spread:?} {together:?}");
        assert_eq!(spread.failures, 0);
        // Eight small requests each: five of them compare the newest writes and the number of keys.
        assert!(warm.longest_queue * 10 < together.longest_queue, "{warm:?} {together:?}");
        assert!(warm.all_live * 7 < together.all_live, "{warm:?} {together:?}");
        // The break itself is the one failure of each.
        assert_eq!(warm.failures, u64::from(count));
    }
}

/// T-64: where the range fits the budget, a resumed watch costs etcd one read of it more, and those reads
/// are spread over half a second for each MiB.
#[tokio::test(start_paused = true)]
async fn t64_mirrors_that_compare_their_range_cost_a_read_of_it_each() {
    const READS_PER_SECOND: u32 = 100;
    let (count, value) = (100, 5_000);
    let etcd = fake::etcd();
    for key in 0..KEYS {
        etcd.put(format!("{}{key:03}", fake::PREFIX), vec![b'v'; value]);
    }
    let mut mirrors = Vec::new();
    for seed in 0..count {
        let builder = KeySpace::builder(fake::PREFIX).unwrap().bytes().seed(seed);
        let ks = builder.start(etcd.clone()).await.unwrap();
        mirrors.push((Duration::ZERO, ks));
    }
    etcd.faults().capacity(REQUESTS_PER_SECOND, READS_PER_SECOND * (KEYS * (value + 6)) as u32);
    let (begun, before) = (Instant::now(), etcd.counts());
    resume(&etcd, mirrors).await;
    let (took, after) = (begun.elapsed(), etcd.counts());
    println!("{count} of 0.5 MB: all live after {took:?}, queue {:?}", after.longest_queue);
    assert_eq!(after.many - before.many, count, "one read of the range each");
    assert!(took <= SECOND + SECOND * u32::try_from(count).unwrap() / READS_PER_SECOND, "{took:?}");
}

/// The greatest number of what `figure` counts in any of the `count` next stretches of time, and all.
async fn peak(
    etcd: &FakeEtcd,
    stretch: Duration,
    count: u32,
    figure: fn(&Counts) -> u64,
) -> (u64, u64) {
    let first = figure(&etcd.counts());
    let (mut before, mut peak) = (first, 0);
    for _ in 0..count {
        tokio::time::sleep(stretch).await;
        let now = figure(&etcd.counts());
        peak = peak.max(now - before);
        before = now;
    }
    (peak, before - first)
}

/// T-64: mirrors that were started together, or have seen the same event, ask apart from each other.
#[tokio::test(start_paused = true)]
async fn t64_checks_are_spread_over_time() {
    let count = 1000;
    let etcd = filled();
    let mirrors = start(&etcd, count, Duration::ZERO).await;
    // Each live one has asked at once; from here on only the checks are left.
    tokio::time::sleep(SECOND).await;
    for figure in [Counts::reads, |counts: &Counts| counts.progress_requests] {
        etcd.put(format!("{}000", fake::PREFIX), "an event for all");
        let (peak, all) = peak(&etcd, 100 * MS, 600, figure).await;
        assert!(peak <= u64::from(count) / 8, "{peak} of {count} in a tenth of a second");
        // Each at least every 5 s, and at most a third more often.
        assert!((12_000..=16_000).contains(&all), "{all} in a minute");
    }
    let oldest = mirrors.iter().filter_map(|(_, ks)| ks.status().current_as_of).max().unwrap();
    assert!(oldest <= 5 * SECOND, "{oldest:?}");
}

/// T-64: an audit reads everything, so that a fleet which audits together is a herd each time.
#[tokio::test(start_paused = true)]
async fn t64_audits_are_spread_over_time() {
    let etcd = filled();
    let mut mirrors = Vec::new();
    for seed in 0..100 {
        let builder = builder(seed).audit_interval(60 * SECOND);
        mirrors.push(builder.start(etcd.clone()).await.unwrap());
    }
    let (peak, all) = peak(&etcd, SECOND, 300, |counts| counts.keys_only).await;
    assert!(peak <= 20, "{peak} of 100 audits in a second");
    assert!((500..=700).contains(&all), "{all} in five minutes");
    assert!(mirrors.iter().all(|ks| ks.status().counters.drift == 0));
}

/// T-64: rights that end for all at once are asked for again one after the other.
#[tokio::test(start_paused = true)]
async fn t64_refused_mirrors_come_back_apart() {
    let etcd = filled();
    let mirrors = start(&etcd, 200, Duration::ZERO).await;
    etcd.faults().deny();
    etcd.faults().cut();
    // The break is repaired at once; what is refused then is asked for again after seconds.
    tokio::time::sleep(SECOND).await;
    let (peak, all) = peak(&etcd, 100 * MS, 300, |counts| counts.connects).await;
    assert!(peak <= 25, "{peak} of 200 in a tenth of a second");
    assert!((400..=900).contains(&all), "{all} in half a minute");
    etcd.faults().grant();
    for (_, ks) in &mirrors {
        until(ks, State::Live).await;
    }
}
