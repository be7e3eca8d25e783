//! The dashboard beside the example: it names every metric of the crate and no other.

use std::collections::BTreeSet;

use etcd_keyspace::metrics::{ALL, Kind};
use serde_json::Value;

const DASHBOARD: &str = include_str!("../../examples/service/grafana.json");

/// The names in all queries, without what Prometheus puts behind the name of a histogram.
fn named(dashboard: &Value) -> BTreeSet<String> {
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut names = BTreeSet::new();
    for query in targets.map(|target| target["expr"].as_str().unwrap()) {
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let found = words.filter(|word| word.starts_with("etcd_keyspace_"));
        let before = names.len();
        names.extend(found.map(|name| {
            let parts = ["_bucket", "_sum", "_count"];
            parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name).to_owned()
        }));
        assert!(query.contains("etcd_keyspace_"), "{query} names none ({before} so far)");
        assert!(query.contains("keyspace=~\"$keyspace\""), "{query} is of all key spaces");
    }
    names
}

#[test]
fn the_dashboard_and_the_table_name_the_same_metrics() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let listed: BTreeSet<_> = ALL.iter().map(|metric| metric.name.to_owned()).collect();
    assert_eq!(named(&dashboard), listed);
}

#[test]
fn counters_are_shown_as_rates_and_histograms_as_quantiles_or_means() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    for target in panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten() {
        let query = target["expr"].as_str().unwrap();
        for metric in ALL.iter().filter(|metric| query.contains(&format!("{}{{", metric.name))) {
            let over_time = query.contains("rate(") || query.contains("increase(");
            assert_eq!(over_time, metric.kind == Kind::Counter, "{query}");
        }
        let buckets = query.contains("_bucket");
        assert_eq!(buckets, query.contains("histogram_quantile("), "{query}");
    }
    let query = dashboard["templating"]["list"][1]["query"].as_str().unwrap();
    assert!(query.contains(ALL[0].name), "the variable lists key spaces by a metric there is");
}
