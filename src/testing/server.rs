//! Requests and their answers: the fake as a [`Source`] and its connections.
//!
//! Owns how a request travels (refused, held up, delayed, lost) and how a range is read. Must not
//! decide what a watch stream sends: that is `watcher`.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

use super::FakeEtcd;
use super::cluster::{Cluster, Shared};
use super::member::{Call, error, words};
use super::stream::{FakeRangeStream, FakeWatchStream};
use crate::model::{KeyRange, RawKeyValue, Revision};
use crate::source::sealed::Sealed;
use crate::source::{
    BoxFuture, Connection, RangePage, RangeRequest, RangeStream, ServerVersion, Source,
    SourceError, SourceErrorKind, WatchStream,
};

/// From this version on keys without values are read from the index, which knows no leases (measured
/// on etcd 3.7.2).
const KEYS_FROM_INDEX: (u32, u32) = (3, 7);

impl Sealed for FakeEtcd {}

impl Source for FakeEtcd {
    fn endpoints(&self) -> usize {
        self.shared.update(|cluster| cluster.members.len())
    }

    fn endpoint_name(&self, index: usize) -> String {
        format!("fake-{index}")
    }

    fn connect(
        &self,
        index: usize,
    ) -> BoxFuture<'static, Result<Box<dyn Connection>, SourceError>> {
        let connection = FakeConnection { shared: Arc::clone(&self.shared), member: index };
        Box::pin(async move {
            connection.count(|counts| counts.connects += 1);
            connection.exchange(Call::Connect, |_| Ok(())).await?;
            Ok(Box::new(connection) as Box<dyn Connection>)
        })
    }
}

/// A connection to one member. Like the real client's, it connects again by itself after a cut.
#[derive(Clone)]
struct FakeConnection {
    shared: Arc<Shared>,
    member: usize,
}

impl fmt::Debug for FakeConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeConnection").field("member", &self.member).finish_non_exhaustive()
    }
}

impl FakeConnection {
    fn count(&self, count: impl FnOnce(&mut super::Counts)) {
        self.shared.update(|cluster| cluster.count(self.member, count));
    }

    /// Carries one request to the member and its answer back.
    ///
    /// The member reads its store when the request arrives, so that a delayed answer is an old one.
    async fn exchange<R>(
        &self,
        call: Call,
        serve: impl FnOnce(&mut Cluster) -> Result<R, SourceError>,
    ) -> Result<R, SourceError> {
        let generation = self.shared.update(|cluster| cluster.members[self.member].generation);
        self.pass(generation, call.is_linearizable()).await?;
        let (answer, delay) = self.shared.update(|cluster| {
            let delay = cluster.delay(self.member, call);
            let refused = cluster.members[self.member].refuse(call);
            let answer = refused.and_then(|()| serve(cluster));
            (answer, delay + cluster.members[self.member].work(1, 0))
        });
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.pass(generation, false).await?;
        answer
    }

    async fn pass(&self, generation: u64, reading: bool) -> Result<(), SourceError> {
        poll_fn(|cx| {
            let waker = cx.waker();
            self.shared.update(|cluster| cluster.poll_gate(self.member, generation, reading, waker))
        })
        .await
    }
}

impl Connection for FakeConnection {
    fn version(&self) -> BoxFuture<'static, Result<ServerVersion, SourceError>> {
        let connection = self.clone();
        Box::pin(async move {
            let member = connection.member;
            connection.count(|counts| counts.versions += 1);
            connection.exchange(Call::Version, |cluster| Ok(cluster.members[member].version)).await
        })
    }

    fn range(&self, request: RangeRequest) -> BoxFuture<'static, Result<RangePage, SourceError>> {
        let connection = self.clone();
        Box::pin(async move {
            let member = connection.member;
            connection.count(|counts| counts.count_range(&request));
            connection.exchange(Call::Range, |cluster| read_page(cluster, member, &request)).await
        })
    }

    fn range_stream(
        &self,
        range: &KeyRange,
    ) -> BoxFuture<'static, Result<Box<dyn RangeStream>, SourceError>> {
        let connection = self.clone();
        let range = range.clone();
        Box::pin(async move {
            let member = connection.member;
            connection.count(|counts| counts.range_streams += 1);
            let (revision, generation) = connection
                .exchange(Call::RangeStream, |cluster| {
                    cluster.members[member].check_access(&range)?;
                    let version = cluster.members[member].version;
                    if (version.major, version.minor) < (3, 7) {
                        let kind = SourceErrorKind::Unimplemented;
                        return Err(error(kind, words(kind)));
                    }
                    let applied = cluster.members[member].applied(&cluster.store);
                    Ok((applied.revision, cluster.members[member].generation))
                })
                .await?;
            let stream =
                FakeRangeStream::new(connection.shared, member, generation, range, revision);
            Ok(Box::new(stream) as Box<dyn RangeStream>)
        })
    }

    fn watch(
        &self,
        range: &KeyRange,
        start_revision: Revision,
    ) -> BoxFuture<'static, Result<Box<dyn WatchStream>, SourceError>> {
        let connection = self.clone();
        let range = range.clone();
        Box::pin(async move {
            let member = connection.member;
            connection.count(|counts| counts.watches += 1);
            // The stream exists from here on, so that giving up the request closes it.
            let mut stream = FakeWatchStream::new(Arc::clone(&connection.shared), member);
            connection
                .exchange(Call::Watch, |cluster| {
                    stream.attach(cluster.open_watcher(member, range, start_revision));
                    Ok(())
                })
                .await?;
            Ok(Box::new(stream) as Box<dyn WatchStream>)
        })
    }

    fn refresh_token(&self) -> BoxFuture<'static, Result<(), SourceError>> {
        let connection = self.clone();
        Box::pin(async move {
            let member = connection.member;
            connection.count(|counts| counts.token_refreshes += 1);
            connection
                .exchange(Call::RefreshToken, |cluster| {
                    cluster.members[member].refresh_token();
                    Ok(())
                })
                .await
        })
    }
}

/// Reads one page as etcd does (server: `applyV3.Range`).
fn read_page(
    cluster: &mut Cluster,
    member: usize,
    request: &RangeRequest,
) -> Result<RangePage, SourceError> {
    cluster.members[member].check_access(&request.range)?;
    let header = cluster.header(member);
    let revision = cluster.members[member].applied(&cluster.store).readable(request.revision)?;
    let mut page = RangePage { header, ..RangePage::default() };
    let limit = match usize::try_from(request.limit) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(limit) => limit,
    };
    let version = cluster.members[member].version;
    let with_lease = !request.keys_only || (version.major, version.minor) < KEYS_FROM_INDEX;
    for record in cluster.store.live(&request.range, revision) {
        page.count += 1;
        if request.count_only || record.mod_revision < request.min_mod_revision {
            continue;
        }
        if page.kvs.len() < limit {
            let lease = if with_lease { record.lease } else { 0 };
            page.kvs.push(RawKeyValue { lease, ..copy(record, request.keys_only) });
        } else {
            page.more = true;
        }
    }
    let member = &mut cluster.members[member];
    let read = page.kvs.iter().map(RawKeyValue::bytes).sum();
    member.check_size(read)?;
    member.work(0, read);
    if member.faults.scramble > 0 && !page.kvs.is_empty() {
        member.faults.scramble -= 1;
        scramble(&mut page.kvs);
    }
    Ok(page)
}

fn copy(record: &RawKeyValue, keys_only: bool) -> RawKeyValue {
    let value = if keys_only { Vec::new() } else { record.value.clone() };
    RawKeyValue { key: record.key.clone(), value, ..*record }
}

/// Breaks the order of a page: the first and the last key change places, a single key comes twice.
fn scramble(kvs: &mut Vec<RawKeyValue>) {
    if let [only] = kvs.as_slice() {
        kvs.push(only.clone());
    } else {
        let last = kvs.len() - 1;
        kvs.swap(0, last);
    }
}
