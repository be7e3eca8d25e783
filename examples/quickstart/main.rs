//! A typed key space that follows a real etcd, shown as it lives.
//!
//! `cargo run --example quickstart` starts an etcd of its own in a temporary folder, fills it, loads
//! it into a key space, measures how soon a write is visible, and lets writers work while a table of
//! derived state follows them. `--endpoints` attaches it to an etcd of yours instead and only reads.
//!
//! `backends.rs` has the typed values and the writers, `groups.rs` the derived state, `latency.rs`
//! the stopwatch, `show.rs` and `screen.rs` what you see.

mod backends;
mod failure;
mod groups;
mod latency;
mod screen;
mod show;

#[path = "../../tests/support/etcd.rs"]
mod etcd;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use etcd_keyspace::{Etcd, EtcdOptions, KeyRange, KeySpace, Source};

use backends::{Backend, Writers};
use etcd::EtcdServer;
use failure::{Failure, Stop};
use latency::Stopwatch;
use screen::Screen;
use show::Follow;

/// Watch a typed key space follow etcd.
///
/// Without --endpoints it starts an etcd of its own, writes to it, and leaves nothing behind.
#[derive(Parser)]
struct Args {
    /// Attach to this etcd, read-only; members are separated by commas
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    endpoints: Vec<String>,
    /// Mirror the keys that begin with this [default: /backends/, with --endpoints every key]
    #[arg(long)]
    prefix: Option<String>,
    /// Follow for this many seconds
    #[arg(long, value_name = "N", default_value_t = 6)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    seconds: u64,
    /// Authenticate at the endpoints
    #[arg(long, value_name = "NAME:PASSWORD", requires = "endpoints", value_parser = user)]
    user: Option<(String, String)>,
}

fn user(text: &str) -> Result<(String, String), &'static str> {
    let (name, password) = text.split_once(':').ok_or("write it as name:password")?;
    Ok((name.to_owned(), password.to_owned()))
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let mut screen = Screen::new();
    let result = match Stop::on_signals() {
        Ok(mut stop) if args.endpoints.is_empty() => run_own(&args, &mut screen, &mut stop).await,
        Ok(mut stop) => attach(&args, &mut screen, &mut stop).await,
        Err(error) => Err(error),
    };
    screen.close();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Interrupted) => {
            let _ = screen.line("interrupted; everything is cleaned up");
            ExitCode::SUCCESS
        }
        // Whoever read our output has seen enough.
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Our own etcd: seed it, load it, measure it idle, follow it under load.
async fn run_own(args: &Args, screen: &mut Screen, stop: &mut Stop) -> Result<(), Failure> {
    let prefix = args.prefix.as_deref().unwrap_or("/backends/");
    // Checked before anything is started.
    let builder = KeySpace::<Backend>::builder(prefix).map_err(Failure::new)?;

    let server = stop.unless(async { EtcdServer::start().await.map_err(Failure::new) }).await?;
    let endpoint = server.endpoint();
    screen.line(format!("started etcd {} at {endpoint}", server.version()))?;
    let mut client = server.client().await;
    let seeded = stop.unless(backends::seed(&mut client, prefix)).await?;
    screen.line(format!("wrote {} backends below {prefix}", show::count(seeded)))?;

    // The handle is there before the first load, so the observer sees everything from the start.
    let (ks, mirror) = builder.json().build(Etcd::new([&endpoint], EtcdOptions::new()));
    let zones = groups::derive(&ks, |entry| {
        let Backend { zone, weight, .. } = entry.value();
        (zone.as_str().into(), u64::from(*weight))
    });
    tokio::spawn(mirror.run());
    stop.unless(show::load(&ks, screen)).await?;

    let watch = Stopwatch::start(&ks, server.client().await, prefix).await?;
    stop.unless(show::idle_latency(&watch, &mut client, prefix, screen)).await?;

    let writers = Writers::start(&server, prefix, &watch).await;
    let follow = Follow {
        ks: &ks,
        groups: &zones,
        title: format!("{prefix} of {endpoint}"),
        columns: ["ZONE", "BACKENDS", "WEIGHT"],
        load: Some((writers, Arc::clone(&watch))),
        lasts: Duration::from_secs(args.seconds),
    };
    follow.run(screen, stop).await?;
    let checked = show::compare(&ks, &mut client, prefix).await?;
    screen.line(checked)?;

    ks.shutdown().await;
    drop(server);
    screen.line("stopped etcd and removed its folder")?;
    Ok(())
}

/// Somebody else's etcd: nothing is ever written, and values stay the bytes they are.
async fn attach(args: &Args, screen: &mut Screen, stop: &mut Stop) -> Result<(), Failure> {
    let prefix = args.prefix.as_deref().unwrap_or_default();
    let mut options = EtcdOptions::new();
    if let Some((name, password)) = &args.user {
        options = options.user(name, password);
    }
    let source = Etcd::new(&args.endpoints, options);
    // As the key space calls them: without credentials that a URL may have.
    let names: Vec<String> =
        (0..source.endpoints()).map(|index| source.endpoint_name(index)).collect();
    let builder = KeySpace::builder(KeyRange::prefix(prefix)).map_err(Failure::new)?;
    let (ks, mirror) = builder.bytes().build(source);
    let root = prefix.to_owned();
    let segments = groups::derive(&ks, move |entry| {
        (groups::next_segment(entry.key(), root.as_bytes()), entry.value().len() as u64)
    });
    let what = if prefix.is_empty() { "every key".to_owned() } else { show::printable(prefix) };
    let title = format!("{what} of {}", names.join(", "));
    screen.line(format!("attaching to {title}; read-only"))?;
    tokio::spawn(mirror.run());
    stop.unless(show::load(&ks, screen)).await?;
    screen.line("put to visible is not measured here, since that takes writes")?;

    let follow = Follow {
        ks: &ks,
        groups: &segments,
        title,
        columns: ["BELOW THE PREFIX", "KEYS", "BYTES"],
        load: None,
        lasts: Duration::from_secs(args.seconds),
    };
    follow.run(screen, stop).await?;
    ks.shutdown().await;
    Ok(())
}
