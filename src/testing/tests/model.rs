//! What every etcd without bugs promises its watchers, held against a plain client under any mixture
//! of writes, compactions and honest faults: ordered, complete, whole revisions, true progress.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::timeout;

use super::super::{Bug, FakeEtcd, Op};
use super::*;
use crate::model::RawKeyValue;

const PATIENCE: Duration = Duration::from_millis(500);

/// A client that follows a range by the book, and panics when what it is told is not true.
struct Client {
    etcd: FakeEtcd,
    range: KeyRange,
    connection: Box<dyn Connection>,
    stream: Option<Box<dyn WatchStream>>,
    state: Option<BTreeMap<Vec<u8>, RawKeyValue>>,
    cursor: Revision,
    fragments: Vec<Event>,
}

impl Client {
    async fn new(etcd: &FakeEtcd, range: KeyRange) -> Self {
        Client {
            etcd: etcd.clone(),
            range,
            connection: connect(etcd).await,
            stream: None,
            state: None,
            cursor: 0,
            fragments: Vec::new(),
        }
    }

    /// Takes one step: loads, opens the watch, or reads one message. Returns whether it got on.
    async fn step(&mut self) -> bool {
        if self.state.is_none() {
            let request = RangeRequest::new(self.range.clone());
            let Ok(Ok(page)) = timeout(PATIENCE, self.connection.range(request)).await else {
                return false;
            };
            self.cursor = page.header.unwrap().revision;
            self.state = Some(page.kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect());
            self.check();
            return true;
        }
        let Some(stream) = &mut self.stream else {
            self.fragments.clear();
            let watch = self.connection.watch(&self.range, self.cursor);
            let Ok(Ok(stream)) = timeout(PATIENCE, watch).await else { return false };
            self.stream = Some(stream);
            return true;
        };
        match timeout(PATIENCE, try_next(stream)).await {
            Err(_) => return false,
            Ok(Some(Ok(response))) => self.take(response),
            Ok(Some(Err(_)) | None) => self.stream = None,
        }
        true
    }

    fn take(&mut self, response: WatchResponse) {
        if response.canceled {
            assert!(response.compact_revision > 0);
            self.stream = None;
            self.state = None;
        } else if response.is_progress() {
            assert!(self.fragments.is_empty());
            self.cursor = self.cursor.max(header(&response));
            self.check();
        } else if !response.created {
            assert!(!response.events.is_empty());
            self.fragments.extend(response.events);
            if !response.fragment {
                self.apply();
            }
        }
    }

    fn apply(&mut self) {
        let events = std::mem::take(&mut self.fragments);
        assert!(events.is_sorted_by_key(Event::mod_revision));
        let last = events.last().unwrap().mod_revision();
        let state = self.state.as_mut().unwrap();
        for event in events.into_iter().filter(|event| event.mod_revision() > self.cursor) {
            match event {
                Event::Put(kv) => drop(state.insert(kv.key.clone(), kv)),
                Event::Delete { key, mod_revision } => {
                    // Of a put and a delete at a compaction's revision only the delete is left.
                    let history = self.etcd.history(&KeyRange::key(key.clone()), mod_revision);
                    assert!(state.remove(&key).is_some() || matches!(history[0], Event::Put(_)));
                }
            }
        }
        self.cursor = self.cursor.max(last);
        self.check();
    }

    fn check(&self) {
        let truth = self.etcd.range_at(&self.range, self.cursor);
        let state = self.state.as_ref().unwrap();
        assert!(state.values().eq(&truth), "at {}: {state:?}, not {truth:?}", self.cursor);
    }
}

#[derive(Debug, Clone)]
enum Act {
    Write(Vec<(u8, bool)>),
    DeleteAll,
    Compact(u8),
    Client(u8),
    Progress,
    Cut,
    CutAfter(u8),
    EndStreams,
    HoldBack,
    CatchUp,
    Stall,
    Release,
    Duplicate(u8),
    Replay(u8),
    Delay(u8, u8),
    Fragment(u8),
    Sleep(u16),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        20 => vec((0..6_u8, any::<bool>()), 1..4).prop_map(Act::Write),
        1 => Just(Act::DeleteAll),
        2 => (0..4_u8).prop_map(Act::Compact),
        12 => (1..6_u8).prop_map(Act::Client),
        4 => Just(Act::Progress),
        1 => Just(Act::Cut),
        1 => (1..5_u8).prop_map(Act::CutAfter),
        1 => Just(Act::EndStreams),
        2 => Just(Act::HoldBack),
        2 => Just(Act::CatchUp),
        1 => Just(Act::Stall),
        2 => Just(Act::Release),
        1 => (1..4_u8).prop_map(Act::Duplicate),
        1 => (1..9_u8).prop_map(Act::Replay),
        1 => (0..90_u8, 0..90_u8).prop_map(|(delay, jitter)| Act::Delay(delay, jitter)),
        1 => (1..5_u8).prop_map(Act::Fragment),
        2 => (1..2000_u16).prop_map(Act::Sleep),
    ]
}

async fn perform(etcd: &FakeEtcd, client: &mut Client, act: Act) {
    let faults = etcd.faults();
    match act {
        Act::Write(changes) => {
            let op = |(key, put)| if put { Op::put([key], "v") } else { Op::delete([key]) };
            etcd.txn(changes.into_iter().map(op));
        }
        Act::DeleteAll => drop(etcd.delete_range(KeyRange::all())),
        Act::Compact(back) => etcd.compact((etcd.revision() - i64::from(back)).max(1)),
        Act::Client(steps) => {
            for _ in 0..steps {
                client.step().await;
            }
        }
        Act::Progress => drop(client.stream.as_mut().map(|stream| stream.request_progress())),
        Act::Cut => faults.cut(),
        Act::CutAfter(messages) => faults.cut_after(messages.into()),
        Act::EndStreams => faults.end_streams(),
        Act::HoldBack => faults.hold_back(),
        Act::CatchUp => faults.catch_up(),
        Act::Stall => faults.stall(),
        Act::Release => faults.release(),
        Act::Duplicate(responses) => faults.duplicate(responses.into()),
        Act::Replay(back) => faults.replay(etcd.revision() - i64::from(back)),
        Act::Delay(delay, jitter) => {
            faults.delay(Duration::from_millis(delay.into()));
            faults.jitter(Duration::from_millis(jitter.into()));
        }
        Act::Fragment(events) => faults.fragment(events.into()),
        Act::Sleep(millis) => tokio::time::sleep(Duration::from_millis(millis.into())).await,
    }
}

/// Lets the client follow to the end and returns how far it knows to be complete.
async fn settle(etcd: &FakeEtcd, client: &mut Client) -> Revision {
    etcd.faults().heal();
    for _ in 0..3 {
        while client.step().await {}
        client.stream.as_mut().expect("the watch opens").request_progress();
    }
    client.check();
    client.cursor
}

fn run(
    seed: u64,
    queue: usize,
    batch: usize,
    bugs: &[Bug],
    acts: Vec<Act>,
) -> (Revision, Revision) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let etcd = FakeEtcd::with_seed(seed);
        etcd.set_queue_responses(queue);
        etcd.set_batch_revisions(batch);
        etcd.set_sync_delay(Duration::from_millis(seed % 100));
        etcd.set_progress_interval(Some(Duration::from_secs(1 + seed % 5)));
        bugs.iter().for_each(|bug| etcd.faults().bug(*bug, true));
        let mut client = Client::new(&etcd, KeyRange::bytes([1], [5])).await;
        for act in acts {
            perform(&etcd, &mut client, act).await;
        }
        (settle(&etcd, &mut client).await, etcd.revision())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_client_by_the_book_is_always_right(
        seed in any::<u64>(),
        queue in 1..5_usize,
        batch in 1..4_usize,
        acts in vec(act(), 0..80),
    ) {
        let (cursor, revision) = run(seed, queue, batch, &[], acts);
        prop_assert_eq!(cursor, revision);
    }
}

/// The client above does see what is wrong, so its silence means something.
#[test]
#[should_panic(expected = "at 5")]
fn a_silent_gap_misleads_the_client() {
    let write = |key| Act::Write(vec![(key, true)]);
    let behind = vec![Act::Client(4), write(1), write(2), write(3), write(4), Act::Compact(0)];
    run(1, 1, 1, &[Bug::SilentGap], [behind, vec![Act::Client(9), write(1)]].concat());
}
