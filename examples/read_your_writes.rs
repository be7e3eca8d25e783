//! A write, and then reads that see it: in this process, in another one, and whoever wrote it.
//!
//! A replica is behind etcd by about a millisecond, which is long enough to read the old value after one's
//! own write. The header of etcd's response to the write is what to wait for: its revision, and with cluster
//! and raft term the history that the revision belongs to. None of the waits polls, and none has a deadline
//! of its own.

#[path = "../tests/support/etcd.rs"]
mod etcd;

use std::error::Error;
use std::time::Duration;

use etcd_keyspace::{Etcd, EtcdOptions, KeySpace, Token};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = etcd::EtcdServer::start().await?;
    let mut client = server.client().await;
    let replica = async || {
        let source = Etcd::new([server.endpoint()], EtcdOptions::new());
        KeySpace::<u32>::builder("/limits/")?
            .json()
            .start(source)
            .await
            .map_err(Box::<dyn Error>::from)
    };
    // Two replicas, as two processes of a service would have.
    let (here, there) = (replica().await?, replica().await?);

    // 1. One's own write: wait until the replica is known complete through its revision.
    let put = client.put("/limits/requests", "10", None).await?;
    let header = put.header().ok_or("an answer without a header")?;
    let view = timeout(LIMIT, here.read_at(header)).await??;
    println!("after the write: {}", view.get("/limits/requests").map_or(0, |entry| *entry.value()));
    drop(view); // The next change waits for guards: let go of them.

    // 2. The next request of the same user goes to another process. A token of what was written, or of
    // what was seen, travels with it as text, in a header or a cookie.
    let token = Token::from(header).to_string();
    let view = timeout(LIMIT, there.read_at(token.parse::<Token>()?)).await??;
    println!("by its token elsewhere: {} keys", view.len());
    drop(view);

    // 3. Somebody else's write, of which nothing is known but that it is done: ask etcd once.
    client.put("/limits/connections", "20", None).await?;
    let view = timeout(LIMIT, there.read_linearizable()).await??;
    println!("after asking etcd: {} keys", view.len());
    drop(view);

    // 4. A wait that is not met in time is simply dropped.
    let never =
        timeout(Duration::from_millis(50), here.wait_for_revision(header.revision() + 1_000));
    println!(
        "a revision that is not there yet: {}",
        if never.await.is_err() { "given up" } else { "met" }
    );
    Ok(())
}
