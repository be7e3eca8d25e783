//! `GET /events`: every event of a range as server-sent events, with resume.
//!
//! Owns the stream of one client. It has no queue: a client that reads slowly is told from the history
//! of the key space, and begins anew when it has fallen behind that. Must not delay anybody else.
//!
//! | query | |
//! |---|---|
//! | `key`, `prefix`, `from` and `to` | the range, as for `GET /kv` |
//! | `resync=300` | tell everything again whenever that was not done for so many seconds |
//! | `pulse=true` | figures of the service, too: `pulses`, those of the last seconds, then a `pulse` each second |
//!
//! | event | data |
//! |---|---|
//! | `reset` | everything follows, and why: `reason`, `revision`, `count` |
//! | `set` | a part of everything, `entries`; with the one that has `last` it replaces what the client has |
//! | `change` | all that one revision of etcd changed in the range, `changes`: `op` is `+`, `~` or `-` |
//! | `difference` | net changes over events that nobody knows, and why: `reason`, `changes` |
//! | `resumed` | the client goes on after the id it came back with |
//! | `progress` | a sign of life: nothing was left out through its `revision` |
//!
//! An id names all events through a revision. A client that comes back with `Last-Event-ID`, as browsers
//! do by themselves, is told every event after it, none missing and none twice, as far back as
//! `Limits::history` reaches. Otherwise it is told everything, and why:
//!
//! | `reason` | |
//! |---|---|
//! | `start` | it brought no id |
//! | `behind` | the history does not reach back to its id, or it read too slowly |
//! | `reload` | etcd had lost history, and everything was read again |
//! | `new_epoch` | etcd is another one, or was replaced by a backup: revisions before mean nothing now |
//! | `periodic` | `resync` asked for it |
//! | `other_process` | its id is of another replica, or of a former life of this one |
//! | `unknown_id` | its id is none that was ever given here |

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use etcd_keyspace::{
    Change, Entry, Events, EventsOptions, KeyEvent, KeyRange, Start, SyncReason, SyncSet,
};
use futures_core::Stream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Service;
use super::document::{Document, quoted, write_entry, write_list};
use super::place::Place;
use super::pulse::Pulses;
use super::query::{Ask, Refusal};

/// Entries in one part of everything, and changes in one `difference`.
const PART: usize = 1_000;
/// Telling everything is dear.
const RESYNC_MIN: Duration = Duration::from_secs(1);

/// How a client wants to be told.
#[derive(Debug, Default, serde::Deserialize)]
pub(super) struct Wish {
    resync: Option<f64>,
    #[serde(default)]
    pulse: bool,
}

pub(super) async fn stream(
    State(service): State<Service>,
    Query(ask): Query<Ask>,
    Query(wish): Query<Wish>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Refusal> {
    let range = ask.range(service.ks.mirrored())?;
    let place = Arc::clone(&service.streams).try_acquire_owned();
    let place = place.map_err(|_| Refusal::Unavailable("too many streams".into()))?;
    let mut options = EventsOptions::default();
    if let Some(seconds) = wish.resync {
        let every = Duration::try_from_secs_f64(seconds);
        let every = every.map_err(|_| Refusal::Bad("resync after some seconds".into()))?;
        options = options.resync(every.max(RESYNC_MIN));
    }
    let has = match headers.get("last-event-id") {
        None => Has::Nothing("start"),
        Some(id) => {
            let place = id.to_str().unwrap_or_default().parse::<Place>();
            let place = place.and_then(|place| place.of_here(&service.ks, service.process));
            place.map_or_else(Has::Nothing, Has::Perhaps)
        }
    };
    let start = match &has {
        Has::Perhaps(place) => Start::after(place.revision),
        _ => Start::Now,
    };
    let events = service.ks.try_events(range.clone(), start, options);
    let events = events.map_err(|error| Refusal::Bad(error.to_string()))?;
    // One at a time is on its way; the next is made when the client has taken it.
    let (sender, receiver) = mpsc::channel(1);
    let feed = Feed { service, range, options, events, sender, has, revision: Vec::new() };
    tokio::spawn(feed.run(wish.pulse));
    Ok(Sse::new(Sent { events: receiver, _place: place }))
}

/// The events of one client.
struct Sent {
    events: mpsc::Receiver<Event>,
    /// Given back with the connection.
    _place: OwnedSemaphorePermit,
}

impl Stream for Sent {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(cx).map(|event| event.map(Ok))
    }
}

/// The client has gone, or takes nothing, or the service ends.
struct Gone;

/// What the client has.
enum Has {
    /// Nothing to go on from; why.
    Nothing(&'static str),
    /// What was told through the place it came back with, if that can still be gone on from.
    Perhaps(Place),
    /// All that was told, which is of this epoch.
    All(u64),
}

/// What sends to one client.
struct Feed {
    service: Service,
    range: KeyRange,
    options: EventsOptions,
    events: Events<Document>,
    sender: mpsc::Sender<Event>,
    has: Has,
    /// The events of a revision, until all are there.
    revision: Vec<KeyEvent<Document>>,
}

impl Feed {
    /// Sends until the client is gone, the key space stops or the service ends.
    async fn run(mut self, with_pulse: bool) -> Result<(), Gone> {
        let mut pulse = self.service.pulse.clone();
        let first = pulses(&pulse.borrow_and_update());
        if with_pulse {
            self.send(first).await?;
        }
        let mut ticks = interval(self.service.limits.keep_alive);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            let synced = self.events.synced();
            tokio::select! {
                event = self.events.next() => match event {
                    Ok(event) => self.take(event).await?,
                    // Nothing will change any more; the last figures have the state.
                    Err(_) if with_pulse => {
                        let event = last(&pulse.borrow());
                        return self.send(event).await;
                    }
                    Err(_) => return Ok(()),
                },
                true = synced, if matches!(self.has, Has::Perhaps(_)) => self.resume().await?,
                _ = ticks.tick() => self.progress().await?,
                Ok(()) = pulse.changed(), if with_pulse => {
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
            // Whoever takes nothing for so long is let go, and may come back with its id.
            sent = timeout(self.service.limits.patience, self.sender.send(event)) => match sent {
                Ok(Ok(())) => Ok(()),
                _ => Err(Gone),
            },
            () = self.service.stopped() => Err(Gone),
        }
    }

    /// Tells an event when all of its revision are there, so that nobody goes on from between them.
    async fn take(&mut self, event: KeyEvent<Document>) -> Result<(), Gone> {
        if let KeyEvent::Sync(set) = event {
            return self.sync(&set).await;
        }
        self.resume().await?;
        if let Has::Nothing(_) = self.has {
            return Ok(());
        }
        let revision = event.revision();
        self.revision.push(event);
        if self.events.token().revision() < revision {
            return Ok(());
        }
        let mut data = format!(r#"{{"revision":{revision},"changes":"#);
        write_list(self.revision.drain(..), &mut data, |event, out| match &event {
            KeyEvent::Added(new) => put(out, '+', new),
            KeyEvent::Updated { new, .. } => put(out, '~', new),
            KeyEvent::Deleted { old, .. } => delete(out, old.key()),
            KeyEvent::Sync(_) => {}
        });
        data.push('}');
        self.send(self.with_id(Event::default().event("change").data(data))).await
    }

    /// Goes on where the client was. Only the key space knows epochs before it is asked to start, so it
    /// is looked at again afterwards, lest the store was replaced between the two.
    async fn resume(&mut self) -> Result<(), Gone> {
        let Has::Perhaps(place) = self.has else { return Ok(()) };
        let ks = &self.service.ks;
        let epoch = ks.snapshot().epoch();
        if epoch != place.epoch {
            self.has = Has::Nothing("new_epoch");
            let events = ks.try_events(self.range.clone(), Start::Now, self.options);
            self.events = events.map_err(|_| Gone)?;
            return Ok(());
        }
        self.has = Has::All(epoch);
        let data = format!(r#"{{"revision":{}}}"#, place.revision);
        self.send(Event::default().event("resumed").data(data)).await
    }

    /// The whole range, or its difference where that is known, with the reason.
    async fn sync(&mut self, set: &SyncSet<Document>) -> Result<(), Gone> {
        let had = std::mem::replace(&mut self.has, Has::All(set.epoch()));
        let reason = match (&had, set.reason()) {
            (Has::Nothing(reason), SyncReason::Start) => *reason,
            (_, reason) => name(reason),
        };
        let revision = set.revision();
        if let (Has::All(_), Some(difference)) = (had, set.difference())
            && difference.len() <= PART
        {
            let mut data = format!(r#"{{"reason":"{reason}","revision":{revision},"changes":"#);
            write_list(difference, &mut data, |change, out| match change {
                Change::Removed(old) => delete(out, old.key()),
                Change::Added(new) => put(out, '+', new),
                Change::Updated { new, .. } | Change::Replaced { new, .. } => put(out, '~', new),
            });
            data.push('}');
            return self.send(self.with_id(Event::default().event("difference").data(data))).await;
        }
        let mut entries = set.entries().iter();
        let count = entries.len();
        let data = format!(r#"{{"reason":"{reason}","revision":{revision},"count":{count}}}"#);
        self.send(Event::default().event("reset").data(data)).await?;
        loop {
            let mut data = String::from(r#"{"entries":"#);
            let part = entries.by_ref().take(PART);
            write_list(part, &mut data, |entry, out| write_entry(entry, out));
            let last = entries.len() == 0;
            data.push_str(&format!(r#","last":{last}}}"#));
            let event = Event::default().event("set").data(data);
            if last {
                return self.send(self.with_id(event)).await;
            }
            // Whoever breaks off here goes on from what it had before.
            self.send(event).await?;
        }
    }

    /// A sign of life, so that proxies do not take the stream for dead. Its id moves on with the key
    /// space, so that a quiet range among busy ones can be resumed too.
    async fn progress(&self) -> Result<(), Gone> {
        if !matches!(self.has, Has::All(_)) {
            return self.send(Event::default().comment("waiting")).await;
        }
        let data = format!(r#"{{"revision":{}}}"#, self.events.token().revision());
        self.send(self.with_id(Event::default().event("progress").data(data))).await
    }

    /// Names what the client has after this event.
    fn with_id(&self, event: Event) -> Event {
        let Has::All(epoch) = self.has else { return event };
        let revision = self.events.token().revision();
        event.id(Place { revision, epoch, process: self.service.process }.to_string())
    }
}

fn name(reason: SyncReason) -> &'static str {
    match reason {
        SyncReason::Start => "start",
        SyncReason::Behind => "behind",
        SyncReason::Reload => "reload",
        SyncReason::NewEpoch => "new_epoch",
        SyncReason::Periodic => "periodic",
        _ => "other",
    }
}

fn put(out: &mut String, op: char, entry: &Entry<Document>) {
    out.push_str(&format!(r#"{{"op":"{op}","entry":"#));
    write_entry(entry, out);
    out.push('}');
}

fn delete(out: &mut String, key: &[u8]) {
    out.push_str(&format!(r#"{{"op":"-","key":{}}}"#, quoted(&String::from_utf8_lossy(key))));
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
