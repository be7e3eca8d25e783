//! Derived state: seen with its data only, and not after a panic.

use super::*;

#[test]
fn gz42_derived_state_changes_with_its_data() {
    let (ks, mut writer, mut store) = pair();
    let lens = ks.derive(BTreeMap::new(), |lens: &mut BTreeMap<Vec<u8>, usize>, delta, _, _| {
        for change in delta {
            match change.new() {
                Some(entry) => drop(lens.insert(entry.key().to_vec(), entry.value().len())),
                None => drop(lens.remove(change.key())),
            }
        }
    });
    let check = || {
        let view = ks.read();
        let expected: BTreeMap<_, _> =
            view.iter().map(|entry| (entry.key().to_vec(), entry.value().len())).collect();
        assert_eq!(view.derived(&lens), &expected);
        expected.len()
    };
    assert_eq!(check(), 2);
    step(&mut writer, &mut store);
    assert_eq!(check(), 3);
    let from = store.revision();
    store.put("/a", "longer");
    store.delete("/b");
    writer.apply(store.after(from)).unwrap();
    assert_eq!(check(), 2);
    writer.load(common::header(99), vec![]).unwrap();
    assert_eq!(check(), 0);
}

/// An index by value that is folded in two passes, of deltas under the lock and of differences outside.
#[test]
fn h63_two_passes_over_a_delta_keep_an_index_by_value_right() {
    type ByValue = BTreeMap<String, String>;
    fn fold(index: &mut ByValue, delta: &Delta<String>) {
        for old in delta.old_entries() {
            assert!(index.remove(old.value()).is_some(), "{} was indexed", old.value());
        }
        for new in delta.new_entries() {
            let before = index.insert(new.value().clone(), new.key_str().into_owned());
            assert_eq!(before, None, "{} is free", new.value());
        }
    }
    let (ks, mut writer, mut store) = pair();
    let derived = ks.derive(ByValue::new(), |index, delta, _, _| fold(index, delta));
    let mut changes = ks.changes(..);
    let mut outside = ByValue::new();
    fold(&mut outside, &now(changes.next()).unwrap());
    let put = |key: &str, value: &str| Op::Put(key.into(), value.into());
    let steps = [
        // Values move to a lower and to a higher key, cross over, leave, and are written again.
        vec![Op::Delete("/b".into()), put("/0", "2")],
        vec![Op::Delete("/0".into()), put("/c", "2")],
        vec![put("/a", "2"), put("/c", "1")],
        vec![Op::Delete("/a".into()), put("/a", "2")],
        vec![put("/a", "3"), Op::Delete("/c".into())],
    ];
    for ops in steps {
        let from = store.revision();
        store.txn(ops);
        writer.apply(store.after(from)).unwrap();
        fold(&mut outside, &now(changes.next()).unwrap());
        let view = ks.read();
        let expected: ByValue =
            view.iter().map(|e| (e.value().clone(), e.key_str().into_owned())).collect();
        assert_eq!((view.derived(&derived), &outside), (&expected, &expected));
    }
}

#[test]
fn gz_c2_a_later_observer_reads_what_an_earlier_one_derived() {
    let (ks, mut writer, mut store) = pair();
    let counted = ks.derive(0, count);
    let first = counted.clone();
    let doubled = ks.derive(0, move |doubled, _, view, earlier| {
        assert_eq!(*earlier.derived(&first), view.len(), "of the same step");
        *doubled = 2 * *earlier.derived(&first);
    });
    assert_eq!((*ks.read().derived(&counted), *ks.read().derived(&doubled)), (2, 4));
    step(&mut writer, &mut store);
    assert_eq!((*ks.read().derived(&counted), *ks.read().derived(&doubled)), (3, 6));
    assert!(ks.status().poisoned_observers.is_empty());
}

#[test]
fn an_earlier_observer_cannot_read_a_later_one_nor_itself() {
    let (ks, mut writer, mut store) = pair();
    let tokens: Arc<OnceLock<[Derived<usize>; 2]>> = Arc::default();
    let log = Log::default();
    let (writing, known) = (Arc::clone(&log), Arc::clone(&tokens));
    let own = ks.derive(0, move |_, _, _, earlier| {
        for token in known.get().into_iter().flatten() {
            writing.lock().unwrap().push(format!("{:?}", earlier.try_derived(token)));
        }
    });
    let later = ks.derive(0, count);
    assert!(tokens.set([own, later]).is_ok());
    step(&mut writer, &mut store);
    assert_eq!(take(&log), ["Err(NotHere)", "Err(NotHere)"]);
}

#[test]
fn tokens_of_another_key_space_are_refused() {
    let (ks, _writer, _) = pair();
    let (other, _other_writer, _) = pair();
    let token = other.derive(0, count);
    let own = ks.derive(0, count);
    assert_eq!(ks.read().try_derived(&token), Err(DerivedError::NotHere));
    let (message, at) = panic_of(|| *ks.read().derived(&token));
    assert!(message.contains("another key space's"), "{message}");
    assert!(at.contains("observers/derived.rs"), "{at}");
    assert_eq!((*ks.read().derived(&own), *other.read().derived(&token)), (2, 2));
}

#[test]
fn t58_a_panicking_observer_is_contained() {
    let (ks, mut writer, mut store) = pair();
    let log = Log::default();
    named(&ks, &log, "before");
    let calls = Arc::new(Mutex::new(0));
    let counting = Arc::clone(&calls);
    let line = line!() + 1;
    let fragile = ks.derive(Vec::new(), move |seen, delta, view, _| {
        *counting.lock().unwrap() += 1;
        seen.push(delta.to_revision());
        assert!(view.len() != 3, "three is too much");
    });
    let dependent = {
        let fragile = fragile.clone();
        ks.derive(0, move |n, _, _, earlier| *n = earlier.derived(&fragile).len())
    };
    let careful = {
        let fragile = fragile.clone();
        ks.derive(0, move |n, _, _, earlier| *n = earlier.try_derived(&fragile).map_or(7, Vec::len))
    };
    named(&ks, &log, "after");
    take(&log);
    assert_eq!(ks.read().derived(&fragile), &[3]);
    let mut waiting = std::pin::pin!(ks.wait_for_revision(4));
    assert!(poll_once(waiting.as_mut()).is_pending());

    step(&mut writer, &mut store);
    // The data, the other observers and the waiters go on.
    assert_eq!(take(&log), ["before 1", "after 1"]);
    assert_eq!((ks.read().len(), ks.read().revision()), (3, 4));
    assert_eq!(now(waiting).unwrap(), 4);
    assert_eq!(*ks.read().derived(&careful), 7);
    // Its own state is poisoned, and that of who relied on it.
    let error = ks.read().try_derived(&fragile).unwrap_err();
    let DerivedError::Poisoned { registered, message } = &error else { panic!("{error:?}") };
    assert_eq!((registered.line(), message.as_str()), (line, "three is too much"));
    let (message, _) = panic_of(|| ks.read().derived(&fragile).len());
    assert!(
        message.contains("tests/observers/derived.rs") && message.contains("three is too much")
    );
    assert!(matches!(ks.read().try_derived(&dependent), Err(DerivedError::Poisoned { .. })));
    let poisoned = ks.status().poisoned_observers;
    assert_eq!(poisoned.len(), 2);
    assert_eq!((poisoned[0].registered.line(), &*poisoned[0].message), (line, "three is too much"));

    // It is not called again, though it would not panic now; anew it is right.
    step(&mut writer, &mut store);
    assert_eq!(take(&log), ["before 1", "after 1"]);
    assert_eq!(*calls.lock().unwrap(), 2, "once at registration and once when it panicked");
    assert!(ks.read().try_derived(&fragile).is_err());
    fragile.remove();
    dependent.remove();
    assert!(ks.status().poisoned_observers.is_empty());
    let anew = ks.derive(0, count);
    assert_eq!(*ks.read().derived(&anew), 4);
}

#[test]
fn t58_a_panic_at_registration_is_contained_too() {
    let (ks, mut writer, mut store) = pair();
    let fragile = ks.derive((), |(), _, _, _| panic!("at once {}", 1));
    let error = ks.read().try_derived(&fragile).unwrap_err();
    assert!(error.to_string().ends_with("panicked: at once 1"), "{error}");
    step(&mut writer, &mut store);
    assert_eq!(ks.read().len(), 3);
}

/// The panic of a payload's own `Drop` would come under the lock.
#[test]
fn h64_a_payload_that_panics_when_it_is_dropped_is_contained() {
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let (ks, mut writer, mut store) = pair();
    ks.observe(|delta, _, _| {
        if delta.origin() == DeltaOrigin::Events {
            std::panic::panic_any(Payload);
        }
    });
    step(&mut writer, &mut store);
    assert_eq!(ks.status().poisoned_observers[0].message, "a panic without text");
    step(&mut writer, &mut store);
    assert_eq!(ks.read().len(), 4);
}

#[test]
fn t58_any_payload_is_contained() {
    let (ks, mut writer, mut store) = pair();
    ks.observe(|delta, _, _| {
        if delta.origin() == DeltaOrigin::Events {
            std::panic::panic_any(7);
        }
    });
    step(&mut writer, &mut store);
    assert_eq!(ks.status().poisoned_observers[0].message, "a panic without text");
}
