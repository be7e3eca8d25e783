//! Raft terms and revisions in the answers of a cluster.
//!
//! The search for another history relies on these facts, so they must hold on every version.

use super::support::real::put_in_the_end;
use super::*;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use etcd_client::{Compare, CompareOp, GetResponse, Txn, TxnOp};
use etcd_keyspace::{EtcdOptions, Status};
use parking_lot::Mutex;

/// Revision and raft term of an answer.
type Seen = (Revision, u64);

/// Short elections; and a member that returns does not begin one.
const QUICK: [&str; 3] = ["--heartbeat-interval=50", "--election-timeout=500", "--pre-vote=true"];

/// The longest time that one request may take: an election does not answer what it interrupted.
const REQUEST: Duration = Duration::from_secs(2);

fn seen(answer: &GetResponse) -> Seen {
    let header = answer.header().expect("an answer has a header");
    (header.revision(), header.raft_term())
}

/// A linearizable read of one member, or `None` if that member does not answer it now.
async fn linearizable(client: &mut Client) -> Option<Seen> {
    let read = tokio::time::timeout(REQUEST, client.get("/k/0", None)).await;
    read.ok()?.ok().as_ref().map(seen)
}

/// Reads until the member answers.
async fn first_answer(client: &mut Client) -> Seen {
    let read = async {
        loop {
            match linearizable(client).await {
                Some(seen) => return seen,
                None => tokio::time::sleep(5 * MS).await,
            }
        }
    };
    within("a linearizable read", read).await
}

/// The first linearizable answer of these members whose term is above `term`.
async fn elected(members: &[&EtcdServer], term: u64) -> Seen {
    let mut clients = Vec::new();
    for member in members {
        clients.push(member.client().await);
    }
    let read = async {
        loop {
            for client in &mut clients {
                match linearizable(client).await {
                    Some(seen) if seen.1 > term => return seen,
                    _ => tokio::time::sleep(5 * MS).await,
                }
            }
        }
    };
    within("an election", read).await
}

/// The index of the leader.
async fn leader(cluster: &Cluster) -> usize {
    let found = async {
        loop {
            match cluster.leader().await {
                Some(leader) => return leader,
                None => tokio::time::sleep(5 * MS).await,
            }
        }
    };
    within("a leader", found).await
}

async fn restart_all(cluster: &Cluster) {
    cluster.members().iter().for_each(EtcdServer::kill);
    let [a, b, c] = cluster.members() else { panic!("three members") };
    let (a, b, c) = tokio::join!(a.restart(), b.restart(), c.restart());
    a.and(b).and(c).unwrap();
}

async fn member_id(member: &EtcdServer) -> u64 {
    let status = member.client().await.status().await.unwrap();
    status.header().expect("an answer has a header").member_id()
}

// ---- Elections ----------------------------------------------------------------------------------

/// The greatest revision and the greatest term of all answers so far.
#[derive(Debug, Default)]
struct Highest {
    seen: Mutex<Seen>,
    stop: AtomicBool,
}

impl Highest {
    fn get(&self) -> Seen {
        *self.seen.lock()
    }

    fn add(&self, (revision, term): Seen) {
        let mut seen = self.seen.lock();
        *seen = (seen.0.max(revision), seen.1.max(term));
    }

    /// Reads from one member until stopped; the number of answers. An answer may show the term
    /// before an election once, as a member sets its applied index before its term.
    async fn read(self: Arc<Self>, mut client: Client) -> usize {
        let mut answers = 0;
        let mut lower = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let before = self.get();
            let Some(seen) = linearizable(&mut client).await else { continue };
            answers += 1;
            assert!(seen.1 > 0, "a linearizable answer without a term: {seen:?}");
            assert!(seen.0 >= before.0, "{seen:?} after {before:?}");
            lower = if seen.1 < before.1 { lower + 1 } else { 0 };
            assert!(lower < 2, "{seen:?} twice after {before:?}");
            self.add(seen);
        }
        answers
    }

    /// Writes through one member until stopped; the number of writes that were acknowledged.
    async fn write(self: Arc<Self>, mut client: Client) -> usize {
        let mut writes = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let before = self.get();
            let put = tokio::time::timeout(REQUEST, client.put("/k/0", "", None)).await;
            if let Ok(Ok(put)) = put {
                let header = put.header().expect("an answer has a header");
                let seen = (header.revision(), header.raft_term());
                assert!(seen.0 > before.0 && seen.1 >= before.1, "{seen:?} after {before:?}");
                self.add(seen);
                writes += 1;
            }
            tokio::time::sleep(5 * MS).await;
        }
        writes
    }
}

/// H40: the leader stops, hands over and dies, a follower dies, and all members die.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h40_terms_and_revisions_never_go_back_in_elections() {
    let args = ["--heartbeat-interval=20", "--election-timeout=200"];
    let cluster = EtcdServer::builder().args(args).cluster(3).await.unwrap();
    let highest = Arc::new(Highest::default());
    let (mut readers, mut writers) = (JoinSet::new(), JoinSet::new());
    for member in cluster.members() {
        readers.spawn(Arc::clone(&highest).read(member.client().await));
        writers.spawn(Arc::clone(&highest).write(member.client().await));
    }
    for fault in (0..2).flat_map(|_| 0..5) {
        let index = leader(&cluster).await;
        let (first, next) = (&cluster.members()[index], &cluster.members()[(index + 1) % 3]);
        let others = [next, &cluster.members()[(index + 2) % 3]];
        let term = highest.get().1;
        match fault {
            0 => {
                first.pause();
                elected(&others, term).await;
                first.resume();
            }
            1 => {
                let target = member_id(next).await;
                // If it leads no longer, this round has no fault.
                let _ = first.client().await.move_leader(target).await;
            }
            2 => {
                first.kill();
                elected(&others, term).await;
                first.restart().await.unwrap();
            }
            3 => next.restart().await.unwrap(),
            _ => restart_all(&cluster).await,
        }
        elected(&[first], term.saturating_sub(1)).await;
    }
    let (_, term) = highest.get();
    highest.stop.store(true, Ordering::Relaxed);
    let reads: usize = readers.join_all().await.into_iter().sum();
    let writes: usize = writers.join_all().await.into_iter().sum();
    println!(
        "etcd {}: {reads} reads, {writes} writes, term {term}",
        cluster.members()[0].version()
    );
    assert!(reads > 100 && writes > 10 && term >= 6, "{reads} reads, {writes} writes, {term}");
}

// ---- Members that lag ---------------------------------------------------------------------------

/// H43: a member that was stopped while the leader changed and its log was outrun. The read is sent
/// before the member runs again, and answered as soon as it can be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h43_linearizable_reads_of_a_lagging_member_are_current() {
    let (cluster, writes) = forgetful(&QUICK).await;
    let index = leader(&cluster).await;
    let [first, lagging, next] = [0, 1, 2].map(|i| &cluster.members()[(index + i) % 3]);
    let mut client = first.client().await;
    put(&mut client, "/k/0", "").await;
    let mut reader = lagging.client().await;
    let old = linearizable(&mut reader).await.expect("a linearizable read");

    lagging.pause();
    client.move_leader(member_id(next).await).await.unwrap();
    let (_, term) = elected(&[first, next], old.1).await;
    let last = outrun(&next.client().await, writes).await;
    let read = tokio::spawn(async move { first_answer(&mut reader).await });
    let begun = Instant::now();
    lagging.resume();
    let seen = read.await.unwrap();
    println!("etcd {}: {seen:?} after {:?}", lagging.version(), begun.elapsed());
    assert!(seen.0 >= last && seen.1 >= old.1 && seen.1 <= term, "{seen:?} after {last}, {term}");
}

/// Puts a proxy before the peer port of each member, through which the others reach it.
async fn proxied_peers(cluster: &Cluster) -> Vec<Proxy> {
    let mut client = cluster.client().await;
    let list = client.member_list().await.unwrap();
    let mut proxies = Vec::new();
    for member in cluster.members() {
        let id = member_id(member).await;
        let url = list.members().iter().find(|listed| listed.id() == id).unwrap().peer_urls();
        let proxy = Proxy::start(&url[0]).await.unwrap();
        client.member_update(id, [proxy.endpoint()]).await.unwrap();
        proxies.push(proxy);
    }
    // Open connections do not pass the proxies, and neither do those that a starting member opens when it
    // replays how the members were before: writes make a snapshot of the log, which spares it that.
    for _ in 0..100 {
        put_in_the_end(&mut client, "/k/0", "").await;
    }
    restart_all(cluster).await;
    proxies
}

/// Makes the leader, one of two members, hand over to the other one.
async fn hand_over([one, two]: [&EtcdServer; 2]) {
    let mut ways = Vec::new();
    for (from, to) in [(one, two), (two, one)] {
        ways.push((from.client().await, member_id(to).await));
    }
    let moved = async {
        loop {
            for (from, to) in &mut ways {
                let moved = tokio::time::timeout(REQUEST, from.move_leader(*to)).await;
                if matches!(moved, Ok(Ok(_))) {
                    return;
                }
            }
            tokio::time::sleep(20 * MS).await;
        }
    };
    within("the leader hands over", moved).await;
}

/// Cuts a member off from its peers, changes the leader, writes more than the log keeps, and lets the
/// member return. The revision and the term of the others.
async fn outrun_in_a_new_term(
    cluster: &Cluster,
    peers: &[Proxy],
    [first, lagging, next]: [usize; 3],
    writes: usize,
) -> Seen {
    let members = cluster.members();
    let others = [&members[first], &members[next]];
    let before = elected(&others, 0).await.1;
    for proxy in peers {
        proxy.cut().await;
    }
    members[lagging].pause();
    peers[first].pass().await;
    peers[next].pass().await;
    hand_over(others).await;
    let (_, term) = elected(&others, before).await;
    let last = outrun(&members[first].client().await, writes).await;
    peers[lagging].pass().await;
    members[lagging].resume();
    (last, term)
}

/// H41: a member is cut off while the leader changes, and the leader sends it a snapshot. A snapshot
/// does not set the term of headers, so linearizable answers carry the old term until the next write.
/// A mirror that knows the new term and moves to that member stays in its history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h41_after_a_snapshot_a_member_shows_an_old_term_until_a_write() {
    let (cluster, writes) = forgetful(&QUICK).await;
    let peers = proxied_peers(&cluster).await;
    let leader = leader(&cluster).await;
    let places = [leader, (leader + 1) % 3, (leader + 2) % 3];
    let [first, lagging] = [places[0], places[1]].map(|place| &cluster.members()[place]);
    let mut client = first.client().await;
    put(&mut client, "/busy/0", "x").await;
    let to_first = Proxy::start(&first.endpoint()).await.unwrap();
    let to_lagging = Proxy::start(&lagging.endpoint()).await.unwrap();
    to_lagging.cut().await;
    let etcd = Etcd::new([to_first.endpoint(), to_lagging.endpoint()], EtcdOptions::new());
    let builder = mirror("/busy/").check_interval(200 * MS).request_timeout(REQUEST);
    let ks = within("the start", builder.start(etcd)).await.unwrap();
    let mut reader = lagging.client().await;
    let (_, old) = elected(&[lagging], 0).await;

    let (last, term) = outrun_in_a_new_term(&cluster, &peers, places, writes).await;
    within("the mirror follows", ks.wait_for_revision(last)).await.unwrap();
    let seen = first_answer(&mut reader).await;
    println!("etcd {}: was {old}, is {last} {term}: {seen:?}", lagging.version());
    assert_eq!(seen, (last, old), "current data under the old term");
    assert_eq!(linearizable(&mut reader).await, Some(seen), "asking again does not help");
    assert_eq!(lagging.client().await.status().await.unwrap().raft_term(), old);

    to_first.cut().await;
    to_lagging.pass().await;
    let there = Some(to_lagging.endpoint());
    let live = |status: &Status| status.endpoint == there && status.state == State::Live;
    poll_until("the mirror is live there", || ks.status(), live).await;
    assert!(within("a sync", ks.sync()).await.unwrap() >= last);
    equals_etcd(&ks, &mut client, "/busy/").await;
    let rev = put(&mut client, "/busy/after", "x").await;
    equals_etcd(&ks, &mut client, "/busy/").await;
    let healed = elected(&[lagging], old).await;
    assert!(healed >= (rev, term), "{healed:?}");
    let status = ks.status();
    assert_eq!((status.epoch, status.counters.discontinuities), (1, 0), "{status:?}");
}

// ---- Writes -------------------------------------------------------------------------------------

/// H46: the header of every write names the cluster, its revision and the term, through each member.
#[tokio::test]
async fn h46_headers_of_writes_name_cluster_revision_and_term() {
    let cluster = Cluster::start(3).await.unwrap();
    let mut reader = cluster.client().await;
    let read = reader.get("/k/0", None).await.unwrap();
    let first = read.header().expect("an answer has a header");
    let mut last = first.revision();
    let mut terms = Vec::new();
    for member in cluster.members() {
        let mut client = member.client().await;
        let put = client.put("/k/0", "", None).await.unwrap();
        let ops = [TxnOp::put("/k/1", "", None), TxnOp::put("/k/2", "", None)];
        let txn = client.txn(Txn::new().and_then(ops)).await.unwrap();
        let never = Compare::version("/k/0", CompareOp::Equal, 0);
        let failed = client.txn(Txn::new().when([never])).await.unwrap();
        let deleted = client.delete("/k/1", None).await.unwrap();
        let headers = [put.header(), txn.header(), failed.header(), deleted.header()];
        for (header, revision) in headers.into_iter().zip([1, 2, 2, 3]) {
            let header = header.expect("an answer has a header");
            let got = (header.cluster_id(), header.revision());
            assert_eq!(got, (first.cluster_id(), last + revision));
            terms.push(header.raft_term());
        }
        last += 3;
    }
    assert!(first.cluster_id() != 0 && first.raft_term() != 0, "{first:?}");
    // The same term, unless the leader changed meanwhile.
    let end = linearizable(&mut reader).await.expect("a linearizable read").1;
    assert!(terms.is_sorted() && terms[0] >= first.raft_term(), "{terms:?}, {first:?}");
    assert!(terms[terms.len() - 1] <= end, "{terms:?}, {end}");
}
