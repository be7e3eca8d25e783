//! `/livez`, `/readyz` and `/metrics`: what those ask who start, stop and watch the service.
//!
//! Owns when the service says that it is ready. Must not ask etcd: the mirror knows.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::Service;

/// The process answers. That etcd is away is no reason to restart it: the data stays readable.
pub(super) async fn live() -> &'static str {
    "live\n"
}

/// Loaded, watching, and current not too long ago: requests may be sent here.
pub(super) async fn ready(State(service): State<Service>) -> impl IntoResponse {
    let status = service.ks.status();
    if *service.stopping.borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    }
    if status.is_fresh(service.limits.fresh) {
        return (StatusCode::OK, format!("ready: through revision {}\n", status.confirmed));
    }
    let age = status.current_as_of.map(|age| format!("{age:.1?}"));
    let age = age.as_deref().unwrap_or("never");
    (StatusCode::SERVICE_UNAVAILABLE, format!("{}; current as of: {age}\n", status.state))
}

/// In the text form that Prometheus reads.
pub(super) async fn metrics(State(service): State<Service>) -> impl IntoResponse {
    // Histograms keep single values until they are drained into buckets.
    service.metrics.run_upkeep();
    let mut text = service.metrics.render();
    if cfg!(not(feature = "metrics")) {
        text.push_str("# nothing is measured: build with `--features metrics`\n");
    }
    ([("content-type", "text/plain; version=0.0.4")], text)
}
