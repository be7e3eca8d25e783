//! Bounded work is traced: a span for each load and for each batch, with the names of the semantic
//! conventions, and none that lasts as long as a watch.

use std::collections::BTreeMap;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::*;

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Seen>>>);

#[derive(Debug, Default)]
struct Seen {
    name: &'static str,
    fields: BTreeMap<&'static str, String>,
    handles: u64,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl Spans {
    fn with<R>(&self, id: &Id, act: impl FnOnce(&mut Seen) -> R) -> R {
        act(&mut self.0.lock().unwrap()[id.into_u64() as usize - 1])
    }

    /// The fields of all spans of that name, each of which must be closed.
    #[track_caller]
    fn closed(&self, name: &str) -> Vec<BTreeMap<&'static str, String>> {
        let spans = self.0.lock().unwrap();
        let named = spans.iter().filter(|span| span.name == name);
        named
            .inspect(|span| assert_eq!(span.handles, 0, "{span:?} is open"))
            .map(|span| span.fields.clone())
            .collect()
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("etcd_keyspace")
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut seen = Seen { name: attributes.metadata().name(), handles: 1, ..Seen::default() };
        attributes.record(&mut seen);
        let mut spans = self.0.lock().unwrap();
        spans.push(seen);
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.with(span, |seen| values.record(seen));
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.with(id, |seen| seen.handles += 1);
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        self.with(&id, |seen| {
            seen.handles -= 1;
            seen.handles == 0
        })
    }

    fn event(&self, _: &Event<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test(start_paused = true)]
async fn t68_loads_and_batches_are_spans_that_end() {
    let spans = Spans::default();
    let _tracing = tracing::subscriber::set_default(spans.clone());
    let etcd = etcd();
    etcd.put("/k/a", "1");
    etcd.put("/k/b", "1");
    let ks = builder().name("named").start(etcd.clone()).await.unwrap();
    etcd.put("/k/a", "2");
    assert_same(&ks, &etcd).await;
    etcd.faults().down();
    reaches(&ks, State::Reconnecting).await;
    etcd.delete("/k/b");
    etcd.compact(etcd.revision());
    etcd.faults().up();
    assert_same(&ks, &etcd).await;
    reaches(&ks, State::Live).await;

    let field = |fields: &BTreeMap<&str, String>, name: &str| fields[name].clone();
    let loads = spans.closed("keyspace.load");
    let told: Vec<_> = loads
        .iter()
        .map(|load| (field(load, "reason"), field(load, "db.response.returned_rows")))
        .collect();
    let expected = [("initial", "2"), ("compacted", "1")];
    assert_eq!(told, expected.map(|(reason, rows)| (reason.to_owned(), rows.to_owned())));
    let applies = spans.closed("keyspace.apply");
    // What is delivered again is judged too, and found to hold nothing new.
    let sizes: Vec<_> = applies.iter().map(|span| field(span, "db.operation.batch.size")).collect();
    let effective = sizes.iter().filter(|size| *size != "0").count();
    assert_eq!(effective as u64, ks.status().counters.batches, "{sizes:?}");
    assert!(sizes.contains(&"1".to_owned()));
    assert_eq!(field(&applies[0], "db.operation.name"), "Watch");
    for span in loads.iter().chain(&applies) {
        assert_eq!(field(span, "keyspace.name"), "named");
        assert_eq!(field(span, "db.system.name"), "etcd");
        assert_eq!(field(span, "otel.status_code"), "OK");
    }
    assert_eq!(loads.len() + applies.len(), spans.0.lock().unwrap().len(), "and no other span");
}
