//! BW-1, J2, J4: a process that mirrors a real etcd into a journal is killed at any point, and starts
//! warm from what it left.
//!
//! `JOURNAL_MIRROR_CRASH_ROUNDS` sets how often (20), `JOURNAL_MIRROR_CRASH_SEED` the first random number.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, TxnOp};
use etcd_keyspace::journal::{Durability, Journal, JournalOptions, Retention, StoredEvent};
use etcd_keyspace::{RawKeyValue, Revision, State};

use super::all;
use super::crash::{Random, from_environment, kill_after, start};
use super::history::{History, Walk};
use super::support::real::{at, commit, delete, mirror, put};
use super::support::verify::equals_etcd;
use super::support::{EtcdServer, within};

const FOLDER: &str = "JOURNAL_MIRROR_CRASH_FOLDER";
const ENDPOINT: &str = "JOURNAL_MIRROR_CRASH_ENDPOINT";
/// How the child ends: at a kill, or on its own once it shows what etcd has.
const END: &str = "JOURNAL_MIRROR_CRASH_END";
const PREFIX: &str = "/crash/";
const KEYS: u64 = 12;

fn options(durability: Durability) -> JournalOptions {
    let mut retention = Retention::default();
    retention.every = None;
    JournalOptions::new().retention(retention).durability(durability)
}

/// What the child does until it is killed, or until it shows what etcd has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of the crash test, which starts it"]
async fn child() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("started by the crash test"));
    let endpoint = std::env::var(ENDPOINT).unwrap();
    let end = std::env::var(END).unwrap();
    let durability = match end.as_str() {
        "lazy" => Durability::Interval(Duration::from_millis(20)),
        _ => Durability::EachBatch,
    };
    let journal = Journal::open(folder.join("journal"), options(durability)).await.unwrap();
    let builder = mirror(PREFIX).name("crashes").journal(&journal).restore(&journal);
    let ks = builder.start(at(&*endpoint)).await.unwrap();
    let warm = ks.status().state == State::Restored || ks.status().counters.loads == 0;
    if warm {
        fs::write(folder.join("warm"), "").unwrap();
    }
    if end != "shown" {
        let reason = ks.closed().await;
        panic!("the mirror ended by itself: {reason:?}");
    }
    let mut client = Client::connect([endpoint], None).await.unwrap();
    equals_etcd(&ks, &mut client, PREFIX).await;
    assert!(ks.status().store_error.is_none(), "{:?}", ks.status());
    // What is shown is stored a moment later, also when the key space is shut down.
    let shown = ks.read().revision();
    let stored = async {
        while journal
            .mirrors()
            .await
            .unwrap()
            .first()
            .is_none_or(|one| one.1.cursor.revision < shown)
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within("what is shown is stored", stored).await;
    ks.shutdown().await;
    journal.close().await.unwrap();
}

/// Writes to etcd by chance; the revision if something changed.
async fn write(client: &mut Client, random: &mut Random, n: u64) -> Revision {
    let key = |random: &mut Random| format!("{PREFIX}{:02}", random.below(KEYS));
    let one = key(random);
    match random.below(10) {
        0..5 => put(client, one, n.to_string()).await,
        5..7 => delete(client, one).await,
        // Gone and there again within one message of the watch.
        7 => {
            delete(client, &one).await;
            put(client, one, n.to_string()).await
        }
        8 => put(client, "/elsewhere", n.to_string()).await,
        _ => {
            let first = random.below(KEYS);
            let mut ops = Vec::new();
            for other in first..KEYS.min(first + 6) {
                let key = format!("{PREFIX}{other:02}");
                ops.push(match random.below(3) {
                    0 => TxnOp::delete(key, None),
                    _ => TxnOp::put(key, n.to_string(), None),
                });
            }
            commit(client, ops).await
        }
    }
}

/// The parent's side of it.
struct Test {
    server: EtcdServer,
    client: Client,
    folder: tempfile::TempDir,
    random: Random,
    history: History,
    writes: u64,
    former: Vec<Arc<StoredEvent>>,
    walk: Walk,
}

impl Test {
    async fn new() -> Self {
        let server = EtcdServer::start().await.expect("etcd starts");
        let mut client = server.client().await;
        let mut history = History::of(&client, PREFIX).await;
        let first = put(&mut client, format!("{PREFIX}first"), "1").await;
        history.reach(first).await;
        Test {
            client,
            history,
            server,
            folder: tempfile::tempdir().unwrap(),
            random: Random::seeded_by("JOURNAL_MIRROR_CRASH_SEED"),
            writes: 0,
            former: Vec::new(),
            walk: Walk::default(),
        }
    }

    fn child(&self, end: &str) -> std::process::Child {
        let endpoint = self.server.endpoint();
        let environment = [
            (FOLDER, self.folder.path().as_os_str()),
            (ENDPOINT, endpoint.as_ref()),
            (END, end.as_ref()),
        ];
        start("crash_mirrored::child", &environment)
    }

    async fn write(&mut self) {
        self.writes += 1;
        write(&mut self.client, &mut self.random, self.writes).await;
        if self.random.below(150) == 0 {
            self.compact().await;
        }
    }

    /// Takes all changes in.
    async fn catch_up(&mut self) -> Revision {
        // A change that ends what was written, so that there is something to wait for.
        self.writes += 1;
        let last = put(&mut self.client, format!("{PREFIX}last"), self.writes.to_string()).await;
        self.history.reach(last).await;
        last
    }

    async fn compact(&mut self) {
        self.catch_up().await;
        self.history.compact(&mut self.client).await;
    }

    /// Writes while a child lives, and after it is killed.
    async fn kill(&mut self) {
        let end = if self.random.below(3) == 0 { "lazy" } else { "killed" };
        let child = self.child(end);
        let lives = Duration::from_micros(self.random.below(400_000));
        let killed = tokio::task::spawn_blocking(move || kill_after(child, lives));
        while !killed.is_finished() {
            self.write().await;
        }
        killed.await.unwrap();
        for _ in 0..self.random.below(8) {
            self.write().await;
        }
        if self.random.below(5) == 0 {
            self.compact().await;
        }
        self.catch_up().await;
    }

    /// Judges a copy of what a child left, so that the next one opens the journal as it was left; how
    /// far it goes.
    async fn judge(&mut self) -> Option<Revision> {
        let copy = self.folder.path().join("copy");
        fs::copy(self.folder.path().join("journal"), &copy).ok()?;
        let journal = Journal::open(&copy, options(Durability::EachBatch)).await.unwrap();
        let events = all(&journal).await;
        assert!(events.first().is_none_or(|event| event.sequence == 1), "the beginning is gone");
        let kept = events.get(..self.former.len());
        assert_eq!(kept, Some(&self.former[..]), "the journal does not go on from before");
        let cursor = self.judge_state(&journal, &events).await;
        journal.close().await.unwrap();
        self.former = events;
        cursor
    }

    async fn judge_state(
        &mut self,
        journal: &Journal,
        events: &[Arc<StoredEvent>],
    ) -> Option<Revision> {
        let mirrors = journal.mirrors().await.unwrap();
        let [(name, stored)] = &mirrors[..] else {
            assert!(mirrors.is_empty() && events.is_empty(), "{mirrors:?}");
            return None;
        };
        let cursor = stored.cursor.revision;
        self.walk.follow(&self.history, &events[self.former.len()..], cursor);
        let state = state(journal, name).await;
        assert!(
            state.iter().eq(self.walk.records.values()),
            "not the state of {cursor}: {state:?}"
        );
        Some(cursor)
    }

    fn marked(&self, mark: &str) -> bool {
        fs::remove_file(self.folder.path().join(mark)).is_ok()
    }
}

async fn state(journal: &Journal, mirror: &str) -> Vec<RawKeyValue> {
    let mut reader = journal.state(mirror).await.unwrap().unwrap();
    let mut state = Vec::new();
    loop {
        let page = reader.page(5).unwrap();
        if page.is_empty() {
            return state;
        }
        state.extend(page);
    }
}

async fn ends_well(child: std::process::Child) {
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output());
    let ended = within("the last child ends", ended).await.unwrap().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[tokio::test]
async fn bw1_j2_j4_a_killed_mirror_goes_on_without_a_gap_and_its_state_is_that_of_etcd() {
    let rounds = from_environment("JOURNAL_MIRROR_CRASH_ROUNDS", 20);
    let mut test = Test::new().await;
    let (mut progressed, mut warm, mut last) = (0, 0, None);
    for round in 0..rounds {
        test.kill().await;
        test.history.is_true(&mut test.client).await;
        let cursor = test.judge().await;
        assert!(cursor >= last, "round {round}: {cursor:?} after {last:?}");
        progressed += u64::from(cursor > last);
        warm += u64::from(test.marked("warm"));
        last = cursor;
    }
    let newest = test.catch_up().await;
    ends_well(test.child("shown")).await;
    let cursor = test.judge().await;
    assert!(cursor >= Some(newest), "{cursor:?} is before {newest}");
    println!(
        "{rounds} kills, {progressed} with progress, {warm} after a warm start; {} changes, {} events, {} differences",
        test.history.len(),
        test.former.len(),
        test.walk.differences,
    );
    assert!(progressed > 0 && warm > 0, "no child lived long enough");
}
