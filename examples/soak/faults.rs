//! What is broken when, and how long the mirrors need afterwards.
//!
//! Owns the schedule, which the seed repeats: one fault at a time, and the next only when all
//! members answer and all mirrors have recovered. Must not judge data; `strike.rs` has how things are
//! broken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_keyspace::State;
use tokio::task::JoinSet;

use crate::mirrors::{Mirror, status};
use crate::report::Incident;
use crate::strike::{Cure, strike, undo};
use crate::world::{Harm, Random, World};

/// How long a member may take to answer again after a fault was undone.
const ANSWERS_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    KillMember,
    KillLeader,
    PauseAndCompact,
    TerminateMember,
    PauseMember,
    PauseLeader,
    KillMajority,
    PauseMajority,
    MoveLeader,
    CompactAll,
    CompactMost,
    Defragment,
    CutLink,
    CutAndCompact,
    ResetLink,
    StallLink,
    SwallowAnswers,
    CutMidAnswer,
    SlowLink,
}

const ALL: [Fault; 19] = [
    Fault::KillMember,
    Fault::KillLeader,
    Fault::PauseAndCompact,
    Fault::TerminateMember,
    Fault::PauseMember,
    Fault::PauseLeader,
    Fault::KillMajority,
    Fault::PauseMajority,
    Fault::MoveLeader,
    Fault::CompactAll,
    Fault::CompactMost,
    Fault::Defragment,
    Fault::CutLink,
    Fault::CutAndCompact,
    Fault::ResetLink,
    Fault::StallLink,
    Fault::SwallowAnswers,
    Fault::CutMidAnswer,
    Fault::SlowLink,
];

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::KillMember => "kill a member",
            Fault::KillLeader => "kill the leader",
            Fault::PauseAndCompact => "pause and compact",
            Fault::TerminateMember => "terminate a member",
            Fault::PauseMember => "pause a member",
            Fault::PauseLeader => "pause the leader",
            Fault::KillMajority => "kill a majority",
            Fault::PauseMajority => "pause a majority",
            Fault::MoveLeader => "move the leader",
            Fault::CompactAll => "compact all",
            Fault::CompactMost => "compact most",
            Fault::Defragment => "defragment a member",
            Fault::CutLink => "cut the link",
            Fault::CutAndCompact => "cut and compact",
            Fault::ResetLink => "reset the link",
            Fault::StallLink => "stall the link",
            Fault::SwallowAnswers => "swallow answers",
            Fault::CutMidAnswer => "cut amid an answer",
            Fault::SlowLink => "slow link",
        }
    }

    fn harm(self) -> Harm {
        match self {
            Fault::KillMajority | Fault::PauseMajority => Harm::Everybody,
            Fault::CutLink
            | Fault::CutAndCompact
            | Fault::ResetLink
            | Fault::StallLink
            | Fault::SwallowAnswers
            | Fault::CutMidAnswer
            | Fault::SlowLink => Harm::Linked,
            _ => Harm::Nobody,
        }
    }

    /// Milliseconds for which it holds; those of a moment hold for none.
    fn hold(self) -> (u64, u64) {
        match self {
            Fault::KillMajority | Fault::PauseMajority => (1_000, 4_000),
            Fault::PauseMember | Fault::PauseLeader => (500, 6_000),
            // Longer than it takes to find out and go elsewhere.
            Fault::PauseAndCompact => (2_500, 5_000),
            Fault::MoveLeader | Fault::CompactAll | Fault::CompactMost | Fault::Defragment => {
                (0, 1)
            }
            Fault::ResetLink => (0, 1),
            _ => (300, 4_000),
        }
    }
}

/// Breaks one thing after the other until the run ends; then everything is whole again.
///
/// An error says that the cluster itself cannot be had back, so that nothing can be judged.
pub(crate) async fn run(
    world: Arc<World>,
    mirrors: Vec<Arc<Mirror>>,
    mut random: Random,
) -> Result<(), String> {
    let mut bag: Vec<Fault> = Vec::new();
    let (from, to) = (200, u64::from(world.settings.gap_ms).max(201));
    while world.rest(random.millis(from, to)).await {
        if bag.is_empty() {
            bag = ALL.to_vec();
        }
        let fault = bag.swap_remove(random.index(bag.len()));
        inflict(&world, &mirrors, fault, &mut random).await?;
    }
    Ok(())
}

/// One fault from its beginning until all mirrors have recovered.
async fn inflict(
    world: &Arc<World>,
    mirrors: &[Arc<Mirror>],
    fault: Fault,
    random: &mut Random,
) -> Result<(), String> {
    let (from, to) = fault.hold();
    let hold = random.millis(from, to);
    let leads = matches!(fault, Fault::KillLeader | Fault::PauseLeader | Fault::MoveLeader);
    let leader = if leads { world.cluster.leader().await } else { None };
    world.sky.begin(fault.name(), fault.harm());
    let begun = Instant::now();
    let cure = strike(world, fault, leader, random).await.unwrap_or_else(|refusal| {
        world.ledger.count("faults that did not come about", 1);
        eprintln!("{}: {refusal}", fault.name());
        Cure::Nothing
    });
    let struck = Instant::now();
    let undo = async {
        world.rest(hold).await;
        undo(world, cure).await
    };
    let (lasted, recovered) = if fault.harm() == Harm::Nobody {
        // A majority is there all the time, so the mirrors have to recover without the cure.
        let (lasted, recovered) = tokio::join!(undo, recover(world, mirrors, struck));
        world.sky.healed();
        (lasted?, recovered)
    } else {
        let lasted = undo.await?;
        let healed = Instant::now();
        world.sky.healed();
        (lasted, recover(world, mirrors, healed).await)
    };
    let (recovery, slowest) = recovered;
    world.ledger.incident(Incident {
        fault: fault.name(),
        at_s: world.ledger.elapsed().saturating_sub(begun.elapsed()).as_secs_f64(),
        lasted_s: (lasted - begun).as_secs_f64(),
        recovery_s: recovery.as_secs_f64(),
        slowest,
    });
    all_answer(world).await?;
    world.sky.calm();
    Ok(())
}

/// Waits until every mirror is live with data asked for after `since`; how long the slowest took.
async fn recover(
    world: &Arc<World>,
    mirrors: &[Arc<Mirror>],
    since: Instant,
) -> (Duration, String) {
    let mut recovering = JoinSet::new();
    for mirror in mirrors {
        let (world, mirror) = (Arc::clone(world), Arc::clone(mirror));
        recovering.spawn(async move {
            let fresh = async {
                while !is_fresh(&mirror, since) {
                    // It asks etcd at once; the state may need a moment more than the answer.
                    let sync = mirror.ks.sync();
                    let _ = tokio::time::timeout(Duration::from_millis(200), sync).await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let limit = world.settings.recovery() * 3;
            if tokio::time::timeout(limit, fresh).await.is_err() {
                let said = vec![status(&mirror), format!("not fresh in {limit:?}")];
                world.diverged("a mirror does not recover", &mirror.name, said);
            }
            (since.elapsed(), mirror.name.clone())
        });
    }
    recovering.join_all().await.into_iter().max().expect("there are mirrors")
}

fn is_fresh(mirror: &Mirror, since: Instant) -> bool {
    let status = mirror.ks.status();
    let live = status.state == State::Live;
    live && status.current_as_of.is_some_and(|age| age < since.elapsed())
}

/// Waits until each member answers a linearizable read.
async fn all_answer(world: &World) -> Result<(), String> {
    for member in 0..world.links.len() {
        let begun = Instant::now();
        loop {
            let mut client = world.members.client(member);
            let asked = tokio::time::timeout(Duration::from_secs(3), client.get("ready", None));
            let last = match asked.await {
                Ok(Ok(_)) => break,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "nothing in 3 s".to_owned(),
            };
            if begun.elapsed() > ANSWERS_MAX {
                return Err(format!("member {member} does not answer: {last}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}
