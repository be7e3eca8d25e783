//! Calling back into the key space from an observer: a panic with the reason, never a deadlock.

use super::*;

/// Runs `misuse` inside an observer, at registration and at a step; gives the two messages.
fn misuse_in_observer(
    misuse: impl Fn(&KeySpace<String>) + Send + Clone + 'static,
) -> [(String, u32); 2] {
    let (ks, mut writer, mut store) = pair();
    let (at_registration, registered_ks) = (misuse.clone(), ks.clone());
    let line = line!() + 1;
    ks.observe(move |_, _, _| at_registration(&registered_ks));
    let handle = ks.clone();
    ks.observe(move |delta, _, _| {
        if delta.origin() == DeltaOrigin::Events {
            misuse(&handle);
        }
    });
    step(&mut writer, &mut store);
    let poisoned = ks.status().poisoned_observers;
    assert_eq!(poisoned.len(), 2, "{poisoned:?}");
    assert_eq!(poisoned[0].registered.line(), line);
    // The key space is as usable as before.
    step(&mut writer, &mut store);
    assert_eq!((ks.read().len(), now(ks.wait_for_revision(5)).unwrap()), (4, 5));
    [0, 1].map(|n| (poisoned[n].message.clone(), poisoned[n].registered.line()))
}

#[track_caller]
fn check(what: &str, misuse: impl Fn(&KeySpace<String>) + Send + Clone + 'static) {
    for (message, line) in misuse_in_observer(misuse) {
        let start = format!("{what} inside an observer of the same key space would never end");
        assert!(message.starts_with(&start), "{message}");
        let place = format!("registered at tests/observers/misuse.rs:{line}:");
        assert!(message.contains(&place), "{message} does not name {place}");
    }
}

#[test]
fn t57_reading_in_an_observer_panics_with_its_place() {
    check("reading", |ks| drop(ks.read()));
    check("reading", |ks| drop(ks.snapshot()));
    check("reading", |ks| drop(ks.rejected()));
    check("reading", |ks| drop(now(ks.read_at(1))));
    check("reading", |ks| drop(now(ks.wait_until(|_| Some(())))));
}

#[test]
fn t57_waiting_in_an_observer_panics_with_its_place() {
    check("waiting", |ks| drop(poll_once(std::pin::pin!(ks.wait_for_revision(1_000)))));
    check("waiting", |ks| drop(poll_once(std::pin::pin!(ks.updated()))));
    check("waiting", |ks| drop(poll_once(std::pin::pin!(ks.sync()))));
    check("waiting", |ks| drop(poll_once(std::pin::pin!(ks.closed()))));
    check("waiting", |ks| drop(common::block_on(ks.wait_for_revision(1_000))));
}

#[test]
fn t57_registering_in_an_observer_panics_with_its_place() {
    check("registering an observer", |ks| drop(ks.observe(|_, _, _| ())));
    check("registering an observer", |ks| drop(ks.derive((), |(), _, _, _| ())));
}

/// A writer that an observer has got hold of panics too, before it takes any lock.
#[test]
fn t57_applying_in_an_observer_panics_with_its_place() {
    type Misuse = fn(&mut Writer<String>, &mut History);
    let misuses: [Misuse; 3] = [
        step,
        |writer, store| drop(writer.load(common::header(99), store.kvs())),
        |writer, _| writer.confirm(99),
    ];
    for misuse in misuses {
        let (ks, mut writer, mut store) = pair();
        let before = ks.snapshot();
        let line = line!() + 1;
        ks.observe(move |_, _, _| misuse(&mut writer, &mut store));
        let poisoned = ks.status().poisoned_observers;
        let message = &poisoned[0].message;
        assert!(message.starts_with("applying inside an observer"), "{message}");
        assert!(message.contains(&format!("misuse.rs:{line}:")), "{message}");
        assert!(ks.snapshot().diff(&before).is_empty());
        assert_eq!(ks.read().confirmed(), before.confirmed());
    }
}

#[test]
fn t57_what_needs_no_lock_works_in_an_observer() {
    let (ks, mut writer, mut store) = pair();
    let seen = Log::default();
    let (writing, handle) = (Arc::clone(&seen), ks.clone());
    ks.observe(move |_, view, _| {
        let met = now(handle.wait_for_revision(1)).unwrap();
        let status = handle.status();
        // Readers and waiters are told after the observers, so the published numbers are the old.
        let line = format!("{met} {} {} {:?}", status.revision, view.revision(), handle.mirrored());
        writing.lock().unwrap().push(line);
    });
    step(&mut writer, &mut store);
    assert_eq!(take(&seen), ["3 3 3 KeyRange([/, 0))", "3 3 4 KeyRange([/, 0))"]);
    assert!(ks.status().poisoned_observers.is_empty());
}

#[test]
fn another_key_space_may_be_read_in_an_observer() {
    let (ks, mut writer, mut store) = pair();
    let (other, mut other_writer, mut other_store) = pair();
    let (reading, token) = (other.clone(), other.derive(0, count));
    let sums = ks.derive(0, move |sum, _, view, _| {
        let other = reading.read();
        *sum = view.len() + *other.derived(&token);
    });
    step(&mut other_writer, &mut other_store);
    step(&mut writer, &mut store);
    assert_eq!(*ks.read().derived(&sums), 6);
}

/// Changing the key space while this thread holds its guard would wait for that guard.
#[test]
fn under_a_guard_registering_and_applying_panic_at_once() {
    let (ks, mut writer, mut store) = pair();
    let observer = ks.observe(|_, _, _| ());
    let guard = ks.read();
    let (message, at) = panic_of(|| ks.observe(|_, _, _| ()));
    let reason = "while this thread holds a read guard of the same key space would never end";
    assert_eq!(message, format!("registering an observer {reason}: drop the guard first"));
    assert!(at.contains("observers/misuse.rs"), "{at}");
    let (message, at) = panic_of(|| step(&mut writer, &mut store));
    assert!(message.contains(&format!("applying {reason}")), "{message}");
    assert!(at.contains("tests/observers.rs"), "{at}");
    let (message, _) = panic_of(|| writer.confirm(99));
    assert!(message.contains(&format!("applying {reason}")), "{message}");
    observer.remove();
    drop(guard);
    assert_eq!(ks.read().revision(), 3);
    // The refused step was not lost: it can be applied now.
    writer.apply(store.after(3)).unwrap();
    assert_eq!(ks.read().revision(), 4);
}

/// Even where somebody else already waits for the lock, which a plain read would queue behind.
#[test]
fn under_a_guard_applying_panics_even_while_another_thread_waits_to_write() {
    let (ks, mut writer, mut store) = pair();
    std::thread::scope(|scope| {
        let guard = ks.read();
        let registering = scope.spawn(|| ks.observe(|_, _, _| ()));
        common::until_a_writer_waits(&ks);
        let (message, _) = panic_of(|| step(&mut writer, &mut store));
        assert!(message.starts_with("applying while this thread holds"), "{message}");
        drop(guard);
        registering.join().unwrap();
    });
}
