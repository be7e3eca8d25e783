//! One task for each key that matters: started when it appears, told when it changes, ended when it
//! goes.
//!
//! A follower runs outside every lock, at its own pace, and may wait. It has no queue: what changes
//! while it is busy comes as one batch of net changes, so it can be late but is never wrong. Here each
//! enabled job has a worker; jobs that are switched off leave the view as if they were deleted.

#[path = "../tests/support/etcd.rs"]
mod etcd;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;

use etcd_keyspace::{Entry, Etcd, EtcdOptions, Follower, KeySpace, Revision};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(serde::Deserialize)]
struct Job {
    enabled: bool,
    every_ms: u64,
}

/// The workers, by key.
struct Workers {
    running: BTreeMap<Vec<u8>, (watch::Sender<u64>, JoinHandle<()>)>,
    /// Through which revision the workers are what etcd says.
    done: watch::Sender<Revision>,
}

impl Follower<Job> for Workers {
    type Error = Infallible;

    fn filter(&self, entry: &Entry<Job>) -> bool {
        entry.value().enabled
    }

    /// Writes that change nothing of interest are passed over.
    fn equals(&self, old: &Entry<Job>, new: &Entry<Job>) -> bool {
        old.value().every_ms == new.value().every_ms
    }

    async fn added(&mut self, new: &Arc<Entry<Job>>) -> Result<(), Infallible> {
        let (pace, paces) = watch::channel(new.value().every_ms);
        println!("start {} every {} ms", new.key_str(), new.value().every_ms);
        self.running.insert(new.key().to_vec(), (pace, tokio::spawn(work(paces))));
        Ok(())
    }

    async fn updated(
        &mut self,
        _: &Arc<Entry<Job>>,
        new: &Arc<Entry<Job>>,
    ) -> Result<(), Infallible> {
        println!("change {} to every {} ms", new.key_str(), new.value().every_ms);
        if let Some((pace, _)) = self.running.get(new.key()) {
            pace.send_replace(new.value().every_ms);
        }
        Ok(())
    }

    async fn deleted(&mut self, old: &Arc<Entry<Job>>) -> Result<(), Infallible> {
        println!("stop {}", old.key_str());
        if let Some((pace, task)) = self.running.remove(old.key()) {
            drop(pace);
            // Waiting here delays this follower and nobody else.
            let _ = task.await;
        }
        Ok(())
    }

    async fn batch_done(&mut self, revision: Revision) -> Result<(), Infallible> {
        self.done.send_replace(revision);
        Ok(())
    }
}

/// A job at work, until its sender is gone.
async fn work(mut paces: watch::Receiver<u64>) {
    loop {
        let every = std::time::Duration::from_millis(*paces.borrow_and_update());
        tokio::select! {
            () = tokio::time::sleep(every) => { /* the job itself */ }
            changed = paces.changed() => if changed.is_err() {
                return;
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = etcd::EtcdServer::start().await?;
    let mut client = server.client().await;
    let source = Etcd::new([server.endpoint()], EtcdOptions::new());
    let ks = KeySpace::<Job>::builder("/jobs/")?.json().start(source).await?;

    let (done, mut reached) = watch::channel(0);
    let workers = Workers { running: BTreeMap::new(), done };
    let following = ks.clone();
    let follower = tokio::spawn(async move { following.follow(.., workers).await });

    let writes = [
        ("/jobs/backup", r#"{"enabled":true,"every_ms":1000}"#),
        ("/jobs/report", r#"{"enabled":false,"every_ms":500}"#),
        ("/jobs/report", r#"{"enabled":true,"every_ms":500}"#),
        ("/jobs/backup", r#"{"enabled":true,"every_ms":2000}"#),
        ("/jobs/backup", r#"{"enabled":true,"every_ms":2000}"#),
        ("/jobs/report", r#"{"enabled":false,"every_ms":500}"#),
    ];
    for (key, job) in writes {
        let put = client.put(key, job, None).await?;
        let revision = put.header().ok_or("a response without a header")?.revision();
        // Only so that the output has an order; without it, batches would be larger.
        reached.wait_for(|done| *done >= revision).await?;
    }
    ks.shutdown().await;
    println!("{}", follower.await?);
    Ok(())
}
