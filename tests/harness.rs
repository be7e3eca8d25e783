//! The harness does what it says: each promise of `tests/support` on a real etcd, or for the bytes of
//! the proxy on a plain echo server.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions, WatchOptions};
use support::etcd::find_binary;
use support::{
    Cluster, Direction, EtcdServer, Mode, Proxy, StartError, WAIT_MAX, shared, still_pending,
    unique_prefix, within,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long something has to stay away to count as not happening.
const QUIET: Duration = Duration::from_millis(300);

// ---- One server ---------------------------------------------------------------------------------

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

// ---- Failures to start --------------------------------------------------------------------------

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

// ---- The end ------------------------------------------------------------------------------------

#[tokio::test]
async fn nothing_is_left_after_drop() {
    let server = EtcdServer::start().await.unwrap();
    let (pid, home) = (server.pid().unwrap(), home(&server));
    drop(server);
    assert!(!alive(pid));
    assert!(!home.exists());
}

/// This test process starts itself with this variable, to be killed. It names a file to report to.
const VICTIM: &str = "ETCD_KEYSPACE_HARNESS_VICTIM";

#[test]
fn nothing_is_left_after_the_parent_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report");
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_victim_starts_servers_and_hangs"])
        .env(VICTIM, &report)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the victim reports", || report.exists());
    let text = std::fs::read_to_string(&report).unwrap();
    let left: Vec<(u32, PathBuf)> = text
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(pid, home)| (pid.parse().unwrap(), home.into()))
        .collect();
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|(pid, home)| alive(*pid) && home.is_dir()), "{left:?}");
    victim.kill().unwrap();
    victim.wait().unwrap();
    for (pid, home) in left {
        eventually("etcd goes with its parent", || !runs(pid));
        eventually("its directory goes too", || !home.exists());
    }
}

#[tokio::test]
async fn a_victim_starts_servers_and_hangs() {
    let Some(report) = std::env::var_os(VICTIM).map(PathBuf::from) else {
        return;
    };
    let (one, two) = (EtcdServer::start().await.unwrap(), EtcdServer::start().await.unwrap());
    // A stopped etcd could not end by its own decision.
    two.pause();
    let line =
        |server: &EtcdServer| format!("{} {}\n", server.pid().unwrap(), home(server).display());
    let written = report.with_extension("new");
    std::fs::write(&written, line(&one) + &line(&two)).unwrap();
    std::fs::rename(&written, &report).unwrap();
    std::future::pending::<()>().await;
}

// ---- A cluster ----------------------------------------------------------------------------------

#[tokio::test]
async fn a_cluster_of_three_survives_a_kill_and_a_pause_of_its_leader() {
    let begun = Instant::now();
    let cluster = Cluster::start(3).await.unwrap();
    println!("a cluster of three answered after {:?}", begun.elapsed());
    assert_eq!(cluster.members().len(), 3);
    cluster.client().await.put("a", "1", None).await.unwrap();
    let first = cluster.leader().await.expect("a ready cluster has a leader");
    cluster.members()[first].kill();
    let second = within("another leads", leader_but(&cluster, first)).await;
    let mut client = cluster.members()[second].client().await;
    within("a write to two of three", put(&mut client, "b")).await;
    cluster.members()[first].restart().await.unwrap();
    let mut back = cluster.members()[first].client().await;
    assert_eq!(value(&mut back, "b").await.as_deref(), Some("1"));
    cluster.members()[second].pause();
    let third = within("another leads", leader_but(&cluster, second)).await;
    let mut client = cluster.members()[third].client().await;
    within("a write to two of three", put(&mut client, "c")).await;
    cluster.members()[second].resume();
}

async fn leader_but(cluster: &Cluster, old: usize) -> usize {
    loop {
        match cluster.leader().await {
            Some(leader) if leader != old => return leader,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn put(client: &mut Client, key: &str) {
    while client.put(key, "1", None).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

// ---- The proxy ----------------------------------------------------------------------------------

#[tokio::test]
async fn pass_hands_on_and_counts() {
    let (proxy, mut stream) = through_proxy().await;
    assert_eq!(echo(&mut stream, b"hello").await, b"hello");
    assert_eq!((proxy.accepted(), proxy.connections()), (1, 1));
    assert_eq!((proxy.bytes_up(), proxy.bytes_down()), (5, 5));
    // The end of one direction is handed on, and the other still works.
    stream.write_all(b"bye").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within("the end comes back", stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"bye");
}

#[tokio::test]
async fn stall_accepts_and_holds_until_pass() {
    let (proxy, mut old) = through_proxy().await;
    proxy.stall().await;
    let mut new = connect(&proxy).await;
    for stream in [&mut old, &mut new] {
        stream.write_all(b"held").await.unwrap();
        silent(stream).await;
    }
    assert_eq!((proxy.bytes_up(), proxy.bytes_down()), (0, 0));
    proxy.pass().await;
    for stream in [&mut old, &mut new] {
        assert_eq!(read_exact(stream, 4).await, b"held");
    }
}

#[tokio::test]
async fn cut_closes_all_and_refuses_until_pass() {
    let (proxy, mut stream) = through_proxy().await;
    assert_eq!(echo(&mut stream, b"hello").await, b"hello");
    proxy.cut().await;
    assert_eq!((proxy.mode(), proxy.connections()), (Mode::Cut, 0));
    assert!(ended(&mut stream).await.is_empty());
    refused(&proxy).await;
    proxy.pass().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(echo(&mut stream, b"again").await, b"again");
    assert_eq!(proxy.accepted(), 2);
    // Also when the next mode comes at once, and when the connection hangs in a stall.
    proxy.reset().await;
    assert!(ended(&mut stream).await.is_empty());
    let mut stream = connect(&proxy).await;
    proxy.stall().await;
    stream.write_all(b"lost").await.unwrap();
    proxy.reset().await;
    assert_eq!(proxy.mode(), Mode::Stall);
    assert!(ended(&mut stream).await.is_empty());
}

#[tokio::test]
async fn refuse_leaves_what_is_connected() {
    let (proxy, mut stream) = through_proxy().await;
    assert_eq!(echo(&mut stream, b"hello").await, b"hello");
    proxy.refuse().await;
    refused(&proxy).await;
    assert_eq!(echo(&mut stream, b"hello").await, b"hello");
    proxy.pass().await;
    assert_eq!(echo(&mut connect(&proxy).await, b"hello").await, b"hello");
}

#[tokio::test]
async fn blackhole_swallows_one_direction() {
    for (direction, up, down) in [(Direction::Up, 0, 0), (Direction::Down, 4, 0)] {
        let (proxy, mut stream) = through_proxy().await;
        proxy.blackhole(direction).await;
        stream.write_all(b"lost").await.unwrap();
        silent(&mut stream).await;
        assert_eq!((proxy.bytes_up(), proxy.bytes_down()), (up, down), "{direction:?}");
        proxy.pass().await;
        assert_eq!(echo(&mut stream, b"kept").await, b"kept", "what was swallowed is lost");
    }
}

#[tokio::test]
async fn cut_after_hands_on_exactly_that_many_bytes() {
    for bytes in [0, 1, 9, 10, 70_000] {
        let (proxy, mut stream) = through_proxy().await;
        assert_eq!(echo(&mut stream, b"before").await, b"before");
        proxy.cut_after(bytes).await;
        let sent: Vec<u8> = (0..100_000).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let (mut reads, mut writes) = stream.split();
        let write = async {
            // The cut may come while there is more to write.
            let _ = writes.write_all(&sent).await;
        };
        let read = async {
            let mut got = Vec::new();
            let _ = reads.read_to_end(&mut got).await;
            got
        };
        let ((), got) = within("the cut", async { tokio::join!(write, read) }).await;
        within("reached", proxy.reached()).await;
        assert_eq!(got.len() as u64, bytes);
        assert_eq!(got, sent[..got.len()]);
        assert_eq!(proxy.bytes_down(), bytes + 6);
        refused(&proxy).await;
    }
}

#[tokio::test]
async fn stall_after_hands_on_exactly_that_many_bytes_and_holds_the_rest() {
    for bytes in [0, 7, 10] {
        let (proxy, mut stream) = through_proxy().await;
        proxy.stall_after(bytes as u64).await;
        stream.write_all(b"0123456789").await.unwrap();
        assert_eq!(read_exact(&mut stream, bytes).await, b"0123456789"[..bytes]);
        within("the stall", proxy.stalled()).await;
        silent(&mut stream).await;
        proxy.pass().await;
        assert_eq!(read_exact(&mut stream, 10 - bytes).await, b"0123456789"[bytes..]);
    }
}

#[tokio::test]
async fn a_stalled_connection_stays_open_when_its_other_end_is_gone() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(&server.local_addr().unwrap().to_string()).await.unwrap();
    let mut stream = connect(&proxy).await;
    let (mut other, _) = within("the connection", server.accept()).await.unwrap();
    stream.write_all(b"unread").await.unwrap();
    within("it comes", other.readable()).await.unwrap();
    proxy.stall().await;
    other.write_all(b"held").await.unwrap();
    // With bytes unread the end of it is a reset.
    drop((other, server));
    silent(&mut stream).await;
    proxy.pass().await;
    ended(&mut stream).await;
    drop(stream);
    within("both ends are gone", async {
        while proxy.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn delay_adds_to_the_way_of_each_direction() {
    let (proxy, mut stream) = through_proxy().await;
    proxy.delay(Duration::from_millis(100)).await;
    let begun = Instant::now();
    assert_eq!(echo(&mut stream, b"hello").await, b"hello");
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    // It is a distance and not a width: many chunks on their way at once take little longer.
    let begun = Instant::now();
    let (mut reads, mut writes) = stream.split();
    let sent = vec![7; 400_000];
    let mut got = vec![0; sent.len()];
    let both = async { tokio::join!(writes.write_all(&sent), reads.read_exact(&mut got)) };
    let (written, read) = within("all comes back", both).await;
    written.unwrap();
    read.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // A change of the mode ends a delay that has begun.
    proxy.delay(Duration::from_secs(3600)).await;
    stream.write_all(b"late").await.unwrap();
    silent(&mut stream).await;
    proxy.pass().await;
    assert_eq!(read_exact(&mut stream, 4).await, b"late");
}

#[tokio::test]
async fn a_dropped_proxy_closes_everything() {
    let (proxy, mut stream) = through_proxy().await;
    assert_eq!(echo(&mut stream, b"hello").await, b"hello");
    let address = proxy.endpoint().replace("http://", "");
    drop(proxy);
    assert!(ended(&mut stream).await.is_empty());
    // A process that another test is just starting may hold a copy of the listener for a moment.
    while TcpStream::connect(&address).await.is_ok() {}
}

#[tokio::test]
async fn etcd_works_through_the_proxy_and_a_watch_ends_with_a_cut() {
    let server = shared().await;
    let proxy = Proxy::start(&server.endpoint()).await.unwrap();
    let key = unique_prefix("proxy") + "key";
    let mut client = Client::connect([proxy.endpoint()], None).await.unwrap();
    client.put(key.as_str(), "1", None).await.unwrap();
    let mut watch = client.watch(key.as_str(), None).await.unwrap();
    let created = within("created", watch.message()).await.unwrap().unwrap();
    assert!(created.created());
    proxy.stall().await;
    server.client().await.put(key.as_str(), "2", None).await.unwrap();
    let mut message = Box::pin(watch.message());
    still_pending("a stalled watch is silent", QUIET, &mut message).await;
    proxy.pass().await;
    let event = within("the held event", message).await.unwrap().unwrap();
    assert_eq!(event.events()[0].kv().unwrap().value(), b"2");
    proxy.cut().await;
    within("the watch ends", watch.message()).await.unwrap_err();
    client.get(key.as_str(), None).await.unwrap_err();
    proxy.pass().await;
    assert_eq!(value(&mut client, &key).await.as_deref(), Some("2"));
}

// ---- Helpers ------------------------------------------------------------------------------------

async fn value(client: &mut Client, key: &str) -> Option<String> {
    let answer = client.get(key, Some(GetOptions::new())).await.unwrap();
    answer.kvs().first().map(|kv| kv.value_str().unwrap().to_owned())
}

/// The directory that holds everything of a server.
fn home(server: &EtcdServer) -> PathBuf {
    server.data_dir().parent().unwrap().to_owned()
}

/// A process of this id exists. One that has ended exists until its parent has asked for its status.
fn alive(pid: u32) -> bool {
    let asked = Command::new("sh").args(["-c", r#"kill -0 "$0""#, &pid.to_string()]).output();
    asked.unwrap().status.success()
}

/// A process of this id does something. An orphan that has ended may wait for ever for its new
/// parent to ask, in a container whose first process is not an `init`.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    alive(pid) && !stat.is_ok_and(|stat| stat.contains(") Z "))
}

/// For what another process does and nobody reports.
#[track_caller]
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < WAIT_MAX, "not in {WAIT_MAX:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A connection through a proxy to a server that sends back what it gets.
async fn through_proxy() -> (Proxy, TcpStream) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    let proxy = Proxy::start(&address).await.unwrap();
    let stream = connect(&proxy).await;
    (proxy, stream)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.endpoint().replace("http://", "")).await.unwrap()
}

async fn refused(proxy: &Proxy) {
    let error = TcpStream::connect(proxy.endpoint().replace("http://", "")).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

async fn read_exact(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut got = vec![0; bytes];
    within("bytes", stream.read_exact(&mut got)).await.unwrap();
    got
}

async fn echo(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).await.unwrap();
    read_exact(stream, bytes.len()).await
}

/// What still comes until the connection ends, in good order or not.
async fn ended(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = within("the end of the connection", stream.read_to_end(&mut rest)).await;
    rest
}

async fn silent(stream: &mut TcpStream) {
    let mut byte = [0];
    let got = tokio::time::timeout(QUIET, stream.peek(&mut byte)).await;
    assert!(got.is_err(), "something came: {got:?}");
}
