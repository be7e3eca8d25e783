//! Half-open ranges of byte keys.
//!
//! Owns [`KeyRange`] and its translation to etcd's `key`/`range_end` pair. Must not know what lies
//! in a range.

use std::fmt;
use std::ops;

/// A half-open range of byte keys: what a key space mirrors, or what a query asks for.
///
/// Keys compare as unsigned bytes, as in etcd. A range whose start is not below its end is empty.
///
/// ```
/// use etcd_keyspace::KeyRange;
///
/// let range = KeyRange::prefix("/backends/");
/// assert!(range.contains(b"/backends/a"));
/// assert!(!range.contains(b"/backends"));
/// assert!(KeyRange::path("/backends//a").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    start: Vec<u8>,
    /// Exclusive; `None` is past every key.
    end: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key.
    #[must_use]
    pub fn all() -> Self {
        KeyRange { start: Vec::new(), end: None }
    }

    /// All keys that begin with `prefix`, any bytes; the empty prefix is every key.
    ///
    /// `/foo` also covers `/foobar`: end the prefix with the separator to mean the children only.
    #[must_use]
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        let prefix = prefix.as_ref();
        KeyRange { start: prefix.to_vec(), end: prefix_end(prefix) }
    }

    /// All keys below a path written as people write paths, checked to be clean.
    ///
    /// A clean path is not empty and has no empty, `.` or `..` element; one trailing slash is
    /// allowed. `/foo/` covers the children of `/foo` and not `/foo` itself; `/foo` covers `/foo`,
    /// its children, and also `/foobar`, since etcd knows only byte prefixes. For any other kind of
    /// key use [`KeyRange::prefix`].
    ///
    /// # Errors
    /// [`RangeError::UncleanPath`] names the clean form.
    pub fn path(path: &str) -> Result<Self, RangeError> {
        let clean = clean(path);
        if clean == path {
            Ok(KeyRange::prefix(path))
        } else {
            Err(RangeError::UncleanPath { path: path.to_owned(), clean })
        }
    }

    /// The keys from `start` up to but not including `end`; empty when `end` is not above `start`.
    #[must_use]
    pub fn bytes(start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> Self {
        KeyRange { start: start.into(), end: Some(end.into()) }
    }

    /// The keys from `start` on.
    #[must_use]
    pub fn from(start: impl Into<Vec<u8>>) -> Self {
        KeyRange { start: start.into(), end: None }
    }

    /// The one key `key`.
    #[must_use]
    pub fn key(key: impl Into<Vec<u8>>) -> Self {
        let start = key.into();
        let mut end = start.clone();
        end.push(0);
        KeyRange { start, end: Some(end) }
    }

    /// The first key that may lie in the range.
    #[must_use]
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// The first key after the range; `None` when the range has no upper end.
    #[must_use]
    pub fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }

    /// Whether no key can lie in the range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// Whether `key` lies in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && self.end.as_deref().is_none_or(|end| key < end)
    }

    /// Whether every key of `other` lies in this range. An empty range is covered by every range.
    #[must_use]
    pub fn covers(&self, other: &KeyRange) -> bool {
        if other.is_empty() {
            return true;
        }
        let below = match (&self.end, &other.end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => theirs <= mine,
        };
        self.start <= other.start && below
    }

    /// The pair etcd's requests carry, where one zero byte stands for "no bound".
    ///
    /// etcd: `RangeRequest.range_end`, rpc.proto. An empty range cannot be asked of etcd (it refuses
    /// the watch), so builders reject it before any request.
    pub(crate) fn request(&self) -> (Vec<u8>, Vec<u8>) {
        let start = if self.start.is_empty() { vec![0] } else { self.start.clone() };
        (start, self.end.clone().unwrap_or_else(|| vec![0]))
    }
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRange({self})")
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, ", self.start.escape_ascii())?;
        match &self.end {
            Some(end) => write!(f, "{})", end.escape_ascii()),
            None => f.write_str("..)"),
        }
    }
}

impl<K: AsRef<[u8]>> From<ops::Range<K>> for KeyRange {
    fn from(range: ops::Range<K>) -> Self {
        KeyRange::bytes(range.start.as_ref(), range.end.as_ref())
    }
}

impl<K: AsRef<[u8]>> From<ops::RangeFrom<K>> for KeyRange {
    fn from(range: ops::RangeFrom<K>) -> Self {
        KeyRange::from(range.start.as_ref())
    }
}

impl<K: AsRef<[u8]>> From<ops::RangeTo<K>> for KeyRange {
    fn from(range: ops::RangeTo<K>) -> Self {
        KeyRange::bytes(Vec::new(), range.end.as_ref())
    }
}

impl From<ops::RangeFull> for KeyRange {
    fn from(_: ops::RangeFull) -> Self {
        KeyRange::all()
    }
}

/// A range that cannot be mirrored or a path that is not clean.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// The path is empty or has an empty, `.` or `..` element. Fix the caller: use `clean`.
    #[error("path {path:?} is not clean, write {clean:?}, or use `KeyRange::prefix` for raw bytes")]
    UncleanPath {
        /// The path as given.
        path: String,
        /// The same path in clean form.
        clean: String,
    },
    /// The range holds no key at all, so there is nothing to mirror. Fix the caller.
    #[error("range {range} is empty")]
    Empty {
        /// The range as given.
        range: KeyRange,
    },
}

/// The first key after all keys with `prefix`; `None` when there is none (empty, or all `0xff`).
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for element in path.split('/') {
        match element {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    let root = if path.starts_with('/') || kept.is_empty() { "/" } else { "" };
    let mut clean = format!("{root}{}", kept.join("/"));
    if path.ends_with('/') && !clean.ends_with('/') {
        clean.push('/');
    }
    clean
}

/// What [`KeySpace::builder`](crate::KeySpace::builder) takes: a clean path, or a [`KeyRange`] of any bytes.
pub trait IntoKeyRange {
    /// The range that is meant.
    ///
    /// # Errors
    /// [`RangeError::UncleanPath`] for a path that is not clean.
    fn into_key_range(self) -> Result<KeyRange, RangeError>;
}

impl IntoKeyRange for KeyRange {
    fn into_key_range(self) -> Result<KeyRange, RangeError> {
        Ok(self)
    }
}

impl IntoKeyRange for &str {
    fn into_key_range(self) -> Result<KeyRange, RangeError> {
        KeyRange::path(self)
    }
}

impl IntoKeyRange for &String {
    fn into_key_range(self) -> Result<KeyRange, RangeError> {
        KeyRange::path(self)
    }
}

impl IntoKeyRange for String {
    fn into_key_range(self) -> Result<KeyRange, RangeError> {
        KeyRange::path(&self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gz1_paths_must_be_clean() {
        for good in ["/", "/foo", "/foo/", "/foo/bar", "/föö/", "foo", "foo/bar/"] {
            assert_eq!(KeyRange::path(good), Ok(KeyRange::prefix(good)));
        }
        let unclean = [
            ("", "/"),
            ("./foo", "foo"),
            ("//", "/"),
            ("/foo//", "/foo/"),
            ("/foo//bar", "/foo/bar"),
            ("/foo/./bar", "/foo/bar"),
            ("/foo/../bar/", "/bar/"),
            ("/..", "/"),
        ];
        for (path, expected) in unclean {
            match KeyRange::path(path) {
                Err(RangeError::UncleanPath { clean, .. }) => assert_eq!(clean, expected, "{path}"),
                other => panic!("{path}: {other:?}"),
            }
        }
    }

    #[test]
    fn t31_prefix_ends() {
        let cases: [(&[u8], Option<&[u8]>); 7] = [
            (b"", None),
            (b"/", Some(b"0")),
            (b"a", Some(b"b")),
            (b"\xff", None),
            (b"\xff\xff", None),
            (b"a\xff\xff", Some(b"b")),
            (b"a\0", Some(b"a\x01")),
        ];
        for (prefix, end) in cases {
            let range = KeyRange::prefix(prefix);
            assert_eq!(range.end(), end, "{prefix:?}");
            assert!(range.contains(prefix));
            assert!(!range.is_empty());
        }
    }

    #[test]
    fn covering_is_by_keys() {
        let range = KeyRange::prefix("/a/");
        assert!(range.covers(&KeyRange::prefix("/a/b")));
        assert!(range.covers(&range));
        assert!(!range.covers(&KeyRange::prefix("/a")));
        assert!(!range.covers(&KeyRange::from("/a/")));
        assert!(range.covers(&KeyRange::bytes("z", "a")));
        assert!(KeyRange::all().covers(&range));
    }

    #[test]
    fn t31_requests_spell_unbounded_ends_as_a_zero_byte() {
        assert_eq!(KeyRange::all().request(), (vec![0], vec![0]));
        assert_eq!(KeyRange::prefix(b"\xff").request(), (vec![0xff], vec![0]));
        assert_eq!(KeyRange::prefix("a").request(), (b"a".to_vec(), b"b".to_vec()));
    }
}
