//! Ids and raft terms of stores that were restored or wiped: they are no proof of a history.

use super::*;

/// Header of a linearizable read; `ids` are those of cluster and member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    ids: (u64, u64),
    revision: i64,
    term: u64,
}

async fn answer(server: &EtcdServer) -> Answer {
    let read = server.client().await.get("/k/0", None).await.expect("a linearizable read");
    let header = read.header().expect("an answer has a header");
    let ids = (header.cluster_id(), header.member_id());
    Answer { ids, revision: header.revision(), term: header.raft_term() }
}

/// H42: each start of a single member is an election, so a restored store reaches and passes every
/// term that the lost history had. Only its first start after the restore shows a lower one.
#[tokio::test]
async fn h42_restored_stores_keep_their_ids_and_reach_any_term() {
    let server = EtcdServer::start().await.unwrap();
    let mut client = server.client().await;
    put(&mut client, "/k/0", "backed up").await;
    let fresh = answer(&server).await;
    server.terminate().await;
    let aside = tempfile::tempdir().unwrap();
    history::copy(server.data_dir(), &aside.path().join("data"));
    for _ in 0..2 {
        server.restart().await.unwrap();
    }
    put(&mut server.client().await, "/k/0", "lost").await;
    let lost = answer(&server).await;
    assert_eq!(
        (lost.ids, lost.revision, lost.term),
        (fresh.ids, fresh.revision + 1, fresh.term + 2)
    );

    server.kill();
    std::fs::remove_dir_all(server.data_dir()).unwrap();
    history::copy(&aside.path().join("data"), server.data_dir());
    let mut terms = Vec::new();
    for _ in 0..3 {
        server.restart().await.unwrap();
        let restored = answer(&server).await;
        assert_eq!((restored.ids, restored.revision), (fresh.ids, fresh.revision));
        terms.push(restored.term);
    }
    assert_eq!(terms, [lost.term - 1, lost.term, lost.term + 1], "lower, equal, higher");
}

/// H42: ids come from the flags, and every new store begins in the same term.
#[tokio::test]
async fn h42_a_wiped_store_keeps_its_ids_and_its_first_term() {
    let server = EtcdServer::start().await.unwrap();
    put(&mut server.client().await, "/k/0", "one").await;
    let before = answer(&server).await;
    server.kill();
    std::fs::remove_dir_all(server.data_dir()).unwrap();
    server.restart().await.unwrap();
    put(&mut server.client().await, "/k/0", "other").await;
    assert_eq!(answer(&server).await, before, "another value under the same numbers");
}
