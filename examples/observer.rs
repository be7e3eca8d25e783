//! A secondary index that never differs from its data: which backends are in a zone, without a scan.
//!
//! The index is kept by an observer, which runs under the lock that the data changes under. Whoever
//! reads gets both from one guard, so an index entry without its backend, or a backend that the index
//! does not know yet, is never seen.

#[path = "../tests/support/etcd.rs"]
mod etcd;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use etcd_client::{Txn, TxnOp};
use etcd_keyspace::{Delta, Derived, Etcd, EtcdOptions, KeySpace};

#[derive(serde::Deserialize)]
struct Backend {
    zone: String,
    weight: u32,
}

/// The keys of each zone.
type Zones = BTreeMap<String, BTreeSet<Vec<u8>>>;

/// Costs what changed and nothing else: it holds up every reader.
fn index(zones: &mut Zones, delta: &Delta<Backend>) {
    // A backend that moves leaves one zone and enters another, in the same step.
    for old in delta.old_entries() {
        if let Some(keys) = zones.get_mut(&old.value().zone) {
            keys.remove(old.key());
            if keys.is_empty() {
                zones.remove(&old.value().zone);
            }
        }
    }
    for new in delta.new_entries() {
        zones.entry(new.value().zone.clone()).or_default().insert(new.key().to_vec());
    }
}

/// The weight of a zone: the index says which keys, the view has their values, both of one moment.
fn weight(ks: &KeySpace<Backend>, zones: &Derived<Zones>, zone: &str) -> u32 {
    let view = ks.read();
    let keys = view.derived(zones).get(zone).into_iter().flatten();
    keys.map(|key| view.get(key).expect("the index is of this view").value().weight).sum()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = etcd::EtcdServer::start().await?;
    let mut client = server.client().await;

    // Registered before the mirror starts, so it sees everything from the beginning. Later is fine too:
    // then it is first shown everything as added.
    let builder = KeySpace::<Backend>::builder("/backends/")?.json();
    let (ks, mirror) = builder.build(Etcd::new([server.endpoint()], EtcdOptions::new()));
    let zones = ks.derive(Zones::new(), |zones, delta, _view, _earlier| index(zones, delta));
    tokio::spawn(mirror.run());

    let put = |key: &str, zone: &str, weight: u32| {
        TxnOp::put(key, format!(r#"{{"zone":"{zone}","weight":{weight}}}"#), None)
    };
    let steps = [
        vec![put("/backends/a", "north", 3), put("/backends/b", "north", 4)],
        // One transaction moves two backends: nobody ever sees the weight in both zones, or in none.
        vec![put("/backends/a", "south", 3), put("/backends/b", "south", 4)],
        vec![TxnOp::delete("/backends/a", None)],
    ];
    for operations in steps {
        let done = client.txn(Txn::new().and_then(operations)).await?;
        ks.wait_for_revision(done.header().ok_or("a response without a header")?).await?;
        println!("north {}, south {}", weight(&ks, &zones, "north"), weight(&ks, &zones, "south"));
    }
    ks.shutdown().await;
    Ok(())
}
