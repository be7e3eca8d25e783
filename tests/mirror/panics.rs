//! A panic on the mirror's task is the reason why the key space ends, and its data stays readable.

use etcd_keyspace::{Builder, RawKeyValue};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::logs::Lines;
use super::*;

/// A value whose `Drop` panics if its text says so.
#[derive(Debug)]
struct Fragile(String);

impl Drop for Fragile {
    fn drop(&mut self) {
        assert!(self.0 != "fragile" || std::thread::panicking(), "a fragile value was dropped");
    }
}

fn fragile() -> Builder<Fragile> {
    let decode = |kv: RawKeyValue| String::from_utf8(kv.value).map(Fragile);
    KeySpace::builder(fake::PREFIX).unwrap().decoder(decode).seed(7).apply_delay(Duration::ZERO)
}

#[track_caller]
fn assert_panicked(reason: &StopReason) {
    let StopReason::Panicked { message } = reason else { panic!("{reason:?}") };
    assert!(message.contains("a fragile value was dropped"), "{message}");
}

/// Has a fragile value replaced; the mirror drops it.
async fn replace(ks: &KeySpace<Fragile>, etcd: &FakeEtcd) -> Revision {
    let revision = etcd.put("/k/a", "fragile");
    ks.wait_for_revision(revision).await.unwrap();
    etcd.put("/k/a", "1")
}

/// What is left of the key space after its mirror has panicked.
async fn assert_ended(ks: &KeySpace<Fragile>, shown: Revision) {
    assert_panicked(&ks.closed().await);
    let WaitError::Stopped(reason) = ks.wait_for_revision(shown + 1).await.unwrap_err() else {
        panic!("the wait says why");
    };
    assert_panicked(&reason);
    let status = ks.status();
    assert_eq!(status.state, State::Stopped);
    assert!(status.last_error.is_some_and(|error| error.to_string().contains("fragile value")));
    // The step was published whole before its old values were dropped.
    assert_eq!((ks.read().revision(), ks.snapshot().revision()), (shown, shown));
    assert_eq!(ks.read().get("/k/a").unwrap().value().0, "1");
    let derived = ks.derive(0, |count, delta, _, _| *count += delta.len());
    assert_eq!(*ks.read().derived(&derived), 1);
    ks.shutdown().await;
    assert_panicked(&ks.closed().await);
}

#[tokio::test(start_paused = true)]
async fn h64_a_panic_ends_a_started_mirror_with_its_message() {
    let lines = Lines::default();
    let _logging = tracing::subscriber::set_default(lines.clone());
    let etcd = etcd();
    let ks = fragile().name("named").start(etcd.clone()).await.unwrap();
    let waiting = tokio::spawn({
        let ks = ks.clone();
        async move { ks.wait_for_revision(1_000).await }
    });
    let shown = replace(&ks, &etcd).await;
    assert_ended(&ks, shown).await;
    assert!(matches!(waiting.await.unwrap(), Err(WaitError::Stopped(StopReason::Panicked { .. }))));
    let logged = lines.with("mirror stopped");
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0].starts_with("ERROR") && logged[0].contains("a fragile value"), "{logged:?}");
    assert!(logged[0].contains("name=named"), "{logged:?}");
}

#[tokio::test(start_paused = true)]
async fn h64_a_panic_is_what_run_returns() {
    let etcd = etcd();
    let (ks, mirror) = fragile().build(etcd.clone());
    let running = tokio::spawn(mirror.run());
    ks.loaded().await.unwrap();
    let shown = replace(&ks, &etcd).await;
    assert_ended(&ks, shown).await;
    assert_panicked(&running.await.expect("the task itself does not panic"));
}

#[tokio::test(start_paused = true)]
async fn h64_a_panic_is_what_step_returns_from_then_on() {
    let etcd = etcd();
    let (ks, mut mirror) = fragile().build(etcd.clone());
    let stopped = async {
        loop {
            if let Some(reason) = mirror.step().await {
                return reason;
            }
        }
    };
    let writing = async {
        ks.loaded().await.unwrap();
        replace(&ks, &etcd).await
    };
    let (reason, shown) = tokio::join!(stopped, writing);
    assert_panicked(&reason);
    assert_ended(&ks, shown).await;
    assert_panicked(&mirror.step().await.expect("it has stopped"));
    let closed = async {
        while etcd.counts().watchers > 0 {
            tokio::time::sleep(MS).await;
        }
    };
    timeout(1_000 * MS, closed).await.expect("nothing runs beside it");
}

/// Panics when the span of the first load is made, which is on the mirror's task.
#[derive(Default)]
struct Spans(AtomicUsize);

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("etcd_keyspace") && metadata.is_span()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "the first span panics");
        Id::from_u64(1)
    }

    fn event(&self, _: &Event<'_>) {}
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test(start_paused = true)]
async fn h64_a_panic_before_the_first_load_ends_start() {
    let _logging = tracing::subscriber::set_default(Spans::default());
    let reason = builder().start(etcd()).await.expect_err("nothing was loaded");
    let StopReason::Panicked { message } = reason else { panic!("{reason:?}") };
    assert_eq!(message, "the first span panics");
}
