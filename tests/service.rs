//! The service example over real HTTP: what its API promises, on the fake etcd; its page, in a browser,
//! and the program itself, on a real one.
#![cfg(all(feature = "json", feature = "metrics", feature = "test-util"))]

#[path = "support/chromium.rs"]
mod chromium;
#[path = "support/http.rs"]
mod client;
#[path = "service/dashboard.rs"]
mod dashboard;
#[path = "support/example.rs"]
mod example;
#[path = "../examples/service/http/mod.rs"]
mod http;
#[path = "service/page.rs"]
mod page;
#[path = "service/program.rs"]
mod program;
#[path = "service/stream.rs"]
mod stream;
mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use client::{Answer, Event, Events, get, get_with};
use etcd_keyspace::testing::FakeEtcd;
use etcd_keyspace::{KeyRange, KeySpace, Source, State, Token};
use http::{Document, Limits, Service};
use stream::news;
use support::{WAIT_MAX, still_pending, within};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long a thing that should not happen is waited for.
const QUIET: Duration = Duration::from_millis(150);

/// A running service; dropping it stops nothing, `stop` does.
struct Running {
    at: SocketAddr,
    ks: KeySpace<Document>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<std::io::Result<()>>,
}

/// Serves the keys below `prefix` of a source; returns before they are loaded.
async fn serve(source: impl Source, prefix: &str, limits: Limits) -> Running {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    serve_with(any, source, prefix, limits).await
}

/// The same at an address that another service has left.
async fn serve_at(at: SocketAddr, source: impl Source, prefix: &str) -> Running {
    serve_with(at, source, prefix, Limits::default()).await
}

async fn serve_with(at: SocketAddr, source: impl Source, prefix: &str, limits: Limits) -> Running {
    let recorder = http::recorder().build_recorder();
    let (ks, mirror) = metrics::with_local_recorder(&recorder, || {
        let builder = http::builder(KeyRange::prefix(prefix), &limits).unwrap().name("test");
        let builder = builder.backoff(Duration::from_millis(20), Duration::from_millis(100));
        builder.check_interval(Duration::from_millis(200)).build(source)
    });
    let (stop, stopping) = watch::channel(false);
    let service = Service::new(ks.clone(), limits, recorder.handle(), stopping);
    tokio::spawn(mirror.run());
    let listener = TcpListener::bind(at).await.unwrap();
    let at = listener.local_addr().unwrap();
    Running { at, ks, stop, serving: tokio::spawn(service.serve(listener)) }
}

/// On a fake etcd with some keys, loaded.
async fn loaded() -> (FakeEtcd, Running) {
    let etcd = FakeEtcd::new();
    for n in 0..5 {
        etcd.put(format!("/k/a/{n}"), format!("{{\"n\":{n}}}"));
    }
    etcd.put("/k/b", "no json");
    let running = serve(etcd.clone(), "/k/", Limits::default()).await;
    within("the load", running.ks.wait_for_revision(etcd.revision())).await.unwrap();
    (etcd, running)
}

fn keys(answer: &Answer) -> Vec<String> {
    let json = answer.json();
    let entries = json["entries"].as_array().unwrap();
    entries.iter().map(|entry| entry["key"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn ranges_and_points_are_answered_with_their_numbers_and_in_pages() {
    let (etcd, service) = loaded().await;
    let at = service.at;
    let all = get(at, "/kv").await;
    assert_eq!((all.status, all.json()["count"].as_u64()), (200, Some(6)));
    assert_eq!(all.header("x-keyspace-revision"), etcd.revision().to_string());
    assert!(all.header("x-keyspace-age-ms").parse::<u64>().is_ok());
    let part = get(at, "/kv?prefix=/k/a/&limit=2").await;
    assert_eq!(keys(&part), ["/k/a/0", "/k/a/1"]);
    assert_eq!(part.json()["count"], 5);
    let mut read = keys(&part);
    let mut next = part.json()["next"].clone();
    while let Some(from) = next.as_str() {
        let part = get(at, &format!("/kv?prefix=/k/a/&limit=2&from={from}")).await;
        read.extend(keys(&part));
        next = part.json()["next"].clone();
    }
    assert_eq!(read, ["/k/a/0", "/k/a/1", "/k/a/2", "/k/a/3", "/k/a/4"]);
    assert_eq!(keys(&get(at, "/kv?from=/k/a/3&to=/k/b").await), ["/k/a/3", "/k/a/4"]);

    let one = get(at, "/kv?key=/k/a/3").await;
    assert_eq!(one.json()["value"], serde_json::json!({"n": 3}));
    assert_eq!(one.json()["mod_revision"], 5);
    assert_eq!(get(at, "/kv?key=/k/b").await.json()["value"], "no json");
    let absent = get(at, "/kv?key=/k/zzz").await;
    assert_eq!(absent.status, 404);
    assert!(!absent.header("etag").is_empty(), "that it is not there can be waited on");
    for refused in ["key=/other", "prefix=/", "key=/k/a&prefix=/k/", "from=/k/b&to=/k/a", "wait=-1"]
    {
        let answer = get(at, &format!("/kv?{refused}")).await;
        assert_eq!(answer.status, 400, "{refused}: {answer:?}");
    }
}

#[tokio::test]
async fn a_read_sees_the_write_whose_revision_or_token_it_brings() {
    let (etcd, service) = loaded().await;
    let at = service.at;
    etcd.faults().stall();
    let written = etcd.put("/k/b", "2");
    let path = format!("/kv?key=/k/b&min_revision={written}");
    let mut read = pin!(get(at, &path));
    still_pending("the write is not here yet", QUIET, &mut read).await;
    etcd.faults().release();
    let read = within("the write", read).await;
    assert_eq!(read.json()["value"], 2);

    let token = read.header("x-keyspace-token");
    let same = get_with(at, "/kv?key=/k/b", &[("x-keyspace-token", &token)]).await;
    assert_eq!((same.status, same.json()["value"].as_u64()), (200, Some(2)));
    let other = Token::of_write(7, 1).to_string();
    let conflict = get_with(at, "/kv", &[("x-keyspace-token", &other)]).await;
    assert_eq!(conflict.status, 409, "a token of another cluster means nothing here");
    assert_eq!(get_with(at, "/kv", &[("x-keyspace-token", "x")]).await.status, 400);
}

#[tokio::test]
async fn a_read_that_is_not_met_in_time_is_given_up_and_may_be_tried_again() {
    let etcd = FakeEtcd::new();
    let limits = Limits { deadline: Duration::from_millis(100), ..Limits::default() };
    let service = serve(etcd.clone(), "/k/", limits).await;
    within("the load", service.ks.loaded()).await.unwrap();
    let late = get(service.at, "/kv?min_revision=1000").await;
    assert_eq!((late.status, late.header("retry-after")), (503, "1".to_owned()));
}

#[tokio::test]
async fn a_blocking_read_wakes_for_its_range_only_and_says_unchanged_at_its_end() {
    let (etcd, service) = loaded().await;
    let at = service.at;
    let first = get(at, "/kv?prefix=/k/a/").await;
    let seen = first.header("etag");
    let seen = [("if-none-match", seen.as_str())];
    assert_eq!(get_with(at, "/kv?prefix=/k/a/", &seen).await.status, 304);

    let mut blocked = pin!(get_with(at, "/kv?prefix=/k/a/&wait=20", &seen));
    still_pending("nothing has changed", QUIET, &mut blocked).await;
    let other = etcd.put("/k/b", "3");
    within("the other write", service.ks.wait_for_revision(other)).await.unwrap();
    still_pending("only another range has changed", QUIET, &mut blocked).await;
    etcd.put("/k/a/9", "9");
    let woken = within("the change", blocked).await;
    assert_eq!((woken.status, keys(&woken).len()), (200, 6));

    let seen = woken.header("etag");
    let path = "/kv?prefix=/k/a/&wait=0.05";
    let unchanged = get_with(at, path, &[("if-none-match", &seen)]).await;
    assert_eq!((unchanged.status, unchanged.body.as_str()), (304, ""));
    assert_eq!(unchanged.header("etag"), seen);
    assert_ne!(get_with(at, path, &[("if-none-match", "\"x\"")]).await.status, 304);
}

#[tokio::test]
async fn it_is_alive_at_once_and_ready_while_its_data_is_fresh() {
    let etcd = FakeEtcd::new();
    etcd.faults().down();
    let limits = Limits { fresh: Duration::from_millis(800), ..Limits::default() };
    let service = serve(etcd.clone(), "/k/", limits).await;
    let status = async |path| get(service.at, path).await.status;
    assert_eq!((status("/livez").await, status("/readyz").await), (200, 503));
    etcd.faults().up();
    let become_ready = async |ready: u16| {
        while status("/readyz").await != ready {
            tokio::task::yield_now().await;
        }
    };
    within("ready", become_ready(200)).await;
    assert_eq!(service.ks.status().state, State::Live);
    etcd.faults().down();
    within("not ready any more", become_ready(503)).await;
    assert_eq!(
        (status("/livez").await, status("/kv").await),
        (200, 200),
        "it can be read all the same"
    );
    etcd.faults().up();
    within("ready again", become_ready(200)).await;
    let metrics = get(service.at, "/metrics").await;
    assert!(metrics.body.contains("etcd_keyspace_synced{keyspace=\"test\"} 1"), "{}", metrics.body);
    assert!(metrics.body.contains("etcd_keyspace_load_duration_seconds_bucket"));
}

#[tokio::test]
async fn stopping_answers_who_waits_and_ends_the_streams() {
    let (_etcd, service) = loaded().await;
    let at = service.at;
    let seen = get(at, "/kv").await.header("etag");
    let seen = [("if-none-match", seen.as_str())];
    let mut blocked = pin!(get_with(at, "/kv?wait=50", &seen));
    still_pending("nothing has changed", QUIET, &mut blocked).await;
    let mut events = Events::open(at, "/events", None).await;
    assert_eq!(news(&mut events).await.name, "reset");
    service.stop.send_replace(true);
    assert_eq!(within("the answer", blocked).await.status, 304);
    within("the end", async { while events.next().await.is_some() {} }).await;
    within("the service", service.serving).await.unwrap().unwrap();
}
