//! The stream of events over real HTTP: every event, resume by id, and why a client begins anew.

use std::collections::BTreeMap;

use etcd_client::TxnOp;
use etcd_keyspace::testing::Op;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::*;
use crate::support::real::{at, commit, put};
use crate::support::{shared, unique_prefix};

/// The next event that is no sign of life.
pub(crate) async fn news(events: &mut Events) -> Event {
    let next = async {
        loop {
            let event = events.news().await.expect("the stream goes on");
            if event.name != "progress" {
                return event;
            }
        }
    };
    within("an event", next).await
}

/// Everything, which is told next, with the reason and the id of its end.
async fn whole(events: &mut Events) -> (String, BTreeMap<String, Value>, String) {
    let reset = news(events).await;
    assert_eq!((reset.name.as_str(), reset.id.as_ref()), ("reset", None), "{reset:?}");
    let reset = reset.json();
    let mut all = BTreeMap::new();
    loop {
        let set = news(events).await;
        assert_eq!(set.name, "set");
        let json = set.json();
        for entry in json["entries"].as_array().unwrap() {
            let key = entry["key"].as_str().unwrap().to_owned();
            assert!(all.insert(key, entry["value"].clone()).is_none());
        }
        if json["last"] == true {
            assert_eq!(reset["count"], all.len());
            return (reset["reason"].as_str().unwrap().to_owned(), all, set.id.unwrap());
        }
        assert_eq!(set.id, None, "nobody goes on from the middle");
    }
}

/// The changes of an event as `op key`, sorted, and its revision.
fn changes(event: &Event) -> (i64, Vec<String>) {
    let json = event.json();
    let changes = json["changes"].as_array().unwrap().iter().map(|change| {
        let key = change["entry"]["key"].as_str().or(change["key"].as_str()).unwrap();
        format!("{} {key}", change["op"].as_str().unwrap())
    });
    let mut changes: Vec<_> = changes.collect();
    changes.sort();
    (json["revision"].as_i64().unwrap(), changes)
}

/// A service that keeps few events, and shows often that it lives.
fn narrow() -> Limits {
    Limits { history: 20, keep_alive: Duration::from_millis(30), ..Limits::default() }
}

/// Waits for a sign of life through this revision; its id.
async fn progress(events: &mut Events, revision: i64) -> String {
    let told = async {
        loop {
            let event = events.next().await.unwrap();
            let through = |event: &Event| event.json()["revision"].as_i64() >= Some(revision);
            if event.name == "progress" && through(&event) {
                return event.id.unwrap();
            }
        }
    };
    within("progress", told).await
}

#[tokio::test]
async fn everything_is_first_and_then_each_revision_with_all_its_changes() {
    let (etcd, service) = loaded().await;
    let mut events = Events::open(service.at, "/events?prefix=/k/a/", None).await;
    let (reason, all, _) = whole(&mut events).await;
    assert_eq!((reason.as_str(), all.len()), ("start", 5));

    etcd.put("/k/b", "not in this range");
    let deleted = etcd.delete("/k/a/0");
    assert_eq!(changes(&news(&mut events).await), (deleted, vec!["- /k/a/0".to_owned()]));
    let revision = etcd.put("/k/a/1", "7");
    let changed = news(&mut events).await;
    let change = &changed.json()["changes"][0];
    assert_eq!((change["op"].as_str(), &change["entry"]["value"]), (Some("~"), &7.into()));
    assert!(changed.id.unwrap().starts_with(&format!("{revision}.")));

    // Not summed up, though both are there when the stream gets to it.
    etcd.faults().stall();
    let first = etcd.txn([Op::put("/k/a/1", "8"), Op::delete("/k/a/2"), Op::put("/k/a/x", "9")]);
    let second = etcd.delete("/k/a/x");
    etcd.faults().release();
    let expected = ["+ /k/a/x", "- /k/a/2", "~ /k/a/1"].map(str::to_owned).to_vec();
    assert_eq!(changes(&news(&mut events).await), (first, expected));
    assert_eq!(changes(&news(&mut events).await), (second, vec!["- /k/a/x".to_owned()]));
    assert_eq!(get(service.at, "/events?prefix=/other").await.status, 400);
    assert_eq!(get(service.at, "/events?resync=-1").await.status, 400);
    // Longer than a clock can tell is never.
    whole(&mut Events::open(service.at, "/events?resync=1.5e19", None).await).await;
}

#[tokio::test]
async fn streams_have_a_bound_and_a_place_is_free_when_a_client_goes() {
    let etcd = FakeEtcd::new();
    let service = serve(etcd, "/k/", Limits { streams: 1, ..narrow() }).await;
    let mut first = Events::open(service.at, "/events", None).await;
    whole(&mut first).await;
    let refused = get(service.at, "/events").await;
    assert_eq!((refused.status, &refused.headers["retry-after"]), (503, &"1".parse().unwrap()));
    drop(first);
    let freed = async {
        // A stream that is there would be read to its end, which does not come.
        while timeout(Duration::from_millis(100), get(service.at, "/events")).await.is_ok() {}
    };
    within("a free place", freed).await;
}

/// Writes transactions for a while: what each did below the prefix, by its revision.
async fn write(etcd: &support::EtcdServer, prefix: &str) -> Vec<(i64, Vec<String>)> {
    let mut client = etcd.client().await;
    let mut there = std::collections::BTreeSet::new();
    let mut done = Vec::new();
    for n in 0..400_u64 {
        let mut ops = vec![TxnOp::put(format!("{prefix}outside"), n.to_string(), None)];
        let mut did = Vec::new();
        for key in [n * n % 17, 20 + n % 5].map(|key| format!("{prefix}in/{key}")) {
            if n % 3 == 0 && there.remove(&key) {
                did.push(format!("- {key}"));
                ops.push(TxnOp::delete(key, None));
            } else {
                let new = there.insert(key.clone());
                did.push(format!("{} {key}", if new { '+' } else { '~' }));
                ops.push(TxnOp::put(key, n.to_string(), None));
            }
        }
        did.sort();
        done.push((commit(&mut client, ops).await, did));
    }
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_all_the_time_misses_nothing_and_tells_nothing_twice() {
    let etcd = shared().await;
    let prefix = unique_prefix("resume");
    let service = serve(at(etcd.endpoint()), &prefix, Limits::default()).await;
    within("the load", service.ks.loaded()).await.unwrap();
    let path = format!("/events?prefix={prefix}in/");
    let mut events = Events::open(service.at, &path, None).await;
    let (_, all, mut id) = whole(&mut events).await;
    assert!(all.is_empty());

    let writer = tokio::spawn({
        let prefix = prefix.clone();
        async move { write(etcd, &prefix).await }
    });
    let (mut told, mut breaks) = (Vec::new(), 0);
    while told.len() < 400 {
        // Some connections end at once, some after several events; what they had on the way is lost.
        for _ in 0..breaks % 7 {
            let event = news(&mut events).await;
            match event.name.as_str() {
                "resumed" => continue,
                "change" => told.push(changes(&event)),
                other => panic!("{other}: nothing is to begin anew: {event:?}"),
            }
            id = event.id.unwrap();
            if told.len() == 400 {
                break;
            }
        }
        breaks += 1;
        events = Events::open(service.at, &path, Some(&id)).await;
    }
    assert_eq!(told, within("the writer", writer).await.unwrap());
    assert!(breaks > 50);
    assert_eq!(news(&mut events).await.name, "resumed");
    let last = put(&mut etcd.client().await, format!("{prefix}in/last"), "1").await;
    assert_eq!(changes(&news(&mut events).await).0, last, "and nothing between");
}

#[tokio::test]
async fn a_client_whose_history_is_gone_begins_anew_and_is_told_why() {
    let etcd = FakeEtcd::new();
    etcd.put("/k/a", "1");
    let service = serve(etcd.clone(), "/k/", narrow()).await;
    let mut events = Events::open(service.at, "/events", None).await;
    let (.., id) = whole(&mut events).await;
    drop(events);
    for n in 0..50 {
        let written = etcd.put(format!("/k/{}", n % 7), n.to_string());
        within("the write", service.ks.wait_for_revision(written)).await.unwrap();
    }
    etcd.delete("/k/a");
    within("the end", service.ks.wait_for_revision(etcd.revision())).await.unwrap();
    let mut events = Events::open(service.at, "/events", Some(&id)).await;
    let (reason, all, id) = whole(&mut events).await;
    assert_eq!((reason.as_str(), all.len()), ("behind", 7));
    assert_eq!(all["/k/0"], 49);
    let mut events = Events::open(service.at, "/events", Some(&id)).await;
    assert_eq!(news(&mut events).await.name, "resumed", "from there it goes on");
}

#[tokio::test]
async fn an_id_that_means_nothing_here_begins_anew_and_says_so() {
    let (etcd, service) = loaded().await;
    let begins = async |at: SocketAddr, id: &str| {
        let mut events = Events::open(at, "/events?prefix=/k/a/", Some(id)).await;
        let (reason, all, id) = whole(&mut events).await;
        (reason, all.len(), id)
    };
    for garbage in ["nonsense", "", "1.2", "-.-.-", "5.0.xyz", "999999999999999999999.0.0"] {
        let (reason, count, _) = begins(service.at, garbage).await;
        assert_eq!((reason.as_str(), count), ("unknown_id", 5), "{garbage}");
    }
    let (reason, _, id) = begins(service.at, "").await;
    assert_eq!(reason, "unknown_id");
    // As if by this process, of a revision that it has not told.
    let (_, of_here) = id.split_once('.').unwrap();
    assert_eq!(begins(service.at, &format!("1000.{of_here}")).await.0, "unknown_id");

    let replica = serve(etcd.clone(), "/k/", Limits::default()).await;
    within("the load", replica.ks.loaded()).await.unwrap();
    let (reason, count, _) = begins(replica.at, &id).await;
    assert_eq!((reason.as_str(), count), ("other_process", 5));

    // A backup is put back and written over, past the revision of the id.
    let mut live = Events::open(service.at, "/events?prefix=/k/a/", Some(&id)).await;
    assert_eq!(news(&mut live).await.name, "resumed");
    etcd.restore(4);
    for n in 0..9 {
        etcd.put("/k/a/0", format!("{{\"other\":{n}}}"));
    }
    let other = news(&mut live).await;
    assert_eq!(other.name, "difference", "who was there is told what differs");
    assert_eq!(other.json()["reason"], "new_epoch");
    let (reason, count, anew) = begins(service.at, &id).await;
    assert_eq!((reason.as_str(), count), ("new_epoch", 3));
    let mut events = Events::open(service.at, "/events?prefix=/k/a/", Some(&anew)).await;
    assert_eq!(news(&mut events).await.name, "resumed");
}

#[tokio::test]
async fn a_stream_gets_the_exact_difference_over_a_reload() {
    let (etcd, service) = loaded().await;
    let mut events = Events::open(service.at, "/events?prefix=/k/a/", None).await;
    whole(&mut events).await;
    etcd.faults().down();
    etcd.put("/k/a/1", "7");
    etcd.put("/k/a/x", "8");
    etcd.delete("/k/a/x");
    etcd.delete("/k/a/2");
    let read = etcd.put("/k/a/y", "9");
    etcd.compact(read);
    etcd.faults().up();
    let difference = news(&mut events).await;
    assert_eq!(difference.name, "difference");
    assert_eq!(difference.json()["reason"], "reload");
    let expected = ["+ /k/a/y", "- /k/a/2", "~ /k/a/1"].map(str::to_owned).to_vec();
    assert_eq!(changes(&difference), (read, expected));
    let mut again =
        Events::open(service.at, "/events?prefix=/k/a/", difference.id.as_deref()).await;
    assert_eq!(news(&mut again).await.name, "resumed");
}

#[tokio::test]
async fn a_quiet_range_is_resumed_by_signs_of_life_whatever_happened_beside_it() {
    let etcd = FakeEtcd::new();
    etcd.put("/k/quiet/a", "1");
    let service = serve(etcd.clone(), "/k/", narrow()).await;
    let mut events = Events::open(service.at, "/events?prefix=/k/quiet/", None).await;
    let (.., old) = whole(&mut events).await;
    for n in 0..100 {
        let written = etcd.put("/k/busy", n.to_string());
        within("the write", service.ks.wait_for_revision(written)).await.unwrap();
    }
    let id = progress(&mut events, etcd.revision()).await;
    drop(events);
    let begins = async |id: &str| {
        let mut events = Events::open(service.at, "/events?prefix=/k/quiet/", Some(id)).await;
        news(&mut events).await.name
    };
    assert_eq!(begins(&id).await, "resumed");
    assert_eq!(begins(&old).await, "reset", "it would have been too old");
}

#[tokio::test]
async fn everything_is_told_again_to_who_asks_for_that() {
    let (_etcd, service) = loaded().await;
    let mut events = Events::open(service.at, "/events?prefix=/k/a/&resync=0.01", None).await;
    let (_, first, _) = whole(&mut events).await;
    let (reason, again, _) = whole(&mut events).await;
    assert_eq!((reason.as_str(), again), ("periodic", first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_delays_nobody_and_begins_anew() {
    let etcd = FakeEtcd::new();
    let service = serve(etcd.clone(), "/k/", narrow()).await;
    within("the load", service.ks.loaded()).await.unwrap();
    let mut slow = Events::open(service.at, "/events", None).await;
    whole(&mut slow).await;
    let mut quick = Events::open(service.at, "/events", None).await;
    whole(&mut quick).await;
    // More than the buffers between take.
    let value = json!("x".repeat(200_000)).to_string();
    let mut written = 0;
    for n in 0..150 {
        written = etcd.put(format!("/k/{}", n % 4), value.clone());
        assert_eq!(changes(&news(&mut quick).await).0, written, "at once");
    }
    let mut told = BTreeMap::new();
    let mut resets = 0;
    loop {
        let event = news(&mut slow).await;
        let json = event.json();
        match event.name.as_str() {
            "change" => {
                for change in json["changes"].as_array().unwrap() {
                    let entry = &change["entry"];
                    told.insert(entry["key"].to_string(), entry["mod_revision"].as_i64());
                }
            }
            "reset" => {
                assert_eq!(json["reason"], "behind");
                resets += 1;
                told.clear();
            }
            "set" => {
                for entry in json["entries"].as_array().unwrap() {
                    told.insert(entry["key"].to_string(), entry["mod_revision"].as_i64());
                }
            }
            other => panic!("{other}"),
        }
        if told.values().any(|revision| *revision == Some(written)) {
            break;
        }
    }
    assert_eq!(resets, 1, "it had fallen behind, once");
    let last: Vec<_> = told.into_values().flatten().collect();
    assert_eq!(last, [written - 1, written, written - 3, written - 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_is_let_go() {
    let etcd = FakeEtcd::new();
    let limits = Limits { patience: Duration::from_millis(100), ..narrow() };
    let service = serve(etcd.clone(), "/k/", limits).await;
    within("the load", service.ks.loaded()).await.unwrap();
    let mut silent = Events::open(service.at, "/events", None).await;
    whole(&mut silent).await;
    assert_eq!(service.ks.stats().followers, 1);
    let value = json!("x".repeat(200_000)).to_string();
    let let_go = async {
        while service.ks.stats().followers > 0 {
            let written = etcd.put("/k/a", value.clone());
            service.ks.wait_for_revision(written).await.unwrap();
        }
    };
    within("it is let go", let_go).await;
    within("its end", async { while silent.next().await.is_some() {} }).await;
}

#[tokio::test]
async fn a_large_set_comes_in_parts_and_only_the_last_can_be_resumed_from() {
    let etcd = FakeEtcd::new();
    for n in 0..2_500 {
        etcd.put(format!("/k/{n:05}"), "1");
    }
    let service = serve(etcd, "/k/", Limits::default()).await;
    let mut events = Events::open(service.at, "/events", None).await;
    assert_eq!(news(&mut events).await.json()["count"], 2_500);
    let mut sizes = Vec::new();
    while sizes.len() < 3 {
        let event = news(&mut events).await;
        let json = event.json();
        sizes.push(json["entries"].as_array().unwrap().len());
        assert_eq!(event.id.is_some(), json["last"] == true);
        assert_eq!(json["last"], sizes.len() == 3);
    }
    assert_eq!(sizes, [1_000, 1_000, 500]);
}

#[tokio::test]
async fn figures_come_to_who_asks_for_them_first_those_of_the_last_seconds() {
    let (etcd, service) = loaded().await;
    let mut events = Events::open(service.at, "/events?pulse=true", None).await;
    let first = within("the figures", events.next()).await.unwrap();
    assert_eq!(first.name, "pulses");
    assert_eq!(first.json()[0]["prefix"], "/k/");
    let revision = etcd.put("/k/b", "1");
    let told = async {
        loop {
            let event = events.next().await.unwrap();
            if event.name == "pulse" && event.json()["revision"].as_i64() == Some(revision) {
                return event.json();
            }
        }
    };
    let pulse = within("the next figures", told).await;
    assert_eq!((pulse["state"].as_str(), pulse["keys"].as_u64()), (Some("live"), Some(6)));
    let mut again = Events::open(service.at, "/events?pulse=true", None).await;
    let first = within("the figures", again.next()).await.unwrap();
    assert!(first.json().as_array().unwrap().len() >= 2, "who comes later sees what was before");
    let mut plain = Events::open(service.at, "/events", None).await;
    let first = within("an event", plain.next()).await.unwrap();
    assert_eq!(first.name, "reset", "and to nobody else");
}
