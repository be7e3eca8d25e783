//! Requests to one endpoint.
//!
//! Owns the clients of the endpoint: one for requests, and one for each watch. Must not retry, and
//! must not bound anything in time. Dropping a future of this file abandons the request and leaves
//! nothing half done.

use std::fmt;
use std::sync::Arc;

use etcd_client::{Client, Error, KvClient};

use super::convert;
use super::error::{refused_since_auth_is_off, translate};
use super::options::EtcdOptions;
use super::stream::{EtcdRangeStream, EtcdWatchStream, Fragments};
use crate::model::{KeyRange, Revision};
use crate::source::{
    BoxFuture, Connection, RangePage, RangeRequest, RangeStream, ServerVersion, SourceError,
    WatchStream,
};

/// Makes clients for one endpoint.
#[derive(Clone)]
pub(super) struct Dialer {
    url: String,
    options: Arc<EtcdOptions>,
}

impl Dialer {
    pub(super) fn new(url: String, options: Arc<EtcdOptions>) -> Self {
        Dialer { url, options }
    }

    /// A new client with a channel and a token of its own.
    async fn dial(&self) -> Result<Arc<Client>, SourceError> {
        let options = self.options.for_endpoint(&self.url);
        let client = Client::connect([&self.url], Some(options)).await.map_err(translate)?;
        if self.options.user.is_some() {
            self.authenticate(client.clone()).await?;
        }
        Ok(Arc::new(client))
    }

    /// Gets a new token for `client`, which shares it with all its clones.
    async fn authenticate(&self, mut client: Client) -> Result<(), SourceError> {
        match self.options.user.clone() {
            Some(user) => unless_auth_is_off(client.update_user(Some(user)).await),
            // Perhaps the options of the library have a user.
            None => unless_auth_is_off(client.refresh_token().await),
        }
    }
}

/// A server that asks nobody for a token refuses to give one; then none is needed.
fn unless_auth_is_off(answer: Result<(), Error>) -> Result<(), SourceError> {
    match answer {
        Err(error) if refused_since_auth_is_off(&error) => Ok(()),
        answer => answer.map_err(translate),
    }
}

/// A connection to one endpoint, or a client of somebody else.
pub(super) struct EtcdConnection {
    name: String,
    client: Arc<Client>,
    kv: KvClient,
    max_message_bytes: usize,
    fragments: Fragments,
    /// Makes the watch's own client; absent when the watch shares `client`.
    dialer: Option<Dialer>,
}

impl EtcdConnection {
    /// Connects through `dialer`.
    pub(super) async fn open(
        name: String,
        dialer: Dialer,
        fragments: Fragments,
    ) -> Result<Self, SourceError> {
        let client = dialer.dial().await?;
        let max_message_bytes = dialer.options.max_message_bytes;
        Ok(EtcdConnection::new(name, client, max_message_bytes, fragments, Some(dialer)))
    }

    /// Uses `client` for everything.
    pub(super) fn shared(name: String, client: Arc<Client>, fragments: Fragments) -> Self {
        let max_message_bytes = EtcdOptions::DEFAULT_MAX_MESSAGE_BYTES;
        EtcdConnection::new(name, client, max_message_bytes, fragments, None)
    }

    fn new(
        name: String,
        client: Arc<Client>,
        max_message_bytes: usize,
        fragments: Fragments,
        dialer: Option<Dialer>,
    ) -> Self {
        let kv = client.kv_client().max_decoding_message_size(max_message_bytes);
        EtcdConnection { name, client, kv, max_message_bytes, fragments, dialer }
    }
}

impl Connection for EtcdConnection {
    fn version(&self) -> BoxFuture<'static, Result<ServerVersion, SourceError>> {
        let mut maintenance = self.client.maintenance_client();
        Box::pin(async move {
            let status = maintenance.status().await.map_err(translate)?;
            convert::version(status.version())
        })
    }

    fn range(&self, request: RangeRequest) -> BoxFuture<'static, Result<RangePage, SourceError>> {
        let mut kv = self.kv.clone();
        Box::pin(async move {
            let (key, options) = convert::get_options(&request);
            let answer = kv.get(key, Some(options)).await.map_err(translate)?;
            Ok(convert::page(answer.0))
        })
    }

    fn range_stream(
        &self,
        range: &KeyRange,
    ) -> BoxFuture<'static, Result<Box<dyn RangeStream>, SourceError>> {
        let mut kv = self.kv.clone();
        let (key, options) = convert::get_options(&RangeRequest::new(range.clone()));
        Box::pin(async move {
            let stream = kv.get_stream(key, Some(options)).await.map_err(translate)?;
            Ok(Box::new(EtcdRangeStream::new(stream)) as Box<dyn RangeStream>)
        })
    }

    /// Waits for the headers of the stream, which etcd sends with its first message.
    fn watch(
        &self,
        range: &KeyRange,
        start_revision: Revision,
    ) -> BoxFuture<'static, Result<Box<dyn WatchStream>, SourceError>> {
        let fragments = self.fragments.clone();
        let (key, options) = convert::watch_options(range, start_revision, fragments.take());
        let max_message_bytes = self.max_message_bytes;
        let shared = self.client.clone();
        let dialer = self.dialer.clone();
        Box::pin(async move {
            let client = match dialer {
                Some(dialer) => dialer.dial().await?,
                None => shared,
            };
            let mut watch = client.watch_client().max_decoding_message_size(max_message_bytes);
            let stream = watch.watch(key, Some(options)).await.map_err(translate)?;
            Ok(Box::new(EtcdWatchStream::new(stream, client, fragments)) as Box<dyn WatchStream>)
        })
    }

    /// Renews the token of requests. The next watch has a client and so a token of its own.
    fn refresh_token(&self) -> BoxFuture<'static, Result<(), SourceError>> {
        let client = self.client.clone();
        let dialer = self.dialer.clone();
        Box::pin(async move {
            match dialer {
                Some(dialer) => dialer.authenticate(Client::clone(&client)).await,
                None => unless_auth_is_off(client.refresh_token().await),
            }
        })
    }
}

impl fmt::Debug for EtcdConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConnection").field("name", &self.name).finish()
    }
}
