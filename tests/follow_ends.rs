//! Each way to follow, and each kind of end: what whoever follows is told, as a type.
//!
//! Owns the table of ends and ways. The clock is paused: an hour of it passes as soon as nobody has
//! anything left to do, so a way that is not told of an end is found hanging.
#![cfg(feature = "test-util")]

mod fake;

use std::collections::BTreeSet;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_keyspace::testing::FakeEtcd;
use etcd_keyspace::{
    EventsError, EventsOptions, FollowError, Header, KeySpace, OnHistoryChange, RawKeyValue,
    SimpleFollower, Start, StopReason, Token, WaitError,
};
use fake::{builder, etcd};
use tokio::task::JoinHandle;

type Space = KeySpace<Vec<u8>>;
type Ending = Pin<Box<dyn Future<Output = ()>>>;

const HOUR: Duration = Duration::from_secs(3600);
const KEY: &str = "/k/a";

// ---- The ends -----------------------------------------------------------------------------------

/// A key space before its end, and what brings that about.
struct Scene {
    ks: Space,
    loaded: bool,
    end: Ending,
}

fn then(end: impl Future<Output = ()> + 'static) -> Ending {
    Box::pin(end)
}

fn store() -> FakeEtcd {
    let etcd = etcd();
    etcd.put(KEY, "1");
    etcd
}

async fn shutdown() -> Scene {
    let ks = fake::start(&store()).await;
    let handle = ks.downgrade();
    let end = async move {
        let ks = handle.upgrade().unwrap();
        ks.shutdown().await;
    };
    Scene { ks, loaded: true, end: then(end) }
}

async fn mirror_dropped() -> Scene {
    let (ks, mirror) = builder().build(store());
    let running = tokio::spawn(mirror.run());
    ks.loaded().await.unwrap();
    Scene { ks, loaded: true, end: then(async move { running.abort() }) }
}

async fn mirror_never_run() -> Scene {
    let (ks, mirror) = builder().build(store());
    Scene { ks, loaded: false, end: then(async move { drop(mirror) }) }
}

async fn writer_dropped() -> Scene {
    let (ks, mut writer) = builder().writer();
    let header = Header { cluster_id: 1, member_id: 1, revision: 2, raft_term: 1 };
    let (key, value) = (KEY.into(), b"1".to_vec());
    let (create_revision, mod_revision) = (2, 2);
    let kv = RawKeyValue { key, value, create_revision, mod_revision, version: 1, lease: 0 };
    writer.load(header, vec![kv]).unwrap();
    Scene { ks, loaded: true, end: then(async move { drop(writer) }) }
}

async fn rights_refused() -> Scene {
    let etcd = store();
    let (ks, mirror) = builder().build(etcd.clone());
    let end = async move {
        etcd.faults().deny();
        tokio::spawn(mirror.run());
    };
    Scene { ks, loaded: false, end: then(end) }
}

async fn load_compacted() -> Scene {
    let etcd = store();
    let now = etcd.put(KEY, "2");
    etcd.compact(now);
    let (ks, mirror) = builder().load_at(now - 1).build(etcd);
    Scene { ks, loaded: false, end: then(async move { drop(tokio::spawn(mirror.run())) }) }
}

async fn load_timeout() -> Scene {
    let etcd = store();
    etcd.faults().down();
    let (ks, mirror) = builder().load_timeout(Duration::from_secs(5)).build(etcd);
    Scene { ks, loaded: false, end: then(async move { drop(tokio::spawn(mirror.run())) }) }
}

async fn another_cluster() -> Scene {
    let etcd = store();
    let ks = builder().on_other_cluster(OnHistoryChange::Stop).start(etcd.clone()).await.unwrap();
    Scene { ks, loaded: true, end: then(async move { etcd.change_cluster() }) }
}

async fn history_changed() -> Scene {
    let etcd = store();
    let backup = etcd.revision();
    etcd.put("/k/lost", "1");
    let ks = builder().on_history_change(OnHistoryChange::Stop).start(etcd.clone()).await.unwrap();
    Scene { ks, loaded: true, end: then(async move { etcd.restore(backup) }) }
}

fn kind(reason: &StopReason) -> &'static str {
    match reason {
        StopReason::Shutdown => "shutdown",
        StopReason::AnotherCluster { .. } => "another cluster",
        StopReason::HistoryChanged { .. } => "history changed",
        StopReason::Compacted { .. } => "compacted",
        StopReason::Refused { .. } => "refused",
        StopReason::LoadTimeout { .. } => "load timeout",
        _ => "something else",
    }
}

// ---- The ways -----------------------------------------------------------------------------------

/// Asks twice, since the reason is to be given again and again.
async fn changes(ks: Space) -> String {
    let mut changes = ks.changes(..);
    drop(ks);
    loop {
        if let Err(reason) = changes.next().await {
            let again = changes.next().await.unwrap_err();
            assert_eq!(kind(&again), kind(&reason));
            return format!("Err({})", kind(&reason));
        }
    }
}

async fn changes_as_a_stream(ks: Space) -> String {
    let mut changes = ks.changes(..);
    drop(ks);
    let mut end = Vec::new();
    loop {
        let item =
            std::future::poll_fn(|cx| futures_core::Stream::poll_next(Pin::new(&mut changes), cx));
        match item.await {
            Some(Ok(_)) => assert!(end.is_empty()),
            Some(Err(reason)) => end.push(format!("Err({})", kind(&reason))),
            None => return end.join(", then "),
        }
    }
}

fn no_events(error: &EventsError) -> String {
    match error {
        EventsError::KeySpace(reason) => format!("KeySpace({})", kind(reason)),
        error => panic!("{error}"),
    }
}

async fn follow_events(ks: Space, start: Start) -> String {
    let mut events = ks.events(.., start, EventsOptions::default());
    drop(ks);
    loop {
        if let Err(error) = events.next().await {
            assert_eq!(no_events(&events.next().await.unwrap_err()), no_events(&error));
            return no_events(&error);
        }
    }
}

async fn follow(ks: Space) -> String {
    match ks.follow(.., SimpleFollower::<Vec<u8>>::new()).await {
        FollowError::Stopped(reason) => format!("Stopped({})", kind(&reason)),
        error => panic!("{error}"),
    }
}

async fn watch_key(ks: Space) -> String {
    let mut watch = ks.watch_key(KEY);
    drop(ks);
    loop {
        if let Err(reason) = watch.next().await {
            assert_eq!(kind(&watch.next().await.unwrap_err()), kind(&reason));
            return format!("Err({})", kind(&reason));
        }
    }
}

/// The channel closes after the reason, which comes once.
async fn notify(ks: Space) -> String {
    let (sender, mut updates) = tokio::sync::mpsc::channel(1);
    let watch = ks.notify(.., "id", sender).unwrap();
    drop(ks);
    let mut end = Vec::new();
    while let Some(update) = updates.recv().await {
        assert!(end.is_empty(), "nothing follows the reason");
        end.extend(update.result.err().map(|reason| format!("Err({})", kind(&reason))));
    }
    tokio::task::yield_now().await;
    assert!(watch.is_finished());
    end.concat()
}

fn stopped<R>(ended: Result<R, WaitError>) -> Option<String> {
    match ended {
        Ok(_) => None,
        Err(WaitError::Stopped(reason)) => Some(format!("Stopped({})", kind(&reason))),
        Err(error) => panic!("{error}"),
    }
}

async fn read_changed(ks: Space) -> String {
    let mut seen = None;
    loop {
        match ks.read_changed(.., seen, HOUR * 9).await.map(|(_, validator)| validator) {
            Ok(validator) => seen = Some(validator),
            Err(error) => return stopped::<()>(Err(error)).unwrap(),
        }
    }
}

async fn read_at(ks: Space) -> String {
    // Without a token of the cluster the wait begins before the load.
    let ended = ks.read_at(i64::MAX).await;
    stopped(ended).unwrap()
}

async fn read_at_a_token(ks: Space) -> String {
    let cluster = ks.read().cluster_id();
    let ended = ks.read_at(Token::of_write(cluster.unwrap_or(1), i64::MAX)).await;
    stopped(ended).unwrap()
}

async fn wait_until(ks: Space) -> String {
    stopped(ks.wait_until(|_| None::<()>).await).unwrap()
}

type Way = fn(Space) -> Pin<Box<dyn Future<Output = String> + Send>>;

/// Each way with how it says a reason.
const WAYS: [(&str, &str, Way); 11] = [
    ("changes", "Err", |ks| Box::pin(changes(ks))),
    ("changes, as a stream", "Err", |ks| Box::pin(changes_as_a_stream(ks))),
    ("events", "KeySpace", |ks| Box::pin(follow_events(ks, Start::Now))),
    ("events, after what never comes", "KeySpace", |ks| {
        Box::pin(follow_events(ks, Start::after(i64::MAX)))
    }),
    ("follow", "Stopped", |ks| Box::pin(follow(ks))),
    ("watch_key", "Err", |ks| Box::pin(watch_key(ks))),
    ("notify", "Err", |ks| Box::pin(notify(ks))),
    ("read_changed", "Stopped", |ks| Box::pin(read_changed(ks))),
    ("read_at", "Stopped", |ks| Box::pin(read_at(ks))),
    ("read_at, a token", "Stopped", |ks| Box::pin(read_at_a_token(ks))),
    ("wait_until", "Stopped", |ks| Box::pin(wait_until(ks))),
];

/// Starts every way twice: now, and once the end is there.
async fn expect_end(name: &str, scene: Scene, reason: &str) {
    let Scene { ks, loaded, end } = scene;
    let early: Vec<JoinHandle<_>> =
        WAYS.iter().map(|(.., way)| tokio::spawn(way(ks.clone()))).collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(ks.read().revision() > 0, loaded, "{name}");
    assert!(early.iter().all(|task| !task.is_finished()), "{name}: nothing has ended yet");
    end.await;
    assert_eq!(kind(&ks.closed().await), reason, "{name}");
    let late = WAYS.iter().map(|(.., way)| tokio::spawn(way(ks.clone())));
    let late: Vec<JoinHandle<_>> = late.collect();
    for (when, tasks) in [("before", early), ("after", late)] {
        for ((way, says, _), task) in WAYS.iter().zip(tasks) {
            let told = tokio::time::timeout(HOUR, task).await;
            let told = told.unwrap_or_else(|_| panic!("{name}: {way}, begun {when} it, hangs"));
            assert_eq!(
                told.unwrap(),
                format!("{says}({reason})"),
                "{name}: {way}, begun {when} it"
            );
        }
    }
    let stats = ks.stats();
    assert_eq!((stats.followers, stats.waits), (0, 0), "{name}: something is left");
}

#[tokio::test(start_paused = true)]
async fn c8_t51_each_way_to_follow_is_told_of_each_kind_of_end() {
    expect_end("shut down", shutdown().await, "shutdown").await;
    expect_end("the mirror's task dropped", mirror_dropped().await, "shutdown").await;
    expect_end("the mirror never run", mirror_never_run().await, "shutdown").await;
    expect_end("the writer dropped", writer_dropped().await, "shutdown").await;
    expect_end("rights refused", rights_refused().await, "refused").await;
    expect_end("load compacted", load_compacted().await, "compacted").await;
    expect_end("load timeout", load_timeout().await, "load timeout").await;
    expect_end("another cluster", another_cluster().await, "another cluster").await;
    expect_end("history changed", history_changed().await, "history changed").await;
}

// ---- All other handles dropped ------------------------------------------------------------------

/// What the ways that are the last handles saw: each with the key.
type Saw = Arc<Mutex<BTreeSet<String>>>;

/// Each way to follow that holds the key space itself.
fn last_handles(ks: Space, saw: &Saw) -> JoinHandle<()> {
    let (saw, other) = (Arc::clone(saw), Arc::clone(saw));
    let (sender, mut updates) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let note = |saw: &Saw, what: String| {
            saw.lock().unwrap().insert(what);
        };
        let mut changes = ks.changes(..);
        let mut watch = ks.watch_key("/k/last");
        let notified = ks.notify(.., "id", sender).unwrap();
        let follower = SimpleFollower::new().upserted(move |_, new| {
            note(&other, format!("follow {}", new.key_str()));
            Ok::<_, std::convert::Infallible>(())
        });
        let follow = async move { ks.follow(.., follower).await };
        let mut follow = pin!(follow);
        loop {
            tokio::select! {
                delta = changes.next() => for change in &delta.unwrap() {
                    note(&saw, format!("changes {}", change.key().escape_ascii()));
                },
                entry = watch.next() => if let Some(entry) = entry.unwrap() {
                    note(&saw, format!("watch_key {}", entry.key_str()));
                },
                update = updates.recv() => for entry in update.unwrap().result.unwrap() {
                    note(&saw, format!("notify {}", entry.key_str()));
                },
                ended = &mut follow => panic!("{ended:?}: {notified:?}"),
            }
        }
    })
}

/// A follower is a handle: it goes on alone, and with the last one the mirror ends.
#[tokio::test(start_paused = true)]
async fn followers_keep_the_mirror_alive_and_it_ends_with_the_last_of_them() {
    let etcd = store();
    let ks = fake::start(&etcd).await;
    let weak = ks.downgrade();
    let saw = Saw::default();
    let task = last_handles(ks, &saw);
    tokio::time::sleep(Duration::from_secs(1)).await;
    etcd.put("/k/last", "1");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(etcd.counts().watchers, 1);
    let saw = std::mem::take(&mut *saw.lock().unwrap());
    for way in ["changes", "watch_key", "notify", "follow"] {
        assert!(saw.contains(&format!("{way} /k/last")), "{way}: {saw:?}");
    }
    assert!(weak.upgrade().is_some());
    task.abort();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(weak.upgrade().is_none() && etcd.counts().watchers == 0, "the mirror ended");
}
