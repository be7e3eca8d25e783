//! The live mirror under a server that says anything: no panic, no hang, nothing goes back.
//!
//! Owns the target `wire`: a fake etcd on a paused clock, whose messages are rewritten and joined by
//! made-up ones. As long as nothing was made up, the view is the truth. Must not reach around the
//! public surface and the test kit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_keyspace::testing::{Bug, FakeEtcd, Op};
use etcd_keyspace::{
    Delta, Event, Header, KeyRange, KeySpace, OnHistoryChange, RawKeyValue, Revision,
    ServerVersion, SourceErrorKind, StopReason, View, WaitError, WatchResponse,
};
use tokio::task::JoinSet;

use super::input::Input;

const PREFIX: &str = "/k/";
const ACTS: usize = 48;
/// An hour of the fake's own time: what takes longer hangs.
const HANG: Duration = Duration::from_secs(3600);
const VERSIONS: [&str; 6] = ["3.7.2", "3.6.15", "3.5.34", "3.5.1", "3.4.45", "3.4.23"];
const KINDS: [SourceErrorKind; 6] = [
    SourceErrorKind::Unavailable,
    SourceErrorKind::Timeout,
    SourceErrorKind::Compacted,
    SourceErrorKind::TooLarge,
    SourceErrorKind::Unauthenticated,
    SourceErrorKind::Malformed,
];

pub fn run(bytes: &[u8]) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let mut input = Input::new(bytes);
        let mut run = Run::start(&mut input);
        for _ in 0..ACTS {
            if input.is_empty() {
                break;
            }
            run.act(&mut input).await;
        }
        run.finish().await;
    });
}

type Shown = BTreeMap<Vec<u8>, (Vec<u8>, Revision, Revision, i64)>;

fn shown(view: &View<Vec<u8>>) -> Shown {
    let entries = view.iter().map(|entry| {
        let numbers = (entry.create_revision(), entry.mod_revision(), entry.version());
        (entry.key().to_vec(), (entry.value().clone(), numbers.0, numbers.1, numbers.2))
    });
    entries.collect()
}

fn truth(etcd: &FakeEtcd, revision: Revision) -> Shown {
    let kvs = etcd.range_at(&KeyRange::prefix(PREFIX), revision).into_iter();
    kvs.map(|kv| (kv.key, (kv.value, kv.create_revision, kv.mod_revision, kv.version))).collect()
}

/// What an observer puts together from what it is shown.
#[derive(Default)]
struct Folded {
    entries: Shown,
    at: (u64, Revision, Revision),
}

impl Folded {
    /// C4: the delta leads from the last view to this one. C1, C6: nothing goes back in an epoch.
    fn take(&mut self, delta: &Delta<Vec<u8>>, view: &View<Vec<u8>>) {
        for change in delta {
            let old = self.entries.remove(change.key());
            assert_eq!(old.map(|old| old.2), change.old().map(|old| old.mod_revision()));
            if let Some(new) = change.new() {
                let numbers = (new.create_revision(), new.mod_revision(), new.version());
                let state = (new.value().clone(), numbers.0, numbers.1, numbers.2);
                self.entries.insert(new.key().to_vec(), state);
            }
        }
        assert_eq!(self.entries, shown(view), "the delta is not what changed");
        self.go_on(view);
    }

    fn go_on(&mut self, view: &View<Vec<u8>>) {
        let now = (view.epoch(), view.revision(), view.confirmed());
        let same_epoch = now.0 == self.at.0;
        assert!(now.0 >= self.at.0 && now.1 <= now.2, "{:?} after {:?}", now, self.at);
        assert!(!same_epoch || (now.1 >= self.at.1 && now.2 >= self.at.2), "{now:?}");
        self.at = now;
    }
}

struct Run {
    etcd: FakeEtcd,
    ks: KeySpace<Vec<u8>>,
    mirror: tokio::task::JoinHandle<StopReason>,
    folded: Arc<Mutex<Folded>>,
    /// Whether anything was made up, so that the view may be wrong.
    lied: Arc<AtomicBool>,
    /// Completeness may be found by counting, to which a dead watch that owes a deletion looks like lost
    /// history; it is mended in the same way.
    counting: AtomicBool,
    waits: JoinSet<()>,
    /// The greatest revision waited for; after a restore the store may be below it.
    waited: Revision,
}

impl Run {
    fn start(input: &mut Input<'_>) -> Self {
        let etcd = FakeEtcd::with_seed(input.byte().into()).with_endpoints(1 + input.below(2));
        etcd.set_version(ServerVersion::parse(input.pick(&VERSIONS)).expect("a version"));
        etcd.set_progress_interval(input.chance(96).then_some(Duration::from_secs(3)));
        etcd.set_batch_revisions(1 + input.below(8));
        for n in 0..input.below(12) {
            etcd.put(format!("{PREFIX}{n}"), "first");
        }
        let after = input.pick(&[OnHistoryChange::Reload, OnHistoryChange::Stop]);
        let (ks, mirror) = KeySpace::builder(PREFIX)
            .expect("a clean path")
            .bytes()
            .seed(7)
            .apply_delay(Duration::from_millis(input.pick(&[0, 30, 200])))
            .backoff(Duration::from_millis(100), Duration::from_secs(2))
            .check_interval(Duration::from_secs(1))
            .queue_bounds(input.pick(&[50_000, 3]), 1 << 20)
            .on_other_cluster(after)
            .on_history_change(after)
            .build(etcd.clone());
        let folded = Arc::new(Mutex::new(Folded::default()));
        let folding = Arc::clone(&folded);
        ks.observe(move |delta, view, _| folding.lock().unwrap().take(delta, view));
        let mirror = tokio::spawn(mirror.run());
        let lied = Arc::new(AtomicBool::new(false));
        let counting = AtomicBool::new(false);
        Run { etcd, ks, mirror, folded, lied, counting, waits: JoinSet::new(), waited: 0 }
    }

    async fn act(&mut self, input: &mut Input<'_>) {
        let etcd = &self.etcd;
        match input.below(16) {
            0..=3 => drop(etcd.put(key(input), [input.byte()])),
            4 => drop(etcd.delete(key(input))),
            5 => drop(etcd.txn((0..3).map(|n| Op::put(format!("{PREFIX}{n}"), "txn")))),
            6 => {
                let cluster_id = self.ks.read().cluster_id().unwrap_or_default();
                let about = Header { cluster_id, revision: etcd.revision(), ..Header::default() };
                let made_up = any_response(input, about);
                self.lied.store(true, Ordering::Relaxed);
                etcd.faults().inject(&made_up);
            }
            7 => self.tamper(input),
            8 => self.fault(input),
            9 => self.disaster(input),
            10 => etcd.faults().heal(),
            11 => self.wait(input),
            _ => tokio::time::sleep(Duration::from_millis(4 * u64::from(input.byte()))).await,
        }
        tokio::task::yield_now().await;
        self.check();
    }

    fn check(&self) {
        let view = self.ks.read();
        let mut folded = self.folded.lock().unwrap();
        assert_eq!(folded.entries, shown(&view));
        folded.go_on(&view);
        if !self.lied.load(Ordering::Relaxed) {
            assert_eq!(folded.entries, truth(&self.etcd, view.confirmed()));
        }
    }

    /// Some of the next messages are swallowed or become others.
    fn tamper(&self, input: &mut Input<'_>) {
        let script: Vec<u8> = (0..1 + input.below(8)).map(|_| input.byte()).collect();
        let at = Mutex::new(script.into_iter());
        let lied = Arc::clone(&self.lied);
        self.etcd.faults().tamper(move |message| {
            let Some(what) = at.lock().unwrap().next() else { return Some(message) };
            lied.fetch_or(what >= 96, Ordering::Relaxed);
            match what {
                0..96 => Some(message),
                96..112 => None,
                _ => Some(spoil(message, what)),
            }
        });
    }

    fn fault(&self, input: &mut Input<'_>) {
        let faults = self.etcd.faults();
        let some = 1 + input.below(4);
        let kind = input.below(16);
        self.counting.fetch_or(matches!(kind, 6 | 9 | 10 | 14), Ordering::Relaxed);
        match kind {
            0 => faults.cut(),
            1 => faults.cut_after(some as u64),
            2 => faults.end_streams(),
            3 => faults.cancel(input.pick(&["", "permission denied", "etcdserver: no leader"])),
            4 => faults.duplicate(some),
            5 => faults.fragment(some),
            6 => faults.stall(),
            7 => faults.down(),
            8 => faults.lose_leader(),
            9 => faults.mute(),
            10 => faults.ignore_progress(),
            11 => faults.fail_streams(input.pick(&KINDS)),
            12 => faults.replay(1),
            13 => faults.truncate_range_streams(1),
            14 => faults.proxy(),
            _ => faults.expire_token(),
        }
    }

    /// What an honest server never does, or only a bad day brings.
    fn disaster(&self, input: &mut Input<'_>) {
        let etcd = &self.etcd;
        let back = etcd.revision() - input.below(6) as Revision;
        let revision = back.max(1);
        if input.chance(64) {
            etcd.compact(revision.max(etcd.compacted()));
            return;
        }
        self.lied.store(true, Ordering::Relaxed);
        match input.below(9) {
            0 => etcd.restore(revision),
            1 => etcd.restore_bumped(revision, 100),
            2 => etcd.change_cluster(),
            3 => etcd.faults().strip_headers(),
            4 => etcd.faults().lose_events(1),
            5 => etcd.faults().cancel_compacted(revision),
            6 => etcd.faults().scramble_pages(1),
            7 => etcd.faults().limit_message(200),
            _ => etcd.faults().bug(input.pick(&Bug::ALL), true),
        }
    }

    /// C8: a wait ends with what it waited for, or with a typed error.
    fn wait(&mut self, input: &mut Input<'_>) {
        let (ks, revision) = (self.ks.clone(), self.etcd.revision());
        let by_sync = input.chance(96);
        self.waited = self.waited.max(revision);
        self.waits.spawn(async move {
            let ended =
                if by_sync { ks.sync().await } else { ks.wait_for_revision(revision).await };
            match ended {
                Ok(confirmed) => assert!(by_sync || confirmed >= revision),
                Err(WaitError::Stopped(reason)) => assert!(!panicked(&reason), "{reason}"),
                Err(_) => {}
            }
        });
    }

    async fn finish(mut self) {
        self.etcd.faults().heal();
        for bug in Bug::ALL {
            self.etcd.faults().bug(bug, false);
        }
        let mut revision = self.etcd.put(format!("{PREFIX}last"), "x");
        while revision < self.waited {
            revision = self.etcd.put(format!("{PREFIX}last"), "x");
        }
        let ended = tokio::time::timeout(HANG, self.ks.wait_for_revision(revision)).await;
        let ended =
            ended.unwrap_or_else(|_| panic!("hangs before {revision}: {:?}", self.ks.status()));
        let all = tokio::time::timeout(HANG, std::mem::take(&mut self.waits).join_all()).await;
        all.unwrap_or_else(|_| panic!("a wait hangs: {:?}", self.ks.status()));
        self.check();
        let status = self.ks.status();
        assert!(status.poisoned_observers.is_empty(), "{:?}", status.poisoned_observers);
        if !self.lied.load(Ordering::Relaxed) {
            ended.expect("an honest store can be followed");
            assert_eq!(status.epoch, 1, "{status:?}");
            let breaks = status.counters.discontinuities;
            assert!(breaks == 0 || self.counting.load(Ordering::Relaxed), "{status:?}");
            assert_eq!(shown(&self.ks.read()), truth(&self.etcd, revision));
        }
        drop(self.ks);
        let reason = self.mirror.await.expect("the mirror panicked");
        assert!(!panicked(&reason), "{reason}");
    }
}

fn panicked(reason: &StopReason) -> bool {
    matches!(reason, StopReason::Panicked { .. })
}

fn key(input: &mut Input<'_>) -> String {
    format!("{PREFIX}{}", input.below(8))
}

/// A message as nobody would send it.
fn any_response(input: &mut Input<'_>, about: Header) -> WatchResponse {
    let revision = about.revision;
    let cluster_id = if input.chance(16) { 1 } else { about.cluster_id };
    let header = Header { cluster_id, revision: input.number(revision), ..about };
    WatchResponse {
        header: input.chance(224).then_some(header),
        watch_id: input.pick(&[0, -1, 1]),
        created: input.chance(24),
        canceled: input.chance(24),
        compact_revision: if input.chance(24) { input.number(revision) } else { 0 },
        cancel_reason: input.pick(&["", "permission denied", "etcdserver: no leader"]).to_owned(),
        fragment: input.chance(32),
        events: (0..input.below(4)).map(|_| any_event(input, revision)).collect(),
    }
}

fn any_event(input: &mut Input<'_>, revision: Revision) -> Event {
    let key = if input.chance(16) { "/outside".to_owned() } else { key(input) }.into_bytes();
    let mod_revision = input.number(revision);
    if input.chance(64) {
        return Event::Delete { key, mod_revision };
    }
    let create_revision = if input.chance(128) { mod_revision } else { input.number(revision) };
    let version = input.pick(&[1, 2, 0, -1, i64::MIN, i64::MAX]);
    let value = b"made up".to_vec();
    Event::Put(RawKeyValue { key, value, create_revision, mod_revision, version, lease: 0 })
}

/// A true message with one thing changed.
fn spoil(mut message: WatchResponse, how: u8) -> WatchResponse {
    let header = message.header.unwrap_or_default();
    let by = i64::from(how / 16) - 8;
    match how % 16 {
        0 => message.header = None,
        1 => {
            message.header =
                Some(Header { cluster_id: header.cluster_id.wrapping_add(1), ..header })
        }
        2 => {
            message.header = Some(Header { revision: header.revision.saturating_add(by), ..header })
        }
        3 => message.fragment = true,
        4 => message.canceled = true,
        5 => message.compact_revision = header.revision,
        6 => message.created ^= true,
        7 => message.events.reverse(),
        8 => drop(message.events.pop()),
        9 => message.events.extend(message.events.clone()),
        10 => message.watch_id ^= 1,
        11 => message.header = Some(Header { revision: Revision::MAX, ..header }),
        12 => message.events.clear(),
        _ => {
            for event in &mut message.events {
                match event {
                    Event::Put(kv) => kv.mod_revision = kv.mod_revision.saturating_add(by),
                    Event::Delete { mod_revision, .. } => {
                        *mod_revision = mod_revision.saturating_sub(by)
                    }
                }
            }
        }
    }
    message
}
