//! Streams of one endpoint: watches and streamed ranges.
//!
//! Owns that a stream which failed or ended is dropped on the spot. tonic goes on after a decode
//! error by reading left-over payload as messages, so that whoever wrote a value could forge events
//! (tonic: `decode_chunk`, codec/decode.rs).

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use etcd_client::{
    Client, GetStreamResponse, WatchRequestSender, WatchResponseStream,
    WatchStream as ClientWatchStream,
};
use futures_core::Stream;
use tokio::task::coop::unconstrained;

use super::convert;
use super::error::translate;
use crate::model::WatchResponse;
use crate::source::{RangeChunk, RangeStream, SourceError, SourceErrorKind, WatchStream};

/// Whether the next watch asks for its responses in fragments.
///
/// Only after a whole response was too large: etcd weighs a response anew for every event that it
/// adds to a fragment (etcd: `sendFragments`, v3rpc/watch.go), so that many small events take it
/// quadratic time. 3.7.2 needs a minute for the first 34,000 deletions of 50,000, longer than any
/// watchdog should wait, and less than a second when it sends them whole. What is too large to be
/// sent whole has few and large events.
#[derive(Debug, Clone, Default)]
pub(super) struct Fragments(Arc<AtomicBool>);

impl Fragments {
    /// Whether to ask for them now; the watch after that begins without them again.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    fn wanted_after(&self, error: &SourceError) {
        if error.kind() == SourceErrorKind::TooLarge {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// A watch with one watcher.
pub(super) struct EtcdWatchStream {
    /// `None` after the first error or the end.
    open: Option<OpenWatch>,
    fragments: Fragments,
}

struct OpenWatch {
    responses: WatchResponseStream,
    /// Kept although etcd tolerates a half-closed stream: proxies end it (etcd issue 18230).
    requests: WatchRequestSender,
    /// The channel of the stream, which goes with it unless others share it.
    _client: Arc<Client>,
}

impl EtcdWatchStream {
    pub(super) fn new(
        stream: ClientWatchStream,
        client: Arc<Client>,
        fragments: Fragments,
    ) -> Self {
        let (requests, responses) = stream.split();
        EtcdWatchStream {
            open: Some(OpenWatch { responses, requests, _client: client }),
            fragments,
        }
    }
}

impl WatchStream for EtcdWatchStream {
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<WatchResponse, SourceError>>> {
        let polled = poll_fused(&mut self.open, cx, |open, cx| {
            Pin::new(&mut open.responses).poll_next(cx).map(|item| {
                item.map(|message| match message {
                    Ok(message) => convert::watch_response(message.0),
                    Err(error) => Err(translate(error)),
                })
            })
        });
        if let Poll::Ready(Some(Err(error))) = &polled {
            self.fragments.wanted_after(error);
        }
        polled
    }

    fn request_progress(&mut self) -> bool {
        let Some(open) = &mut self.open else { return false };
        // Sending waits for room in the library's queue only, so one poll without a waker tells
        // whether there is room. Unconstrained, since a task that has used up its budget would be
        // told to wait although there is.
        let sent = pin!(unconstrained(open.requests.request_progress()));
        matches!(sent.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
    }
}

impl fmt::Debug for EtcdWatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdWatchStream").field("open", &self.open.is_some()).finish()
    }
}

/// A streamed range.
pub(super) struct EtcdRangeStream {
    /// `None` after the first error or the end.
    open: Option<GetStreamResponse>,
}

impl EtcdRangeStream {
    pub(super) fn new(stream: GetStreamResponse) -> Self {
        EtcdRangeStream { open: Some(stream) }
    }
}

impl RangeStream for EtcdRangeStream {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<RangeChunk, SourceError>>> {
        poll_fused(&mut self.open, cx, |open, cx| {
            // The inner stream, because the library's reader turns an empty message into an end.
            Pin::new(&mut open.stream).poll_next(cx).map(|item| {
                item.map(|message| match message {
                    Ok(message) => convert::chunk(message),
                    Err(status) => Err(translate(status.into())),
                })
            })
        })
    }
}

impl fmt::Debug for EtcdRangeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdRangeStream").field("open", &self.open.is_some()).finish()
    }
}

/// Polls `open` and drops it after the first error or the end.
fn poll_fused<S, T>(
    open: &mut Option<S>,
    cx: &mut Context<'_>,
    poll: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<Option<Result<T, SourceError>>>,
) -> Poll<Option<Result<T, SourceError>>> {
    let Some(stream) = open else { return Poll::Ready(None) };
    let polled = poll(stream, cx);
    if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
        *open = None;
    }
    polled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::SourceErrorKind;

    /// B5: whatever a stream would give after an error or the end, nobody sees it.
    #[test]
    fn b5_streams_are_fused() {
        let error = || SourceError::new(SourceErrorKind::TooLarge, "too large");
        let mut cx = Context::from_waker(Waker::noop());
        for last in [None, Some(Err(error()))] {
            // The last item comes first: the script is read from its end.
            let mut open = Some(vec![Some(Ok("forged")), last, Some(Ok("true"))]);
            let mut next = || {
                poll_fused(&mut open, &mut cx, |script, _| match script.pop() {
                    Some(item) => Poll::Ready(item),
                    None => Poll::Pending,
                })
            };
            assert!(matches!(next(), Poll::Ready(Some(Ok("true")))));
            assert!(matches!(next(), Poll::Ready(None | Some(Err(_)))));
            assert!(matches!(next(), Poll::Ready(None)));
            assert!(matches!(next(), Poll::Ready(None)));
            assert!(open.is_none());
        }
    }
}
