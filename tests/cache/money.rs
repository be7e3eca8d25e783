//! Cuts and idle stops with a real etcd.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use etcd_client::{Client, GetOptions, TxnOp};
use etcd_keyspace::{ProgressBy, Snapshot};

use super::*;
use crate::support::real::{at, commit, metric, poll_until, print_times, put};
use crate::support::{EtcdServer, GrpcProxy, shared, unique_prefix, within};

const ACCOUNTS: usize = 8;
const TOTAL: u64 = 1000;

fn balances(snapshot: &Snapshot<u64>) -> u64 {
    snapshot.iter().map(|entry| *entry.value()).sum()
}

fn number(kv: etcd_keyspace::RawKeyValue) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    Ok(String::from_utf8(kv.value)?.parse()?)
}

/// Moves money between the two accounts of one owner, some of it out of sight, as fast as it can.
async fn owner(mut client: Client, prefix: String, n: usize, stop: Arc<AtomicBool>) -> u64 {
    let mut moves = 0;
    while !stop.load(Ordering::Relaxed) {
        moves += 1;
        let left = (moves * 7919 + n as u64) % (TOTAL + 1);
        let mut ops = vec![
            TxnOp::put(format!("{prefix}a/{n}"), left.to_string(), None),
            TxnOp::put(format!("{prefix}b/{n}"), (TOTAL - left).to_string(), None),
        ];
        if left == 0 {
            ops[0] = TxnOp::delete(format!("{prefix}a/{n}"), None);
        }
        commit(&mut client, ops).await;
    }
    moves
}

/// Every owner has all of the money on the first account.
async fn open_accounts(client: &mut Client, prefix: &str) {
    for n in 0..ACCOUNTS {
        let ops = [("a", TOTAL), ("b", 0)];
        let put =
            |(side, sum)| TxnOp::put(format!("{prefix}{side}/{n}"), u64::to_string(&sum), None);
        commit(client, ops.map(put)).await;
    }
}

/// What etcd itself says was there at a revision.
async fn truth(client: &mut Client, range: &KeyRange, at: Revision) -> BTreeMap<Vec<u8>, u64> {
    let options = GetOptions::new().with_range(range.end().unwrap()).with_revision(at);
    let answer = client.get(range.start(), Some(options)).await.unwrap();
    let kvs = answer.kvs().iter();
    kvs.map(|kv| (kv.key().to_vec(), kv.value_str().unwrap().parse().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c3_money_that_moves_between_two_prefixes_is_all_there_in_every_cut() {
    let server = shared().await;
    let prefix = unique_prefix("money");
    let mut client = server.client().await;
    open_accounts(&mut client, &prefix).await;
    let spaces = KeySpaces::builder(at(server.endpoint()), number).build();
    let ranges = [format!("{prefix}a/"), format!("{prefix}b/")];
    let stop = Arc::new(AtomicBool::new(false));
    let mut owners = tokio::task::JoinSet::new();
    for n in 0..ACCOUNTS {
        owners.spawn(owner(server.client().await, prefix.clone(), n, Arc::clone(&stop)));
    }
    let all = TOTAL * ACCOUNTS as u64;
    let (mut last, mut times) = (0, Vec::new());
    for _ in 0..100 {
        let begun = Instant::now();
        let cut = within("a cut", spaces.cut(&ranges)).await.unwrap();
        times.push(begun.elapsed());
        assert_eq!(balances(&cut[0]) + balances(&cut[1]), all, "at {}", cut.revision());
        assert!(cut.revision() > last, "the owners went on meanwhile");
        last = cut.revision();
        for (range, snapshot) in cut.iter() {
            let shown: BTreeMap<_, _> =
                snapshot.iter().map(|entry| (entry.key().to_vec(), *entry.value())).collect();
            assert_eq!(shown, truth(&mut client, range, cut.revision()).await);
        }
    }
    // Two snapshots that are only taken one after the other do not add up.
    let (a, b) = (spaces.get(&ranges[0]).await.unwrap(), spaces.get(&ranges[1]).await.unwrap());
    let apart = || balances(&a.snapshot()) + balances(&b.snapshot());
    poll_until("snapshots apart differ", apart, |sum| *sum != all).await;
    stop.store(true, Ordering::Relaxed);
    let moves: u64 = owners.join_all().await.into_iter().sum();
    println!("{moves} moves, {:?}", spaces.stats());
    print_times("a cut under writes", &mut times[1..]);
    assert_eq!((spaces.stats().cuts, spaces.stats().starts), (100, 2));
    // At rest it is the same.
    let cut = spaces.cut(&ranges).await.unwrap();
    assert_eq!(balances(&cut[0]) + balances(&cut[1]), all);
    spaces.shutdown().await;
}

/// Where completeness is found by counting, a count is made as of the revision of the cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b13_b33_cuts_behind_a_proxy_that_swallows_progress_are_exact() {
    let server = EtcdServer::start().await.unwrap();
    let proxy = GrpcProxy::start(&[server.endpoint()]).await.unwrap();
    let mut client = server.client().await;
    open_accounts(&mut client, "/m/").await;
    let spaces = KeySpaces::builder(at(proxy.endpoint()), number);
    let spaces = spaces.each(|_, builder| builder.check_interval(200 * MS)).build();
    for range in ["/m/a/", "/m/b/"] {
        let ks = within("a start", spaces.get(range)).await.unwrap();
        let by = || ks.status().progress_by;
        poll_until("it counts", by, |by| *by == ProgressBy::Count).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let owner = tokio::spawn(owner(server.client().await, "/m/".into(), 0, Arc::clone(&stop)));
    for round in 0..30 {
        if round == 20 {
            // And where nothing but the count can tell.
            stop.store(true, Ordering::Relaxed);
        }
        let cut = within("a cut", spaces.cut(["/m/a/", "/m/b/"])).await.unwrap();
        assert_eq!(balances(&cut[0]) + balances(&cut[1]), TOTAL * ACCOUNTS as u64);
        for (range, snapshot) in cut.iter() {
            let shown: BTreeMap<_, _> =
                snapshot.iter().map(|entry| (entry.key().to_vec(), *entry.value())).collect();
            assert_eq!(shown, truth(&mut client, range, cut.revision()).await);
        }
        put(&mut client, "/elsewhere", "x").await;
    }
    assert!(owner.await.unwrap() > 0);
    spaces.shutdown().await;
}

#[tokio::test]
async fn b24_idle_stops_leave_no_watcher_at_the_server() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    let spaces = KeySpaces::builder(at(server.endpoint()), bytes());
    let spaces = spaces.idle_ttl(50 * MS).max(10).build();
    let names = ["etcd_debugging_mvcc_watcher_total", "etcd_debugging_mvcc_watch_stream_total"];
    for round in 0..3 {
        for n in 0..5 {
            let range = format!("/idle/{n}/");
            let revision = put(&mut client, format!("{range}{round}"), "x").await;
            let ks = within("a start", spaces.get(&range)).await.unwrap();
            within("its own write", ks.wait_for_revision(revision)).await.unwrap();
            assert_eq!(ks.read().len(), round + 1);
            assert!(metric(&server, names[0]).await > 0);
        }
        for name in names {
            within("no watcher is left", async {
                while metric(&server, name).await > 0 {
                    sleep(10 * MS).await;
                }
            })
            .await;
        }
        assert_eq!(spaces.stats().held, 0);
    }
    assert_eq!(spaces.stats().evictions, 0);
    assert!(spaces.stats().idle_stops >= 15, "{:?}", spaces.stats());
}
