//! Mirrors over TLS: who is trusted, who is let in, and what a start says that cannot succeed.
//!
//! Owns the pairings of certificates and authorities. Certificates are made in each test.

use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, Permission, TlsOptions};
use etcd_keyspace::{Etcd, EtcdOptions, State, StopReason};

use super::certificates::Authority;
use super::support::real::{Steps, delete_prefix, mirror, poll_until, put, reaches};
use super::support::verify::equals_etcd;
use super::support::{EtcdServer, within};
use super::{MS, add_reader, grant, quick, refused_and_patient, revoke};

const LOCALHOST: &str = "127.0.0.1";
const LIMIT: Duration = Duration::from_millis(1500);

/// Follows `server` with `options` through a restart, beginning with the load.
async fn is_followed(server: &EtcdServer, options: EtcdOptions) {
    let mut client = server.client().await;
    delete_prefix(&mut client, "/app/").await;
    for i in 0..20 {
        put(&mut client, format!("/app/{i}"), "first").await;
    }
    let started = quick().start(Etcd::new([server.endpoint()], options));
    let ks = within("the start", started).await.unwrap();
    let steps = Steps::of(&ks);
    assert_eq!(steps.take()[0].changes.len(), 20);
    for i in 0..20 {
        put(&mut client, format!("/app/{}", i * 2), "second").await;
    }
    within("a sync", ks.sync()).await.unwrap();
    equals_etcd(&ks, &mut client, "/app/").await;
    server.kill();
    reaches(&ks, State::Reconnecting).await;
    server.restart().await.unwrap();
    let mut client = server.client().await;
    put(&mut client, "/app/after", "x").await;
    equals_etcd(&ks, &mut client, "/app/").await;
    let counters = ks.status().counters;
    assert_eq!((counters.loads, counters.discontinuities), (1, 0), "{counters:?}");
}

#[tokio::test]
async fn tls_a_server_of_a_private_authority_is_followed() {
    let authority = Authority::new();
    let server = authority.start(LOCALHOST, false).await;
    is_followed(&server, EtcdOptions::new().tls(authority.trusted())).await;
    // The same by way of the library's own options.
    let base = ConnectOptions::new().with_tls(authority.trusted());
    is_followed(&server, EtcdOptions::new().connect_options(base)).await;
}

#[tokio::test]
async fn tls_a_server_that_wants_certificates_is_followed_by_a_client_that_has_one() {
    let authority = Authority::new();
    let server = authority.start(LOCALHOST, true).await;
    let identity = authority.client("reader").identity();
    is_followed(&server, EtcdOptions::new().tls(authority.trusted().identity(identity))).await;
}

/// A certificate may be for another name than the endpoint's, if the client knows that.
#[tokio::test]
async fn tls_a_name_that_is_not_the_endpoints_has_to_be_given() {
    let authority = Authority::new();
    let server = authority.start("etcd.example", false).await;
    let named = authority.trusted().domain_name("etcd.example");
    is_followed(&server, EtcdOptions::new().tls(named)).await;
    let cause = refusal(&server.endpoint(), EtcdOptions::new().tls(authority.trusted())).await;
    assert!(cause.contains("not valid for name"), "{cause}");
}

/// What a start says that fails again and again until its limit.
async fn refusal(endpoint: &str, options: EtcdOptions) -> String {
    let etcd = Etcd::new([endpoint], options);
    let begun = Instant::now();
    let started = mirror("/app/").load_timeout(LIMIT).start(etcd);
    let reason = within("the start ends", started).await.unwrap_err();
    let cause = match &reason {
        StopReason::LoadTimeout { cause: Some(cause) } | StopReason::Refused { cause } => cause,
        reason => panic!("{reason:?}"),
    };
    println!("{reason}: {cause} after {:?}", begun.elapsed());
    assert!(begun.elapsed() < LIMIT + 1000 * MS, "{:?}", begun.elapsed());
    cause.to_string()
}

/// A start that cannot succeed ends within its limit and names what is wrong.
#[tokio::test]
async fn tls_what_does_not_fit_is_told_by_the_start() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = ours.start(LOCALHOST, false).await;
    let url = server.endpoint();
    let tls = |options: TlsOptions| EtcdOptions::new().tls(options);

    // Whom the client does not trust.
    let cause = refusal(&url, tls(theirs.trusted())).await;
    assert!(cause.contains("invalid peer certificate"), "{cause}");
    let cause = refusal(&url, tls(TlsOptions::new())).await;
    assert!(cause.contains("invalid peer certificate"), "{cause}");
    // Who does not speak TLS learns no more than that the server hangs up.
    let plain = url.replace("https://", "http://");
    let cause = refusal(&plain, EtcdOptions::new()).await;
    assert!(cause.starts_with("etcd is unavailable"), "{cause}");
    // Who speaks it to a server that does not.
    let open = EtcdServer::start().await.unwrap();
    let secure = open.endpoint().replace("http://", "https://");
    let cause = refusal(&secure, tls(ours.trusted())).await;
    let told = ["corrupt message", "tls handshake eof"];
    assert!(told.iter().any(|words| cause.contains(words)), "{cause}");
    // What the configuration alone shows to be wrong ends the start at once.
    let begun = Instant::now();
    let cause = refusal(&plain, tls(ours.trusted())).await;
    assert!(begun.elapsed() < 500 * MS, "{cause}");
}

/// etcd takes the common name of a certificate for a user: no password, and no token to expire.
#[tokio::test]
async fn tls_b26_the_name_in_a_certificate_is_a_user_with_rights() {
    let authority = Authority::new();
    let server = authority.start(LOCALHOST, true).await;
    let mut client = server.client().await;
    client.user_add("root", "root", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("reader").await.unwrap();
    grant(&mut client, Permission::read("/app/").with_prefix()).await;
    add_reader(&mut client, "never used").await;
    put(&mut client, "/app/a", "1").await;
    client.auth_enable().await.unwrap();
    let by = |name: &str| authority.trusted().identity(authority.client(name).identity());
    let root = ConnectOptions::new().with_tls(by("root"));
    let mut client = Client::connect([server.endpoint()], Some(root)).await.unwrap();

    let etcd = |name| Etcd::new([server.endpoint()], EtcdOptions::new().tls(by(name)));
    let ks = within("the start", quick().start(etcd("reader"))).await.unwrap();
    put(&mut client, "/app/b", "1").await;
    equals_etcd(&ks, &mut client, "/app/").await;
    revoke(&mut client).await;
    refused_and_patient(&ks, "permission denied").await;
    let cause = refusal(&server.endpoint(), EtcdOptions::new().tls(by("reader"))).await;
    assert!(cause.contains("permission denied"), "{cause}");
    grant(&mut client, Permission::read("/app/").with_prefix()).await;
    put(&mut client, "/app/c", "1").await;
    equals_etcd(&ks, &mut client, "/app/").await;
}

/// With TLS 1.3 a server refuses a client after the handshake, from the client's point of view: the
/// reason and the end of the connection race, and whoever asks first may be told only of the end.
/// The status says the reason as soon as one attempt has caught it.
#[tokio::test]
async fn tls_a_client_whom_the_server_does_not_let_in_is_told_so() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = ours.start(LOCALHOST, true).await;
    let stranger = theirs.client("stranger").identity();
    for tls in [ours.trusted(), ours.trusted().identity(stranger)] {
        let options = EtcdOptions::new().tls(tls);
        let (ks, task) = mirror("/app/").build(Etcd::new([server.endpoint()], options));
        let task = tokio::spawn(task.run());
        let error = || ks.status().last_error.map(|error| error.to_string());
        let told = poll_until("the reason", error, |error| {
            error.as_ref().is_some_and(|error| error.contains("alert"))
        });
        let told = told.await;
        println!("told after {told:?} and {} failures", ks.status().counters.failures);
        assert_eq!(ks.status().state, State::Loading);
        ks.shutdown().await;
        task.await.unwrap();
    }
    let identity = ours.client("reader").identity();
    is_followed(&server, EtcdOptions::new().tls(ours.trusted().identity(identity))).await;
}
