//! The HTTP read API of a key space, with a live page, on an etcd of its own or of yours.
//!
//! `cargo run --example service` starts an etcd in a temporary folder with writers at
//! work, and prints the address of the page. `--endpoints` attaches it to an etcd of yours and only
//! reads. Ctrl-C or SIGTERM ends it in order: `/readyz` says no, who waits is answered, streams end.
//!
//! `http/` is the part to copy: the router and its handlers. `writers.rs` is who changes things here,
//! `page.html` the live page, `grafana.json` a dashboard of the metrics (which are there with the feature
//! `metrics`).

#[path = "../../tests/support/etcd.rs"]
mod etcd;
#[path = "../quickstart/failure.rs"]
mod failure;
mod http;
mod writers;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use etcd_keyspace::{Etcd, EtcdOptions, KeyRange};
use tokio::net::TcpListener;

use etcd::EtcdServer;
use failure::{Failure, Stop};
use http::{Limits, Service};

const PREFIX: &str = "/backends/";
const PORT: u16 = 8080;
/// How long open connections may take to end.
const GOODBYE: Duration = Duration::from_secs(5);

/// Serve a live replica of an etcd prefix over HTTP, with a page that shows it.
///
/// Without --endpoints it starts an etcd of its own with writers, and leaves nothing behind.
#[derive(Parser)]
struct Args {
    /// Attach to this etcd, read-only; members are separated by commas
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    endpoints: Vec<String>,
    /// Serve the keys that begin with this [default: /backends/, with --endpoints every key]
    #[arg(long)]
    prefix: Option<String>,
    /// Listen here [default: 127.0.0.1:8080, or any free port if that is taken]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Authenticate at the endpoints
    #[arg(long, value_name = "NAME:PASSWORD", requires = "endpoints", value_parser = user)]
    user: Option<(String, String)>,
}

fn user(text: &str) -> Result<(String, String), &'static str> {
    let (name, password) = text.split_once(':').ok_or("give name and password as NAME:PASSWORD")?;
    Ok((name.to_owned(), password.to_owned()))
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) | Err(Failure::Interrupted) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Failure> {
    let mut stop = Stop::on_signals()?;
    let own = args.endpoints.is_empty();
    let server = if own {
        Some(stop.unless(async { EtcdServer::start().await.map_err(Failure::new) }).await?)
    } else {
        None
    };
    let (endpoints, prefix) = match &server {
        Some(server) => (vec![server.endpoint()], args.prefix.as_deref().unwrap_or(PREFIX)),
        None => (args.endpoints.clone(), args.prefix.as_deref().unwrap_or_default()),
    };
    let mut options = EtcdOptions::new();
    if let Some((name, password)) = args.user {
        options = options.user(name, password);
    }

    // Before the key space, which registers its metrics when it is built.
    let metrics = http::recorder().install_recorder().map_err(Failure::new)?;
    let limits = Limits::default();
    let builder = http::builder(KeyRange::prefix(prefix), &limits).map_err(Failure::new)?;
    let (ks, mirror) = builder.name("service").build(Etcd::new(&endpoints, options));
    let service = Service::new(ks.clone(), limits, metrics, stop.flag());
    let mirror = tokio::spawn(mirror.run());

    // It serves at once, and says by `/readyz` when it is ready: reads wait for the load.
    let listener = listen(args.listen).await?;
    let address = listener.local_addr()?;
    let mut out = std::io::stdout();
    match &server {
        Some(server) => {
            writeln!(out, "started etcd {} at {}", server.version(), server.endpoint())?
        }
        None => writeln!(out, "attached to {}, read-only", endpoints.join(", "))?,
    }
    writeln!(out, "live page: http://{address}/")?;
    writeln!(out, "  try: curl -i 'http://{address}/kv?prefix={prefix}&limit=3'")?;
    writeln!(out, "  try: curl -N 'http://{address}/events?prefix={prefix}'")?;
    out.flush()?;
    let serving = tokio::spawn(service.serve(listener));

    let ended = tokio::select! {
        () = stop.asked() => Ok(()),
        failure = writers::run(server.as_ref(), prefix) => Err(failure),
        reason = ks.closed() => Err(Failure::new(reason)),
    };
    if ended.is_ok() {
        // Whoever does not go in time is left.
        let _ = tokio::time::timeout(GOODBYE, serving).await;
    }
    ks.shutdown().await;
    let _ = mirror.await;
    ended
}

/// Where to listen: at the place asked for, else at the usual port, else at any.
async fn listen(asked: Option<SocketAddr>) -> Result<TcpListener, Failure> {
    if let Some(address) = asked {
        let bound = TcpListener::bind(address).await;
        return bound.map_err(|error| {
            Failure::with_advice(format!("cannot listen at {address}: {error}"), "try --listen")
        });
    }
    let local = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    match local(PORT).await {
        Ok(listener) => Ok(listener),
        Err(_) => Ok(local(0).await?),
    }
}
