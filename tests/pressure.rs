//! Real etcd under pressure from within the process: readers that do not let go, handles by the
//! thousand, ranges at the edges of what a key can be.

mod support;

use std::time::Duration;

use etcd_client::{Client, GetOptions};
use etcd_keyspace::{Etcd, EtcdOptions, KeyRange, KeySpace, State};
use support::real::{Bytes, at, metric, mirror, poll_until, put, reaches, start};
use support::verify::equals_etcd;
use support::{EtcdServer, WAIT_MAX, shared, unique_prefix, within};
use tokio::sync::oneshot;

/// B23, C9: the reading task awaits nothing but the stream. While a guard blocks every apply, the
/// intake fills to its bound and the stream is given up, where leaving it unread would make etcd hold
/// everything, old servers skip history, and other streams of the connection starve (F40, F43).
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn b23_c9_a_guard_that_is_held_for_long_never_stops_the_intake() {
    let server = shared().await;
    let mut client = server.client().await;
    let prefix = unique_prefix("held");
    let mirror = mirror(&prefix).intake_bytes_max(1 << 20).apply_delay(Duration::ZERO);
    let ks = mirror.start(at(server.endpoint())).await.unwrap();
    let neighbour = start(server.endpoint(), &prefix).await;
    // A watch that still catches up is sent everything in one response, and one always fits. What
    // it was sent of its own range, it was sent when it had caught up with what others write.
    put(&mut client, format!("{prefix}first"), "1").await;
    equals_etcd(&ks, &mut client, &prefix).await;

    let (held, holding) = oneshot::channel();
    let (release, released) = std::sync::mpsc::channel();
    let reader = ks.clone();
    let thread = std::thread::spawn(move || {
        let view = reader.read();
        held.send(view.len()).unwrap();
        // Not for ever: a runtime that is held up could not even tell that it is.
        released.recv_timeout(WAIT_MAX).map(|()| view.len())
    });
    assert_eq!(holding.await.unwrap(), 1);
    for n in 0..64 {
        put(&mut client, format!("{prefix}{n:02}"), vec![n; 100_000]).await;
    }
    // Others in the process are not held up, although the only thread of the runtime applies.
    equals_etcd(&neighbour, &mut client, &prefix).await;
    release.send(()).expect("nobody else in the process is held up");
    assert_eq!(thread.join().unwrap(), Ok(1), "the guard's view did not change");
    equals_etcd(&ks, &mut client, &prefix).await;
    let counters = ks.status().counters;
    assert!(counters.failures >= 1 && counters.failures < 20, "{counters:?}");
    assert_eq!((counters.loads, counters.discontinuities), (1, 0), "{counters:?}");
    assert!(ks.stats().longest_write_wait > Duration::ZERO);
}

/// B24, F30: dropping cancels, at whatever point the mirror is.
#[tokio::test]
async fn b24_a_thousand_mirrors_made_and_dropped_leave_no_watcher_behind() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    put(&mut client, "/many/a", "1").await;
    for round in 0..1_000_u32 {
        if round % 10 == 0 {
            drop(start(server.endpoint(), "/many/").await);
        } else {
            // Given up on the way: between no step at all and the open watch.
            let (ks, mut mirror) = mirror("/many/").build(at(server.endpoint()));
            for _ in 0..round % 10 {
                mirror.step().await;
            }
            drop((ks, mirror));
        }
    }
    let names = ["etcd_debugging_mvcc_watcher_total", "etcd_debugging_mvcc_watch_stream_total"];
    for name in names {
        within("no watcher is left", async {
            while metric(&server, name).await > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
    let last = start(server.endpoint(), "/many/").await;
    equals_etcd(&last, &mut client, "/many/").await;
    for name in names {
        assert_eq!(metric(&server, name).await, 1, "{name} would have told");
    }
}

async fn compare(ks: &Bytes, client: &mut Client, range: &KeyRange) {
    let all = GetOptions::new().with_all_keys();
    let answer = client.get("", Some(all)).await.unwrap();
    within("the revision", ks.wait_for_revision(answer.header().unwrap().revision()))
        .await
        .unwrap();
    let expected: Vec<_> = answer.kvs().iter().map(|kv| kv.key().to_vec()).collect();
    let expected: Vec<_> = expected.into_iter().filter(|key| range.contains(key)).collect();
    let shown: Vec<_> = ks.read().iter().map(|entry| entry.key().to_vec()).collect();
    assert_eq!(shown, expected, "{range}");
}

/// B15, T-31: what a prefix means at the edges is the same for loads, watches and the local view.
#[tokio::test]
async fn b15_t31_prefixes_at_the_edges_mirror_what_etcd_has() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    let prefixes: [&[u8]; 7] = [b"", b"\xff", b"\xff\xff", b"a\xff", b"foo", b"\0", b"a\xff\xff"];
    let mut spaces = Vec::new();
    for prefix in prefixes {
        let range = KeyRange::prefix(prefix);
        let etcd = Etcd::new([server.endpoint()], EtcdOptions::new());
        let builder = KeySpace::builder(range.clone()).unwrap().bytes();
        spaces.push((within("a start", builder.start(etcd)).await.unwrap(), range));
    }
    // By the watch, the key that equals the prefix included; then by fresh loads.
    let keys: [&[u8]; 10] = [
        b"\xff",
        b"\xff\xff",
        b"\xff\xff\xff",
        b"a\xff",
        b"a\xff\xff\x01",
        b"b",
        b"foo",
        b"foobar",
        b"\0",
        b"\0\0",
    ];
    for key in keys {
        put(&mut client, key, "x").await;
    }
    for (ks, range) in &spaces {
        compare(ks, &mut client, range).await;
        let etcd = Etcd::new([server.endpoint()], EtcdOptions::new());
        let fresh = KeySpace::builder(range.clone()).unwrap().bytes().start(etcd).await.unwrap();
        compare(&fresh, &mut client, range).await;
    }
    for key in keys {
        client.delete(key, None).await.unwrap();
    }
    for (ks, range) in &spaces {
        compare(ks, &mut client, range).await;
        assert!(ks.read().is_empty());
        reaches(ks, State::Live).await;
    }
}

/// B4: an operator may raise the size of requests, and with it that of fragments.
#[tokio::test]
async fn b4_t13_values_of_many_megabytes_on_a_server_that_allows_them() {
    let server = EtcdServer::builder().arg("--max-request-bytes=10485760").start().await.unwrap();
    let mut client = server.client().await;
    put(&mut client, "/large/a", vec![1; 9 << 20]).await;
    let ks = start(server.endpoint(), "/large/").await;
    for round in 0..4 {
        put(&mut client, "/large/a", vec![round; 9 << 20]).await;
        put(&mut client, "/large/b", vec![round; 9 << 20]).await;
    }
    let last = put(&mut client, "/large/c", "small").await;
    within("the revision", ks.wait_for_revision(last)).await.unwrap();
    assert_eq!(ks.read().get("/large/b").unwrap().value(), &vec![3; 9 << 20]);
    poll_until("live", || ks.status().state, |state| *state == State::Live).await;
    assert_eq!(ks.status().counters.loads, 1);
}
