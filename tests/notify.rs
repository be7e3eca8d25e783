//! Many watches into one channel: the promises CN-1 to CN-10.

mod common;

use std::time::Duration;

use common::{History, loaded, texts};
use etcd_keyspace::{Entry, KeySpace, StopReason, Update, Writer};
use tokio::sync::mpsc::{self, Receiver};

const SECOND: Duration = Duration::from_secs(1);

fn scene() -> (History, KeySpace<String>, Writer<String>) {
    let mut store = History::new();
    for key in ["/a/1", "/a/2", "/b/1"] {
        store.put(key, "x");
    }
    let (ks, writer) = loaded(&store);
    (store, ks, writer)
}

fn put(store: &mut History, writer: &mut Writer<String>, key: &str, value: &str) {
    store.put(key, value);
    writer.apply(store.after(writer.view().revision())).unwrap();
}

async fn next(updates: &mut Receiver<Update<String>>) -> (String, Vec<String>, i64) {
    let update = updates.recv().await.expect("an update");
    let text =
        |entry: &std::sync::Arc<Entry<String>>| format!("{} {}", entry.key_str(), entry.value());
    let entries = update.result.unwrap().iter().map(text).collect();
    (update.correlation_id.to_string(), entries, update.meta.revision)
}

/// Until nothing moves any more on the paused clock.
async fn quiet(updates: &mut Receiver<Update<String>>) {
    let more = tokio::time::timeout(SECOND * 60, updates.recv()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test(start_paused = true)]
async fn cn2_cn3_cn6_each_watch_sends_what_there_is_and_then_only_what_is_newer() {
    let (mut store, ks, mut writer) = scene();
    let (sender, mut updates) = mpsc::channel(8);
    let a = ks.notify("/a/".."/a0", "first", sender.clone()).unwrap();
    assert_eq!(
        next(&mut updates).await,
        ("first".into(), vec!["/a/1 x".into(), "/a/2 x".into()], 4)
    );
    let _b = ks.notify("/b/".."/b0", "second", sender.clone()).unwrap();
    assert_eq!(next(&mut updates).await, ("second".into(), vec!["/b/1 x".into()], 4));
    quiet(&mut updates).await;
    put(&mut store, &mut writer, "/c", "elsewhere");
    quiet(&mut updates).await;
    put(&mut store, &mut writer, "/b/1", "y");
    assert_eq!(next(&mut updates).await, ("second".into(), vec!["/b/1 y".into()], 6));
    // The ids mean nothing here, so two may be the same.
    let _again = ks.notify("/b/".."/b0", "first", sender).unwrap();
    assert_eq!(next(&mut updates).await, ("first".into(), vec!["/b/1 y".into()], 6));
    // CN-4: cancelled, it sends no more, and nothing is left of it.
    a.cancel();
    a.cancel();
    put(&mut store, &mut writer, "/a/1", "unheard");
    quiet(&mut updates).await;
    assert!(a.is_finished());
    assert_eq!(ks.stats().followers, 2);
}

#[tokio::test(start_paused = true)]
async fn cn4_a_closed_channel_and_a_dropped_handle_leave_nothing_behind() {
    let (mut store, ks, mut writer) = scene();
    let (sender, mut updates) = mpsc::channel(1);
    // One waits for a change, one for room, one is dropped before it ran.
    let idle = ks.notify("/x".."/y", "idle", sender.clone()).unwrap();
    next(&mut updates).await;
    let full = [(); 2].map(|()| ks.notify("/a/".."/a0", "full", sender.clone()).unwrap());
    drop(ks.notify("/a/".."/a0", "dropped", sender).unwrap());
    tokio::time::sleep(SECOND).await;
    assert_eq!(ks.stats().followers, 3);
    drop(updates);
    tokio::time::sleep(SECOND).await;
    assert!(idle.is_finished() && full.iter().all(|watch| watch.is_finished()));
    assert_eq!(ks.stats().followers, 0);
    put(&mut store, &mut writer, "/a/1", "y");
}

#[tokio::test(start_paused = true)]
async fn cn5_a_slow_receiver_holds_up_its_own_watches_and_gets_the_newest() {
    let (mut store, ks, mut writer) = scene();
    let (slow, mut late) = mpsc::channel(1);
    let (quick, mut updates) = mpsc::channel(1);
    let _slow = ks.notify("/a/".."/a0", "slow", slow).unwrap();
    let _quick = ks.notify("/a/".."/a0", "quick", quick).unwrap();
    next(&mut updates).await;
    for round in 0..100 {
        put(&mut store, &mut writer, "/a/1", &round.to_string());
        let (_, entries, revision) = next(&mut updates).await;
        assert_eq!((entries[0].as_str(), revision), (&*format!("/a/1 {round}"), round + 5));
    }
    // What was sent first, and then nothing between it and the newest.
    assert_eq!(next(&mut late).await.1[0], "/a/1 x");
    assert_eq!(next(&mut late).await.1[0], "/a/1 99");
    quiet(&mut late).await;
}

#[tokio::test(start_paused = true)]
async fn t63_cn1_cn9_errors_are_told_also_the_first() {
    let (sender, mut updates) = mpsc::channel(8);
    // Outside the range: at once, before any task begins.
    let (ks, _writer) = texts().writer();
    assert!(ks.notify("a".."b", "outside", sender.clone()).is_err());
    // Before the first load nothing is sent; the end is the first that is.
    let (ks, writer) = texts().writer();
    let watch = ks.notify(.., "early", sender.clone()).unwrap();
    quiet(&mut updates).await;
    drop(writer);
    let update = updates.recv().await.unwrap();
    assert!(matches!(update.result, Err(StopReason::Shutdown)), "{update:?}");
    assert_eq!((update.meta.revision, update.meta.loads), (0, 0));
    tokio::time::sleep(SECOND).await;
    assert!(watch.is_finished());
    // And the last one otherwise.
    let (_, ks, writer) = scene();
    let _watch = ks.notify(.., "late", sender).unwrap();
    assert_eq!(next(&mut updates).await.2, 4);
    drop(writer);
    assert!(updates.recv().await.unwrap().result.is_err());
    assert!(updates.recv().await.is_none(), "the last watch gave its sender back");
}

/// A restored backup: the revision goes back, in a new epoch, and is told.
#[cfg(feature = "test-util")]
#[tokio::test(start_paused = true)]
async fn t63_cn10_in_a_new_epoch_the_revision_may_begin_below() {
    let etcd = etcd_keyspace::testing::FakeEtcd::new();
    let backup = etcd.put("/k/a", "1");
    let ks = KeySpace::builder("/k/").unwrap().bytes().start(etcd.clone()).await.unwrap();
    let (sender, mut updates) = mpsc::channel(8);
    let _watch = ks.notify(.., "all", sender).unwrap();
    let mut changes = ks.changes(..);
    assert_eq!(changes.next().await.unwrap().epoch(), 1);
    for key in ["/k/b", "/k/c"] {
        etcd.put(key, "1");
    }
    let confirmed = ks.wait_for_revision(etcd.revision()).await.unwrap();
    while updates.recv().await.unwrap().meta.revision < confirmed {}
    while changes.next().await.unwrap().to_revision() < confirmed {}
    etcd.restore(backup);
    let update = updates.recv().await.unwrap();
    assert_eq!((update.meta.epoch, update.meta.revision, update.meta.loads), (2, backup, 2));
    assert_eq!(update.result.unwrap().len(), 1);
    let delta = changes.next().await.unwrap();
    assert_eq!((delta.from_revision(), delta.to_revision(), delta.epoch()), (confirmed, backup, 2));
    assert_eq!(delta.iter().filter(|change| change.new().is_none()).count(), 2);
}

#[cfg(feature = "test-util")]
#[tokio::test(start_paused = true)]
async fn cn7_cn9_an_update_says_of_when_it_is_and_a_server_that_fails_sends_nothing() {
    let etcd = etcd_keyspace::testing::FakeEtcd::new();
    etcd.put("/k/a", "1");
    let ks = KeySpace::builder("/k/").unwrap().bytes().start(etcd.clone()).await.unwrap();
    let (sender, mut updates) = mpsc::channel(8);
    let _watch = ks.notify(.., "all", sender).unwrap();
    let first = updates.recv().await.unwrap();
    assert_eq!((first.meta.revision, first.meta.epoch, first.meta.loads), (etcd.revision(), 1, 1));
    // Whatever the mirror goes through, a watch sends when there is something new and not before.
    let failing = SECOND * 90;
    etcd.faults().down();
    let nothing = tokio::time::timeout(failing, updates.recv()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    assert!(ks.status().current_as_of.is_some_and(|age| age >= failing), "{:?}", ks.status());
    let revision = etcd.put("/k/a", "2");
    etcd.faults().up();
    let next = updates.recv().await.unwrap();
    assert_eq!((next.meta.revision, next.meta.loads), (revision, 1));
    // Whoever comes back has asked the store what is newest, and shows that.
    let fresh = |update: &Update<_>| update.meta.age.is_some_and(|age| age < SECOND * 10);
    assert!(fresh(&next), "{next:?}");
    assert_eq!(next.result.unwrap()[0].value(), b"2");
    // An event alone proves nothing of the store, so the age is that of the last question.
    ks.sync().await.unwrap();
    tokio::time::sleep(SECOND).await;
    etcd.put("/k/a", "3");
    let last = updates.recv().await.unwrap();
    assert!(fresh(&last) && last.meta.age >= Some(SECOND), "{last:?}");
}
