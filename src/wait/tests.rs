//! Tickets of linearizable reads, what the mirror is told to hasten, and waits across epochs.

use std::pin::pin;

use super::*;

fn poll(wait: Pin<&mut Wait<'_>>) -> Option<Result<Revision, WaitError>> {
    match wait.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

fn wait(waits: &Waits, awaited: Awaited) -> Wait<'_> {
    Wait::new(waits, awaited, || ())
}

fn sync(waits: &Waits) -> Wait<'_> {
    wait(waits, Awaited::Sync { ticket: waits.ticket(), epoch: waits.published().awaited_epoch() })
}

fn loaded_at(revision: Revision) -> Waits {
    let waits = Waits::new();
    waits.publish(revision, revision, 1, true);
    waits
}

#[test]
fn a_sync_is_met_only_by_a_read_that_began_after_it() {
    let waits = loaded_at(5);
    let mut first = pin!(sync(&waits));
    assert!(poll(first.as_mut()).is_none());
    // The read begins here: it covers the tickets drawn so far.
    let covered = waits.demand().sync.unwrap();
    let mut second = pin!(sync(&waits));
    assert!(poll(second.as_mut()).is_none());
    waits.synced(covered, 7);
    assert_eq!(poll(first).unwrap().unwrap(), 7);
    assert!(poll(second.as_mut()).is_none(), "it was asked for after the read began");
    waits.synced(waits.demand().sync.unwrap(), 9);
    assert_eq!(poll(second).unwrap().unwrap(), 9);
    assert_eq!(waits.demand(), Demand::default());
}

#[test]
fn a_late_answer_of_an_older_read_changes_nothing() {
    let waits = loaded_at(5);
    let mut waiting = pin!(sync(&waits));
    let mut later = pin!(sync(&waits));
    assert!(poll(waiting.as_mut()).is_none() && poll(later.as_mut()).is_none());
    waits.synced(2, 9);
    waits.synced(1, 4);
    assert_eq!(poll(waiting).unwrap().unwrap(), 9);
    assert_eq!(poll(later).unwrap().unwrap(), 9);
}

#[test]
fn the_demand_is_the_lowest_revision_and_the_newest_ticket() {
    let waits = loaded_at(5);
    assert_eq!(waits.demand(), Demand::default());
    let revision = |revision| wait(&waits, Awaited::Revision { revision, epoch: Some(1) });
    let (mut nine, mut seven) = (pin!(revision(9)), Box::pin(revision(7)));
    let (mut one, mut two) = (Box::pin(sync(&waits)), Box::pin(sync(&waits)));
    let mut changed = pin!(wait(&waits, Awaited::Change { after: 1 }));
    for wait in [nine.as_mut(), seven.as_mut(), one.as_mut(), two.as_mut(), changed.as_mut()] {
        assert!(poll(wait).is_none());
    }
    assert_eq!(waits.demand(), Demand { lowest: Some(7), sync: Some(2) });
    // Whoever gives up demands nothing.
    drop((seven, two));
    assert_eq!(waits.demand(), Demand { lowest: Some(9), sync: Some(1) });
    waits.publish(9, 9, 1, true);
    assert_eq!(waits.demand(), Demand { lowest: None, sync: Some(1) });
    assert!(poll(nine).is_some() && poll(changed).is_some());
    assert_eq!(waits.pending(), 1);
}

#[test]
fn the_mirror_is_told_of_each_new_demand_once() {
    let waits = loaded_at(5);
    let told = || {
        let mut told = pin!(waits.demanded.notified());
        told.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    };
    assert!(!told());
    let mut six = pin!(wait(&waits, Awaited::Revision { revision: 6, epoch: Some(1) }));
    assert!(poll(six.as_mut()).is_none() && told());
    assert!(poll(six.as_mut()).is_none() && !told(), "polled again it is no new demand");
    let mut asking = pin!(sync(&waits));
    assert!(poll(asking.as_mut()).is_none() && told());
    // What the mirror cannot hasten is none of its business, nor is what is met.
    let mut changed = pin!(wait(&waits, Awaited::Change { after: 1 }));
    let mut met = pin!(wait(&waits, Awaited::Revision { revision: 5, epoch: Some(1) }));
    assert!(poll(changed.as_mut()).is_none() && poll(met.as_mut()).is_some() && !told());
}

#[test]
fn t53_revisions_and_tickets_of_another_epoch_fail_and_other_waits_go_on() {
    let waits = loaded_at(5);
    let mut revision = pin!(wait(&waits, Awaited::Revision { revision: 9, epoch: Some(1) }));
    let mut ticket = pin!(sync(&waits));
    let mut changed = pin!(wait(&waits, Awaited::Change { after: 1 }));
    let mut ended = pin!(wait(&waits, Awaited::Ended));
    for wait in [revision.as_mut(), ticket.as_mut(), changed.as_mut(), ended.as_mut()] {
        assert!(poll(wait).is_none());
    }
    // Above the revision that was waited for, but of another history.
    waits.publish(20, 20, 2, true);
    for wait in [revision, ticket] {
        let result = poll(wait).unwrap();
        assert!(matches!(result, Err(WaitError::HistoryChanged { was: 1, now: 2 })), "{result:?}");
    }
    assert_eq!(poll(changed).unwrap().unwrap(), 20);
    assert!(poll(ended.as_mut()).is_none());
    assert_eq!(waits.pending(), 1);
    waits.end(StopReason::Shutdown);
    assert_eq!(poll(ended).unwrap().unwrap(), 20);
}

#[test]
fn the_first_reason_of_the_end_stays() {
    let waits = loaded_at(5);
    waits.end(StopReason::AnotherCluster { expected: 1, got: 2 });
    waits.end(StopReason::Shutdown);
    assert!(matches!(waits.ended(), Some(StopReason::AnotherCluster { got: 2, .. })));
}

/// Who waits before anything is shown is of the epoch that is shown first, and woken only when met.
#[test]
fn c4_c5_a_wait_before_the_first_data_takes_its_epoch_and_is_not_woken_for_less() {
    struct Woken(std::sync::atomic::AtomicBool);
    impl std::task::Wake for Woken {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    }
    let waits = Waits::new();
    let epoch = waits.published().awaited_epoch();
    let mut nine = pin!(wait(&waits, Awaited::Revision { revision: 9, epoch }));
    let mut late = pin!(wait(&waits, Awaited::Revision { revision: 99, epoch }));
    let woken = std::sync::Arc::new(Woken(false.into()));
    let waker = Waker::from(std::sync::Arc::clone(&woken));
    assert!(nine.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(poll(late.as_mut()).is_none());
    waits.publish(5, 5, 3, true);
    assert!(!woken.0.load(std::sync::atomic::Ordering::SeqCst));
    waits.publish(9, 9, 3, true);
    assert!(woken.0.load(std::sync::atomic::Ordering::SeqCst));
    assert_eq!(poll(nine).unwrap().unwrap(), 9);
    waits.publish(9, 9, 4, true);
    let changed = poll(late).unwrap().unwrap_err();
    assert!(matches!(changed, WaitError::HistoryChanged { was: 3, now: 4 }), "{changed:?}");
}
