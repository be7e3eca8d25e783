//! Mirrors of a real cluster that is broken all the time, compared with it all the time.
//!
//! `cargo run --release --example soak -- --minutes 2` starts three members of etcd, writers, and
//! mirrors that differ in endpoints, delays and decoders; kills, pauses, cuts and compacts; and
//! compares every mirror with etcd and with the others, always at one revision. It ends with a
//! report. The exit status is zero when nothing was found and every bound was held.
//!
//! `world.rs` has what all share, `faults.rs` and `strike.rs` what is broken, `writers.rs` what is
//! written, `mirrors.rs` and `fold.rs` what is tested, `compare.rs` and `judge.rs` what must be equal,
//! and `report.rs` what is told.

mod compare;
mod faults;
mod fold;
mod judge;
mod mirrors;
mod report;
mod strike;
mod world;
mod writers;

#[path = "../../tests/support/etcd.rs"]
mod etcd;
#[path = "../../tests/support/proxy.rs"]
mod proxy;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Parser;
use peak_alloc::PeakAlloc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use etcd::EtcdServer;
use mirrors::Mirror;
use proxy::Proxy;
use report::{MirrorReport, Report};
use world::{Random, World, lock};
use writers::Writer;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[global_allocator]
static LIVE: PeakAlloc = PeakAlloc;

/// How often progress is told.
const TELL: Duration = Duration::from_secs(10);
/// How long the parts may take to end, when everything is whole again.
const END_MAX: Duration = Duration::from_secs(120);
/// Panics of any thread and task, those included that somebody catches.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Break an etcd cluster all the time and compare mirrors with it all the time.
#[derive(Debug, Clone, Parser)]
pub(crate) struct Settings {
    /// How long to run; a fraction is allowed
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    minutes: f64,
    /// Repeats the choice of faults and writes; drawn from the clock unless given
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Write the report to this file as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How many writers there are
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    writers: u32,
    /// How many requests each writer has under way
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pipeline: u32,
    /// Writes per second of all writers together; 0 for as fast as etcd takes them
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// How many keys the writers choose from, besides those that come and go
    #[arg(long, default_value_t = 3000)]
    keys: u32,
    /// The longest pause between two faults, in milliseconds
    #[arg(long, default_value_t = 2000)]
    gap_ms: u32,
    /// How many seconds the mirrors may take to recover from a fault, and waits in good conditions
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    recovery_max: u32,
    /// How many seconds old data may be while a majority of members is healthy
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    stale_max: u32,
    /// Go on after a divergence
    #[arg(long)]
    keep_going: bool,
}

impl Settings {
    pub(crate) fn recovery(&self) -> Duration {
        Duration::from_secs(self.recovery_max.into())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut settings = Settings::parse();
    let from_clock = || {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        u64::from(since.subsec_nanos()) ^ (since.as_secs() << 20)
    };
    let seed = *settings.seed.get_or_insert_with(from_clock);
    note_panics();
    eprintln!("seed {seed}");
    match run(settings, seed).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(2)
        }
    }
}

/// The whole run; whether it has passed.
async fn run(settings: Settings, seed: u64) -> Result<bool, Failure> {
    let mut random = Random::new(seed);
    // The first, so that the faults are the same however many writers there are.
    let of_faults = random.fork();
    let cluster = EtcdServer::builder()
        .args(["--quota-backend-bytes=8589934592", "--snapshot-count=2000"])
        .cluster(3)
        .await?;
    let mut links = Vec::new();
    for endpoint in cluster.endpoints() {
        links.push(Proxy::start(&endpoint).await?);
    }
    let world = Arc::new(World::new(settings, cluster, links).await?);
    let mirrors = mirrors::roster(&world, &mut random);
    for mirror in &mirrors {
        let loaded = tokio::time::timeout(Duration::from_secs(20), mirror.ks.loaded()).await;
        loaded.map_err(|_| format!("{} does not load", mirror.name))??;
    }
    let version = world.cluster.members()[0].version().to_owned();
    eprintln!("three members of etcd {version} and {} mirrors run", mirrors.len());

    let lasts = Duration::from_secs_f64(world.settings.minutes.clamp(0.0, 1e7) * 60.0);
    let mut parts = start(&world, &mirrors, &mut random).await?;
    let faults = tokio::spawn(faults::run(Arc::clone(&world), mirrors.clone(), of_faults));
    let interrupted = last(&world, &mirrors, lasts).await?;
    world.stop();
    // The faults first: they make everything whole, which all others may wait for.
    if let Err(reason) = faults.await? {
        world.diverged("the cluster cannot be had back", "etcd", vec![reason]);
    }
    let ended = async {
        while let Some(ended) = parts.join_next().await {
            if let Err(error) = ended {
                world.diverged("a task panicked", "soak", vec![error.to_string()]);
            }
        }
    };
    if tokio::time::timeout(END_MAX, ended).await.is_err() {
        let said = vec![format!("{} parts run on", parts.len())];
        world.diverged("a part does not end", "soak", said);
    }
    conclude(&world, &mirrors).await;
    let report = tell(&world, &mirrors, (seed, &version, interrupted));
    println!("{}", report.text());
    if let Some(file) = &world.settings.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(report.passed)
}

/// Starts everything but the faults.
async fn start(
    world: &Arc<World>,
    mirrors: &[Arc<Mirror>],
    random: &mut Random,
) -> Result<JoinSet<()>, Failure> {
    let mut parts = JoinSet::new();
    let all = mirrors.to_vec();
    for _ in 0..world.settings.writers {
        let writer = Writer::new(world, mirrors).await?;
        parts.spawn(writer.run(random.fork()));
    }
    for mirror in mirrors {
        parts.spawn(mirrors::keep_shelf(Arc::clone(world), Arc::clone(mirror)));
    }
    parts.spawn(mirrors::watch_over(Arc::clone(world), all.clone()));
    parts.spawn(mirrors::restart_often(Arc::clone(world), random.fork()));
    parts.spawn(compare::sync_often(Arc::clone(world), all.clone(), random.fork()));
    parts.spawn(compare::run(Arc::clone(world), all, random.fork()));
    Ok(parts)
}

/// Lets time pass and tells about it; whether somebody has ended it before.
async fn last(world: &World, mirrors: &[Arc<Mirror>], lasts: Duration) -> Result<bool, Failure> {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let end = tokio::time::sleep(lasts);
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + TELL, TELL);
    tokio::pin!(end);
    let mut written = 0;
    loop {
        tokio::select! {
            () = &mut end => return Ok(false),
            () = world.stopping() => return Ok(false),
            _ = interrupt.recv() => return Ok(true),
            _ = terminate.recv() => return Ok(true),
            _ = ticks.tick() => written = progress(world, mirrors, written),
        }
    }
}

/// One line about how it stands; gives the number of events written.
fn progress(world: &World, mirrors: &[Arc<Mirror>], before: u64) -> u64 {
    let ledger = &world.ledger;
    let written = ledger.counted("events written");
    let applied: u64 = mirrors.iter().map(|mirror| mirror.ks.status().counters.events).sum();
    let ages = mirrors.iter().filter_map(|mirror| mirror.ks.status().current_as_of);
    eprintln!(
        "[{:>4.0} s] revision {}, {written} events written ({}/s), {applied} applied; {} faults, \
         now: {}; compared {} + {}, own writes {}, found {}; oldest data {:.1} s; memory {:.0} MB, \
         at most {:.0} MB",
        ledger.elapsed().as_secs_f64(),
        world.acknowledged(),
        (written - before) / TELL.as_secs(),
        ledger.incidents(),
        world.sky.fault(),
        ledger.counted("compared: mirrors with etcd"),
        ledger.counted("compared: mirrors with one another"),
        ledger.counted("checked: read your writes"),
        ledger.counted("findings"),
        ages.max().unwrap_or_default().as_secs_f64(),
        LIVE.current_usage_as_mb(),
        LIVE.peak_usage_as_mb(),
    );
    written
}

/// The last comparison, when nobody writes and everything is whole; then the mirrors end.
async fn conclude(world: &Arc<World>, mirrors: &[Arc<Mirror>]) {
    match world.members.revision().await {
        Ok(revision) => {
            // Nothing is compacted any more, so there is always something to compare with.
            let compared = compare::with_etcd(world, mirrors, revision).await;
            if compared < u64::try_from(mirrors.len()).unwrap_or(0) {
                let said = vec![format!("{compared} of {} at {revision}", mirrors.len())];
                world.diverged("the last comparison is missing", "soak", said);
            }
        }
        Err(refusal) => {
            world.diverged("the last comparison is missing", "soak", vec![refusal.to_string()]);
        }
    }
    for mirror in mirrors {
        mirror.end(world).await;
    }
    for panic in std::mem::take(&mut *lock(&PANICS)) {
        world.diverged("a panic", "soak", vec![panic]);
    }
}

fn tell(world: &World, mirrors: &[Arc<Mirror>], of: (u64, &str, bool)) -> Report {
    let ledger = &world.ledger;
    let mut reports: Vec<MirrorReport> = mirrors.iter().map(|mirror| mirror.report()).collect();
    let loads = ledger.counted("restarted: loads");
    reports.push(MirrorReport::new("restarted", 0, &ledger.restarted(), loads));
    let stale_max = Duration::from_secs(world.settings.stale_max.into());
    Report::new(ledger, of, reports, (world.settings.recovery(), stale_max))
}

/// No panic goes unnoticed, wherever it is caught.
fn note_panics() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(info.to_string());
        tell(info);
    }));
}
