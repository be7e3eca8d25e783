//! A key space that is driven by hand: its state, its age, its tokens, and a load without a revision.

use super::*;
use crate::publish::status::State;
use crate::publish::wait::Contact;

#[test]
fn h56_a_first_load_without_a_revision_changes_nothing() {
    let (ks, mut writer) = KeySpace::<Vec<u8>>::builder("/").unwrap().bytes().writer();
    for got in [0, -1] {
        let refused = writer.load(Header { revision: got, ..header(1) }, vec![]).unwrap_err();
        assert_eq!(refused, LoadError::NoRevision { got });
    }
    writer.confirm(0);
    assert!(poll(pin!(ks.loaded())).is_pending());
    let status = ks.status();
    assert_eq!((status.state, status.current_as_of), (State::Loading, None));
    let mut changes = ks.changes(..);
    assert!(poll(pin!(changes.next())).is_pending());
    writer.load(header(1), vec![]).unwrap();
    assert!(poll(pin!(ks.loaded())).is_ready() && poll(pin!(changes.next())).is_ready());
}

/// Readiness checks can be tested without any etcd.
#[tokio::test(start_paused = true)]
async fn h57_without_a_mirror_a_load_makes_it_live_and_its_age_grows() {
    let second = std::time::Duration::from_secs(1);
    let (ks, mut writer) = KeySpace::<Vec<u8>>::builder("/").unwrap().bytes().writer();
    assert!(!ks.status().is_fresh(second * 15));
    writer.load(header(9), vec![]).unwrap();
    assert_eq!((ks.status().state, ks.status().is_fresh(second * 15)), (State::Live, true));
    tokio::time::advance(second * 16).await;
    assert_eq!((ks.status().state, ks.status().is_fresh(second * 15)), (State::Live, false));
    writer.confirm(8);
    assert!(!ks.status().is_fresh(second * 15), "an older revision proves nothing");
    writer.confirm(9);
    assert!(ks.status().is_fresh(second * 15));
    assert_eq!(ks.status().state_age, second * 16);
    drop(writer);
    assert_eq!((ks.status().state, ks.status().is_fresh(second * 15)), (State::Stopped, false));
}

#[test]
fn h58_a_read_under_suspicion_believes_no_age() {
    let (ks, mut writer) = space();
    let hour = std::time::Duration::from_secs(3600);
    assert!(poll(pin!(ks.read_fresh(hour))).is_ready());
    let suspected = Contact { suspected: true, ..Contact::default() };
    ks.core().waits.contact(suspected);
    let mut reading = pin!(ks.read_fresh(hour));
    assert!(poll(reading.as_mut()).is_pending());
    ks.core().waits.synced(1, 12);
    assert!(poll(reading.as_mut()).is_pending(), "the read itself may be the evidence");
    ks.core().waits.contact(Contact::default());
    assert!(matches!(poll(reading), Poll::Ready(Ok(view)) if view.confirmed() == 12));
    // Nor does a key space that reads everything again.
    let mut report = ks.core().report.read();
    report.state = State::Reconnecting;
    ks.core().report.write(&report);
    assert!(poll(pin!(ks.read_fresh(hour))).is_ready(), "a break refutes nothing");
    report.state = State::Reloading;
    ks.core().report.write(&report);
    assert!(poll(pin!(ks.read_fresh(hour))).is_pending());
    writer.confirm(13);
}

/// The stored state of a former mirror may have any epoch.
#[test]
fn h54_a_token_from_before_the_load_is_met_in_whatever_epoch_comes() {
    let (ks, mut writer) = KeySpace::<Vec<u8>>::builder("/").unwrap().bytes().writer();
    let token = ks.token();
    let mut waiting = pin!(ks.read_at(token));
    assert!(poll(waiting.as_mut()).is_pending());
    let through = Through { cluster_id: 1, epoch: 3, revision: 9 };
    let loading = writer.begin_load(false, false);
    writer.restore(loading, through).unwrap();
    assert!(matches!(poll(waiting), Poll::Ready(Ok(view)) if view.epoch() == 3));
    assert_eq!(poll(pin!(ks.wait_for_revision(token))).map(Result::unwrap), Poll::Ready(9));
}
