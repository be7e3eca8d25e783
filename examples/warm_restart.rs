//! A process that starts again serves at once, from what the one before it has stored, also while etcd
//! cannot be reached; then the watch goes on where it stood, and nothing is listed again.
//!
//! Until etcd has confirmed that the stored data is of its history the state is `restored`, and the
//! status tells the age: whether to serve that is for the application to decide.

#[path = "../tests/support/etcd.rs"]
mod etcd;

use std::error::Error;
use std::path::Path;

use etcd_keyspace::journal::{Journal, JournalOptions};
use etcd_keyspace::{Etcd, EtcdOptions, KeySpace};

/// What a process does when it starts: for the first time or not, it is the same.
async fn start(file: &Path, etcd: &str) -> Result<(Journal, KeySpace<u32>), Box<dyn Error>> {
    let journal = Journal::open(file, JournalOptions::new()).await?;
    let builder = KeySpace::<u32>::builder("/prices/")?.json().name("prices");
    let source = Etcd::new([etcd], EtcdOptions::new());
    let ks = builder.journal(&journal).restore(&journal).start(source).await?;
    Ok((journal, ks))
}

fn tell(ks: &KeySpace<u32>) {
    let (status, view) = (ks.status(), ks.read());
    let apple = view.get("/prices/apple").map(|entry| *entry.value());
    println!("{}: {} prices, apple at {apple:?}", status.state, view.len());
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = etcd::EtcdServer::start().await?;
    let mut client = server.client().await;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("prices.journal");
    for (key, price) in [("/prices/apple", "3"), ("/prices/pear", "4")] {
        client.put(key, price, None).await?;
    }

    let (journal, ks) = start(&file, &server.endpoint()).await?;
    tell(&ks);
    // Waits until everything that was shown is stored.
    ks.shutdown().await;
    journal.close().await?;
    drop(ks);

    let put = client.put("/prices/apple", "5", None).await?;
    let raised = put.header().ok_or("a response without a header")?;
    server.pause(); // etcd does not answer while we start

    let (_journal, ks) = start(&file, &server.endpoint()).await?;
    tell(&ks);
    server.resume();
    ks.wait_for_revision(raised).await?;
    let loads = ks.status().counters.loads;
    tell(&ks);
    println!("{loads} complete reads since");
    Ok(())
}
