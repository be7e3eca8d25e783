//! Following a real etcd: loads, live events, waits.

mod support;

use etcd_keyspace::{Etcd, EtcdOptions, KeyRange, KeySpace, RawKeyValue, State};
use support::{shared, unique_prefix, within};

#[tokio::test]
async fn smoke() {
    let server = shared().await;
    let prefix = unique_prefix("smoke");
    let mut client = server.client().await;
    for i in 0..50 {
        client.put(format!("{prefix}{i:03}"), format!("{i}"), None).await.unwrap();
    }
    let ks: KeySpace<Vec<u8>> = KeySpace::builder(KeyRange::prefix(&prefix))
        .unwrap()
        .bytes()
        .start(Etcd::new([server.endpoint()], EtcdOptions::new()))
        .await
        .unwrap();
    assert_eq!(ks.read().len(), 50);
    let put = client.put(format!("{prefix}x"), "new", None).await.unwrap();
    let rev = put.header().unwrap().revision();
    let t = std::time::Instant::now();
    within("wait", ks.wait_for_revision(rev)).await.unwrap();
    eprintln!("put visible after {:?}", t.elapsed());
    let put = client.put("outside", "new", None).await.unwrap();
    let rev = put.header().unwrap().revision();
    let t = std::time::Instant::now();
    within("wait", ks.wait_for_revision(rev)).await.unwrap();
    eprintln!("outside wait {:?}", t.elapsed());
    let t = std::time::Instant::now();
    within("sync", ks.sync()).await.unwrap();
    eprintln!("sync {:?}", t.elapsed());
    eprintln!("{:#?}", ks.status());
    assert_eq!(ks.status().state, State::Live);
    ks.shutdown().await;
    assert_eq!(ks.status().state, State::Stopped);
    let _: Option<RawKeyValue> = None;
}
