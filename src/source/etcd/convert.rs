//! Wire messages in the crate's own words, and requests in the client library's.
//!
//! Owns the translation, and moves keys and values: nothing here copies them. Must not judge what a
//! message says, only whether it can be read.

use etcd_client::proto::{
    PbEvent, PbKeyValue, PbRangeResponse, PbRangeStreamResponse, PbResponseHeader, PbWatchResponse,
};
use etcd_client::{EventType, GetOptions, ResponseHeader, WatchOptions};

use super::error::malformed;
use crate::model::{AtLeast, Event, Header, KeyRange, RawKeyValue, Revision, Token, WatchResponse};
use crate::source::{RangeChunk, RangePage, RangeRequest, ServerVersion, SourceError};

/// The key and the options of a linearizable range read.
pub(super) fn get_options(request: &RangeRequest) -> (Vec<u8>, GetOptions) {
    let (key, end) = request.range.request();
    let mut options = GetOptions::new()
        .with_range(end)
        .with_revision(request.revision)
        .with_limit(i64::try_from(request.limit).unwrap_or(i64::MAX))
        .with_min_mod_revision(request.min_mod_revision);
    if request.keys_only {
        options = options.with_keys_only();
    }
    if request.count_only {
        options = options.with_count_only();
    }
    (key, options)
}

/// The key and the options of a watcher.
pub(super) fn watch_options(
    range: &KeyRange,
    start: Revision,
    fragments: bool,
) -> (Vec<u8>, WatchOptions) {
    let (key, end) = range.request();
    let options =
        WatchOptions::new().with_range(end).with_start_revision(start).with_progress_notify();
    (key, if fragments { options.with_fragment() } else { options })
}

/// A message of a watch stream.
///
/// # Errors
/// `Malformed` when an event has no key or is of a kind this crate does not know: skipping it would
/// be a silent gap.
pub(super) fn watch_response(message: PbWatchResponse) -> Result<WatchResponse, SourceError> {
    Ok(WatchResponse {
        header: message.header.map(header),
        watch_id: message.watch_id,
        created: message.created,
        canceled: message.canceled,
        compact_revision: message.compact_revision,
        cancel_reason: message.cancel_reason,
        fragment: message.fragment,
        events: message.events.into_iter().map(event).collect::<Result<_, _>>()?,
    })
}

/// The answer to a range read.
pub(super) fn page(message: PbRangeResponse) -> RangePage {
    RangePage {
        header: message.header.map(header),
        kvs: key_values(message.kvs),
        count: message.count,
        more: message.more,
    }
}

/// A message of a range stream.
///
/// # Errors
/// `Malformed` when it is empty. The client library's own reader takes such a message for the end.
pub(super) fn chunk(message: PbRangeStreamResponse) -> Result<RangeChunk, SourceError> {
    let message =
        message.range_response.ok_or_else(|| malformed("a range stream sent an empty message"))?;
    Ok(RangeChunk {
        kvs: key_values(message.kvs),
        header: message.header.map(header),
        count: message.count,
    })
}

/// A server's version.
///
/// # Errors
/// `Malformed` when it is not three numbers.
pub(super) fn version(text: &str) -> Result<ServerVersion, SourceError> {
    ServerVersion::parse(text)
        .ok_or_else(|| malformed(format!("the server calls its version {text:?}")))
}

fn event(event: PbEvent) -> Result<Event, SourceError> {
    let kv = event.kv.ok_or_else(|| malformed("an event has no key"))?;
    // The library's own getter panics on a kind it does not know.
    match EventType::try_from(event.r#type) {
        Ok(EventType::Put) => Ok(Event::Put(key_value(kv))),
        Ok(EventType::Delete) => Ok(Event::Delete { key: kv.key, mod_revision: kv.mod_revision }),
        Err(_) => Err(malformed(format!("an event is of unknown kind {}", event.r#type))),
    }
}

fn key_values(kvs: Vec<PbKeyValue>) -> Vec<RawKeyValue> {
    kvs.into_iter().map(key_value).collect()
}

fn key_value(kv: PbKeyValue) -> RawKeyValue {
    RawKeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

fn header(header: PbResponseHeader) -> Header {
    Header {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision: header.revision,
        raft_term: header.raft_term,
    }
}

impl From<&ResponseHeader> for Token {
    fn from(header: &ResponseHeader) -> Self {
        Token::from(Header {
            cluster_id: header.cluster_id(),
            member_id: header.member_id(),
            revision: header.revision(),
            raft_term: header.raft_term(),
        })
    }
}

impl From<&ResponseHeader> for AtLeast {
    fn from(header: &ResponseHeader) -> Self {
        AtLeast(header.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::SourceErrorKind;

    fn pb_kv(key: &str, value: &str) -> PbKeyValue {
        PbKeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: 2,
            mod_revision: 5,
            version: 3,
            lease: 77,
        }
    }

    fn raw_kv(key: &str, value: &str) -> RawKeyValue {
        RawKeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: 2,
            mod_revision: 5,
            version: 3,
            lease: 77,
        }
    }

    fn pb_header() -> PbResponseHeader {
        PbResponseHeader { cluster_id: 1, member_id: 2, revision: 9, raft_term: 4 }
    }

    fn with_event(event: PbEvent) -> PbWatchResponse {
        PbWatchResponse { events: vec![event], ..PbWatchResponse::default() }
    }

    #[test]
    fn watch_responses_keep_every_field() {
        let put = PbEvent { r#type: 0, kv: Some(pb_kv("a", "1")), prev_kv: None };
        let delete = PbEvent {
            r#type: 1,
            kv: Some(PbKeyValue { key: b"b".to_vec(), mod_revision: 5, ..PbKeyValue::default() }),
            prev_kv: None,
        };
        let message = PbWatchResponse {
            header: Some(pb_header()),
            watch_id: -1,
            created: true,
            canceled: true,
            compact_revision: 8,
            cancel_reason: "because".into(),
            fragment: true,
            events: vec![put, delete],
        };
        let expected = WatchResponse {
            header: Some(Header { cluster_id: 1, member_id: 2, revision: 9, raft_term: 4 }),
            watch_id: -1,
            created: true,
            canceled: true,
            compact_revision: 8,
            cancel_reason: "because".into(),
            fragment: true,
            events: vec![
                Event::Put(raw_kv("a", "1")),
                Event::Delete { key: b"b".to_vec(), mod_revision: 5 },
            ],
        };
        assert_eq!(watch_response(message).unwrap(), expected);
        let empty = watch_response(PbWatchResponse::default()).unwrap();
        assert_eq!(empty, WatchResponse::default());
    }

    /// B30: what cannot be read is an error, never a panic and never skipped.
    #[test]
    fn b30_unreadable_events_are_malformed() {
        for kind in [2, -1, i32::MAX] {
            let event = PbEvent { r#type: kind, kv: Some(pb_kv("a", "1")), prev_kv: None };
            let error = watch_response(with_event(event)).unwrap_err();
            assert_eq!(error.kind(), SourceErrorKind::Malformed);
            assert!(error.message().contains(&kind.to_string()), "{error}");
        }
        for kind in [0, 1] {
            let event = PbEvent { r#type: kind, kv: None, prev_kv: None };
            let error = watch_response(with_event(event)).unwrap_err();
            assert_eq!(error.kind(), SourceErrorKind::Malformed);
        }
    }

    /// B31: the bytes that arrived are the bytes the crate keeps.
    #[test]
    fn b31_keys_and_values_are_moved() {
        let kv = pb_kv("a key", "a value");
        let (key, value) = (kv.key.as_ptr(), kv.value.as_ptr());
        let event = PbEvent { r#type: 0, kv: Some(kv), prev_kv: None };
        let response = watch_response(with_event(event)).unwrap();
        let [Event::Put(kv)] = response.events.as_slice() else { panic!("{response:?}") };
        assert_eq!((kv.key.as_ptr(), kv.value.as_ptr()), (key, value));

        let kv = pb_kv("a key", "a value");
        let (key, value) = (kv.key.as_ptr(), kv.value.as_ptr());
        let page = page(PbRangeResponse { kvs: vec![kv], ..PbRangeResponse::default() });
        assert_eq!((page.kvs[0].key.as_ptr(), page.kvs[0].value.as_ptr()), (key, value));
    }

    #[test]
    fn pages_keep_every_field() {
        let message = PbRangeResponse {
            header: Some(pb_header()),
            kvs: vec![pb_kv("a", "1"), pb_kv("b", "2")],
            more: true,
            count: 7,
        };
        let page = page(message);
        assert_eq!(page.header.unwrap().revision, 9);
        assert_eq!(page.kvs, [raw_kv("a", "1"), raw_kv("b", "2")]);
        assert_eq!((page.count, page.more), (7, true));
    }

    /// B14: an empty message is an error, not a clean end.
    #[test]
    fn b14_chunks_without_a_range_are_malformed() {
        let error = chunk(PbRangeStreamResponse { range_response: None }).unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Malformed);

        let middle = PbRangeResponse { kvs: vec![pb_kv("a", "1")], ..PbRangeResponse::default() };
        let middle = chunk(PbRangeStreamResponse { range_response: Some(middle) }).unwrap();
        assert_eq!((middle.header, middle.count), (None, 0));
        assert_eq!(middle.kvs, [raw_kv("a", "1")]);

        let last =
            PbRangeResponse { header: Some(pb_header()), count: 2, ..PbRangeResponse::default() };
        let last = chunk(PbRangeStreamResponse { range_response: Some(last) }).unwrap();
        assert_eq!((last.header.unwrap().revision, last.count), (9, 2));
    }

    #[test]
    fn versions_must_be_numbers() {
        assert_eq!(version("3.6.1").unwrap(), ServerVersion { major: 3, minor: 6, patch: 1 });
        let error = version("not_decided").unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Malformed);
        assert!(error.message().contains("not_decided"));
    }

    /// The requests themselves are checked through their `Debug`: the library has no getters.
    #[test]
    fn requests_carry_the_fields_asked_for() {
        let range = KeyRange::prefix("a");
        let plain = RangeRequest::new(range.clone());
        let (key, options) = get_options(&plain);
        assert_eq!(key, b"a");
        let text = format!("{options:?}");
        for part in ["serializable: false", "limit: 0", "revision: 0", "keys_only: false"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let all = RangeRequest {
            revision: 5,
            limit: u64::MAX,
            keys_only: true,
            count_only: true,
            min_mod_revision: 3,
            ..plain
        };
        let text = format!("{:?}", get_options(&all).1);
        for part in [
            "limit: 9223372036854775807",
            " revision: 5",
            "keys_only: true",
            "count_only: true",
            "min_mod_revision: 3",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }

        assert!(format!("{:?}", watch_options(&range, 8, false).1).contains("fragment: false"));
        let (key, options) = watch_options(&range, 8, true);
        assert_eq!(key, b"a");
        let text = format!("{options:?}");
        for part in ["start_revision: 8", "progress_notify: true", "fragment: true"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        for part in ["filters: []", "prev_kv: false", "watch_id: 0"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
