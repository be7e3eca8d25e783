//! The end of every test against a real etcd: the mirror equals the store, byte for byte.
//!
//! Owns the comparison and what it says about a difference. Changes neither side, and believes
//! nothing of the mirror but what it shows.

use std::fmt;

use etcd_client::{Client, GetOptions, KeyValue};
use etcd_keyspace::{Entry, KeyRange, KeySpace, Revision, Snapshot};

use super::within;

/// Differences shown by a failure.
const SHOWN_MAX: usize = 5;
/// Bytes of a key or value shown.
const BYTES_MAX: usize = 60;
/// The largest answer of etcd that is taken.
const ANSWER_MAX: usize = 512 << 20;

/// Asserts that the whole key space, which mirrors `prefix`, equals etcd: all keys with value,
/// create and mod revision, version and lease.
///
/// etcd is asked linearizably, so the mirror must show at least everything written before the call.
/// When the view is ahead of that answer, etcd is asked again as of the view's own revision: the
/// comparison is always at equal confirmed revisions, also while others write.
///
/// # Panics
/// If they differ, with the first differences, or if the mirror does not get that far in time.
#[track_caller]
pub fn equals_etcd<T>(
    ks: &KeySpace<T>,
    client: &mut Client,
    prefix: &str,
) -> impl Future<Output = ()>
where
    T: AsRef<[u8]> + Send + Sync + 'static,
{
    let caller = std::panic::Location::caller();
    assert_eq!(*ks.mirrored(), KeyRange::prefix(prefix), "compare the whole range");
    async move {
        let mut answer = read(client, prefix, 0).await;
        let told = within("the mirror reaches etcd", ks.wait_for_revision(answer.revision)).await;
        let told = told.unwrap_or_else(|error| panic!("{caller}: no comparison: {error}"));
        let view = ks.snapshot();
        assert!(told >= answer.revision && view.confirmed() >= told, "{caller}: a wait lied");
        if view.confirmed() != answer.revision {
            answer = read(client, prefix, view.confirmed()).await;
        }
        assert_eq!(view.cluster_id(), Some(answer.cluster_id), "{caller}: of another cluster");
        assert!(view.revision() <= view.confirmed(), "{caller}: {view:?}");
        let newest = view.iter().map(|entry| entry.mod_revision()).max().unwrap_or(0);
        assert!(newest <= view.revision(), "{caller}: {newest} in {view:?}");
        let differences = differences(&view, &answer.kvs);
        assert!(
            differences.is_empty(),
            "{caller}: {} of {} keys differ at revision {} ({:?}):\n{}",
            differences.len(),
            answer.kvs.len(),
            view.confirmed(),
            ks.status(),
            differences[..differences.len().min(SHOWN_MAX)].join("\n"),
        );
    }
}

/// Asserts that what a key space showed at some moment is what etcd held at the revision through
/// which the view said it was complete. For histories that nobody compacts.
///
/// # Panics
/// As [`equals_etcd`].
#[track_caller]
pub fn was_etcd<T>(
    view: &Snapshot<T>,
    client: &mut Client,
    prefix: &str,
) -> impl Future<Output = ()>
where
    T: AsRef<[u8]>,
{
    let caller = std::panic::Location::caller();
    async move {
        let answer = read(client, prefix, view.confirmed()).await;
        let differences = differences(view, &answer.kvs);
        assert!(
            differences.is_empty(),
            "{caller}: {} of {} keys differ in what was shown as revision {}:\n{}",
            differences.len(),
            answer.kvs.len(),
            view.confirmed(),
            differences[..differences.len().min(SHOWN_MAX)].join("\n"),
        );
    }
}

/// The gRPC status of a server that may be asked again.
const UNAVAILABLE: i32 = 14;

struct Answer {
    kvs: Vec<KeyValue>,
    revision: Revision,
    cluster_id: u64,
}

/// A linearizable read of everything under `prefix`: now for zero, else as of `revision`.
async fn read(client: &mut Client, prefix: &str, revision: Revision) -> Answer {
    let mut kv = client.kv_client().max_decoding_message_size(ANSWER_MAX);
    let options = GetOptions::new().with_prefix().with_revision(revision);
    let mut read = within("a range read", async {
        loop {
            match kv.get(prefix, Some(options.clone())).await {
                Ok(read) => return read,
                // A cluster that has just lost its leader says so, and may be asked again.
                Err(etcd_client::Error::GRpcStatus(status))
                    if status.code() as i32 == UNAVAILABLE => {}
                Err(error) => panic!("etcd answers a range read: {error}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    let header = read.header().expect("an answer has a header");
    let (now, cluster_id) = (header.revision(), header.cluster_id());
    let revision = if revision > 0 { revision } else { now };
    Answer { kvs: read.take_kvs(), revision, cluster_id }
}

/// What differs, in key order.
fn differences<T: AsRef<[u8]>>(view: &Snapshot<T>, kvs: &[KeyValue]) -> Vec<String> {
    let mut found = Vec::new();
    let mut entries = view.iter().peekable();
    let mut last: Option<&[u8]> = None;
    for kv in kvs {
        while let Some(ghost) = entries.next_if(|entry| entry.key() < kv.key()) {
            found.push(format!("only mirrored: {}", mirrored(ghost)));
        }
        match entries.next_if(|entry| entry.key() == kv.key()) {
            None => found.push(format!("not mirrored: {}", stored(kv))),
            Some(entry) => {
                if mirrored(entry) != stored(kv) {
                    found.push(format!("{} instead of {}", mirrored(entry), stored(kv)));
                }
                // The same answer by the index as by iteration.
                if !view.get(kv.key()).is_some_and(|got| std::sync::Arc::ptr_eq(got, entry)) {
                    found.push(format!("not found by its key: {}", mirrored(entry)));
                }
                if last.is_some_and(|last| last >= entry.key()) {
                    found.push(format!("out of order: {}", mirrored(entry)));
                }
                last = Some(kv.key());
            }
        }
    }
    found.extend(entries.map(|ghost| format!("only mirrored: {}", mirrored(ghost))));
    if view.len() != view.iter().count() {
        found.push(format!("{} entries are said to be {}", view.iter().count(), view.len()));
    }
    found
}

/// One record with every field.
#[derive(PartialEq, Eq)]
struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
    create: i64,
    modified: i64,
    version: i64,
    lease: i64,
}

fn stored(kv: &KeyValue) -> Record<'_> {
    Record {
        key: kv.key(),
        value: kv.value(),
        create: kv.create_revision(),
        modified: kv.mod_revision(),
        version: kv.version(),
        lease: kv.lease(),
    }
}

fn mirrored<T: AsRef<[u8]>>(entry: &Entry<T>) -> Record<'_> {
    Record {
        key: entry.key(),
        value: entry.value().as_ref(),
        create: entry.create_revision(),
        modified: entry.mod_revision(),
        version: entry.version(),
        lease: entry.lease(),
    }
}

impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |bytes: &[u8]| bytes[..bytes.len().min(BYTES_MAX)].escape_ascii().to_string();
        write!(
            f,
            "{} = {:?} ({} bytes, create {}, mod {}, version {}, lease {:x})",
            short(self.key),
            short(self.value),
            self.value.len(),
            self.create,
            self.modified,
            self.version,
            self.lease
        )
    }
}
