//! A real etcd as a child process, for tests and examples.
//!
//! Owns what a server and a cluster are: settings, data directory, readiness, restarts. Must not
//! print, must not need a sibling that it does not bring itself (an example includes this file by its
//! path), and must not belong to a tokio runtime: one server is shared by tests that each have their
//! own. Only waiting is async.
//!
//! A server never outlives the process that started it, however that ends.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each user takes a part of this")]

#[path = "cluster.rs"]
mod cluster;
#[path = "grpc_proxy.rs"]
mod grpc_proxy;
#[path = "process.rs"]
mod process;
#[path = "start.rs"]
mod start;
#[path = "start_error.rs"]
mod start_error;

use std::fmt;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, Error, GetOptions, MemberAddOptions};
use tempfile::TempDir;

pub use cluster::Cluster;
pub use grpc_proxy::GrpcProxy;
use process::{Binary, Process, Spec};
pub use process::{find_binary, free_port};
pub use start::EtcdBuilder;
pub use start_error::StartError;

/// How long a server may take until it answers a linearizable read.
const READY_MAX: Duration = Duration::from_secs(20);
/// How long one question of the readiness loop may take.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// How long a process may take to obey SIGTERM or SIGSTOP.
const OBEY_MAX: Duration = Duration::from_secs(10);
/// How often a start is tried again when a port was taken by somebody else.
const CLASHES_MAX: u32 = 5;
/// Lines of etcd's log carried by an error.
const LOG_LINES: usize = 30;

/// One etcd process with its ports and its data. Dropping it kills the process and removes the data.
pub struct EtcdServer {
    name: String,
    spec: Mutex<Spec>,
    process: Mutex<Option<Process>>,
    endpoint: String,
    connect: Option<ConnectOptions>,
    version: String,
    data_dir: PathBuf,
    log: PathBuf,
    // Dropped last, when the process that writes into it is gone.
    home: TempDir,
}

/// Without the options of its clients, which may hold keys.
impl fmt::Debug for EtcdServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("EtcdServer");
        debug.field("name", &self.name).field("endpoint", &self.endpoint);
        debug.field("version", &self.version).field("home", &self.home).finish_non_exhaustive()
    }
}

impl EtcdServer {
    /// Starts one server with fresh data and waits until it answers.
    ///
    /// # Errors
    /// [`StartError`]: no binary, or a process that ended or did not answer, with its log.
    pub async fn start() -> Result<Self, StartError> {
        Self::builder().start().await
    }

    /// A server with settings of its own.
    pub fn builder() -> EtcdBuilder {
        EtcdBuilder::default()
    }

    /// Its client URL: `http://127.0.0.1:port`, or `https://` with TLS; the same for life.
    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// A new client with the options given to [`EtcdBuilder::tls`], or else with default ones. It
    /// belongs to the runtime it is made in.
    ///
    /// # Panics
    /// If the endpoint is refused as an address: `connect` itself is lazy.
    pub async fn client(&self) -> Client {
        let options = self.connect.clone();
        Client::connect([&self.endpoint], options).await.expect("connect is lazy")
    }

    /// The version of the binary: `3.7.2`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The process id, or `None` while no process runs.
    pub fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Process::id)
    }

    /// Where the data is. To be copied or replaced only while no process runs.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The last lines of etcd's log (level `warn`), all runs of this server together.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// Ends the process as `kill -9` does and waits until it is gone. Does nothing when none runs.
    pub fn kill(&self) {
        drop(self.process().take());
    }

    /// Asks the process to end (SIGTERM) and waits until it is gone. Does nothing when none runs.
    ///
    /// # Panics
    /// If the process does not end in 10 seconds, as a paused one does not.
    pub async fn terminate(&self) {
        self.signal("TERM");
        match tokio::time::timeout(OBEY_MAX, self.ended()).await {
            Ok(_) => self.kill(),
            Err(_) => panic!("etcd ignores SIGTERM:\n{}", self.log_tail()),
        }
    }

    /// Stops the process where it stands (SIGSTOP): connections stay open and nothing answers.
    /// When this returns every thread of it has stopped.
    ///
    /// # Panics
    /// If no process runs, or the system does not stop it in 10 seconds.
    pub fn pause(&self) {
        let process = self.process();
        let process = process.as_ref().expect("an etcd to pause runs");
        process.signal("STOP");
        let begun = Instant::now();
        // A signal takes effect some time after it was sent.
        while !process.is_stopped() {
            assert!(begun.elapsed() < OBEY_MAX, "etcd ignores SIGSTOP");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets a paused process go on (SIGCONT). Does nothing when none runs.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Starts the process again on the same ports and data, and waits until it answers. A process
    /// that still runs is killed first. A member whose cluster has no majority does not answer before
    /// another has been started: then join the two calls.
    ///
    /// # Errors
    /// [`StartError`], as for [`EtcdServer::start`].
    pub async fn restart(&self) -> Result<(), StartError> {
        self.kill();
        for _ in 1..CLASHES_MAX {
            match self.run().await {
                Err(error) if error.is_clash() => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                done => return done,
            }
        }
        self.run().await
    }

    /// Puts an empty cluster with another cluster id in the place of this one: same ports, no data.
    /// Not for a member of a [`Cluster`].
    ///
    /// # Errors
    /// [`StartError`], as for [`EtcdServer::start`].
    pub async fn replace(&self) -> Result<(), StartError> {
        self.kill();
        match fs::remove_dir_all(&self.data_dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        lock(&self.spec).token = Some(unique_token());
        self.restart().await
    }

    /// Launches the process; the caller waits with [`EtcdServer::ready`].
    fn launch(&self) -> Result<(), StartError> {
        let process = Process::launch(&lock(&self.spec), &self.log, self.home.path())?;
        *self.process() = Some(process);
        Ok(())
    }

    async fn run(&self) -> Result<(), StartError> {
        self.launch()?;
        self.ready().await
    }

    /// Waits until a linearizable read works. On failure no process is left.
    async fn ready(&self) -> Result<(), StartError> {
        let begun = Instant::now();
        let mut nap = Duration::from_millis(5);
        loop {
            let last = tokio::select! {
                biased;
                // First: a process that has lost its port to somebody else is about to end, and then
                // an answer is not ours.
                Some(status) = self.ended() => {
                    self.kill();
                    return Err(StartError::Exited { status, log: self.log_tail() });
                }
                answer = probe(self) => match answer {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
                () = tokio::time::sleep(PROBE_MAX) => format!("no answer in {PROBE_MAX:?}"),
            };
            if begun.elapsed() > READY_MAX {
                self.kill();
                return Err(StartError::NotReady { last, log: self.log_tail() });
            }
            tokio::time::sleep(nap).await;
            nap = (nap * 2).min(Duration::from_millis(100));
        }
    }

    fn signal(&self, name: &str) {
        if let Some(process) = self.process().as_ref() {
            process.signal(name);
        }
    }

    /// Waits for the process to end by itself. `None` when none runs.
    async fn ended(&self) -> Option<ExitStatus> {
        loop {
            if let Some(status) = self.process().as_mut()?.exited() {
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        lock(&self.process)
    }
}

/// One linearizable read, and the proof that the answer comes from the server of this name. A server
/// with authentication, and a learner, answers with a refusal, which proves less and has to do.
async fn probe(server: &EtcdServer) -> Result<(), String> {
    fn check<T>(answer: Result<T, Error>) -> Result<Option<T>, String> {
        const REFUSALS: [&str; 4] =
            ["user name is empty", "permission denied", "auth token", "not supported for learner"];
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(Error::GRpcStatus(status))
                if REFUSALS.iter().any(|refusal| status.message().contains(refusal)) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
        }
    }
    let (name, endpoint) = (&server.name, &server.endpoint);
    let connected = Client::connect([endpoint], server.connect.clone()).await;
    let mut client = connected.map_err(|error| error.to_string())?;
    let list = check(client.member_list().await)?;
    if list.is_some_and(|list| list.members().iter().all(|member| member.name() != *name)) {
        return Err(format!("no member {name} at {endpoint}"));
    }
    check(client.get("ready", Some(GetOptions::new().with_count_only())).await).map(drop)
}

/// Arguments of one of `members` members, from its place in the cluster.
fn member_args(name: &str, peer: &str, cluster: &str, members: usize) -> Vec<String> {
    // One member cannot lose an election, so that short times only make the start shorter
    // (0.1 s and not 1 s). They also lower the shortest lease from 2 s to 1 s.
    let (heartbeat_ms, election_ms) = if members == 1 { (10, 100) } else { (100, 1000) };
    vec![
        format!("--name={name}"),
        format!("--initial-cluster={cluster}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--heartbeat-interval={heartbeat_ms}"),
        format!("--election-timeout={election_ms}"),
    ]
}

/// The argument that makes a cluster another one.
fn unique_token() -> String {
    format!("--initial-cluster-token={}", unique("token"))
}

/// A name that no other server on this machine has.
fn unique(what: &str) -> String {
    format!("{what}-{:016x}", RandomState::new().hash_one(std::process::id()))
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// A test that panicked while it held the lock left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
