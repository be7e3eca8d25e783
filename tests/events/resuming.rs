//! Going on after a token: from between two steps, and from a revision that only progress has reached.

use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use etcd_keyspace::{Header, Token};

use super::*;

/// Does something when it is woken, which is between showing a step and noting it in the history.
struct WhenWoken<F>(Mutex<Option<F>>);

impl<F: FnOnce() + Send + 'static> Wake for WhenWoken<F> {
    fn wake(self: Arc<Self>) {
        let run = self.0.lock().unwrap().take();
        run.into_iter().for_each(|run| run());
    }
}

/// Begins after `revision` while the next step is shown and not noted, and gives what is told then and
/// after it.
fn begun_between(
    ks: &KeySpace<String>,
    revision: Revision,
    step: impl FnOnce(),
) -> Vec<KeyEvent<String>> {
    let begun = Arc::new(Mutex::new(None));
    let mut changes = ks.changes(..);
    while poll_once(pin!(changes.next())).is_ready() {}
    let (space, here) = (ks.clone(), Arc::clone(&begun));
    let waker = Waker::from(Arc::new(WhenWoken(Mutex::new(Some(move || {
        let mut events = follow(&space, .., Start::after(revision));
        let at_once = told(&mut events).0;
        *here.lock().unwrap() = Some((events, at_once));
    })))));
    let mut next = Box::pin(changes.next());
    assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    step();
    let (mut events, mut all) = begun.lock().unwrap().take().expect("the step wakes");
    all.extend(told(&mut events).0);
    all
}

#[test]
fn a_start_while_a_step_is_shown_and_not_noted_is_told_that_step() {
    for progress in [0, 3] {
        let mut store = History::new();
        store.put("/a", "1");
        let (ks, mut writer) = texts().event_history(100, 1 << 20).writer();
        writer.load(store.header(), store.kvs()).unwrap();
        for _ in 0..progress {
            store.elsewhere();
        }
        let from = store.revision();
        writer.confirm(from);
        let events = begun_between(&ks, from, || {
            store.put("/b", "1");
            writer.apply(store.after(from)).unwrap();
        });
        assert_eq!(texts_of(&events), [format!("added(/b at {})", from + 1)]);
        let from = store.revision();
        let reload = begun_between(&ks, from, || {
            store.delete("/b");
            writer.load(store.header(), store.kvs()).unwrap();
        });
        let [KeyEvent::Sync(set)] = &reload[..] else { panic!("{reload:?}") };
        assert_eq!((set.reason(), difference(set)), (SyncReason::Reload, "[Removed(/b)]".into()));
        assert_eq!(ks.stats().resyncs, 0);
    }
}

fn difference(set: &etcd_keyspace::SyncSet<String>) -> String {
    format!("{:?}", set.difference().expect("a difference"))
}

/// Nothing happened up to there, so what a reload changes is known.
#[test]
fn mi4_mi8_a_token_of_idle_progress_goes_on_to_the_difference_of_a_reload() {
    let mut store = History::new();
    store.put("/a", "1");
    let (ks, mut writer) = texts().event_history(100, 1 << 20).writer();
    writer.load(store.header(), store.kvs()).unwrap();
    let mut live = follow(&ks, .., Start::Now);
    told(&mut live);
    for _ in 0..3 {
        store.elsewhere();
    }
    let idle = store.revision();
    writer.confirm(idle);
    assert_eq!(live.token().revision(), idle);
    let mut before = follow(&ks, .., Start::after(live.token()));
    assert!(told(&mut before).0.is_empty());
    store.put("/b", "1");
    store.put("/c", "1");
    writer.load(store.header(), store.kvs()).unwrap();
    let mut after = follow(&ks, .., Start::after(idle));
    for events in [&mut live, &mut before, &mut after] {
        let (reload, _) = told(events);
        let [KeyEvent::Sync(set)] = &reload[..] else { panic!("{reload:?}") };
        let expected = (SyncReason::Reload, "[Added(/b), Added(/c)]".to_owned());
        assert_eq!((set.reason(), difference(set)), expected);
    }
    // Of what was shown in between, nobody knows.
    let (reload, _) = told(&mut follow(&ks, .., Start::after(idle + 1)));
    let [KeyEvent::Sync(set)] = &reload[..] else { panic!("{reload:?}") };
    assert!(set.difference().is_none(), "{set:?}");
}

/// A key that came and went before a complete read, which changed nothing for this key space. Somebody
/// who has seen it elsewhere must be told that it is gone, whatever is kept of that.
#[test]
fn mi3_a_place_that_a_complete_read_without_a_change_has_passed_is_not_gone_on_from() {
    for kept in [0, 100] {
        for more in 0..3 {
            let mut store = History::new();
            store.put("/a", "1");
            let (ks, mut writer) = texts().event_history(kept, 1 << 20).writer();
            writer.load(store.header(), store.kvs()).unwrap();
            let seen = store.put("/b", "1");
            store.delete("/b");
            writer.load(store.header(), store.kvs()).unwrap();
            let read = store.revision();
            for n in 0..more {
                let from = store.revision();
                store.put(&format!("/{n}"), "1");
                writer.apply(store.after(from)).unwrap();
            }
            let (all, _) = told(&mut follow(&ks, .., Start::after(seen)));
            let Some(KeyEvent::Sync(set)) = all.first() else { panic!("{kept}, {more}: {all:?}") };
            assert!(set.difference().is_none() && !set.entries().contains("/b"), "{all:?}");
            // Whoever has seen the read goes on, if there is something kept to go on with.
            let (all, _) = told(&mut follow(&ks, .., Start::after(read)));
            let events = all.iter().all(|event| !matches!(event, KeyEvent::Sync(_)));
            assert!(
                kept == 0 && more > 1 || events && all.len() == more,
                "{kept}, {more}: {all:?}"
            );
        }
    }
}

/// A consumer that stores its position when it ends must not lose it by ending early.
#[test]
fn h55_before_the_first_poll_the_token_is_where_the_events_start() {
    let mut store = History::new();
    store.put("/a", "1");
    let (ks, mut writer) = texts().event_history(100, 1 << 20).writer();
    writer.load(store.header(), store.kvs()).unwrap();
    let stored = store.revision();
    store.put("/b", "1");
    writer.apply(store.after(stored)).unwrap();
    let seen = format!("added(/b at {})", stored + 1);
    // By a plain revision, by its own token, and by the text of it.
    let early = follow(&ks, .., Start::after(stored)).token();
    let again = follow(&ks, .., Start::after(early)).token();
    let sent: Token = again.to_string().parse().unwrap();
    for token in [early, again, sent] {
        assert_eq!(token.revision(), stored);
        assert_eq!(texts_of(&told(&mut follow(&ks, .., Start::after(token))).0), [&*seen]);
    }
    // Also while it waits for a position that is not reached, and when that never comes.
    let later = Token::from(Header { raft_term: 3, ..store.header() });
    let later: Token =
        format!("{:x}.{}.3", later.cluster_id(), later.revision() + 5).parse().unwrap();
    let mut waiting = follow(&ks, .., Start::after(later));
    assert!(told(&mut waiting).0.is_empty());
    assert_eq!((waiting.token(), waiting.token().term()), (later, 3));
    // From the beginning, with the reason of a start.
    let nothing = follow(&ks, .., Start::Now).token();
    assert_eq!(nothing.to_string(), "0.0");
    let (first, _) = told(&mut follow(&ks, .., Start::after(nothing)));
    let [KeyEvent::Sync(set), rest @ ..] = &first[..] else { panic!("{first:?}") };
    assert_eq!((set.reason(), texts_of(rest)), (SyncReason::Start, vec![seen]));
    drop(writer);
    assert!(told(&mut waiting).1.is_some());
    assert_eq!(waiting.token(), later);
}

#[test]
fn h55_idle_progress_raises_the_token_of_a_consumer_at_its_last_event() {
    let mut store = History::new();
    store.put("/a", "1");
    let (ks, mut writer) = loaded(&store);
    let mut events = follow(&ks, "/a".."/b", Start::Now);
    told(&mut events);
    let from = store.revision();
    // The last event of the range is not the last of the step.
    store.put("/a", "2");
    store.put("/a", "3");
    let through = store.put("/b", "1");
    writer.apply(store.after(from)).unwrap();
    now(events.next()).unwrap();
    store.elsewhere();
    let idle = store.revision();
    writer.confirm(idle);
    assert_eq!(events.token().revision(), from + 1, "one is left");
    now(events.next()).unwrap();
    assert!(through < idle);
    assert_eq!(events.token().revision(), idle);
    assert!(told(&mut follow(&ks, "/a".."/b", Start::after(events.token()))).0.is_empty());
}
