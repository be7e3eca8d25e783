//! Headers in the answers of learners and gRPC proxies.

use etcd_client::{Client, GetOptions, ResponseHeader, WatchOptions, WatchStream};

use super::MS;
use super::support::real::{put, revision};
use super::support::{Cluster, EtcdServer, GrpcProxy, within};

/// Cluster, member, revision and term.
fn numbers(header: Option<&ResponseHeader>) -> (u64, u64, i64, u64) {
    let header = header.expect("an answer has a header");
    (header.cluster_id(), header.member_id(), header.revision(), header.raft_term())
}

/// H44: a learner answers serializable reads only, under the cluster's id and the term it has applied.
#[tokio::test]
async fn h44_a_learner_answers_no_linearizable_read() {
    let cluster = Cluster::start(1).await.unwrap();
    let mut client = cluster.client().await;
    put(&mut client, "/k/0", "").await;
    let learner = EtcdServer::builder().learner_of(&cluster).await.unwrap();
    let mut asked = learner.client().await;
    let refusals = [
        asked.get("/k/0", None).await.map(drop),
        asked.put("/k/0", "", None).await.map(drop),
        asked.watch("/k/0", None).await.map(drop),
    ];
    for refusal in refusals {
        let error = refusal.unwrap_err().to_string();
        assert!(error.contains("not supported for learner"), "{error}");
    }
    let (cluster_id, voter, revision, term) =
        numbers(client.get("/k/0", None).await.unwrap().header());
    let caught_up = async {
        loop {
            let past = Some(GetOptions::new().with_serializable());
            let shown = numbers(asked.get("/k/0", past).await.unwrap().header());
            assert!(shown.0 == cluster_id && shown.1 != voter && shown.3 <= term, "{shown:?}");
            if (shown.2, shown.3) == (revision, term) {
                return;
            }
            tokio::time::sleep(5 * MS).await;
        }
    };
    within("the learner catches up", caught_up).await;
}

/// A watch of `/k/0` from `start` on, and the header of its `created`.
async fn watch(proxy: &GrpcProxy, start: i64) -> (WatchStream, (u64, u64, i64, u64)) {
    let mut client = Client::connect([proxy.endpoint()], None).await.unwrap();
    let options = WatchOptions::new().with_start_revision(start);
    let mut watch = client.watch("/k/0", Some(options)).await.unwrap();
    let created = within("created", watch.message()).await.unwrap().unwrap();
    assert!(created.created(), "{created:?}");
    (watch, numbers(created.header()))
}

/// H45: headers pass the proxy, but for the `created` of a watch that joins another one: it carries
/// no ids, no term, and a revision that is still to come. Linearizable reads pass the proxy's cache.
#[tokio::test]
async fn h45_a_proxy_makes_up_headers_of_watches_only() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    put(&mut client, "/k/0", "0").await;
    let proxy = GrpcProxy::start(&[server.endpoint()]).await.unwrap();
    let mut through = Client::connect([proxy.endpoint()], None).await.unwrap();
    let past = || Some(GetOptions::new().with_serializable());
    for round in 0..50 {
        let value = round.to_string();
        put(&mut client, "/k/0", &value).await;
        let direct = numbers(client.get("/k/0", None).await.unwrap().header());
        let read = through.get("/k/0", None).await.unwrap();
        assert_eq!((read.kvs()[0].value(), numbers(read.header())), (value.as_bytes(), direct));
        // The cache has it now, and keeps it when others write.
        put(&mut client, "/k/0", "newer").await;
        let cached = through.get("/k/0", past()).await.unwrap();
        assert_eq!((cached.kvs()[0].value(), numbers(cached.header())), (value.as_bytes(), direct));
    }
    let (id, member, _, term) = numbers(client.get("/k/0", None).await.unwrap().header());
    let written = numbers(through.put("/k/0", "", None).await.unwrap().header());
    let now = revision(&mut client).await;
    assert_eq!(written, (id, member, now, term));

    let (mut first, created) = watch(&proxy, now + 1).await;
    assert_eq!(created, (id, member, now, term), "etcd's own");
    let (mut second, created) = watch(&proxy, now + 1).await;
    assert_eq!(created, (0, 0, now + 1, 0), "made up");
    let last = put(&mut client, "/k/0", "").await;
    for watch in [&mut first, &mut second] {
        let event = within("an event", watch.message()).await.unwrap().unwrap();
        assert_eq!(numbers(event.header()), (id, member, last, term));
    }
}
