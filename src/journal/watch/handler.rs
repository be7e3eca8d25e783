//! What a watcher calls for each event.
//!
//! Owns [`Handler`], its short forms for closures, and the containment of panics. Must not retry:
//! that is the watcher's choice.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use crate::journal::event::StoredEvent;
use crate::view::{BoxError, caught_message};

/// Handles events, one at a time and in order (J6).
///
/// It runs on the watcher's task, so it must not block for long. An event can come again after a
/// crash, after an error, and when the watcher was stopped while it was handled.
///
/// ```
/// use std::sync::Arc;
/// use etcd_keyspace::BoxError;
/// use etcd_keyspace::journal::{Handler, StoredEvent, async_handler_fn, handler_fn};
///
/// struct Mailer;
///
/// impl Handler for Mailer {
///     async fn handle(&self, event: &Arc<StoredEvent>) -> Result<(), BoxError> {
///         println!("{} {}", event.operation, event.object_type);
///         Ok(())
///     }
/// }
///
/// // Closures do as well.
/// let _sync = handler_fn(|event| String::from_utf8(event.object.clone()).map(drop));
/// let _async = async_handler_fn(|event| async move {
///     tokio::task::yield_now().await;
///     drop(event);
///     Ok::<_, BoxError>(())
/// });
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Handles one event. On an error the watcher tries again, or goes on, as its
    /// [`Retry`](crate::journal::Retry) says. A panic counts as an error.
    fn handle(&self, event: &Arc<StoredEvent>)
    -> impl Future<Output = Result<(), BoxError>> + Send;
}

struct SyncFn<F>(F);

impl<F, E> Handler for SyncFn<F>
where
    F: Fn(&StoredEvent) -> Result<(), E> + Send + Sync + 'static,
    E: Into<BoxError>,
{
    async fn handle(&self, event: &Arc<StoredEvent>) -> Result<(), BoxError> {
        (self.0)(event).map_err(Into::into)
    }
}

struct AsyncFn<F>(F);

impl<F, D, E> Handler for AsyncFn<F>
where
    F: Fn(Arc<StoredEvent>) -> D + Send + Sync + 'static,
    D: Future<Output = Result<(), E>> + Send,
    E: Into<BoxError>,
{
    async fn handle(&self, event: &Arc<StoredEvent>) -> Result<(), BoxError> {
        (self.0)(Arc::clone(event)).await.map_err(Into::into)
    }
}

/// A handler of a function.
pub fn handler_fn<F, E>(function: F) -> impl Handler
where
    F: Fn(&StoredEvent) -> Result<(), E> + Send + Sync + 'static,
    E: Into<BoxError> + 'static,
{
    SyncFn(function)
}

/// A handler of an async function.
pub fn async_handler_fn<F, D, E>(function: F) -> impl Handler
where
    F: Fn(Arc<StoredEvent>) -> D + Send + Sync + 'static,
    D: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    AsyncFn(function)
}

type Handling<'a> = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + 'a>>;

trait Erased: Send + Sync {
    fn begin<'a>(&'a self, event: &'a Arc<StoredEvent>) -> Handling<'a>;
}

impl<H: Handler> Erased for H {
    fn begin<'a>(&'a self, event: &'a Arc<StoredEvent>) -> Handling<'a> {
        // Within the future, so that a panic before the first await is contained too.
        Box::pin(async move { self.handle(event).await })
    }
}

/// Any handler.
#[derive(Clone)]
pub(in crate::journal) struct AnyHandler(Arc<dyn Erased>);

impl AnyHandler {
    pub(in crate::journal) fn new(handler: impl Handler) -> Self {
        AnyHandler(Arc::new(handler))
    }

    /// Handles an event; a panic becomes an error.
    pub(in crate::journal) async fn handle(
        &self,
        event: &Arc<StoredEvent>,
    ) -> Result<(), BoxError> {
        let mut handling = pin!(self.0.begin(event));
        poll_fn(|context| {
            let polled = catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(context)));
            polled.unwrap_or_else(|payload| {
                let message = caught_message(payload);
                Poll::Ready(Err(format!("the handler panicked: {message}").into()))
            })
        })
        .await
    }
}

impl fmt::Debug for AnyHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyHandler")
    }
}
