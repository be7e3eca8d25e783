//! Reading a watch stream as fast as it comes, whatever the rest of the mirror is doing.
//!
//! Owns the reading task and its bounded queue. A stream left unread makes old servers skip history
//! and new ones cancel it, so the task awaits nothing but the stream; at the bound it gives the
//! stream up instead, and the mirror reopens it at the cursor. Must not judge messages.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::model::WatchResponse;
use crate::source::{SourceError, SourceErrorKind, WatchStream};

/// A message, the end of the stream (`None`), or its failure.
pub(crate) type Item = Result<Option<WatchResponse>, SourceError>;

#[derive(Debug, Default)]
struct Buffer {
    items: VecDeque<Item>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Channel {
    buffer: Mutex<Buffer>,
    arrived: Notify,
    progress: Notify,
}

/// The receiving end of a watch stream; dropping it closes the stream.
#[derive(Debug)]
pub(crate) struct Intake {
    channel: Arc<Channel>,
    task: JoinHandle<()>,
}

impl Intake {
    /// Starts to read `stream`, keeping at most about `max_bytes` of unread events.
    pub(crate) fn spawn(stream: Box<dyn WatchStream>, max_bytes: usize) -> Self {
        let channel = Arc::new(Channel::default());
        let task = tokio::spawn(read(stream, Arc::clone(&channel), max_bytes));
        Intake { channel, task }
    }

    /// Waits for messages and gives all that have come.
    ///
    /// Cancel safe: nothing is taken out before it is returned.
    pub(crate) async fn next(&self) -> VecDeque<Item> {
        loop {
            {
                let mut buffer = self.channel.buffer.lock();
                if !buffer.items.is_empty() {
                    buffer.bytes = 0;
                    return std::mem::take(&mut buffer.items);
                }
            }
            self.channel.arrived.notified().await;
        }
    }

    /// Asks for a progress notification; several wishes at once become one request.
    pub(crate) fn request_progress(&self) {
        self.channel.progress.notify_one();
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(mut stream: Box<dyn WatchStream>, channel: Arc<Channel>, max_bytes: usize) {
    loop {
        let item = tokio::select! {
            biased;
            () = channel.progress.notified() => {
                // Refused only when a hundred are queued unsent; then one more would not help.
                stream.request_progress();
                continue;
            }
            item = poll_fn(|cx| stream.poll_next(cx)) => item.transpose(),
        };
        let last = !matches!(item, Ok(Some(_)));
        let full = {
            let mut buffer = channel.buffer.lock();
            let unread = buffer.bytes;
            let bytes = item.as_ref().ok().and_then(Option::as_ref).map_or(0, WatchResponse::bytes);
            buffer.bytes += bytes;
            buffer.items.push_back(item);
            // One response larger than the bound is taken whole: it could never be had otherwise,
            // since it comes again with every new watch, between `created` and progress.
            let full = bytes > 0 && unread > 0 && buffer.bytes > max_bytes;
            if full && !last {
                buffer.items.push_back(Err(overflow(max_bytes)));
            }
            full
        };
        channel.arrived.notify_one();
        if last || full {
            return;
        }
    }
}

fn overflow(max_bytes: usize) -> SourceError {
    let message = format!("more than {max_bytes} bytes of events arrived before they were applied");
    SourceError::new(SourceErrorKind::Unavailable, message)
}
