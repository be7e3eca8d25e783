use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proptest::prelude::*;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::*;

/// Cores that give every job but the first to any thread.
fn eager(threads: usize) -> Cores {
    Cores { worth: Duration::ZERO, ..Cores::new(threads) }
}

/// Waits for another thread, which needs no more than time.
fn until(holds: impl Fn() -> bool) {
    while !holds() {
        thread::yield_now();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn results_come_in_the_order_of_the_jobs(
        threads in 1_usize..6,
        jobs in proptest::collection::vec(0_u64..2_000, 0..100),
    ) {
        let mut delivered = Vec::new();
        let work = |job: u64, _| (0..job).fold(job, |sum, n| std::hint::black_box(sum ^ n));
        eager(threads).in_order(jobs.iter().copied(), work, |result| delivered.push(result));
        let expected: Vec<_> = jobs.into_iter().map(|job| work(job, Worker::Caller)).collect();
        prop_assert_eq!(delivered, expected);
    }
}

#[test]
fn results_wait_for_an_earlier_job_and_jobs_in_flight_are_bounded() {
    const JOBS: usize = 200;
    for threads in [2, 3, 5] {
        // The first job runs alone, then as many as the bound allows are in flight.
        let full = 1 + threads * AHEAD;
        let (made, delivered) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let jobs = (0..JOBS).inspect(|_| {
            let ahead = made.fetch_add(1, Ordering::SeqCst) - delivered.load(Ordering::SeqCst);
            assert!(ahead < threads * AHEAD, "{ahead} are in flight before this one");
        });
        let work = |job: usize, _| {
            if job == 1 {
                // All others that may be begun before it ends are done before it.
                until(|| made.load(Ordering::SeqCst) >= full);
            }
            job
        };
        eager(threads).in_order(jobs, work, |job| {
            assert_eq!(job, delivered.fetch_add(1, Ordering::SeqCst), "out of order");
        });
        assert_eq!(delivered.into_inner(), JOBS);
    }
}

#[test]
fn helpers_work_in_the_dispatcher_of_the_caller() {
    struct Own;
    impl Subscriber for Own {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            false
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, _: &Event<'_>) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }
    let helped = AtomicBool::new(false);
    let work = |job: usize, worker| {
        let own = dispatcher::get_default(Dispatch::is::<Own>);
        match worker {
            Worker::Helper => helped.store(true, Ordering::SeqCst),
            Worker::Caller if job > 0 => until(|| helped.load(Ordering::SeqCst)),
            Worker::Caller => {}
        }
        own
    };
    let mut own = Vec::new();
    dispatcher::with_default(&Dispatch::new(Own), || {
        eager(2).in_order(0..20, work, |is_own| own.push(is_own));
    });
    assert_eq!(own, [true; 20]);
}

#[test]
fn a_panic_of_a_job_is_resumed_at_its_turn() {
    for on in [Worker::Helper, Worker::Caller] {
        let panicked = AtomicUsize::new(usize::MAX);
        let mut delivered = 0;
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let work = |job: usize, worker| {
                if job == 0 {
                    return;
                }
                // No thread goes on before the one meant has panicked.
                if worker == on && panicked.load(Ordering::SeqCst) == usize::MAX {
                    panicked.store(job, Ordering::SeqCst);
                    std::panic::resume_unwind(Box::new(job));
                }
                until(|| panicked.load(Ordering::SeqCst) < usize::MAX);
            };
            eager(2).in_order(0..50, work, |()| delivered += 1);
        }));
        let job = *caught.unwrap_err().downcast::<usize>().unwrap();
        assert_eq!(job, panicked.into_inner());
        match on {
            Worker::Helper => assert_eq!(delivered, job, "those before it are delivered"),
            Worker::Caller => assert!(delivered <= job),
        }
    }
}

#[test]
fn threads_help_only_where_it_is_worth_it() {
    let caller_only = |cores: Cores, jobs: usize| {
        let mut delivered = 0;
        let here = thread::current().id();
        cores.in_order(
            0..jobs,
            |_, worker| (worker, thread::current().id()),
            |ran| {
                assert_eq!(ran, (Worker::Caller, here));
                delivered += 1;
            },
        );
        assert_eq!(delivered, jobs);
    };
    caller_only(eager(1), 50);
    caller_only(eager(0), 50);
    caller_only(Cores { worth: Duration::MAX, ..Cores::new(8) }, 50);
    // The first runs alone, and a single one is left.
    caller_only(eager(8), 2);
}
