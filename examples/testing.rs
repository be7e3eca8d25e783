//! An application that reads a key space, and its own tests, which need no etcd.
//!
//! `cargo test --example testing --features test-util` runs them. Three ways, from simple to thorough:
//! fixed entries for code that only reads, a `Writer` for exact steps, and the fake etcd for code that
//! starts a mirror and must survive what etcd does. On a paused clock all waits pass at once.

use etcd_keyspace::KeySpace;

/// The application: routes requests to the backend with the longest path that fits.
#[derive(Clone)]
struct Router {
    routes: KeySpace<String>,
}

impl Router {
    /// The backend for a path, from memory.
    fn backend(&self, path: &str) -> Option<String> {
        let view = self.routes.snapshot();
        let mut known = path;
        loop {
            // Paths come from users: what lies outside the key space is no route, and no panic.
            if let Some(entry) = view.try_get(format!("/routes{known}")).ok()? {
                return Some(entry.value().clone());
            }
            known = known.rfind('/').map(|slash| &known[..slash])?;
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let etcd = etcd_keyspace::testing::FakeEtcd::new();
    etcd.put("/routes/shop", "\"10.0.0.1:80\"");
    let routes = KeySpace::builder("/routes/")?.json().start(etcd.clone()).await?;
    let router = Router { routes };
    println!("/shop/cart goes to {:?}", router.backend("/shop/cart"));
    println!("/blog goes to {:?}", router.backend("/blog"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use etcd_keyspace::testing::FakeEtcd;
    use etcd_keyspace::{Entry, Header, KeyRange, RawKeyValue, State};

    use super::*;

    /// Fixed entries: enough for code that reads.
    #[test]
    fn the_longest_path_that_fits_wins() {
        let entries = [("/routes/a", "short"), ("/routes/a/b", "long")];
        let entries = entries.map(|(key, backend)| Entry::new(key, backend.to_owned(), 1));
        let routes = KeySpace::from_entries(KeyRange::prefix("/routes/"), entries).unwrap();
        let router = Router { routes };
        assert_eq!(router.backend("/a/b/c").as_deref(), Some("long"));
        assert_eq!(router.backend("/a/x").as_deref(), Some("short"));
        assert_eq!(router.backend("/x"), None);
    }

    /// A writer: exact steps without any task, with the decoder of the application in between.
    #[test]
    fn a_value_that_cannot_be_read_leaves_the_last_good_one() {
        let (routes, mut writer) = KeySpace::builder("/routes/").unwrap().json().writer();
        let router = Router { routes };
        let kv = |value: &str, revision: i64| RawKeyValue {
            key: b"/routes/a".to_vec(),
            value: value.into(),
            create_revision: 1,
            mod_revision: revision,
            version: revision,
            lease: 0,
        };
        let at = |revision| Header { revision, ..Header::default() };
        writer.load(at(1), vec![kv("\"good\"", 1)]).unwrap();
        writer.load(at(2), vec![kv("no json", 2)]).unwrap();
        assert_eq!(router.backend("/a").as_deref(), Some("good"));
        assert_eq!(router.routes.status().rejected, 1);
    }

    /// The fake etcd: the whole life of the application, with faults, in no time.
    #[tokio::test(start_paused = true)]
    async fn it_goes_on_with_the_last_routes_while_etcd_is_away() {
        let etcd = FakeEtcd::new();
        etcd.put("/routes/a", "\"first\"");
        let routes = KeySpace::builder("/routes/").unwrap().json();
        let routes = routes.start(etcd.clone()).await.unwrap();
        let router = Router { routes };

        etcd.faults().down();
        let written = etcd.put("/routes/a", "\"second\"");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(router.routes.status().state, State::Reconnecting);
        assert_eq!(
            router.backend("/a").as_deref(),
            Some("first"),
            "an hour or a minute, it serves"
        );

        etcd.faults().up();
        router.routes.wait_for_revision(written).await.unwrap();
        assert_eq!(router.backend("/a").as_deref(), Some("second"));
    }
}
