//! What only a source can show that no application can make: ranges of two clusters.

use tokio::time::Duration;

use super::{CutError, KeySpaces};
use crate::model::KeyRange;
use crate::source::{BoxFuture, Connection, Source, SourceError, sealed};
use crate::testing::FakeEtcd;
use crate::view::bytes;

/// Endpoints that should be of one cluster, and are not.
#[derive(Debug)]
struct Torn([FakeEtcd; 2]);

impl sealed::Sealed for Torn {}

impl Source for Torn {
    fn endpoints(&self) -> usize {
        2
    }

    fn endpoint_name(&self, index: usize) -> String {
        format!("torn {index}")
    }

    fn connect(
        &self,
        index: usize,
    ) -> BoxFuture<'static, Result<Box<dyn Connection>, SourceError>> {
        self.0[index].connect(0)
    }
}

#[tokio::test(start_paused = true)]
async fn b16_a_cut_never_compares_revisions_of_two_clusters() {
    let stores = [FakeEtcd::with_seed(1), FakeEtcd::with_seed(2)];
    stores[0].put("/a/1", "x");
    stores[1].put("/b/1", "x");
    let spaces = KeySpaces::builder(Torn(stores.clone()), bytes());
    let spaces = spaces.each(|range, builder| {
        // The seed chooses the endpoint.
        builder.seed(u64::from(*range != KeyRange::prefix("/a/")))
    });
    let spaces = spaces.build();
    let error = spaces.cut(["/b/", "/a/"]).await.unwrap_err();
    let CutError::OtherCluster { range, expected, got } = &error else { panic!("{error:?}") };
    assert_eq!(*range, KeyRange::prefix("/b/"));
    let ids = ["/a/", "/b/"].map(|range| spaces.get(range));
    let mut seen = Vec::new();
    for ks in ids {
        seen.extend(ks.await.unwrap().read().cluster_id());
    }
    assert_eq!(seen, [*expected, *got]);
    // Nobody is held back.
    for (store, range) in stores.iter().zip(["/a/", "/b/"]) {
        let ks = spaces.get(range).await.unwrap();
        let revision = store.put(format!("{range}2"), "x");
        let waited =
            tokio::time::timeout(Duration::from_millis(200), ks.wait_for_revision(revision));
        waited.await.unwrap().unwrap();
    }
}
