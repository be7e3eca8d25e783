//! A fleet that starts: together, spread, from journals, with passwords, and after etcd was away.
//!
//! Owns the scenarios and what they cost etcd and whoever writes meanwhile. Each has an etcd of its own.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use etcd_client::{Client, Permission, PermissionType};
use tempfile::TempDir;

use crate::etcd::{EtcdServer, GrpcProxy};
use crate::fleet::{Fleet, Start};
use crate::host::{Asked, Usage, forget_peak, machine, share};
use crate::table::{head, mebibytes, millis, row, seconds};
use crate::writer::{Clock, Times, Writer, server};
use crate::{Failure, PREFIX, Settings};

/// What passes before a herd starts, so that the writer has found its pace.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long etcd is away before it comes back.
const AWAY: Duration = Duration::from_secs(3);

/// What was so when a herd began to start.
struct Begin {
    at: Instant,
    etcd: Usage,
    ours: Usage,
    machine: Duration,
    asked: Asked,
}

impl Begin {
    async fn now(server: &EtcdServer) -> Result<Self, Failure> {
        let pid = server.pid().ok_or("etcd runs")?;
        forget_peak(pid)?;
        Ok(Begin {
            at: Instant::now(),
            etcd: Usage::of(pid)?,
            ours: Usage::of(std::process::id())?,
            machine: machine()?,
            asked: Asked::of(&server.endpoint()).await?,
        })
    }

    /// Prints what it has cost until now; how long `each` start took, and each of `puts`.
    async fn tell(
        &self,
        name: &str,
        server: &EtcdServer,
        (each, puts): (Times, &Times),
    ) -> Result<(), Failure> {
        let (took, puts, each) = (self.at.elapsed(), puts.take(), each.take());
        let used = Usage::of(server.pid().ok_or("etcd runs")?)?.since(self.etcd);
        let ours = Usage::of(std::process::id())?.since(self.ours);
        let others = machine()?.saturating_sub(self.machine + used.cpu + ours.cpu);
        let asked = Asked::of(&server.endpoint()).await?.since(self.asked);
        row([
            name.to_owned(),
            seconds(took),
            millis(&each, &[0.5, 1.0]),
            seconds(used.cpu),
            asked.requests.to_string(),
            mebibytes(used.written),
            format!("{}, {}", mebibytes(self.etcd.resident), mebibytes(used.peak)),
            millis(&puts, &[0.5, 0.99, 1.0]),
            format!("{}, {}", share(used.cpu + ours.cpu, took)?, share(others, took)?),
        ]);
        Ok(())
    }
}

pub(crate) async fn measure(settings: &Settings) -> Result<(), Failure> {
    heading(settings, settings.herd);
    nobody(settings).await?;
    let (herd, spread) = (settings.herd, Duration::from_secs(settings.spread));
    cold(settings, "cold, together", herd, Duration::ZERO).await?;
    cold(settings, &format!("cold, spread over {} s", settings.spread), herd, spread).await?;
    proxied(settings).await?;
    warm(settings).await?;
    restart(settings).await
}

pub(crate) async fn with_passwords(settings: &Settings) -> Result<(), Failure> {
    heading(settings, settings.passwords);
    cold(settings, "cold, together", settings.passwords, Duration::ZERO).await?;
    passwords(settings).await
}

fn heading(settings: &Settings, count: usize) {
    let title = format!(
        "{count} mirrors start, {} puts/s meanwhile. Puts: all from the begin until the last is live.",
        settings.herd_rate,
    );
    head(
        &title,
        &[
            "start",
            "all live after s",
            "each p50 / max ms",
            "etcd CPU s",
            "requests",
            "etcd wrote MiB",
            "etcd RSS before, peak MiB",
            "put p50 / p99 / max ms",
            "CPU of these, of others",
        ],
    );
}

/// Runs `start` while a writer writes, and tells what it cost.
async fn herd<F: Future<Output = Result<Times, Failure>>>(
    settings: &Settings,
    name: &str,
    (server, client): (&EtcdServer, Client),
    clock: Clock,
    start: F,
) -> Result<(), Failure> {
    let writer = Writer::start(client, clock, settings.herd_rate, settings);
    tokio::time::sleep(WARM_UP).await;
    let begin = Begin::now(server).await?;
    drop(writer.times.take());
    let each = start.await?;
    begin.tell(name, server, (each, &writer.times)).await
}

/// What it costs when nobody starts.
async fn nobody(settings: &Settings) -> Result<(), Failure> {
    let clock = Clock::start();
    let (server, client) = server(clock, settings).await?;
    let nothing = async {
        tokio::time::sleep(WARM_UP).await;
        Ok(Times::new())
    };
    herd(settings, "nobody, for 2 s", (&server, client), clock, nothing).await
}

async fn cold(
    settings: &Settings,
    name: &str,
    count: usize,
    spread: Duration,
) -> Result<(), Failure> {
    let clock = Clock::start();
    let (server, client) = server(clock, settings).await?;
    let how = Start { endpoint: server.endpoint(), spread, ..Start::default() };
    let start = async { Ok(Fleet::start(count, &how, clock).await?.starts) };
    herd(settings, name, (&server, client), clock, start).await
}

async fn proxied(settings: &Settings) -> Result<(), Failure> {
    let clock = Clock::start();
    let (server, client) = server(clock, settings).await?;
    let proxy = GrpcProxy::start(&[server.endpoint()]).await?;
    let how = Start { endpoint: proxy.endpoint(), ..Start::default() };
    let start = async { Ok(Fleet::start(settings.herd, &how, clock).await?.starts) };
    herd(settings, "cold, together, through the proxy", (&server, client), clock, start).await
}

/// All watches break and are resumed when etcd is back, which begins when it answers its first question.
async fn restart(settings: &Settings) -> Result<(), Failure> {
    let clock = Clock::start();
    let (server, client) = server(clock, settings).await?;
    let how = Start { endpoint: server.endpoint(), ..Start::default() };
    let fleet = Fleet::start(settings.herd, &how, clock).await?;
    let writer = Writer::start(client, clock, settings.herd_rate, settings);
    tokio::time::sleep(WARM_UP).await;
    server.kill();
    tokio::time::sleep(AWAY).await;
    server.restart().await?;
    let begin = Begin::now(&server).await?;
    drop(writer.times.take());
    let each = fleet.resumed().await;
    let name = format!("none: etcd comes back after {} s", AWAY.as_secs());
    begin.tell(&name, &server, (each, &writer.times)).await?;
    let loads: u64 = fleet.mirrors.iter().map(|ks| ks.status().counters.loads).sum();
    eprintln!("  {loads} complete reads of {} mirrors", settings.herd);
    Ok(())
}

/// Each mirror has the journal of one that ran before, some seconds of writes old.
async fn warm(settings: &Settings) -> Result<(), Failure> {
    let clock = Clock::start();
    let (server, client) = server(clock, settings).await?;
    let folder = tempfile::tempdir()?;
    let journals = store(&server, &folder, settings.herd).await?;
    let how = Start { endpoint: server.endpoint(), journals, ..Start::default() };
    let start = async {
        let fleet = Fleet::start(settings.herd, &how, clock).await?;
        let loads: u64 = fleet.mirrors.iter().map(|ks| ks.status().counters.loads).sum();
        eprintln!("  {loads} complete reads of {} mirrors", settings.herd);
        Ok(fleet.starts)
    };
    herd(settings, "from a journal, together", (&server, client), clock, start).await
}

/// Stores one mirror and copies its journal, for as many processes as there will be.
async fn store(
    server: &EtcdServer,
    folder: &TempDir,
    copies: usize,
) -> Result<Vec<PathBuf>, Failure> {
    use etcd_keyspace::journal::{Journal, JournalOptions};
    use etcd_keyspace::{Etcd, EtcdOptions, KeySpace};

    let file = folder.path().join("first.journal");
    let journal = Journal::open(&file, JournalOptions::new()).await?;
    let source = Etcd::new([server.endpoint()], EtcdOptions::new());
    let builder = KeySpace::<Vec<u8>>::builder(PREFIX)?.bytes().name("fleet");
    let ks = builder.journal(&journal).start(source).await?;
    ks.shutdown().await;
    journal.close().await?;
    eprintln!("  a journal has {} MiB", mebibytes(std::fs::metadata(&file)?.len()));
    let copy = |index: usize| {
        let copy = folder.path().join(format!("{index}.journal"));
        std::fs::copy(&file, &copy).map(|_| copy)
    };
    Ok((0..copies).map(copy).collect::<Result<_, _>>()?)
}

/// Each connection fetches a token, for which etcd computes a hash that is slow on purpose.
async fn passwords(settings: &Settings) -> Result<(), Failure> {
    let clock = Clock::start();
    let (server, client) = server(clock, settings).await?;
    let (mut auth, user) = (client.auth_client(), ("reader", "a password"));
    auth.user_add("root", "root's", None).await?;
    auth.user_grant_role("root", "root").await?;
    auth.role_add("fleet").await?;
    let permission = Permission::new(PermissionType::Readwrite, PREFIX).with_prefix();
    auth.role_grant_permission("fleet", permission).await?;
    auth.user_add(user.0, user.1, None).await?;
    auth.user_grant_role(user.0, "fleet").await?;
    auth.auth_enable().await?;
    let options = etcd_client::ConnectOptions::default().with_user(user.0, user.1);
    let client = Client::connect([server.endpoint()], Some(options)).await?;
    let user = Some((user.0.to_owned(), user.1.to_owned()));
    let how = Start { endpoint: server.endpoint(), user, ..Start::default() };
    let start = async { Ok(Fleet::start(settings.passwords, &how, clock).await?.starts) };
    herd(settings, "cold, each with a password", (&server, client), clock, start).await
}
