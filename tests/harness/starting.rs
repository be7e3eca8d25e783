//! One server: how it starts, refuses to, and what it can be made to do.

use super::*;

#[tokio::test]
async fn a_server_starts_and_answers() {
    let begun = Instant::now();
    let server = EtcdServer::start().await.unwrap();
    let started = begun.elapsed();
    let mut client = server.client().await;
    client.put("a", "1", None).await.unwrap();
    assert_eq!(value(&mut client, "a").await.as_deref(), Some("1"));
    let status = client.status().await.unwrap();
    assert_eq!(status.version(), server.version());
    assert!(server.data_dir().join("member").is_dir());
    assert!(alive(server.pid().unwrap()));
    println!("etcd {} answered after {started:?}", server.version());
}

#[tokio::test]
async fn kill_and_restart_keep_data_ports_and_cluster() {
    for builder in [EtcdServer::builder().durable(), EtcdServer::builder()] {
        let server = builder.start().await.unwrap();
        let mut client = server.client().await;
        let before = client.put("a", "1", None).await.unwrap();
        let (endpoint, pid) = (server.endpoint(), server.pid().unwrap());
        server.kill();
        assert!(!alive(pid));
        assert_eq!(server.pid(), None);
        client.get("a", None).await.unwrap_err();
        server.restart().await.unwrap();
        assert_eq!(server.endpoint(), endpoint);
        assert_ne!(server.pid(), Some(pid));
        let after = client.get("a", None).await.unwrap();
        assert_eq!(after.kvs()[0].value(), b"1");
        assert_eq!(
            after.header().unwrap().cluster_id(),
            before.header().unwrap().cluster_id(),
            "the same cluster"
        );
    }
}

#[tokio::test]
async fn terminate_ends_the_process_and_restart_begins_another() {
    let server = EtcdServer::start().await.unwrap();
    let pid = server.pid().unwrap();
    within("SIGTERM ends etcd", server.terminate()).await;
    assert!(!alive(pid));
    server.terminate().await;
    server.kill();
    server.restart().await.unwrap();
    let second = server.pid().unwrap();
    server.restart().await.unwrap();
    assert!(!alive(second), "a restart ends what runs");
}

#[tokio::test]
async fn pause_hangs_a_get_and_resume_completes_it() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    client.put("a", "1", None).await.unwrap();
    server.pause();
    let mut get = Box::pin(client.get("a", None));
    still_pending("a paused server does not answer", QUIET, &mut get).await;
    server.resume();
    let answer = within("a resumed server answers", get).await.unwrap();
    assert_eq!(answer.kvs()[0].value(), b"1");
    // A paused process can be killed, and paused again after a restart.
    server.pause();
    server.kill();
    server.restart().await.unwrap();
    server.pause();
}

#[tokio::test]
async fn replace_puts_an_empty_cluster_in_its_place() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    let before = client.put("a", "1", None).await.unwrap();
    server.replace().await.unwrap();
    let after = client.get("a", None).await.unwrap();
    assert_eq!(after.count(), 0);
    assert_ne!(after.header().unwrap().cluster_id(), before.header().unwrap().cluster_id());
}

#[tokio::test]
async fn two_servers_share_nothing() {
    let (one, two) = tokio::join!(EtcdServer::start(), EtcdServer::start());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.endpoint(), two.endpoint());
    assert_ne!(one.data_dir(), two.data_dir());
    one.client().await.put("a", "1", None).await.unwrap();
    assert_eq!(value(&mut two.client().await, "a").await, None);
}

#[tokio::test]
async fn arguments_reach_etcd() {
    let server = EtcdServer::builder()
        .args(["--max-request-bytes=1000", "--auth-token-ttl=3"])
        .progress_interval(Duration::from_millis(100))
        .start()
        .await
        .unwrap();
    let mut client = server.client().await;
    let error = client.put("a", vec![b'x'; 2000], None).await.unwrap_err();
    assert!(error.to_string().contains("too large"), "{error}");
    let options = WatchOptions::new().with_progress_notify();
    let mut watch = client.watch("a", Some(options)).await.unwrap();
    let created = within("created", watch.message()).await.unwrap().unwrap();
    assert!(created.created());
    let progress = within("progress", watch.message()).await.unwrap().unwrap();
    assert!(progress.events().is_empty());
}

#[tokio::test]
async fn a_given_data_directory_stays() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let builder = EtcdServer::builder().data_dir(&data);
    let server = builder.start().await.unwrap();
    server.client().await.put("a", "1", None).await.unwrap();
    assert_eq!(server.data_dir(), data);
    drop(server);
    let server = builder.start().await.unwrap();
    assert_eq!(value(&mut server.client().await, "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn readiness_holds_with_authentication() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    server.restart().await.unwrap();
    client.get("a", None).await.unwrap_err();
}

#[test]
fn tests_with_their_own_runtimes_share_one_server() {
    let test = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = shared().await;
            let key = unique_prefix("shared") + "key";
            let mut client = server.client().await;
            client.put(key.as_str(), "1", None).await.unwrap();
            (server.endpoint(), key)
        })
    };
    let threads = [std::thread::spawn(test), std::thread::spawn(test)];
    let [one, two] = threads.map(|thread| thread.join().unwrap());
    assert_eq!(one.0, two.0);
    assert_ne!(one.1, two.1);
}

#[tokio::test]
async fn an_error_carries_the_log() {
    let error = EtcdServer::builder().arg("--no-such-option").start().await.unwrap_err();
    assert!(matches!(error, StartError::Exited { .. }));
    assert!(format!("{error:?}").contains("no-such-option"), "{error}");
}

#[tokio::test]
async fn a_taken_port_is_said_and_can_be_had_back() {
    let server = EtcdServer::start().await.unwrap();
    server.kill();
    let address = server.endpoint().replace("http://", "");
    let thief = TcpListener::bind(address).await.unwrap();
    let error = server.restart().await.unwrap_err();
    assert!(error.to_string().contains("address already in use"), "{error}");
    assert_eq!(server.pid(), None);
    drop(thief);
    server.restart().await.unwrap();
}

#[test]
fn the_binary_is_looked_for_in_three_places() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = dir.path().join("etcd");
    std::fs::write(&etcd, "").unwrap();
    let missing = dir.path().join("missing");
    #[track_caller]
    fn check(env: Option<&Path>, bundle: Option<&Path>, path: Option<&Path>, want: Option<&Path>) {
        let [env, path] = [env, path].map(|p| p.map(|p| p.as_os_str().to_owned()));
        match (find_binary(env, bundle.map(PathBuf::from), path), want) {
            (Ok(found), Some(want)) => assert_eq!(found, want),
            (Err(StartError::NoBinary { tried }), None) => {
                for place in ["$ETCD", "bundle", "PATH"] {
                    assert!(tried.contains(place), "{place} is not in: {tried}");
                }
            }
            (found, want) => panic!("found {found:?}, want {want:?}"),
        }
    }
    let other = dir.path().join("other");
    std::fs::write(&other, "").unwrap();
    check(Some(&other), Some(&etcd), Some(dir.path()), Some(&other));
    check(Some(&missing), Some(&etcd), Some(dir.path()), None);
    check(None, Some(&other), Some(dir.path()), Some(&other));
    check(None, Some(&missing), Some(dir.path()), Some(&etcd));
    check(None, None, Some(dir.path()), Some(&etcd));
    check(None, None, Some(&missing), None);
    check(None, None, None, None);
}
