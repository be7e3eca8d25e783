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
    let revision =
        |revision| wait(&waits, Awaited::Revision { revision, epoch: Some(1), ticket: None });
    let (mut nine, mut seven) = (pin!(revision(9)), Box::pin(revision(7)));
    let (mut one, mut two) = (Box::pin(sync(&waits)), Box::pin(sync(&waits)));
    let mut changed = pin!(wait(&waits, Awaited::Change { after: 1 }));
    for wait in [nine.as_mut(), seven.as_mut(), one.as_mut(), two.as_mut(), changed.as_mut()] {
        assert!(poll(wait).is_none());
    }
    assert_eq!(waits.demand(), Demand { lowest: Some(7), sync: Some(2), ..Demand::default() });
    // Whoever gives up demands nothing.
    drop((seven, two));
    assert_eq!(waits.demand(), Demand { lowest: Some(9), sync: Some(1), ..Demand::default() });
    waits.publish(9, 9, 1, true);
    assert_eq!(waits.demand(), Demand { lowest: None, sync: Some(1), ..Demand::default() });
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
    let mut six =
        pin!(wait(&waits, Awaited::Revision { revision: 6, epoch: Some(1), ticket: None }));
    assert!(poll(six.as_mut()).is_none() && told());
    assert!(poll(six.as_mut()).is_none() && !told(), "polled again it is no new demand");
    let mut asking = pin!(sync(&waits));
    assert!(poll(asking.as_mut()).is_none() && told());
    // What the mirror cannot hasten is none of its business, nor is what is met.
    let mut changed = pin!(wait(&waits, Awaited::Change { after: 1 }));
    let mut met =
        pin!(wait(&waits, Awaited::Revision { revision: 5, epoch: Some(1), ticket: None }));
    assert!(poll(changed.as_mut()).is_none() && poll(met.as_mut()).is_some() && !told());
}

#[test]
fn t53_revisions_and_tickets_of_another_epoch_fail_and_other_waits_go_on() {
    let waits = loaded_at(5);
    let mut revision =
        pin!(wait(&waits, Awaited::Revision { revision: 9, epoch: Some(1), ticket: None }));
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
    let mut nine = pin!(wait(&waits, Awaited::Revision { revision: 9, epoch, ticket: None }));
    let mut late = pin!(wait(&waits, Awaited::Revision { revision: 99, epoch, ticket: None }));
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

/// The waker of a wait, and how often it was woken.
fn counted() -> (std::sync::Arc<Woken>, Waker) {
    let woken = std::sync::Arc::new(Woken(0.into()));
    (std::sync::Arc::clone(&woken), Waker::from(woken))
}

struct Woken(std::sync::atomic::AtomicUsize);

impl Woken {
    fn times(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl std::task::Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

const LIVE: Contact = Contact { live: true, suspected: false, seen: None };
const SUSPECTED: Contact = Contact { live: false, suspected: true, seen: None };

#[test]
fn h50_under_suspicion_no_revision_and_no_sync_is_met() {
    let waits = loaded_at(5);
    waits.contact(SUSPECTED);
    let plain =
        |revision| wait(&waits, Awaited::Revision { revision, epoch: Some(1), ticket: None });
    let (mut met, mut later, mut asked) = (pin!(plain(5)), pin!(plain(7)), pin!(sync(&waits)));
    let (woken, waker) = counted();
    for wait in [met.as_mut(), later.as_mut(), asked.as_mut()] {
        assert!(wait.poll(&mut Context::from_waker(&waker)).is_pending());
    }
    // What needs no history is met as ever.
    assert_eq!(poll(pin!(wait(&waits, Awaited::Loaded))).unwrap().unwrap(), 5);
    let mut changed = pin!(wait(&waits, Awaited::Change { after: 1 }));
    assert!(poll(changed.as_mut()).is_none());
    assert_eq!(waits.demand(), Demand { lowest: Some(7), sync: Some(1), clearing: true });
    waits.publish(7, 7, 1, true);
    waits.synced(1, 7);
    assert_eq!(poll(changed).unwrap().unwrap(), 7);
    // Neither progress nor another read can meet them, only the end of the suspicion.
    assert_eq!(
        (woken.times(), waits.demand()),
        (0, Demand { clearing: true, ..Demand::default() })
    );
    for wait in [met.as_mut(), later.as_mut(), asked.as_mut()] {
        assert!(poll(wait).is_none());
    }
    for wait in [met.as_mut(), later.as_mut(), asked.as_mut()] {
        assert!(wait.poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(waits.pending(), 3);
    waits.contact(LIVE);
    assert_eq!((woken.times(), waits.pending()), (3, 0));
    for wait in [met, later, asked] {
        assert_eq!(poll(wait).unwrap().unwrap(), 7);
    }
}

#[test]
fn h50_a_suspicion_ends_with_its_epoch_or_with_the_mirror() {
    for stops in [false, true] {
        let waits = loaded_at(5);
        waits.contact(SUSPECTED);
        let met = Awaited::Revision { revision: 5, epoch: Some(1), ticket: None };
        let (mut met, mut asked) = (pin!(wait(&waits, met)), pin!(sync(&waits)));
        assert!(poll(met.as_mut()).is_none() && poll(asked.as_mut()).is_none());
        if stops {
            waits.end(StopReason::Shutdown)
        } else {
            waits.publish(9, 9, 2, true)
        }
        for wait in [met, asked] {
            match poll(wait).unwrap().unwrap_err() {
                WaitError::Stopped(_) if stops => {}
                WaitError::HistoryChanged { was: 1, now: 2 } if !stops => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(waits.pending(), 0);
    }
}

/// Whether the mirror was notified of a demand since it was last asked.
fn demanded(waits: &Waits) -> bool {
    pin!(waits.demanded.notified()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// The ticket of a wait that begins now.
fn drawn(waits: &Waits, revision: Revision, term: u64) -> Option<u64> {
    match waits.reach(revision, term, Some(1)) {
        Awaited::Revision { ticket, .. } => ticket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn h51_a_term_is_checked_by_a_read_while_not_live() {
    let waits = loaded_at(5);
    for contact in [Contact::default(), SUSPECTED, Contact { live: true, ..SUSPECTED }] {
        waits.contact(contact);
        assert!(drawn(&waits, 5, 3).is_some() && drawn(&waits, 9, 3).is_some(), "{contact:?}");
        assert_eq!(drawn(&waits, 5, 0), None, "a plain revision");
    }
    waits.contact(LIVE);
    assert_eq!((drawn(&waits, 5, 3), drawn(&waits, 9, 3)), (None, None));
}

#[test]
fn h51_a_checked_wait_needs_its_ticket_and_its_revision_in_any_order() {
    let waits = loaded_at(5);
    let begin = |revision| wait(&waits, waits.reach(revision, 3, Some(1)));
    let (mut met, mut later) = (pin!(begin(5)), pin!(begin(7)));
    let (woken, waker) = counted();
    for wait in [met.as_mut(), later.as_mut()] {
        assert!(wait.poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(waits.demand(), Demand { lowest: None, sync: Some(2), ..Demand::default() });
    waits.contact(LIVE);
    waits.publish(6, 6, 1, true);
    assert_eq!(woken.times(), 0, "neither an event nor the end of a break is a read");
    waits.synced(1, 6);
    assert_eq!(poll(met).unwrap().unwrap(), 6);
    assert!(poll(later.as_mut()).is_none(), "its ticket is newer");
    // The ticket first: then it waits for its revision, which the mirror is asked for.
    assert!(demanded(&waits));
    waits.synced(2, 6);
    assert!(later.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(demanded(&waits), "another demand");
    assert_eq!(
        (waits.demand(), waits.pending()),
        (Demand { lowest: Some(7), sync: None, ..Demand::default() }, 1)
    );
    let before = woken.times();
    waits.publish(7, 7, 1, true);
    assert_eq!(woken.times(), before + 1);
    assert_eq!(poll(later).unwrap().unwrap(), 7);
    assert_eq!(waits.pending(), 0);
}

#[test]
fn h52_while_live_a_term_is_checked_only_if_it_contradicts() {
    let waits = loaded_at(10);
    waits.contact(Contact { seen: Some((10, 3)), ..LIVE });
    let looks = [(11, 2), (10, 2), (10, 4), (9, 4)];
    let fits = [(9, 2), (9, 3), (10, 3), (11, 3), (11, 4), (11, 0), (9, 0)];
    for (revision, term) in looks {
        assert!(drawn(&waits, revision, term).is_some(), "{revision} in term {term}");
    }
    for (revision, term) in fits {
        assert_eq!(drawn(&waits, revision, term), None, "{revision} in term {term}");
    }
    // A proxy makes up headers without a term.
    waits.contact(Contact { seen: Some((10, 0)), ..LIVE });
    for (revision, term) in looks.into_iter().chain(fits) {
        assert_eq!(drawn(&waits, revision, term), None, "{revision} in term {term}");
    }
}

#[test]
fn h51_a_dropped_wait_is_taken_out_wherever_it_is() {
    let waits = loaded_at(5);
    for covered in [false, true] {
        for suspected in [false, true] {
            let mut dropped = Box::pin(wait(&waits, waits.reach(9, 3, Some(1))));
            assert!(poll(dropped.as_mut()).is_none());
            if covered {
                waits.contact(Contact { suspected, ..Contact::default() });
                waits.synced(waits.demand().sync.unwrap(), 5);
            }
            assert_eq!(waits.pending(), usize::from(!covered || suspected));
            assert!(poll(dropped.as_mut()).is_none());
            assert_eq!(waits.pending(), 1);
            drop(dropped);
            assert_eq!((waits.pending(), waits.demand()), (0, Demand::default()));
            waits.contact(Contact::default());
        }
    }
}
