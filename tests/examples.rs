//! The short examples do what they say, as processes on an etcd of their own.
#![cfg(feature = "json")]

#[path = "support/example.rs"]
mod example;

use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// What an example prints.
async fn run(name: &str) -> String {
    let mut command = Command::new(example::built(name));
    let output = command.kill_on_drop(true).output();
    let output = timeout(Duration::from_secs(20), output).await.expect("it ends").unwrap();
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && talk.is_empty(), "{name}: {}, {talk}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn observer_shows_whole_moves_between_zones() {
    assert_eq!(run("observer").await, "north 7, south 0\nnorth 0, south 7\nnorth 0, south 4\n");
}

#[tokio::test]
async fn read_your_writes_sees_them() {
    let expected = "after the write: 10\n\
                    by its token elsewhere: 1 keys\n\
                    after asking etcd: 2 keys\n\
                    a revision that is not there yet: given up\n";
    assert_eq!(run("read_your_writes").await, expected);
}

#[tokio::test]
async fn follower_starts_and_stops_what_the_keys_say() {
    let expected = "start /jobs/backup every 1000 ms\n\
                    start /jobs/report every 500 ms\n\
                    change /jobs/backup to every 2000 ms\n\
                    stop /jobs/report\n\
                    the key space stopped\n";
    assert_eq!(run("follower").await, expected);
}

#[tokio::test]
async fn snapshot_reports_what_stood_still() {
    let expected = "20 reports, each of whole transactions\n\
                    40 accounts were written, of 100\n\
                    account 7 had 1000 and has 993\n";
    assert_eq!(run("snapshot").await, expected);
}

#[cfg(feature = "journal")]
#[tokio::test]
async fn warm_restart_serves_before_etcd_answers() {
    let expected = "live: 2 prices, apple at Some(3)\n\
                    restored: 2 prices, apple at Some(3)\n\
                    live: 2 prices, apple at Some(5)\n\
                    0 complete reads since\n";
    assert_eq!(run("warm_restart").await, expected);
}

#[cfg(feature = "journal")]
#[tokio::test]
async fn durable_watcher_handles_everything_across_its_lives() {
    let expected = "1: create order /orders/1 41\n\
                    2: create order /orders/2 42\n\
                    -- nobody runs\n\
                    3: update order /orders/1 43\n\
                    4: delete order /orders/1 \n";
    assert_eq!(run("durable_watcher").await, expected);
}

#[cfg(feature = "test-util")]
#[tokio::test]
async fn testing_runs_without_etcd_and_has_tests_of_its_own() {
    let expected = "/shop/cart goes to Some(\"10.0.0.1:80\")\n/blog goes to None\n";
    assert_eq!(run("testing").await, expected);
}
