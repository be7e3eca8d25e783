//! A handler that sees every change, at least once and in order, although its process ends in between.
//!
//! The key space stores each event in a journal; a named watcher hands them to the handler and keeps a
//! checkpoint. The next process goes on strictly after it. A handler that fails is called again, after
//! growing delays, before anything else is handed to it.

#[path = "../tests/support/etcd.rs"]
mod etcd;

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_keyspace::journal::{
    Journal, JournalOptions, MirrorOptions, Registry, StoredEvent, WatcherOptions, handler_fn,
};
use etcd_keyspace::{Etcd, EtcdOptions, KeyRange, KeySpace};
use tokio::sync::mpsc;

/// One life of a process: it handles `count` events and ends.
async fn live(file: &Path, etcd: &str, count: usize) -> Result<(), Box<dyn Error>> {
    let journal = Journal::open(file, JournalOptions::new()).await?;
    let source = Etcd::new([etcd], EtcdOptions::new());
    let types = MirrorOptions::default().object_type(KeyRange::prefix("/orders/"), "order");
    let builder = KeySpace::<Vec<u8>>::builder("/orders/")?.bytes().name("orders");
    let ks = builder.journal_with(&journal, types).restore(&journal).start(source).await?;

    let (handled, mut all) = mpsc::unbounded_channel();
    let failed_before = AtomicBool::new(false);
    let handler = handler_fn(move |event: &StoredEvent| {
        if event.object == b"42" && !failed_before.swap(true, Ordering::Relaxed) {
            return Err("the mail server is busy");
        }
        let (key, order) = (event.key.as_deref().unwrap_or_default(), &event.object);
        let (key, order) = (String::from_utf8_lossy(key), String::from_utf8_lossy(order));
        println!("{}: {} {} {key} {order}", event.sequence, event.operation, event.object_type);
        handled.send(()).map_err(|_| "nobody waits")
    });
    let retry_after = Duration::from_millis(10);
    let options = WatcherOptions::new().handler(handler).backoff(retry_after, retry_after);
    let registry = Registry::new(&journal);
    registry.watch("mailer", options.auto_start(true)).await?;
    for _ in 0..count {
        all.recv().await.ok_or("the watcher ended")?;
    }
    // Stopping stores the checkpoint.
    registry.stop_all(None).await?;
    ks.shutdown().await;
    Ok(journal.close().await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = etcd::EtcdServer::start().await?;
    let mut client = server.client().await;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("orders.journal");
    client.put("/orders/1", "41", None).await?;
    client.put("/orders/2", "42", None).await?;
    live(&file, &server.endpoint(), 2).await?;

    println!("-- nobody runs");
    client.put("/orders/1", "43", None).await?;
    client.delete("/orders/1", None).await?;
    live(&file, &server.endpoint(), 2).await
}
