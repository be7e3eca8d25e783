//! A real etcd as a child process, for tests and examples.
//!
//! Owns what a server and a cluster are: settings, data directory, readiness, restarts. Must not
//! print, must not need a sibling that it does not bring itself (an example includes this file by its
//! path), and must not belong to a tokio runtime: one server is shared by tests that each have their
//! own. Only waiting is async.
//!
//! A server never outlives the process that started it, however that ends.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each user takes a part of this")]

#[path = "grpc_proxy.rs"]
mod grpc_proxy;
#[path = "process.rs"]
mod process;

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

pub use grpc_proxy::GrpcProxy;
use process::{Binary, Process, Spec};
pub use process::{find_binary, free_port};

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

/// Settings of a server, and of every member of a cluster.
#[derive(Clone, Default)]
#[must_use]
pub struct EtcdBuilder {
    args: Vec<String>,
    data_dir: Option<PathBuf>,
    durable: bool,
    progress: Option<Duration>,
    connect: Option<ConnectOptions>,
}

impl EtcdBuilder {
    /// One more argument of the command line, such as `--max-request-bytes=1000`. Of two with one
    /// name the later wins, and these come after the harness's own.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Several arguments, as [`EtcdBuilder::arg`].
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Keeps the data in this directory and leaves it there at the end. Not for a cluster.
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// Lets etcd call fsync. Needed by a test that takes the machine's disk into account; a write
    /// acknowledged before `kill -9` survives either way, as the page cache is not the process's.
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// How often an idle watch is told the store revision (etcd: 10 minutes, and never less than
    /// 100 ms), under the name this version of etcd has for it.
    pub fn progress_interval(mut self, interval: Duration) -> Self {
        self.progress = Some(interval);
        self
    }

    /// Serves clients at `https://` only, who connect as `options` say. The certificates of the
    /// server are arguments of etcd: `--cert-file`, `--key-file` and what else it takes.
    pub fn tls(mut self, options: ConnectOptions) -> Self {
        self.connect = Some(options);
        self
    }

    /// Starts one server and waits until it answers.
    ///
    /// # Errors
    /// [`StartError`], as for [`EtcdServer::start`].
    pub async fn start(&self) -> Result<EtcdServer, StartError> {
        let mut servers = self.started(1).await?;
        Ok(servers.remove(0))
    }

    /// Starts a cluster of `members` servers and waits until each answers.
    ///
    /// # Errors
    /// [`StartError`], as for [`EtcdServer::start`].
    ///
    /// # Panics
    /// If a data directory was given: members cannot share one.
    pub async fn cluster(&self, members: usize) -> Result<Cluster, StartError> {
        assert!(self.data_dir.is_none(), "members of a cluster cannot share a data directory");
        Ok(Cluster { members: self.started(members).await? })
    }

    /// Adds a member without a vote to `cluster`, starts it and waits until it answers: a learner
    /// refuses everything but reads that need not be linearizable.
    ///
    /// # Errors
    /// [`StartError`], also when the cluster refuses the member.
    pub async fn learner_of(&self, cluster: &Cluster) -> Result<EtcdServer, StartError> {
        let (name, peer) = (unique("etcd"), format!("http://127.0.0.1:{}", free_port()?));
        let options = MemberAddOptions::new().with_is_learner();
        let added = cluster.client().await.member_add([&peer], Some(options)).await;
        let added = added.map_err(io::Error::other)?;
        let members = added.member_list().iter().flat_map(|member| {
            // A member has no name before it has run.
            let name = if member.name().is_empty() { name.as_str() } else { member.name() };
            member.peer_urls().iter().map(move |url| format!("{name}={url}"))
        });
        let members: Vec<_> = members.collect();
        let mut args = member_args(&name, &peer, &members.join(","), members.len());
        args.push("--initial-cluster-state=existing".into());
        let token = lock(&cluster.members[0].spec).token.clone().unwrap_or_default();
        let learner = self.server(name, token, args)?;
        learner.run().await?;
        Ok(learner)
    }

    async fn started(&self, members: usize) -> Result<Vec<EtcdServer>, StartError> {
        for _ in 1..CLASHES_MAX {
            match self.start_once(members).await {
                Err(error) if error.is_clash() => {}
                done => return done,
            }
        }
        self.start_once(members).await
    }

    async fn start_once(&self, members: usize) -> Result<Vec<EtcdServer>, StartError> {
        let token = unique_token();
        let mut names = Vec::new();
        for _ in 0..members {
            names.push((unique("etcd"), format!("http://127.0.0.1:{}", free_port()?)));
        }
        let cluster: Vec<String> =
            names.iter().map(|(name, url)| format!("{name}={url}")).collect();
        let cluster = cluster.join(",");
        let mut servers = Vec::new();
        for (name, peer) in names {
            let args = member_args(&name, &peer, &cluster, members);
            servers.push(self.server(name, token.clone(), args)?);
        }
        // All run before any is waited for, as none is ready without a majority.
        for server in &servers {
            server.launch()?;
        }
        for server in &servers {
            server.ready().await?;
        }
        Ok(servers)
    }

    /// A server without a process. `args` are those that come from its place in the cluster.
    fn server(
        &self,
        name: String,
        token: String,
        mut args: Vec<String>,
    ) -> Result<EtcdServer, StartError> {
        let binary = Binary::get()?;
        let home = tempfile::Builder::new().prefix("etcd-keyspace-").tempdir()?;
        let data_dir = self.data_dir.clone().unwrap_or_else(|| home.path().join("data"));
        let log = home.path().join("etcd.log");
        let scheme = if self.connect.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://127.0.0.1:{}", free_port()?);
        args.extend([
            format!("--data-dir={}", data_dir.display()),
            format!("--listen-client-urls={endpoint}"),
            format!("--advertise-client-urls={endpoint}"),
            "--logger=zap".into(),
            "--log-level=warn".into(),
            "--log-outputs=stderr".into(),
        ]);
        if !self.durable {
            args.push("--unsafe-no-fsync".into());
        }
        if let Some(interval) = self.progress {
            args.push(format!("--{}={}ms", binary.progress_flag(), interval.as_millis()));
        }
        args.extend(self.args.iter().cloned());
        let spec = Spec { binary: binary.path.clone(), args, token: Some(token) };
        Ok(EtcdServer {
            name,
            spec: Mutex::new(spec),
            process: Mutex::new(None),
            endpoint,
            connect: self.connect.clone(),
            version: binary.version.clone(),
            data_dir,
            log,
            home,
        })
    }
}

/// Servers that form one etcd cluster.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<EtcdServer>,
}

impl Cluster {
    /// Starts a cluster with fresh data and waits until each member answers.
    ///
    /// # Errors
    /// [`StartError`], as for [`EtcdServer::start`].
    pub async fn start(members: usize) -> Result<Self, StartError> {
        EtcdServer::builder().cluster(members).await
    }

    /// The members, in no order of rank.
    pub fn members(&self) -> &[EtcdServer] {
        &self.members
    }

    /// The client URLs, in the order of [`Cluster::members`].
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(EtcdServer::endpoint).collect()
    }

    /// A new client of all members, as [`EtcdServer::client`].
    ///
    /// # Panics
    /// If an endpoint is refused as an address.
    pub async fn client(&self) -> Client {
        Client::connect(self.endpoints(), None).await.expect("connect is lazy")
    }

    /// The index of the member that says that it leads, or `None` while none does.
    pub async fn leader(&self) -> Option<usize> {
        for (index, member) in self.members.iter().enumerate() {
            let asked = async {
                let status = member.client().await.status().await.ok()?;
                Some(status.header()?.member_id() == status.leader())
            };
            if let Ok(Some(true)) = tokio::time::timeout(PROBE_MAX, asked).await {
                return Some(index);
            }
        }
        None
    }
}

/// Why a server could not be started.
#[non_exhaustive]
pub enum StartError {
    /// There is no etcd. Set `ETCD`, or install one into `PATH`.
    NoBinary {
        /// What each of the three places said.
        tried: String,
    },
    /// The system refused a directory, a port or a process.
    Io(io::Error),
    /// The process ended instead of answering.
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// The process runs but did not answer in 20 seconds. It has been killed.
    NotReady {
        /// What the last question was answered with.
        last: String,
        /// The last lines of its log.
        log: String,
    },
}

impl StartError {
    /// Somebody else took a port between our choice and etcd's use of it.
    fn is_clash(&self) -> bool {
        matches!(self, Self::Exited { log, .. } if log.contains("address already in use"))
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBinary { tried } => write!(f, "no etcd to run: {tried}"),
            Self::Io(error) => write!(f, "etcd cannot be started: {error}"),
            Self::Exited { status, log } => {
                write!(f, "etcd ended at its start ({status}); its log ends with:\n{log}")
            }
            Self::NotReady { last, log } => write!(
                f,
                "etcd does not answer after {READY_MAX:?} ({last}); its log ends with:\n{log}"
            ),
        }
    }
}

/// The same as `Display`, as this is what `unwrap` and a failing `main` show.
impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
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
