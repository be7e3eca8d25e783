//! What a fleet of mirrors costs one etcd: following, doing nothing, and starting all at once.
//!
//! `cargo run --release --example fleet --features journal` starts etcd servers one after the other,
//! lets mirrors with connections of their own follow 20,000 keys, and prints three tables. All mirrors
//! live in this process, so that etcd's own processor time, memory and bytes are told apart by
//! `/proc` (Linux). Etcd runs without fsync: what is measured is work, not the disk.
//!
//! `host.rs` reads what a process has used, `writer.rs` writes, `fleet.rs` has the mirrors, `steady.rs`
//! measures a fleet that runs, `herd.rs` one that starts, and `table.rs` prints.

mod fleet;
mod herd;
mod host;
mod steady;
mod table;
mod writer;

#[path = "../../tests/support/etcd.rs"]
mod etcd;

use std::time::Duration;

use clap::Parser;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What all mirrors follow.
pub(crate) const PREFIX: &str = "/fleet/";

/// Measure what a fleet of mirrors costs one etcd.
#[derive(Debug, Clone, Parser)]
pub(crate) struct Settings {
    /// What to measure
    #[arg(long, value_delimiter = ',', default_values = ["steady", "proxy", "herd", "passwords"])]
    only: Vec<Part>,
    /// How many mirrors follow, one run after the other
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1, 10, 50, 100])]
    mirrors: Vec<usize>,
    /// How many mirrors start in the herds
    #[arg(long, default_value_t = 100)]
    herd: usize,
    /// Keys below the prefix
    #[arg(long, default_value_t = 20_000)]
    keys: usize,
    /// Bytes of each value, eight at least
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// Puts per second while a fleet follows
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Puts per second while a herd starts
    #[arg(long, default_value_t = 100)]
    herd_rate: u32,
    /// Seconds of each measurement, a multiple of the mirrors' check interval (5 s) at best
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds over which starts are spread in the herd that is
    #[arg(long, default_value_t = 10)]
    spread: u64,
    /// How many mirrors start with a user and a password each
    #[arg(long, default_value_t = 20)]
    passwords: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Mirrors connected to etcd
    Steady,
    /// Mirrors connected to etcd's gRPC proxy
    Proxy,
    /// Mirrors that start at the same moment
    Herd,
    /// The same with a user and a password each
    Passwords,
}

impl Settings {
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let settings = Settings::parse();
    println!(
        "{} keys of {} bytes with values of {} bytes, {} processors for etcd, writer and mirrors",
        settings.keys,
        writer::key(0).len(),
        settings.value_bytes,
        std::thread::available_parallelism()?,
    );
    if settings.only.contains(&Part::Steady) {
        steady::measure(&settings, false).await?;
    }
    if settings.only.contains(&Part::Proxy) {
        steady::measure(&settings, true).await?;
    }
    if settings.only.contains(&Part::Herd) {
        herd::measure(&settings).await?;
    }
    if settings.only.contains(&Part::Passwords) {
        herd::with_passwords(&settings).await?;
    }
    Ok(())
}
