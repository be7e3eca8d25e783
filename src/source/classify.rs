//! What etcd's error codes and texts mean for a mirror.
//!
//! Owns the tables, and is pure: numbers and texts in, kinds out. Must not name a client library,
//! so that the fake of the test kit speaks etcd's words through the same tables.

use super::SourceErrorKind;

/// gRPC status codes, as numbers because the library that names them is not a dependency of ours
/// (grpc: statuscodes.md).
mod code {
    pub(super) const CANCELLED: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const UNIMPLEMENTED: i32 = 12;
    pub(super) const INTERNAL: i32 = 13;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// Texts that decide whatever the code is: compaction, future revisions and the client's size limit
/// all come as `OutOfRange`, and a gRPC proxy may turn any code into `Unknown`.
///
/// etcd: api/v3rpc/rpctypes/error.go. Sizes: tonic's `codec/decode.rs`, grpc-go's `rpc_util.go` and
/// `server.go`.
const TEXTS: [(&str, SourceErrorKind); 10] = [
    ("required revision has been compacted", SourceErrorKind::Compacted),
    ("future revision", SourceErrorKind::FutureRevision),
    ("decoded message length too large", SourceErrorKind::TooLarge),
    ("message larger than max", SourceErrorKind::TooLarge),
    ("invalid auth token", SourceErrorKind::Unauthenticated),
    ("revision of auth store is old", SourceErrorKind::Unauthenticated),
    ("user name is empty", SourceErrorKind::Unauthenticated),
    ("authentication failed", SourceErrorKind::Denied),
    ("permission denied", SourceErrorKind::Denied),
    ("watcher range is empty", SourceErrorKind::InvalidRequest),
];

/// Beginnings of texts that the transport or a proxy made, with a code that is not etcd's: HTTP/2
/// resets and plain HTTP answers (tonic: `status.rs`). etcd always sends a gRPC status of its own.
const NOT_FROM_ETCD: [&str; 3] = [
    "h2 protocol error",
    "grpc-status header missing",
    "protocol error: missing grpc-status trailer",
];

/// Beginnings of `Internal` texts that say that an answer could not be decoded (prost:
/// `DecodeError`; tonic: `codec/decode.rs`, `client/grpc.rs`).
const UNDECODABLE: [&str; 3] =
    ["failed to decode Protobuf message", "protocol error", "Missing response message"];

/// The kind of a failed request or stream, from its gRPC code and message.
pub(crate) fn classify_status(code: i32, message: &str) -> SourceErrorKind {
    if starts_with_any(message, &NOT_FROM_ETCD) {
        return SourceErrorKind::Unavailable;
    }
    if let Some(kind) = classify_text(message) {
        return kind;
    }
    match code {
        code::INVALID_ARGUMENT => SourceErrorKind::InvalidRequest,
        code::DEADLINE_EXCEEDED => SourceErrorKind::Timeout,
        // The client library's own time limit, if the user set one.
        code::CANCELLED if message.contains("Timeout expired") => SourceErrorKind::Timeout,
        code::PERMISSION_DENIED => SourceErrorKind::Denied,
        code::UNIMPLEMENTED => SourceErrorKind::Unimplemented,
        code::UNAUTHENTICATED => SourceErrorKind::Unauthenticated,
        code::INTERNAL if starts_with_any(message, &UNDECODABLE) => SourceErrorKind::Malformed,
        // Lost connections come as Unknown, Cancelled or Unavailable; a member without a leader, a
        // learner and an overloaded server as Unavailable or ResourceExhausted.
        _ => SourceErrorKind::Unavailable,
    }
}

/// The kind of a refused or cancelled watch, from the server's reason.
///
/// Compaction is normally told by `compact_revision` and without a reason, so look at that first;
/// an empty or unknown reason calls for a new stream.
pub(crate) fn classify_cancel_reason(reason: &str) -> SourceErrorKind {
    match split_rpc_error(reason) {
        Some((name, message)) => classify_status(code_of_name(name), message),
        None => classify_status(code::UNKNOWN, reason),
    }
}

/// The message without grpc-go's `rpc error: code = X desc = `.
pub(crate) fn strip_rpc_error(message: &str) -> &str {
    split_rpc_error(message).map_or(message, |(_, message)| message)
}

/// Whether the server refused a user because it asks nobody for one.
///
/// etcd: `ErrGRPCAuthNotEnabled`, rpctypes/error.go. Like etcd's Go client (client/v3/client.go,
/// `getToken`), a source then goes on without a token.
pub(crate) fn is_auth_not_enabled(message: &str) -> bool {
    message.contains("authentication is not enabled")
}

fn classify_text(message: &str) -> Option<SourceErrorKind> {
    TEXTS.iter().find(|(text, _)| message.contains(text)).map(|(_, kind)| *kind)
}

fn starts_with_any(message: &str, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|beginning| message.starts_with(beginning))
}

/// The code's name and the message of grpc-go's rendering of an error.
fn split_rpc_error(message: &str) -> Option<(&str, &str)> {
    message.strip_prefix("rpc error: code = ")?.split_once(" desc = ")
}

/// grpc-go's names of the codes that decide something here.
fn code_of_name(name: &str) -> i32 {
    match name {
        "InvalidArgument" => code::INVALID_ARGUMENT,
        "DeadlineExceeded" => code::DEADLINE_EXCEEDED,
        "PermissionDenied" => code::PERMISSION_DENIED,
        "Unimplemented" => code::UNIMPLEMENTED,
        "Unauthenticated" => code::UNAUTHENTICATED,
        _ => code::UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SourceErrorKind::*;

    /// B6, B26, B34: code and text together; F-numbers are measured, see etcd-facts.
    #[test]
    fn b6_statuses_are_classified_by_code_and_text() {
        let cases = [
            // OutOfRange is three different things (F11, F13), and unknown ones are retried.
            (11, "etcdserver: mvcc: required revision has been compacted", Compacted),
            (11, "etcdserver: mvcc: required revision is a future revision", FutureRevision),
            (
                11,
                "Error, decoded message length too large: found 10002526 bytes, the limit is: \
                 4194304 bytes",
                TooLarge,
            ),
            (11, "something new", Unavailable),
            // A proxy loses the code, not the text.
            (2, "etcdserver: mvcc: required revision has been compacted", Compacted),
            (2, "etcdserver: permission denied", Denied),
            (
                8,
                "grpc: trying to send message larger than max (3000000000 vs. 2147483647)",
                TooLarge,
            ),
            (8, "grpc: received message larger than max (5 vs. 4)", TooLarge),
            (8, "etcdserver: too many requests", Unavailable),
            (8, "etcdserver: mvcc: database space exceeded", Unavailable),
            // Authentication.
            (16, "etcdserver: invalid auth token", Unauthenticated),
            (16, "anything", Unauthenticated),
            (3, "etcdserver: revision of auth store is old", Unauthenticated),
            (3, "etcdserver: user name is empty", Unauthenticated),
            (3, "etcdserver: authentication failed, invalid user ID or password", Denied),
            (7, "etcdserver: permission denied", Denied),
            (7, "anything", Denied),
            (9, "etcdserver: authentication is not enabled", Unavailable),
            // Requests the server does not take.
            (12, "unknown method RangeStream for service etcdserverpb.KV", Unimplemented),
            (3, "etcdserver: key is not provided", InvalidRequest),
            // Liveness (F19 to F29).
            (14, "tcp connect error", Unavailable),
            (14, "etcdserver: no leader", Unavailable),
            (14, "etcdserver: rpc not supported for learner", Unavailable),
            (14, "etcdserver: request timed out", Unavailable),
            (2, "h2 protocol error: error reading a body from connection", Unavailable),
            (1, "operation was canceled", Unavailable),
            (1, "Timeout expired", Timeout),
            (4, "context deadline exceeded", Timeout),
            (15, "etcdserver: corrupt cluster", Unavailable),
            // HTTP/2 INADEQUATE_SECURITY and plain HTTP answers are not etcd's refusals.
            (7, "h2 protocol error: http2 error", Unavailable),
            (12, "grpc-status header missing, mapped from HTTP status code 404", Unavailable),
            (16, "grpc-status header missing, mapped from HTTP status code 401", Unavailable),
            (2, "protocol error: missing grpc-status trailer, stream was terminated", Unavailable),
            (14, "tcp connect error: Permission denied (os error 13)", Unavailable),
            // Answers that cannot be read.
            (13, "failed to decode Protobuf message: WatchResponse.events: bad", Malformed),
            (13, "protocol error: received message with invalid compression flag: 8", Malformed),
            (13, "Missing response message.", Malformed),
            (13, "Unexpected EOF decoding stream.", Unavailable),
        ];
        for (code, message, expected) in cases {
            assert_eq!(classify_status(code, message), expected, "{code} {message}");
        }
    }

    /// B25: every reason a refused or cancelled watch was seen with (F3, F7, F8, F33).
    #[test]
    fn b25_cancel_reasons() {
        let cases = [
            ("", Unavailable),
            ("mvcc: watcher range is empty", InvalidRequest),
            ("mvcc: duplicate watch ID provided on the WatchStream", Unavailable),
            ("etcdserver: mvcc: required revision has been compacted", Compacted),
            ("mvcc: required revision has been compacted", Compacted),
            (
                "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
                Unauthenticated,
            ),
            ("rpc error: code = PermissionDenied desc = etcdserver: permission denied", Denied),
            (
                "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old",
                Unauthenticated,
            ),
            (
                "rpc error: code = InvalidArgument desc = etcdserver: user name is empty",
                Unauthenticated,
            ),
            ("etcdserver: permission denied", Denied),
            ("rpc error: code = PermissionDenied desc = reworded", Denied),
            ("rpc error: code = Unauthenticated desc = reworded", Unauthenticated),
            ("rpc error: code = Unavailable desc = etcdserver: no leader", Unavailable),
            ("etcdserver: no leader", Unavailable),
            ("etcdserver: watch canceled", Unavailable),
            ("reworded", Unavailable),
        ];
        for (reason, expected) in cases {
            assert_eq!(classify_cancel_reason(reason), expected, "{reason}");
        }
    }

    #[test]
    fn grpc_go_prefix_is_stripped_once_and_only_whole() {
        let cases = [
            ("rpc error: code = Unknown desc = a desc = b", "a desc = b"),
            ("rpc error: code = Unknown", "rpc error: code = Unknown"),
            ("etcdserver: no leader", "etcdserver: no leader"),
            ("", ""),
        ];
        for (message, expected) in cases {
            assert_eq!(strip_rpc_error(message), expected);
        }
    }
}
