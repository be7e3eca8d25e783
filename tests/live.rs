//! Following a real etcd that behaves: loads, live events, waits, sizes, rights, starts and ends.
//!
//! Each test ends with the comparison of the whole key space with etcd, where both are left.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{
    Client, ConnectOptions, Permission, PutOptions, RoleRevokePermissionOptions, TxnOp,
    WatchOptions,
};
use etcd_keyspace::{DeltaOrigin, Etcd, EtcdOptions, Revision, State, StopReason, View, WaitError};
use support::etcd::free_port;
use support::real::{
    Bytes, Steps, at, commit, delete, delete_prefix, fail_to_commit, mirror, poll_until,
    print_times, put, reaches, revision, start,
};
use support::verify::equals_etcd;
use support::{EtcdServer, Proxy, shared, still_pending, unique_prefix, within};
use tokio::task::JoinSet;

/// The delays each way of following is tried with: none, the default, a long one.
const DELAYS: [Option<Duration>; 3] =
    [Some(Duration::ZERO), None, Some(Duration::from_millis(200))];

/// Starts one mirror for each of [`DELAYS`].
async fn start_all(server: &EtcdServer, prefix: &str) -> Vec<Bytes> {
    let mut all = Vec::new();
    for delay in DELAYS {
        let builder = mirror(prefix);
        let builder = match delay {
            Some(delay) => builder.apply_delay(delay),
            None => builder,
        };
        all.push(builder.start(at(server.endpoint())).await.unwrap());
    }
    all
}

// ---- Loading ------------------------------------------------------------------------------------

/// GZ-4, GZ-6: what was written after the revision comes by the watch, and nothing is lost.
#[tokio::test]
async fn gz4_gz6_gzc1_load_at_a_past_revision_shows_later_writes_through_the_watch_only() {
    let server = shared().await;
    let mut client = server.client().await;
    let prefix = unique_prefix("gz4");
    for i in 0..250 {
        put(&mut client, format!("{prefix}{i:03}"), "old").await;
    }
    let rev = put(&mut client, format!("{prefix}own"), "member").await;
    put(&mut client, format!("{prefix}raced"), "new").await;
    put(&mut client, format!("{prefix}000"), "new").await;
    let last = delete(&mut client, format!("{prefix}001")).await;

    // Pages of a few keys: etcd streams only what is read at its own time.
    let (ks, mirror) = mirror(&prefix).load_at(rev).page_bytes(300).build(at(server.endpoint()));
    let steps = Steps::of(&ks);
    tokio::spawn(mirror.run());
    // C1: the load's revision counts, not that of the answer's header.
    assert_eq!(within("the load", ks.loaded()).await.unwrap(), rev);
    within("the watch", ks.wait_for_revision(last)).await.unwrap();
    let steps = steps.take();
    let keys = (0..250).map(|i| format!("+{i:03}")).chain(["+own".into()]);
    assert_eq!(steps[0].changes, keys.collect::<Vec<_>>());
    assert_eq!((steps[0].origin, steps[0].to), (DeltaOrigin::Load, rev));
    let later: Vec<_> = steps[1..].iter().flat_map(|step| step.changes.clone()).collect();
    assert!(steps[1..].iter().all(|step| step.origin == DeltaOrigin::Events));
    assert_eq!(later.len(), 3, "{later:?}");
    assert!(["+raced", "~000", "-001"].iter().all(|change| later.contains(&change.to_string())));
    equals_etcd(&ks, &mut client, &prefix).await;
}

#[tokio::test]
async fn gz5_load_now_shows_all_that_was_written_before_the_start() {
    let server = shared().await;
    let mut client = server.client().await;
    let prefix = unique_prefix("gz5");
    let empty = start(server.endpoint(), &prefix).await;
    assert!(empty.read().is_empty());
    for round in 0..10 {
        let rev = put(&mut client, format!("{prefix}{round}"), "x").await;
        let ks = start(server.endpoint(), &prefix).await;
        let view = ks.read();
        assert_eq!(view.len(), round + 1);
        assert!(view.revision() >= rev && view.confirmed() >= view.revision());
    }
    equals_etcd(&empty, &mut client, &prefix).await;
    let loaded = start(server.endpoint(), &prefix).await;
    equals_etcd(&loaded, &mut client, &prefix).await;
}

#[tokio::test]
async fn t25_load_at_a_future_revision_waits_and_at_a_compacted_one_fails() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    let now = put(&mut client, "/k/a", "1").await;

    let future = now + 3;
    let mut starting = Box::pin(mirror("/k/").load_at(future).start(at(server.endpoint())));
    let quiet = Duration::from_millis(300);
    still_pending("the store is not there yet", quiet, &mut starting).await;
    put(&mut client, "/k/a", "2").await;
    put(&mut client, "/other", "").await;
    assert_eq!(put(&mut client, "/k/b", "3").await, future);
    let ks = within("the store is there", starting).await.unwrap();
    assert!(ks.read().contains("/k/b"));
    equals_etcd(&ks, &mut client, "/k/").await;

    client.compact(future, None).await.unwrap();
    let started = mirror("/k/").load_at(now).start(at(server.endpoint()));
    let reason = within("a compacted revision ends the start", started).await.unwrap_err();
    assert!(
        matches!(reason, StopReason::Compacted { revision, .. } if revision == now),
        "{reason:?}"
    );
    // The compacted revision itself can still be read.
    let started = mirror("/k/").load_at(future).start(at(server.endpoint()));
    let ks = within("the edge of the history", started).await.unwrap();
    equals_etcd(&ks, &mut client, "/k/").await;
}

/// Writes at full speed: puts, deletes and transactions over keys that other writers write too.
async fn write(mut client: Client, prefix: String, seed: u64, rounds: u64) {
    for i in 0..rounds {
        let n = (i * 7919 + seed * 104_729) % 97;
        let key = format!("{prefix}{n:02}");
        match i % 5 {
            0 => drop(delete(&mut client, key).await),
            1 => {
                let other = format!("{prefix}{:02}x", (n + 1) % 97);
                let ops = [TxnOp::put(key, format!("{i}"), None), TxnOp::delete(other, None)];
                commit(&mut client, ops).await;
            }
            _ => drop(put(&mut client, key, format!("{seed} {i}")).await),
        }
    }
}

/// B10: each load is of one revision although the store moves on under it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gz12_b10_load_during_writes_at_full_speed_loses_nothing() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    let prefix = "/busy/";
    for i in 0..97 {
        put(&mut client, format!("{prefix}{i:02}"), "first").await;
    }
    let mut starts: Vec<Revision> = vec![0, revision(&mut client).await];
    let mut writers = JoinSet::new();
    for seed in 0..4 {
        writers.spawn(write(server.client().await, prefix.into(), seed, 600));
    }
    let mut all = Vec::new();
    for (i, delay) in [0, 30, 200].into_iter().cycle().take(9).enumerate() {
        starts.push(revision(&mut client).await);
        // Now, at the beginning of all, and at revisions seen since.
        let from = [0, starts[1], starts[starts.len() - 1]][i / 3];
        let builder = mirror(prefix).apply_delay(Duration::from_millis(delay));
        let started = builder.load_at(from).page_bytes(200).start(at(server.endpoint()));
        all.push(within("a start during writes", started).await.unwrap());
    }
    assert!(!writers.is_empty());
    let during = writers.try_join_next().is_none();
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    println!("all writers were writing until the last start: {during}");
    for ks in &all {
        equals_etcd(ks, &mut client, prefix).await;
        let status = ks.status();
        let counters = status.counters;
        assert_eq!((counters.loads, counters.failures), (1, 0), "{status:?}");
    }
}

/// B11, T-66: a storm of compactions breaks loads, and watches right after them. When it is over the
/// start succeeds, and until then it has not looped hot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b11_t66_a_start_outlives_a_storm_of_compactions() {
    let server = EtcdServer::builder().arg("--max-txn-ops=10000").start().await.unwrap();
    let mut client = server.client().await;
    fill(&mut client, "/storm/", 30_000, 40).await;
    let storm = tokio::spawn({
        let mut client = server.client().await;
        async move {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(1) {
                let rev = put(&mut client, "/storm/0000000", "moved").await;
                client.compact(rev, None).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let ks = start(server.endpoint(), "/storm/").await;
    storm.await.unwrap();
    equals_etcd(&ks, &mut client, "/storm/").await;
    let counters = ks.status().counters;
    println!("a start in a storm of compactions: {counters:?}");
    assert!(counters.loads + counters.load_restarts < 40, "{counters:?}");
}

// ---- Following ----------------------------------------------------------------------------------

#[tokio::test]
async fn live_follows_puts_deletes_transactions_and_odd_keys() {
    let server = shared().await;
    let mut client = server.client().await;
    let prefix = unique_prefix("follow");
    let key = |name: &[u8]| [prefix.as_bytes(), name].concat();
    let all = start_all(server, &prefix).await;
    put(&mut client, key(b"a"), "1").await;
    put(&mut client, key(b"a"), "2").await;
    delete(&mut client, key(b"a")).await;
    delete(&mut client, key(b"never there")).await;
    put(&mut client, key(b"a"), "again").await;
    // The key that is the prefix itself, bytes that are no text, and an empty value.
    put(&mut client, key(b""), "itself").await;
    put(&mut client, key(b"\0"), b"\0\xff").await;
    put(&mut client, key(b"\xff\xff\0\xfe"), "").await;
    put(&mut client, &prefix[..prefix.len() - 1], "outside").await;
    put(&mut client, format!("{}0", &prefix[..prefix.len() - 1]), "outside").await;
    let ops: Vec<_> = (0..100).map(|i| TxnOp::put(format!("{prefix}t{i:02}"), "x", None)).collect();
    let lease = client.lease_grant(600, None).await.unwrap().id();
    commit(&mut client, ops).await;
    let leased = PutOptions::new().with_lease(lease);
    client.put(key(b"leased"), "1", Some(leased)).await.unwrap();
    client.put(key(b"leased"), "1", Some(PutOptions::new().with_ignore_lease())).await.unwrap();
    let mixed = |i| match i % 2 {
        0 => TxnOp::delete(format!("{prefix}t{i:02}"), None),
        _ => TxnOp::put(format!("{prefix}t{i:02}"), "y", None),
    };
    commit(&mut client, (0..100).map(mixed).collect::<Vec<_>>()).await;
    for ks in &all {
        equals_etcd(ks, &mut client, &prefix).await;
        let view = ks.read();
        assert_eq!(view.get(key(b"a")).unwrap().version(), 1);
        assert_eq!(view.get(key(b"leased")).unwrap().lease(), lease);
        assert!(view.contains(key(b"")));
    }
    delete_prefix(&mut client, &prefix).await;
    for ks in &all {
        equals_etcd(ks, &mut client, &prefix).await;
        assert!(ks.read().is_empty());
        let counters = ks.status().counters;
        assert_eq!((counters.loads, counters.failures, counters.discontinuities), (1, 0, 0));
    }
}

#[tokio::test]
async fn f16_leases_that_expire_take_500_keys_in_one_revision() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    let ks = mirror("/l/").apply_delay(Duration::ZERO).start(at(server.endpoint())).await.unwrap();
    let steps = Steps::of(&ks);
    let lease = client.lease_grant(1, None).await.unwrap().id();
    put(&mut client, "/l/stays", "").await;
    for chunk in 0..5 {
        let options = PutOptions::new().with_lease(lease);
        let put = |i| TxnOp::put(format!("/l/{:03}", chunk * 100 + i), "", Some(options.clone()));
        commit(&mut client, (0..100).map(put).collect::<Vec<_>>()).await;
    }
    let gone = ks.wait_until(|view| (view.len() == 1).then(|| view.revision()));
    let mut seen = 0;
    let watcher = async {
        // It comes alive key by key, and goes at once.
        ks.wait_until(|view| {
            seen = view.len();
            (seen == 501).then_some(())
        })
        .await
        .unwrap();
        within("the lease expires", gone).await.unwrap()
    };
    let at = within("the lease expires", watcher).await;
    let last = steps.take().pop().unwrap();
    assert_eq!((last.changes.len(), last.to), (500, at));
    assert!(last.changes.iter().all(|change| change.starts_with('-')));
    equals_etcd(&ks, &mut client, "/l/").await;
}

/// C3: transactions move amounts between keys; whoever looks, whenever, finds the same sum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c3_readers_and_observers_see_whole_revisions_only() {
    const ACCOUNTS: u64 = 40;
    let server = shared().await;
    let mut client = server.client().await;
    let prefix = unique_prefix("sum");
    let account = |n: u64| format!("{prefix}{:02}", n % ACCOUNTS);
    let open = |n| TxnOp::put(account(n), "100", None);
    commit(&mut client, (0..ACCOUNTS).map(open).collect::<Vec<_>>()).await;
    let all = start_all(server, &prefix).await;
    let sum = |view: &View<Vec<u8>>| -> i64 {
        let amount = |value: &Vec<u8>| std::str::from_utf8(value).unwrap().parse::<i64>().unwrap();
        view.iter().map(|entry| amount(entry.value())).sum()
    };
    let whole = i64::try_from(ACCOUNTS * 100).unwrap();
    let stop = AtomicBool::new(false);
    let (looks, shown) = (AtomicU64::new(0), Arc::new(AtomicU64::new(0)));
    for ks in &all {
        let shown = Arc::clone(&shown);
        let observer = ks.observe(move |_, view, _| {
            assert_eq!(sum(view), whole);
            shown.fetch_add(1, Ordering::Relaxed);
        });
        drop(observer);
    }
    std::thread::scope(|threads| {
        for ks in &all {
            let (stop, looks) = (&stop, &looks);
            threads.spawn(move || {
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    let view = ks.read();
                    assert_eq!(sum(&view), whole, "at {}", view.revision());
                    assert!(view.revision() >= last, "C6: {last} to {}", view.revision());
                    last = view.revision();
                    looks.fetch_add(1, Ordering::Relaxed);
                    drop(view);
                    std::thread::yield_now();
                }
            });
        }
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let mut amounts = vec![100_i64; ACCOUNTS as usize];
                for round in 0..500_u64 {
                    let (from, to) = (round * 7 % ACCOUNTS, (round * 13 + 1) % ACCOUNTS);
                    if from == to {
                        continue;
                    }
                    let moved = i64::try_from(round % 50).unwrap();
                    amounts[from as usize] -= moved;
                    amounts[to as usize] += moved;
                    let write =
                        |n: u64| TxnOp::put(account(n), amounts[n as usize].to_string(), None);
                    commit(&mut client, [write(from), write(to)]).await;
                }
                for ks in &all {
                    equals_etcd(ks, &mut client, &prefix).await;
                }
            });
        });
        stop.store(true, Ordering::Relaxed);
    });
    for ks in &all {
        assert!(ks.status().poisoned_observers.is_empty(), "{:?}", ks.status());
    }
    println!("{looks:?} looks and {shown:?} steps saw whole revisions");
}

// ---- Waiting ------------------------------------------------------------------------------------

/// T-50: puts beside the prefix, transactions that change nothing, and transactions that fail.
#[tokio::test]
async fn gzc5_t50_waits_for_revisions_that_touched_nothing_end() {
    let server = shared().await;
    let mut client = server.client().await;
    let prefix = unique_prefix("untouched");
    put(&mut client, format!("{prefix}a"), "1").await;
    let ks = start(server.endpoint(), &prefix).await;
    let shown = ks.read().revision();
    let mut times = Vec::new();
    for i in 0..200 {
        let rev = match i % 4 {
            0 | 1 => put(&mut client, "/beside", format!("{i}")).await,
            2 => fail_to_commit(&mut client, &format!("{prefix}a")).await,
            _ => commit(&mut client, [TxnOp::delete(format!("{prefix}none"), None)]).await,
        };
        let begun = Instant::now();
        let met = within("a wait that only progress can end", ks.wait_for_revision(rev)).await;
        assert!(met.unwrap() >= rev);
        times.push(begun.elapsed());
    }
    print_times("wait for a revision that touched nothing", &mut times);
    assert_eq!(ks.read().revision(), shown, "C1: nothing changed");
    equals_etcd(&ks, &mut client, &prefix).await;
}

/// GZ-C3, GZ-C5, T-54: read your write, under one guard.
#[tokio::test]
async fn gzc3_gzc5_read_at_shows_the_write() {
    let server = shared().await;
    let mut client = server.client().await;
    let prefix = unique_prefix("own");
    let mut times = Vec::new();
    for ks in start_all(server, &prefix).await {
        for i in 0..60 {
            let rev = put(&mut client, format!("{prefix}{}", i % 7), format!("{i}")).await;
            let begun = Instant::now();
            let view = within("the own write", ks.read_at(rev)).await.unwrap();
            times.push(begun.elapsed());
            let entry = view.get(format!("{prefix}{}", i % 7)).unwrap();
            assert_eq!((entry.mod_revision(), entry.value()), (rev, &format!("{i}").into_bytes()));
        }
        equals_etcd(&ks, &mut client, &prefix).await;
    }
    // A wait ends the delay (T-47): the 200 ms of one of the three would show.
    let p50 = print_times("answer of a put to read_at", &mut times);
    assert!(p50 < Duration::from_millis(30), "{p50:?}");
}

/// B29, under a writer beside the prefix and under one in it, whose events overtake the answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b29_sync_shows_every_write_that_was_finished_before() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    let ks = start(server.endpoint(), "/sync/").await;
    for noise in ["/noise", "/sync/noise"] {
        let writer = tokio::spawn({
            let mut client = server.client().await;
            async move {
                loop {
                    put(&mut client, noise, "").await;
                }
            }
        });
        let mut times = Vec::new();
        for i in 0..200 {
            put(&mut client, format!("/sync/{}", i % 3), format!("{i}")).await;
            let begun = Instant::now();
            within("a sync", ks.sync()).await.unwrap();
            times.push(begun.elapsed());
            let view = ks.read();
            let shown = view.get(format!("/sync/{}", i % 3)).unwrap();
            assert_eq!(*shown.value(), format!("{i}").into_bytes());
        }
        print_times(&format!("sync under writes of {noise}"), &mut times);
        writer.abort();
    }
    equals_etcd(&ks, &mut client, "/sync/").await;
    let status = ks.status();
    assert_eq!(status.counters.failures, 0, "{status:?}");
}

/// An idle key space shows a write about when a bare watch has it, not a delay later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_visible_about_as_soon_as_a_bare_watch_has_it() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    let ks = start(server.endpoint(), "/v/").await;
    let mut bare =
        server.client().await.watch("/v/", Some(WatchOptions::new().with_prefix())).await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(Some(response)) = bare.message().await {
            if !response.events().is_empty() {
                let _ = tell.send(Instant::now());
            }
        }
    });
    let (show, mut shown) = tokio::sync::mpsc::unbounded_channel();
    let observer = ks.observe(move |delta, _, _| {
        if delta.origin() == DeltaOrigin::Events {
            let _ = show.send(Instant::now());
        }
    });
    let (mut watched, mut visible) = (Vec::new(), Vec::new());
    for i in 0..40 {
        // Longer than the delay, so that each put meets an idle key space.
        tokio::time::sleep(Duration::from_millis(35)).await;
        let begun = Instant::now();
        put(&mut client, "/v/a", format!("{i}")).await;
        let bare = within("the bare watch", told.recv()).await.unwrap();
        let ours = within("the mirror", shown.recv()).await.unwrap();
        watched.push(bare - begun);
        visible.push(ours - begun);
    }
    let bare = print_times("put to event of a bare watch", &mut watched);
    let ours = print_times("put to visible", &mut visible);
    assert!(ours < bare + Duration::from_millis(10), "{ours:?}, a bare watch {bare:?}");
    drop(observer);
    equals_etcd(&ks, &mut client, "/v/").await;
}

/// C7: under steady events there is no silence in which to ask, and yet it is known how current the
/// view is.
#[tokio::test]
async fn c7_current_as_of_is_renewed_under_steady_events() {
    let server = shared().await;
    let mut client = server.client().await;
    let prefix = unique_prefix("steady");
    let check = Duration::from_millis(200);
    let started = mirror(&prefix).check_interval(check).start(at(server.endpoint()));
    let ks = within("the start", started).await.unwrap();
    let begun = Instant::now();
    let mut oldest = Duration::ZERO;
    while begun.elapsed() < check * 10 {
        put(&mut client, format!("{prefix}a"), "x").await;
        oldest = oldest.max(ks.status().current_as_of.unwrap());
    }
    println!("current as of {oldest:?} ago at worst");
    assert!(oldest < check * 4, "{oldest:?}");
    equals_etcd(&ks, &mut client, &prefix).await;
}

// ---- Sizes --------------------------------------------------------------------------------------

/// Puts `keys` keys named by seven digits in few large transactions.
async fn fill(client: &mut Client, prefix: &str, keys: usize, value_bytes: usize) {
    let value = "v".repeat(value_bytes);
    let numbers: Vec<usize> = (0..keys).collect();
    for chunk in numbers.chunks(10_000.min(1_000_000 / (value_bytes + 30))) {
        let put = |n| TxnOp::put(format!("{prefix}{n:07}"), value.as_str(), None);
        commit(client, chunk.iter().map(put).collect::<Vec<_>>()).await;
    }
}

/// T-13: 20 values of a megabyte are loaded, updated and followed.
#[tokio::test]
async fn t13_values_of_a_megabyte() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    let value = |letter: &str| letter.repeat(1 << 20);
    let early = start(server.endpoint(), "/big/").await;
    for i in 0..20 {
        put(&mut client, format!("/big/{i:02}"), value("a")).await;
    }
    let now = revision(&mut client).await;
    // As a stream, and as pages of a key or two.
    let late = start(server.endpoint(), "/big/").await;
    let paged = mirror("/big/").load_at(now).page_bytes(1 << 20).start(at(server.endpoint()));
    let paged = within("a load in pages", paged).await.unwrap();
    for i in 0..20 {
        put(&mut client, format!("/big/{i:02}"), value("b")).await;
    }
    for ks in [&early, &late, &paged] {
        equals_etcd(ks, &mut client, "/big/").await;
        assert_eq!(ks.read().len(), 20);
        assert_eq!(ks.status().counters.failures, 0, "{:?}", ks.status());
    }
}

/// T-12, T-14: 100,000 keys are loaded, 10,000 updates followed, and all of it goes in one revision
/// that comes in fragments.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t14_hundred_thousand_keys_from_the_load_to_one_delete() {
    const KEYS: usize = 100_000;
    let server = EtcdServer::builder().arg("--max-txn-ops=10000").start().await.unwrap();
    let mut client = server.client().await;
    let prefix = "/hundred-thousand/with-names-of-some-length/";
    fill(&mut client, prefix, KEYS, 60).await;
    let begun = Instant::now();
    let ks = start(server.endpoint(), prefix).await;
    println!("{KEYS} keys loaded in {:?}", begun.elapsed());
    assert_eq!(ks.read().len(), KEYS);

    let begun = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..20 {
        let mut client = client.clone();
        writers.spawn(async move {
            for i in 0..500 {
                let n = (writer * 500 + i) * 48_271 % KEYS;
                put(&mut client, format!("{prefix}{n:07}"), format!("{i}")).await;
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    equals_etcd(&ks, &mut client, prefix).await;
    println!("10000 updates written, followed and compared in {:?}", begun.elapsed());

    let steps = Steps::of(&ks);
    steps.take();
    let begun = Instant::now();
    let rev = delete_prefix(&mut client, prefix).await;
    within("everything is deleted", ks.wait_for_revision(rev)).await.unwrap();
    println!("{KEYS} keys deleted and gone in {:?}", begun.elapsed());
    let steps = steps.take();
    assert_eq!(steps.len(), 1);
    assert_eq!((steps[0].changes.len(), steps[0].to), (KEYS, rev));
    assert!(steps[0].changes.iter().all(|change| change.starts_with('-')));
    equals_etcd(&ks, &mut client, prefix).await;
    assert_eq!(ks.status().counters.loads, 1);
}

// ---- Rights -------------------------------------------------------------------------------------

#[tokio::test]
async fn t20_rights_decide_whether_a_mirror_starts() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    put(&mut client, "/app/a", "1").await;
    client.user_add("root", "root", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    for (user, permission) in [
        ("reader", Permission::read("/app/").with_prefix()),
        ("narrow", Permission::read("/app/a")),
    ] {
        client.role_add(user).await.unwrap();
        client.role_grant_permission(user, permission).await.unwrap();
        client.user_add(user, "secret", None).await.unwrap();
        client.user_grant_role(user, user).await.unwrap();
    }
    client.auth_enable().await.unwrap();
    let root = ConnectOptions::new().with_user("root", "root");
    let mut client = Client::connect([server.endpoint()], Some(root)).await.unwrap();

    let etcd = |user: &str, password: &str| {
        Etcd::new([server.endpoint()], EtcdOptions::new().user(user, password))
    };
    let started = mirror("/app/").start(etcd("reader", "secret"));
    let ks = within("rights on the prefix are enough", started).await.unwrap();
    put(&mut client, "/app/b", "2").await;
    put(&mut client, "/beside", "2").await;
    equals_etcd(&ks, &mut client, "/app/").await;
    within("a sync needs no more rights", ks.sync()).await.unwrap();
    assert_eq!(ks.status().state, State::Live);

    for (what, source) in [
        ("a wrong password", etcd("reader", "wrong")),
        ("an unknown user", etcd("nobody", "secret")),
        ("nobody", at(server.endpoint())),
        ("rights on less than the prefix", etcd("narrow", "secret")),
    ] {
        let begun = Instant::now();
        let reason = within(what, mirror("/app/").start(source)).await.unwrap_err();
        let StopReason::Refused { cause } = &reason else { panic!("{what}: {reason:?}") };
        println!("{what}: {cause} after {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(5), "{what}");
    }
    // B26: rights taken away and given back while it runs: it goes on, and says so meanwhile.
    let options = RoleRevokePermissionOptions::new().with_prefix();
    client.role_revoke_permission("reader", "/app/", Some(options)).await.unwrap();
    let _ = within("a sync without rights", async {
        tokio::select! {
            done = ks.sync() => Some(done),
            _ = reaches(&ks, State::Reconnecting) => None,
        }
    })
    .await;
    assert!(ks.read().contains("/app/a"), "the last data is served");
    let permission = Permission::read("/app/").with_prefix();
    client.role_grant_permission("reader", permission).await.unwrap();
    put(&mut client, "/app/c", "3").await;
    equals_etcd(&ks, &mut client, "/app/").await;
    assert_eq!(ks.status().counters.loads, 1);
}

// ---- Starts that fail, and ends -----------------------------------------------------------------

#[tokio::test]
async fn b18_a_dead_endpoint_ends_the_start_at_its_time_limit_with_the_cause() {
    let dead = format!("http://127.0.0.1:{}", free_port().unwrap());
    let limit = Duration::from_millis(500);
    let begun = Instant::now();
    let started = mirror("/k/").load_timeout(limit).start(at(&dead));
    let reason = within("the start ends", started).await.unwrap_err();
    assert!(begun.elapsed() >= limit && begun.elapsed() < limit * 4, "{:?}", begun.elapsed());
    let StopReason::LoadTimeout { cause: Some(cause) } = reason else { panic!("{reason:?}") };
    assert!(cause.to_string().contains("refused"), "{cause}");
}

/// T-21: it accepts connections and never speaks.
#[tokio::test]
async fn b18_a_mute_listener_does_not_hang_the_start_beyond_its_time_limits() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = format!("http://{}", listener.local_addr().unwrap());
    let accepted = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            held.push(connection);
        }
    });
    let request = Duration::from_millis(200);
    let builder = mirror("/k/").request_timeout(request).connect_timeout(request);
    let begun = Instant::now();
    let started = builder.load_timeout(Duration::from_secs(1)).start(at(&mute));
    let reason = within("the start ends", started).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let StopReason::LoadTimeout { cause: Some(cause) } = reason else { panic!("{reason:?}") };
    assert!(cause.to_string().contains("no answer within 200ms"), "{cause}");

    // Beside a good endpoint it only costs time.
    let server = shared().await;
    let prefix = unique_prefix("mute");
    let both = Etcd::new([mute, server.endpoint()], EtcdOptions::new());
    let builder = mirror(&prefix).request_timeout(request).seed(0);
    let ks = within("the other endpoint", builder.start(both)).await.unwrap();
    assert_eq!(ks.status().endpoint, Some(server.endpoint()));
    equals_etcd(&ks, &mut server.client().await, &prefix).await;
    accepted.abort();
}

#[tokio::test]
async fn b21_a_dead_endpoint_beside_a_good_one_is_passed_over() {
    let server = shared().await;
    let mut client = server.client().await;
    let prefix = unique_prefix("rotate");
    put(&mut client, format!("{prefix}a"), "1").await;
    let dead = format!("http://127.0.0.1:{}", free_port().unwrap());
    for endpoints in [[dead.clone(), server.endpoint()], [server.endpoint(), dead]] {
        for seed in 0..2 {
            let source = Etcd::new(endpoints.clone(), EtcdOptions::new());
            let ks = within("the start", mirror(&prefix).seed(seed).start(source)).await.unwrap();
            assert_eq!(ks.status().endpoint, Some(server.endpoint()));
            equals_etcd(&ks, &mut client, &prefix).await;
        }
    }
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_task_and_its_connections() {
    let server = shared().await;
    let mut client = server.client().await;
    let prefix = unique_prefix("drop");
    let proxy = Proxy::start(&server.endpoint()).await.unwrap();
    let ks = start(proxy.endpoint(), &prefix).await;
    put(&mut client, format!("{prefix}a"), "1").await;
    equals_etcd(&ks, &mut client, &prefix).await;
    assert_eq!(proxy.connections(), 2, "one for requests and one for the watch");
    let (other, weak) = (ks.clone(), ks.downgrade());
    drop(ks);
    put(&mut client, format!("{prefix}b"), "2").await;
    equals_etcd(&other, &mut client, &prefix).await;
    let snapshot = other.snapshot();
    drop(other);
    poll_until("no connection is left", || proxy.connections(), |left| *left == 0).await;
    assert!(weak.upgrade().is_none());
    assert_eq!(snapshot.len(), 2, "a snapshot outlives it");

    // A start that is given up ends as well.
    proxy.stall().await;
    let mut starting = Box::pin(mirror(&prefix).start(at(proxy.endpoint())));
    still_pending("a stalled start", Duration::from_millis(50), &mut starting).await;
    assert!(proxy.connections() > 0);
    drop(starting);
    proxy.pass().await;
    poll_until("no connection is left", || proxy.connections(), |left| *left == 0).await;
}

/// Calls `shutdown` from many tasks and checks what must hold afterwards.
async fn shut_down(ks: &Bytes) {
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let ks = ks.clone();
        tasks.spawn(async move { ks.shutdown().await });
    }
    let pending = ks.wait_for_revision(Revision::MAX);
    let pending = within("a wait ends", pending).await;
    assert!(matches!(pending, Err(WaitError::Stopped(StopReason::Shutdown))), "{pending:?}");
    within("every call returns", async { while tasks.join_next().await.is_some() {} }).await;
    within("a later call", ks.shutdown()).await;
    assert!(matches!(within("the reason", ks.closed()).await, StopReason::Shutdown));
    assert_eq!(ks.status().state, State::Stopped);
    assert!(matches!(ks.sync().await, Err(WaitError::Stopped(_))));
}

#[tokio::test]
async fn t67_shutdown_while_live_loading_backing_off_and_before_the_start() {
    let server = shared().await;
    let mut client = server.client().await;
    let prefix = unique_prefix("shutdown");
    put(&mut client, format!("{prefix}a"), "1").await;
    let proxy = Proxy::start(&server.endpoint()).await.unwrap();

    let ks = start(proxy.endpoint(), &prefix).await;
    let steps = Steps::of(&ks);
    steps.take();
    equals_etcd(&ks, &mut client, &prefix).await;
    shut_down(&ks).await;
    put(&mut client, format!("{prefix}b"), "2").await;
    assert_eq!(ks.read().len(), 1, "the last data stays readable");
    assert_eq!(steps.take(), [], "no observer runs any more");
    poll_until("no connection is left", || proxy.connections(), |left| *left == 0).await;

    // While it loads.
    proxy.stall().await;
    let (ks, loading) = mirror(&prefix).build(at(proxy.endpoint()));
    let task = tokio::spawn(loading.run());
    poll_until("it connects", || proxy.connections(), |open| *open > 0).await;
    shut_down(&ks).await;
    let reason = within("the task ends", task).await.unwrap();
    assert!(matches!(reason, StopReason::Shutdown));

    // While it waits for the next attempt.
    proxy.cut().await;
    let slow = Duration::from_secs(60);
    let (ks, failing) = mirror(&prefix).backoff(slow, slow).build(at(proxy.endpoint()));
    let task = tokio::spawn(failing.run());
    poll_until("it fails", || ks.status().counters.failures, |failures| *failures > 0).await;
    shut_down(&ks).await;
    within("the task ends", task).await.unwrap();

    // Before it was started.
    let (ks, unstarted) = mirror(&prefix).build(at(proxy.endpoint()));
    let shutdown = tokio::spawn({
        let ks = ks.clone();
        async move { ks.shutdown().await }
    });
    within("the task ends", unstarted.run()).await;
    within("the call returns", shutdown).await.unwrap();

    // With its mirror thrown away.
    let (ks, unstarted) = mirror(&prefix).build(at(proxy.endpoint()));
    drop(unstarted);
    shut_down(&ks).await;
}
