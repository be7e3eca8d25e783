//! The bars with a real etcd on the same machine (E1 to E8; E2 when `$ETCD` is older than 3.7).
//!
//! Owns what is measured end to end: loading, latency, throughput, processor time, catching up,
//! and what a thousand followers add to that.

#[path = "../../tests/support/etcd.rs"]
pub(crate) mod etcd;

use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions, PutOptions, Txn, TxnOp, WatchOptions, WatchStream};
use etcd_keyspace::{Etcd, EtcdOptions, KeyRange, KeySpace, etcd_client};
use tokio::task::JoinSet;

use crate::data::{Dataset, Random, Shape, value};
use crate::report::{Report, median, show};
use etcd::EtcdServer;

const WRITERS: usize = 64;
pub(crate) const TXN: usize = 100;
const PREFIX: &str = "/registry/";
/// Keys of the backlog, and those who follow ten of them each.
const BACKLOG_KEYS: usize = 50_000;
const FOLLOWERS: usize = 1_000;

pub(crate) fn run(report: &mut Report, keys: usize, quick: bool) {
    block_on(all(report, keys, quick));
}

/// Runs bars that talk to an etcd.
pub(crate) fn block_on(bars: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(bars);
}

/// An etcd with room for a million keys; without a binary the bars are left out.
pub(crate) async fn server() -> Option<EtcdServer> {
    let builder = EtcdServer::builder().arg("--quota-backend-bytes=8589934592");
    builder.start().await.inspect_err(|error| println!("no etcd: {error}")).ok()
}

async fn all(report: &mut Report, keys: usize, quick: bool) {
    let Some(server) = server().await else { return };
    println!("etcd {}", server.version());
    if report.wants(&["E3"]) {
        idle_latency(report, &server, if quick { 200 } else { 1_000 }).await;
    }
    if report.wants(&["E7"]) {
        sync_latency(report, &server, if quick { 100 } else { 500 }).await;
    }
    if report.wants(&["E4", "E5"]) {
        full_rate(report, &server, if quick { 20_000 } else { 100_000 }).await;
    }
    if report.wants(&["E6", "E8"]) {
        backlog(report, &server, if quick { 20_000 } else { 200_000 }).await;
    }
    // Servers before 3.7 have no stream of a range, which is what E2 is about.
    let streams = server.version().split('.').nth(1).and_then(|minor| minor.parse().ok());
    let bar = if streams.is_some_and(|minor: u32| minor >= 7) { "E1" } else { "E2" };
    if report.wants(&[bar]) {
        load(report, &server, keys, bar).await;
    }
}

async fn follow(server: &EtcdServer, prefix: &str) -> KeySpace<Vec<u8>> {
    let builder = KeySpace::builder(KeyRange::prefix(prefix)).expect("a range").bytes();
    let source = Etcd::new([server.endpoint()], EtcdOptions::new());
    builder.start(source).await.expect("the key space starts")
}

/// A watch as an application would write it by hand.
async fn bare_watch(client: &Client, prefix: &str, start: i64) -> WatchStream {
    let options = WatchOptions::new().with_prefix().with_start_revision(start);
    let mut watch = client.watch_client().max_decoding_message_size(256 << 20);
    let mut stream = watch.watch(prefix, Some(options)).await.expect("a watch");
    let created = stream.message().await.expect("an answer").expect("an answer");
    assert!(created.created());
    stream
}

/// Reads a watch until it has brought `revision`, dropping what it brings; gives the events seen.
async fn drain(stream: &mut WatchStream, revision: i64) -> usize {
    let mut events = 0;
    loop {
        let response = stream.message().await.expect("a message").expect("a message");
        events += response.events().len();
        let last = response.events().last().and_then(|event| event.kv());
        if last.is_some_and(|kv| kv.mod_revision() >= revision) {
            return events;
        }
    }
}

pub(crate) fn quantile(mut times: Vec<Duration>, quantile: f64) -> f64 {
    times.sort();
    let at = (times.len() as f64 * quantile) as usize;
    times[at.min(times.len() - 1)].as_secs_f64()
}

/// E3: idle puts until they can be read, against a bare watch, in turn.
async fn idle_latency(report: &mut Report, server: &EtcdServer, puts: usize) {
    let mut client = server.client().await;
    let prefix = format!("{PREFIX}latency/");
    let ks = follow(server, &prefix).await;
    let mut bare = bare_watch(&server.client().await, &prefix, 0).await;
    let mut random = Random::new(1);
    let (mut mirrored, mut watched) = (Vec::new(), Vec::new());
    for round in 0..puts {
        // Longer than the apply delay: the key space is idle.
        tokio::time::sleep(Duration::from_millis(35)).await;
        let key = format!("{prefix}{:02}", round % 50);
        let put = client.put(key, value(&mut random), None);
        if round % 2 == 0 {
            let updated = ks.updated();
            let begun = Instant::now();
            let (put, updated) = tokio::join!(put, async {
                updated.await.expect("an update");
                begun.elapsed()
            });
            mirrored.push(updated);
            let revision = put.expect("a put").header().map_or(0, |header| header.revision());
            drain(&mut bare, revision).await;
        } else {
            let begun = Instant::now();
            let (put, seen) = tokio::join!(put, async {
                bare.message().await.expect("a message");
                begun.elapsed()
            });
            watched.push(seen);
            let revision = put.expect("a put").header().map_or(0, |header| header.revision());
            ks.wait_for_revision(revision).await.expect("the revision comes");
        }
    }
    let [a50, a99] = [quantile(mirrored.clone(), 0.5), quantile(mirrored, 0.99)];
    let [b50, b99] = [quantile(watched.clone(), 0.5), quantile(watched, 0.99)];
    println!(
        "E3   idle put until readable: p50 {} p99 {}; bare watch p50 {} p99 {}",
        show(a50),
        show(a99),
        show(b50),
        show(b99)
    );
    report.bar("E3", a50 / b50, 1.3);
    report.bar("E3p99", a99 / b99, 2.0);
}

/// E7: `sync()` while somebody writes outside the range, against one linearizable count.
async fn sync_latency(report: &mut Report, server: &EtcdServer, rounds: usize) {
    let prefix = format!("{PREFIX}sync/");
    let mut client = server.client().await;
    client.put(format!("{prefix}a"), "1", None).await.expect("a put");
    let ks = follow(server, &prefix).await;
    let mut other = server.client().await;
    let writer = tokio::spawn(async move {
        loop {
            other.put("/elsewhere", "x", None).await.expect("a put");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let (mut synced, mut counted) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let begun = Instant::now();
        ks.sync().await.expect("a sync");
        synced.push(begun.elapsed());
        let begun = Instant::now();
        let options = GetOptions::new().with_count_only();
        client.get(format!("{prefix}a"), Some(options)).await.expect("a count");
        counted.push(begun.elapsed());
    }
    writer.abort();
    let (ours, theirs) = (quantile(synced, 0.5), quantile(counted, 0.5));
    println!("E7   sync p50 {}; linearizable count p50 {}", show(ours), show(theirs));
    report.bar("E7", ours / theirs, 2.0);
}

/// Puts `puts` keys from many writers at once; gives the revision of the last one.
async fn write(server: &EtcdServer, prefix: &str, puts: usize) -> i64 {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let mut client = server.client().await;
        let prefix = prefix.to_owned();
        writers.spawn(async move {
            let mut random = Random::new(writer as u64 + 1);
            let mut last = 0;
            for _ in 0..puts / WRITERS {
                let key = format!("{prefix}{:05}", random.below(10_000));
                let options: Option<PutOptions> = None;
                let put = client.put(key, value(&mut random), options).await.expect("a put");
                last = put.header().map_or(0, |header| header.revision());
            }
            last
        });
    }
    let mut last = 0;
    while let Some(revision) = writers.join_next().await {
        last = last.max(revision.expect("a writer ends"));
    }
    last
}

/// The processor seconds of this process so far.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|tick| tick.parse().ok()).collect();
    ticks.iter().sum::<f64>() / 100.0
}

/// E4 and E5: many writers at full rate, until the last write is readable, and what it costs. The
/// writers run in this process in both cases.
async fn full_rate(report: &mut Report, server: &EtcdServer, puts: usize) {
    let prefix = format!("{PREFIX}rate/");
    let (mut times, mut costs) = (Vec::new(), Vec::new());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..6 {
        let cost = processor_seconds();
        let begun = Instant::now();
        if round % 2 == 0 {
            let ks = follow(server, &prefix).await;
            let last = write(server, &prefix, puts).await;
            ks.wait_for_revision(last).await.expect("the revision comes");
            ours.push((begun.elapsed().as_secs_f64(), processor_seconds() - cost));
        } else {
            let mut bare = bare_watch(&server.client().await, &prefix, 0).await;
            let drained = tokio::spawn(async move {
                let mut seen = 0;
                while seen < puts / WRITERS * WRITERS {
                    let response = bare.message().await.expect("a message").expect("a message");
                    seen += response.events().len();
                }
            });
            write(server, &prefix, puts).await;
            drained.await.expect("all events come");
            theirs.push((begun.elapsed().as_secs_f64(), processor_seconds() - cost));
        }
    }
    for (ours, theirs) in ours.iter().zip(&theirs) {
        times.push(ours.0 / theirs.0);
        costs.push(ours.1 / theirs.1);
    }
    let middle = |pairs: &[(f64, f64)]| {
        let (times, costs): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        (median(times), median(costs))
    };
    let (a, b) = (middle(&ours), middle(&theirs));
    println!(
        "E4   {puts} puts of {WRITERS} writers: {} and {:.2} cpu-s; bare watch {} and {:.2} cpu-s",
        show(a.0),
        a.1,
        show(b.0),
        b.1
    );
    report.bar("E4", median(times), 1.05);
    report.bar("E5", median(costs), 1.30);
}

/// Puts keys as one revision; that revision.
pub(crate) async fn commit(client: &mut Client, keys: Vec<Vec<u8>>, random: &mut Random) -> i64 {
    let puts: Vec<_> = keys.into_iter().map(|key| TxnOp::put(key, value(random), None)).collect();
    let done = client.txn(Txn::new().and_then(puts)).await.expect("a transaction");
    done.header().map_or(0, |header| header.revision())
}

/// Puts keys in transactions of a hundred; the last revision.
pub(crate) async fn fill(server: &EtcdServer, keys: &[Vec<u8>]) -> i64 {
    let mut writers = JoinSet::new();
    let chunks: Vec<Vec<Vec<u8>>> = keys.chunks(TXN).map(<[_]>::to_vec).collect();
    for (writer, part) in chunks.chunks(chunks.len().div_ceil(8).max(1)).enumerate() {
        let mut client = server.client().await;
        let part = part.to_vec();
        writers.spawn(async move {
            let mut random = Random::new(writer as u64 + 1);
            let mut last = 0;
            for chunk in part {
                last = commit(&mut client, chunk, &mut random).await;
            }
            last
        });
    }
    let mut last = 0;
    while let Some(revision) = writers.join_next().await {
        last = last.max(revision.expect("a writer ends"));
    }
    last
}

/// E6: catching up on a backlog, loaded before it was written.
async fn backlog(report: &mut Report, server: &EtcdServer, events: usize) {
    let prefix = format!("{PREFIX}backlog/");
    let mut client = server.client().await;
    let before = client.put(format!("{prefix}first"), "1", None).await.expect("a put");
    let before = before.header().map_or(0, |header| header.revision());
    let keys: Vec<_> =
        (0..events).map(|n| format!("{prefix}{:06}", n % BACKLOG_KEYS).into_bytes()).collect();
    let last = fill(server, &keys).await;
    if report.wants(&["E8"]) {
        followed_backlog(report, server, &prefix, [before, last]).await;
    }
    if !report.wants(&["E6"]) {
        return;
    }
    let mut ratios = Vec::new();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let mine = catch_up(server, &prefix, [before, last], 0).await.0;
        let begun = Instant::now();
        let mut bare = bare_watch(&server.client().await, &prefix, before + 1).await;
        drain(&mut bare, last).await;
        let other = begun.elapsed().as_secs_f64();
        ratios.push(mine / other);
        ours.push(mine);
        theirs.push(other);
    }
    println!(
        "E6   backlog of {events} events: {}; bare watch {}",
        show(median(ours)),
        show(median(theirs))
    );
    report.bar("E6", median(ratios), 1.10);
}

/// Loads at one revision and follows up to another, with so many who follow ten keys each; the seconds
/// it took, those of the processor, and how often somebody was woken.
async fn catch_up(
    server: &EtcdServer,
    prefix: &str,
    [before, last]: [i64; 2],
    followers: usize,
) -> (f64, f64, u64) {
    let builder = KeySpace::builder(KeyRange::prefix(prefix)).expect("a range").bytes();
    let source = Etcd::new([server.endpoint()], EtcdOptions::new());
    let (ks, mirror) = builder.load_at(before).build(source);
    let mut following = JoinSet::new();
    for follower in 0..followers {
        let first = follower * (BACKLOG_KEYS / followers);
        let key = |n: usize| format!("{prefix}{n:06}");
        let mut changes = ks.changes(key(first)..key(first + 10));
        following.spawn(async move {
            while changes.next().await.is_ok() {}
            changes.wake_ups()
        });
    }
    let (cost, begun) = (processor_seconds(), Instant::now());
    tokio::spawn(mirror.run());
    ks.wait_for_revision(last).await.expect("the revision comes");
    let taken = (begun.elapsed().as_secs_f64(), processor_seconds() - cost);
    ks.shutdown().await;
    let mut woken = 0;
    while let Some(wake_ups) = following.join_next().await {
        woken += wake_ups.expect("a follower ends");
    }
    (taken.0, taken.1, woken)
}

/// E8: the same backlog with a thousand followers, and with none.
async fn followed_backlog(
    report: &mut Report,
    server: &EtcdServer,
    prefix: &str,
    revisions: [i64; 2],
) {
    let (mut ratios, mut costs) = (Vec::new(), Vec::new());
    let (mut ours, mut theirs, mut wakes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..7 {
        let followed = catch_up(server, prefix, revisions, FOLLOWERS).await;
        let alone = catch_up(server, prefix, revisions, 0).await;
        ratios.push(followed.0 / alone.0);
        costs.push(followed.1 / alone.1);
        ours.push(followed.0);
        theirs.push(alone.0);
        wakes = followed.2;
    }
    println!(
        "E8   backlog with {FOLLOWERS} followers ({wakes} wake-ups): {}; with none {}; processor {:.2} times",
        show(median(ours)),
        show(median(theirs)),
        median(costs)
    );
    report.bar("E8", median(ratios), 1.25);
}

/// E1, E2: a load until everything is readable, against draining the server's fastest answer.
async fn load(report: &mut Report, server: &EtcdServer, keys: usize, bar: &str) {
    let prefix = format!("{PREFIX}items/");
    let data = Dataset::new(Shape::Plain, keys, 1);
    let names: Vec<_> = data.kvs.into_iter().map(|kv| kv.key).collect();
    fill(server, &names).await;
    let (mut ratios, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        let begun = Instant::now();
        let ks = follow(server, &prefix).await;
        assert_eq!(ks.read().len(), names.len());
        let mine = begun.elapsed().as_secs_f64();
        drop(ks);
        let other = drain_range(&server.client().await, &prefix, names.len()).await;
        ratios.push(mine / other);
        ours.push(mine);
        theirs.push(other);
    }
    println!(
        "{bar}   load of {keys} keys: {}; drained {}",
        show(median(ours)),
        show(median(theirs))
    );
    report.bar(bar, median(ratios), 1.25);
}

/// Reads everything as a stream, or in pages of 100,000 where there is none, and drops it.
async fn drain_range(client: &Client, prefix: &str, keys: usize) -> f64 {
    let begun = Instant::now();
    let mut kv = client.kv_client().max_decoding_message_size(256 << 20);
    let mut seen = 0;
    match kv.get_stream(prefix, Some(GetOptions::new().with_prefix())).await {
        Ok(mut stream) => {
            while let Some(chunk) = stream.message().await.expect("a chunk") {
                seen += chunk.kvs().len();
            }
        }
        Err(_) => {
            let mut start = prefix.as_bytes().to_vec();
            let end = KeyRange::prefix(prefix).end().map(<[u8]>::to_vec).unwrap_or_default();
            loop {
                let options = GetOptions::new().with_range(end.clone()).with_limit(100_000);
                let page = kv.get(start.clone(), Some(options)).await.expect("a page");
                seen += page.kvs().len();
                match page.kvs().last() {
                    Some(last) if page.more() => start = [last.key(), &[0]].concat(),
                    _ => break,
                }
            }
        }
    }
    assert_eq!(seen, keys);
    begun.elapsed().as_secs_f64()
}
