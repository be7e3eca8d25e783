//! Real etcd: the source that speaks through `etcd_client`.
//!
//! Owns the endpoints and how a connection to one of them is made. `etcd_client` is named in this
//! directory only. Must not choose endpoints, retry or wait: that is the business of `mirror`.

#[cfg(all(test, feature = "test-util"))]
#[path = "tests/conformance.rs"]
mod conformance;
mod connection;
mod convert;
mod error;
mod options;
mod stream;

use std::fmt;
use std::sync::Arc;

use etcd_client::Client;

pub use self::options::EtcdOptions;

use self::connection::{Dialer, EtcdConnection};
use self::stream::Fragments;
use super::{BoxFuture, Connection, Source, SourceError, SourceErrorKind, sealed};

/// Real etcd, reached through one or more endpoints.
///
/// ```
/// use etcd_keyspace::{Etcd, EtcdOptions};
///
/// let etcd = Etcd::new(["http://10.0.0.1:2379", "http://10.0.0.2:2379"], EtcdOptions::new());
/// # let _ = etcd;
/// ```
#[derive(Clone)]
pub struct Etcd {
    origin: Origin,
    fragments: Fragments,
}

#[derive(Clone)]
enum Origin {
    Endpoints { endpoints: Arc<[String]>, options: Arc<EtcdOptions> },
    Client(Arc<Client>),
}

impl Etcd {
    /// Etcd at `endpoints`, each with connections of its own.
    ///
    /// An endpoint is a URL such as `http://127.0.0.1:2379`; without a scheme it is `http://`, or
    /// `https://` when TLS options are set. Nothing is connected or checked here. A bad URL, a
    /// scheme that does not fit the TLS options and an empty list fail with `InvalidRequest` when a
    /// mirror connects, and its start then returns at once.
    ///
    /// A connection is two: one for requests and one for the watch, so that events nobody reads yet
    /// never block a request.
    #[must_use]
    pub fn new<E: Into<String>>(
        endpoints: impl IntoIterator<Item = E>,
        options: EtcdOptions,
    ) -> Etcd {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        let origin = Origin::Endpoints { endpoints, options: Arc::new(options) };
        Etcd { origin, fragments: Fragments::default() }
    }

    /// Etcd behind a client that exists already, with its channel and its settings.
    ///
    /// Prefer [`Etcd::new`]. A client counts as one endpoint however many it has: it picks one for
    /// each request, dead ones too, and never moves a watch, so the mirror cannot rotate. What one
    /// member answers is taken for all, so all should run the same version. The watch shares the
    /// client's channel with all its other users: watches on it that nobody reads can block
    /// everything. Give the client
    /// [`with_require_leader(true)`](etcd_client::ConnectOptions::with_require_leader) and a
    /// keep-alive. Messages up to [`EtcdOptions::DEFAULT_MAX_MESSAGE_BYTES`] are accepted.
    #[must_use]
    pub fn from_client(client: Client) -> Etcd {
        Etcd { origin: Origin::Client(Arc::new(client)), fragments: Fragments::default() }
    }
}

impl From<Client> for Etcd {
    fn from(client: Client) -> Self {
        Etcd::from_client(client)
    }
}

impl sealed::Sealed for Etcd {}

impl Source for Etcd {
    fn endpoints(&self) -> usize {
        match &self.origin {
            // An empty list counts as one endpoint, whose connection says what is wrong.
            Origin::Endpoints { endpoints, .. } => endpoints.len().max(1),
            Origin::Client(_) => 1,
        }
    }

    fn endpoint_name(&self, index: usize) -> String {
        match &self.origin {
            Origin::Endpoints { endpoints, .. } => {
                endpoints.get(index).map_or_else(|| "no endpoint".to_owned(), |url| redact(url))
            }
            Origin::Client(_) => "etcd client".to_owned(),
        }
    }

    /// Makes a client for the endpoint. Only a user's authentication needs the network: without a
    /// user a dead endpoint shows at the first request.
    fn connect(
        &self,
        index: usize,
    ) -> BoxFuture<'static, Result<Box<dyn Connection>, SourceError>> {
        let name = self.endpoint_name(index);
        let origin = self.origin.clone();
        let fragments = self.fragments.clone();
        Box::pin(async move {
            let connection = match origin {
                Origin::Client(client) => EtcdConnection::shared(name, client, fragments),
                Origin::Endpoints { endpoints, options } => {
                    let url = endpoints.get(index).ok_or_else(|| no_endpoint(index))?;
                    let dialer = Dialer::new(url.clone(), options);
                    EtcdConnection::open(name, dialer, fragments).await?
                }
            };
            Ok(Box::new(connection) as Box<dyn Connection>)
        })
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = (0..self.endpoints()).map(|index| self.endpoint_name(index)).collect();
        let mut debug = f.debug_struct("Etcd");
        debug.field("endpoints", &names);
        if let Origin::Endpoints { options, .. } = &self.origin {
            debug.field("options", options);
        }
        debug.finish()
    }
}

fn no_endpoint(index: usize) -> SourceError {
    let message = format!("etcd has no endpoint {index}: give at least one URL");
    SourceError::new(SourceErrorKind::InvalidRequest, message)
}

/// The URL without the user and password somebody may have written into it.
fn redact(url: &str) -> String {
    let (scheme, rest) = match url.find("://") {
        Some(at) => url.split_at(at + 3),
        None => ("", url),
    };
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn connect_error(etcd: &Etcd, index: usize) -> SourceError {
        match etcd.connect(index).await {
            Ok(connection) => panic!("connected: {connection:?}"),
            Err(error) => error,
        }
    }

    #[tokio::test]
    async fn bad_endpoints_fail_when_connecting() {
        let none = Etcd::new(Vec::<String>::new(), EtcdOptions::new());
        assert_eq!((none.endpoints(), none.endpoint_name(0).as_str()), (1, "no endpoint"));
        let bad = Etcd::new(["http://", "not a url"], EtcdOptions::new());
        assert_eq!(bad.endpoints(), 2);
        for (etcd, index) in [(&none, 0), (&bad, 0), (&bad, 1), (&bad, 2)] {
            let error = connect_error(etcd, index).await;
            assert_eq!(error.kind(), SourceErrorKind::InvalidRequest, "{index} {error}");
        }
    }

    #[cfg(not(any(feature = "tls", feature = "tls-aws-lc")))]
    #[tokio::test]
    async fn https_needs_a_feature() {
        let etcd = Etcd::new(["https://127.0.0.1:1"], EtcdOptions::new());
        let error = connect_error(&etcd, 0).await;
        assert_eq!(error.kind(), SourceErrorKind::InvalidRequest);
        assert!(error.message().contains("HTTPS"), "{error}");
    }

    /// Without a user nothing is sent, so nothing can fail yet.
    #[tokio::test]
    async fn connecting_is_lazy() {
        let etcd = Etcd::new(["127.0.0.1:1"], EtcdOptions::new());
        assert!(etcd.connect(0).await.is_ok());
    }

    #[tokio::test]
    async fn names_and_debug_show_no_secret() {
        let options = EtcdOptions::new().user("reader", "hush");
        let urls = ["http://u:hush@a:2379", "u:hush@b:2379", "http://c:2379", "d"];
        let etcd = Etcd::new(urls, options);
        let names: Vec<_> = (0..4).map(|index| etcd.endpoint_name(index)).collect();
        assert_eq!(names, ["http://a:2379", "b:2379", "http://c:2379", "d"]);
        let text = format!("{etcd:?}");
        assert!(text.contains("http://a:2379") && text.contains("reader"), "{text}");
        assert!(!text.contains("hush"), "{text}");

        let client = Client::connect(["127.0.0.1:1"], None).await.unwrap();
        let etcd = Etcd::from(client);
        assert_eq!((etcd.endpoints(), etcd.endpoint_name(0).as_str()), (1, "etcd client"));
        assert_eq!(format!("{etcd:?}"), r#"Etcd { endpoints: ["etcd client"] }"#);
        let connection = etcd.connect(0).await.unwrap();
        assert_eq!(format!("{connection:?}"), r#"EtcdConnection { name: "etcd client" }"#);
    }
}
