//! C10: bad values do not stop the world, and decoding happens outside every lock.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use common::{History, Model, chain, check_shown, put, record, response, text};
use etcd_keyspace::{
    ApplyError, BadValues, Break, DecodeError, KeySpace, RawKeyValue, Rejected, WeakKeySpace,
    Writer,
};

fn space(policy: BadValues) -> (KeySpace<String>, Writer<String>) {
    KeySpace::builder("/").unwrap().decoder(text).bad_values(policy).writer()
}

/// Key, mod revision, version and whether an older value is shown, of each rejected key.
fn rejected(ks: &KeySpace<String>) -> Vec<(String, i64, i64, bool)> {
    let plain = |rejected: Rejected| {
        let key = String::from_utf8(rejected.key).unwrap();
        (key, rejected.mod_revision, rejected.version, rejected.shows_older)
    };
    ks.rejected().into_iter().map(plain).collect()
}

#[track_caller]
fn check_rejected(ks: &KeySpace<String>, expected: &[(&str, i64, i64, bool)]) {
    let rejected = rejected(ks);
    let rejected: Vec<_> =
        rejected.iter().map(|(key, at, version, older)| (&**key, *at, *version, *older)).collect();
    assert_eq!(rejected, expected);
    assert_eq!(ks.status().rejected, expected.len());
}

/// A value's way: bad on create, fixed, bad on update, fixed, bad, deleted, recreated bad. Each
/// step is taken by event, by reload, or by event with a reload after it.
#[track_caller]
fn check_life(policy: BadValues, by_load: bool, reload_between: bool) {
    let keeps = policy == BadValues::KeepLast;
    let (ks, mut writer) = space(policy);
    let mut store = History::new();
    store.put("/z", "z");
    writer.load(store.header(), store.kvs()).unwrap();
    let mut step = |store: &History, shown: Option<&str>, bad: Option<(i64, i64)>| {
        if by_load {
            writer.load(store.header(), store.kvs()).unwrap();
        } else {
            let from = ks.read().revision();
            writer.apply(store.after(from)).unwrap();
        }
        if reload_between {
            let before = ks.snapshot();
            let applied = writer.load(store.header(), store.kvs()).unwrap();
            assert_eq!((applied.changes, ks.snapshot().diff(&before).len()), (0, 0));
        }
        let all: Vec<_> =
            shown.map(|value| ("/a", value)).into_iter().chain([("/z", "z")]).collect();
        check_shown(&ks.read(), &all);
        let bad = bad.map(|(at, version)| ("/a", at, version, shown.is_some()));
        check_rejected(&ks, bad.as_slice());
        assert_eq!(ks.read().revision(), store.revision());
    };
    store.put("/a", "!1");
    step(&store, None, Some((3, 1)));
    store.put("/a", "!2");
    step(&store, None, Some((4, 2)));
    store.put("/a", "good");
    step(&store, Some("good"), None);
    store.put("/a", "!3");
    step(&store, keeps.then_some("good"), Some((6, 4)));
    store.put("/a", "!4");
    step(&store, keeps.then_some("good"), Some((7, 5)));
    store.put("/a", "better");
    step(&store, Some("better"), None);
    store.put("/a", "!5");
    step(&store, keeps.then_some("better"), Some((9, 7)));
    store.delete("/a");
    step(&store, None, None);
    // Another life: nothing of the former one is shown again.
    store.put("/a", "!6");
    step(&store, None, Some((11, 1)));
    store.delete("/a");
    step(&store, None, None);
}

#[test]
fn t38_c10_keep_last_by_events() {
    check_life(BadValues::KeepLast, false, false);
}

#[test]
fn t38_c10_keep_last_by_reloads() {
    check_life(BadValues::KeepLast, true, false);
}

#[test]
fn t38_c10_keep_last_with_a_reload_in_between() {
    check_life(BadValues::KeepLast, false, true);
}

#[test]
fn t38_c10_drop_by_events_and_by_reloads() {
    check_life(BadValues::Drop, false, false);
    check_life(BadValues::Drop, true, false);
    check_life(BadValues::Drop, false, true);
}

#[test]
fn c10_a_kept_value_has_its_own_numbers_and_goes_with_its_life() {
    let (ks, mut writer) = space(BadValues::KeepLast);
    let mut store = History::new();
    store.put("/a", "good");
    writer.load(store.header(), store.kvs()).unwrap();
    store.put("/a", "!");
    writer.apply(store.after(2)).unwrap();
    let view = ks.snapshot();
    let entry = view.get("/a").unwrap();
    assert_eq!((entry.mod_revision(), entry.version(), entry.create_revision()), (2, 1, 2));
    // Deleted and recreated bad, in one batch, and likewise in a reload.
    let mut by_load = store.clone();
    store.delete("/a");
    store.put("/a", "!");
    writer.apply(store.after(3)).unwrap();
    check_shown(&ks.read(), &[]);
    check_rejected(&ks, &[("/a", 5, 1, false)]);

    let (ks, mut writer) = space(BadValues::KeepLast);
    writer.load(common::header(2), vec![record("/a", "good", 2, 2, 1)]).unwrap();
    by_load.delete("/a");
    by_load.put("/a", "!");
    writer.load(by_load.header(), by_load.kvs()).unwrap();
    check_shown(&ks.read(), &[]);
    check_rejected(&ks, &[("/a", 5, 1, false)]);
}

#[test]
fn c10_rejected_says_which_why_and_since_when() {
    let (ks, mut writer) = space(BadValues::KeepLast);
    let mut store = History::new();
    store.put("/b", "b");
    store.put("/a", "!");
    let before = SystemTime::now();
    writer.load(store.header(), store.kvs()).unwrap();
    let after = SystemTime::now();
    let first = ks.rejected().remove(0);
    assert_eq!((first.key.as_slice(), first.create_revision), (&b"/a"[..], 3));
    assert_eq!(chain(&*first.error), ["the decoder refused the value", "bad value !"]);
    assert!(before <= first.since && first.since <= after);
    // Still bad: since then; the newest reason.
    store.put("/a", "!!");
    store.put("/b", "!");
    writer.apply(store.after(3)).unwrap();
    let all = ks.rejected();
    let keys: Vec<_> = all.iter().map(|rejected| &*rejected.key).collect();
    assert_eq!(keys, [b"/a", b"/b"], "ascending");
    assert_eq!((all[0].since, all[0].mod_revision), (first.since, 4));
    assert_eq!(chain(&*all[0].error)[1], "bad value !!");
    assert!(all[1].since >= first.since && all[1].shows_older && !all[0].shows_older);
}

/// A good value, or another life, in between begins a new time of being bad; batched or not.
#[test]
fn c10_since_starts_over_after_a_good_value_or_another_life() {
    for batched in [true, false] {
        let (ks, mut writer) = space(BadValues::KeepLast);
        let mut store = History::new();
        store.put("/a", "!");
        store.put("/b", "!");
        writer.load(store.header(), store.kvs()).unwrap();
        let first = ks.rejected()[0].since;
        while SystemTime::now() <= first {
            std::thread::yield_now();
        }
        store.put("/a", "good");
        store.put("/a", "!");
        store.delete("/b");
        store.put("/b", "!");
        if batched {
            writer.apply(store.after(3)).unwrap();
        } else {
            store.after(3).into_iter().for_each(|one| drop(writer.apply(vec![one]).unwrap()));
        }
        let since: Vec<_> = ks.rejected().iter().map(|rejected| rejected.since).collect();
        assert!(since.iter().all(|since| *since > first), "batched: {batched}");
    }
}

#[test]
fn c10_batching_makes_no_difference_under_keep_last() {
    let mut store = History::new();
    store.put("/a", "1");
    for value in ["!", "2", "!", "!"] {
        store.put("/a", value);
    }
    store.put("/b", "!");
    store.put("/b", "b");
    store.put("/b", "!");
    store.delete("/b");
    store.put("/b", "!");
    store.put("/c", "!");
    let responses = store.after(1);
    for cut in 0..=responses.len() {
        let (ks, mut writer) = space(BadValues::KeepLast);
        writer.apply(responses[..cut].to_vec()).unwrap();
        writer.apply(responses[cut..].to_vec()).unwrap();
        check_shown(&ks.read(), &[("/a", "2")]);
        assert_eq!(ks.read().get("/a").unwrap().version(), 3);
        check_rejected(&ks, &[("/a", 6, 5, true), ("/b", 11, 1, false), ("/c", 12, 1, false)]);
    }
}

#[test]
fn t39_c10_continuity_goes_over_rejected_keys() {
    for policy in [BadValues::KeepLast, BadValues::Drop] {
        let (ks, mut writer) = space(policy);
        let mut store = History::new();
        store.put("/a", "!");
        store.put("/b", "b");
        writer.load(store.header(), store.kvs()).unwrap();
        // Versions 2 and 3 of a key that shows nothing, then its deletion: no event is missing.
        for value in ["!", "!", "good", "!"] {
            let from = store.revision();
            store.put("/a", value);
            store.put("/b", value);
            writer.apply(store.after(from)).unwrap();
        }
        // A hole over a rejected value is still a hole.
        let before = rejected(&ks);
        let hole = put("/a", "late", 2, 12, 7);
        let refused = writer.apply(vec![response(vec![hole])]).unwrap_err();
        let reason = Break::Version;
        let expected = ApplyError::Discontinuity { key: b"/a".into(), mod_revision: 12, reason };
        assert_eq!(refused, expected);
        assert_eq!(rejected(&ks), before);
        let from = store.revision();
        store.delete("/a");
        store.delete("/b");
        writer.apply(store.after(from)).unwrap();
        assert!(ks.rejected().is_empty() && ks.read().is_empty());
    }
}

#[test]
fn drop_is_convergent() {
    let mut store = History::new();
    store.put("/a", "good");
    store.put("/b", "good");
    let (early, mut writer) = space(BadValues::Drop);
    writer.load(store.header(), store.kvs()).unwrap();
    store.put("/a", "!");
    store.put("/c", "!");
    writer.apply(store.after(3)).unwrap();
    let (late, mut writer) = space(BadValues::Drop);
    writer.load(store.header(), store.kvs()).unwrap();
    assert_eq!(Model::shown(&early.read()), Model::shown(&late.read()));
    assert_eq!(rejected(&early), rejected(&late));
    check_shown(&early.read(), &[("/b", "good")]);
}

#[test]
fn t38_a_panic_of_the_decoder_rejects_the_value() {
    let panicking = |kv: RawKeyValue| -> Result<String, String> {
        assert!(kv.value != b"boom", "boom at {}", kv.mod_revision);
        text(kv)
    };
    let (ks, mut writer) = KeySpace::builder("/").unwrap().decoder(panicking).writer();
    let mut store = History::new();
    store.put("/a", "boom");
    store.put("/b", "b");
    writer.load(store.header(), store.kvs()).unwrap();
    store.put("/b", "boom");
    store.put("/c", "c");
    writer.apply(store.after(3)).unwrap();
    check_shown(&ks.read(), &[("/b", "b"), ("/c", "c")]);
    check_rejected(&ks, &[("/a", 2, 1, false), ("/b", 4, 2, true)]);
    match &*ks.rejected()[1].error {
        DecodeError::Panicked { message } => assert!(message.contains("boom at 4"), "{message}"),
        other => panic!("{other:?}"),
    }
}

/// A decoder that reads the very key space it decodes for would hang if any lock were held.
#[test]
fn t38_c5_decoding_happens_outside_every_lock() {
    static READS: AtomicUsize = AtomicUsize::new(0);
    let handle: Arc<std::sync::OnceLock<WeakKeySpace<usize>>> = Arc::default();
    let seen = Arc::clone(&handle);
    let decoder = move |kv: RawKeyValue| -> Result<usize, String> {
        let ks = seen.get().and_then(WeakKeySpace::upgrade).ok_or("no key space")?;
        // Every kind of lock there is: reading, registering, waiting, asking for the status.
        let len = ks.read().len();
        ks.observe(|_, _, _| ()).remove();
        let _ = (ks.status(), ks.stats(), common::now(ks.wait_for_revision(0)));
        READS.fetch_add(1, Ordering::SeqCst);
        drop(kv);
        Ok(len)
    };
    let (ks, mut writer) = KeySpace::builder("/").unwrap().decoder(decoder).writer();
    assert!(handle.set(ks.downgrade()).is_ok());
    writer.confirm(1);
    let mut store = History::new();
    store.put("/a", "");
    store.put("/b", "");
    writer.load(store.header(), store.kvs()).unwrap();
    store.put("/c", "");
    writer.apply(store.after(3)).unwrap();
    store.put("/a", "");
    writer.load(store.header(), store.kvs()).unwrap();
    assert_eq!(READS.load(Ordering::SeqCst), 4);
    // Each saw the view before its step: nothing, then two keys, then three.
    let seen: Vec<_> = ks.read().iter().map(|entry| *entry.value()).collect();
    assert_eq!(seen, [3, 0, 2]);
}

#[test]
fn a_decoder_may_move_the_bytes_out() {
    let (ks, mut writer) = KeySpace::<Vec<u8>>::builder("/").unwrap().bytes().writer();
    let value = vec![7; 1 << 20];
    let at = value.as_ptr();
    let kv = RawKeyValue { value, ..record("/a", "", 2, 2, 1) };
    writer.load(common::header(2), vec![kv]).unwrap();
    assert_eq!(ks.read().get("/a").unwrap().value().as_ptr(), at, "not copied");
}

#[cfg(feature = "json")]
#[test]
fn json_decodes_and_says_where_it_could_not() {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Backend {
        weight: u32,
    }
    let (ks, mut writer) =
        KeySpace::<Backend>::builder("/").unwrap().decoder(etcd_keyspace::json()).writer();
    let kvs = vec![
        record("/a", r#"{"weight": 3}"#, 2, 2, 1),
        record("/b", r#"{"weight": -3}"#, 3, 3, 1),
        record("/c", "", 4, 4, 1),
    ];
    writer.load(common::header(4), kvs.clone()).unwrap();
    assert_eq!(ks.read().get("/a").unwrap().value(), &Backend { weight: 3 });
    let texts: Vec<_> = ks.rejected().iter().map(|r| chain(&*r.error).remove(1)).collect();
    assert!(texts[0].contains("invalid value: integer `-3`, expected u32"), "{texts:?}");
    assert!(texts[1].contains("EOF while parsing a value"), "{texts:?}");
    // The short form is the same.
    let (ks, mut writer) = KeySpace::<Backend>::builder("/").unwrap().json().writer();
    writer.load(common::header(4), kvs).unwrap();
    assert_eq!((ks.read().len(), ks.rejected().len()), (1, 2));
}
