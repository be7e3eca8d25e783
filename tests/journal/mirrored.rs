//! A mirror that is stored: every event once, the state of its last revision, and starting from it.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use etcd_keyspace::journal::{Beyond, MirrorOptions, StateReader};
use etcd_keyspace::testing::FakeEtcd;
use etcd_keyspace::{
    Builder, Decoder, KeyRange, KeySpace, OnBadStore, OnHistoryChange, RawKeyValue, Revision,
    State, StopReason, bytes,
};
use tokio::time::timeout;

use super::faulty::{Faulty, Kind};
use super::*;

fn builder() -> Builder<Vec<u8>> {
    things(bytes())
}

/// A mirror that applies at once and tries again soon.
pub(crate) fn things<T: Send + Sync + 'static>(decoder: impl Decoder<T>) -> Builder<T> {
    KeySpace::builder("/k/")
        .unwrap()
        .decoder(decoder)
        .name("things")
        .seed(7)
        .apply_delay(Duration::ZERO)
        .backoff(Duration::from_millis(5), Duration::from_millis(50))
}

/// Refuses what has a `!` in front.
pub(crate) fn text(kv: RawKeyValue) -> Result<String, String> {
    let value = String::from_utf8(kv.value).map_err(|error| error.to_string())?;
    if value.starts_with('!') { Err(value) } else { Ok(value) }
}

/// An etcd whose clock is the real one: a journal's thread does not wait for a paused one.
pub(crate) fn etcd() -> FakeEtcd {
    let etcd = FakeEtcd::new();
    etcd.put("/k/a", "1");
    etcd.put("/k/b", "1");
    etcd
}

pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    timeout(SOON, future).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// Waits until the journal has `count` events.
pub(crate) async fn stored(journal: &Journal, count: u64) {
    let mut options = ReadOptions::default();
    (options.beyond, options.timeout) = (Beyond::Wait, Some(SOON));
    let page = journal.events_with(Position::At(count), &options).await.unwrap();
    assert!(!page.events.is_empty(), "event {count} takes too long");
}

/// Each event as its kind, key and revision, with a star when it was made from a difference.
async fn told(journal: &Journal) -> Vec<String> {
    let tell = |event: Arc<StoredEvent>| {
        let key = String::from_utf8(event.key.clone().unwrap()).unwrap();
        let star = if event.synthesized { "*" } else { "" };
        format!("{} {key} {}{star}", event.operation, event.revision.unwrap())
    };
    all(journal).await.into_iter().map(tell).collect()
}

/// The one mirror's stored state.
async fn state_of(journal: &Journal) -> (Revision, BTreeMap<Vec<u8>, Vec<u8>>) {
    let [(name, _)] = &journal.mirrors().await.unwrap()[..] else { panic!("one mirror") };
    let mut reader: StateReader = journal.state(name).await.unwrap().unwrap();
    let revision = reader.stored().cursor.revision;
    let page = reader.page(1_000).unwrap();
    assert!(reader.page(1_000).unwrap().is_empty());
    (revision, page.into_iter().map(|kv| (kv.key, kv.value)).collect())
}

async fn shows(ks: &KeySpace<Vec<u8>>, etcd: &FakeEtcd) {
    soon("the newest", ks.wait_for_revision(etcd.revision())).await.unwrap();
    let truth = etcd.range_at(&KeyRange::prefix("/k/"), etcd.revision());
    let truth: Vec<_> = truth.into_iter().map(|kv| (kv.key, kv.value)).collect();
    let shown: Vec<_> = ks.read().iter().map(|e| (e.key().to_vec(), e.value().clone())).collect();
    assert_eq!(shown, truth);
}

async fn reaches(ks: &KeySpace<Vec<u8>>, state: State) {
    soon("the state", async {
        while ks.status().state != state {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn bw1_every_event_is_stored_once_in_order_and_the_state_with_it() {
    let etcd = etcd();
    let journal = in_memory().await;
    let options = MirrorOptions::default().object_type("/k/b".."/k/c", "bee");
    let ks = builder().journal_with(&journal, options).start(etcd.clone()).await.unwrap();
    etcd.put("/k/a", "2");
    etcd.put("/k/a", "3");
    etcd.delete("/k/b");
    etcd.put("/k/b", "4");
    etcd.put("/elsewhere", "1");
    shows(&ks, &etcd).await;
    stored(&journal, 6).await;
    let expected = [
        "create /k/a 3*",
        "create /k/b 3*",
        "update /k/a 4",
        "update /k/a 5",
        "delete /k/b 6",
        "create /k/b 7",
    ];
    assert_eq!(told(&journal).await, expected);
    let types: Vec<_> = all(&journal).await.iter().map(|e| e.object_type.clone()).collect();
    assert_eq!(types, ["things", "bee", "things", "things", "bee", "bee"]);
    assert_eq!(all(&journal).await[3].object, b"3");
    let (revision, state) = state_of(&journal).await;
    assert!(revision >= 7);
    assert_eq!(state.into_values().collect::<Vec<_>>(), [b"3", b"4"]);
    assert!(ks.status().store_error.is_none());
}

/// Breaks, duplicates and reopened watches leave nothing out and store nothing twice.
#[tokio::test]
async fn bw1_breaks_of_the_watch_do_not_show_in_the_journal() {
    let etcd = etcd();
    let journal = in_memory().await;
    let ks = builder().journal(&journal).start(etcd.clone()).await.unwrap();
    for round in 0..60 {
        etcd.put("/k/a", round.to_string());
        match round % 4 {
            0 => etcd.faults().cut(),
            1 => etcd.faults().end_streams(),
            2 => etcd.faults().duplicate(3),
            _ => {}
        }
        soon("the put", ks.wait_for_revision(etcd.revision())).await.unwrap();
    }
    stored(&journal, 62).await;
    let objects = texts(&all(&journal).await[2..]);
    assert_eq!(objects, (0..60).map(|round| round.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn j2_a_warm_start_serves_before_etcd_answers_and_reads_nothing_again() {
    let etcd = etcd();
    let journal = in_memory().await;
    let ks = builder().journal(&journal).start(etcd.clone()).await.unwrap();
    etcd.put("/k/c", "1");
    stored(&journal, 3).await;
    ks.shutdown().await;
    etcd.put("/k/a", "2");
    etcd.delete("/k/b");

    etcd.faults().down();
    let counts = etcd.counts();
    // Small ranges are compared whole otherwise.
    let builder = builder().proof_budget(0, 0).journal(&journal).restore(&journal);
    let ks = soon("a start", builder.start(etcd.clone())).await.unwrap();
    let status = ks.status();
    assert_eq!((status.state, ks.read().len(), status.confirmed), (State::Restored, 3, 4));
    assert!(status.restored_age.is_some_and(|age| age < SOON), "{status:?}");
    assert_eq!(ks.read().get("/k/a").unwrap().value(), b"1", "as it was");
    assert!(timeout(Duration::from_millis(50), ks.wait_for_revision(6)).await.is_err());

    etcd.faults().up();
    shows(&ks, &etcd).await;
    reaches(&ks, State::Live).await;
    let status = ks.status();
    assert_eq!((status.counters.loads, status.epoch, status.restored_age), (0, 1, None));
    let now = etcd.counts();
    assert_eq!((now.many, now.range_streams), (counts.many, counts.range_streams));
    stored(&journal, 5).await;
    assert_eq!(told(&journal).await[2..], ["create /k/c 4", "update /k/a 5", "delete /k/b 6"]);
}

#[tokio::test]
async fn h71_restored_data_is_served_beyond_the_load_timeout() {
    let etcd = etcd();
    let journal = in_memory().await;
    let ks = builder().journal(&journal).start(etcd.clone()).await.unwrap();
    stored(&journal, 2).await;
    ks.shutdown().await;
    etcd.faults().down();
    let builder = builder().restore(&journal).load_timeout(Duration::from_millis(20));
    let ks = soon("a start", builder.start(etcd.clone())).await.unwrap();
    let ended = timeout(Duration::from_millis(200), ks.closed()).await;
    assert!(ended.is_err(), "{ended:?}");
    etcd.faults().up();
    shows(&ks, &etcd).await;
}

#[tokio::test]
async fn bw_a_warm_start_after_a_compaction_stores_the_exact_difference() {
    let etcd = etcd();
    let journal = in_memory().await;
    let ks = builder().journal(&journal).start(etcd.clone()).await.unwrap();
    stored(&journal, 2).await;
    ks.shutdown().await;
    etcd.put("/k/a", "2");
    etcd.delete("/k/b");
    etcd.put("/k/c", "1");
    etcd.compact(etcd.revision());
    // With and without what was stored being served first.
    let warm = builder().journal(&journal).restore(&journal);
    let ks = soon("a start", warm.start(etcd.clone())).await.unwrap();
    shows(&ks, &etcd).await;
    stored(&journal, 5).await;
    let difference = ["update /k/a 6*", "delete /k/b 6*", "create /k/c 6*"];
    assert_eq!(told(&journal).await[2..], difference);
    ks.shutdown().await;
    etcd.delete("/k/a");
    etcd.put("/k/a", "again");
    let ks = builder().journal(&journal).start(etcd.clone()).await.unwrap();
    shows(&ks, &etcd).await;
    stored(&journal, 7).await;
    assert_eq!(told(&journal).await[5..], ["delete /k/a 8*", "create /k/a 8*"]);
    let (_, state) = state_of(&journal).await;
    assert_eq!(state.into_values().collect::<Vec<_>>(), [&b"again"[..], b"1"]);
}

#[tokio::test]
async fn what_is_stored_of_another_cluster_or_history_is_never_taken_for_this_one() {
    let etcd = etcd();
    let journal = in_memory().await;
    let start = async |etcd: &FakeEtcd| {
        let builder = builder().journal(&journal).restore(&journal);
        soon("a start", builder.start(etcd.clone())).await.unwrap()
    };
    let ks = start(&etcd).await;
    stored(&journal, 2).await;
    ks.shutdown().await;
    etcd.change_cluster();
    let ks = start(&etcd).await;
    let reason = soon("the end", ks.closed()).await;
    assert!(matches!(reason, StopReason::AnotherCluster { .. }), "{reason:?}");

    let anew = builder().journal(&journal).restore(&journal);
    let anew = anew.on_other_cluster(OnHistoryChange::Reload).start(etcd.clone()).await.unwrap();
    soon("a new epoch", anew.wait_until(|view| (view.epoch() == 2).then_some(()))).await.unwrap();
    soon("the new epoch", async {
        while journal.mirrors().await.unwrap()[0].1.cursor.epoch < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    anew.shutdown().await;

    // A backup of before: the newest stored change is not in it.
    etcd.put("/k/c", "1");
    let ks = start(&etcd).await;
    shows(&ks, &etcd).await;
    stored(&journal, 3).await;
    ks.shutdown().await;
    etcd.restore(2);
    etcd.put("/k/c", "other");
    etcd.put("/k/d", "other");
    let ks = start(&etcd).await;
    soon("a new epoch", ks.wait_until(|view| (view.epoch() == 3).then_some(()))).await.unwrap();
    shows(&ks, &etcd).await;
}

/// Who waits before anything is shown has seen no history that could have changed.
#[tokio::test]
async fn c5_waits_that_begin_before_a_restore_are_of_the_epoch_that_is_restored() {
    let etcd = etcd();
    let journal = in_memory().await;
    for epoch in 1..4 {
        let ks = builder().journal(&journal).start(etcd.clone()).await.unwrap();
        let last = etcd.put("/k/a", epoch.to_string());
        soon("the newest", ks.wait_for_revision(last)).await.unwrap();
        ks.shutdown().await;
        // Each start without what is stored begins another history.
        assert_eq!(journal.mirrors().await.unwrap()[0].1.cursor.epoch, epoch);
    }
    let (ks, mirror) = builder().journal(&journal).restore(&journal).build(etcd.clone());
    let next = etcd.put("/k/a", "next");
    let mut waits = tokio::task::JoinSet::new();
    for which in 0..4 {
        let ks = ks.clone();
        waits.spawn(async move {
            match which {
                0 => ks.wait_for_revision(next).await.map(|_| ()),
                1 => ks.read_at(next).await.map(|_| ()),
                2 => ks.sync().await.map(|_| ()),
                _ => ks.read_linearizable().await.map(|_| ()),
            }
        });
    }
    tokio::task::yield_now().await;
    tokio::spawn(mirror.run());
    while let Some(waited) = soon("the waits", waits.join_next()).await {
        waited.unwrap().unwrap();
    }
    assert_eq!(ks.status().epoch, 3);
    // From then on the epoch counts.
    let waits = ks.wait_for_revision(next + 100);
    etcd.restore(2);
    let error = soon("the change", waits).await.unwrap_err();
    assert!(matches!(error, etcd_keyspace::WaitError::HistoryChanged { was: 3, now: 4 }));
}

/// Storing is a moment behind showing, and a shutdown waits for it.
#[tokio::test]
async fn what_was_shown_before_a_shutdown_is_stored_after_it() {
    let etcd = etcd();
    let journal = in_memory().await;
    for round in 0..20 {
        let warm = builder().journal(&journal).restore(&journal);
        let ks = soon("a start", warm.start(etcd.clone())).await.unwrap();
        let status = ks.status();
        let expected = if round == 0 { State::Live } else { State::Restored };
        assert_eq!((status.state, ks.status().counters.loads), (expected, u64::from(round == 0)));
        etcd.put("/k/a", round.to_string());
        shows(&ks, &etcd).await;
        soon("the end", ks.shutdown()).await;
        assert_eq!(state_of(&journal).await.0, etcd.revision());
    }
    assert_eq!(told(&journal).await.len(), 22);
}

/// In an outage nothing makes old data young.
#[tokio::test]
async fn c7_starting_and_stopping_without_etcd_leaves_the_age_as_it_was() {
    let etcd = etcd();
    let journal = in_memory().await;
    let ks = builder().journal(&journal).start(etcd.clone()).await.unwrap();
    shows(&ks, &etcd).await;
    ks.shutdown().await;
    let stored = journal.mirrors().await.unwrap();
    etcd.faults().down();
    for _ in 0..3 {
        let warm = builder().journal(&journal).restore(&journal);
        let ks = soon("a start", warm.start(etcd.clone())).await.unwrap();
        assert_eq!(ks.status().state, State::Restored);
        soon("the end", ks.shutdown()).await;
    }
    assert_eq!(journal.mirrors().await.unwrap(), stored);
}

#[tokio::test]
async fn a_range_that_is_not_the_one_stored_begins_cold() {
    let etcd = etcd();
    let journal = in_memory().await;
    let ks = builder().journal(&journal).start(etcd.clone()).await.unwrap();
    stored(&journal, 2).await;
    ks.shutdown().await;
    let wider = KeySpace::builder("/").unwrap().bytes().name("things").restore(&journal);
    let ks = soon("a start", wider.start(etcd.clone())).await.unwrap();
    assert_eq!((ks.status().state, ks.status().counters.loads), (State::Live, 1));
}

#[tokio::test]
async fn a_closed_journal_stops_a_restore_or_is_passed_over_as_told() {
    let etcd = etcd();
    let journal = in_memory().await;
    journal.close().await.unwrap();
    let error = soon("a start", builder().restore(&journal).start(etcd.clone())).await.unwrap_err();
    assert!(matches!(error, StopReason::NotRestored { .. }), "{error:?}");
    let builder = builder().restore(&journal).on_bad_store(OnBadStore::Load);
    let ks = soon("a start", builder.start(etcd.clone())).await.unwrap();
    shows(&ks, &etcd).await;
}

/// Storing is the mirror's, so a key space without one does not pretend to.
#[tokio::test]
async fn a_writer_without_a_mirror_refuses_to_be_stored_or_restored() {
    let journal = in_memory().await;
    for builder in [builder().journal(&journal), builder().restore(&journal)] {
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.writer()));
        let refused = *refused.map(|_| ()).unwrap_err().downcast::<&str>().unwrap();
        assert!(refused.contains("without a mirror"), "{refused}");
    }
}

/// A journal that fails holds nobody up; when it works again the difference is stored.
#[tokio::test]
async fn bw18_a_failing_journal_leaves_the_mirror_alone_and_catches_up() {
    let etcd = etcd();
    let disk = Faulty::default();
    let journal = Journal::open_in(disk.opener(), JournalOptions::new()).await.unwrap();
    let ks = builder().journal(&journal).start(etcd.clone()).await.unwrap();
    stored(&journal, 2).await;
    disk.fail(0, Kind::Sync, io::ErrorKind::StorageFull, 3);
    soon("the error", async {
        while ks.status().store_error.is_none() {
            etcd.put("/k/a", "2");
            shows(&ks, &etcd).await;
        }
    })
    .await;
    etcd.delete("/k/b");
    shows(&ks, &etcd).await;
    assert_eq!(ks.status().state, State::Live);
    soon("catching up", async {
        while ks.status().store_error.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    etcd.put("/k/d", "last");
    shows(&ks, &etcd).await;
    soon("the state", async {
        while state_of(&journal).await.0 < etcd.revision() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let (_, state) = state_of(&journal).await;
    assert_eq!(state.keys().collect::<Vec<_>>(), [&b"/k/a"[..], b"/k/d"]);
    let told = told(&journal).await;
    assert!(told.iter().any(|event| event.starts_with("delete /k/b") && event.ends_with('*')));
    assert_eq!(ks.status().counters.loads_stored, 1);
}

/// Reading ahead takes turns where there is one thread for all that blocks.
#[test]
fn j8_a_warm_start_gets_by_with_one_thread_that_may_block() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).max_blocking_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let etcd = etcd();
        for n in 0..20_000 {
            etcd.put(format!("/k/{n:05}"), "1");
        }
        let journal = in_memory().await;
        let ks = builder().journal(&journal).start(etcd.clone()).await.unwrap();
        stored(&journal, 20_002).await;
        ks.shutdown().await;
        etcd.faults().down();
        let ks =
            soon("a warm start", builder().restore(&journal).start(etcd.clone())).await.unwrap();
        assert_eq!(ks.read().len(), 20_002);
    });
}
