//! Large values, many keys.

use super::*;

/// T-13: 20 values of a megabyte are loaded, updated and followed.
#[tokio::test]
async fn t13_values_of_a_megabyte() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    let value = |letter: &str| letter.repeat(1 << 20);
    let early = start(server.endpoint(), "/big/").await;
    for i in 0..20 {
        put(&mut client, format!("/big/{i:02}"), value("a")).await;
    }
    let now = revision(&mut client).await;
    // As a stream, and as pages of a key or two.
    let late = start(server.endpoint(), "/big/").await;
    let paged = mirror("/big/").load_at(now).page_bytes(1 << 20).start(at(server.endpoint()));
    let paged = within("a load in pages", paged).await.unwrap();
    for i in 0..20 {
        put(&mut client, format!("/big/{i:02}"), value("b")).await;
    }
    for ks in [&early, &late, &paged] {
        equals_etcd(ks, &mut client, "/big/").await;
        assert_eq!(ks.read().len(), 20);
        assert_eq!(ks.status().counters.failures, 0, "{:?}", ks.status());
    }
}

/// T-12, T-14: 100,000 keys are loaded, 10,000 updates followed, and all of it goes in one revision
/// that comes in fragments.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t14_hundred_thousand_keys_from_the_load_to_one_delete() {
    const KEYS: usize = 100_000;
    let server = EtcdServer::builder().arg("--max-txn-ops=10000").start().await.unwrap();
    let mut client = server.client().await;
    let prefix = "/hundred-thousand/with-names-of-some-length/";
    fill(&mut client, prefix, KEYS, 60).await;
    let begun = Instant::now();
    let ks = start(server.endpoint(), prefix).await;
    println!("{KEYS} keys loaded in {:?}", begun.elapsed());
    assert_eq!(ks.read().len(), KEYS);

    let begun = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..20 {
        let mut client = client.clone();
        writers.spawn(async move {
            for i in 0..500 {
                let n = (writer * 500 + i) * 48_271 % KEYS;
                put(&mut client, format!("{prefix}{n:07}"), format!("{i}")).await;
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    equals_etcd(&ks, &mut client, prefix).await;
    println!("10000 updates written, followed and compared in {:?}", begun.elapsed());

    let steps = Steps::of(&ks);
    steps.take();
    let begun = Instant::now();
    let rev = delete_prefix(&mut client, prefix).await;
    within("everything is deleted", ks.wait_for_revision(rev)).await.unwrap();
    println!("{KEYS} keys deleted and gone in {:?}", begun.elapsed());
    let steps = steps.take();
    assert_eq!(steps.len(), 1);
    assert_eq!((steps[0].changes.len(), steps[0].to), (KEYS, rev));
    assert!(steps[0].changes.iter().all(|change| change.starts_with('-')));
    equals_etcd(&ks, &mut client, prefix).await;
    assert_eq!(ks.status().counters.loads, 1);
}
