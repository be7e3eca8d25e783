//! The task that stores ends unexpectedly.

use crate::publish::tap;
use crate::testing::FakeEtcd;
use crate::{KeySpace, State};

/// The task that stores panics: the key space says so and continues.
#[tokio::test(start_paused = true)]
async fn h64_a_panic_of_the_task_that_stores_is_the_store_error() {
    let etcd = FakeEtcd::new();
    let builder = KeySpace::builder("/k/").unwrap().bytes();
    let ks = builder
        .keeper(|_, _| {
            let (tap, mut tapping) = tap(1 << 10);
            let keeper = async move {
                tapping.next().await;
                panic!("the keeper panics");
            };
            (tap, Box::pin(keeper))
        })
        .start(etcd.clone())
        .await
        .unwrap();
    for value in 0..100 {
        // More than the way to the task has room for.
        let revision = etcd.put("/k/a", vec![value; 100]);
        ks.wait_for_revision(revision).await.unwrap();
    }
    let error = ks.status().store_error.expect("nothing is stored");
    assert!(error.to_string().contains("the keeper panics"), "{error}");
    assert_eq!(ks.status().state, State::Live);
    ks.shutdown().await;
}
