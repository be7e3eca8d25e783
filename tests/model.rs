//! Any history in any batching gives the model's state; batching does not matter.

mod common;

use std::ops::Range;

use common::{History, Model, Op, texts};
use etcd_keyspace::{KeySpace, Snapshot, WatchResponse, Writer};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// One transaction; keys are few, so that they meet often and are deleted and created again.
fn txn() -> impl Strategy<Value = Vec<Op>> {
    let key =
        (0..7u8).prop_map(|n| format!("/{}", ["a", "a/b", "b", "c", "cc", "d", "\0"][n as usize]));
    let put = (key.clone(), 0..100u8).prop_map(|(key, n)| Op::Put(key, n.to_string()));
    let delete = key.clone().prop_map(Op::Delete);
    let recreate =
        (key, 0..100u8).prop_map(|(key, n)| (Op::Delete(key.clone()), Op::Put(key, n.to_string())));
    prop_oneof![
        4 => put.clone().prop_map(|op| vec![op]),
        3 => delete.clone().prop_map(|op| vec![op]),
        2 => recreate.prop_map(|(delete, put)| vec![delete, put]),
        3 => vec(prop_oneof![put, delete], 1..6),
    ]
}

/// How a stream delivers a history: how revisions are cut into responses, responses into fragments
/// and batches, and how far a reconnect goes back.
#[derive(Debug, Clone)]
struct Delivery {
    /// Revisions per response.
    responses: Vec<usize>,
    /// Responses per batch; one revision may come in several messages.
    batches: Vec<usize>,
    fragments: Vec<Index>,
    /// After these batches the last revisions come once more, this many.
    overlaps: Vec<usize>,
}

fn delivery() -> impl Strategy<Value = Delivery> {
    (vec(1..5usize, 1..8), vec(1..5usize, 1..8), vec(any::<Index>(), 0..6), vec(0..6usize, 1..8))
        .prop_map(|(responses, batches, fragments, overlaps)| Delivery {
            responses,
            batches,
            fragments,
            overlaps,
        })
}

/// Cuts `0..total` into pieces of the given sizes, over and over.
fn pieces(total: usize, sizes: &[usize]) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut sizes = sizes.iter().cycle();
    let mut start = 0;
    while let (true, Some(size)) = (start < total, sizes.next()) {
        let end = total.min(start + size);
        pieces.push(start..end);
        start = end;
    }
    pieces
}

impl Delivery {
    /// The batches in which the revisions of `history` arrive.
    fn batches(&self, history: &History) -> Vec<Vec<WatchResponse>> {
        let revisions = history.after(1);
        let mut responses = Vec::new();
        for piece in pieces(revisions.len(), &self.responses) {
            responses.push(self.joined(&revisions[piece], responses.len()));
        }
        let mut batches = Vec::new();
        for (n, piece) in pieces(responses.len(), &self.batches).into_iter().enumerate() {
            let back = self.overlaps[n % self.overlaps.len()].min(piece.start);
            let again = piece.start - back..piece.end;
            let mut batch: Vec<_> = responses[again.clone()].iter().flatten().cloned().collect();
            if back % 2 == 1 {
                // The reconnect comes in the middle of the batch.
                batch.extend(responses[again].iter().flatten().cloned());
            }
            batches.push(batch);
        }
        batches
    }

    /// One response with all the events, as one message or several fragments.
    fn joined(&self, revisions: &[WatchResponse], n: usize) -> Vec<WatchResponse> {
        let events: Vec<_> = revisions.iter().flat_map(|one| one.events.clone()).collect();
        let whole = common::response(events);
        let Some(index) = self.fragments.get(n) else { return vec![whole] };
        let mut cuts = [index.index(whole.events.len() + 1), index.index(whole.events.len())];
        cuts.sort_unstable();
        let bounds = [0, cuts[0], cuts[1], whole.events.len()];
        let part = |n: usize| WatchResponse {
            events: whole.events[bounds[n]..bounds[n + 1]].to_vec(),
            fragment: n < 2,
            ..whole.clone()
        };
        vec![part(0), part(1), part(2)]
    }
}

fn history(txns: &[Vec<Op>]) -> History {
    let mut history = History::new();
    for txn in txns {
        history.txn(txn.iter().cloned());
    }
    history
}

fn fresh_load(history: &History) -> Snapshot<String> {
    let (ks, mut writer) = texts().writer();
    writer.load(history.header(), history.kvs()).unwrap();
    ks.snapshot()
}

/// A key space with everything that watches it: a folded model, a count, and all its snapshots.
struct Watched {
    ks: KeySpace<String>,
    writer: Writer<String>,
    folded: etcd_keyspace::Derived<Model>,
    count: etcd_keyspace::Derived<i64>,
    /// Each with the model it had when it was taken.
    snapshots: Vec<(Snapshot<String>, Model)>,
}

impl Watched {
    fn new() -> Self {
        let (ks, mut writer) = texts().writer();
        writer.load(common::header(1), vec![]).unwrap();
        let folded = ks.derive(Model::default(), |model, delta, _, _| model.fold(delta));
        let count = ks.derive(0, |count, delta, _, _| {
            for change in delta {
                *count += i64::from(change.new().is_some()) - i64::from(change.old().is_some());
            }
        });
        Watched { ks, writer, folded, count, snapshots: Vec::new() }
    }

    /// Everything agrees with `model`, now; and what was seen before is unchanged.
    fn check(&mut self, model: &Model) {
        let view = self.ks.read();
        assert_eq!(&Model::shown(&view), model);
        assert_eq!(view.derived(&self.folded), model);
        assert_eq!(usize::try_from(*view.derived(&self.count)), Ok(view.len()));
        for (rank, key) in model.keys.keys().enumerate() {
            assert_eq!(view.search(key), Ok(rank));
            assert_eq!(view.get(key).unwrap().key(), key);
        }
        drop(view);
        assert!(self.ks.status().poisoned_observers.is_empty(), "{:?}", self.ks.status());
        self.snapshots.push((self.ks.snapshot(), model.clone()));
        for (snapshot, then) in &self.snapshots {
            assert_eq!(&Model::shown(snapshot), then);
        }
    }

    /// The difference of any two snapshots leads from one to the other.
    fn check_diffs(&self) {
        for (newer, after) in &self.snapshots {
            for (older, before) in &self.snapshots {
                let mut keys = before.keys.clone();
                for change in newer.diff(older) {
                    match change.new() {
                        Some(_) => {
                            keys.insert(change.key().to_vec(), after.keys[change.key()].clone())
                        }
                        None => keys.remove(change.key()),
                    };
                }
                assert_eq!(&keys, &after.keys);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn t37_any_delivery_of_a_history_gives_the_models_state(
        txns in vec(txn(), 1..40),
        delivery in delivery(),
    ) {
        let history = history(&txns);
        let mut watched = Watched::new();
        let mut applied = 1;
        for batch in delivery.batches(&history) {
            let last = batch.iter().flat_map(|one| &one.events).map(|event| event.mod_revision());
            let last = last.max().unwrap_or(applied);
            let result = watched.writer.apply(batch).unwrap();
            // C1: the revision is that of the last event, with or without a net change.
            assert_eq!((result.revision, result.confirmed), (last, last));
            applied = last;
            let mut model = Model::default();
            let until: Vec<_> = history
                .after(1)
                .into_iter()
                .filter(|one| one.header.is_some_and(|header| header.revision <= last))
                .collect();
            model.apply(&until);
            watched.check(&model);
        }
        assert_eq!(applied, history.revision());
        assert_eq!(Model::shown(&watched.ks.read()), Model::of(&history.kvs()));
        let loaded = fresh_load(&history);
        assert_eq!(Model::shown(&watched.ks.read()), Model::shown(&loaded));
        assert!(watched.ks.read().all().equal_key_revisions(&loaded.all()));
        watched.check_diffs();
    }

    /// C6: wherever a reload comes in between, its delta is the exact difference, and what it did
    /// not touch stays the same allocation.
    #[test]
    fn c6_reloads_anywhere_in_a_history_change_nothing_but_the_difference(
        txns in vec(txn(), 1..30),
        reload_at in vec(any::<bool>(), 30),
    ) {
        let mut history = History::new();
        let mut watched = Watched::new();
        for (txn, reload) in txns.into_iter().zip(reload_at) {
            let from = watched.ks.read().confirmed();
            history.txn(txn);
            let before = watched.ks.snapshot();
            if reload {
                watched.writer.load(history.header(), history.kvs()).unwrap();
            } else if from < history.revision() && history.after(from).len() == 1 {
                watched.writer.apply(history.after(from)).unwrap();
            }
            let model = Model::of(&history.kvs());
            watched.check(&model);
            for entry in &*watched.ks.snapshot() {
                let same = before.get(entry.key()).filter(|old| old.mod_revision() == entry.mod_revision());
                assert!(same.is_none_or(|old| std::sync::Arc::ptr_eq(old, entry)));
            }
        }
        watched.check_diffs();
    }

    /// A history with any one event left out is refused, or ends in the same state: no loss goes
    /// unnoticed that could be noticed. And what is refused leaves the last state.
    #[test]
    fn c3_a_lost_event_is_never_shown_as_a_state_that_was_not(
        txns in vec(txn(), 2..30),
        lost in any::<Index>(),
    ) {
        let history = history(&txns);
        let mut responses = history.after(1);
        prop_assume!(!responses.is_empty());
        let mut events: Vec<(usize, usize)> = Vec::new();
        for (n, response) in responses.iter().enumerate() {
            events.extend((0..response.events.len()).map(|e| (n, e)));
        }
        let (response, event) = events[lost.index(events.len())];
        let gone = responses[response].events.remove(event);
        let mut watched = Watched::new();
        let mut model = Model::default();
        for (whole, given) in history.after(1).into_iter().zip(responses) {
            match watched.writer.apply(vec![given]) {
                Ok(_) => model.apply(&[whole]),
                Err(error) => {
                    // Refused: everything as before, and the key of the lost event is named.
                    let etcd_keyspace::ApplyError::Discontinuity { key, .. } = error else {
                        panic!("{error}")
                    };
                    assert_eq!(key, gone.key());
                    break;
                }
            }
            let mut shown = Model::shown(&watched.ks.read());
            // Only the lost event's own key may differ until it is touched again.
            shown.keys.remove(gone.key());
            let mut expected = model.clone();
            expected.keys.remove(gone.key());
            assert_eq!(shown, expected);
        }
    }
}
