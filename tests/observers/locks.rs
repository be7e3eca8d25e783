//! Observers and other locks: a removal never waits for one, and every exclusive hold is measured.

use super::*;

const SOON: Duration = Duration::from_secs(10);

/// Removes on another thread and fails if that takes long.
fn remove_soon(observer: &Observer) {
    let (observer, (removed, is_removed)) = (observer.clone(), mpsc::channel());
    std::thread::spawn(move || {
        observer.remove();
        removed.send(()).unwrap();
    });
    is_removed.recv_timeout(SOON).expect("the removal waits for its own caller");
}

/// An observer that counts its steps under a lock of the application, and says when it begins.
fn counting(
    ks: &KeySpace<String>,
    app: &Arc<Mutex<usize>>,
    captured: Arc<()>,
) -> (Observer, mpsc::Receiver<()>) {
    let (entered, has_entered) = mpsc::channel();
    let app = Arc::clone(app);
    let observer = ks.observe(move |delta, _, _| {
        let _captured = &captured;
        if delta.origin() == DeltaOrigin::Events {
            entered.send(()).unwrap();
            *app.lock().unwrap() += 1;
        }
    });
    (observer, has_entered)
}

#[test]
fn h66_a_removal_under_a_lock_that_the_observer_takes_returns() {
    let (ks, mut writer, mut store) = pair();
    let (app, captured) = (Arc::<Mutex<usize>>::default(), Arc::new(()));
    let weak = Arc::downgrade(&captured);
    let (observer, has_entered) = counting(&ks, &app, captured);
    let held = app.lock().unwrap();
    let applying = std::thread::spawn(move || {
        step(&mut writer, &mut store);
        (writer, store)
    });
    has_entered.recv_timeout(SOON).expect("the observer runs");
    remove_soon(&observer);
    drop(held);
    // The step that was being published calls it, and takes it out.
    drop(ks.read());
    assert_eq!(*app.lock().unwrap(), 1);
    let (mut writer, mut store) = applying.join().unwrap();
    assert!(weak.upgrade().is_none(), "dropped after its last step");
    step(&mut writer, &mut store);
    assert_eq!(*app.lock().unwrap(), 1);
}

#[test]
fn h66_a_removal_under_a_lock_that_a_reader_waits_for_returns() {
    for progress in [false, true] {
        let (ks, mut writer, mut store) = pair();
        let (app, captured) = (Arc::<Mutex<usize>>::default(), Arc::new(()));
        let weak = Arc::downgrade(&captured);
        let (observer, _has_entered) = counting(&ks, &app, captured);
        let held = app.lock().unwrap();
        let (reads, is_reading) = mpsc::channel();
        let (space, waited_for) = (ks.clone(), Arc::clone(&app));
        let reading = std::thread::spawn(move || {
            let view = space.read();
            reads.send(()).unwrap();
            drop(waited_for.lock().unwrap());
            view.len()
        });
        is_reading.recv_timeout(SOON).expect("the reader has its guard");
        remove_soon(&observer);
        // No reader sees it any more, and the next writer that has the lock drops it.
        assert_eq!(ks.observer_times().len(), 0);
        drop(held);
        assert_eq!(reading.join().unwrap(), 2);
        if progress {
            writer.confirm(99);
        } else {
            step(&mut writer, &mut store);
        }
        assert!(weak.upgrade().is_none());
        assert_eq!(*app.lock().unwrap(), 0);
    }
}

#[test]
fn h65_the_longest_hold_counts_registrations() {
    let (ks, _writer, _) = pair();
    let last = ks.stats().last_write_hold;
    let work = Duration::from_millis(20);
    ks.observe(move |_, _, _| std::thread::sleep(work));
    let stats = ks.stats();
    assert!(stats.longest_write_hold >= work, "{:?}", stats.longest_write_hold);
    assert_eq!(stats.last_write_hold, last, "that of the last batch or load");
}

#[test]
fn h65_the_longest_hold_counts_observers_of_a_step() {
    let (ks, mut writer, mut store) = pair();
    let work = Duration::from_millis(20);
    ks.observe(move |delta, _, _| {
        if delta.origin() == DeltaOrigin::Events {
            std::thread::sleep(work);
        }
    });
    step(&mut writer, &mut store);
    let stats = ks.stats();
    assert!(stats.longest_write_hold >= work && stats.last_write_hold >= work, "{stats:?}");
}
