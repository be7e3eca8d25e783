//! Reading the whole range at one revision, in pages or as a stream.
//!
//! Owns page sizes, the pinned revision and the proof that nothing is missing. Pure: answers in,
//! requests out. Must not decode or decide about retries.

use crate::model::{Header, KeyRange, RawKeyValue, Revision};
use crate::source::{RangeChunk, RangePage, RangeRequest, SourceError, SourceErrorKind};

/// Keys of the first page, before anything is known about their size.
const FIRST_LIMIT: u64 = 100;
/// How fast a page may grow over the one before.
const MAX_GROWTH: u64 = 32;
/// After this many restarts everything is asked for in one answer, which compaction cannot cut.
const RESTARTS_IN_PAGES: u32 = 3;

/// A read of the whole range under way.
#[derive(Debug)]
pub(crate) struct Pager {
    range: KeyRange,
    /// The revision asked for; zero for now.
    at: Revision,
    page_bytes: u64,
    limit: u64,
    limit_max: u64,
    /// An answer was too large, so pages grow slowly from there.
    shrunk: bool,
    /// The header of the first answer: later ones carry the store's revision of their own time.
    pinned: Option<Header>,
    expected: Option<u64>,
    keys: u64,
    bytes: u64,
    last_key: Option<Vec<u8>>,
}

/// What an answer leads to.
#[derive(Debug)]
pub(crate) enum Step {
    /// Keys to take in, and more to ask for.
    More(Vec<RawKeyValue>),
    /// The last keys, and the header of the revision that was read.
    Done(Vec<RawKeyValue>, Header),
}

impl Pager {
    /// A read at revision `at`, zero for now. After `restarts` because its revision was compacted
    /// between pages it begins with larger ones, in the end with everything in one answer.
    pub(crate) fn new(range: KeyRange, at: Revision, page_bytes: u64, restarts: u32) -> Self {
        let limit = match restarts {
            0 => FIRST_LIMIT,
            1..RESTARTS_IN_PAGES => FIRST_LIMIT * MAX_GROWTH.pow(restarts),
            _ => 0,
        };
        Pager {
            range,
            at,
            page_bytes,
            limit,
            limit_max: u64::MAX,
            shrunk: false,
            pinned: None,
            expected: None,
            keys: 0,
            bytes: 0,
            last_key: None,
        }
    }

    /// Bounds pages by keys too; a bound below the first page's size counts as that.
    pub(crate) fn at_most(mut self, keys: u64) -> Self {
        self.limit_max = keys.max(FIRST_LIMIT);
        self
    }

    /// Sizes the first page by what is known of the keys: at least one key, and no more than usual.
    pub(crate) fn begin_with(mut self, keys: u64) -> Self {
        self.limit = keys.clamp(1, FIRST_LIMIT);
        self
    }

    /// Whether anything was read.
    pub(crate) fn has_begun(&self) -> bool {
        self.pinned.is_some()
    }

    /// Keys read, keys expected, bytes read.
    pub(crate) fn progress(&self) -> (u64, Option<u64>, u64) {
        (self.keys, self.expected, self.bytes)
    }

    /// The next page, at the revision of the first one.
    pub(crate) fn request(&self) -> RangeRequest {
        let start = self.last_key.as_ref().map(|last| [last.as_slice(), &[0]].concat());
        let range = match (start, self.range.end()) {
            (None, _) => self.range.clone(),
            (Some(start), Some(end)) => KeyRange::bytes(start, end),
            (Some(start), None) => KeyRange::from(start),
        };
        let revision = match self.pinned {
            Some(header) if self.at == 0 => header.revision,
            _ => self.at,
        };
        RangeRequest { revision, limit: self.limit, ..RangeRequest::new(range) }
    }

    /// Asks for less after an answer was too large; false when one key alone is too large.
    pub(crate) fn shrink(&mut self) -> bool {
        let before = if self.limit == 0 { self.expected.unwrap_or(u64::MAX) } else { self.limit };
        self.limit = (before / 4).max(1);
        self.shrunk = true;
        before > 1
    }

    /// Takes in a page.
    pub(crate) fn page(&mut self, page: RangePage) -> Result<Step, SourceError> {
        let header = page.header.filter(|header| header.revision > 0);
        let header = header.ok_or_else(|| malformed("a page without a header"))?;
        if self.pinned.is_none() {
            let revision = if self.at > 0 { self.at } else { header.revision };
            self.pinned = Some(Header { revision, ..header });
            self.expected = Some(u64::try_from(page.count).unwrap_or(0));
        }
        let pinned = self.pinned.unwrap_or(header);
        if pinned.cluster_id != header.cluster_id {
            return Err(malformed("pages of two clusters"));
        }
        if page.more && page.kvs.is_empty() {
            return Err(malformed("a page with more to come but without keys"));
        }
        let bytes = self.count(&page.kvs);
        self.check_total(page.more)?;
        if page.more {
            self.resize(page.kvs.len() as u64, bytes);
            return Ok(Step::More(page.kvs));
        }
        Ok(Step::Done(page.kvs, pinned))
    }

    /// Takes in a chunk of a stream. Only the last one carries a header; `None` is the end.
    pub(crate) fn chunk(&mut self, chunk: Option<RangeChunk>) -> Result<Step, SourceError> {
        let Some(chunk) = chunk else {
            return match self.pinned {
                Some(header) => Ok(Step::Done(Vec::new(), header)),
                None => Err(malformed("the range stream ended before its last chunk")),
            };
        };
        if self.pinned.is_some() {
            return Err(malformed("a chunk after the last one"));
        }
        self.count(&chunk.kvs);
        if let Some(header) = chunk.header.filter(|header| header.revision > 0) {
            self.pinned = Some(header);
            self.expected = Some(u64::try_from(chunk.count).unwrap_or(0));
            self.check_total(false)?;
        }
        Ok(Step::More(chunk.kvs))
    }

    fn count(&mut self, kvs: &[RawKeyValue]) -> u64 {
        let bytes = kvs.iter().map(|kv| kv.bytes() as u64).sum();
        self.keys += kvs.len() as u64;
        self.bytes += bytes;
        if let Some(last) = kvs.last() {
            self.last_key = Some(last.key.clone());
        }
        bytes
    }

    /// Sizes the next page by the bytes of this one: the cost of a page grows with the keys that
    /// remain, so many small pages would be quadratic, and few large ones could be any size.
    fn resize(&mut self, keys: u64, bytes: u64) {
        let wanted = self.page_bytes.saturating_mul(keys) / bytes.max(1);
        let growth = match self.shrunk {
            true => keys.saturating_mul(2),
            false => keys.saturating_mul(MAX_GROWTH).max(FIRST_LIMIT),
        };
        self.limit = wanted.clamp(1, growth.min(self.limit_max));
    }

    /// All keys are of one revision, so the count is exact: with `more` to come fewer have been read.
    fn check_total(&self, more: bool) -> Result<(), SourceError> {
        let (keys, expected) = (self.keys, self.expected.unwrap_or(0));
        let fits = if more { keys < expected } else { keys == expected };
        let rest = if more { " and more to come" } else { "" };
        let message = || format!("{keys} keys read{rest} where {expected} were counted");
        if fits { Ok(()) } else { Err(malformed(&message())) }
    }
}

fn malformed(message: &str) -> SourceError {
    SourceError::new(SourceErrorKind::Malformed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, bytes: usize) -> RawKeyValue {
        RawKeyValue { key: key.into(), value: vec![0; bytes], ..RawKeyValue::default() }
    }

    fn page(kvs: Vec<RawKeyValue>, revision: Revision, count: i64, more: bool) -> RangePage {
        let header = Header { revision, cluster_id: 1, ..Header::default() };
        RangePage { header: Some(header), kvs, count, more }
    }

    fn pager() -> Pager {
        Pager::new(KeyRange::prefix("/a/"), 0, 1000, 0)
    }

    #[test]
    fn b10_later_pages_are_pinned_to_the_first_ones_revision() {
        let mut pager = pager();
        assert_eq!(pager.request().revision, 0);
        let step = pager.page(page(vec![kv("/a/1", 5)], 7, 2, true)).unwrap();
        assert!(matches!(step, Step::More(kvs) if kvs.len() == 1));
        let next = pager.request();
        assert_eq!(next.revision, 7);
        assert_eq!(next.range.start(), b"/a/1\0");
        assert_eq!(next.range.end(), Some(b"/a0".as_slice()));
        let step = pager.page(page(vec![kv("/a/2", 5)], 9, 1, false)).unwrap();
        assert!(matches!(step, Step::Done(_, header) if header.revision == 7));
    }

    #[test]
    fn b12_pages_are_sized_by_bytes() {
        let mut pager = pager();
        pager.page(page(vec![kv("/a/1", 96); 100], 7, 9999, true)).unwrap();
        assert_eq!(pager.request().limit, 10);
        pager.page(page(vec![kv("/a/1", 0); 10], 7, 9999, true)).unwrap();
        assert_eq!(pager.request().limit, 250);
        assert!(pager.shrink());
        assert_eq!(pager.request().limit, 62);
        for _ in 0..10 {
            pager.shrink();
        }
        assert_eq!(pager.request().limit, 1);
        assert!(!pager.shrink());
    }

    /// Else each page of few keys is followed by one that is too large again.
    #[test]
    fn b12_pages_grow_slowly_after_one_was_too_large() {
        let mut pager = pager();
        while pager.shrink() {}
        for (key, limit) in [("/a/1", 2), ("/a/2", 2), ("/a/3", 2)] {
            pager.page(page(vec![kv(key, 0)], 7, 9999, true)).unwrap();
            assert_eq!(pager.request().limit, limit);
        }
        pager.page(page(vec![kv("/a/4", 0); 2], 7, 9999, true)).unwrap();
        assert_eq!(pager.request().limit, 4);
    }

    #[test]
    fn b11_restarts_ask_for_more_at_once() {
        let limit =
            |restarts| Pager::new(KeyRange::prefix("/a/"), 0, 1000, restarts).request().limit;
        assert_eq!([limit(0), limit(1), limit(2), limit(3)], [100, 3_200, 102_400, 0]);
    }

    #[test]
    fn b14_a_stream_counts_only_with_its_last_chunk() {
        let mut cut = pager();
        cut.chunk(Some(RangeChunk { kvs: vec![kv("/a/1", 1)], ..RangeChunk::default() })).unwrap();
        assert_eq!(cut.chunk(None).unwrap_err().kind(), SourceErrorKind::Malformed);

        let header = Some(Header { revision: 7, ..Header::default() });
        for count in [-1, 0, 2] {
            let kvs = vec![kv("/a/1", 1)];
            let wrong = pager().chunk(Some(RangeChunk { kvs, header, count })).unwrap_err();
            assert_eq!(wrong.kind(), SourceErrorKind::Malformed);
        }

        let mut whole = pager();
        whole.chunk(Some(RangeChunk { kvs: vec![kv("/a/1", 1)], header, count: 1 })).unwrap();
        assert!(matches!(whole.chunk(None), Ok(Step::Done(_, header)) if header.revision == 7));
    }

    #[test]
    fn h74_pages_beyond_the_count_of_the_first_are_refused() {
        let two = || vec![kv("/a/1", 1), kv("/a/2", 1)];
        for (kvs, count) in [(two(), 2), (two(), 1), (two(), -1)] {
            let error = pager().page(page(kvs, 7, count, true)).unwrap_err();
            assert_eq!(error.kind(), SourceErrorKind::Malformed, "{count} counted");
        }
        let mut pager = pager();
        pager.page(page(two(), 7, 3, true)).unwrap();
        // What later pages count is what remains, and says nothing of the whole.
        let error = pager.page(page(vec![kv("/a/3", 1)], 9, 99, true)).unwrap_err();
        assert!(error.to_string().contains("3 keys read and more to come"), "{error}");
    }

    #[test]
    fn t28_answers_that_contradict_themselves_are_errors() {
        let mut pager = pager();
        assert!(pager.page(RangePage::default()).is_err());
        assert!(self::pager().page(page(vec![], 7, 5, true)).is_err());
        assert!(self::pager().page(page(vec![kv("/a/1", 1)], 7, 2, false)).is_err());
    }
}
