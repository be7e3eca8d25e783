//! The bars of the journal with a real etcd on the same machine (J1 to J3).
//!
//! Owns what is measured of a warm restart, and of storing every event while it comes in. Must not
//! be needed without the feature `journal`.

use std::path::Path;
use std::time::{Duration, Instant};

use etcd_keyspace::journal::{Journal, JournalOptions};
use etcd_keyspace::{Builder, Etcd, EtcdOptions, KeyRange, KeySpace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};

use crate::data::{Dataset, Random, Shape};
use crate::etcd_bars::etcd::EtcdServer;
use crate::etcd_bars::{TXN, block_on, commit, fill, quantile, server};
use crate::report::{Report, median, show};

const PREFIX: &str = "/registry/items/";
/// Events a second of J3, in transactions.
const RATE: usize = 20_000;
const ROUNDS: usize = 5;

pub(crate) fn run(report: &mut Report, keys: usize, quick: bool) {
    block_on(all(report, keys, quick));
}

async fn all(report: &mut Report, keys: usize, quick: bool) {
    let Some(server) = server().await else { return };
    if report.wants(&["J1"]) {
        warm_restart(report, &server, keys).await;
    }
    if report.wants(&["J2"]) {
        requests_of_a_warm_restart(report).await;
    }
    if report.wants(&["J3"]) {
        sustained(report, &server, if quick { 2 } else { 8 }).await;
    }
}

/// A folder for a journal; `KEYSPACE_JOURNAL_IN` names another disk than etcd's, or memory.
fn folder() -> tempfile::TempDir {
    let folder = match std::env::var_os("KEYSPACE_JOURNAL_IN") {
        Some(within) => tempfile::tempdir_in(within),
        None => tempfile::tempdir(),
    };
    folder.expect("a folder")
}

async fn open(path: &Path) -> Journal {
    Journal::open(path, JournalOptions::new()).await.expect("the journal opens")
}

fn builder() -> Builder<Vec<u8>> {
    KeySpace::builder(KeyRange::prefix(PREFIX)).expect("a range").bytes().name("items")
}

async fn start(server: &EtcdServer, builder: Builder<Vec<u8>>) -> KeySpace<Vec<u8>> {
    let source = Etcd::new([server.endpoint()], EtcdOptions::new());
    builder.start(source).await.expect("the key space starts")
}

/// Starts as a process does that stores what it mirrors.
async fn restart(server: &EtcdServer, path: &Path) -> (KeySpace<Vec<u8>>, Journal) {
    let journal = open(path).await;
    let ks = start(server, builder().journal(&journal).restore(&journal)).await;
    (ks, journal)
}

/// Ends both once everything is stored, which is a moment after it is shown.
async fn end((ks, journal): (KeySpace<Vec<u8>>, Journal), through: i64) {
    ks.wait_for_revision(through).await.expect("the revision comes");
    stored(&journal, through).await;
    ks.shutdown().await;
    journal.close().await.expect("the journal ends");
}

async fn stored(journal: &Journal, through: i64) {
    loop {
        let mirrors = journal.mirrors().await.expect("the journal can be read");
        if mirrors.first().is_some_and(|(_, stored)| stored.cursor.revision >= through) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Puts so many keys; the revision of the last one.
async fn filled(server: &EtcdServer, keys: usize) -> i64 {
    let data = Dataset::new(Shape::Plain, keys, 1);
    let names: Vec<_> = data.kvs.into_iter().map(|kv| kv.key).collect();
    fill(server, &names).await
}

/// J1: from opening the journal until the first read is served, against a load without a journal.
async fn warm_restart(report: &mut Report, server: &EtcdServer, keys: usize) {
    let last = filled(server, keys).await;
    let folder = folder();
    let path = folder.path().join("journal");
    let begun = Instant::now();
    end(restart(server, &path).await, last).await;
    println!(
        "J1   first load of {keys} keys until stored: {}; the journal has {} MiB",
        show(begun.elapsed().as_secs_f64()),
        std::fs::metadata(&path).map_or(0, |file| file.len() >> 20)
    );
    let (mut ratios, mut warm, mut cold) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let ks = start(server, builder()).await;
        assert_eq!(ks.read().len(), keys);
        let other = begun.elapsed().as_secs_f64();
        ks.shutdown().await;
        drop(ks);
        let begun = Instant::now();
        let warmed = restart(server, &path).await;
        assert_eq!(warmed.0.read().len(), keys);
        let mine = begun.elapsed().as_secs_f64();
        end(warmed, last).await;
        ratios.push(mine / other);
        warm.push(mine);
        cold.push(other);
    }
    println!(
        "J1   warm restart with {keys} keys: {}; cold load {}",
        show(median(warm)),
        show(median(cold))
    );
    report.bar("J1", median(ratios), 0.35);
}

/// J2: what a warm restart asks etcd for, as etcd's own log and counters tell it.
async fn requests_of_a_warm_restart(report: &mut Report) {
    let folder = folder();
    let (path, log) = (folder.path().join("journal"), folder.path().join("log"));
    // A server of its own: telling each request in its log slows it down.
    let server = EtcdServer::builder()
        .arg("--log-level=debug")
        .arg(format!("--log-outputs={}", log.display()))
        .start()
        .await
        .expect("etcd starts");
    let last = filled(&server, 1_000).await;
    end(restart(&server, &path).await, last).await;
    let (cold, told) = (range_requests(&log), streams(&server).await);
    assert!(!cold.is_empty() && told > 0, "the cold load is not seen: {cold:?}");
    // Something to catch up on.
    let last = filled(&server, 100).await;
    end(restart(&server, &path).await, last).await;
    let all = range_requests(&log).split_off(cold.len());
    let of = |words: &[&str]| {
        let is = |request: &&String| words.iter().any(|word| request.contains(word));
        all.iter().filter(is).count()
    };
    let (limited, counts) = (of(&["limit:1 ", "limit:1\""]), of(&["count_only:true"]));
    let streamed = streams(&server).await - told;
    println!(
        "J2   a warm restart asks for {} ranges, {limited} with limit 1, and {streamed} streams; {counts} only count",
        all.len(),
    );
    for request in &all {
        let from = request.find("request content").unwrap_or(0);
        println!("J2   {}", &request[from..]);
    }
    report.bar("J2", (all.len() - limited) as f64 + streamed as f64, 0.0);
}

/// The range requests that etcd's log tells.
fn range_requests(log: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(log).expect("etcd's log");
    let is = |line: &&str| line.contains("request stats") && line.contains("KV/Range\"");
    log.lines().filter(is).map(str::to_owned).collect()
}

/// How many streams of a range etcd has been asked for.
async fn streams(server: &EtcdServer) -> u64 {
    let endpoint = server.endpoint();
    let address = endpoint.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("etcd listens");
    let ask = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let is = |line: &&str| {
        line.starts_with("grpc_server_started_total{") && line.contains("\"RangeStream\"")
    };
    let counts = answer.lines().filter(is).filter_map(|line| line.rsplit(' ').next());
    counts.filter_map(|count| count.parse::<u64>().ok()).sum()
}

/// J3: how long an event takes until it can be read, while many come, with a journal and without.
async fn sustained(report: &mut Report, server: &EtcdServer, seconds: usize) {
    for (bar, delay) in [("J3", Duration::from_millis(30)), ("J3now", Duration::ZERO)] {
        let (mut ratios, mut p99, mut behind) = (Vec::new(), Vec::new(), Vec::new());
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let folder = folder();
            let journal = open(&folder.path().join("journal")).await;
            let builder = || builder().apply_delay(delay);
            let ks = start(server, builder().journal(&journal)).await;
            let mine = latencies(server, &ks, seconds).await;
            let through = mine.1;
            let begun = Instant::now();
            stored(&journal, through).await;
            behind.push(begun.elapsed().as_secs_f64());
            end((ks, journal), through).await;
            let ks = start(server, builder()).await;
            let other = latencies(server, &ks, seconds).await;
            ks.shutdown().await;
            let [mine99, other99] = [&mine.0, &other.0].map(|times| quantile(times.clone(), 0.99));
            let [mine, other] = [mine.0, other.0].map(|times| quantile(times, 0.5));
            ratios.push(mine / other);
            p99.push(mine99 / other99);
            ours.push(mine);
            theirs.push(other);
        }
        println!(
            "{bar} {RATE} events/s, apply delay {delay:?}, until readable: p50 {}; without a journal {}; p99 {:.2} times; all stored {} after the last",
            show(median(ours)),
            show(median(theirs)),
            median(p99),
            show(median(behind))
        );
        report.bar(bar, median(ratios), 1.2);
    }
}

/// Writes at the rate; how long each transaction took until it could be read, and the last revision.
async fn latencies(
    server: &EtcdServer,
    ks: &KeySpace<Vec<u8>>,
    seconds: usize,
) -> (Vec<Duration>, i64) {
    let names: Vec<Vec<u8>> =
        (0..TXN * 100).map(|n| format!("{PREFIX}rate/{n:06}").into_bytes()).collect();
    let mut ticks = interval(Duration::from_secs(1) / (RATE / TXN) as u32);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let client = server.client().await;
    let mut written = tokio::task::JoinSet::new();
    for n in 0..seconds * RATE / TXN {
        ticks.tick().await;
        let (mut client, ks) = (client.clone(), ks.clone());
        let first = n % 100 * TXN;
        let part = names[first..first + TXN].to_vec();
        written.spawn(async move {
            let begun = Instant::now();
            let revision = commit(&mut client, part, &mut Random::new(n as u64 + 1)).await;
            ks.wait_for_revision(revision).await.expect("the revision comes");
            (begun.elapsed(), revision)
        });
    }
    let (times, revisions): (Vec<_>, Vec<_>) = written.join_all().await.into_iter().unzip();
    (times, revisions.into_iter().max().unwrap_or(0))
}
