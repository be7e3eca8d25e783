//! Which raft terms of linearizable answers are evidence, by a machine that is driven by hand.

use std::time::Duration;

use super::leaps::{V3_6, at, live_with, tell};
use super::*;
use crate::mirror::machine::Asked;

const SECOND: Duration = Duration::from_secs(1);

/// A machine that watches, audits, and has read the term 5.
fn live() -> Chaos {
    let options = Options { audit_interval: Some(5 * SECOND), ..Options::default() };
    let mut chaos = live_with(options, V3_6);
    for asked in reads(&mut chaos, 1) {
        answer(&mut chaos, asked, 5);
    }
    assert_eq!(failures(&chaos), 0);
    chaos
}

/// Lets time pass until so many reads are pending, and takes them: in the order of their requests.
fn reads(chaos: &mut Chaos, count: usize) -> Vec<Asked> {
    let mut reads = Vec::new();
    for _ in 0..100 {
        for action in std::mem::take(&mut chaos.pending) {
            match action {
                Action::Range(asked, _) => reads.push(asked),
                Action::RequestProgress => {
                    let header = Some(at(10));
                    let progress =
                        WatchResponse { header, watch_id: -1, ..WatchResponse::default() };
                    tell(chaos, Input::Message(Ok(Some(progress))));
                }
                _ => {}
            }
        }
        if reads.len() >= count {
            return reads;
        }
        chaos.now += SECOND;
        tell(chaos, Input::Tick);
    }
    panic!("{} reads", reads.len());
}

/// The store is empty and at revision 10.
fn answer(chaos: &mut Chaos, asked: Asked, raft_term: u64) {
    let header = Some(Header { raft_term, ..at(10) });
    tell(chaos, Input::Range(asked, Ok(RangePage { header, ..RangePage::default() })));
}

fn failures(chaos: &Chaos) -> u64 {
    chaos.machine.report.counters.failures
}

/// Headers that a proxy makes up have the term zero, which is no term.
#[test]
fn h15_the_term_zero_is_no_evidence() {
    for (term, failed) in [(0, 0), (5, 0), (6, 0), (4, 1)] {
        let mut chaos = live();
        let asked = reads(&mut chaos, 1);
        answer(&mut chaos, asked[0], term);
        assert_eq!(failures(&chaos), failed, "term {term} after 5");
        assert!(!chaos.machine.contact().suspected, "a term is asked for twice");
    }
}

/// An answer is compared with what was known when it was asked for.
#[test]
fn h15_an_answer_that_is_overtaken_is_no_evidence() {
    for order in [[0, 1], [1, 0]] {
        let mut chaos = live();
        let asked = reads(&mut chaos, 2);
        answer(&mut chaos, asked[order[0]], 6);
        answer(&mut chaos, asked[order[1]], 5);
        assert_eq!(failures(&chaos), 0, "{order:?}: both were pending");
        let asked = reads(&mut chaos, 1);
        answer(&mut chaos, asked[0], 5);
        assert_eq!(failures(&chaos), 1, "{order:?}: asked for after the term 6 was known");
    }
}

/// A replaced store may answer a count before the end of the watch is seen.
#[test]
fn h17_a_count_under_a_higher_term_confirms_nothing() {
    for (term, confirmed) in [(0, 12), (5, 12), (6, 10)] {
        // Progress of this version is not trusted, so that keys are counted.
        let version = ServerVersion { major: 3, minor: 5, patch: 0 };
        let mut chaos = live_with(Options::default(), version);
        let ask = Demand { lowest: Some(12), ..Demand::default() };
        chaos.now += SECOND;
        chaos.handle(ask, Input::Tick);
        while let Some(action) = chaos.machine.action() {
            chaos.pending.push(action);
        }
        let header = Some(Header { raft_term: term, ..at(12) });
        for action in std::mem::take(&mut chaos.pending) {
            if let Action::Range(asked @ Asked { purpose: Purpose::CountBarrier { .. }, .. }, _) =
                action
            {
                tell(
                    &mut chaos,
                    Input::Range(asked, Ok(RangePage { header, ..RangePage::default() })),
                );
            }
        }
        assert_eq!(chaos.sink.known().cursor, confirmed, "term {term} after 5");
        assert_eq!(failures(&chaos), u64::from(term > 5));
    }
}
