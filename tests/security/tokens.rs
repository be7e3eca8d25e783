//! Tokens that expire, and tokens that die with the server that gave them.
//!
//! Owns the refresh: one for each refusal, on the connection that is there, and no load again.

use std::time::Duration;

use etcd_keyspace::{Etcd, EtcdOptions, State};

use super::support::real::{metric, poll_until, put, reaches};
use super::support::{EtcdServer, within};
use super::{Guarded, MS, quick, root_of};

/// What tokens live unused, and more than that.
const TTL: Duration = Duration::from_secs(2);
const EXPIRED: Duration = Duration::from_millis(4_000);

/// How many tokens the server was asked for.
async fn tokens_asked_for(etcd: &Guarded) -> u64 {
    let name = r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Authenticate""#;
    metric(&etcd.server, name).await
}

async fn short_lived() -> Guarded {
    Guarded::new(EtcdServer::builder().arg("--auth-token-ttl=2")).await
}

/// B26, F33, F34: a client of somebody else has one token for its requests and its watches, and
/// refreshes it for none of the watches.
#[tokio::test]
async fn b26_f33_f34_an_expired_token_of_a_shared_client_is_refreshed_once() {
    let mut etcd = short_lived().await;
    let shared = etcd.shared().await;
    // Time that passes is what is tested, here before the start.
    tokio::time::sleep(EXPIRED).await;
    // It does not ask while the token expires.
    let builder = quick().check_interval(Duration::from_secs(30));
    let ks = within("the start", builder.start(shared)).await.unwrap();
    for _ in 0..2 {
        // Time that passes is what is tested.
        tokio::time::sleep(EXPIRED).await;
        let live = put(&mut etcd.root, "/app/live", "x").await;
        within("a live watch outlives its token", ks.wait_for_revision(live)).await.unwrap();
        let before = ks.status().counters;
        let tokens = tokens_asked_for(&etcd).await;
        etcd.proxy.reset().await;
        poll_until("it watches again", || ks.status(), |s| s.counters.watches > before.watches)
            .await;
        let tokens = tokens_asked_for(&etcd).await - tokens;
        assert!((1..=2).contains(&tokens), "{tokens} tokens for one refusal");
        etcd.equal(&ks).await;
        let after = ks.status().counters;
        assert!(after.failures - before.failures <= 3, "one for the cut: {after:?}");
    }
}

/// The same with connections of the mirror's own, whose requests meet the expiry while it is live.
#[tokio::test]
async fn b26_f33_a_token_that_expires_between_two_questions_is_refreshed_in_place() {
    let mut etcd = short_lived().await;
    // Each question comes when the token is gone.
    let builder = quick().check_interval(EXPIRED);
    let ks = within("the start", builder.start(etcd.etcd("reader", "secret"))).await.unwrap();
    let tokens = tokens_asked_for(&etcd).await;
    let watches = || ks.status().counters.watches;
    poll_until("it was refreshed twice", watches, |now| *now == 3).await;
    let tokens = tokens_asked_for(&etcd).await - tokens;
    assert!((4..=5).contains(&tokens), "two for the requests, two for the watches: {tokens}");
    let after = ks.status().counters;
    assert_eq!((after.connects, after.failures), (1, 0), "a refresh is no failure: {after:?}");
    etcd.equal(&ks).await;
    assert_eq!(ks.status().counters.connects, 1);
}

/// Tokens that are not signed die with the server, whether or not a connection survives in front.
#[tokio::test]
async fn b26_a_restart_of_the_server_kills_all_tokens() {
    let mut etcd = Guarded::new(EtcdServer::builder()).await;
    let own = etcd.mirror().await;
    let shared = etcd.mirror_of(etcd.shared().await).await;
    for how in ["killed", "cut off while it restarts"] {
        let before = [&own, &shared].map(|ks| ks.status().counters.connects);
        if how == "killed" {
            etcd.server.kill();
            for ks in [&own, &shared] {
                reaches(ks, State::Reconnecting).await;
            }
        } else {
            etcd.proxy.stall().await;
        }
        etcd.server.restart().await.unwrap();
        etcd.proxy.pass().await;
        etcd.root = root_of(&etcd.server).await;
        for (ks, before) in [&own, &shared].into_iter().zip(before) {
            etcd.equal(ks).await;
            let counters = ks.status().counters;
            assert!(counters.connects - before <= 20, "{how}: {counters:?}");
        }
    }
}

/// A mirror that asks more often than tokens expire keeps its token alive.
#[tokio::test]
async fn b26_a_token_in_use_does_not_expire() {
    let mut etcd = short_lived().await;
    let ks = etcd.mirror().await;
    tokio::time::sleep(3 * TTL).await;
    let counters = ks.status().counters;
    assert_eq!((counters.connects, counters.watches, counters.failures), (1, 1, 0), "{counters:?}");
    // The watch has a token of its own, long expired; a new watch gets a new one.
    etcd.proxy.reset().await;
    poll_until("a new watch", || ks.status().counters.watches, |now| *now > 1).await;
    etcd.equal(&ks).await;
    let options = EtcdOptions::new().user("reader", "secret");
    let other = Etcd::new([etcd.server.endpoint()], options);
    let late = within("the start", quick().start(other)).await.unwrap();
    etcd.equal(&late).await;
    assert!(ks.status().is_fresh(3000 * MS));
}
