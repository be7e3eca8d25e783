//! Waits, the linearizable read, and how soon a write is visible.

use super::*;

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

/// The header that the client library returns is what to wait for.
#[tokio::test]
async fn h51_the_header_of_a_put_is_a_token() {
    let server = shared().await;
    let mut client = server.client().await;
    let prefix = unique_prefix("header");
    let ks = start(server.endpoint(), &prefix).await;
    let put = client.put(format!("{prefix}a"), "1", None).await.unwrap();
    let header = put.header().unwrap();
    within("the own write", ks.wait_for_revision(header)).await.unwrap();
    let token = etcd_keyspace::Token::from(header);
    assert_eq!((token.cluster_id(), token.revision()), (header.cluster_id(), header.revision()));
    assert!(token.term() > 0 && token.term() == header.raft_term());
    let snapshot = within("its token", ks.snapshot_at(token)).await.unwrap();
    assert!(snapshot.contains(format!("{prefix}a")));
    assert_eq!(within("its header", ks.read_at(header)).await.unwrap().len(), 1);
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
