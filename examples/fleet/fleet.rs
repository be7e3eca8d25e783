//! Mirrors as many processes would have them: each with connections of its own.
//!
//! Owns how they are started and when they count as live. Must not measure etcd.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use etcd_keyspace::{Etcd, EtcdOptions, KeySpace, ProgressBy, State};
use tokio::task::JoinSet;

use crate::writer::{Clock, Times};
use crate::{Failure, PREFIX};

/// How often a mirror that starts is asked whether it is live.
const LOOK: Duration = Duration::from_millis(5);

/// How the mirrors of a fleet start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Start {
    pub(crate) endpoint: String,
    pub(crate) user: Option<(String, String)>,
    /// Over how long the starts are spread, evenly.
    pub(crate) spread: Duration,
    /// Journals that a former mirror has stored, one for each.
    pub(crate) journals: Vec<PathBuf>,
}

pub(crate) struct Fleet {
    pub(crate) mirrors: Vec<KeySpace<Vec<u8>>>,
    /// How long each start took until the mirror was live, counted from its own begin.
    pub(crate) starts: Times,
    /// How long after it was written a value was seen, by an observer of each mirror.
    pub(crate) seen: Times,
}

impl Fleet {
    /// Starts `count` mirrors and waits until all are live.
    pub(crate) async fn start(count: usize, how: &Start, clock: Clock) -> Result<Self, Failure> {
        let (starts, seen) = (Times::new(), Times::new());
        let mut tasks = JoinSet::new();
        for index in 0..count {
            let part = u32::try_from(index)? * how.spread / u32::try_from(count)?;
            let (how, starts, seen) = (how.clone(), starts.clone(), seen.clone());
            tasks.spawn(async move {
                tokio::time::sleep(part).await;
                let begun = Instant::now();
                let ks = one(&how, index).await?;
                until_live(&ks).await;
                starts.note(begun.elapsed());
                observe(&ks, clock, seen);
                Ok::<_, Failure>(ks)
            });
        }
        let mut mirrors = Vec::new();
        while let Some(started) = tasks.join_next().await {
            mirrors.push(started??);
        }
        Ok(Fleet { mirrors, starts, seen })
    }

    /// Waits until all have found out how progress is told, and no opening is on its way any more.
    pub(crate) async fn settle(&self, behind_proxy: bool) {
        let wanted = if behind_proxy { ProgressBy::Count } else { ProgressBy::Request };
        for ks in &self.mirrors {
            while ks.status().progress_by != wanted || ks.status().current_as_of.is_none() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Waits until each mirror has opened another watch and is live; how long that took.
    pub(crate) async fn resumed(&self) -> Times {
        let begun = Instant::now();
        let times = Times::new();
        let mut tasks = JoinSet::new();
        for ks in &self.mirrors {
            let (ks, times) = (ks.clone(), times.clone());
            let before = ks.status().counters.watches;
            tasks.spawn(async move {
                while ks.status().counters.watches == before {
                    tokio::time::sleep(LOOK).await;
                }
                until_live(&ks).await;
                times.note(begun.elapsed());
            });
        }
        while tasks.join_next().await.is_some() {}
        times
    }
}

async fn one(how: &Start, index: usize) -> Result<KeySpace<Vec<u8>>, Failure> {
    let options = EtcdOptions::new();
    let options = match how.user.clone() {
        Some((name, password)) => options.user(name, password),
        None => options,
    };
    let builder = KeySpace::<Vec<u8>>::builder(PREFIX)?.bytes().name("fleet");
    let source = Etcd::new([how.endpoint.as_str()], options);
    match how.journals.get(index) {
        Some(file) => {
            use etcd_keyspace::journal::{Journal, JournalOptions};
            let journal = Journal::open(file, JournalOptions::new().page_cache(1 << 20)).await?;
            Ok(builder.journal(&journal).restore(&journal).start(source).await?)
        }
        _ => Ok(builder.start(source).await?),
    }
}

/// What is restored from a journal is served before etcd has been asked.
async fn until_live(ks: &KeySpace<Vec<u8>>) {
    while ks.status().state != State::Live {
        tokio::time::sleep(LOOK).await;
    }
}

/// Notes the age of each value that comes, except those that are there.
fn observe(ks: &KeySpace<Vec<u8>>, clock: Clock, seen: Times) {
    let mut first = true;
    ks.observe(move |delta, _, _| {
        if std::mem::take(&mut first) {
            return;
        }
        for change in delta {
            if let Some(age) = change.new().and_then(|entry| clock.age(entry.value())) {
                seen.note(age);
            }
        }
    });
}
