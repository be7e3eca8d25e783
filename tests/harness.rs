//! The harness does what it says: each promise of `tests/support` on a real etcd, or for the bytes of
//! the proxy on a plain echo server.

#[path = "harness/cluster.rs"]
mod cluster;
#[path = "harness/ending.rs"]
mod ending;
#[path = "harness/starting.rs"]
mod starting;
mod support;
#[path = "harness/through_proxy.rs"]
mod through_proxy;

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
