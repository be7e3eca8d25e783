//! The feature `metrics`: a recorder is told what `status()` and `stats()` say, under names that are
//! described, and no label holds a key.
#![cfg(all(feature = "metrics", feature = "test-util"))]

mod fake;

use std::collections::BTreeSet;
use std::time::Duration;

use etcd_keyspace::metrics::{ALL, Kind};
use etcd_keyspace::testing::FakeEtcd;
use etcd_keyspace::{Builder, EventsOptions, KeySpace, Start, State};
use fake::{etcd, reaches};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

fn recorder() -> PrometheusRecorder {
    let suffix = |text: &str| Matcher::Suffix(text.to_owned());
    let builder = PrometheusBuilder::new();
    let builder = builder.set_buckets_for_metric(suffix("_duration_seconds"), &[0.001, 0.1, 10.0]);
    builder.unwrap().build_recorder()
}

/// Values are what they are in etcd, but for those that begin with `!`.
fn builder() -> Builder<Vec<u8>> {
    KeySpace::builder(fake::PREFIX).unwrap().decoder(|kv: etcd_keyspace::RawKeyValue| {
        if kv.value.starts_with(b"!") { Err("a bad value") } else { Ok(kv.value) }
    })
}

/// The figure after `line`, which is the name with its labels.
#[track_caller]
fn figure(text: &str, line: &str) -> f64 {
    let found = text.lines().find_map(|other| other.strip_prefix(line)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("{line} is not in\n{text}")).parse().unwrap()
}

/// A key space to which something of every kind has happened.
async fn eventful(etcd: &FakeEtcd) -> KeySpace<Vec<u8>> {
    for n in 0..10 {
        etcd.put(format!("/k/secret-{n}"), "1");
    }
    let ks = builder().name("routes").seed(7).start(etcd.clone()).await.unwrap();
    ks.observe(|_, _, _| {});
    let followed = ks.changes(..);
    etcd.put("/k/secret-1", "2");
    etcd.delete("/k/secret-2");
    let revision = etcd.put("/k/secret-3", "!");
    ks.wait_for_revision(revision).await.unwrap();
    let too_far = ks.wait_for_revision(revision + 1_000);
    tokio::time::timeout(Duration::from_millis(50), too_far).await.unwrap_err();
    // History is compacted while the mirror is away.
    etcd.faults().down();
    reaches(&ks, State::Reconnecting).await;
    etcd.put("/k/secret-4", "2");
    etcd.compact(etcd.revision());
    etcd.faults().up();
    ks.wait_for_revision(etcd.revision()).await.unwrap();
    reaches(&ks, State::Live).await;
    drop(followed);
    ks
}

#[tokio::test(start_paused = true)]
async fn c7_the_recorder_is_told_what_status_and_stats_say() {
    let recorder = recorder();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let etcd = etcd();
    let ks = eventful(&etcd).await;
    let followed = ks.changes(..);
    // The next step of the mirror tells of the follower.
    ks.wait_for_revision(etcd.put("/k/secret-5", "2")).await.unwrap();

    let text = recorder.handle().render();
    let (status, stats) = (ks.status(), ks.stats());
    let told = |name: &str, labels: &str| {
        figure(&text, &format!("etcd_keyspace_{name}{{keyspace=\"routes\"{labels}}}"))
    };
    let level = |name: &str| told(name, "");
    let counters = status.counters;
    assert_eq!(level("revision"), status.revision as f64);
    assert_eq!(level("confirmed_revision"), status.confirmed as f64);
    assert_eq!((level("keys"), level("key_bytes")), (stats.keys as f64, stats.key_bytes as f64));
    assert!(level("bytes") > level("key_bytes"));
    assert_eq!((level("synced"), level("rejected_keys")), (1.0, 1.0));
    assert_eq!((level("subscribers"), level("pending_waits")), (1.0, 0.0));
    assert_eq!(counters.loads, 2);
    assert_eq!(told("loads_total", ",reason=\"initial\""), 1.0);
    assert_eq!(told("loads_total", ",reason=\"compacted\""), counters.loads_compacted as f64);
    assert_eq!((counters.loads_compacted, counters.loads_gap, counters.loads_history), (1, 0, 0));
    assert_eq!(told("events_total", ",type=\"put\""), (counters.events - counters.deletes) as f64);
    assert_eq!(told("events_total", ",type=\"delete\""), 1.0);
    assert_eq!((counters.events, counters.deletes), (4, 1));
    assert_eq!(level("decode_errors_total"), counters.rejected as f64);
    assert_eq!(level("changes_total"), counters.changes as f64);
    let kinds = counters.failures_by_kind;
    let sum = kinds.unavailable + kinds.timeout + kinds.refused + kinds.malformed;
    assert!(counters.failures > 0 && sum == counters.failures, "{counters:?}");
    let unavailable = told("watch_restarts_total", ",reason=\"unavailable\"");
    assert_eq!(unavailable, kinds.unavailable as f64);

    // Histograms count what the timings of `stats` count.
    assert_eq!(level("load_duration_seconds_count"), stats.loads.count as f64);
    assert_eq!(stats.loads.count, 2);
    assert_eq!(level("apply_duration_seconds_count"), stats.applies.count as f64);
    assert_eq!(stats.applies.count, counters.batches);
    assert_eq!(level("apply_events_sum"), counters.events as f64);
    let waits =
        |result: &str| told("wait_duration_seconds_count", &format!(",result=\"{result}\""));
    assert_eq!(waits("ok"), stats.waits_met.count as f64);
    assert!(stats.waits_met.count >= 2);
    assert_eq!((waits("dropped"), waits("closed")), (1.0, 0.0));
    assert_eq!((stats.waits_dropped.count, stats.waits_failed.count), (1, 0));
    let runs = ks.observer_times();
    assert_eq!(runs.len(), 1);
    let (file, line) = (runs[0].registered.file(), runs[0].registered.line());
    let observer = format!(",observer=\"{file}:{line}\"");
    assert_eq!(told("observer_duration_seconds_count", &observer), runs[0].runs.count as f64);
    assert!(runs[0].runs.count >= 3 && runs[0].runs.total >= runs[0].runs.longest);
    drop(followed);
}

#[tokio::test(start_paused = true)]
async fn c7_every_metric_is_described_once_and_named_in_the_table_and_no_label_holds_a_key() {
    let recorder = recorder();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let _ks = eventful(&etcd()).await;
    let text = recorder.handle().render();

    let source = include_str!("../src/metrics/mod.rs");
    let mut told = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        told.insert((name.to_owned(), kind.to_owned()));
    }
    let mut listed = BTreeSet::new();
    for metric in ALL {
        let kind = match metric.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            // The one histogram for which this recorder was given no buckets.
            _ if metric.name.ends_with("apply_events") => "summary",
            _ => "histogram",
        };
        assert!(listed.insert((metric.name.to_owned(), kind.to_owned())), "{metric:?} twice");
        let help = format!("# HELP {} {}", metric.name, metric.help);
        assert_eq!(text.matches(&help).count(), 1, "{help}\n{text}");
        let label =
            if metric.label.is_empty() { String::new() } else { format!("`{}`", metric.label) };
        let row =
            format!("//! | `{}` | {:?} | {} | {label} | ", metric.name, metric.kind, metric.unit);
        let row = row.replace("  ", " ").to_lowercase();
        assert!(source.to_lowercase().replace("  ", " ").contains(&row), "no row like: {row}");
        let mine = text.lines().filter(|line| line.starts_with(&format!("{}{{", metric.name)));
        for line in mine {
            let has = metric.label.is_empty() || line.contains(&format!("{}=\"", metric.label));
            assert!(has && line.contains("keyspace=\"routes\""), "{line}");
        }
    }
    assert_eq!(told, listed, "what is told is what is listed");
    assert!(!text.contains("secret"), "a key is in\n{text}");
}

#[tokio::test(start_paused = true)]
async fn c7_a_key_space_without_a_name_shows_no_key_and_one_that_ended_is_not_synced() {
    let recorder = recorder();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let etcd = etcd();
    let unnamed = builder().start(etcd.clone()).await.unwrap();
    let named = builder().name("b").start(etcd.clone()).await.unwrap();
    let synced = |name: &str| {
        let line = format!("etcd_keyspace_synced{{keyspace=\"{name}\"}}");
        figure(&recorder.handle().render(), &line)
    };
    assert_eq!((synced("unnamed"), synced("b")), (1.0, 1.0));
    assert!(!recorder.handle().render().contains("/k/"));
    etcd.faults().down();
    reaches(&named, State::Reconnecting).await;
    assert_eq!(synced("b"), 0.0);
    etcd.faults().up();
    reaches(&named, State::Live).await;
    assert_eq!(synced("b"), 1.0);
    unnamed.shutdown().await;
    assert_eq!((synced("unnamed"), synced("b")), (0.0, 1.0));
}

#[tokio::test(start_paused = true)]
async fn c9_a_follower_that_was_too_far_behind_is_counted() {
    let recorder = recorder();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let etcd = etcd();
    let ks = builder().name("kept").event_history(2, 1_000).start(etcd.clone()).await.unwrap();
    let mut events = ks.events(.., Start::Now, EventsOptions::default());
    events.next().await.unwrap();
    for n in 0..4 {
        ks.wait_for_revision(etcd.put("/k/a", n.to_string())).await.unwrap();
    }
    events.next().await.unwrap();
    // The next step of the mirror tells of it.
    ks.wait_for_revision(etcd.put("/k/a", "last")).await.unwrap();
    let text = recorder.handle().render();
    let resyncs = r#"etcd_keyspace_subscriber_resyncs_total{keyspace="kept"}"#;
    assert_eq!((figure(&text, resyncs), ks.stats().resyncs), (1.0, 1));
    let kept = r#"etcd_keyspace_kept_events{keyspace="kept"}"#;
    assert_eq!((figure(&text, kept), ks.stats().kept_events), (2.0, 2));
}

#[tokio::test(start_paused = true)]
async fn c7_two_key_spaces_of_one_name_count_together() {
    let recorder = recorder();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let etcd = etcd();
    for _ in 0..2 {
        let ks = builder().name("again").start(etcd.clone()).await.unwrap();
        ks.wait_for_revision(etcd.put("/k/a", "1")).await.unwrap();
        ks.shutdown().await;
    }
    let text = recorder.handle().render();
    let loads = r#"etcd_keyspace_loads_total{keyspace="again",reason="initial"}"#;
    assert_eq!(figure(&text, loads), 2.0, "a key space that is made anew counts on");
}
