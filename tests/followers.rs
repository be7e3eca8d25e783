//! Followers with a filter, and watches of one key: the promises MO-1 to MO-13.

mod common;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use common::{History, Op, chain, loaded, now, poll_once, texts};
use etcd_keyspace::{
    Entry, FollowError, FollowPhase, Follower, KeySpace, Revision, SimpleFollower, StopReason,
    Writer,
};

type Said = Arc<Mutex<Vec<String>>>;

/// Says what it is told: `+key value`, `~key old new`, `-key old`, `.revision`. Values that begin with
/// a dot are not in its view, and values that differ in case only are equal.
struct Teller(Said);

impl Teller {
    fn say(&self, text: String) -> Result<(), String> {
        let refused = text.contains("refuse");
        self.0.lock().unwrap().push(text.clone());
        if refused { Err(text) } else { Ok(()) }
    }
}

impl Follower<String> for Teller {
    type Error = String;

    fn filter(&self, entry: &Entry<String>) -> bool {
        !entry.value().starts_with('.')
    }

    fn equals(&self, old: &Entry<String>, new: &Entry<String>) -> bool {
        old.value().eq_ignore_ascii_case(new.value())
    }

    async fn added(&mut self, new: &Arc<Entry<String>>) -> Result<(), String> {
        self.say(format!("+{} {}", new.key_str(), new.value()))
    }

    async fn updated(
        &mut self,
        old: &Arc<Entry<String>>,
        new: &Arc<Entry<String>>,
    ) -> Result<(), String> {
        self.say(format!("~{} {} {}", new.key_str(), old.value(), new.value()))
    }

    async fn deleted(&mut self, old: &Arc<Entry<String>>) -> Result<(), String> {
        self.say(format!("-{} {}", old.key_str(), old.value()))
    }

    async fn batch_done(&mut self, revision: Revision) -> Result<(), String> {
        self.say(format!(".{revision}"))
    }
}

struct Scene {
    store: History,
    ks: KeySpace<String>,
    writer: Writer<String>,
    said: Said,
}

impl Scene {
    fn of(keys: &[(&str, &str)]) -> Self {
        let mut store = History::new();
        store.txn(keys.iter().map(|(key, value)| Op::Put((*key).into(), (*value).into())));
        let (ks, writer) = loaded(&store);
        Scene { store, ks, writer, said: Said::default() }
    }

    fn teller(&self) -> Teller {
        Teller(Arc::clone(&self.said))
    }

    /// Does everything in one revision, which is shown as one batch.
    fn txn(&mut self, ops: &[(&str, Option<&str>)]) {
        let op = |(key, value): &(&str, Option<&str>)| match value {
            Some(value) => Op::Put((*key).into(), (*value).into()),
            None => Op::Delete((*key).into()),
        };
        self.store.txn(ops.iter().map(op));
        self.writer.apply(self.store.after(self.writer.view().revision())).unwrap();
    }

    fn said(&self) -> Vec<String> {
        std::mem::take(&mut *self.said.lock().unwrap())
    }
}

/// Polls a follower that goes on, and gives what it said.
macro_rules! goes_on {
    ($follow:expr, $scene:expr) => {{
        assert!(poll_once($follow.as_mut()).is_pending());
        $scene.said()
    }};
}

#[test]
fn t62_mo1_mo2_mo6_a_follower_is_told_of_its_view_in_order() {
    let mut scene = Scene::of(&[("/c", "1"), ("/a", "1"), ("/b", ".hidden")]);
    let (ks, teller) = (scene.ks.clone(), scene.teller());
    let mut follow = pin!(ks.follow(.., teller));
    assert_eq!(goes_on!(follow, scene), ["+/a 1", "+/c 1", ".2"]);
    // New and changed ones by name, then those that left, by name, then the end of the batch.
    scene.txn(&[("/d", Some("1")), ("/c", None), ("/a", Some(".away")), ("/b", Some("2"))]);
    assert_eq!(goes_on!(follow, scene), ["+/b 2", "+/d 1", "-/a 1", "-/c 1", ".3"]);
    scene.txn(&[("/b", Some("3")), ("/d", Some("2"))]);
    assert_eq!(goes_on!(follow, scene), ["~/b 2 3", "~/d 1 2", ".4"]);
    // What is outside the view comes and goes unheard; the batch ends all the same (MO-4).
    scene.txn(&[("/a", None), ("/x", Some(".hidden"))]);
    assert_eq!(goes_on!(follow, scene), [".5"]);
}

#[test]
fn t59_mo11_an_object_that_leaves_the_view_and_comes_back_is_added_again() {
    let mut scene = Scene::of(&[("/a", "1")]);
    let (ks, teller) = (scene.ks.clone(), scene.teller());
    let mut follow = pin!(ks.follow(.., teller));
    assert_eq!(goes_on!(follow, scene), ["+/a 1", ".2"]);
    for round in 0..3 {
        scene.txn(&[("/a", Some(".out"))]);
        assert_eq!(goes_on!(follow, scene)[0], "-/a 1", "{round}");
        scene.txn(&[("/a", Some("1"))]);
        assert_eq!(goes_on!(follow, scene)[0], "+/a 1", "{round}");
        scene.txn(&[("/a", None)]);
        assert_eq!(goes_on!(follow, scene)[0], "-/a 1", "{round}");
        scene.txn(&[("/a", Some("1"))]);
        assert_eq!(goes_on!(follow, scene)[0], "+/a 1", "{round}");
    }
    // Out and back between two looks is a change of an object that stayed.
    scene.txn(&[("/a", Some(".out"))]);
    scene.txn(&[("/a", Some("2"))]);
    assert_eq!(goes_on!(follow, scene)[0], "~/a 1 2");
    scene.txn(&[("/a", None)]);
    scene.txn(&[("/a", Some("3"))]);
    assert_eq!(goes_on!(follow, scene)[0], "~/a 2 3");
}

#[test]
fn t59_mo3_equal_ones_are_not_told_and_the_newest_is_the_old_one_next_time() {
    let mut scene = Scene::of(&[("/a", "x")]);
    let (ks, teller) = (scene.ks.clone(), scene.teller());
    let mut follow = pin!(ks.follow(.., teller));
    assert_eq!(goes_on!(follow, scene), ["+/a x", ".2"]);
    scene.txn(&[("/a", Some("X"))]);
    assert_eq!(goes_on!(follow, scene), [".3"]);
    scene.txn(&[("/a", Some("y"))]);
    assert_eq!(goes_on!(follow, scene), ["~/a X y", ".4"]);
}

/// With equal values, too: the new object is another one.
#[test]
fn h62_an_object_that_was_created_again_is_told_though_it_is_equal() {
    let mut scene = Scene::of(&[("/a", "x"), ("/b", "x")]);
    let (ks, teller) = (scene.ks.clone(), scene.teller());
    let mut follow = pin!(ks.follow(.., teller));
    assert_eq!(goes_on!(follow, scene), ["+/a x", "+/b x", ".2"]);
    // In two revisions and in one.
    scene.txn(&[("/a", None)]);
    scene.txn(&[("/a", Some("X")), ("/b", None), ("/b", Some("X"))]);
    assert_eq!(goes_on!(follow, scene), ["~/a x X", "~/b x X", ".4"]);
    scene.txn(&[("/a", Some("x"))]);
    assert_eq!(goes_on!(follow, scene), [".5"], "written again only");
}

/// An index by value with the order of calls that the trait states: values that move between objects, up,
/// down and crosswise.
#[test]
fn h63_an_index_by_value_of_a_follower_removes_only_what_is_its_own() {
    type ByValue = BTreeMap<String, String>;
    fn leave(index: &mut ByValue, old: &Entry<String>) {
        if index.get(old.value()).is_some_and(|key| *key == old.key_str()) {
            index.remove(old.value());
        }
    }
    let mut scene = Scene::of(&[("/b", "x"), ("/d", "y")]);
    let index = Arc::new(Mutex::new(ByValue::new()));
    let (upserts, deletes) = (Arc::clone(&index), Arc::clone(&index));
    let follower = SimpleFollower::<String>::new()
        .upserted(move |old, new| {
            let mut index = upserts.lock().unwrap();
            old.into_iter().for_each(|old| leave(&mut index, old));
            index.insert(new.value().clone(), new.key_str().into_owned());
            Ok(())
        })
        .deleted(move |old| {
            leave(&mut deletes.lock().unwrap(), old);
            Ok(())
        });
    let ks = scene.ks.clone();
    let mut follow = pin!(ks.follow(.., follower));
    let mut check = |scene: &Scene| {
        assert!(poll_once(follow.as_mut()).is_pending());
        let view = scene.ks.read();
        let expected: ByValue =
            view.iter().map(|e| (e.value().clone(), e.key_str().into_owned())).collect();
        assert_eq!(*index.lock().unwrap(), expected);
    };
    check(&scene);
    for ops in [
        vec![("/b", None), ("/a", Some("x"))],
        vec![("/a", None), ("/c", Some("x"))],
        vec![("/c", Some("y")), ("/d", Some("x"))],
        vec![("/c", Some("z"))],
    ] {
        scene.txn(&ops);
        check(&scene);
    }
}

#[test]
fn mo4_mo5_a_callback_that_fails_ends_the_follower_and_is_named() {
    for (ops, phase, key) in [
        (vec![("/refuse", Some("1"))], FollowPhase::Added, "/refuse"),
        (vec![("/a", Some("refuse"))], FollowPhase::Updated, "/a"),
        (vec![("/b", None)], FollowPhase::Deleted, "/b"),
    ] {
        let mut scene = Scene::of(&[("/a", "1"), ("/b", "refused later")]);
        let (ks, said) = (scene.ks.clone(), Arc::clone(&scene.said));
        // The first batch must pass, so this one is deaf until then.
        let deaf = SimpleFollower::new()
            .filter(|entry: &Entry<String>| entry.value() != "nothing")
            .upserted(move |old, new: &Arc<Entry<String>>| {
                let text = format!("{} {}", new.key_str(), new.value());
                said.lock().unwrap().push(text.clone());
                let refused = text.contains("refuse") && !text.contains("later");
                if refused { Err(format!("{text} {}", old.is_some())) } else { Ok(()) }
            })
            .deleted(|old| Err(old.value().clone()))
            .batch_done({
                let said = Arc::clone(&scene.said);
                move |revision| {
                    said.lock().unwrap().push(format!(".{revision}"));
                    Ok(())
                }
            });
        let mut follow = pin!(ks.follow(.., deaf));
        assert_eq!(goes_on!(follow, scene).last().unwrap(), ".2");
        scene.txn(&ops);
        let Poll::Ready(error) = poll_once(follow.as_mut()) else { panic!("{phase}") };
        assert!(!scene.said().contains(&".3".to_owned()), "no end of a batch after an error");
        let text = error.to_string();
        assert!(text.contains(key) && text.starts_with(&phase.to_string()), "{text}");
        let FollowError::Callback { phase: told, key: about, .. } = error else { panic!() };
        assert_eq!((told, about.as_slice()), (phase, key.as_bytes()));
    }
    let scene = Scene::of(&[("/a", "1")]);
    let fails = SimpleFollower::new().batch_done(|_| Err(std::fmt::Error));
    let error = now(scene.ks.follow(.., fails));
    assert_eq!(chain(&error).len(), 2, "with its cause: {error}");
    assert!(matches!(error, FollowError::Callback { phase: FollowPhase::BatchDone, .. }));
}

#[test]
fn mo7_mo8_a_simple_follower_needs_nothing_and_ends_with_the_key_space() {
    let Scene { ks, writer, .. } = Scene::of(&[("/a", "1")]);
    let mut follow = pin!(ks.follow(.., SimpleFollower::<String>::new()));
    assert!(poll_once(follow.as_mut()).is_pending());
    drop(writer);
    let ended = poll_once(follow.as_mut());
    assert!(matches!(ended, Poll::Ready(FollowError::Stopped(StopReason::Shutdown))), "{ended:?}");
    // Dropping the future ends it, and nothing is left.
    let (ks, _writer) = texts().writer();
    drop(ks.follow(.., SimpleFollower::<String>::new()));
    let mut follow = Box::pin(ks.follow(.., SimpleFollower::<String>::new()));
    assert!(poll_once(follow.as_mut()).is_pending());
    assert_eq!(ks.stats().followers, 1);
    drop(follow);
    assert_eq!(ks.stats().followers, 0);
}

/// What changes while a callback takes its time comes with the next batch, as one difference.
#[tokio::test]
async fn an_async_follower_is_never_behind_by_more_than_one_batch() {
    struct Slow(tokio::sync::mpsc::Sender<Vec<String>>, Vec<String>);
    impl Follower<String> for Slow {
        type Error = String;
        async fn added(&mut self, new: &Arc<Entry<String>>) -> Result<(), String> {
            tokio::task::yield_now().await;
            self.1.push(new.key_str().into_owned());
            Ok(())
        }
        async fn updated(
            &mut self,
            _: &Arc<Entry<String>>,
            new: &Arc<Entry<String>>,
        ) -> Result<(), String> {
            self.added(new).await
        }
        async fn deleted(&mut self, old: &Arc<Entry<String>>) -> Result<(), String> {
            Err(old.key_str().into_owned())
        }
        async fn batch_done(&mut self, _: Revision) -> Result<(), String> {
            let batch = std::mem::take(&mut self.1);
            self.0.send(batch).await.map_err(|_| "nobody listens".to_owned())
        }
    }
    let mut scene = Scene::of(&[("/a", "0")]);
    let (sender, mut batches) = tokio::sync::mpsc::channel(1);
    let ks = scene.ks.clone();
    let follower = tokio::spawn(async move { ks.follow(.., Slow(sender, Vec::new())).await });
    assert_eq!(batches.recv().await.unwrap(), ["/a"]);
    for round in 0..100 {
        scene.txn(&[("/a", Some(&round.to_string())), (&format!("/b{round}"), Some("1"))]);
    }
    let mut told = 0;
    let mut rounds = 0;
    while told < 100 {
        let batch = batches.recv().await.unwrap();
        told += batch.iter().filter(|key| key.starts_with("/b")).count();
        rounds += 1;
    }
    assert!(rounds <= 3, "{rounds} batches for what came while one was told");
    drop(batches);
    scene.txn(&[("/c", Some("1"))]);
    let ended = follower.await.unwrap();
    assert!(ended.to_string().contains("batch done"), "{ended}");
}

#[test]
fn mo10_mo13_a_watch_of_one_key_gives_the_newest_version_and_stays_ended() {
    let Scene { mut store, ks, mut writer, .. } = Scene::of(&[("/a", "1"), ("/b", "1")]);
    let mut watch = ks.watch_key("/a");
    assert!(watch.key() == b"/a" && watch.current().is_none());
    assert_eq!(now(watch.next()).unwrap().unwrap().value(), "1");
    assert_eq!(watch.current().unwrap().value(), "1");
    // Another key, also one that begins with it, is none of its business.
    let mut apply = |store: &History| writer.apply(store.after(writer.view().revision())).unwrap();
    for other in ["/b", "/a/", "/aa"] {
        store.put(other, "2");
        apply(&store);
        assert!(poll_once(pin!(watch.next())).is_pending());
    }
    for value in ["2", "3"] {
        store.put("/a", value);
        apply(&store);
    }
    assert_eq!(now(watch.next()).unwrap().unwrap().value(), "3", "2 is passed over");
    store.delete("/a");
    apply(&store);
    assert!(now(watch.next()).unwrap().is_none());
    store.put("/a", "4");
    apply(&store);
    drop(writer);
    assert_eq!(now(watch.next()).unwrap().unwrap().value(), "4");
    for _ in 0..2 {
        assert!(matches!(now(watch.next()), Err(StopReason::Shutdown)));
        assert_eq!(watch.current().unwrap().value(), "4", "what was given stays");
    }
    // Absent from the beginning.
    let mut absent = ks.watch_key("/z");
    assert!(now(absent.next()).unwrap().is_none());
}

#[test]
fn mo8_what_a_simple_follower_is_not_given_passes_everything_and_does_nothing() {
    let mut scene = Scene::of(&[("/a", "1"), ("/b", ".hidden")]);
    let (ks, said) = (scene.ks.clone(), Arc::clone(&scene.said));
    let follower = SimpleFollower::<String>::new().upserted(move |old, new| {
        let old = old.map_or("-", |old| old.value());
        said.lock().unwrap().push(format!("{} {old} {}", new.key_str(), new.value()));
        Ok(())
    });
    let mut follow = pin!(ks.follow(.., follower));
    assert_eq!(goes_on!(follow, scene), ["/a - 1", "/b - .hidden"]);
    // New ones and changed ones come to one place, also when only the revision is another; nobody
    // asked for those that leave.
    scene.txn(&[("/a", Some("1")), ("/b", None), ("/c", Some("2"))]);
    assert_eq!(goes_on!(follow, scene), ["/a 1 1", "/c - 2"]);
}

#[test]
fn mo9_what_was_handed_out_is_never_changed() {
    let mut scene = Scene::of(&[("/a", "1")]);
    let (ks, kept) = (scene.ks.clone(), Arc::new(Mutex::new(Vec::new())));
    let into = Arc::clone(&kept);
    let follower = SimpleFollower::<String>::new().upserted(move |_, new| {
        into.lock().unwrap().push(Arc::clone(new));
        Ok(())
    });
    let mut follow = pin!(ks.follow(.., follower));
    assert!(poll_once(follow.as_mut()).is_pending());
    for value in ["2", "3", "4"] {
        scene.txn(&[("/a", Some(value))]);
        assert!(poll_once(follow.as_mut()).is_pending());
    }
    scene.txn(&[("/a", None)]);
    assert!(poll_once(follow.as_mut()).is_pending());
    let kept = kept.lock().unwrap();
    let now: Vec<_> = kept.iter().map(|entry| (entry.value().as_str(), entry.version())).collect();
    assert_eq!(now, [("1", 1), ("2", 2), ("3", 3), ("4", 4)]);
}

/// A follower has no state beside its callbacks, so after an error nothing is apart: whoever follows
/// anew is told everything as added, what the failed one had taken included.
#[test]
fn mo12_after_a_callback_that_failed_a_new_follower_begins_from_nothing() {
    let mut scene = Scene::of(&[("/a", "1"), ("/b", "1"), ("/c", "1")]);
    let ks = scene.ks.clone();
    {
        let teller = scene.teller();
        let mut follow = pin!(ks.follow(.., teller));
        assert_eq!(goes_on!(follow, scene), ["+/a 1", "+/b 1", "+/c 1", ".2"]);
        scene.txn(&[("/a", Some("2")), ("/b", Some("refuse")), ("/c", None)]);
        assert!(poll_once(follow.as_mut()).is_ready());
        assert_eq!(scene.said(), ["~/a 1 2", "~/b 1 refuse"], "and nothing after that");
    }
    assert_eq!(ks.stats().followers, 0);
    scene.txn(&[("/b", Some("2"))]);
    let teller = scene.teller();
    let mut follow = pin!(ks.follow(.., teller));
    assert_eq!(goes_on!(follow, scene), ["+/a 2", "+/b 2", ".4"]);
}

#[test]
fn mo13_the_first_end_of_a_batch_says_that_all_there_was_is_told() {
    let mut scene = Scene::of(&[("/a", "1"), ("/b", "1")]);
    let (ks, teller) = (scene.ks.clone(), scene.teller());
    let mut follow = pin!(ks.follow(.., teller));
    // What changes before it is run is a part of what there is.
    scene.txn(&[("/b", Some("2"))]);
    scene.txn(&[("/c", Some("1"))]);
    assert_eq!(goes_on!(follow, scene), ["+/a 1", "+/b 2", "+/c 1", ".4"]);
    // Nothing there is told as well: an end without anything before it.
    let (ks, mut writer) = texts().writer();
    let said = Said::default();
    let mut follow = pin!(ks.follow(.., Teller(Arc::clone(&said))));
    assert!(poll_once(follow.as_mut()).is_pending());
    assert!(said.lock().unwrap().is_empty(), "before the load nobody knows what there is");
    let store = History::new();
    writer.load(store.header(), store.kvs()).unwrap();
    assert!(poll_once(follow.as_mut()).is_pending());
    assert_eq!(*said.lock().unwrap(), [".1"]);
}
