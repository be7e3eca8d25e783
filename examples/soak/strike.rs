//! How things are broken, and how that is undone.
//!
//! Owns the acts. Must not choose them or wait for the mirrors: that is the business of `faults.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::CompactionOptions;

use crate::faults::Fault;
use crate::proxy::{Direction, Mode};
use crate::world::{Random, Refusal, World};

/// How long one member may take to do what it is told.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// How a fault is undone.
pub(crate) enum Cure {
    Nothing,
    Restart(Vec<usize>),
    Resume(Vec<usize>),
    Pass,
    CompactAndPass,
}

/// Lets a fault begin.
pub(crate) async fn strike(
    world: &Arc<World>,
    fault: Fault,
    leader: Option<usize>,
    random: &mut Random,
) -> Result<Cure, Refusal> {
    let members = world.cluster.members();
    let one = random.index(members.len());
    let size = random.below(1 << 16);
    let some = random.percent(50);
    let others = |kept| (0..members.len()).filter(|member| *member != kept).collect::<Vec<_>>();
    match fault {
        Fault::KillMember | Fault::KillLeader => {
            let member = leader.unwrap_or(one);
            members[member].kill();
            return Ok(Cure::Restart(vec![member]));
        }
        Fault::PauseAndCompact => {
            // Who follows this member does not know yet, and what it misses is compacted.
            members[one].pause();
            world.rest(Duration::from_millis(800)).await;
            try_to_compact(world, some).await;
            return Ok(Cure::Resume(vec![one]));
        }
        Fault::TerminateMember => {
            members[one].terminate().await;
            return Ok(Cure::Restart(vec![one]));
        }
        Fault::PauseMember | Fault::PauseLeader => {
            let member = leader.unwrap_or(one);
            members[member].pause();
            return Ok(Cure::Resume(vec![member]));
        }
        Fault::KillMajority => {
            let lost = others(one);
            lost.iter().for_each(|member| members[*member].kill());
            return Ok(Cure::Restart(lost));
        }
        Fault::PauseMajority => {
            let lost = others(one);
            lost.iter().for_each(|member| members[*member].pause());
            return Ok(Cure::Resume(lost));
        }
        Fault::MoveLeader => move_leader(world, leader, one).await?,
        Fault::CompactAll => compact(world, 0, some).await?,
        Fault::CompactMost => compact(world, 2_000, some).await?,
        Fault::Defragment => {
            bounded(world.members.client(one).defragment()).await?;
        }
        link => {
            strike_link(world, link, size).await;
            return Ok(if link == Fault::CutAndCompact {
                Cure::CompactAndPass
            } else {
                Cure::Pass
            });
        }
    }
    Ok(Cure::Nothing)
}

/// Breaks the proxies' connections in one of many ways.
async fn strike_link(world: &World, fault: Fault, size: u64) {
    for link in &world.links {
        match fault {
            Fault::ResetLink => link.reset().await,
            Fault::StallLink => link.stall().await,
            Fault::SwallowAnswers => link.blackhole(Direction::Down).await,
            Fault::CutMidAnswer => link.cut_after(size).await,
            Fault::SlowLink => link.delay(Duration::from_millis(20 + size % 300)).await,
            _ => link.cut().await,
        }
    }
}

/// Compacts up to now, or up to some revisions before.
async fn compact(world: &World, before: i64, physical: bool) -> Result<(), Refusal> {
    if world.is_frozen() {
        return Ok(());
    }
    let revision = (world.members.revision().await? - before).max(1);
    let options = CompactionOptions::new();
    let options = if physical { options.with_physical() } else { options };
    let compacted = world.members.ask(|mut client| {
        let options = options.clone();
        async move { client.compact(revision, Some(options)).await }
    });
    match compacted.await {
        // By an earlier try whose answer was lost.
        Ok(_) | Err(Refusal::Compacted) => Ok(()),
        Err(refusal) => Err(refusal),
    }
}

/// Compacts up to now where a failure must not keep what else is to be undone.
async fn try_to_compact(world: &World, physical: bool) {
    if let Err(refusal) = compact(world, 0, physical).await {
        world.ledger.count("faults that did not come about", 1);
        eprintln!("no compaction: {refusal}");
    }
}

async fn move_leader(world: &World, leader: Option<usize>, other: usize) -> Result<(), Refusal> {
    let Some(leader) = leader else {
        return Err(Refusal::Unanswered("there is no leader to move".to_owned()));
    };
    let target = if other == leader { (leader + 1) % world.links.len() } else { other };
    let status = bounded(world.members.client(target).status()).await?;
    let id = status.header().map_or(0, etcd_client::ResponseHeader::member_id);
    bounded(world.members.client(leader).move_leader(id)).await.map(drop)
}

/// The answer of one certain member.
async fn bounded<V>(
    answer: impl Future<Output = Result<V, etcd_client::Error>>,
) -> Result<V, Refusal> {
    match tokio::time::timeout(ANSWER_MAX, answer).await {
        Ok(answer) => answer.map_err(|error| Refusal::Unanswered(error.to_string())),
        Err(_) => Err(Refusal::Unanswered(format!("nothing in {ANSWER_MAX:?}"))),
    }
}

/// Undoes a fault; when that was done.
pub(crate) async fn undo(world: &World, cure: Cure) -> Result<Instant, String> {
    let members = world.cluster.members();
    let failed = |error: crate::etcd::StartError| format!("a member does not come back: {error}");
    match cure {
        Cure::Nothing => {}
        Cure::Restart(lost) => match lost[..] {
            [one] => members[one].restart().await.map_err(failed)?,
            [one, two] => {
                tokio::try_join!(members[one].restart(), members[two].restart()).map_err(failed)?;
            }
            _ => unreachable!("one member or two of three"),
        },
        Cure::Resume(lost) => lost.iter().for_each(|member| members[*member].resume()),
        Cure::CompactAndPass => {
            try_to_compact(world, true).await;
            pass(world).await;
        }
        Cure::Pass => pass(world).await,
    }
    Ok(Instant::now())
}

async fn pass(world: &World) {
    for link in &world.links {
        // What was swallowed is lost, so a connection that met it would never recover.
        if matches!(link.mode(), Mode::Blackhole(_)) {
            link.cut().await;
        }
        link.pass().await;
    }
}
