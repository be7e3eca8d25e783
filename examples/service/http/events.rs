//! `GET /events`: changes of a range as server-sent events, with resume.
//!
//! Owns the stream of one client. It has no queue: a client that reads slowly gets what changed
//! meanwhile in one piece, and one that never reads costs its range. Must not delay anybody else.
//!
//! | event | data |
//! |---|---|
//! | `set` | a part of everything in the range; the first has `part` 0 and replaces what the client has, the last has `last` |
//! | `change` | net changes since the event before: `op` is `+`, `~` or `-` |
//! | `resumed` | nothing was missed; changes follow |
//! | `pulses` | figures of the service in the last seconds, once at the begin |
//! | `pulse` | figures of the service, once a second |
//!
//! The id of an event names the state of the range after it: the revision, for people, and the
//! range's validator, which is the same in every replica. A client that comes back with `Last-Event-ID`
//! goes on when the range is still in that state. When it is not, what was missed is gone, since no
//! history is kept: the client gets a fresh full set, and what changed and changed back it will never
//! know.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use etcd_keyspace::{Change, Changes, Delta, Revision, Validator};
use futures_core::Stream;
use tokio::sync::mpsc;

use super::Service;
use super::document::{Document, quoted, write_entry, write_list};
use super::pulse::Pulses;
use super::query::{Ask, Refusal};

/// Entries in one event of a full set.
const PART: usize = 1_000;
/// Between signs of life, so that proxies do not take the stream for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn stream(
    State(service): State<Service>,
    Query(ask): Query<Ask>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Refusal> {
    let range = ask.range(service.ks.mirrored())?;
    let changes = service.ks.try_changes(range);
    let changes = changes.map_err(|error| Refusal::Bad(error.to_string()))?;
    let seen = headers.get("last-event-id").and_then(|id| {
        let (_, validator) = id.to_str().ok()?.split_once('.')?;
        validator.parse().ok()
    });
    // One at a time is on its way; the next is made when the client has taken it.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(Feed { service, changes, sender }.run(seen));
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(Events(receiver)).keep_alive(keep_alive))
}

/// The events of one client.
struct Events(mpsc::Receiver<Event>);

impl Stream for Events {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|event| event.map(Ok))
    }
}

/// The client has gone, or the service ends.
struct Gone;

/// What sends to one client.
struct Feed {
    service: Service,
    changes: Changes<Document>,
    sender: mpsc::Sender<Event>,
}

impl Feed {
    /// Sends until the client is gone, the key space stops or the service ends.
    async fn run(mut self, seen: Option<Validator>) -> Result<(), Gone> {
        let mut pulse = self.service.pulse.clone();
        let event = pulses(&pulse.borrow_and_update());
        self.send(event).await?;
        let mut told = false;
        loop {
            tokio::select! {
                delta = self.changes.next() => match delta {
                    Ok(delta) if told => self.send(change(&self.changes, &delta)).await?,
                    Ok(delta) => {
                        told = true;
                        self.begin(delta.to_revision(), seen).await?;
                    }
                    Err(_) => {
                        // The last pulse has the state, and nothing will change any more.
                        let event = last(&pulse.borrow());
                        return self.send(event).await;
                    }
                },
                Ok(()) = pulse.changed() => {
                    let event = last(&pulse.borrow_and_update());
                    self.send(event).await?;
                }
                () = self.sender.closed() => return Err(Gone),
                () = self.service.stopped() => return Err(Gone),
            }
        }
    }

    async fn send(&self, event: Event) -> Result<(), Gone> {
        tokio::select! {
            sent = self.sender.send(event) => sent.map_err(|_| Gone),
            () = self.service.stopped() => Err(Gone),
        }
    }

    /// The first item: everything, unless the client has it.
    async fn begin(&self, revision: Revision, seen: Option<Validator>) -> Result<(), Gone> {
        if seen.is_some() && seen == self.changes.validator() {
            return self.send(Event::default().event("resumed").data("{}")).await;
        }
        let all = self.changes.entries();
        let mut entries = all.iter();
        let parts = all.len().div_ceil(PART).max(1);
        for part in 0..parts {
            let last = part + 1 == parts;
            let mut data = format!(r#"{{"part":{part},"last":{last},"entries":"#);
            write_list(entries.by_ref().take(PART), &mut data, |entry, out| {
                write_entry(entry, out)
            });
            data.push('}');
            let event = Event::default().event("set").data(data);
            // Whoever breaks off in the middle has nothing to go on from.
            self.send(if last { event.id(id(&self.changes, revision)) } else { event }).await?;
        }
        Ok(())
    }
}

fn change(changes: &Changes<Document>, delta: &Delta<Document>) -> Event {
    let mut data = format!(r#"{{"revision":{},"changes":"#, delta.to_revision());
    write_list(delta, &mut data, |change, out| {
        let op = match change {
            Change::Added(_) => '+',
            Change::Removed(_) => '-',
            _ => '~',
        };
        out.push_str(&format!(r#"{{"op":"{op}","#));
        match change.new() {
            Some(entry) => {
                out.push_str(r#""entry":"#);
                write_entry(entry, out);
            }
            None => {
                let key = quoted(&String::from_utf8_lossy(change.key()));
                out.push_str(&format!(r#""key":{key}"#));
            }
        }
        out.push('}');
    });
    data.push('}');
    Event::default().event("change").data(data).id(id(changes, delta.to_revision()))
}

/// Names the state of the range that the client has after this event.
fn id(changes: &Changes<Document>, revision: Revision) -> String {
    let validator = changes.validator().map(|validator| validator.to_string());
    format!("{revision}.{}", validator.unwrap_or_default())
}

fn pulses(pulses: &Pulses) -> Event {
    let mut data = String::new();
    write_list(pulses, &mut data, |pulse, out| out.push_str(pulse));
    Event::default().event("pulses").data(data)
}

fn last(pulses: &Pulses) -> Event {
    let newest = pulses.back().map_or("{}", |pulse| &**pulse);
    Event::default().event("pulse").data(newest)
}
