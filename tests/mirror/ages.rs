//! How old the data of a healthy mirror is, whatever is written elsewhere.

use etcd_keyspace::testing::Counts;

use super::*;

const CHECK: Duration = Duration::from_secs(5);
/// The fake delays answers only.
const ROUND_TRIP: Duration = Duration::from_millis(10);
const BATCH: Duration = Duration::from_millis(30);
const SAMPLE: Duration = Duration::from_millis(5);
const WATCHED: Duration = Duration::from_secs(60);

/// Writes every so many milliseconds, zero for none: elsewhere, and in the mirrored range.
#[derive(Debug, Clone, Copy)]
struct Pattern {
    elsewhere: u32,
    here: u32,
}

fn is_due(every: u32, tick: u32) -> bool {
    every > 0 && (tick * 5).is_multiple_of(every)
}

/// The greatest age that a mirror showed in a minute, and what it asked for meanwhile.
async fn greatest_age(server: &str, pattern: Pattern, seed: u64) -> (Duration, Counts, Counts) {
    let etcd = FakeEtcd::with_seed(seed);
    etcd.set_version(version(server));
    etcd.put("/k/a", "1");
    etcd.faults().delay(ROUND_TRIP);
    let ks = builder().check_interval(CHECK).seed(seed).start(etcd.clone()).await.unwrap();
    let (mut greatest, mut tick, before) = (Duration::ZERO, 0, etcd.counts());
    let begun = Instant::now();
    while begun.elapsed() < WATCHED {
        if is_due(pattern.elsewhere, tick) {
            etcd.put("/other/x", "1");
        }
        if is_due(pattern.here, tick) {
            etcd.put("/k/b", "1");
        }
        tick += 1;
        tokio::time::sleep(SAMPLE).await;
        let status = ks.status();
        assert_eq!(status.state, State::Live);
        greatest = greatest.max(status.current_as_of.unwrap());
    }
    let after = etcd.counts();
    assert_eq!(ks.status().counters.failures, 0);
    (greatest, before, after)
}

#[tokio::test(start_paused = true)]
async fn h70_the_age_of_a_healthy_mirror_is_bounded() {
    let bound = CHECK + 2 * ROUND_TRIP + BATCH;
    // Servers whose progress is trusted, and servers where completeness is counted.
    for server in ["3.7.2", "3.5.1"] {
        for (elsewhere, here) in
            [(0, 0), (5, 0), (50, 0), (2_000, 0), (0, 50), (5, 50), (50, 2_000)]
        {
            let pattern = Pattern { elsewhere, here };
            let mut most = (Duration::ZERO, 0, 0);
            for seed in 0..4 {
                let (age, before, after) = greatest_age(server, pattern, seed).await;
                assert!(age <= bound, "{server} {pattern:?} seed {seed}: {age:?}");
                let progress = after.progress_requests - before.progress_requests;
                let counted = after.barriers - before.barriers;
                most = (most.0.max(age), most.1.max(progress), most.2.max(counted));
            }
            // Seventeen reads in a minute at most; each may lead to one request, and silence to another.
            assert!(most.1 <= 2 * 17 && most.2 <= 2 * 17, "{server} {pattern:?}: {most:?}");
        }
    }
}

/// The next answer may come from a member that is behind, or be dropped while events are sent.
#[tokio::test(start_paused = true)]
async fn h70_progress_that_is_not_enough_is_asked_for_again() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = builder().check_interval(CHECK).start(etcd.clone()).await.unwrap();
    // Every other answer is true of the revision before.
    let answers = AtomicUsize::new(0);
    etcd.faults().tamper(move |mut response| {
        if response.is_progress() && answers.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
            response.header = response.header.map(|h| Header { revision: h.revision - 1, ..h });
        }
        Some(response)
    });
    let before = etcd.counts().progress_requests;
    let begun = Instant::now();
    while begun.elapsed() < WATCHED {
        etcd.put("/other/x", "1");
        tokio::time::sleep(SAMPLE).await;
        let age = ks.status().current_as_of.unwrap();
        assert!(age <= CHECK + 150 * MS, "{age:?}");
    }
    let asked = etcd.counts().progress_requests - before;
    assert!(asked <= 3 * 17, "{asked}");
}

/// A revision that was read before a break and never reached must not hide what is read after it.
#[tokio::test(start_paused = true)]
async fn h70_a_reconnection_renews_the_age_at_once() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = builder().check_interval(CHECK).start(etcd.clone()).await.unwrap();
    assert_same(&ks, &etcd).await;
    etcd.put("/other/x", "1");
    etcd.faults().tamper(|response| (!response.is_progress()).then_some(response));
    let reads = etcd.counts().reads();
    etcd.until(|counts| counts.reads() > reads).await;
    tokio::time::sleep(10 * MS).await;
    etcd.faults().down();
    tokio::time::sleep(30_000 * MS).await;
    etcd.faults().heal();
    // Reads are answered before progress.
    etcd.faults().delay(50 * MS);
    etcd.faults().delay_call(Call::Range, 5 * MS);
    etcd.faults().up();
    while ks.status().state != State::Live {
        etcd.put("/other/x", "1");
        tokio::time::sleep(MS).await;
    }
    tokio::time::sleep(200 * MS).await;
    let status = ks.status();
    assert!(status.is_fresh(1_000 * MS), "{status:?}");
}
