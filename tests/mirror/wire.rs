//! Every refusal etcd can send on a watch, and messages no server should send: each is survived, with
//! a clear error or a documented tolerance, and the data is right afterwards.

use etcd_keyspace::{Event, RawKeyValue};

use super::*;

/// What a cancelled watch must lead to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Reopened,
    TokenRefreshed,
    Reloaded,
}
use Outcome::{Reloaded, Reopened, TokenRefreshed};

fn cancel(reason: &str, created: bool, compact_revision: Revision) -> WatchResponse {
    let cancel_reason = reason.to_owned();
    let watch_id = if created { -1 } else { 0 };
    WatchResponse {
        watch_id,
        created,
        canceled: true,
        cancel_reason,
        compact_revision,
        ..WatchResponse::default()
    }
}

/// The table of etcd's cancels (etcd: server/etcdserver/api/v3rpc/watch.go), old servers' included.
#[tokio::test(start_paused = true)]
async fn b25_t7_t8_every_way_to_be_cancelled_leads_to_what_helps() {
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let rows = [
        // Own or unknown cancels.
        (cancel("", false, 0), Reopened),
        (cancel("something new", false, 0), Reopened),
        (cancel("etcdserver: no leader", false, 0), Reopened),
        (cancel("rpc error: code = Unavailable desc = etcdserver: no leader", true, 0), Reopened),
        // Creation refused, with the id of nobody or of an old server's making.
        (cancel("mvcc: duplicate watch ID", true, 0), Reopened),
        (WatchResponse { watch_id: 0, ..cancel("", true, 0) }, Reopened),
        // Compacted: on creating, later, by the text alone, with and without the code before it.
        (cancel("", true, 3), Reloaded),
        (cancel("", false, 3), Reloaded),
        (cancel(compacted, true, 0), Reloaded),
        (cancel(&format!("rpc error: code = OutOfRange desc = {compacted}"), true, 0), Reloaded),
        // Refused for the token, in all the words there are for it.
        (cancel("etcdserver: invalid auth token", true, 0), TokenRefreshed),
        (
            cancel(
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
                true,
                0,
            ),
            TokenRefreshed,
        ),
        (cancel("etcdserver: revision of auth store is old", true, 0), TokenRefreshed),
        (cancel("etcdserver: user name is empty", true, 0), TokenRefreshed),
    ];
    for (row, expected) in rows {
        let etcd = etcd();
        etcd.put("/k/a", "1");
        let ks = start(&etcd).await;
        // An event proves the watch, so that the row is the first failure.
        ks.wait_for_revision(etcd.put("/k/b", "1")).await.unwrap();
        let before = etcd.counts();
        etcd.faults().inject(&row);
        etcd.until(|counts| counts.watches > before.watches).await;
        reaches(&ks, State::Live).await;
        assert_same(&ks, &etcd).await;
        let (counts, counters) = (etcd.counts(), ks.status().counters);
        let outcome = match (counters.loads, counts.token_refreshes) {
            (1, 0) => Reopened,
            (1, 1) => TokenRefreshed,
            (2, 0) => Reloaded,
            other => panic!("{row:?}: {other:?}"),
        };
        assert_eq!(outcome, expected, "{row:?}");
        assert_eq!(counts.watches - before.watches, 1, "{row:?}: at once");
    }
}

fn event(key: &str, revision: Revision) -> Event {
    Event::Put(RawKeyValue {
        key: key.into(),
        value: b"forged".to_vec(),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        lease: 0,
    })
}

#[tokio::test(start_paused = true)]
async fn b30_c11_messages_no_server_should_send_are_survived_with_a_clear_error() {
    let events = |header, events| WatchResponse { header, events, ..WatchResponse::default() };
    let header = |revision, cluster_id| Some(Header { revision, cluster_id, ..Header::default() });
    let probe = etcd();
    let cluster = start(&probe).await.read().cluster_id().unwrap();
    let true_header = header(100, cluster);
    let rows = [
        ("no header", events(None, vec![event("/k/x", 50)])),
        ("outside the range", events(true_header, vec![event("/other", 50)])),
        ("outside, among others", events(true_header, vec![event("/k/x", 50), event("/l", 51)])),
        ("a revision of zero", events(true_header, vec![event("/k/x", 0)])),
        ("a negative revision", events(true_header, vec![event("/k/x", -5)])),
        ("decreasing revisions", events(true_header, vec![event("/k/x", 51), event("/k/y", 50)])),
        ("a header behind its events", events(header(40, cluster), vec![event("/k/x", 50)])),
        ("another cluster", events(header(100, cluster + 1), vec![event("/k/x", 50)])),
        ("progress of another cluster", events(header(100, cluster + 1), Vec::new())),
        (
            "a key deleted that is not there",
            events(true_header, vec![Event::Delete { key: b"/k/x".into(), mod_revision: 50 }]),
        ),
    ];
    for (name, row) in rows {
        let etcd = FakeEtcd::new();
        etcd.set_progress_interval(None);
        etcd.put("/k/a", "1");
        let ks = start(&etcd).await;
        let ours = ks.read().cluster_id().unwrap();
        // The fakes of one seed have one cluster id.
        assert_eq!(ours, cluster);
        ks.wait_for_revision(etcd.put("/k/b", "1")).await.unwrap();
        let seen = Arc::new(Mutex::new(None));
        let steps = count_steps(&ks).load(Ordering::SeqCst);
        let shown = Arc::clone(&seen);
        ks.observe(move |delta, _, _| {
            if delta.iter().any(|change| change.new().is_some_and(|new| new.value() == b"forged")) {
                *shown.lock().unwrap() = Some(format!("{delta:?}"));
            }
        });
        etcd.faults().inject(&row);
        let mut error = None;
        for _ in 0..50 {
            error = ks.status().last_error.or(error);
            tokio::time::sleep(MS).await;
        }
        // Lost history is mended at once, and is told by its counter and in the log.
        match error {
            Some(error) => assert!(error.to_string().len() > 10, "{name}: {error}"),
            None => assert_eq!(ks.status().counters.discontinuities, 1, "{name}: no error"),
        }
        reaches(&ks, State::Live).await;
        ks.wait_for_revision(etcd.put("/k/c", "1")).await.unwrap();
        assert_same(&ks, &etcd).await;
        assert_eq!(*seen.lock().unwrap(), None, "{name}");
        assert!(steps <= 1 && ks.status().counters.connects <= 3, "{name}: {:?}", ks.status());
        assert_eq!(ks.status().epoch, 1, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn b27_rights_are_checked_when_a_watch_opens_and_not_before() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    etcd.faults().deny();
    // F32: a watch that lives goes on after its rights are gone; nothing is promised about that.
    let revision = etcd.put("/k/b", "1");
    assert!(ks.read_at(revision).await.unwrap().contains("/k/b"));
    etcd.faults().cut();
    reaches(&ks, State::Reconnecting).await;
    tokio::time::sleep(5_000 * MS).await;
    let status = ks.status();
    assert!(!status.is_fresh(3_000 * MS), "{status:?}");
    assert!(status.last_error.unwrap().to_string().contains("denied"));
    etcd.faults().grant();
    assert_same(&ks, &etcd).await;
}

/// A confused server or proxy may send messages of watchers that the stream does not have.
#[tokio::test(start_paused = true)]
async fn h75_messages_of_another_watch_id_are_ignored() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    ks.wait_for_revision(etcd.put("/k/b", "1")).await.unwrap();
    let (next, before) = (etcd.revision() + 1, etcd.counts());
    let cluster_id = ks.read().cluster_id().unwrap();
    let header = Some(Header { revision: next, cluster_id, ..Header::default() });
    for watch_id in [-1, 1, 77, i64::MIN] {
        let message = WatchResponse { header, watch_id, ..WatchResponse::default() };
        let events = vec![event("/k/x", next)];
        let lies = [
            WatchResponse { events: events.clone(), ..message.clone() },
            WatchResponse { events, fragment: true, ..message.clone() },
            WatchResponse { created: true, ..message },
        ];
        for lie in lies {
            etcd.faults().inject(&lie);
            tokio::time::sleep(100 * MS).await;
            assert!(!ks.read().contains("/k/x"), "{lie:?}");
        }
    }
    assert_same(&ks, &etcd).await;
    assert_eq!(etcd.counts().watches, before.watches);
    assert_eq!(ks.status().counters.failures, 0);
}

/// Whatever comes for others does not show that our watch lives.
#[tokio::test(start_paused = true)]
async fn h75_messages_of_another_watch_id_prove_no_life() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    assert_same(&ks, &etcd).await;
    etcd.faults().ignore_progress();
    let before = etcd.counts();
    let cluster_id = ks.read().cluster_id().unwrap();
    let revision = etcd.revision();
    let header = Some(Header { revision, cluster_id, ..Header::default() });
    let message = WatchResponse { header, watch_id: 5, ..WatchResponse::default() };
    let foreign = [
        WatchResponse { events: vec![event("/k/a", revision)], ..message.clone() },
        WatchResponse { created: true, ..message.clone() },
        message,
    ];
    for message in foreign.iter().cycle().take(60) {
        etcd.faults().inject(message);
        tokio::time::sleep(100 * MS).await;
    }
    assert!(etcd.counts().watches > before.watches, "a watch that answers nothing is replaced");
    etcd.faults().heal();
    assert_same(&ks, &etcd).await;
}

#[tokio::test(start_paused = true)]
async fn h75_the_end_of_another_watch_id_reopens_ours() {
    for compact_revision in [0, 3] {
        let etcd = etcd();
        etcd.put("/k/a", "1");
        let ks = start(&etcd).await;
        ks.wait_for_revision(etcd.put("/k/b", "1")).await.unwrap();
        let before = etcd.counts();
        let row = WatchResponse { watch_id: 5, ..cancel("", false, compact_revision) };
        etcd.faults().inject(&row);
        etcd.until(|counts| counts.watches > before.watches).await;
        reaches(&ks, State::Live).await;
        assert_same(&ks, &etcd).await;
        assert_eq!(ks.status().counters.loads, 1, "{row:?}");
    }
}

/// Without a valid id, the mirror could not distinguish its events from those of other watchers.
#[tokio::test(start_paused = true)]
async fn h75_a_watch_without_an_id_is_refused() {
    let bad_ids = |response: WatchResponse| {
        let watch_id = if response.created { -1 } else { response.watch_id };
        Some(WatchResponse { watch_id, ..response })
    };
    let not_created = |response: WatchResponse| (!response.created).then_some(response);
    for swallowed in [false, true] {
        let etcd = etcd();
        etcd.put("/k/a", "1");
        let ks = start(&etcd).await;
        etcd.put("/k/b", "1");
        assert_same(&ks, &etcd).await;
        match swallowed {
            true => etcd.faults().tamper(not_created),
            false => etcd.faults().tamper(bad_ids),
        }
        etcd.faults().cut();
        tokio::time::sleep(50 * MS).await;
        etcd.put("/k/c", "1");
        tokio::time::sleep(3_000 * MS).await;
        assert_eq!(ks.status().state, State::Reconnecting);
        let error = ks.status().last_error.unwrap().to_string();
        assert!(error.contains("created"), "{error}");
        assert!(!ks.read().contains("/k/c"));
        etcd.faults().heal();
        assert_same(&ks, &etcd).await;
    }
}
