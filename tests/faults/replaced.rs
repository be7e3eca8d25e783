//! A data directory that is put back from a backup, or removed and written again by the same script:
//! cluster and member ids stay.

use super::history::copy;
use super::*;

/// A server whose mirror is cut off while its data directory is replaced.
struct Replaced {
    server: EtcdServer,
    proxy: Proxy,
    backup: tempfile::TempDir,
}

impl Replaced {
    async fn new() -> Self {
        let server = EtcdServer::start().await.unwrap();
        let proxy = Proxy::start(&server.endpoint()).await.unwrap();
        Replaced { server, proxy, backup: tempfile::tempdir().unwrap() }
    }

    /// Copies the data directory aside.
    async fn back_up(&self) {
        self.server.terminate().await;
        copy(self.server.data_dir(), &self.backup.path().join("data"));
        self.server.restart().await.unwrap();
    }

    /// Cuts the mirror off and removes the data; with a backup, puts that in its place.
    async fn replace(&self) -> Client {
        self.proxy.cut().await;
        self.server.kill();
        std::fs::remove_dir_all(self.server.data_dir()).unwrap();
        let data = self.backup.path().join("data");
        if data.exists() {
            copy(&data, self.server.data_dir());
        }
        self.server.restart().await.unwrap();
        self.server.client().await
    }
}

async fn in_epoch_two(ks: &Bytes, client: &mut Client) {
    let changed = ks.wait_until(|view| (view.epoch() == 2).then_some(()));
    within("another history is found", changed).await.unwrap();
    equals_etcd(ks, client, "/k/").await;
    reaches(ks, State::Live).await;
    assert_eq!(ks.status().counters.history_changes, 1);
}

/// A lock that was taken and released is the newest change that the mirror knows.
#[tokio::test]
async fn h10_a_backup_put_back_after_an_ephemeral_key_is_found() {
    let replaced = Replaced::new().await;
    let mut client = replaced.server.client().await;
    for i in 0..7 {
        put(&mut client, format!("/k/{i}"), "old").await;
    }
    replaced.back_up().await;
    let mut client = replaced.server.client().await;
    let ks = start(replaced.proxy.endpoint(), "/k/").await;
    put(&mut client, "/k/lock", "me").await;
    let cursor = delete(&mut client, "/k/lock").await;
    within("the release", ks.wait_for_revision(cursor)).await.unwrap();

    let mut client = replaced.replace().await;
    for (key, revision) in [("/k/x", cursor - 1), ("/k/y", cursor), ("/k/z", cursor + 1)] {
        assert_eq!(put(&mut client, key, "new").await, revision);
    }
    replaced.proxy.pass().await;
    in_epoch_two(&ks, &mut client).await;
}

/// The same script runs on an empty store, with one other value: all numbers are as before.
#[tokio::test]
async fn h12_a_data_directory_removed_and_written_again_is_found() {
    let replaced = Replaced::new().await;
    let mut client = replaced.server.client().await;
    for i in 0..30 {
        put(&mut client, format!("/k/{i}"), if i == 10 { "one" } else { "value" }).await;
    }
    let ks = start(replaced.proxy.endpoint(), "/k/").await;
    equals_etcd(&ks, &mut client, "/k/").await;
    let known = ks.snapshot();

    let mut client = replaced.replace().await;
    for i in 0..30 {
        put(&mut client, format!("/k/{i}"), if i == 10 { "other" } else { "value" }).await;
    }
    assert_eq!(revision(&mut client).await, known.confirmed());
    replaced.proxy.pass().await;
    in_epoch_two(&ks, &mut client).await;
    let shown = ks.snapshot();
    assert_eq!(shown.cluster_id(), known.cluster_id(), "the cluster id stays");
    let (before, after) = (known.get("/k/10").unwrap(), shown.get("/k/10").unwrap());
    assert_eq!(before.mod_revision(), after.mod_revision());
    let (before, after) = (known.get("/k/11").unwrap(), shown.get("/k/11").unwrap());
    assert!(Arc::ptr_eq(before, after), "only the value that differs is replaced");
}

/// A pending wait ends by the new history long before the backoff does.
#[tokio::test]
async fn h14_a_pending_wait_finds_a_restore_before_the_backoff_ends() {
    let replaced = Replaced::new().await;
    let mut client = replaced.server.client().await;
    put(&mut client, "/k/a", "old").await;
    replaced.back_up().await;
    let mut client = replaced.server.client().await;
    let minutes = Duration::from_secs(600);
    let builder = mirror("/k/").backoff(minutes, minutes);
    let ks = builder.start(at(replaced.proxy.endpoint())).await.unwrap();
    for i in 0..10 {
        put(&mut client, format!("/k/{i}"), "lost").await;
    }
    equals_etcd(&ks, &mut client, "/k/").await;
    let mut client = replaced.replace().await;
    reaches(&ks, State::Reconnecting).await;
    replaced.proxy.pass().await;
    let never = waiter(&ks, ks.read().confirmed() + 1000);
    let ended = within("the wait ends", never).await.unwrap();
    assert!(matches!(ended, Err(WaitError::HistoryChanged { was: 1, now: 2 })), "{ended:?}");
    in_epoch_two(&ks, &mut client).await;
}
