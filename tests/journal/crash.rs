//! J2, J6: a process that is killed at any point. The test starts itself as a child, kills it, and
//! judges what it left.
//!
//! `JOURNAL_CRASH_ROUNDS` sets how often (12), `JOURNAL_CRASH_SEED` the first random number.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use etcd_keyspace::BoxError;
use etcd_keyspace::journal::{
    Journal, JournalOptions, Registry, Retention, WatcherOptions, handler_fn,
};

use super::model::{EVENTS, WATCHER, check, step, stored_step};

const FOLDER: &str = "JOURNAL_CRASH_FOLDER";

fn options() -> JournalOptions {
    let mut retention = Retention::default();
    retention.every = None;
    retention.bytes = Some(20_000);
    JournalOptions::new().retention(retention)
}

/// Numbers that a process leaves behind whatever becomes of it: the system has them once written.
struct Numbers(File);

impl Numbers {
    fn open(path: &Path) -> Self {
        Numbers(OpenOptions::new().create(true).append(true).open(path).unwrap())
    }

    fn push(&mut self, number: u64) {
        self.0.write_all(&number.to_le_bytes()).unwrap();
    }

    fn read(path: &Path) -> Vec<u64> {
        let bytes = fs::read(path).unwrap_or_default();
        bytes.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap())).collect()
    }
}

/// Numbers by chance, the same for the same seed.
pub(crate) struct Random(u64);

impl Random {
    /// Begins with the number that a variable of the environment has, or 1.
    pub(crate) fn seeded_by(name: &str) -> Self {
        Random(from_environment(name, 1))
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What the child does until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of the crash test, which starts it"]
async fn child() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("started by the crash test"));
    let journal = Journal::open(folder.join("journal"), options()).await.unwrap();
    let mut acknowledged = Numbers::open(&folder.join("acknowledged"));
    let handled = std::sync::Mutex::new(Numbers::open(&folder.join("handled")));
    let handler = handler_fn(move |event| {
        handled.lock().unwrap().push(event.sequence);
        Ok::<_, BoxError>(())
    });
    let options = WatcherOptions::new().handler(handler).batch_size(3).auto_start(true);
    let registry = Registry::new(&journal);
    registry.watch(WATCHER, options).await.unwrap();
    let mut n = stored_step(&journal).await.unwrap();
    loop {
        n += 1;
        journal.append(step(n)).await.unwrap();
        acknowledged.push(n);
        if n % 16 == 0 {
            journal.collect(SystemTime::now()).await.unwrap();
        }
    }
}

pub(crate) fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[tokio::test]
async fn j2_j6_a_killed_process_leaves_what_it_acknowledged_and_no_checkpoint_ahead() {
    let rounds = from_environment("JOURNAL_CRASH_ROUNDS", 12);
    let mut random = Random::seeded_by("JOURNAL_CRASH_SEED");
    let folder = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let (mut steps, mut progressed) = (0, 0);
    for round in 0..rounds {
        let lives = Duration::from_micros(random.below(120_000));
        kill_after(start("crash::child", &[(FOLDER, folder.path().as_os_str())]), lives);
        // A copy is judged, so that the next child opens what this one left.
        let copy = copies.path().join("journal");
        if fs::copy(folder.path().join("journal"), &copy).is_err() {
            continue;
        }
        let journal = Journal::open(&copy, options()).await.unwrap();
        let found = check(&journal).await;
        judge(folder.path(), &journal, found, round).await;
        assert!(found >= steps, "round {round}: step {found} after {steps}");
        progressed += u64::from(found > steps);
        steps = found;
        journal.close().await.unwrap();
    }
    println!("{rounds} kills, {progressed} with progress, {steps} steps");
    assert!(progressed > 0, "no child lived long enough");
}

/// Starts a test of this binary as a process of its own.
pub(crate) fn start(test: &str, environment: &[(&str, &OsStr)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .envs(environment.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills a child after some time.
pub(crate) fn kill_after(mut child: Child, lives: Duration) {
    std::thread::sleep(lives);
    child.kill().unwrap();
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!said.contains("panicked"), "{said}");
}

async fn judge(folder: &Path, journal: &Journal, found: u64, round: u64) {
    let acknowledged = Numbers::read(&folder.join("acknowledged"));
    let last = acknowledged.last().copied().unwrap_or(0);
    assert!(found >= last, "round {round}: {last} acknowledged, {found} found");
    let checkpoint = journal.checkpoint(WATCHER).await.unwrap();
    let checkpoint = checkpoint.map_or(0, |checkpoint| checkpoint.sequence);
    let handled = Numbers::read(&folder.join("handled"));
    let mut furthest = 0;
    for sequence in &handled {
        assert!(*sequence <= furthest + 1, "round {round}: {sequence} after {furthest}: missed");
        furthest = furthest.max(*sequence);
    }
    assert!(checkpoint <= furthest, "round {round}: checkpoint {checkpoint}, handled {furthest}");
    assert!(furthest <= found * EVENTS, "round {round}: handled what is not stored");
}
