//! Keys whose newest value cannot be decoded, across restarts: what is shown and listed is what a
//! mirror that went on running shows.

use std::time::SystemTime;

use etcd_keyspace::testing::FakeEtcd;
use etcd_keyspace::{BadValues, Builder, KeyRange, KeySpace, OnHistoryChange, RawKeyValue, State};

use super::in_memory;
use super::mirrored::{etcd, soon, text, things};
use etcd_keyspace::journal::{Journal, StoredRefusal};

fn builder() -> Builder<String> {
    things(text)
}

async fn start(etcd: &FakeEtcd, journal: &Journal) -> KeySpace<String> {
    let builder = builder().journal(journal).restore(journal);
    soon("a start", builder.start(etcd.clone())).await.unwrap()
}

async fn newest(ks: &KeySpace<String>, etcd: &FakeEtcd) {
    soon("the newest", ks.wait_for_revision(etcd.revision())).await.unwrap();
}

/// Starts it while etcd cannot be reached, so that only what is stored is shown.
async fn start_alone(etcd: &FakeEtcd, journal: &Journal) -> KeySpace<String> {
    etcd.faults().down();
    let ks = start(etcd, journal).await;
    assert_eq!(ks.status().state, State::Restored);
    ks
}

/// Entries with all numbers.
fn shown(ks: &KeySpace<String>) -> Vec<(String, String, [i64; 4])> {
    let view = ks.read();
    let all = view.iter().map(|entry| {
        let numbers =
            [entry.create_revision(), entry.mod_revision(), entry.version(), entry.lease()];
        (String::from_utf8(entry.key().to_vec()).unwrap(), entry.value().clone(), numbers)
    });
    all.collect()
}

/// Rejected keys with all that is known of them, but since when.
fn rejected(ks: &KeySpace<String>) -> Vec<(String, [i64; 3], String, bool)> {
    let rejected = ks.rejected().into_iter().map(|one| {
        let cause = std::error::Error::source(&*one.error).unwrap().to_string();
        let numbers = [one.create_revision, one.mod_revision, one.version];
        (String::from_utf8(one.key).unwrap(), numbers, cause, one.shows_older)
    });
    rejected.collect()
}

fn since(ks: &KeySpace<String>) -> Vec<SystemTime> {
    ks.rejected().into_iter().map(|one| one.since).collect()
}

/// What is stored of refused keys: the key, and the value shown in its place.
async fn stored(journal: &Journal) -> Vec<(String, Option<String>)> {
    let name = &journal.mirrors().await.unwrap()[0].0;
    let refused = journal.state(name).await.unwrap().unwrap().refused().unwrap();
    let plain = |StoredRefusal { key, last_good, .. }| {
        let value = last_good.map(|good: RawKeyValue| String::from_utf8(good.value).unwrap());
        (String::from_utf8(key).unwrap(), value)
    };
    refused.into_iter().map(plain).collect()
}

fn good(key: &str, value: &str) -> (String, Option<String>) {
    (key.to_owned(), Some(value.to_owned()))
}

#[tokio::test]
async fn c10_t38_the_last_good_value_of_a_rejected_key_survives_restarts_until_it_is_mended() {
    let (etcd, journal) = (etcd(), in_memory().await);
    let ks = start(&etcd, &journal).await;
    etcd.put("/k/a", "!bad");
    etcd.put("/k/c", "!bad from the start");
    newest(&ks, &etcd).await;
    let before = (shown(&ks), rejected(&ks), since(&ks));
    assert_eq!((before.0.len(), before.1.len()), (2, 2));
    ks.shutdown().await;
    assert_eq!(stored(&journal).await, [good("/k/a", "1"), ("/k/c".to_owned(), None)]);
    for _ in 0..3 {
        let ks = start_alone(&etcd, &journal).await;
        assert_eq!((shown(&ks), rejected(&ks), since(&ks)), before);
        assert_eq!(ks.read().get("/k/a").unwrap().value(), "1");
        etcd.faults().up();
        newest(&ks, &etcd).await;
        assert_eq!((shown(&ks), rejected(&ks), since(&ks)), before);
        ks.shutdown().await;
    }
    // Bad once more, after a restart: what is shown stays the same.
    let ks = start(&etcd, &journal).await;
    etcd.put("/k/a", "!worse");
    newest(&ks, &etcd).await;
    let worse = (shown(&ks), rejected(&ks), since(&ks));
    assert_eq!((&worse.0, &worse.2), (&before.0, &before.2));
    ks.shutdown().await;
    let ks = start_alone(&etcd, &journal).await;
    assert_eq!((shown(&ks), rejected(&ks), since(&ks)), worse);
    etcd.faults().up();
    etcd.put("/k/a", "2");
    etcd.delete("/k/c");
    newest(&ks, &etcd).await;
    assert_eq!(ks.read().get("/k/a").unwrap().value(), "2");
    ks.shutdown().await;
    assert_eq!(stored(&journal).await, []);
    let ks = start_alone(&etcd, &journal).await;
    assert_eq!(ks.read().get("/k/a").unwrap().value(), "2");
    assert!(rejected(&ks).is_empty());
}

/// What a key showed before it was deleted is never shown for the next key of that name.
#[tokio::test]
async fn c10_t38_a_deletion_ends_the_last_good_value_also_across_restarts() {
    let (etcd, journal) = (etcd(), in_memory().await);
    let ks = start(&etcd, &journal).await;
    etcd.put("/k/a", "!bad");
    etcd.put("/k/b", "!bad");
    newest(&ks, &etcd).await;
    ks.shutdown().await;
    etcd.delete("/k/a");
    etcd.put("/k/a", "!another life");
    let ks = start(&etcd, &journal).await;
    newest(&ks, &etcd).await;
    assert!(ks.read().get("/k/a").is_none());
    ks.shutdown().await;
    assert_eq!(stored(&journal).await, [("/k/a".to_owned(), None), good("/k/b", "1")]);
    let ks = start_alone(&etcd, &journal).await;
    assert_eq!(shown(&ks).len(), 1);
    etcd.faults().up();
    etcd.delete("/k/a");
    etcd.delete("/k/b");
    newest(&ks, &etcd).await;
    ks.shutdown().await;
    assert_eq!(stored(&journal).await, []);
    assert!(shown(&start_alone(&etcd, &journal).await).is_empty());
}

/// The newest value counts first, and the one before it only if that is refused too.
#[tokio::test]
async fn c10_values_are_decoded_again_so_another_decoder_or_policy_decides() {
    let (etcd, journal) = (etcd(), in_memory().await);
    let ks = start(&etcd, &journal).await;
    etcd.put("/k/a", "!2");
    newest(&ks, &etcd).await;
    ks.shutdown().await;
    let restart = async |builder: Builder<String>| {
        let builder = builder.name("things").restore(&journal);
        soon("a start", builder.start(etcd.clone())).await.unwrap()
    };
    etcd.faults().down();
    let value = |ks: &KeySpace<String>| ks.read().get("/k/a").map(|entry| entry.value().clone());
    let tolerant = |kv: RawKeyValue| String::from_utf8(kv.value);
    let ks = restart(KeySpace::builder("/k/").unwrap().decoder(tolerant)).await;
    assert_eq!(value(&ks).as_deref(), Some("!2"));
    assert_eq!(rejected(&ks), []);
    drop(ks);
    let strict = |_: RawKeyValue| Err::<String, _>("nothing is good enough".to_owned());
    let ks = restart(KeySpace::builder("/k/").unwrap().decoder(strict)).await;
    assert_eq!((ks.read().len(), ks.rejected().len()), (0, 2));
    assert!(ks.rejected().iter().all(|one| !one.shows_older));
    drop(ks);
    let ks = restart(builder().bad_values(BadValues::Drop)).await;
    assert_eq!((value(&ks), rejected(&ks).len()), (None, 1));
    drop(ks);
    let ks = restart(builder()).await;
    assert_eq!((value(&ks).as_deref(), rejected(&ks).len()), (Some("1"), 1));
}

/// Every way to need a complete read ends as it does for a mirror that was never stopped.
#[tokio::test]
async fn c6_c10_a_reload_after_a_restart_keeps_last_good_values_as_one_without_does() {
    let (etcd, journal) = (etcd(), in_memory().await);
    for key in ["/k/again", "/k/mended", "/k/anew", "/k/gone", "/k/same"] {
        etcd.put(key, "good");
    }
    let running = soon("a start", builder().start(etcd.clone())).await.unwrap();
    let ks = start(&etcd, &journal).await;
    for key in ["/k/again", "/k/mended", "/k/anew", "/k/gone", "/k/same"] {
        etcd.put(key, "!bad");
    }
    newest(&running, &etcd).await;
    newest(&ks, &etcd).await;
    ks.shutdown().await;
    etcd.faults().down();
    let ks = start(&etcd, &journal).await;
    etcd.put("/k/again", "!worse");
    etcd.put("/k/mended", "better");
    etcd.delete("/k/anew");
    etcd.put("/k/anew", "!bad from the start");
    etcd.delete("/k/gone");
    etcd.put("/k/new", "!bad");
    etcd.put("/k/a", "!bad, of a value that was good before all this");
    etcd.compact(etcd.revision());
    etcd.faults().up();
    for ks in [&running, &ks] {
        newest(ks, &etcd).await;
        assert_eq!(ks.status().counters.loads_compacted, 1);
    }
    assert_eq!((shown(&ks), rejected(&ks)), (shown(&running), rejected(&running)));
    assert_eq!(ks.read().get("/k/again").unwrap().value(), "good");
    // And what is stored then is that.
    ks.shutdown().await;
    let ks = start_alone(&etcd, &journal).await;
    assert_eq!((shown(&ks), rejected(&ks)), (shown(&running), rejected(&running)));
}

/// A value of another history is none that this key has had.
#[tokio::test]
async fn c5_c10_another_history_ends_what_was_shown_of_the_former_one() {
    let (etcd, journal) = (etcd(), in_memory().await);
    let ks = start(&etcd, &journal).await;
    etcd.put("/k/a", "!bad");
    newest(&ks, &etcd).await;
    assert_eq!(shown(&ks).len(), 2);
    ks.shutdown().await;
    assert_eq!(stored(&journal).await, [good("/k/a", "1")]);
    etcd.change_cluster();
    let anew = builder().journal(&journal).restore(&journal);
    let anew = anew.on_other_cluster(OnHistoryChange::Reload).start(etcd.clone()).await.unwrap();
    soon("a new epoch", anew.wait_until(|view| (view.epoch() == 2).then_some(()))).await.unwrap();
    assert!(anew.read().get("/k/a").is_none());
    anew.shutdown().await;
    assert_eq!(stored(&journal).await, [("/k/a".to_owned(), None)]);
}

/// Restarts anywhere in a random history: nothing tells a mirror that was restarted from one that was
/// not, nor does a start that serves only what is stored.
#[tokio::test]
async fn c10_restarts_in_any_history_show_what_a_mirror_without_restarts_shows() {
    let keys = KeyRange::prefix("/k/");
    let mut kept = 0;
    for seed in 0..12 {
        let (etcd, journal) = (FakeEtcd::with_seed(seed), in_memory().await);
        etcd.put("/k/0", "1");
        let running = soon("a start", builder().start(etcd.clone())).await.unwrap();
        for round in 0..12 {
            let ks = start(&etcd, &journal).await;
            for write in 0..etcd.random(12) {
                let key = format!("/k/{}", etcd.random(5));
                match etcd.random(8) {
                    0 => drop(etcd.delete(key)),
                    1 => etcd.faults().cut(),
                    2..5 => drop(etcd.put(key, format!("!{round}.{write}"))),
                    _ => drop(etcd.put(key, format!("{round}.{write}"))),
                }
            }
            // Now and then all of it has come before the end, or a part, or nothing.
            if etcd.random(2) == 0 {
                newest(&ks, &etcd).await;
            }
            ks.shutdown().await;
            newest(&running, &etcd).await;
            let ks = start(&etcd, &journal).await;
            newest(&ks, &etcd).await;
            let expected = (shown(&running), rejected(&running));
            assert_eq!((shown(&ks), rejected(&ks)), expected, "seed {seed}, round {round}");
            let since = since(&ks);
            ks.shutdown().await;
            let ks = start_alone(&etcd, &journal).await;
            assert_eq!((shown(&ks), rejected(&ks)), expected, "seed {seed}, round {round}: alone");
            assert_eq!(super::rejected::since(&ks), since);
            ks.shutdown().await;
            etcd.faults().up();
            kept += stored(&journal).await.iter().filter(|(_, good)| good.is_some()).count();
            assert!(etcd.range(&keys).len() <= 5);
        }
    }
    assert!(kept > 100, "only {kept}");
}
