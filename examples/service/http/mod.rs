//! The HTTP read API of one key space: a router to copy into a service.
//!
//! Owns the routes, what all requests share, and serving until somebody asks for the end. `query`
//! answers reads, `events` streams events and `place` names them for those who come back, `health` says
//! how the service is, `document` is the value type, and `pulse` what the live page plots. Must not know
//! where etcd is or who writes.

mod document;
mod events;
mod health;
mod place;
mod pulse;
mod query;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use etcd_keyspace::{Builder, KeyRange, KeySpace, RangeError};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

pub(crate) use document::Document;
use document::decode;

/// How long things may take, and how much is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Reads that wait for a revision, or for the first load, are given up after this.
    pub(crate) deadline: Duration,
    /// `?wait=` is cut to this.
    pub(crate) wait_max: Duration,
    /// `/readyz` says no when the data is older than this.
    pub(crate) fresh: Duration,
    /// Streams of events show so often that they live.
    pub(crate) keep_alive: Duration,
    /// A stream that takes nothing for so long is ended.
    pub(crate) patience: Duration,
    /// So many streams at a time. A client that takes nothing keeps its connection until a proxy in front,
    /// or the system, gives it up; this bounds what such clients can hold.
    pub(crate) streams: usize,
    /// So many events back, of up to `HISTORY_BYTES`, a stream can be resumed.
    pub(crate) history: usize,
}

/// Keys and values of the events that are kept.
const HISTORY_BYTES: usize = 16 << 20;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            deadline: Duration::from_secs(10),
            wait_max: Duration::from_secs(60),
            fresh: Duration::from_secs(15),
            keep_alive: Duration::from_secs(15),
            patience: Duration::from_secs(60),
            streams: 1_000,
            history: 10_000,
        }
    }
}

/// A key space for this API, which keeps what streams are resumed from.
pub(crate) fn builder(range: KeyRange, limits: &Limits) -> Result<Builder<Document>, RangeError> {
    let builder = KeySpace::builder(range)?.decoder(decode);
    Ok(builder.event_history(limits.history, HISTORY_BYTES))
}

/// What every handler has: cheap to clone, as a key space is.
#[derive(Clone)]
pub(crate) struct Service {
    ks: KeySpace<Document>,
    limits: Limits,
    /// In the ids of events: what was told here was not told elsewhere.
    process: u64,
    /// The figures of the last seconds, made once for all who look.
    pulse: watch::Receiver<pulse::Pulses>,
    metrics: PrometheusHandle,
    /// One for each stream there may be.
    streams: Arc<Semaphore>,
    /// Turns true when the service is to end: whoever waits is answered, whoever streams is let go.
    stopping: watch::Receiver<bool>,
}

impl Service {
    /// Must be made before the key space has loaded, so that no change is missed by the plots.
    pub(crate) fn new(
        ks: KeySpace<Document>,
        limits: Limits,
        metrics: PrometheusHandle,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let pulse = pulse::start(&ks);
        let streams = Arc::new(Semaphore::new(limits.streams));
        Service { ks, limits, process: place::process(), pulse, metrics, streams, stopping }
    }

    fn router(self) -> Router {
        Router::new()
            .route("/", get(async || Html(include_str!("../page.html"))))
            .route("/kv", get(query::read))
            .route("/events", get(events::stream))
            .route("/livez", get(health::live))
            .route("/readyz", get(health::ready))
            .route("/metrics", get(health::metrics))
            .with_state(self)
    }

    /// Waits until the service is to end.
    async fn stopped(&self) {
        // Without a sender nobody can ask for the end any more, which is the end too.
        let _ = self.stopping.clone().wait_for(|stop| *stop).await;
    }

    /// Serves until it is asked to stop, and then until every answer under way is out.
    pub(crate) async fn serve(self, listener: TcpListener) -> std::io::Result<()> {
        let this = self.clone();
        let stopped = async move { this.stopped().await };
        axum::serve(listener, self.router()).with_graceful_shutdown(stopped).await
    }
}

/// A recorder for `/metrics`, with buckets that fit. Install it before the key space is built.
pub(crate) fn recorder() -> PrometheusBuilder {
    const SECONDS: [f64; 12] =
        [1e-5, 1e-4, 2.5e-4, 1e-3, 2.5e-3, 1e-2, 2.5e-2, 0.1, 0.25, 1.0, 5.0, 30.0];
    const EVENTS: [f64; 7] = [1.0, 3.0, 10.0, 30.0, 100.0, 1_000.0, 10_000.0];
    let suffix = |text: &str| Matcher::Suffix(text.to_owned());
    let builder = PrometheusBuilder::new();
    // Only empty lists of buckets are refused.
    builder
        .set_buckets_for_metric(suffix("_duration_seconds"), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(suffix("_events"), &EVENTS))
        .unwrap_or_default()
}
