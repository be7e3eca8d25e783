//! Positions: what a consumer sees of revisions never goes down within an epoch.

use super::*;

fn sync_of(events: &[KeyEvent<String>]) -> &etcd_keyspace::SyncSet<String> {
    let [KeyEvent::Sync(set)] = events else { panic!("{events:?}") };
    set
}

/// A key that came and went while the mirror was away, and a load that therefore changes nothing.
fn reload_without_change(store: &mut History, writer: &mut Writer<String>) -> Revision {
    store.put("/passing", "1");
    store.delete("/passing");
    writer.load(store.header(), store.kvs()).unwrap();
    store.revision()
}

#[test]
fn h60_a_reload_without_change_moves_the_position_up() {
    for progress in [0, 5] {
        let mut store = History::new();
        store.put("/a", "1");
        let (ks, mut writer) = loaded(&store);
        let mut events = follow(&ks, .., Start::Now);
        told(&mut events);
        for _ in 0..progress {
            store.elsewhere();
        }
        writer.confirm(store.revision());
        assert_eq!(events.token().revision(), store.revision());
        let read = reload_without_change(&mut store, &mut writer);
        let (reload, _) = told(&mut events);
        let set = sync_of(&reload);
        assert_eq!((set.reason(), set.revision()), (SyncReason::Reload, read));
        assert_eq!(set.difference().map(<[_]>::len), Some(0));
        assert_eq!(events.token().revision(), read);
        // The gap is before that revision: later events are all there.
        store.put("/b", "1");
        writer.apply(store.after(read)).unwrap();
        let added = texts_of(&told(&mut events).0);
        assert_eq!(added, [format!("added(/b at {})", read + 1)]);
        assert_eq!(texts_of(&told(&mut follow(&ks, .., Start::after(read))).0), added);
    }
}

#[test]
fn h60_a_start_inside_the_gap_begins_at_the_load() {
    let mut store = History::new();
    store.put("/a", "1");
    let (ks, mut writer) = texts().event_history(100, 1 << 20).writer();
    writer.load(store.header(), store.kvs()).unwrap();
    let read = reload_without_change(&mut store, &mut writer);
    let (first, _) = told(&mut follow(&ks, .., Start::after(read - 1)));
    let set = sync_of(&first);
    assert_eq!((set.revision(), set.difference().is_none()), (read, true));
}

#[test]
fn h60_a_sync_from_the_view_is_not_below_idle_progress() {
    let mut store = History::new();
    store.put("/a", "1");
    let (ks, mut writer) = texts().event_history(1, 1 << 20).writer();
    writer.load(store.header(), store.kvs()).unwrap();
    let mut events = follow(&ks, .., Start::Now);
    told(&mut events);
    for n in 0..5 {
        let from = store.revision();
        store.put("/a", &n.to_string());
        writer.apply(store.after(from)).unwrap();
    }
    writer.confirm(store.elsewhere());
    let confirmed = store.revision();
    let (behind, _) = told(&mut events);
    assert_eq!(sync_of(&behind).reason(), SyncReason::Behind);
    let (started, _) = told(&mut follow(&ks, .., Start::Now));
    let (evicted, _) = told(&mut follow(&ks, .., Start::after(2)));
    for told in [behind, started, evicted] {
        assert_eq!(sync_of(&told).revision(), confirmed, "{:?}", sync_of(&told).reason());
    }
}

#[test]
fn h60_a_token_does_not_go_back_when_a_step_is_published() {
    let mut store = History::new();
    store.put("/a", "1");
    let (ks, mut writer) = loaded(&store);
    let mut events = follow(&ks, KeyRange::key("/a"), Start::Now);
    told(&mut events);
    let idle = store.elsewhere();
    writer.confirm(idle);
    assert_eq!(events.token().revision(), idle);
    // Another key, which the consumer has not looked at yet.
    let other = store.put("/b", "1");
    writer.apply(store.after(idle)).unwrap();
    assert_eq!(events.token().revision(), idle);
    assert!(told(&mut events).0.is_empty());
    assert_eq!(events.token().revision(), other);
}

#[tokio::test(start_paused = true)]
async fn h60_a_periodic_sync_is_not_below_idle_progress() {
    let mut store = History::new();
    store.put("/a", "1");
    let (ks, mut writer) = loaded(&store);
    let every = std::time::Duration::from_secs(1);
    let mut events = ks.events(.., Start::Now, EventsOptions::default().resync(every));
    events.next().await.unwrap();
    let idle = store.elsewhere();
    writer.confirm(idle);
    assert_eq!(events.token().revision(), idle);
    let periodic = [events.next().await.unwrap()];
    let set = sync_of(&periodic);
    assert_eq!((set.reason(), set.revision()), (SyncReason::Periodic, idle));
    // Due while an event is still to be delivered, and the progress comes after that event.
    store.put("/b", "1");
    writer.apply(store.after(idle)).unwrap();
    tokio::time::advance(2 * every).await;
    assert_eq!(events.next().await.unwrap().kind(), EventKind::Added);
    let idle = store.elsewhere();
    writer.confirm(idle);
    assert_eq!(events.token().revision(), idle);
    let periodic = [events.next().await.unwrap()];
    let set = sync_of(&periodic);
    assert_eq!((set.reason(), set.revision()), (SyncReason::Periodic, idle));
}
