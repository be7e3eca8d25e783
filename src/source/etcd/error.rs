//! Errors of the client library in the crate's own words.
//!
//! Owns which error of the library becomes which kind. Must not judge texts of etcd: that is the
//! business of `classify`.

use std::error::Error as StdError;

use etcd_client::Error;

use crate::source::classify::{classify_status, is_auth_not_enabled, strip_rpc_error};
use crate::source::{SourceError, SourceErrorKind};

/// Translates an error of the client library.
pub(super) fn translate(error: Error) -> SourceError {
    match error {
        Error::GRpcStatus(status) => {
            let kind = classify_status(status.code() as i32, status.message());
            let message = with_root_cause(strip_rpc_error(status.message()), &status);
            let translated = SourceError::new(kind, message);
            // An answer of etcd is all in the message; only a transport failure has causes.
            if status.source().is_some() { translated.with_cause(status) } else { translated }
        }
        Error::InvalidArgs(message) => SourceError::new(SourceErrorKind::InvalidRequest, message),
        Error::InvalidUri(cause) => {
            SourceError::new(SourceErrorKind::InvalidRequest, "the endpoint is not a URL")
                .with_cause(cause)
        }
        // Connections are made lazily and fail as a status; what fails before is the TLS set-up.
        Error::TransportError(cause) => {
            let message = with_root_cause("TLS cannot be set up", &cause);
            SourceError::new(SourceErrorKind::InvalidRequest, message).with_cause(cause)
        }
        Error::InvalidMetadataValue(cause) => {
            SourceError::new(SourceErrorKind::Malformed, "the token is not a header value")
                .with_cause(cause)
        }
        other => SourceError::new(SourceErrorKind::Unavailable, other.to_string()),
    }
}

/// An answer that breaks etcd's protocol.
pub(super) fn malformed(message: impl Into<String>) -> SourceError {
    SourceError::new(SourceErrorKind::Malformed, message)
}

/// Whether a user was refused because the server has authentication off.
pub(super) fn refused_since_auth_is_off(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if is_auth_not_enabled(status.message()))
}

/// `message` and the words of the innermost cause, which alone say what went wrong ("Connection
/// refused" behind three layers of "transport error").
fn with_root_cause(message: &str, error: &dyn StdError) -> String {
    let mut root = None;
    let mut next = error.source();
    while let Some(cause) = next {
        root = Some(cause);
        next = cause.source();
    }
    match root.map(ToString::to_string) {
        Some(root) if !message.contains(&root) => format!("{message}: {root}"),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt, io};

    use super::*;

    #[track_caller]
    fn check(error: Error, kind: SourceErrorKind, message: &str) {
        let translated = translate(error);
        assert_eq!(translated.kind(), kind);
        assert_eq!(translated.message(), message);
    }

    #[test]
    fn errors_without_a_status_are_translated() {
        let invalid = SourceErrorKind::InvalidRequest;
        check(Error::InvalidArgs("no TLS".into()), invalid, "no TLS");
        let unavailable = SourceErrorKind::Unavailable;
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "refused");
        check(Error::IoError(refused), unavailable, "io error: refused");
        check(Error::WatchError("closed".into()), unavailable, "watch error: closed");
        check(Error::Internal("closed".into()), unavailable, "internal error: closed");
    }

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl StdError for Layer {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            self.1.as_deref().map(|layer| layer as _)
        }
    }

    #[test]
    fn the_innermost_cause_is_told() {
        let inner = Layer("connection refused", None);
        let outer = Layer("status", Some(Box::new(Layer("transport error", Some(inner.into())))));
        assert_eq!(with_root_cause("tcp error", &outer), "tcp error: connection refused");
        assert_eq!(with_root_cause("connection refused", &outer), "connection refused");
        assert_eq!(with_root_cause("no leader", &Layer("status", None)), "no leader");
    }
}
