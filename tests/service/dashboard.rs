//! The dashboard beside the example: it is what Grafana imports, it names every metric of the crate and
//! no other, and its queries are well formed and fit the kinds, labels and units of what they name.

use std::collections::BTreeSet;

use etcd_keyspace::metrics::{ALL, Kind, Metric};
use serde_json::{Value, json};

const DASHBOARD: &str = include_str!("../../examples/service/grafana.json");

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).unwrap()
}

/// The queries of all panels: each with its panel and how it is called in the legend.
fn queries(dashboard: &Value) -> Vec<(&Value, &str, &str)> {
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            all.push((panel, target["expr"].as_str().unwrap(), legend));
        }
    }
    all
}

/// The words of a query.
fn words(query: &str) -> impl Iterator<Item = &str> {
    query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The metrics in a query, whose names histograms are followed by what Prometheus puts there.
fn metrics(query: &str) -> Vec<(&'static Metric, &str)> {
    let names = words(query).filter(|word| word.starts_with("etcd_keyspace_"));
    let found = names.map(|name| {
        let is = |metric: &&Metric| {
            let parts: &[_] = match metric.kind {
                Kind::Histogram => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            name.strip_prefix(metric.name).is_some_and(|end| parts.contains(&end))
        };
        let metric = ALL.iter().find(is).unwrap_or_else(|| panic!("{name} is no metric: {query}"));
        (metric, name)
    });
    found.collect()
}

/// What stands behind each `before` up to the closing bracket.
fn inside<'a>(query: &'a str, before: &str, close: char) -> Vec<&'a str> {
    let behind = query.match_indices(before).map(|(at, _)| &query[at + before.len()..]);
    behind.map(|rest| rest.split(close).next().unwrap()).collect()
}

#[test]
fn the_dashboard_and_the_table_name_the_same_metrics() {
    let dashboard = dashboard();
    let listed: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
    let named = queries(&dashboard).into_iter().flat_map(|(_, query, _)| metrics(query));
    assert_eq!(named.map(|(metric, _)| metric.name).collect::<BTreeSet<_>>(), listed);
    let query = dashboard["templating"]["list"][1]["query"].as_str().unwrap();
    assert_eq!(query, format!("label_values({}, keyspace)", ALL[0].name));
}

#[test]
fn it_is_what_grafana_imports() {
    let dashboard = dashboard();
    for name in ["title", "uid", "description"] {
        assert!(!dashboard[name].as_str().unwrap().is_empty(), "{name}");
    }
    // Older Grafanas refuse newer schemas; newer ones move older schemas on.
    assert!((36..=39).contains(&dashboard["schemaVersion"].as_u64().unwrap()));
    assert!(dashboard["id"].is_null(), "an id belongs to one Grafana");
    let [source, keyspace] = &dashboard["templating"]["list"].as_array().unwrap()[..] else {
        panic!("two variables")
    };
    assert_eq!((&source["name"], &source["type"]), (&json!("datasource"), &json!("datasource")));
    assert_eq!(source["query"], "prometheus");
    assert_eq!((&keyspace["name"], &keyspace["type"]), (&json!("keyspace"), &json!("query")));
    let chosen = json!({"type": "prometheus", "uid": "${datasource}"});
    assert_eq!(keyspace["datasource"], chosen);

    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: the id is taken");
        assert!(["stat", "timeseries"].contains(&panel["type"].as_str().unwrap()), "{title}");
        assert!(panel["description"].as_str().unwrap().len() > 15, "{title} is not explained");
        assert_eq!(panel["datasource"], chosen, "{title}");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(place("w") > 0 && place("h") > 0 && place("x") + place("w") <= 24, "{title}");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(cells.insert((x, y)), "{title} lies over another panel");
            }
        }
        let targets = panel["targets"].as_array().unwrap();
        let refs: BTreeSet<_> = targets.iter().map(|t| t["refId"].as_str().unwrap()).collect();
        assert_eq!(refs.len(), targets.len(), "{title}: its queries are told apart");
        assert!(targets.iter().all(|target| target["datasource"] == chosen), "{title}");
    }
}

#[test]
fn queries_are_closed_and_of_the_key_spaces_that_are_chosen() {
    for (_, query, _) in queries(&dashboard()) {
        let mut open = Vec::new();
        for c in query.chars() {
            match c {
                '(' => open.push(')'),
                '[' => open.push(']'),
                '{' => open.push('}'),
                ')' | ']' | '}' => assert_eq!(open.pop(), Some(c), "{query}"),
                _ => {}
            }
        }
        assert!(open.is_empty(), "{query}");
        let chosen = r#"{keyspace=~"$keyspace"}"#;
        for (_, name) in metrics(query) {
            assert!(query.contains(&format!("{name}{chosen}")), "{query} is of all key spaces");
        }
        let known = ["$__rate_interval", "$__range", "$keyspace"];
        for (at, _) in query.match_indices('$') {
            assert!(known.iter().any(|name| query[at..].starts_with(name)), "{query}");
        }
        let functions = ["sum", "min", "by", "time", "rate", "increase", "histogram_quantile"];
        for (at, _) in query.match_indices('(') {
            let before = query[..at].trim_end();
            let called = before.rsplit(|c: char| !c.is_ascii_lowercase() && c != '_').next();
            let called = called.filter(|name| !name.is_empty());
            // After `by (...)` the bracket has no name of its own.
            assert!(called.is_none_or(|name| functions.contains(&name)), "{query}");
        }
    }
}

#[test]
fn counters_are_shown_over_time_and_histograms_as_quantiles_or_means() {
    for (_, query, _) in queries(&dashboard()) {
        let found = metrics(query);
        assert!(!found.is_empty(), "{query}");
        for (metric, name) in found {
            let over_time =
                ["rate(", "increase("].iter().any(|f| query.contains(&format!("{f}{name}{{")));
            assert_eq!(over_time, metric.kind != Kind::Gauge, "{query}");
        }
        let buckets = query.contains("_bucket");
        assert_eq!(buckets, query.contains("histogram_quantile("), "{query}");
        let by_le =
            inside(query, "by (", ')').iter().all(|labels| words(labels).any(|l| l == "le"));
        assert!(!buckets || by_le, "a quantile is of buckets: {query}");
    }
}

#[test]
fn labels_and_units_are_those_of_the_metrics() {
    for (panel, query, legend) in queries(&dashboard()) {
        let found = metrics(query);
        let mut labels: BTreeSet<_> = found.iter().map(|(metric, _)| metric.label).collect();
        labels.extend(["keyspace", "le"]);
        let grouped = inside(query, "by (", ')');
        for label in grouped.iter().flat_map(|labels| words(labels)) {
            assert!(labels.contains(label), "{label} is no label of what is in {query}");
        }
        for label in inside(legend, "{{", '}') {
            let kept = match grouped.first() {
                Some(labels) => words(labels).any(|kept| kept == label),
                // Not summed up, each series has the labels of its own, and where it was read.
                None => label == "instance" || labels.contains(label),
            };
            assert!(kept, "the legend of {query} has {label}, which is not left");
        }
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap();
        for (metric, _) in found {
            let expected: &[&str] = match (metric.unit, metric.kind) {
                ("seconds", _) => &["s"],
                ("bytes", _) => &["bytes"],
                (_, Kind::Counter) => &["short", "ops"],
                _ => &["short"],
            };
            assert!(expected.contains(&unit), "{}: {query} in {unit}", panel["title"]);
        }
    }
}
