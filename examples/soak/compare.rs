//! The comparisons: mirrors with etcd and with one another, always at one pinned revision.
//!
//! Owns when is compared with what, and the evidence that is collected of a difference. Never
//! compares two moments: the mirror's snapshot names its `confirmed`, and etcd is read as of that
//! revision. Must not decide what a difference is: `judge.rs` does.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::Vacant;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{GetOptions, KeyValue, WatchOptions};
use etcd_keyspace::{Revision, Snapshot};

use crate::judge::{Difference, Record, differences, torn_groups, wrongly_rejected};
use crate::mirrors::{Look, Mirror, Taste, Value, status};
use crate::world::{Members, PREFIX, Random, Refusal, World};

/// The largest answer of etcd that is taken.
const ANSWER_MAX: usize = 512 << 20;
/// Differences shown of one comparison, with the history of their keys.
const SHOWN_MAX: usize = 4;
/// Events of a key that its history shows, before and after.
const HISTORY_MAX: usize = 12;

/// Everything that is mirrored, as of `revision`.
async fn store_at(members: &Members, revision: Revision) -> Result<Vec<KeyValue>, Refusal> {
    let read = members.ask(|client| async move {
        let options = GetOptions::new().with_prefix().with_revision(revision);
        client.kv_client().max_decoding_message_size(ANSWER_MAX).get(PREFIX, Some(options)).await
    });
    Ok(read.await?.take_kvs())
}

/// One key as of `revision`, zero for now.
async fn key_at(
    members: &Members,
    key: &[u8],
    revision: Revision,
) -> Result<Option<KeyValue>, Refusal> {
    let read = members.ask(|mut client| async move {
        client.get(key, Some(GetOptions::new().with_revision(revision))).await
    });
    Ok(read.await?.take_kvs().pop())
}

/// Lets each mirror come to `revision` or beyond and compares it with etcd as of where it stands.
/// Gives the number of comparisons.
pub(crate) async fn with_etcd(
    world: &Arc<World>,
    mirrors: &[Arc<Mirror>],
    revision: Revision,
) -> u64 {
    let mut looks = tokio::task::JoinSet::new();
    for mirror in mirrors {
        let (world, mirror) = (Arc::clone(world), Arc::clone(mirror));
        looks.spawn(async move {
            let limit = world.settings.recovery();
            let look = world.in_fair_time(mirror.linked, limit, mirror.look_at(revision)).await;
            (mirror, look)
        });
    }
    let mut stores: BTreeMap<Revision, Option<Vec<KeyValue>>> = BTreeMap::new();
    let mut compared = 0;
    while let Some(joined) = looks.join_next().await {
        let (mirror, look) = joined.expect("a look does not panic");
        let look = match look {
            Some(Ok(look)) => look,
            other => {
                let what = other.map(|look| look.map(|_| "a view"));
                let said = vec![format!("revision {revision}: {what:?}"), status(&mirror)];
                world.diverged("a wait did not end well", &mirror.name, said);
                continue;
            }
        };
        let confirmed = look.snapshot.confirmed();
        if let Vacant(place) = stores.entry(confirmed) {
            let store = match store_at(&world.members, confirmed).await {
                Ok(kvs) => Some(kvs),
                Err(Refusal::Compacted) => None,
                Err(refusal) => {
                    let said = vec![format!("reading at {confirmed}: {refusal}"), status(&mirror)];
                    world.diverged("no comparison", &mirror.name, said);
                    continue;
                }
            };
            place.insert(store);
        }
        let store = stores.get(&confirmed).and_then(Option::as_ref);
        compared += judge(world, &mirror, revision, &look, store.map(Vec::as_slice)).await;
    }
    compared
}

/// Judges one look, with what etcd has at its revision unless that was compacted.
async fn judge(
    world: &Arc<World>,
    mirror: &Arc<Mirror>,
    revision: Revision,
    look: &Look,
    store: Option<&[KeyValue]>,
) -> u64 {
    let view = &look.snapshot;
    let mut found = torn_groups(view);
    let newest = view.iter().map(|entry| entry.mod_revision()).max().unwrap_or(0);
    if view.confirmed() < revision || view.revision() > view.confirmed() || newest > view.revision()
    {
        let said = format!("waited for {revision}, newest {newest}, got {view:?}");
        found.push(Difference { key: Vec::new(), said });
    }
    let folded = look.fold.iter().cloned();
    found.extend(folded.map(|said| Difference { key: Vec::new(), said: format!("fold: {said}") }));
    world.ledger.count("compared: folds with their views", 1);
    match store {
        Some(kvs) => {
            found.extend(differences(view, mirror.taste, kvs.iter().map(Record::from)));
            found.extend(wrongly_rejected(look, mirror.taste, kvs));
            world.ledger.count("compared: mirrors with etcd", 1);
            world.ledger.count("compared: keys with etcd", u64::try_from(kvs.len()).unwrap_or(0));
        }
        None => world.ledger.count("not compared, as the revision was compacted", 1),
    }
    if !found.is_empty() {
        let evidence = evidence(world, mirror, view.confirmed(), &found).await;
        world.diverged("differs from etcd", &mirror.name, evidence);
    }
    u64::from(store.is_some())
}

/// Compares the newest pairs of snapshots with equal `confirmed`: each mirror with another that
/// takes all values.
async fn with_one_another(world: &Arc<World>, mirrors: &[Arc<Mirror>], random: &mut Random) {
    let shelves: Vec<_> = mirrors.iter().map(|mirror| mirror.shelf()).collect();
    for (index, mirror) in mirrors.iter().enumerate() {
        let other = (index + 1 + random.index(mirrors.len() - 1)) % mirrors.len();
        if mirrors[other].taste != Taste::All {
            continue;
        }
        let right: BTreeMap<Revision, &Snapshot<Value>> =
            shelves[other].iter().map(|snapshot| (snapshot.confirmed(), snapshot)).collect();
        let pair = shelves[index]
            .iter()
            .rev()
            .find_map(|judged| right.get(&judged.confirmed()).map(|right| (judged, *right)));
        let Some((judged, right)) = pair else { continue };
        world.ledger.count("compared: mirrors with one another", 1);
        let found = differences(judged, mirror.taste, right.iter().map(Record::from));
        if !found.is_empty() {
            let mut said = vec![format!("compared with {}", mirrors[other].name)];
            said.extend(evidence(world, mirror, judged.confirmed(), &found).await);
            world.diverged("two mirrors differ", &mirror.name, said);
        }
        tokio::task::yield_now().await;
    }
}

/// Compares all the time.
pub(crate) async fn run(world: Arc<World>, mirrors: Vec<Arc<Mirror>>, mut random: Random) {
    while world.rest(random.millis(200, 800)).await {
        with_one_another(&world, &mirrors, &mut random).await;
        // One that may be behind a fault is not waited for by the others.
        let chosen: Vec<_> = mirrors
            .iter()
            .filter(|mirror| world.sky.good_for(mirror.linked).is_some())
            .cloned()
            .collect();
        let revision = world.acknowledged();
        // Brought to its end also when the run ends: a difference may just be being looked into.
        with_etcd(&world, &chosen, revision).await;
    }
}

/// Asks mirrors to catch up with etcd: what was acknowledged before the call must be there.
pub(crate) async fn sync_often(world: Arc<World>, mirrors: Vec<Arc<Mirror>>, mut random: Random) {
    while world.rest(random.millis(50, 400)).await {
        let mirror = &mirrors[random.index(mirrors.len())];
        // The same question without a mirror, to tell a slow cluster from a slow mirror.
        let begun = Instant::now();
        if world.members.revision().await.is_ok() {
            let under_faults = "bare linearizable read, under faults";
            let name = calm(&world, begun, "bare linearizable read", under_faults);
            world.ledger.time(name, begun.elapsed());
        }
        let (floor, begun) = (world.acknowledged(), Instant::now());
        let limit = world.settings.recovery();
        let synced = tokio::select! {
            synced = world.in_fair_time(mirror.linked, limit, mirror.ks.sync()) => synced,
            () = world.stopping() => return,
        };
        let now = mirror.ks.snapshot().confirmed();
        let said = format!("floor {floor}, synced {synced:?}, then confirmed {now}");
        match synced {
            Some(Ok(revision)) if revision >= floor && now >= revision => {
                world.ledger.count("checked: sync", 1);
                let name = calm(&world, begun, "sync", "sync, under faults");
                world.ledger.time(name, begun.elapsed());
            }
            _ => world.diverged(
                "sync did not keep its word",
                &mirror.name,
                vec![said, status(mirror)],
            ),
        }
    }
}

/// The name of a time: the first if all has been calm since it began.
pub(crate) fn calm(
    world: &World,
    since: Instant,
    calm: &'static str,
    else_: &'static str,
) -> &'static str {
    if world.sky.calm_for().is_some_and(|time| time >= since.elapsed()) { calm } else { else_ }
}

/// Whether a view at or after the revision of a write shows it, or what came after it.
pub(crate) async fn own_write(
    world: &Arc<World>,
    mirror: &Arc<Mirror>,
    view: &Snapshot<Value>,
    (revision, key, value): (Revision, &[u8], Option<&[u8]>),
) {
    let shown = view.get(key).map(Record::from);
    let expected = match (shown, value) {
        (Some(shown), Some(value)) => shown.modified == revision && shown.value == value,
        (shown, value) => shown.is_none() && value.is_none(),
    };
    let fits = expected || {
        // Somebody wrote it later; etcd knows what the view must show.
        match key_at(&world.members, key, view.confirmed()).await {
            Ok(kv) => kv.as_ref().map(Record::from) == shown,
            Err(Refusal::Compacted) => {
                return world.ledger.count("read your writes: compacted meanwhile", 1);
            }
            Err(refusal) => {
                let said = vec![format!("reading at {}: {refusal}", view.confirmed())];
                return world.diverged("no comparison", &mirror.name, said);
            }
        }
    };
    world.ledger.count("checked: read your writes", 1);
    if !fits {
        let said = format!("written at {revision}, in a view of {}", view.confirmed());
        let found = vec![Difference { key: key.to_vec(), said }];
        world.ledger.count("lost: read your writes", 1);
        let evidence = evidence(world, mirror, view.confirmed(), &found).await;
        world.diverged("lost an own write", &mirror.name, evidence);
    }
}

/// All that may explain a difference while it can still be had.
async fn evidence(
    world: &Arc<World>,
    mirror: &Arc<Mirror>,
    confirmed: Revision,
    found: &[Difference],
) -> Vec<String> {
    // A compaction now would take the history away.
    world.freeze();
    let mut said = vec![format!("{} differences at revision {confirmed}", found.len())];
    for difference in found.iter().take(SHOWN_MAX) {
        said.push(format!("{}: {}", difference.key.escape_ascii(), difference.said));
    }
    for difference in found.iter().take(SHOWN_MAX).filter(|found| !found.key.is_empty()) {
        said.push(format!("history of {}:", difference.key.escape_ascii()));
        let read = history(&world.members, &difference.key, confirmed);
        let read = tokio::time::timeout(Duration::from_secs(20), read).await;
        said.extend(read.unwrap_or_else(|_| vec!["  no answer".to_owned()]));
        let shown = mirror.ks.snapshot();
        if let Ok(Some(entry)) = shown.try_get(&difference.key) {
            said.push(format!("  mirrored at {}: {}", shown.confirmed(), Record::from(entry)));
        }
    }
    said.push(status(mirror));
    said.push("last steps:".to_owned());
    said.extend(mirror.last_steps().into_iter().map(|step| format!("  {step}")));
    said
}

/// All that etcd still knows to have happened to a key, the last of it around `revision`.
async fn history(members: &Members, key: &[u8], revision: Revision) -> Vec<String> {
    let mut said = Vec::new();
    let mut start = 1;
    // The first attempt tells where history begins.
    for _ in 0..3 {
        let watch = members.ask(|client| async move {
            let options = WatchOptions::new().with_start_revision(start);
            let stream = client.watch_client().watch(key, Some(options)).await?;
            Ok((client, stream))
        });
        let Ok((_client, mut stream)) = watch.await else { break };
        // What has happened comes at once; then the watch is silent, or somebody writes on.
        while let Ok(Ok(Some(answer))) =
            tokio::time::timeout(Duration::from_secs(2), stream.message()).await
        {
            start = start.max(answer.compact_revision());
            if answer.canceled() {
                break;
            }
            for event in answer.events() {
                let Some(kv) = event.kv() else { continue };
                said.push((
                    kv.mod_revision(),
                    format!("{:?} {}", event.event_type(), Record::from(kv)),
                ));
            }
            if said.last().is_some_and(|(at, _)| *at > revision) {
                break;
            }
        }
        if !said.is_empty() {
            break;
        }
    }
    let before = said.iter().filter(|(at, _)| *at <= revision).count();
    let said = said.into_iter().skip(before.saturating_sub(HISTORY_MAX)).take(2 * HISTORY_MAX);
    let from = std::iter::once(format!("  (known from {start} on)"));
    from.chain(said.map(|(_, said)| format!("  {said}"))).collect()
}
