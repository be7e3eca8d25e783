//! A store that truly made more than a million revisions since it was read last.

use std::time::Duration;

use super::*;
use crate::mirror::machine::Known;

pub(super) const V3_6: ServerVersion = ServerVersion { major: 3, minor: 6, patch: 0 };

/// A machine that has loaded at revision 10 and watches; with the requests it waits for.
fn live() -> Chaos {
    live_with(Options::default(), V3_6)
}

pub(super) fn live_with(options: Options, version: ServerVersion) -> Chaos {
    let mut chaos = Chaos::with_lies(1, Random(1), 0);
    chaos.machine = Machine::new(
        options,
        chaos.ks.mirrored().clone(),
        vec!["a".to_owned()],
        0,
        1,
        chaos.sink.writer.core().report.read(),
    );
    tell(&mut chaos, Input::Start);
    tell(&mut chaos, Input::Connected(Ok(())));
    tell(&mut chaos, Input::Version(Ok(version)));
    assert!(answer_reads(&mut chaos, 10), "an empty page is the load");
    tell(&mut chaos, Input::WatchOpened(Ok(())));
    tell(&mut chaos, message(WatchResponse { created: true, ..WatchResponse::default() }));
    answer_reads(&mut chaos, 10);
    chaos
}

pub(super) fn at(revision: Revision) -> Header {
    Header { cluster_id: CLUSTER, revision, raft_term: 5, ..Header::default() }
}

fn message(response: WatchResponse) -> Input {
    Input::Message(Ok(Some(response)))
}

/// Hands in an input without any demand, and keeps the requests that it leads to.
pub(super) fn tell(chaos: &mut Chaos, input: Input) {
    chaos.handle(Demand::default(), input);
    while let Some(action) = chaos.machine.action() {
        match chaos.sink.execute(action) {
            Ok(answer) => {
                chaos.machine.known = chaos.sink.known();
                if let Some(input) = answer {
                    chaos.handle(Demand::default(), input);
                }
            }
            Err(action) => chaos.pending.push(action),
        }
    }
}

/// Answers all reads of the store, which is empty and at `revision`; false if there is none.
fn answer_reads(chaos: &mut Chaos, revision: Revision) -> bool {
    let mut read = false;
    for action in std::mem::take(&mut chaos.pending) {
        if let Action::Range(asked, _) = action {
            let page = RangePage { header: Some(at(revision)), ..RangePage::default() };
            tell(chaos, Input::Range(asked, Ok(page)));
            read = true;
        }
    }
    read
}

fn known(chaos: &Chaos) -> Known {
    chaos.sink.known()
}

#[test]
fn h76_an_honest_leap_is_followed_after_one_read() {
    let far: Revision = 5 << 20;
    let put = Event::Put(RawKeyValue {
        key: b"/k/a".into(),
        create_revision: far,
        mod_revision: far,
        version: 1,
        ..RawKeyValue::default()
    });
    let events =
        WatchResponse { header: Some(at(far)), events: vec![put], ..WatchResponse::default() };
    let progress =
        WatchResponse { header: Some(at(far)), watch_id: -1, ..WatchResponse::default() };
    for leap in [vec![progress.clone()], vec![events.clone()], vec![events, progress.clone()]] {
        let mut chaos = live();
        assert_eq!(known(&chaos).cursor, 10);
        for response in leap {
            tell(&mut chaos, message(response));
            chaos.now += Duration::from_millis(100);
            tell(&mut chaos, Input::Tick);
            assert_eq!(known(&chaos).cursor, 10, "nothing has shown that the store is there");
        }
        assert!(answer_reads(&mut chaos, far), "its revision is read at once");
        let asks = chaos.pending.iter().filter(|a| matches!(a, Action::RequestProgress)).count();
        assert_eq!(asks, 1, "{:?}", chaos.pending);
        tell(&mut chaos, message(progress.clone()));
        assert_eq!(known(&chaos).cursor, far);
        assert_eq!(chaos.machine.report.counters.failures, 0);
    }
}
