//! Views as values: differences, auto traits, what they print, and what errors carry.

use super::*;

#[test]
fn snapshot_diff_is_exact_and_names_replacements() {
    let mut store = History::new();
    store.txn(["/a", "/b", "/c", "/d"].map(|key| Op::Put(key.into(), "1".into())));
    let (ks, mut writer) = loaded(&store);
    let older = ks.snapshot();
    store.delete("/a");
    store.put("/b", "2");
    store.delete("/c");
    store.put("/c", "2");
    store.put("/e", "1");
    writer.apply(store.after(2)).unwrap();
    let newer = ks.snapshot();
    let lines = |changes: Vec<Change<String>>| -> Vec<String> {
        changes.iter().map(|change| format!("{change:?}")).collect()
    };
    let forward = ["Removed(/a)", "Updated(/b)", "Replaced(/c)", "Added(/e)"];
    assert_eq!(lines(newer.diff(&older)), forward);
    let backward = ["Added(/a)", "Updated(/b)", "Replaced(/c)", "Removed(/e)"];
    assert_eq!(lines(older.diff(&newer)), backward);
    assert_eq!(lines(newer.diff(&newer.clone())), [""; 0]);
    let replaced = &newer.diff(&older)[2];
    assert_eq!(replaced.old().unwrap().create_revision(), 2);
    assert_eq!(replaced.new().unwrap().create_revision(), 6);
    assert_eq!((replaced.key(), replaced.clone().key()), (&b"/c"[..], &b"/c"[..]));
    // Between two mirrors it is exact too, and every entry is another one.
    let (other, _writer) = loaded(&store);
    let changes = other.snapshot().diff(&older);
    assert_eq!(
        lines(changes),
        ["Removed(/a)", "Updated(/b)", "Replaced(/c)", "Updated(/d)", "Added(/e)"]
    );
}

#[test]
fn handles_go_anywhere() {
    fn shared<S: Send + Sync + Clone + 'static>() {}
    fn movable<S: Send + Sync + 'static>() {}
    fn sent<S: Send>(_: &S) {}
    // A value that can be neither compared nor cloned.
    struct Opaque;
    shared::<KeySpace<Opaque>>();
    shared::<WeakKeySpace<Opaque>>();
    shared::<Snapshot<Opaque>>();
    shared::<Observer>();
    shared::<Derived<Opaque>>();
    shared::<Change<Opaque>>();
    shared::<KeyRange>();
    shared::<WaitError>();
    shared::<StopReason>();
    movable::<Writer<Opaque>>();
    movable::<View<Opaque>>();
    movable::<Entry<Opaque>>();
    let ks = ten();
    sent(&ks.wait_for_revision(1));
    sent(&ks.sync());
    sent(&ks.wait_until(|view| view.get("/x").map(|entry| *entry.value())));
    sent(&ks.updated());
    sent(&ks.snapshot_at(1));
    sent(&ks.closed());
    sent(&ks.shutdown());
    // A task may own a handle.
    let moved = ks.clone();
    assert_eq!(std::thread::spawn(move || moved.read().len()).join().unwrap(), 10);
}

/// T-55: this file compiles only while a guard cannot change threads; were it `Send`, both
/// implementations below would be candidates and the call ambiguous.
#[test]
fn t55_guards_stay_on_their_thread() {
    trait AmbiguousIfSend<Which> {
        fn only_one(&self) -> bool {
            true
        }
    }
    struct OfSend;
    impl<S> AmbiguousIfSend<()> for S {}
    impl<S: Send> AmbiguousIfSend<OfSend> for S {}
    let ks = ten();
    assert!(ks.read().only_one());
    let snapshot = ks.snapshot();
    assert!(AmbiguousIfSend::<OfSend>::only_one(&snapshot), "a snapshot is `Send`");

    // And with the guard gone before it waits, a handler can be spawned.
    async fn handler(ks: KeySpace<usize>) -> usize {
        let len = {
            let view = ks.read();
            view.len()
        };
        tokio::task::yield_now().await;
        len
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    assert_eq!(runtime.block_on(runtime.spawn(handler(ks))).unwrap(), 10);
}

#[test]
fn weak_handles_upgrade_while_a_real_one_is_left() {
    let (ks, _writer) = texts().writer();
    let weak = ks.downgrade().clone();
    let again = weak.upgrade().unwrap();
    drop(ks);
    assert_eq!(weak.upgrade().unwrap().read().len(), 0);
    drop(again);
    assert!(weak.upgrade().is_none());
}

#[test]
fn debug_never_prints_all_contents() {
    let mut store = History::new();
    store.txn((0..2_000).map(|n| Op::Put(format!("/{n}"), "SECRET".repeat(20))));
    let (ks, mut writer) = loaded(&store);
    let observer = ks.observe(|delta, view, earlier| {
        let text = format!("{delta:?} {view:?} {earlier:?}");
        assert!(text.len() < 500 && !text.contains("SECRET"), "{text}");
    });
    assert!(ks.status().poisoned_observers.is_empty());
    let token = ks.derive((), |(), _, _, _| ());
    let guard = ks.read();
    let texts = [
        format!("{ks:?}"),
        format!("{:?}", ks.downgrade()),
        format!("{guard:?}"),
        format!("{:?}", ks.snapshot()),
        format!("{:?}", &*guard),
        format!("{:?}", guard.all()),
        format!("{:?}", guard.iter()),
        format!("{writer:?}"),
        format!("{observer:?}"),
        format!("{token:?}"),
        format!("{:?}", ks.stats()),
        format!("{:?}", ks.status()),
        format!("{:?}", common::texts()),
    ];
    for text in texts {
        assert!(text.len() < 1_000 && !text.contains("SECRET"), "{text}");
    }
    let entry = format!("{:?}", guard.get("/7").unwrap());
    assert!(entry.contains("key: /7,") && entry.contains("SECRET"), "one entry is shown: {entry}");
    drop(guard);
    store.put("/7", "!SECRET");
    writer.apply(store.after(2)).unwrap();
    let rejected = format!("{:?}", ks.rejected());
    assert!(rejected.len() < 1_000, "{rejected}");
}

#[test]
fn errors_have_their_sources() {
    let (ks, writer) = texts().writer();
    drop(writer);
    let error = common::now(ks.wait_for_revision(1)).unwrap_err();
    assert_eq!(chain(&error), ["the key space stopped", "the mirror was shut down"]);
    let cause = || -> Arc<dyn std::error::Error + Send + Sync> {
        Arc::new(OutsideRange::clone(&ten().read().try_get("x").unwrap_err()))
    };
    let nested = [
        StopReason::Compacted { revision: 3, cause: cause() },
        StopReason::Refused { cause: cause() },
        StopReason::LoadTimeout { cause: Some(cause()) },
    ];
    for reason in nested {
        let texts = chain(&WaitError::Stopped(reason));
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert_eq!(texts[2], cause().to_string());
        assert!(!texts[1].contains(&texts[2]), "a text does not repeat its source's: {texts:?}");
    }
    assert_eq!(chain(&StopReason::LoadTimeout { cause: None }).len(), 1);
}

#[test]
fn stats_count_what_is_there() {
    let (ks, mut writer) = texts().writer();
    writer.load(common::header(3), vec![record("/abc", "x", 2, 2, 1)]).unwrap();
    let one = ks.stats();
    assert_eq!((one.keys, one.key_bytes, one.waits), (1, 4, 0));
    writer.apply(vec![response(vec![put("/b", "!", 4, 4, 1)])]).unwrap();
    assert_eq!(ks.stats().keys, 1, "a rejected key is no entry");
    assert!(ks.stats().heap_bytes > one.heap_bytes, "but takes room");
    assert!(ks.stats().longest_write_hold > std::time::Duration::ZERO);
    assert_eq!(shown(&ks.read()).len(), 1);
    drop(ks.read());
    assert!(ks.stats().longest_read_hold > std::time::Duration::ZERO);
}

#[test]
fn guards_are_views() {
    fn count<T>(view: &View<T>) -> usize {
        view.len()
    }
    let ks = ten();
    let guard: ReadGuard<'_, usize> = ks.read();
    assert_eq!((count(&guard), count(&ks.snapshot()), guard.mirrored()), (10, 10, ks.mirrored()));
}

/// T-42: what deletions leave behind is sized by what is left, not by what was there.
#[test]
fn t42_memory_follows_the_keys_down_again() {
    let mut store = History::new();
    let keys: Vec<String> = (0..20_000).map(|n| format!("/{n:05}")).collect();
    store.txn(keys.iter().map(|key| Op::Put(key.clone(), "value".into())));
    let (ks, mut writer) = loaded(&store);
    let full = ks.stats().heap_bytes;
    // A tenth is left, spread over the whole range, by one revision and by many.
    let mut revision = store.revision();
    store.txn(keys.iter().skip(5_000).filter(|k| !k.ends_with('7')).map(|k| Op::Delete(k.clone())));
    writer.apply(store.after(revision)).unwrap();
    for key in keys.iter().take(5_000).filter(|key| !key.ends_with('7')) {
        revision = store.revision();
        store.delete(key);
        writer.apply(store.after(revision)).unwrap();
    }
    let left = ks.stats();
    assert_eq!(left.keys, 2_000);
    assert!(left.heap_bytes < full / 5, "{} of {full} bytes for a tenth", left.heap_bytes);
}
