//! Rights, starts that fail, and every way to end.

use super::*;

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
