//! What is below a prefix of etcd, and then what changes: `watch` for keys.
//!
//! `cargo run --example tail -- /backends/` prints a table of what is there and then a line for each
//! change: `+` for a new key, `~` for another value, `-` for a key that is gone. It only reads, survives
//! whatever etcd does, and works in pipes: data goes to the standard output, all talk to the other one.
//!
//! This file has the options and the loop, `print.rs` how things look.

#[path = "../quickstart/failure.rs"]
mod failure;
mod print;

use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use etcd_keyspace::{
    Builder, Etcd, EtcdOptions, KeyRange, KeySpace, Mirror, Revision, State, Status, StopReason,
};
use tokio::time::MissedTickBehavior;

use failure::{Failure, Stop, in_full};
use print::{Bar, Printer};

const TICK: Duration = Duration::from_millis(100);
const STATS_EVERY: Duration = Duration::from_secs(1);
/// How long a program that is to end may wait for whoever reads its output.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long etcd may be silent before that is said.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Print what is below a prefix of etcd, and then what changes.
#[derive(Parser)]
struct Args {
    /// Show the keys that begin with this; without it every key
    #[arg(default_value = "")]
    prefix: String,
    /// Where etcd is; members are separated by commas
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379"
    )]
    endpoints: Vec<String>,
    /// Print JSON, one object a line: op, key, value and the numbers of the key
    #[arg(long)]
    json: bool,
    /// Tell each second how the replica is
    #[arg(long)]
    stats: bool,
    /// Begin with what was there at this revision, and go on from there
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(1..))]
    at: Option<Revision>,
    /// End after the table
    #[arg(long)]
    once: bool,
    /// Give up when nothing has been loaded after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Authenticate with this name and password
    #[arg(long, value_name = "NAME:PASSWORD", value_parser = user)]
    user: Option<(String, String)>,
    /// Trust servers whose certificate this authority has signed (a PEM file)
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Show this certificate to the server (a PEM file)
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of the certificate (a PEM file)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

fn user(text: &str) -> Result<(String, String), &'static str> {
    let (name, password) = text.split_once(':').ok_or("write it as name:password")?;
    Ok((name.to_owned(), password.to_owned()))
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        // Whoever read our output has seen enough; whoever pressed Ctrl-C as well.
        Ok(()) | Err(Failure::Interrupted) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<(), Failure> {
    let mut stop = Stop::on_signals()?;
    let mut printer = Printer::new(args.json);
    let builder = KeySpace::builder(KeyRange::prefix(&args.prefix)).map_err(Failure::new)?;
    let builder = with_limits(builder.bytes().load_at(args.at.unwrap_or_default()), args);
    let (ks, mut mirror) = builder.build(Etcd::new(&args.endpoints, options(args)?));

    tokio::spawn(end_in_time(stop.flag()));
    let mut unread = pin!(print::nobody_reads());
    load(&ks, &mut mirror, &mut stop, unread.as_mut()).await?;
    // The mirror is driven by hand up to here, so this is exactly what was loaded: nothing of what came
    // after `--at` is in it.
    let mut changes = ks.changes(..);
    let loaded = changes.next().await.map_err(Failure::new)?;
    printer.table(changes.entries().iter(), loaded.to_revision())?;
    if args.once {
        return Ok(());
    }
    tokio::spawn(mirror.run());

    let mut watched = Watched::new(args.stats);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            delta = changes.next() => match delta {
                Ok(delta) => printer.delta(&delta)?,
                Err(reason) => return Err(Failure::new(reason)),
            },
            _ = ticks.tick() => watched.look(&ks, &printer),
            () = stop.asked() => break,
            () = &mut unread => break,
        }
    }
    ks.shutdown().await;
    Ok(())
}

fn with_limits<T: Send + Sync + 'static>(builder: Builder<T>, args: &Args) -> Builder<T> {
    match args.timeout {
        Some(seconds) => builder.load_timeout(Duration::from_secs(seconds)),
        None => builder,
    }
}

/// Ends the program although it may be in the middle of output that nobody takes, which blocks.
async fn end_in_time(mut stop: tokio::sync::watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_ok() {
        tokio::time::sleep(GOODBYE).await;
        std::process::exit(0);
    }
}

/// Drives the mirror until it has loaded, with a bar if that takes long.
async fn load(
    ks: &KeySpace<Vec<u8>>,
    mirror: &mut Mirror<Vec<u8>>,
    stop: &mut Stop,
    mut unread: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut bar = Bar::new();
    let mut said = false;
    let mut ticks = tokio::time::interval(TICK);
    while ks.snapshot().revision() == 0 {
        tokio::select! {
            ended = mirror.step() => if let Some(reason) = ended {
                return Err(not_loaded(reason));
            },
            _ = ticks.tick() => {
                let status = ks.status();
                bar.show(status.load);
                if status.last_contact.is_none() && begun.elapsed() > SILENCE_MAX && !said {
                    said = true;
                    print::talk(&format!("waiting for etcd: {}", cause(&status)));
                }
            }
            () = stop.asked() => return Err(Failure::Interrupted),
            () = &mut unread => return Err(Failure::Interrupted),
        }
    }
    Ok(())
}

/// Why nothing could be loaded, and which options may help.
fn not_loaded(reason: StopReason) -> Failure {
    let advice = match reason {
        StopReason::LoadTimeout { .. } => {
            "see that --endpoints is right, and --cacert and --cert if it wants TLS; \
             --timeout gives it longer"
        }
        StopReason::Refused { .. } => "see that --endpoints, --user, --cacert and --cert are right",
        StopReason::Compacted { .. } => "take a newer revision for --at, or leave it out",
        reason => return Failure::new(reason),
    };
    Failure::with_advice(in_full(&reason), advice)
}

/// Why it is not live, in words.
fn cause(status: &Status) -> String {
    status.last_error.as_ref().map_or_else(|| "no answer yet".to_owned(), |error| in_full(&**error))
}

/// What was told of the replica last.
struct Watched {
    stats: bool,
    state: State,
    told: Instant,
    events: u64,
}

impl Watched {
    fn new(stats: bool) -> Self {
        Watched { stats, state: State::Live, told: Instant::now(), events: 0 }
    }

    /// Tells a change of state once, and the figures each second when they are asked for.
    fn look(&mut self, ks: &KeySpace<Vec<u8>>, printer: &Printer) {
        let status = ks.status();
        if status.state != self.state {
            self.state = status.state;
            match status.state {
                State::Live => print::talk("live again"),
                state => print::talk(&format!("{state}: {}", cause(&status))),
            }
        }
        let since = self.told.elapsed();
        if self.stats && since >= STATS_EVERY {
            let events = status.counters.events - self.events;
            #[allow(clippy::cast_precision_loss, reason = "for people")]
            let rate = events as f64 / since.as_secs_f64();
            print::talk(&printer.stats(&status, ks.stats().keys, rate));
            self.events = status.counters.events;
            self.told = Instant::now();
        }
    }
}

fn options(args: &Args) -> Result<EtcdOptions, Failure> {
    let mut options = EtcdOptions::new();
    if let Some((name, password)) = &args.user {
        options = options.user(name, password);
    }
    if args.cacert.is_none() && args.cert.is_none() {
        return Ok(options);
    }
    with_tls(options, args)
}

#[cfg(any(feature = "tls", feature = "tls-aws-lc"))]
fn with_tls(options: EtcdOptions, args: &Args) -> Result<EtcdOptions, Failure> {
    use etcd_keyspace::etcd_client::{Certificate, Identity, TlsOptions};

    let read = |file: &PathBuf| {
        let advice = "give the path of a PEM file that you may read";
        let failed = |error| Failure::with_advice(format!("{}: {error}", file.display()), advice);
        std::fs::read(file).map_err(failed)
    };
    let mut tls = TlsOptions::new();
    if let Some(file) = &args.cacert {
        tls = tls.ca_certificate(Certificate::from_pem(read(file)?));
    }
    if let (Some(cert), Some(key)) = (&args.cert, &args.key) {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(options.tls(tls))
}

#[cfg(not(any(feature = "tls", feature = "tls-aws-lc")))]
fn with_tls(_: EtcdOptions, _: &Args) -> Result<EtcdOptions, Failure> {
    let advice = "build with `--features tls`";
    Err(Failure::with_advice("this program was built without TLS", advice))
}
