//! A proxy that gives each request to the next member, one of which still shows the term of before.

use std::collections::VecDeque;

use super::*;
use crate::mirror::Budget;

/// The member that shows the older term.
const BEHIND: usize = 1;

/// How often the mirror connects, and how many pages of everything it reads, in ten minutes.
fn follow(members: usize, budget: usize) -> (u32, u32) {
    let mut chaos = Chaos::with_lies(1, Random(1), 0);
    chaos.machine = Machine::new(
        Options { proof_budget: Budget { keys: budget, bytes: 1 << 20 }, ..Options::default() },
        chaos.ks.mirrored().clone(),
        vec!["proxy".to_owned()],
        0,
        1,
        chaos.sink.writer.core().report.read(),
    );
    let kv = RawKeyValue {
        key: b"/k/a".into(),
        create_revision: 9,
        mod_revision: 9,
        version: 1,
        ..RawKeyValue::default()
    };
    let (mut connects, mut pages, mut asked) = (0, 0, 0);
    let mut inputs = VecDeque::from([Input::Start]);
    let end = chaos.now + Duration::from_secs(600);
    while chaos.now < end {
        let Some(input) = inputs.pop_front() else {
            // Nothing is on its way: time passes until something is due.
            let due = chaos.machine.deadline().unwrap_or(end);
            chaos.now = due.max(chaos.now + Duration::from_millis(1));
            inputs.push_back(Input::Tick);
            continue;
        };
        chaos.handle(Demand::default(), input);
        while let Some(action) = chaos.machine.action() {
            let action = match chaos.sink.execute(action) {
                Ok(answer) => {
                    chaos.machine.known = chaos.sink.known();
                    if let Some(input) = answer {
                        chaos.handle(Demand::default(), input);
                    }
                    continue;
                }
                Err(action) => action,
            };
            match action {
                Action::Connect(_) => {
                    connects += 1;
                    inputs.clear();
                    inputs.push_back(Input::Connected(Ok(())));
                }
                Action::Disconnect => inputs.clear(),
                Action::AbandonLoad => chaos.sink.abandon(),
                Action::Version => inputs.push_back(Input::Version(Ok(ServerVersion {
                    major: 3,
                    minor: 6,
                    patch: 0,
                }))),
                Action::Range(question, request) => {
                    let member = asked % members;
                    asked += 1;
                    let raft_term = if member == BEHIND { 4 } else { 5 };
                    let header = Header {
                        cluster_id: CLUSTER,
                        revision: 9,
                        member_id: 10 + member as u64,
                        raft_term,
                    };
                    let all = request.limit != 1 && !request.count_only;
                    pages += u32::from(all);
                    let newer = request.min_mod_revision > 9;
                    let kvs = if request.count_only || newer { vec![] } else { vec![kv.clone()] };
                    let page = RangePage { header: Some(header), kvs, count: 1, more: false };
                    inputs.push_back(Input::Range(question, Ok(page)));
                }
                Action::Watch(_) => {
                    inputs.push_back(Input::WatchOpened(Ok(())));
                    let created = WatchResponse { created: true, ..WatchResponse::default() };
                    inputs.push_back(Input::Message(Ok(Some(created))));
                }
                Action::RequestProgress => {
                    let header = Header { cluster_id: CLUSTER, revision: 9, ..Header::default() };
                    let progress = WatchResponse {
                        header: Some(header),
                        watch_id: -1,
                        ..WatchResponse::default()
                    };
                    inputs.push_back(Input::Message(Ok(Some(progress))));
                }
                _ => {}
            }
        }
    }
    (connects, pages)
}

/// A quiet cluster: one member got a snapshot across an election, and shows the old term until the next write.
#[test]
fn h15_a_member_that_keeps_its_older_term_behind_a_proxy_is_doubted_once() {
    for budget in [0, 4096] {
        for members in 1..=7 {
            let (connects, pages) = follow(members, budget);
            assert!(connects <= 4, "{connects} connections with {members} members");
            assert!(pages <= 4, "everything was read {pages} times with {members} members");
        }
    }
}
