//! Following an etcd that asks who you are: users and rights that change while a mirror lives.
//!
//! Owns rights and passwords; tokens and TLS have files of their own. Each test in which a mirror
//! lives ends with the comparison of the whole key space with etcd.

mod support;

#[cfg(any(feature = "tls", feature = "tls-aws-lc"))]
#[path = "security/certificates.rs"]
mod certificates;
#[cfg(any(feature = "tls", feature = "tls-aws-lc"))]
#[path = "security/tls.rs"]
mod tls;
#[path = "security/tokens.rs"]
mod tokens;

use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, Permission, RoleRevokePermissionOptions};
use etcd_keyspace::{Builder, Etcd, EtcdOptions, State, StopReason};
use support::real::{Bytes, at, mirror, poll_until, put, reaches};
use support::verify::equals_etcd;
use support::{EtcdBuilder, EtcdServer, Proxy, still_pending, within};

const MS: Duration = Duration::from_millis(1);
const CHECK: Duration = Duration::from_millis(200);
/// The pause after a refusal that repeating does not mend.
const SLOW: Duration = Duration::from_millis(500);

/// A server that asks for users, root's client of it, and a proxy in front of it.
struct Guarded {
    server: EtcdServer,
    proxy: Proxy,
    root: Client,
}

impl Guarded {
    /// With `/app/a` and `/app/b`, and a user `reader` who may read `/app/`.
    async fn new(builder: EtcdBuilder) -> Self {
        let server = builder.start().await.unwrap();
        let mut client = server.client().await;
        put(&mut client, "/app/a", "1").await;
        put(&mut client, "/app/b", "1").await;
        client.user_add("root", "root", None).await.unwrap();
        client.role_add("root").await.unwrap();
        client.user_grant_role("root", "root").await.unwrap();
        client.role_add("reader").await.unwrap();
        grant(&mut client, Permission::read("/app/").with_prefix()).await;
        add_reader(&mut client, "secret").await;
        client.auth_enable().await.unwrap();
        let root = root_of(&server).await;
        let proxy = Proxy::start(&server.endpoint()).await.unwrap();
        Guarded { server, proxy, root }
    }

    fn etcd(&self, user: &str, password: &str) -> Etcd {
        Etcd::new([self.proxy.endpoint()], EtcdOptions::new().user(user, password))
    }

    /// A client that exists already has one token for its requests and its watches.
    async fn shared(&self) -> Etcd {
        let options = ConnectOptions::new().with_user("reader", "secret").with_require_leader(true);
        Etcd::from(Client::connect([self.proxy.endpoint()], Some(options)).await.unwrap())
    }

    /// A mirror of `/app/`, by the reader, that is fresh.
    async fn mirror(&self) -> Bytes {
        self.mirror_of(self.etcd("reader", "secret")).await
    }

    async fn mirror_of(&self, etcd: Etcd) -> Bytes {
        let ks = within("the start", quick().start(etcd)).await.unwrap();
        poll_until("it is fresh", || ks.status(), |status| status.is_fresh(4 * CHECK)).await;
        ks
    }

    async fn equal(&mut self, ks: &Bytes) {
        put(&mut self.root, "/app/last", "x").await;
        put(&mut self.root, "/beside", "x").await;
        equals_etcd(ks, &mut self.root, "/app/").await;
        reaches(ks, State::Live).await;
        let status = ks.status();
        assert_eq!((status.epoch, status.counters.loads), (1, 1), "{status:?}");
        poll_until("it is over", || ks.status(), |status| status.last_error.is_none()).await;
    }
}

/// A builder of mirrors that ask often and do not wait long.
fn quick() -> Builder<Vec<u8>> {
    let builder = mirror("/app/").check_interval(CHECK).request_timeout(5000 * MS);
    builder.backoff(20 * MS, SLOW)
}

/// Root's client. Its password is hashed at each token, so it keeps one.
async fn root_of(server: &EtcdServer) -> Client {
    let options = ConnectOptions::new().with_user("root", "root").with_auto_token_refresh(true);
    Client::connect([server.endpoint()], Some(options)).await.unwrap()
}

async fn grant(client: &mut Client, permission: Permission) {
    client.role_grant_permission("reader", permission).await.unwrap();
}

async fn revoke(client: &mut Client) {
    let options = RoleRevokePermissionOptions::new().with_prefix();
    client.role_revoke_permission("reader", "/app/", Some(options)).await.unwrap();
}

async fn add_reader(client: &mut Client, password: &str) {
    client.user_add("reader", password, None).await.unwrap();
    client.user_grant_role("reader", "reader").await.unwrap();
}

/// While `ks` is refused: it says so, serves what it has, and does not hammer the server.
async fn refused_and_patient(ks: &Bytes, told: &str) {
    reaches(ks, State::Reconnecting).await;
    let error = || ks.status().last_error.map(|error| error.to_string());
    let says = |error: &Option<String>| error.as_ref().is_some_and(|text| text.contains(told));
    poll_until("the error is shown", error, says).await;
    let (before, begun) = (ks.status().counters, Instant::now());
    let shown = (ks.read().revision(), ks.read().len());
    let mut wait = Box::pin(ks.wait_for_revision(i64::MAX));
    // Time that passes is what is tested.
    still_pending("nothing more may be read", 4 * SLOW, &mut wait).await;
    let failures = || ks.status().counters.failures;
    poll_until("it tries again", failures, |failures| *failures > before.failures).await;
    let status = ks.status();
    let connects = status.counters.connects - before.connects;
    let failures = status.counters.failures - before.failures;
    // A pause is shortened by up to half at random.
    let most = 2 + begun.elapsed().as_millis() / (SLOW / 2).as_millis();
    assert!(u128::from(connects.max(failures)) <= most, "{failures} failures, {status:?}");
    assert_eq!(status.state, State::Reconnecting);
    assert!(!status.is_fresh(Duration::MAX) && status.last_error.is_some(), "{status:?}");
    assert_eq!((ks.read().revision(), ks.read().len()), shown, "the last data is served");
    println!("{told}: {connects} connects and {failures} failures in {:?}", begun.elapsed());
}

/// B26, B27, F32: the watch outlives the right, and the mirror finds that out by itself.
#[tokio::test]
async fn b26_f32_a_right_taken_away_is_noticed_and_given_back_it_heals() {
    let mut etcd = Guarded::new(EtcdServer::builder()).await;
    let ks = etcd.mirror().await;
    for cut in [false, true] {
        revoke(&mut etcd.root).await;
        let begun = Instant::now();
        if cut {
            etcd.proxy.reset().await;
        }
        reaches(&ks, State::Reconnecting).await;
        println!("cut {cut}: noticed after {:?}", begun.elapsed());
        assert!(begun.elapsed() < CHECK + 5000 * MS, "{:?}", begun.elapsed());
        put(&mut etcd.root, "/app/c", format!("unseen {cut}")).await;
        refused_and_patient(&ks, "permission denied").await;
        grant(&mut etcd.root, Permission::read("/app/").with_prefix()).await;
        let begun = Instant::now();
        etcd.equal(&ks).await;
        println!("healed after {:?}", begun.elapsed());
        assert!(begun.elapsed() < 2 * SLOW + 8000 * MS, "{:?}", begun.elapsed());
    }
}

/// F36: what is left of the right does not cover the mirrored range, though single keys of it.
#[tokio::test]
async fn b27_f36_a_right_that_became_narrower_than_the_range_is_noticed() {
    let mut etcd = Guarded::new(EtcdServer::builder()).await;
    let ks = etcd.mirror().await;
    revoke(&mut etcd.root).await;
    for key in ["/app/", "/app/a", "/app/b"] {
        grant(&mut etcd.root, Permission::read(key)).await;
    }
    // The mirror's small reads are of keys it may still read; the watch is not.
    etcd.proxy.reset().await;
    refused_and_patient(&ks, "permission denied").await;
    grant(&mut etcd.root, Permission::read("/app/").with_prefix()).await;
    etcd.equal(&ks).await;

    // A new mirror wants more than there is.
    for prefix in ["/app", "/", "/other/"] {
        let begun = Instant::now();
        let started = mirror(prefix).start(etcd.etcd("reader", "secret"));
        let reason = within("the refusal", started).await.unwrap_err();
        let StopReason::Refused { cause } = &reason else { panic!("{reason:?}") };
        assert!(cause.to_string().contains("permission denied"), "{cause}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}

/// F32: a user who is gone cannot get a token; one of the same name can.
#[tokio::test]
async fn b26_f32_a_user_deleted_and_made_again_is_followed_by_the_mirror() {
    let mut etcd = Guarded::new(EtcdServer::builder()).await;
    // Connections of the mirror's own begin with a new token, those of a shared client do not.
    let (own, shared) = (etcd.mirror().await, etcd.mirror_of(etcd.shared().await).await);
    etcd.root.user_delete("reader").await.unwrap();
    tokio::join!(refused_and_patient(&own, ""), refused_and_patient(&shared, ""));
    // First with another password, which does not help.
    add_reader(&mut etcd.root, "other").await;
    let told = "authentication failed";
    tokio::join!(refused_and_patient(&own, told), refused_and_patient(&shared, told));
    etcd.root.user_change_password("reader", "secret").await.unwrap();
    for ks in [own, shared] {
        etcd.equal(&ks).await;
    }
}

/// Authentication switched off and on again under a mirror with a user: nothing is missed.
#[tokio::test]
async fn b26_authentication_switched_off_and_on_is_got_over() {
    let mut etcd = Guarded::new(EtcdServer::builder()).await;
    let ks = etcd.mirror().await;
    for cut in [false, true] {
        etcd.root.auth_disable().await.unwrap();
        if cut {
            etcd.proxy.reset().await;
        }
        etcd.root = etcd.server.client().await;
        put(&mut etcd.root, "/app/free", "x").await;
        equals_etcd(&ks, &mut etcd.root, "/app/").await;
        etcd.root.auth_enable().await.unwrap();
        etcd.root = root_of(&etcd.server).await;
        etcd.equal(&ks).await;
    }
}

/// And under one without a user, which is refused until it is off again.
#[tokio::test]
async fn b26_authentication_switched_on_under_a_mirror_without_a_user_is_said() {
    let mut etcd = Guarded::new(EtcdServer::builder()).await;
    etcd.root.auth_disable().await.unwrap();
    let started = quick().start(at(etcd.proxy.endpoint()));
    let ks = within("the start", started).await.unwrap();
    let mut client = etcd.server.client().await;
    equals_etcd(&ks, &mut client, "/app/").await;
    client.auth_enable().await.unwrap();
    refused_and_patient(&ks, "user name is empty").await;
    etcd.root = root_of(&etcd.server).await;
    etcd.root.auth_disable().await.unwrap();
    etcd.root = etcd.server.client().await;
    etcd.equal(&ks).await;
}

/// A wrong password, and a user nobody knows, are told at once, with etcd's words.
#[tokio::test]
async fn b26_a_wrong_password_ends_the_start_at_once() {
    let etcd = Guarded::new(EtcdServer::builder()).await;
    for (user, password) in [("reader", "wrong"), ("nobody", "secret"), ("reader", "")] {
        let begun = Instant::now();
        let started = mirror("/app/").start(etcd.etcd(user, password));
        let reason = within("the refusal", started).await.unwrap_err();
        let StopReason::Refused { cause } = &reason else { panic!("{reason:?}") };
        println!("{user} {password:?}: {reason}: {cause} after {:?}", begun.elapsed());
        assert!(cause.to_string().contains("authentication failed"), "{cause}");
        assert!(!format!("{reason:?}").contains("wrong"), "no password is shown");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}
