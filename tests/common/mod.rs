//! What the tests of the layers below the mirror share: events, a store that makes them as etcd
//! does, an oracle, and wakers that count. Uses the public interface only.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test uses a part of this")]

pub mod history;
pub mod model;
pub mod wake;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_keyspace::{
    Builder, Event, Header, KeyRange, KeySpace, RawKeyValue, Revision, WatchResponse, Writer,
};

pub use history::{History, Op};
pub use model::Model;
pub use wake::{Wakes, block_on, now, poll_once, poll_with};

/// The cluster all fixtures are of.
pub const CLUSTER: u64 = 0xc1;

/// The text of a value; anything with a `!` in front is refused.
pub fn text(kv: RawKeyValue) -> Result<String, String> {
    let value = String::from_utf8_lossy(&kv.value).into_owned();
    if value.starts_with('!') { Err(format!("bad value {value}")) } else { Ok(value) }
}

/// A builder of a key space of texts below `/`.
pub fn texts() -> Builder<String> {
    KeySpace::builder("/").unwrap().decoder(text)
}

/// A key space of texts below `/`, loaded with `history` as it stands.
pub fn loaded(history: &History) -> (KeySpace<String>, Writer<String>) {
    let (ks, mut writer) = texts().writer();
    writer.load(history.header(), history.kvs()).unwrap();
    (ks, writer)
}

pub fn header(revision: Revision) -> Header {
    Header { cluster_id: CLUSTER, member_id: 1, revision, raft_term: 1 }
}

pub fn record(
    key: &str,
    value: &str,
    create_revision: Revision,
    mod_revision: Revision,
    version: i64,
) -> RawKeyValue {
    RawKeyValue {
        key: key.into(),
        value: value.into(),
        create_revision,
        mod_revision,
        version,
        lease: 0,
    }
}

/// A put with its create revision, mod revision and version.
pub fn put(key: &str, value: &str, create: Revision, modified: Revision, version: i64) -> Event {
    Event::Put(record(key, value, create, modified, version))
}

pub fn delete(key: &str, mod_revision: Revision) -> Event {
    Event::Delete { key: key.into(), mod_revision }
}

/// A response of a watcher that is not behind: its header is at its last event.
pub fn response(events: Vec<Event>) -> WatchResponse {
    let revision = events.last().map_or(0, Event::mod_revision);
    WatchResponse { header: Some(header(revision)), events, ..WatchResponse::default() }
}

/// The message and the place of the panic that `body` must make.
///
/// # Panics
/// If it makes none.
#[track_caller]
pub fn panic_of<R>(body: impl FnOnce() -> R) -> (String, String) {
    // The hook is the process's, so only one thread at a time may replace it.
    static HOOK: Mutex<()> = Mutex::new(());
    static SEEN: Mutex<Option<(std::thread::ThreadId, String)>> = Mutex::new(None);
    let _one = lock(&HOOK);
    let me = std::thread::current().id();
    let former = Arc::new(std::panic::take_hook());
    let hook = {
        let former = Arc::clone(&former);
        move |info: &std::panic::PanicHookInfo<'_>| {
            if std::thread::current().id() == me {
                let at = info.location().map(ToString::to_string).unwrap_or_default();
                *lock(&SEEN) = Some((me, at));
            } else {
                former(info);
            }
        }
    };
    std::panic::set_hook(Box::new(hook));
    let result = catch_unwind(AssertUnwindSafe(body));
    std::panic::set_hook(Box::new(move |info| former(info)));
    let Err(payload) = result else { panic!("no panic") };
    let message = payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .expect("a panic with text");
    let (_, at) = lock(&SEEN).take().expect("the hook ran");
    (message, at)
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns when plain reads of another thread have been stuck for a while, as they are behind a
/// waiting writer. Should the machine only have been slow, the test proves less and fails no more.
pub fn until_a_writer_waits(ks: &KeySpace<String>) {
    let (reading, reads) = std::sync::mpsc::sync_channel(0);
    let ks = ks.clone();
    std::thread::spawn(move || {
        while reading.send(()).is_ok() {
            drop(ks.read());
        }
    });
    while reads.recv_timeout(Duration::from_millis(50)).is_ok() {}
}

/// Every error text from `error` down its sources.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    let mut next = error.source();
    while let Some(error) = next {
        texts.push(error.to_string());
        next = error.source();
    }
    texts
}

/// The keys and values of a view of texts.
pub fn shown(view: &etcd_keyspace::View<String>) -> Vec<(String, String)> {
    view.iter().map(|entry| (entry.key_str().into_owned(), entry.value().clone())).collect()
}

/// `shown`, compared with literals.
#[track_caller]
pub fn check_shown(view: &etcd_keyspace::View<String>, expected: &[(&str, &str)]) {
    let shown = shown(view);
    let shown: Vec<_> = shown.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(shown, expected);
}
