//! What is logged: each change of state once, a row of failures once, and nothing per message.

use std::fmt::Write as _;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::*;

/// Keeps the crate's own lines at level info and above.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    pub(super) fn with(&self, text: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| line.contains(text)).cloned().collect()
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("etcd_keyspace") && *metadata.level() <= Level::INFO
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test(start_paused = true)]
async fn t68_each_change_of_state_is_logged_once_and_failures_are_counted_not_repeated() {
    let lines = Lines::default();
    let _logging = tracing::subscriber::set_default(lines.clone());
    let etcd = etcd();
    let ks = builder().name("named").start(etcd.clone()).await.unwrap();
    for round in 0..20 {
        etcd.put("/k/a", round.to_string());
    }
    assert_same(&ks, &etcd).await;
    etcd.faults().down();
    tokio::time::sleep(60_000 * MS).await;
    assert!(ks.status().counters.failures > 20, "it kept trying");
    etcd.delete("/k/a");
    etcd.compact(etcd.revision());
    etcd.faults().up();
    assert_same(&ks, &etcd).await;
    reaches(&ks, State::Live).await;
    ks.shutdown().await;

    let states: Vec<_> = lines
        .with("key space changed state")
        .iter()
        .map(|line| {
            assert!(line.contains("name=named") && line.contains("revision="), "{line}");
            let to = line.split(" to=").nth(1).unwrap();
            to.split(' ').next().unwrap().to_owned()
        })
        .collect();
    assert_eq!(states, ["live", "reconnecting", "reloading", "live"]);
    assert_eq!(lines.with("the mirror lost etcd").len(), 1, "{:?}", lines.with("WARN"));
    assert_eq!(lines.with("mirror stopped").len(), 1);
    let all = lines.0.lock().unwrap().len();
    assert!(all < 15, "{all} lines for twenty writes and one outage: {lines:?}", lines = lines.0);
}

#[tokio::test(start_paused = true)]
async fn t19_gz24_another_member_or_term_is_logged_once() {
    let lines = Lines::default();
    let _logging = tracing::subscriber::set_default(lines.clone());
    let etcd = etcd();
    let ks = builder().apply_delay(Duration::ZERO).start(etcd.clone()).await.unwrap();
    for term in 12..14 {
        etcd.faults().tamper(move |mut response| {
            response.header = response.header.map(|header| Header { raft_term: term, ..header });
            Some(response)
        });
        for round in 0..10 {
            let revision = etcd.put("/k/a", round.to_string());
            ks.wait_for_revision(revision).await.unwrap();
        }
    }
    assert_eq!(lines.with("another member or term").len(), 2);
}

/// The rest of the queue is applied when the connection breaks, which says nothing about etcd now.
#[tokio::test(start_paused = true)]
async fn h72_events_queued_at_a_break_do_not_hide_the_outage() {
    for queued in [false, true] {
        let lines = Lines::default();
        let _logging = tracing::subscriber::set_default(lines.clone());
        let etcd = etcd();
        let ks = start(&etcd).await;
        ks.wait_for_revision(etcd.put("/k/a", "1")).await.unwrap();
        let newest = if queued { etcd.put("/k/b", "1") } else { etcd.revision() };
        tokio::time::sleep(5 * MS).await;
        let shown = ks.read().revision();
        assert_eq!(shown < newest, queued, "the second event waits for the apply delay");
        etcd.faults().down();
        tokio::time::sleep(20 * MS).await;
        assert_eq!(ks.read().revision(), newest, "applied although the connection is gone");
        let status = ks.status();
        assert_eq!(status.state, State::Reconnecting);
        assert!(status.last_error.is_some(), "queued: {queued}");
        tokio::time::sleep(30_000 * MS).await;
        assert!(ks.status().last_error.is_some());
        assert_eq!(lines.with("the mirror lost etcd").len(), 1, "queued: {queued}");
        etcd.faults().up();
        reaches(&ks, State::Live).await;
        assert_same(&ks, &etcd).await;
        assert!(ks.status().last_error.is_none());
    }
}

/// A connection that brought new events before it broke makes its end a first failure: the watch of a
/// store with much to send advances although each connection breaks early.
#[tokio::test(start_paused = true)]
async fn h72_new_events_make_the_break_a_first_failure() {
    let etcd = etcd();
    let ks = start(&etcd).await;
    // Progress would prove each connection by itself.
    etcd.faults().tamper(|response| (!response.is_progress()).then_some(response));
    for n in 0..10 {
        etcd.put("/k/a", n.to_string());
        tokio::time::sleep(5 * MS).await;
        let begun = Instant::now();
        etcd.faults().cut();
        reaches(&ks, State::Reconnecting).await;
        reaches(&ks, State::Live).await;
        assert!(begun.elapsed() <= 150 * MS, "{:?} in round {n}", begun.elapsed());
    }
    etcd.faults().heal();
    assert_same(&ks, &etcd).await;
}
