//! Following a real etcd that dies, stalls, forgets and comes back as another.
//!
//! Each test ends with the comparison of the whole key space with etcd, where both are left.

mod support;

use std::collections::HashSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, TxnOp};
use etcd_keyspace::{
    DeltaOrigin, Etcd, EtcdOptions, OnHistoryChange, State, StopReason, WaitError,
};
use support::real::{
    Bytes, Steps, at, commit, delete, delete_prefix, mirror, poll_until, put, put_in_the_end,
    reaches, revision, start, waiter,
};
use support::verify::equals_etcd;
use support::{Cluster, Direction, EtcdServer, Proxy, still_pending, within};

const MS: Duration = Duration::from_millis(1);

/// A server with a proxy in front of it, and a mirror of `/k/` through the proxy.
struct Fixture {
    server: EtcdServer,
    proxy: Proxy,
    client: Client,
    ks: Bytes,
}

impl Fixture {
    /// With ten keys: `/k/0` to `/k/9`.
    async fn new() -> Self {
        let server = EtcdServer::start().await.unwrap();
        let proxy = Proxy::start(&server.endpoint()).await.unwrap();
        let mut client = server.client().await;
        for i in 0..10 {
            put(&mut client, format!("/k/{i}"), "first").await;
        }
        let ks = start(proxy.endpoint(), "/k/").await;
        equals_etcd(&ks, &mut client, "/k/").await;
        Fixture { server, proxy, client, ks }
    }

    async fn equal(&mut self) {
        equals_etcd(&self.ks, &mut self.client, "/k/").await;
        reaches(&self.ks, State::Live).await;
    }
}

// ---- The process --------------------------------------------------------------------------------

/// B20, T-10: waits and syncs begun before and during the outage end after it; nothing is loaded again.
#[tokio::test]
async fn gz17_kill_9_and_restart_lose_nothing_and_waits_survive() {
    let server = EtcdServer::builder().durable().start().await.unwrap();
    let mut client = server.client().await;
    put(&mut client, "/k/a", "1").await;
    let ks = start(server.endpoint(), "/k/").await;
    let steps = Steps::of(&ks);
    for round in 0..3 {
        let now = put(&mut client, "/k/a", format!("{round}")).await;
        let mut before = waiter(&ks, now + 2);
        server.kill();
        reaches(&ks, State::Reconnecting).await;
        assert_eq!(ks.read().len(), 1 + round, "the last data is served");
        let during = waiter(&ks, now + 1);
        let sync = tokio::spawn({
            let ks = ks.clone();
            async move { ks.sync().await }
        });
        still_pending("etcd is down", 50 * MS, &mut before).await;
        server.restart().await.unwrap();
        client = server.client().await;
        put(&mut client, format!("/k/new{round}"), "x").await;
        put(&mut client, "/beside", "x").await;
        assert!(within("a wait from before", before).await.unwrap().unwrap() >= now + 2);
        assert!(within("a wait from the outage", during).await.unwrap().unwrap() > now);
        assert!(within("a sync from the outage", sync).await.unwrap().unwrap() >= now);
        equals_etcd(&ks, &mut client, "/k/").await;
    }
    let status = ks.status();
    assert_eq!((status.counters.loads, status.epoch), (1, 1), "{status:?}");
    let loads = steps.take().iter().filter(|step| step.origin == DeltaOrigin::Load).count();
    assert_eq!(loads, 0);
    assert!(status.last_error.is_none(), "it is over: {status:?}");
}

/// B18, T-21: everything stays open and nothing answers; afterwards it goes on.
#[tokio::test]
async fn f21_sigstop_of_the_only_endpoint_is_noticed_and_sigcont_heals_it() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    put(&mut client, "/k/a", "1").await;
    let builder = mirror("/k/").check_interval(100 * MS).request_timeout(300 * MS);
    let ks = builder.start(at(server.endpoint())).await.unwrap();
    // The watch has answered once, so its silence counts.
    within("a sync", ks.sync()).await.unwrap();
    poll_until("it is proven", || ks.status().counters.watches, |watches| *watches == 1).await;
    server.pause();
    let noticed = reaches(&ks, State::Reconnecting).await;
    println!("a stopped process is noticed after {noticed:?}");
    assert!(noticed < Duration::from_secs(3), "{noticed:?}");
    let wait = waiter(&ks, 1_000_000);
    poll_until("it tries again", || ks.status().counters.failures, |f| *f >= 3).await;
    assert!(ks.read().contains("/k/a"));
    server.resume();
    put(&mut client, "/k/b", "2").await;
    equals_etcd(&ks, &mut client, "/k/").await;
    assert_eq!(ks.status().counters.loads, 1);
    assert!(!wait.is_finished());
    wait.abort();
}

/// B21: with one of three members dead, then another one stopped where it stands, the mirror goes on.
#[tokio::test]
async fn b21_a_cluster_that_loses_the_member_in_use_is_followed_on() {
    let cluster = Cluster::start(3).await.unwrap();
    let endpoints = cluster.endpoints();
    let mut client = cluster.client().await;
    put(&mut client, "/k/a", "1").await;
    let builder = mirror("/k/").check_interval(200 * MS).request_timeout(1000 * MS).seed(0);
    let etcd = Etcd::new(endpoints[..2].to_vec(), EtcdOptions::new());
    let ks = within("the start", builder.start(etcd)).await.unwrap();
    equals_etcd(&ks, &mut client, "/k/").await;

    let in_use = || endpoints.iter().position(|url| Some(url) == ks.status().endpoint.as_ref());
    let dead = in_use().unwrap();
    cluster.members()[dead].kill();
    let begun = Instant::now();
    // A client of the members that are left; elections may take a second.
    let left = [1 - dead, 2].map(|index| endpoints[index].clone());
    let mut client = Client::connect(&left[1..], None).await.unwrap();
    let rev = put_in_the_end(&mut client, "/k/b", "").await;
    within("the other endpoint", ks.wait_for_revision(rev)).await.unwrap();
    println!("followed on after {:?}", begun.elapsed());
    assert_eq!(ks.status().endpoint.as_ref(), Some(&left[0]));
    equals_etcd(&ks, &mut client, "/k/").await;

    // Back, and now the one in use stops where it stands.
    cluster.members()[dead].restart().await.unwrap();
    cluster.members()[1 - dead].pause();
    let begun = Instant::now();
    let rev = put_in_the_end(&mut client, "/k/c", "").await;
    within("the first endpoint again", ks.wait_for_revision(rev)).await.unwrap();
    println!("followed on after {:?}", begun.elapsed());
    assert_eq!(in_use(), Some(dead));
    equals_etcd(&ks, &mut client, "/k/").await;
    let counters = ks.status().counters;
    assert_eq!((counters.loads, counters.discontinuities), (1, 0), "{counters:?}");
    cluster.members()[1 - dead].resume();
}

// ---- The connection -----------------------------------------------------------------------------

#[tokio::test]
async fn t10_t17_connections_cut_during_writes_lose_nothing() {
    for delay in [Duration::ZERO, 30 * MS, 200 * MS] {
        let Fixture { server, proxy, mut client, ks } = Fixture::new().await;
        drop(ks);
        let ks = mirror("/k/").apply_delay(delay).start(at(proxy.endpoint())).await.unwrap();
        let writer = tokio::spawn({
            let mut client = server.client().await;
            async move {
                for i in 0..600 {
                    match i % 3 {
                        0 => drop(delete(&mut client, format!("/k/{}", i % 10)).await),
                        _ => drop(put(&mut client, format!("/k/{}", i % 7), "x").await),
                    }
                }
            }
        });
        for _ in 0..4 {
            let watches = ks.status().counters.watches;
            proxy.reset().await;
            let now = || ks.status().counters.watches;
            poll_until("it watches again", now, |now| *now > watches).await;
        }
        writer.await.unwrap();
        equals_etcd(&ks, &mut client, "/k/").await;
        let counters = ks.status().counters;
        assert_eq!((counters.loads, counters.discontinuities), (1, 0), "{counters:?}");
    }
}

/// B1: a backlog of some thousand revisions that breaks off after any number of bytes.
#[tokio::test]
async fn b1_t17_backlogs_that_break_off_anywhere_are_resumed_without_loss() {
    let mut fixture = Fixture::new().await;
    let value = "v".repeat(600);
    for (round, bytes) in [1_000, 60_000, 150_000, 290_000, 431_113].into_iter().enumerate() {
        fixture.proxy.cut().await;
        for i in 0..1500 {
            let key = format!("/k/{}", (i * 31 + round) % 200);
            match i % 9 {
                0 => drop(delete(&mut fixture.client, key).await),
                _ => drop(put(&mut fixture.client, key, &value).await),
            }
        }
        fixture.proxy.cut_after(bytes).await;
        within("the cut", fixture.proxy.reached()).await;
        let store = revision(&mut fixture.client).await;
        let view = fixture.ks.snapshot();
        assert!(view.confirmed() < store, "B1: {} is all of it", view.confirmed());
        fixture.proxy.pass().await;
        fixture.equal().await;
    }
    let counters = fixture.ks.status().counters;
    assert_eq!((counters.loads, counters.discontinuities), (1, 0), "{counters:?}");
}

/// T-12, B3: one revision of some megabytes breaks off after any number of bytes.
#[tokio::test]
async fn t12_b3_a_revision_that_breaks_off_is_shown_whole_or_not_at_all() {
    let server = EtcdServer::builder().arg("--max-request-bytes=10485760").start().await.unwrap();
    let proxy = Proxy::start(&server.endpoint()).await.unwrap();
    let mut client = server.client().await;
    let ks = start(proxy.endpoint(), "/k/").await;
    let steps = Steps::of(&ks);
    for (round, bytes) in [700_000, 2_500_000, 5_100_000].into_iter().enumerate() {
        // Six values of a megabyte in one transaction.
        let value = round.to_string().repeat(1 << 20);
        let put = |i| TxnOp::put(format!("/k/{i}"), value.as_str(), None);
        proxy.cut_after(bytes).await;
        let rev = commit(&mut client, (0..6).map(put).collect::<Vec<_>>()).await;
        within("the cut", proxy.reached()).await;
        assert!(ks.read().revision() < rev);
        assert_eq!(ks.read().len(), if round == 0 { 0 } else { 6 });
        proxy.pass().await;
        within("the whole", ks.wait_for_revision(rev)).await.unwrap();
        let steps = steps.take();
        assert_eq!(steps.len(), 1, "{steps:?}");
        assert_eq!((steps[0].changes.len(), steps[0].to), (6, rev));
    }
    equals_etcd(&ks, &mut client, "/k/").await;
    assert_eq!(ks.status().counters.loads, 1);
}

/// B4, T-12, T-13: what is larger than a message may be comes in fragments, and is shown whole also
/// when they break off between two of them.
#[tokio::test]
async fn b4_t12_t13_a_revision_larger_than_a_message_comes_in_fragments_and_is_shown_whole() {
    const KEYS: usize = 8_000;
    let server = EtcdServer::builder().arg("--max-txn-ops=10000").start().await.unwrap();
    let proxy = Proxy::start(&server.endpoint()).await.unwrap();
    let mut client = server.client().await;
    let options = EtcdOptions::new().max_message_bytes(4 << 20);
    let ks = mirror("/k/").start(Etcd::new([proxy.endpoint()], options)).await.unwrap();
    let steps = Steps::of(&ks);
    let long = "n".repeat(600);
    for bytes in [None, Some(3_500_000)] {
        let numbers: Vec<usize> = (0..KEYS).collect();
        for chunk in numbers.chunks(2_000) {
            let put = |n| TxnOp::put(format!("/k/{long}{n}"), "", None);
            commit(&mut client, chunk.iter().map(put).collect::<Vec<_>>()).await;
        }
        equals_etcd(&ks, &mut client, "/k/").await;
        steps.take();
        if let Some(bytes) = bytes {
            proxy.cut_after(bytes).await;
        }
        let rev = delete_prefix(&mut client, "/k/").await;
        if bytes.is_some() {
            within("the cut", proxy.reached()).await;
            assert_eq!(ks.read().len(), KEYS);
            proxy.pass().await;
        }
        within("the deletion", ks.wait_for_revision(rev)).await.unwrap();
        let steps = steps.take();
        assert_eq!((steps.len(), steps[0].changes.len(), steps[0].to), (1, KEYS, rev));
        equals_etcd(&ks, &mut client, "/k/").await;
    }
    let counters = ks.status().counters;
    assert_eq!(counters.loads, 1, "{counters:?}");
    assert!(counters.failures < 10, "{counters:?}");
}

/// B19: the socket is healthy and the watch is silent; the promise is two check intervals.
#[tokio::test]
async fn b19_a_swallowed_watch_is_replaced_within_its_bound() {
    for direction in [Direction::Down, Direction::Up] {
        let Fixture { server: _server, proxy, mut client, ks } = Fixture::new().await;
        drop(ks);
        let check = 150 * MS;
        let builder = mirror("/k/").check_interval(check).request_timeout(300 * MS);
        let ks = builder.start(at(proxy.endpoint())).await.unwrap();
        let as_of = || ks.status().current_as_of;
        poll_until("it has answered", as_of, |age| age.is_some_and(|age| age < check)).await;
        let rev = put(&mut client, "/k/0", "seen").await;
        within("it follows", ks.wait_for_revision(rev)).await.unwrap();
        within("it answers", ks.sync()).await.unwrap();

        proxy.blackhole(direction).await;
        let rev = put(&mut client, "/k/0", "missed").await;
        let noticed = reaches(&ks, State::Reconnecting).await;
        println!("{direction:?} swallowed: noticed after {noticed:?}");
        assert!(noticed < check * 10, "{noticed:?}");
        proxy.pass().await;
        within("a new watch", ks.wait_for_revision(rev)).await.unwrap();
        equals_etcd(&ks, &mut client, "/k/").await;
        assert_eq!(ks.status().counters.loads, 1);
    }
}

/// F20, T-65: a refused connection costs microseconds, so without a delay it would spin.
#[tokio::test]
async fn t65_f20_no_tight_loop_while_the_endpoint_refuses() {
    let mut fixture = Fixture::new().await;
    drop(fixture.ks);
    let builder = mirror("/k/").backoff(100 * MS, Duration::from_secs(10));
    fixture.ks = builder.start(at(fixture.proxy.endpoint())).await.unwrap();
    fixture.equal().await;
    let before = fixture.ks.status().counters;
    fixture.proxy.cut().await;
    // Time that passes is what is tested.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = fixture.ks.status().counters;
    let failures = after.failures - before.failures;
    assert!((2..=8).contains(&failures), "{after:?}");
    assert!(after.connects - before.connects <= 8, "{after:?}");
    fixture.proxy.pass().await;
    fixture.equal().await;
    assert_eq!(fixture.ks.status().counters.loads, 1);
}

// ---- History ------------------------------------------------------------------------------------

/// T-9, C6, B22: what happened meanwhile can only be had by reading everything; observers are shown
/// exactly the difference, readers never an empty view.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t9_c6_compaction_while_away_reloads_with_the_exact_difference() {
    let mut fixture = Fixture::new().await;
    let client = &mut fixture.client;
    let steps = Steps::of(&fixture.ks);
    steps.take();
    let before = fixture.ks.snapshot();
    let stop = Arc::new(AtomicBool::new(false));
    let looks = Arc::new(AtomicUsize::new(0));
    let reader = std::thread::spawn({
        let (ks, stop, looks) = (fixture.ks.clone(), Arc::clone(&stop), Arc::clone(&looks));
        move || {
            let mut seen = HashSet::new();
            while !stop.load(Ordering::Relaxed) {
                let view = ks.read();
                assert!(view.contains("/k/5"), "it is there before and after");
                seen.insert((view.revision(), view.len()));
                drop(view);
                looks.fetch_add(1, Ordering::Relaxed);
                std::thread::yield_now();
            }
            seen
        }
    });

    fixture.proxy.cut().await;
    delete(client, "/k/0").await;
    put(client, "/k/1", "second").await;
    delete(client, "/k/2").await;
    put(client, "/k/2", "again").await;
    put(client, "/k/new", "new").await;
    put(client, "/k/passing", "by").await;
    delete(client, "/k/passing").await;
    let rev = put(client, "/beside", "").await;
    client.compact(rev, None).await.unwrap();
    let wait = waiter(&fixture.ks, rev);
    fixture.proxy.pass().await;
    assert!(within("the reload", wait).await.unwrap().unwrap() >= rev);
    fixture.equal().await;

    stop.store(true, Ordering::Relaxed);
    let mut seen: Vec<_> = reader.join().unwrap().into_iter().collect();
    seen.sort_unstable();
    let after = fixture.ks.snapshot();
    let states = [(before.revision(), 10), (after.revision(), 10)];
    assert!(seen.iter().all(|state| states.contains(state)), "{seen:?}, not {states:?}");
    let steps = steps.take();
    assert_eq!(steps.len(), 1, "{steps:?}");
    assert_eq!(steps[0].origin, DeltaOrigin::Load);
    assert_eq!(steps[0].changes, ["-0", "~1", "!2", "+new"]);
    assert_eq!((steps[0].epoch, after.revision()), (1, steps[0].to));
    let (old, new) = (before.get("/k/5").unwrap(), after.get("/k/5").unwrap());
    assert!(Arc::ptr_eq(old, new), "an unchanged entry keeps its allocation");
    let counters = fixture.ks.status().counters;
    assert_eq!((counters.compactions, counters.loads), (1, 2), "{counters:?}");
    println!("{looks:?} looks during the reload");
}

/// F4: a watch that starts at the compacted revision of a deletion never tells of it.
#[tokio::test]
async fn b8_f4_a_deletion_at_the_compacted_revision_is_not_lost() {
    let mut fixture = Fixture::new().await;
    // Once as the change after the cursor, once with others before it.
    for (round, others) in [0, 5].into_iter().enumerate() {
        let client = &mut fixture.client;
        let key = format!("/k/victim{round}");
        let rev = put(client, &key, "x").await;
        within("it is there", fixture.ks.wait_for_revision(rev)).await.unwrap();
        fixture.proxy.cut().await;
        for _ in 0..others {
            put(client, "/k/other", "x").await;
        }
        let rev = delete(client, &key).await;
        client.compact(rev, None).await.unwrap();
        fixture.proxy.pass().await;
        within("it is gone", fixture.ks.wait_for_revision(rev)).await.unwrap();
        assert!(!fixture.ks.read().contains(&key));
        fixture.equal().await;
    }
}

/// How a backup is put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Return {
    /// The mirror meets a store that has not come as far as it.
    Behind,
    /// The mirror meets a store that has passed it with other changes.
    Ahead,
    /// As `Ahead`, and the newest change the mirror knows is older than the backup: what it had
    /// learned since were revisions beside the prefix.
    AheadOfProgress,
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// T-18, B16: a data directory put back keeps all its ids.
async fn restore(how: Return) {
    let server = EtcdServer::start().await.unwrap();
    let proxy = Proxy::start(&server.endpoint()).await.unwrap();
    let mut client = server.client().await;
    for i in 0..10 {
        put(&mut client, format!("/k/{i}"), "backed up").await;
    }
    server.terminate().await;
    let aside = tempfile::tempdir().unwrap();
    copy(server.data_dir(), &aside.path().join("data"));
    server.restart().await.unwrap();

    let mut client = server.client().await;
    let ks = start(proxy.endpoint(), "/k/").await;
    let steps = Steps::of(&ks);
    steps.take();
    let beside = how == Return::AheadOfProgress;
    let key = |i: usize| format!("/{}/{i}", if beside { "beside" } else { "k" });
    for i in 0..20 {
        put(&mut client, key(i), "lost").await;
    }
    equals_etcd(&ks, &mut client, "/k/").await;
    let cursor = ks.read().confirmed();
    let never = waiter(&ks, cursor + 1000);
    steps.take();

    if how != Return::Behind {
        proxy.cut().await;
    }
    server.kill();
    std::fs::remove_dir_all(server.data_dir()).unwrap();
    copy(&aside.path().join("data"), server.data_dir());
    server.restart().await.unwrap();
    let mut client = server.client().await;
    assert!(revision(&mut client).await < cursor);
    if how != Return::Behind {
        for i in 0..30 {
            put(&mut client, format!("/k/{}", i % 5), "other").await;
        }
        assert!(revision(&mut client).await > cursor);
        proxy.pass().await;
    }
    let failed = within("waits of the old epoch fail", never).await.unwrap();
    assert!(matches!(failed, Err(WaitError::HistoryChanged { was: 1, now: 2 })), "{failed:?}");
    equals_etcd(&ks, &mut client, "/k/").await;
    reaches(&ks, State::Live).await;
    let status = ks.status();
    assert_eq!(status.epoch, 2, "{status:?}");
    assert_eq!((status.counters.history_changes, status.counters.loads), (1, 2), "{status:?}");
    let steps = steps.take();
    assert_eq!((steps[0].epoch, steps[0].origin), (2, DeltaOrigin::Load), "{steps:?}");

    // And it follows in the new history.
    put(&mut client, "/k/a", "new").await;
    equals_etcd(&ks, &mut client, "/k/").await;
}

#[tokio::test]
async fn t18_b16_t53_a_restored_backup_behind_the_mirror_begins_a_new_epoch() {
    restore(Return::Behind).await;
}

#[tokio::test]
async fn t18_b16_a_restored_backup_that_has_passed_the_mirror_begins_a_new_epoch() {
    restore(Return::Ahead).await;
}

#[tokio::test]
async fn t18_b16_a_restored_backup_that_passed_a_mirror_which_knew_progress_only() {
    restore(Return::AheadOfProgress).await;
}

/// With the policy to stop the restored store ends the mirror, and says why.
#[tokio::test]
async fn t18_another_cluster_or_history_ends_the_mirror_or_begins_an_epoch_as_asked() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    for i in 0..3 {
        put(&mut client, format!("/k/{i}"), "x").await;
    }
    let stops = start(server.endpoint(), "/k/").await;
    let builder = mirror("/k/").on_other_cluster(OnHistoryChange::Reload);
    let reloads = builder.start(at(server.endpoint())).await.unwrap();
    equals_etcd(&reloads, &mut client, "/k/").await;
    let first = stops.read().cluster_id().unwrap();
    let steps = Steps::of(&reloads);
    steps.take();
    let waits = [waiter(&stops, 1_000_000), waiter(&reloads, 1_000_000)];

    server.replace().await.unwrap();
    let mut client = server.client().await;
    put(&mut client, "/k/other", "x").await;
    let reason = within("it stops", stops.closed()).await;
    let StopReason::AnotherCluster { expected, got } = reason else { panic!("{reason:?}") };
    assert_eq!(expected, first);
    assert_eq!(stops.status().state, State::Stopped);
    assert_eq!(stops.read().len(), 3, "the last data stays readable");
    let [stopped, changed] = waits;
    let stopped = within("a wait", stopped).await.unwrap();
    assert!(matches!(stopped, Err(WaitError::Stopped(StopReason::AnotherCluster { .. }))));
    let changed = within("a wait", changed).await.unwrap();
    assert!(matches!(changed, Err(WaitError::HistoryChanged { was: 1, now: 2 })), "{changed:?}");

    equals_etcd(&reloads, &mut client, "/k/").await;
    assert_eq!(reloads.read().cluster_id(), Some(got));
    let steps = steps.take();
    assert_eq!((steps[0].epoch, steps[0].origin), (2, DeltaOrigin::Load));
    let mut changes: Vec<_> = steps.into_iter().flat_map(|step| step.changes).collect();
    changes.sort();
    assert_eq!(changes, ["+other", "-0", "-1", "-2"]);
    delete_prefix(&mut client, "/k/").await;
    equals_etcd(&reloads, &mut client, "/k/").await;
}
