//! Recipes for what old servers do wrong, run against whatever server `$ETCD` names.
//!
//! Owns the recipes; each ends with the comparison of the whole key space with etcd, which must
//! hold on every version. Must not ask a server for its bug: on a fixed one a recipe is only rough.
//! A watch that begins at a compacted deletion (F4) is in `faults`. `tools/etcd.sh` has servers.

mod support;

#[path = "old_servers/terms.rs"]
mod terms;

use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Permission, WatchOptions};
use etcd_keyspace::{Etcd, Revision, Snapshot, State};
use support::real::{Bytes, at, delete, metric, mirror, poll_until, put, reaches, start};
use support::verify::{equals_etcd, was_etcd};
use support::{Cluster, EtcdServer, Proxy, within};
use tokio::task::{JoinHandle, JoinSet};

const MS: Duration = Duration::from_millis(1);

/// Whether a server is of one of these lines, and older than the release of it that brought a fix.
fn is_before(server: &EtcdServer, fixes: [[u32; 3]; 2]) -> bool {
    let numbers = server.version().split(['.', '-']).take(3);
    let version: Vec<u32> = numbers.map(|number| number.parse().unwrap()).collect();
    fixes.iter().any(|fix| version[..2] == fix[..2] && version[2] < fix[2])
}

/// Takes a snapshot whenever the key space says that it is complete through a newer revision, up to
/// `last`. So somebody always waits, and progress is always asked for.
fn claims(ks: &Bytes, last: Revision) -> JoinHandle<Vec<Snapshot<Vec<u8>>>> {
    let ks = ks.clone();
    tokio::spawn(async move {
        let mut claims = Vec::new();
        let mut next = ks.read().confirmed() + 1;
        while next <= last {
            ks.wait_for_revision(next).await.unwrap();
            let view = ks.snapshot();
            next = view.confirmed() + 1;
            claims.push(view);
        }
        claims
    })
}

/// B28, C2: until 3.4.24 and 3.5.7 a server says that the watch has got everything before it sends
/// the first event of a backlog.
#[tokio::test]
async fn f2_b28_no_wait_ends_before_the_backlog_it_waits_for_has_come() {
    let server = EtcdServer::start().await.unwrap();
    let proxy = Proxy::start(&server.endpoint()).await.unwrap();
    let mut client = server.client().await;
    let ks = start(proxy.endpoint(), "/k/").await;
    for round in 0..3 {
        proxy.cut().await;
        for i in 0..2500 {
            let key = format!("/k/{}", i * 7 % 300);
            match i % 5 {
                0 => drop(delete(&mut client, key).await),
                _ => drop(put(&mut client, key, format!("{round} {i}")).await),
            }
        }
        // Only progress can tell of this one.
        let last = put(&mut client, "/beside", "").await;
        let claims = claims(&ks, last);
        proxy.pass().await;
        for view in within("the wait ends", claims).await.unwrap() {
            was_etcd(&view, &mut client, "/k/").await;
        }
    }
    equals_etcd(&ks, &mut client, "/k/").await;
    let counters = ks.status().counters;
    assert_eq!((counters.loads, counters.discontinuities), (1, 0), "{counters:?}");
}

/// B23: in 3.5.0 to 3.5.5 a refused watcher silences the first one of its stream for ever. What
/// somebody else does on the same client does not reach the mirror.
#[tokio::test]
async fn f35_b23_a_refused_watcher_beside_the_mirror_does_not_silence_it() {
    let server = EtcdServer::start().await.unwrap();
    let mut root = server.client().await;
    for (user, role) in [("root", "root"), ("reader", "reads")] {
        root.role_add(role).await.unwrap();
        root.user_add(user, "secret", None).await.unwrap();
        root.user_grant_role(user, role).await.unwrap();
    }
    let rights = Permission::read("/k/").with_prefix();
    root.role_grant_permission("reads", rights).await.unwrap();
    root.auth_enable().await.unwrap();
    let user = |name| Some(ConnectOptions::new().with_user(name, "secret"));
    let mut root = Client::connect([server.endpoint()], user("root")).await.unwrap();
    let mut client = Client::connect([server.endpoint()], user("reader")).await.unwrap();

    let ks = mirror("/k/").start(Etcd::from(client.clone())).await.unwrap();
    let options = Some(WatchOptions::new().with_prefix());
    let mut beside = client.watch("/k/", options.clone()).await.unwrap();
    assert!(within("created", beside.message()).await.unwrap().unwrap().created());
    beside.watch("/not-mine/", options).await.unwrap();
    let refused = within("refused", beside.message()).await.unwrap().unwrap();
    assert!(refused.canceled(), "{refused:?}");
    for i in 0..3 {
        put(&mut root, format!("/k/{i}"), "").await;
        equals_etcd(&ks, &mut root, "/k/").await;
    }
    let heard = tokio::time::timeout(500 * MS, beside.message()).await.is_ok();
    assert!(heard || is_before(&server, [[3, 4, 22], [3, 5, 6]]), "the recipe is wrong");
    let counters = ks.status().counters;
    assert_eq!((counters.watches, counters.failures), (1, 0), "{counters:?}");
}

/// B9, B13: until 3.4.30 and 3.5.12 a watch that is read slowly skips what is compacted before it
/// was sent, and says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f40_b9_what_a_slow_watch_skips_by_a_compaction_is_read_again() {
    const KEYS: usize = 10;
    let server = EtcdServer::builder().arg("--max-request-bytes=10485760").start().await.unwrap();
    let proxy = Proxy::start(&server.endpoint()).await.unwrap();
    let mut client = server.client().await;
    put(&mut client, "/k/other", "").await;
    let ks = start(proxy.endpoint(), "/k/").await;
    within("a sync", ks.sync()).await.unwrap();

    // Behind the first large event the 128 places of the server's queue fill up. Each large one is
    // two windows of the stream, so several turns of a long way: while it leaves, there is room for
    // one more. A server with the bug wants to tell of the compaction, finds no room, and forgets.
    proxy.stall().await;
    for _ in 0..6 {
        put(&mut client, "/k/large", "v".repeat(4 << 20)).await;
    }
    let mut rev = 0;
    for i in 0..160 {
        rev = put(&mut client, format!("/k/{}", i % KEYS), "").await;
    }
    client.compact(rev, None).await.unwrap();
    proxy.delay(150 * MS).await;
    let more = |bytes: &u64| *bytes > 14 << 20;
    poll_until("large events leave", || proxy.bytes_down(), more).await;
    let view = ks.snapshot();
    assert!(view.confirmed() < rev, "the watch is slow: {view:?}");
    proxy.pass().await;

    put(&mut client, "/k/other", "touched").await;
    // With that event such a server is past the gap, and no count tells an unseen change of a key.
    if !is_before(&server, [[3, 4, 31], [3, 5, 13]]) {
        equals_etcd(&ks, &mut client, "/k/").await;
    }
    for i in 0..KEYS {
        put(&mut client, format!("/k/{i}"), "touched").await;
    }
    equals_etcd(&ks, &mut client, "/k/").await;
    reaches(&ks, State::Live).await;
    let counters = ks.status().counters;
    println!("etcd {}: {counters:?}", server.version());
    assert!(counters.loads >= 2, "nothing was skipped: {counters:?}");
}

/// A cluster whose leader forgets its log soon, and how many writes of four writers are too many for
/// it: more than it keeps for members that lag, and has under way to one of them (512 messages, each
/// with an entry of every writer at most).
async fn forgetful(args: &[&str]) -> (Cluster, usize) {
    let (few, many) = (250, 1900);
    let (flag, writes) = match EtcdServer::start().await.unwrap().version() {
        // Without an option for it, 5,000 entries are kept.
        old if old.starts_with("3.4.") => (None, many),
        old if old.starts_with("3.5.") => (Some("--experimental-snapshot-catchup-entries=10"), few),
        _ => (Some("--snapshot-catchup-entries=10"), few),
    };
    let builder = EtcdServer::builder().arg("--snapshot-count=50").args(flag);
    let builder = builder.args(args.iter().copied());
    (builder.cluster(3).await.unwrap(), writes)
}

/// Four writers' writes, some of them under `/busy/`; the last revision.
async fn outrun(client: &Client, writes: usize) -> Revision {
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let mut client = client.clone();
        writers.spawn(async move {
            let mut last = 0;
            for i in 0..writes {
                let key = format!("/busy/{}", (writer * 7 + i) % 40);
                last = match i % 12 {
                    0 => delete(&mut client, key).await,
                    4 | 8 => put(&mut client, key, "x").await,
                    _ => put(&mut client, "/beside", "x").await,
                };
            }
            last
        });
    }
    let mut last = 0;
    while let Some(done) = writers.join_next().await {
        last = last.max(done.unwrap());
    }
    last
}

/// A member that missed too much is sent a snapshot. Until 3.4.24 and 3.5.7 its watchers are then
/// told again what they know; until 3.4.37, 3.5.21 and 3.6.1 some are told of the past.
async fn outrun_and_resume(compact: bool) {
    let (cluster, writes) = forgetful(&[]).await;
    let leader = cluster.leader().await.expect("a ready cluster has a leader");
    let member = &cluster.members()[(leader + 1) % 3];
    let mut client = cluster.members()[leader].client().await;
    put(&mut client, "/quiet/7", "x").await;
    // The first two do not notice the pause and keep their watch; the third tries again and again.
    let minute = Duration::from_secs(60);
    let patient = |prefix| mirror(prefix).check_interval(minute).request_timeout(minute);
    let hasty = mirror("/busy/").check_interval(200 * MS).request_timeout(500 * MS);
    let mut all = Vec::new();
    for (builder, prefix) in
        [(patient("/quiet/"), "/quiet/"), (patient("/busy/"), "/busy/"), (hasty, "/busy/")]
    {
        all.push((builder.start(at(member.endpoint())).await.unwrap(), prefix));
    }
    // The first round lets each watch catch up, so that the second is sent as it is written.
    for round in 0..2 {
        for i in 0..40 {
            put(&mut client, format!("/quiet/{}", i % 7), "x").await;
            put(&mut client, format!("/busy/{i}"), "x").await;
        }
        let known = delete(&mut client, format!("/quiet/{round}")).await;
        for (ks, _) in &all {
            within("it follows", ks.wait_for_revision(known)).await.unwrap();
        }
    }

    member.pause();
    let last = outrun(&client, writes).await;
    if compact {
        client.compact(last, None).await.unwrap();
    }
    let claims: Vec<_> = all.iter().map(|(ks, _)| claims(ks, last)).collect();
    reaches(&all[2].0, State::Reconnecting).await;
    member.resume();
    for ((ks, prefix), claims) in all.iter().zip(claims) {
        let claims = within("it catches up", claims).await.unwrap();
        // What was compacted cannot be read any more.
        for view in claims.iter().filter(|_| !compact) {
            was_etcd(view, &mut client, prefix).await;
        }
        equals_etcd(ks, &mut client, prefix).await;
        // This comes after whatever is told again.
        put(&mut client, format!("{prefix}after"), "x").await;
        equals_etcd(ks, &mut client, prefix).await;
        let (counters, epoch) = (ks.status().counters, ks.status().epoch);
        println!("etcd {}, compacted {compact}: {prefix} {counters:?}", member.version());
        assert_eq!((epoch, counters.discontinuities), (1, 0), "{counters:?}");
        assert!(counters.loads == 1 || compact, "{counters:?}");
    }
    let snapshots = metric(member, "etcd_network_snapshot_receive_success").await;
    assert!(snapshots >= 1, "the member was not sent a snapshot");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f38_b7_a_member_that_is_sent_a_snapshot_is_followed_on_without_a_reload() {
    outrun_and_resume(false).await;
}

/// F39: what was missed is compacted; watchers that missed nothing may be told so too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f38_f39_a_member_that_is_sent_a_compacted_snapshot_is_followed_on() {
    outrun_and_resume(true).await;
}
