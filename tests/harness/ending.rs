//! What is left of servers when they, or their parent, end.

use super::*;

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
        .args(["--exact", "ending::a_victim_starts_servers_and_hangs"])
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
