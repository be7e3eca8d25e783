//! The program itself: one command, an address, and an orderly end.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::*;
use crate::example;

#[tokio::test]
async fn it_starts_an_etcd_prints_its_address_serves_and_ends_on_sigterm() {
    let mut command = Command::new(example::built("service"));
    command.args(["--listen", "127.0.0.1:0"]).kill_on_drop(true);
    let mut program = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let address = within("the address", async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(url) = line.strip_prefix("live page: http://") {
                return url.trim_end_matches('/').parse::<SocketAddr>().unwrap();
            }
        }
        panic!("it ended without an address")
    })
    .await;
    let filled = async {
        loop {
            let answer = get(address, "/kv?min_revision=50").await;
            if answer.status == 200 {
                return answer;
            }
        }
    };
    let answer = within("the writers", filled).await;
    assert!(answer.json()["count"].as_u64().unwrap() > 20);
    let page = get(address, "/").await;
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(
        !page.body.contains("src=\"http") && !page.body.contains("url(http"),
        "nothing from elsewhere"
    );
    let mut events = Events::open(address, "/events?prefix=/backends/eu", None).await;
    assert_eq!(news(&mut events).await.name, "reset");

    example::signal(&program, "TERM").await;
    let ended = within("the end", program.wait()).await.unwrap();
    assert!(ended.success(), "{ended:?}");
    within("the end of the stream", async { while events.next().await.is_some() {} }).await;
}
