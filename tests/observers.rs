//! C4: observers run in order, under the write lock, with the net delta; and the state they derive.

mod common;

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Wake, Waker};
use std::time::Duration;

use common::{History, Model, Op, loaded, now, panic_of, poll_once, texts};
use etcd_keyspace::{
    Delta, DeltaOrigin, Derived, DerivedError, Earlier, KeySpace, Observer, View, Writer,
};

type Log = Arc<Mutex<Vec<String>>>;

fn take(log: &Log) -> Vec<String> {
    std::mem::take(&mut log.lock().unwrap())
}

/// Registers an observer that writes its name and the number of changes.
fn named(ks: &KeySpace<String>, log: &Log, name: &'static str) -> Observer {
    let log = Arc::clone(log);
    ks.observe(move |delta, _, _| log.lock().unwrap().push(format!("{name} {}", delta.len())))
}

/// Puts one more key and applies it.
fn step(writer: &mut Writer<String>, store: &mut History) {
    let from = store.revision();
    store.put(&format!("/step{from}"), "x");
    writer.apply(store.after(from)).unwrap();
}

fn pair() -> (KeySpace<String>, Writer<String>, History) {
    let mut store = History::new();
    store.put("/a", "1");
    store.put("/b", "2");
    let (ks, writer) = loaded(&store);
    (ks, writer, store)
}

/// An observer that counts entries from changes alone.
fn count(n: &mut usize, delta: &Delta<String>, _: &View<String>, _: &Earlier<'_, String>) {
    for change in delta {
        *n += usize::from(change.new().is_some());
        *n -= usize::from(change.old().is_some());
    }
}

// ---- Order --------------------------------------------------------------------------------------

#[test]
fn gz42_gz_c2_t56_c4_observers_run_in_the_order_of_registration() {
    let (ks, mut writer) = texts().writer();
    let mut store = History::new();
    store.put("/a", "1");
    store.put("/b", "2");
    let log = Log::default();
    // Registered before the load, one of them twice.
    for name in ["one", "two", "three", "one"] {
        named(&ks, &log, name);
    }
    assert_eq!(take(&log), [""; 0], "there is nothing to see yet");
    writer.load(store.header(), store.kvs()).unwrap();
    assert_eq!(take(&log), ["one 2", "two 2", "three 2", "one 2"]);
    step(&mut writer, &mut store);
    assert_eq!(take(&log), ["one 1", "two 1", "three 1", "one 1"]);
    // One registered late comes last.
    named(&ks, &log, "late");
    assert_eq!(take(&log), ["late 3"]);
    step(&mut writer, &mut store);
    assert_eq!(take(&log), ["one 1", "two 1", "three 1", "one 1", "late 1"]);
}

#[test]
fn c4_a_late_observer_first_sees_everything_as_added() {
    let (ks, mut writer, mut store) = pair();
    let seen: Arc<Mutex<Model>> = Arc::default();
    let origins: Arc<Mutex<Vec<(DeltaOrigin, i64, i64)>>> = Arc::default();
    let (folding, origin) = (Arc::clone(&seen), Arc::clone(&origins));
    ks.observe(move |delta, view, _| {
        let mut model = folding.lock().unwrap();
        model.fold(delta);
        assert_eq!(*model, Model::shown(view));
        let line = (delta.origin(), delta.from_revision(), delta.to_revision());
        origin.lock().unwrap().push(line);
    });
    assert_eq!(*seen.lock().unwrap(), Model::shown(&ks.read()));
    step(&mut writer, &mut store);
    writer.load(common::header(9), vec![]).unwrap();
    let expected =
        [(DeltaOrigin::Registration, 0, 3), (DeltaOrigin::Events, 3, 4), (DeltaOrigin::Load, 4, 9)];
    assert_eq!(*origins.lock().unwrap(), expected);
    assert!(ks.status().poisoned_observers.is_empty(), "{:?}", ks.status());
}

/// GZ-43: whoever is woken finds the observers done; and within an observer nobody was woken yet.
#[test]
fn gz43_c4_observers_run_before_waiters_wake() {
    struct Flag(Log);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().push("woken".into());
        }
    }
    let (ks, mut writer, mut store) = pair();
    let log = Log::default();
    named(&ks, &log, "first");
    named(&ks, &log, "last");
    take(&log);
    let waker = Waker::from(Arc::new(Flag(Arc::clone(&log))));
    let mut cx = std::task::Context::from_waker(&waker);
    let mut by_revision = std::pin::pin!(ks.wait_for_revision(4));
    let mut by_change = std::pin::pin!(ks.updated());
    assert!(by_revision.as_mut().poll(&mut cx).is_pending());
    assert!(by_change.as_mut().poll(&mut cx).is_pending());
    step(&mut writer, &mut store);
    assert_eq!(take(&log), ["first 1", "last 1", "woken", "woken"]);
}

#[test]
fn c4_the_view_is_in_place_and_readers_are_out_while_an_observer_runs() {
    let (ks, mut writer, mut store) = pair();
    let reader = ks.clone();
    let (asking, asked) = mpsc::channel::<()>();
    let (answering, answers) = mpsc::channel();
    let reading = std::thread::spawn(move || {
        while asked.recv().is_ok() {
            // Its guard is gone by then, so that nothing delays the removal.
            let revision = reader.read().revision();
            answering.send(revision).unwrap();
        }
    });
    let (asking, answers) = (Mutex::new(asking), Arc::new(Mutex::new(answers)));
    let waiting = Arc::clone(&answers);
    let observer = ks.observe(move |delta, view, _| {
        let to = delta.to_revision();
        assert_eq!((view.revision(), view.confirmed(), view.len()), (to, to, to as usize - 1));
        if delta.origin() == DeltaOrigin::Events {
            asking.lock().unwrap().send(()).unwrap();
            let answer = waiting.lock().unwrap().recv_timeout(Duration::from_millis(50));
            assert_eq!(answer, Err(mpsc::RecvTimeoutError::Timeout), "a reader got in");
        }
    });
    step(&mut writer, &mut store);
    assert_eq!(answers.lock().unwrap().recv(), Ok(4), "it reads what the observer saw");
    assert!(ks.status().poisoned_observers.is_empty(), "{:?}", ks.status());
    observer.remove();
    reading.join().unwrap();
}

// ---- Removal ------------------------------------------------------------------------------------

#[test]
fn a_dropped_handle_keeps_the_observer_and_remove_ends_it() {
    let (ks, mut writer, mut store) = pair();
    let log = Log::default();
    let one = named(&ks, &log, "one");
    drop(named(&ks, &log, "kept"));
    let token = ks.derive(0, count);
    take(&log);
    one.remove();
    one.remove();
    one.clone().remove();
    step(&mut writer, &mut store);
    assert_eq!(take(&log), ["kept 1"]);
    assert_eq!(*ks.read().derived(&token), 3);
    token.remove();
    assert_eq!(ks.read().try_derived(&token).unwrap_err(), DerivedError::NotHere);
    let (message, at) = panic_of(|| *ks.read().derived(&token));
    assert!(message.contains("removed or is another key space's"), "{message}");
    assert!(at.contains("tests/observers.rs"), "{at}");
    // Removing outlives the key space.
    drop((ks, writer));
    one.remove();
}

/// What an observer captured is dropped with it, outside the lock.
#[test]
fn a_removed_observer_is_dropped_where_it_may_read() {
    struct ReadsOnDrop(KeySpace<String>, Log);
    impl Drop for ReadsOnDrop {
        fn drop(&mut self) {
            let line = format!("dropped at {}", self.0.read().revision());
            self.1.lock().unwrap().push(line);
        }
    }
    let (ks, mut writer, mut store) = pair();
    let log = Log::default();
    let held = ReadsOnDrop(ks.clone(), Arc::clone(&log));
    ks.observe(move |_, _, _| assert!(!held.1.is_poisoned())).remove();
    assert_eq!(take(&log), ["dropped at 3"]);
    // Removed under a guard it goes with the next step, and does not run in it.
    let held = ReadsOnDrop(ks.clone(), Arc::clone(&log));
    let observer = ks.observe(move |_, _, _| held.1.lock().unwrap().push("ran".into()));
    assert_eq!(take(&log), ["ran"]);
    let guard = ks.read();
    observer.remove();
    assert_eq!(take(&log), [""; 0]);
    drop(guard);
    step(&mut writer, &mut store);
    assert_eq!(take(&log), ["dropped at 4"]);
}

/// Removing inside an observer takes effect after the step: whoever depends on the removed one
/// still finds it in this step.
#[test]
fn t56_removal_inside_an_observer_takes_effect_after_the_step() {
    let (ks, mut writer, mut store) = pair();
    let log = Log::default();
    let tokens: Arc<OnceLock<(Observer, Derived<usize>)>> = Arc::default();
    let removing = Arc::clone(&tokens);
    ks.observe(move |_, _, _| {
        if let Some((observer, token)) = removing.get() {
            observer.remove();
            token.remove();
        }
    });
    let counted = ks.derive(0, count);
    let victim = named(&ks, &log, "victim");
    let (writing, depends_on) = (Arc::clone(&log), counted.clone());
    let dependent = ks.observe(move |_, _, earlier| {
        writing.lock().unwrap().push(format!("dependent {:?}", earlier.try_derived(&depends_on)));
    });
    take(&log);
    assert!(tokens.set((victim, counted.clone())).is_ok());
    step(&mut writer, &mut store);
    assert_eq!(take(&log), ["victim 1", "dependent Ok(3)"]);
    assert_eq!(ks.read().try_derived(&counted), Err(DerivedError::NotHere));
    step(&mut writer, &mut store);
    assert_eq!(take(&log), ["dependent Err(NotHere)"]);
    dependent.remove();
}

#[test]
fn an_observer_may_remove_itself() {
    let (ks, mut writer, mut store) = pair();
    let log = Log::default();
    let own: Arc<OnceLock<Observer>> = Arc::default();
    let (writing, itself) = (Arc::clone(&log), Arc::clone(&own));
    let observer = ks.observe(move |_, _, _| {
        writing.lock().unwrap().push("ran".into());
        itself.get().map(Observer::remove).unwrap_or_default();
    });
    assert!(own.set(observer).is_ok());
    take(&log);
    step(&mut writer, &mut store);
    step(&mut writer, &mut store);
    assert_eq!(take(&log), ["ran"]);
}

/// A read after the removal waits for the step that was being published.
#[test]
fn t56_removal_while_another_thread_applies() {
    let (ks, mut writer, mut store) = pair();
    let (entered, has_entered) = mpsc::channel();
    let (leave, may_leave) = mpsc::channel::<()>();
    let may_leave = Mutex::new(may_leave);
    let runs: Arc<Mutex<usize>> = Arc::default();
    let running = Arc::clone(&runs);
    let observer = ks.observe(move |delta, _, _| {
        if delta.origin() == DeltaOrigin::Events {
            entered.send(()).unwrap();
            may_leave.lock().unwrap().recv().unwrap();
            *running.lock().unwrap() += 1;
        }
    });
    std::thread::scope(|scope| {
        scope.spawn(|| step(&mut writer, &mut store));
        has_entered.recv().unwrap();
        let removing = scope.spawn(|| {
            observer.remove();
            drop(ks.read());
            *runs.lock().unwrap()
        });
        // It cannot be done while the observer runs.
        assert!(!removing.is_finished());
        leave.send(()).unwrap();
        assert_eq!(removing.join().unwrap(), 1);
    });
    step(&mut writer, &mut store);
    assert_eq!(*runs.lock().unwrap(), 1);
}

#[test]
fn t56_registration_while_another_thread_applies_misses_nothing() {
    let (ks, mut writer, mut store) = pair();
    std::thread::scope(|scope| {
        let applying = scope.spawn(move || {
            for _ in 0..100 {
                step(&mut writer, &mut store);
            }
            writer
        });
        let mut tokens = Vec::new();
        while tokens.len() < 16 {
            tokens.push(ks.derive(Model::default(), |model, delta, view, _| {
                model.fold(delta);
                assert_eq!(model.keys.len(), view.len());
            }));
        }
        let _writer = applying.join().unwrap();
        let view = ks.read();
        assert_eq!(view.len(), 102);
        for token in &tokens {
            assert_eq!(*view.derived(token), Model::shown(&view));
        }
    });
}

#[path = "observers/derived.rs"]
mod derived;
#[path = "observers/locks.rs"]
mod locks;
#[path = "observers/misuse.rs"]
mod misuse;
