//! Live events, leases, and whole revisions.

use super::*;

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
