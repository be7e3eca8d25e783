//! `GET /kv`: point and range reads from memory, reads of one's own writes, and blocking reads.
//!
//! Owns what a request may ask and how it is answered. Must not hold a read guard across an `.await`.
//!
//! | query | |
//! |---|---|
//! | `key=/a/b` | one key; 404 when it is not there |
//! | `prefix=/a/`, `from=/a&to=/b` | a range; without any of them everything that is mirrored |
//! | `limit=100` | that many entries at most (1,000 unless said); `next` in the answer is the next `from` |
//! | `min_revision=7` | wait until the data is complete through this revision of etcd |
//! | `wait=30` | with `If-None-Match`: wait so many seconds for the range to become another one |
//!
//! The header `X-Keyspace-Token` of an answer, sent with a later request to any replica of the
//! service, makes that one see at least as much.

use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use etcd_keyspace::{AtLeast, KeyRange, Revision, Token, Validator, View, WaitError};
use tokio::time::timeout;

use super::Service;
use super::document::{Document, quoted, write_entry, write_list};

const TOKEN: HeaderName = HeaderName::from_static("x-keyspace-token");
const REVISION: HeaderName = HeaderName::from_static("x-keyspace-revision");
const CONFIRMED: HeaderName = HeaderName::from_static("x-keyspace-confirmed");
const AGE: HeaderName = HeaderName::from_static("x-keyspace-age-ms");

const LIMIT: usize = 1_000;

/// What may stand after the question mark.
#[derive(Debug, Default, serde::Deserialize)]
pub(super) struct Ask {
    key: Option<String>,
    prefix: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<usize>,
    min_revision: Option<Revision>,
    wait: Option<f64>,
}

impl Ask {
    /// The range that is meant, which must be mirrored here.
    pub(super) fn range(&self, mirrored: &KeyRange) -> Result<KeyRange, Refusal> {
        let range = match (&self.key, &self.prefix, &self.from, &self.to) {
            (Some(key), None, None, None) => KeyRange::key(key.as_str()),
            (None, Some(prefix), from, None) => {
                let whole = KeyRange::prefix(prefix);
                match (from, whole.end()) {
                    (None, _) => whole,
                    (Some(from), Some(end)) => KeyRange::bytes(from.as_str(), end),
                    (Some(from), None) => KeyRange::from(from.as_bytes()),
                }
            }
            (None, None, None, None) => mirrored.clone(),
            (None, None, from, Some(to)) => {
                let from = from.as_ref().map_or(mirrored.start(), String::as_bytes);
                KeyRange::bytes(from, to.as_str())
            }
            (None, None, Some(from), None) => match mirrored.end() {
                Some(end) => KeyRange::bytes(from.as_str(), end),
                None => KeyRange::from(from.as_bytes()),
            },
            _ => return Err(Refusal::Bad("ask for a key, a prefix, or from and to".into())),
        };
        if range.is_empty() {
            Err(Refusal::Bad("no key can lie in that range".into()))
        } else if mirrored.covers(&range) {
            Ok(range)
        } else {
            Err(Refusal::Bad(format!("{range} is not mirrored here, which is {mirrored}")))
        }
    }

    /// What the data must have met, by a header or by a number.
    fn at_least(&self, headers: &HeaderMap) -> Result<Option<AtLeast>, Refusal> {
        if let Some(header) = headers.get(TOKEN) {
            let token = header.to_str().ok().and_then(|text| text.parse::<Token>().ok());
            return token.map(|token| Some(token.into())).ok_or(Refusal::Bad("no token".into()));
        }
        Ok(self.min_revision.map(AtLeast::from))
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Refusal {
    Bad(String),
    /// Not in time, or not any more.
    Unavailable(String),
    /// The token is of a store that is not this one.
    Conflict(String),
}

impl From<WaitError> for Refusal {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Stopped(_) => Refusal::Unavailable(error.to_string()),
            error => Refusal::Conflict(error.to_string()),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Refusal::Bad(text) => (StatusCode::BAD_REQUEST, text),
            Refusal::Unavailable(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
            Refusal::Conflict(text) => (StatusCode::CONFLICT, text),
        };
        let body = format!("{{\"error\":{}}}\n", quoted(&text));
        let mut response = (status, [(CONTENT_TYPE, "application/json")], body).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

pub(super) async fn read(
    State(service): State<Service>,
    Query(ask): Query<Ask>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Service { ks, limits, .. } = &service;
    let range = ask.range(ks.mirrored())?;
    let late = |_| Refusal::Unavailable("the data is not that far yet".into());
    if let Some(at_least) = ask.at_least(&headers)? {
        // The guard is gone at the semicolon: there are more awaits to come.
        drop(timeout(limits.deadline, ks.read_at(at_least)).await.map_err(late)??);
    }
    let seen = if_none_match(&headers);
    let asked = Duration::try_from_secs_f64(ask.wait.unwrap_or(0.0));
    let wait = asked.map_err(|_| Refusal::Bad("wait for some seconds".into()))?;
    let wait = if seen.is_some() { wait.min(limits.wait_max) } else { Duration::ZERO };

    let age = || ks.status().current_as_of;
    // The deadline is for the first load; a range that does not change is answered after its wait.
    let changed = timeout(wait + limits.deadline, ks.read_changed(range.clone(), seen, wait));
    let found = tokio::select! {
        found = changed => Some(found.map_err(late)?),
        () = service.stopped() => None,
    };
    // From here on nothing awaits, so the guard may live to the end.
    let (view, validator) = match found {
        Some(Ok(found)) => found,
        // Stopped: what is there stays readable.
        Some(Err(WaitError::Stopped(_))) | None => {
            let view = ks.read();
            let validator = view.validator(range.clone());
            (view, validator)
        }
        Some(Err(error)) => return Err(error.into()),
    };
    let mut response = if seen == Some(validator) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        answer(&ask, &view, range)
    };
    let token = Token::of_write(view.cluster_id().unwrap_or_default(), view.confirmed());
    let numbers = [
        (ETAG, format!("\"{validator}\"")),
        (TOKEN, token.to_string()),
        (REVISION, view.revision().to_string()),
        (CONFIRMED, view.confirmed().to_string()),
        (AGE, age().map_or_else(|| "unknown".to_owned(), |age| age.as_millis().to_string())),
        (CACHE_CONTROL, "no-cache".to_owned()),
    ];
    for (name, value) in numbers {
        response.headers_mut().insert(name, HeaderValue::try_from(value).expect("plain text"));
    }
    Ok(response)
}

/// The entries as JSON, straight from the view. The validator covers them, so nothing else may be in it.
fn answer(ask: &Ask, view: &View<Document>, range: KeyRange) -> Response {
    let mut body = String::new();
    let status = if let Some(key) = &ask.key {
        match view.get(key) {
            Some(entry) => {
                write_entry(entry, &mut body);
                StatusCode::OK
            }
            None => {
                body.push_str(r#"{"error":"no such key"}"#);
                StatusCode::NOT_FOUND
            }
        }
    } else {
        let entries = view.range(range);
        let limit = ask.limit.unwrap_or(LIMIT).clamp(1, 10 * LIMIT);
        body.push_str(&format!(r#"{{"count":{},"entries":"#, entries.len()));
        write_list(entries.iter().take(limit), &mut body, |entry, out| write_entry(entry, out));
        let next = entries.iter().nth(limit).map(|entry| quoted(&entry.key_str()));
        body.push_str(&format!(r#","next":{}}}"#, next.as_deref().unwrap_or("null")));
        StatusCode::OK
    };
    body.push('\n');
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

/// The first validator among those that the client has; what is none is as if nothing had been sent.
fn if_none_match(headers: &HeaderMap) -> Option<Validator> {
    let text = headers.get(IF_NONE_MATCH)?.to_str().ok()?;
    let tag = text.split(',').next()?.trim().trim_start_matches("W/").trim_matches('"');
    tag.parse().ok()
}
