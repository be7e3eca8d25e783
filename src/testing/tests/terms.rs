//! Raft terms rise with elections and begin again with a new store; answers show what their member knows.

use super::super::{Bug, FakeEtcd, Op};
use super::*;
use crate::model::Header;

fn all() -> RangeRequest {
    RangeRequest::new(KeyRange::all())
}

async fn header_at(etcd: &FakeEtcd, endpoint: usize) -> Header {
    let connection = etcd.connect(endpoint).await.unwrap();
    connection.range(all()).await.unwrap().header.unwrap()
}

async fn term(etcd: &FakeEtcd) -> u64 {
    header_at(etcd, 0).await.raft_term
}

#[tokio::test(start_paused = true)]
async fn h30_answers_of_every_kind_carry_the_term() {
    let etcd = FakeEtcd::new();
    let mut stream = watch(&etcd, "", 1).await;
    let created = next(&mut stream).await.header.unwrap();
    etcd.faults().elect_leader();
    etcd.put("k", "");
    let events = next(&mut stream).await.header.unwrap();
    assert!(stream.request_progress());
    let progress = next(&mut stream).await.header.unwrap();
    assert_eq!([created, events, progress].map(|header| header.raft_term), [2, 3, 3]);
    let mut read = connect(&etcd).await.range_stream(&KeyRange::all()).await.unwrap();
    let last = chunk(&mut read).await.unwrap().unwrap();
    assert_eq!(last.header, Some(etcd.header()));
    assert_eq!(header_at(&etcd, 0).await, etcd.header());
}

#[tokio::test(start_paused = true)]
async fn h30_the_term_rises_with_each_election_and_by_nothing_else() {
    let etcd = FakeEtcd::new().with_endpoints(3);
    let faults = etcd.faults();
    assert_eq!(term(&etcd).await, 2);
    faults.elect_leader();
    assert_eq!(term(&etcd).await, 3, "once for all endpoints");
    faults.lose_leader();
    faults.heal();
    assert_eq!(term(&etcd).await, 4);
    faults.down();
    faults.up();
    assert_eq!(term(&etcd).await, 5, "the whole cluster started again");
    etcd.faults_at(2).down();
    etcd.faults_at(2).up();
    faults.cut();
    faults.stall();
    faults.heal();
    assert_eq!(term(&etcd).await, 5, "a follower started again");
    etcd.faults_at(0).down();
    assert_eq!(header_at(&etcd, 1).await.raft_term, 6, "the leader went away");
    etcd.faults_at(0).up();
    assert_eq!(term(&etcd).await, 6);
}

#[tokio::test(start_paused = true)]
async fn h30_a_lagging_member_shows_the_term_that_it_knows() {
    let etcd = FakeEtcd::new().with_endpoints(2);
    etcd.faults().bug(Bug::StaleReads, true);
    let revision = etcd.revision();
    etcd.faults_at(1).hold_back();
    etcd.put("k", "");
    etcd.faults().elect_leader();
    let lagging = header_at(&etcd, 1).await;
    assert_eq!((lagging.revision, lagging.raft_term), (revision, 2));
    assert_eq!(term(&etcd).await, 3);
    etcd.faults_at(1).catch_up();
    let there = header_at(&etcd, 1).await;
    assert_eq!((there.revision, there.raft_term), (revision + 1, 3));
}

#[tokio::test(start_paused = true)]
async fn h30_one_answer_after_an_election_may_show_the_old_term() {
    let etcd = FakeEtcd::new();
    etcd.faults().late_term();
    assert_eq!(term(&etcd).await, 2);
    etcd.faults().elect_leader();
    let revision = etcd.put("k", "");
    let late = header_at(&etcd, 0).await;
    assert_eq!((late.revision, late.raft_term), (revision, 2));
    assert_eq!([term(&etcd).await, term(&etcd).await], [3, 3]);
    etcd.faults().heal();
    etcd.faults().elect_leader();
    assert_eq!(term(&etcd).await, 4);
}

#[tokio::test(start_paused = true)]
async fn h30_a_proxy_makes_headers_up_without_ids_and_term() {
    let etcd = FakeEtcd::new();
    etcd.faults().proxy();
    let mut first = watch(&etcd, "", 2).await;
    assert_eq!(next(&mut first).await.header, Some(etcd.header()));
    let mut second = watch(&etcd, "", 2).await;
    let made_up = Header { revision: 2, ..Header::default() };
    assert_eq!(next(&mut second).await.header, Some(made_up));
    let revision = etcd.put("k", "");
    for stream in [&mut first, &mut second] {
        assert_eq!(next(stream).await.header, Some(etcd.header()));
    }
    let (mut behind, mut other) = (watch(&etcd, "", revision).await, watch(&etcd, "k", 4).await);
    for stream in [&mut behind, &mut other] {
        let header = next(stream).await.header;
        assert_eq!(header, Some(etcd.header()), "a watch that the proxy opens anew");
    }
    assert_eq!(header_at(&etcd, 0).await, etcd.header(), "reads pass through");
    etcd.faults().cut();
    let mut anew = watch(&etcd, "", 4).await;
    assert_eq!(next(&mut anew).await.header, Some(etcd.header()), "the joined ones are dead");
}

#[tokio::test(start_paused = true)]
async fn h31_a_restored_store_begins_at_a_low_term() {
    let etcd = FakeEtcd::new();
    for _ in 0..5 {
        etcd.faults().elect_leader();
        etcd.put("k", "");
    }
    assert_eq!(term(&etcd).await, 7);
    etcd.restore(3);
    assert_eq!(term(&etcd).await, 2);
    etcd.restore_at_term(2, 9);
    assert_eq!(etcd.header(), header_at(&etcd, 0).await);
    assert_eq!((etcd.header().revision, term(&etcd).await), (2, 9));
    etcd.restore_bumped(2, 100);
    assert_eq!((etcd.header().revision, term(&etcd).await), (102, 2));
    etcd.faults().down();
    etcd.restore_at_term(2, 5);
    etcd.faults().up();
    assert_eq!(term(&etcd).await, 5, "that start held the store's own election");
    etcd.faults().elect_leader();
    assert_eq!(term(&etcd).await, 6);
}

#[tokio::test(start_paused = true)]
async fn h31_a_wiped_store_is_another_one_under_the_same_ids() {
    let etcd = FakeEtcd::new();
    let seed = || (0..3_u8).map(|key| Op::put([key], "seed"));
    let first = etcd.txn(seed());
    let lease = etcd.grant_lease();
    etcd.txn([Op::put_leased("l", "", lease)]);
    etcd.compact(first);
    etcd.faults().elect_leader();
    let before = etcd.header();
    let mut stream = created(&etcd, "", 2).await;
    etcd.wipe();
    failed(try_next(&mut stream).await.unwrap(), SourceErrorKind::Unavailable);
    assert_eq!(etcd.header(), Header { revision: 1, raft_term: 2, ..before });
    assert_eq!((read(&etcd, all()).await.unwrap().count, etcd.compacted()), (0, 0));
    assert_eq!(etcd.history(&KeyRange::all(), 0), []);
    assert_eq!(etcd.txn(seed()), first, "the same script makes the same numbers");
    assert_ne!(etcd.grant_lease(), lease);
}

#[test]
#[should_panic(expected = "requested lease not found")]
fn h31_leases_are_gone_with_a_wiped_store() {
    let etcd = FakeEtcd::new();
    let lease = etcd.grant_lease();
    etcd.wipe();
    etcd.revoke_lease(lease);
}

#[test]
#[should_panic(expected = "no cluster has the term zero")]
fn h31_no_store_is_restored_at_the_term_zero() {
    FakeEtcd::new().restore_at_term(1, 0);
}
