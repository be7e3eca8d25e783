//! How connections to etcd are made.
//!
//! Owns the defaults and why they are what they are. Must not connect.

use std::fmt;
use std::time::Duration;

use etcd_client::ConnectOptions;
#[cfg(any(feature = "tls", feature = "tls-aws-lc"))]
use etcd_client::TlsOptions;

/// How [`Etcd`](super::Etcd) connects: user, TLS, keep-alive and limits.
///
/// ```
/// use std::time::Duration;
/// use etcd_keyspace::{Etcd, EtcdOptions};
///
/// let options = EtcdOptions::new()
///     .user("reader", "secret")
///     .connect_timeout(Duration::from_secs(2));
/// let etcd = Etcd::new(["http://127.0.0.1:2379"], options);
/// # let _ = etcd;
/// ```
#[derive(Clone)]
pub struct EtcdOptions {
    pub(super) user: Option<(String, String)>,
    pub(super) max_message_bytes: usize,
    keep_alive: (Duration, Duration),
    connect_timeout: Duration,
    require_leader: bool,
    base: Option<ConnectOptions>,
    #[cfg(any(feature = "tls", feature = "tls-aws-lc"))]
    tls: Option<TlsOptions>,
}

impl EtcdOptions {
    /// What [`max_message_bytes`](EtcdOptions::max_message_bytes) is unless set: 256 MiB.
    pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 256 << 20;

    /// No user and no TLS; the other defaults stand at each setter.
    #[must_use]
    pub fn new() -> Self {
        EtcdOptions {
            user: None,
            max_message_bytes: Self::DEFAULT_MAX_MESSAGE_BYTES,
            keep_alive: (Duration::from_secs(10), Duration::from_secs(5)),
            connect_timeout: Duration::from_secs(5),
            require_leader: true,
            base: None,
            #[cfg(any(feature = "tls", feature = "tls-aws-lc"))]
            tls: None,
        }
    }

    /// Authenticates as `name`. Default: nobody.
    ///
    /// The user must be allowed to read the whole mirrored range: etcd refuses a watch that is
    /// wider than what is granted. While the server has authentication switched off, requests are
    /// made without a user, as etcd's Go client does (etcd: `getToken`, client/v3/client.go).
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// Sets up TLS. Default: endpoints that begin with `https://` are verified against the root
    /// certificates of the features `tls-native-roots` and `tls-webpki-roots`; others get no TLS.
    ///
    /// With it an endpoint without a scheme is `https://`, and connecting to one that begins with
    /// `http://` fails with `InvalidRequest`.
    #[cfg(any(feature = "tls", feature = "tls-aws-lc"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tls", feature = "tls-aws-lc"))))]
    #[must_use]
    pub fn tls(mut self, tls: TlsOptions) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Pings a connection with open requests every `interval`, and gives it up when a ping is not
    /// answered within `timeout`. Default: 10 s and 5 s.
    ///
    /// Keep the interval at 6 s or more: etcd drops clients that ping more often than every 5 s
    /// (etcd: `--grpc-keepalive-min-time`, `DefaultGRPCKeepAliveMinTime`, embed/config.go). Idle
    /// connections are never pinged, since etcd drops those that do.
    #[must_use]
    pub fn keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keep_alive = (interval, timeout);
        self
    }

    /// How long making a TCP connection may take. Default: 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The largest message accepted, in bytes. Default: 256 MiB.
    ///
    /// It must hold the largest entry and, where servers or proxies do not cut large answers, a
    /// whole transaction or prefix delete. A larger message fails with `TooLarge`, and fails again
    /// however often it is retried.
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Whether requests and watches fail on a member that has no leader. Default: `true`.
    ///
    /// Without it a watch on a member that is cut off from its cluster stays silent and seems well.
    /// etcd ends such a watch three election timeouts after the leader is lost (etcd:
    /// `monitorLeader`, v3rpc/interceptor.go).
    #[must_use]
    pub fn require_leader(mut self, require: bool) -> Self {
        self.require_leader = require;
        self
    }

    /// Settings of the client library to start from, for what has no setter here. Default: none.
    ///
    /// Its user and TLS options hold unless set here too. Keep-alive, connect timeout and the
    /// leader requirement are always those of this type. A request timeout in `base` bounds the
    /// beginning of an answer only, not its body; the mirror has time limits of its own.
    #[must_use]
    pub fn connect_options(mut self, base: ConnectOptions) -> Self {
        self.base = Some(base);
        self
    }

    /// The library's options for `endpoint`, without [`user`](EtcdOptions::user).
    pub(super) fn for_endpoint(&self, endpoint: &str) -> ConnectOptions {
        let (interval, timeout) = self.keep_alive;
        let options = self.base.clone().unwrap_or_default();
        let options = options
            .with_keep_alive(interval, timeout)
            .with_keep_alive_while_idle(false)
            .with_connect_timeout(self.connect_timeout)
            .with_require_leader(self.require_leader);
        self.with_tls(options, endpoint)
    }

    #[cfg(any(feature = "tls", feature = "tls-aws-lc"))]
    fn with_tls(&self, options: ConnectOptions, endpoint: &str) -> ConnectOptions {
        match &self.tls {
            Some(tls) => options.with_tls(tls.clone()),
            // The library's default would trust no certificate at all.
            None if self.base.is_none() && endpoint.starts_with("https://") => {
                options.with_tls(TlsOptions::new().with_enabled_roots())
            }
            None => options,
        }
    }

    #[cfg(not(any(feature = "tls", feature = "tls-aws-lc")))]
    fn with_tls(&self, options: ConnectOptions, _endpoint: &str) -> ConnectOptions {
        options
    }
}

impl Default for EtcdOptions {
    fn default() -> Self {
        EtcdOptions::new()
    }
}

/// Names the user; never shows the password, keys, or the library's options that may hold them.
impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("keep_alive", &self.keep_alive)
            .field("connect_timeout", &self.connect_timeout)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("require_leader", &self.require_leader)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let base = ConnectOptions::new().with_user("base", "hush1");
        let options = EtcdOptions::new().user("reader", "hush2").connect_options(base);
        let text = format!("{options:?}");
        assert!(text.contains("reader") && !text.contains("hush"), "{text}");
    }

    /// B19, B20: what keeps a watch honest is set whatever the base says. `ConnectOptions::new()`
    /// pings idle connections, which etcd answers by dropping them.
    #[test]
    fn b19_wrapped_settings_overrule_the_base() {
        let base = ConnectOptions::new()
            .with_keep_alive(Duration::from_secs(1), Duration::from_secs(1))
            .with_require_leader(false)
            .with_tcp_keepalive(Duration::from_secs(33));
        for options in [EtcdOptions::new(), EtcdOptions::new().connect_options(base)] {
            let text = format!("{:?}", options.for_endpoint("localhost:2379"));
            for part in [
                "keep_alive: Some((10s, 5s))",
                "keep_alive_while_idle: false",
                "connect_timeout: Some(5s)",
                "require_leader: true",
                " timeout: None",
            ] {
                assert!(text.contains(part), "{part} in {text}");
            }
            assert_eq!(text.contains("tcp_keepalive: Some(33s)"), options.base.is_some());
        }
    }

    #[cfg(any(feature = "tls", feature = "tls-aws-lc"))]
    #[test]
    fn https_endpoints_get_tls_by_default() {
        let plain = EtcdOptions::new();
        let without = format!("{:?}", plain.for_endpoint("http://a:1"));
        assert!(without.contains("tls: None"), "{without}");
        let with = format!("{:?}", plain.for_endpoint("https://a:1"));
        assert!(with.contains("tls: Some("), "{with}");
        let based = plain.connect_options(ConnectOptions::default());
        let based = format!("{:?}", based.for_endpoint("https://a:1"));
        assert!(based.contains("tls: None"), "{based}");
    }
}
