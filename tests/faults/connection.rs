//! Connections and messages break off, hang, or are refused.

use super::*;

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
