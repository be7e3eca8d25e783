//! Running a future with its panics caught.
//!
//! Unwinding is contained at each poll, so the message is known when the future ends.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use crate::view::caught_message;

/// The output of the future, or the message of its panic. It is not polled again after that.
pub(crate) async fn caught<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(polled) => polled.map(Ok),
        Err(payload) => Poll::Ready(Err(caught_message(payload))),
    })
    .await
}
