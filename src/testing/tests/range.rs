//! Range reads and range streams.

use super::super::{FakeEtcd, Op};
use super::*;

fn filled(keys: u8) -> FakeEtcd {
    let etcd = FakeEtcd::new();
    for key in 0..keys {
        etcd.put([b'k', key], [key]);
    }
    etcd
}

#[tokio::test(start_paused = true)]
async fn f10_a_pinned_page_carries_the_revision_of_now() {
    let etcd = filled(5);
    let first =
        read(&etcd, RangeRequest { limit: 2, ..RangeRequest::new(KeyRange::prefix("k")) }).await;
    let first = first.unwrap();
    let pinned = first.header.unwrap().revision;
    assert_eq!((pinned, first.kvs.len(), first.count, first.more), (6, 2, 5, true));
    etcd.delete_range(KeyRange::all());
    let rest = RangeRequest {
        revision: pinned,
        limit: 3,
        ..RangeRequest::new(KeyRange::bytes([b'k', 1, 0], "l"))
    };
    let rest = read(&etcd, rest).await.unwrap();
    assert_eq!((rest.header.unwrap().revision, rest.kvs.len()), (7, 3));
    assert_eq!((rest.count, rest.more), (3, false), "exactly a page is not more");
    assert_eq!((etcd.counts().loads, etcd.counts().pages), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn f11_compacted_and_future_revisions() {
    let etcd = filled(5);
    etcd.compact(4);
    let at = |revision| RangeRequest { revision, ..RangeRequest::new(KeyRange::all()) };
    failed(read(&etcd, at(3)).await, SourceErrorKind::Compacted);
    assert_eq!(read(&etcd, at(4)).await.unwrap().kvs.len(), 3);
    assert_eq!(read(&etcd, at(-7)).await.unwrap().kvs.len(), 5);
    failed(read(&etcd, at(7)).await, SourceErrorKind::FutureRevision);
}

#[tokio::test(start_paused = true)]
async fn f48_the_least_mod_revision_filters_keys_and_not_the_count() {
    let etcd = filled(5);
    etcd.put("elsewhere", "");
    let barrier = |from| RangeRequest {
        min_mod_revision: from,
        keys_only: true,
        limit: 1,
        ..RangeRequest::new(KeyRange::prefix("k"))
    };
    let page = read(&etcd, barrier(5)).await.unwrap();
    assert_eq!((page.kvs.len(), page.count, page.more), (1, 5, true));
    assert_eq!((page.kvs[0].mod_revision, page.kvs[0].value.len()), (5, 0));
    let page = read(&etcd, barrier(7)).await.unwrap();
    assert_eq!((page.kvs.len(), page.count, page.more), (0, 5, false));
    assert_eq!(page.header.unwrap().revision, 7);
    assert_eq!(etcd.counts().barriers, 2);
}

#[tokio::test(start_paused = true)]
async fn counting_and_keys_only() {
    let etcd = filled(5);
    let count = RangeRequest { count_only: true, ..RangeRequest::new(KeyRange::key([b'k', 1])) };
    let page = read(&etcd, count).await.unwrap();
    assert_eq!((page.kvs.len(), page.count, page.more), (0, 1, false));
    let keys = RangeRequest { keys_only: true, ..RangeRequest::new(KeyRange::all()) };
    let page = read(&etcd, keys).await.unwrap();
    assert!(page.kvs.iter().all(|kv| kv.value.is_empty() && kv.version == 1));
    assert_eq!((etcd.counts().counts, etcd.counts().keys_only), (1, 1));
    let empty = read(&etcd, RangeRequest::new(KeyRange::bytes("b", "a"))).await.unwrap();
    assert_eq!(empty.count, 0);
}

#[tokio::test(start_paused = true)]
async fn f12_range_streams_are_unknown_before_3_7() {
    let etcd = filled(1);
    etcd.set_version(V36);
    let connection = connect(&etcd).await;
    assert_eq!(connection.version().await.unwrap(), V36);
    failed(connection.range_stream(&KeyRange::all()).await, SourceErrorKind::Unimplemented);
}

async fn chunks(stream: &mut Box<dyn RangeStream>) -> Vec<RangeChunk> {
    let mut chunks = Vec::new();
    while let Some(next) = chunk(stream).await {
        chunks.push(next.unwrap());
    }
    chunks
}

#[tokio::test(start_paused = true)]
async fn b14_only_the_last_chunk_has_header_and_count() {
    for keys in [0, 1, 10, 11, 100] {
        let etcd = filled(keys);
        etcd.put("z", "outside");
        let connection = connect(&etcd).await;
        let mut stream = connection.range_stream(&KeyRange::prefix("k")).await.unwrap();
        let pinned = etcd.revision();
        etcd.txn([Op::put([b'k', 200], ""), Op::delete([b'k', 0])]);
        let chunks = chunks(&mut stream).await;
        let (last, before) = chunks.split_last().unwrap();
        assert!(before.iter().all(|chunk| chunk.header.is_none() && chunk.count == 0));
        assert_eq!(last.header.unwrap().revision, pinned);
        assert_eq!(last.count, i64::from(keys));
        let read: Vec<_> = chunks.into_iter().flat_map(|chunk| chunk.kvs).collect();
        assert_eq!(read, etcd.range_at(&KeyRange::prefix("k"), pinned));
    }
}

/// The sizes are those that etcd 3.7.2 sends.
#[tokio::test(start_paused = true)]
async fn b14_chunks_grow_and_shrink_with_their_bytes() {
    let etcd = FakeEtcd::new();
    etcd.txn((0..150_u8).map(|key| Op::put([b's', key], "")));
    etcd.txn((0..30_u8).map(|key| Op::put([b'v', key], vec![0; 400_000])));
    let connection = connect(&etcd).await;
    for (prefix, expected) in
        [("s", vec![10, 20, 40, 80]), ("v", vec![10, 5, 5, 5, 5]), ("none", vec![0])]
    {
        let mut stream = connection.range_stream(&KeyRange::prefix(prefix)).await.unwrap();
        let sizes: Vec<_> = chunks(&mut stream).await.iter().map(|c| c.kvs.len()).collect();
        assert_eq!(sizes, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn b14_a_range_stream_can_break_off_in_three_ways() {
    let etcd = filled(50);
    let connection = connect(&etcd).await;
    let open = || connection.range_stream(&KeyRange::all());

    etcd.faults().truncate_range_streams(1);
    let cut_short = chunks(&mut open().await.unwrap()).await;
    assert!(!cut_short.is_empty() && cut_short.iter().all(|chunk| chunk.header.is_none()));

    let mut compacted = open().await.unwrap();
    chunk(&mut compacted).await.unwrap().unwrap();
    etcd.put("a", "");
    etcd.compact(etcd.revision());
    failed(chunk(&mut compacted).await.unwrap(), SourceErrorKind::Compacted);
    assert!(chunk(&mut compacted).await.is_none());

    let mut broken = open().await.unwrap();
    chunk(&mut broken).await.unwrap().unwrap();
    etcd.faults().cut();
    failed(chunk(&mut broken).await.unwrap(), SourceErrorKind::Unavailable);
    assert!(chunk(&mut broken).await.is_none());
}
