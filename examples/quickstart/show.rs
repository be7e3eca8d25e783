//! What the program shows of a key space, phase by phase.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions};
use etcd_keyspace::{Counters, Derived, KeySpace, State, Status, StopReason, WaitError};
use indicatif::HumanCount;

use crate::backends::{self, Writers};
use crate::failure::{Failure, Stop, in_full};
use crate::groups::Groups;
use crate::latency::{Delays, Seen, Stopwatch};
use crate::screen::Screen;

/// How long etcd may be silent before we say so and give up.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Idle writes, and the pause before each: longer than the 30 ms that bursts are collected for.
const IDLE_WRITES: u64 = 50;
const IDLE_PAUSE: Duration = Duration::from_millis(40);
const FRAME: Duration = Duration::from_millis(200);
const GROUPS_MAX: usize = 10;

/// Follows the first load with a progress bar.
pub(crate) async fn load<T: Send + Sync + 'static>(
    ks: &KeySpace<T>,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let bar = screen.bar();
    let mut most = None;
    loop {
        let tick = tokio::time::timeout(Duration::from_millis(10), ks.loaded()).await;
        let status = ks.status();
        if let Some(load) = status.load {
            bar.set_length(load.expected.unwrap_or(load.keys));
            bar.set_position(load.keys);
            most = Some(load);
        }
        match tick {
            Ok(Ok(_)) => break,
            Ok(Err(WaitError::Stopped(reason))) => return Err(stopped(&reason)),
            Ok(Err(error)) => return Err(Failure::new(error)),
            Err(_) if status.last_contact.is_none() && begun.elapsed() > SILENCE_MAX => {
                return Err(unreachable(&status));
            }
            Err(_) => {}
        }
    }
    let keys = count(ks.read().len());
    let bytes = most.map_or(0, |load| load.bytes) / 1024;
    let (took, revision) = (time(begun.elapsed()), ks.read().revision());
    let read = if bytes > 0 { format!(" ({} KiB)", count(bytes)) } else { String::new() };
    screen.line(format!("loaded {keys} keys{read} at revision {revision} in {took}"))?;
    Ok(())
}

fn unreachable(status: &Status) -> Failure {
    let endpoint = status.endpoint.as_deref().unwrap_or("the endpoints");
    let why = match &status.last_error {
        Some(error) => in_full(&**error),
        None => "no answer".to_owned(),
    };
    Failure::with_advice(
        format_args!("etcd is not reachable at {endpoint} ({why})"),
        "Check the address (http:// or https://, client port, often 2379) and that etcd runs:\n\
         `etcdctl --endpoints <URL> endpoint health`.\n\
         Without --endpoints this program starts an etcd of its own.",
    )
}

fn stopped(reason: &StopReason) -> Failure {
    match reason {
        StopReason::Refused { .. } => Failure::with_advice(
            in_full(reason),
            "Check the URL. If etcd asks for a user, give one that may read the whole prefix:\n\
             --user NAME:PASSWORD --prefix PREFIX",
        ),
        reason => Failure::Said(in_full(reason)),
    }
}

/// Writes single keys into the quiet key space; the first after quiet is never delayed, so it should
/// be visible about when a bare watch delivers it.
pub(crate) async fn idle_latency(
    watch: &Stopwatch,
    client: &mut Client,
    prefix: &str,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let mut first = 0;
    for id in 0..=IDLE_WRITES {
        tokio::time::sleep(IDLE_PAUSE).await;
        let (key, json) = backends::record(prefix, id, 5);
        let begun = Instant::now();
        let put = client.put(key, json, None).await?;
        let revision = watch.wrote(put.header(), begun);
        let both =
            async { tokio::join!(watch.bare.reaches(revision), watch.mirror.reaches(revision)) };
        if tokio::time::timeout(SILENCE_MAX, both).await.is_err() {
            return Err(Failure::with_advice(
                format_args!("revision {revision} was not seen in {SILENCE_MAX:?}"),
                "Please report this.",
            ));
        }
        if id == 0 {
            // Not counted: etcd takes up to 100 ms until a watch that was just opened is in step.
            first = watch.writes();
        }
    }
    let (bare, mirror) = (watch.delays(&watch.bare, first), watch.delays(&watch.mirror, first));
    screen.line(format!("put to visible, idle, {IDLE_WRITES} single puts:"))?;
    screen.line(format!("  bare watch  {}", P(&bare)))?;
    screen.line(format!("  key space   {}", P(&mirror)))?;
    let ratio = |percent| {
        let bare = bare.percentile(percent).max(Duration::from_micros(1));
        mirror.percentile(percent).as_secs_f64() / bare.as_secs_f64()
    };
    screen.line(format!("  ratio       p50 {:<8.2}  p99 {:.2}", ratio(50), ratio(99)))?;
    Ok(())
}

/// Reads everything from etcd, linearizably, and compares it with the key space.
pub(crate) async fn compare<T: Send + Sync + 'static>(
    ks: &KeySpace<T>,
    client: &mut Client,
    prefix: &str,
) -> Result<String, Failure> {
    let options = GetOptions::new().with_prefix().with_keys_only();
    let answer = client.get(prefix, Some(options)).await?;
    let Some(header) = answer.header() else {
        return Err(Failure::with_advice("etcd sent a response without a header", "Try again."));
    };
    let revision = header.revision();
    let view = ks.snapshot_at(header).await.map_err(Failure::new)?;
    let theirs = answer.kvs().iter().map(|kv| (kv.key(), kv.mod_revision(), kv.version()));
    let ours = view.iter().map(|entry| (entry.key(), entry.mod_revision(), entry.version()));
    if theirs.eq(ours) {
        let keys = count(view.len());
        Ok(format!("compared with etcd at revision {revision}: all {keys} keys are the same"))
    } else {
        Err(Failure::with_advice("the key space differs from etcd", "Please report this."))
    }
}

/// Follows a key space and its groups for a while.
pub(crate) struct Follow<'a, T> {
    pub(crate) ks: &'a KeySpace<T>,
    pub(crate) groups: &'a Derived<Groups>,
    pub(crate) title: String,
    pub(crate) columns: [&'static str; 3],
    /// Who writes meanwhile, and the times of what they wrote.
    pub(crate) load: Option<(Writers, Arc<Stopwatch>)>,
    pub(crate) lasts: Duration,
}

/// The key space at one moment.
struct Moment {
    at: Instant,
    status: Status,
    groups: Groups,
    keys: usize,
    writes: usize,
}

impl<T: Send + Sync + 'static> Follow<'_, T> {
    pub(crate) async fn run(mut self, screen: &mut Screen, stop: &mut Stop) -> Result<(), Failure> {
        let begun = Instant::now();
        let start = self.moment();
        // One second of moments: rates are over that long.
        let mut moments = VecDeque::from([self.moment()]);
        let mut frames = tokio::time::interval(FRAME);
        let mut next_line = Duration::from_secs(1);
        loop {
            let end = tokio::time::sleep(self.lasts.saturating_sub(begun.elapsed()));
            tokio::select! {
                _ = frames.tick() => {}
                () = end => break,
                () = stop.asked() => break,
                reason = self.ks.closed() => return Err(stopped(&reason)),
                failure = failed(&mut self.load) => return Err(failure),
            }
            let now = self.moment();
            while moments.len() > 1 && now.at - moments[1].at >= Duration::from_secs(1) {
                moments.pop_front();
            }
            let elapsed = begun.elapsed();
            let delays = self.delays(moments[0].writes);
            if screen.is_terminal() {
                let clock = format!("{:.0} of {} s", elapsed.as_secs_f64(), self.lasts.as_secs());
                let mut rows = vec![format!("{}   {clock}", self.title), " ".to_owned()];
                rows.extend(self.table(&moments[0], &now));
                rows.push(" ".to_owned());
                rows.extend(numbers(&moments[0], &now, &delays));
                screen.rows(&rows);
            } else if elapsed >= next_line {
                next_line += Duration::from_secs(1);
                let line = numbers(&moments[0], &now, &delays).join("; ");
                screen.line(format!("{:>3} s  {line}", elapsed.as_secs()))?;
            }
            moments.push_back(now);
        }
        self.summary(&start, screen).await
    }

    /// What stays on the screen: the whole time's numbers.
    async fn summary(mut self, start: &Moment, screen: &mut Screen) -> Result<(), Failure> {
        if let Some((writers, watch)) = self.load.take() {
            drop(writers);
            // What they have written is shown first.
            match tokio::time::timeout(SILENCE_MAX, self.ks.sync()).await {
                Ok(synced) => synced.map_err(Failure::new)?,
                Err(_) => return Err(unreachable(&self.ks.status())),
            };
            self.totals(start, screen)?;
            let delays = |seen| watch.delays(seen, start.writes);
            let writes = count(watch.writes() - start.writes);
            screen.line(format!("put to visible, under load, {writes} writes:"))?;
            screen.line(format!("  bare watch  {}", P(&delays(&watch.bare))))?;
            screen.line(format!("  key space   {}", P(&delays(&watch.mirror))))?;
            return Ok(());
        }
        self.totals(start, screen)
    }

    fn totals(&self, start: &Moment, screen: &mut Screen) -> Result<(), Failure> {
        let now = self.moment();
        for row in self.table(start, &now) {
            screen.line(row)?;
        }
        let (of, before) = (&now.status, &start.status.counters);
        screen.line(format!(
            "{} at revision {}, confirmed {}; {} events in {} batches",
            of.state,
            of.revision,
            of.confirmed,
            count(of.counters.events - before.events),
            count(of.counters.batches - before.batches)
        ))?;
        Ok(())
    }

    fn writes(&self) -> usize {
        self.load.as_ref().map_or(0, |(_, watch)| watch.writes())
    }

    fn moment(&self) -> Moment {
        let status = self.ks.status();
        let writes = self.writes();
        // One guard: the sums are those of exactly these entries.
        let view = self.ks.read();
        let (groups, keys) = (view.derived(self.groups).clone(), view.len());
        Moment { at: Instant::now(), status, groups, keys, writes }
    }

    /// The delays of the key space and of the bare watch for writes from the `first` on.
    fn delays(&self, first: usize) -> Option<[Delays; 2]> {
        let (_, watch) = self.load.as_ref()?;
        let delays = |seen: &Seen| watch.delays(seen, first);
        Some([delays(&watch.mirror), delays(&watch.bare)])
    }

    /// The groups with most keys, by name, and the sum of all.
    fn table(&self, before: &Moment, now: &Moment) -> Vec<String> {
        let seconds = (now.at - before.at).as_secs_f64().max(FRAME.as_secs_f64());
        let row = |name: &str, keys: u64, amount: u64, updates: f64| {
            let name = printable(name);
            let (keys, amount) = (count(keys), count(amount));
            format!("{name:<24} {keys:>9} {amount:>11} {updates:>9.0}")
        };
        let [name, keys, amount] = self.columns;
        let mut rows = vec![format!("{name:<24} {keys:>9} {amount:>11} {:>9}", "UPDATES/S")];
        let mut by_size: Vec<_> = now.groups.iter().filter(|(_, group)| group.keys > 0).collect();
        by_size.sort_by_key(|(_, group)| std::cmp::Reverse(group.keys));
        let more = by_size.len().saturating_sub(GROUPS_MAX);
        by_size.truncate(GROUPS_MAX);
        by_size.sort_by_key(|(name, _)| *name);
        let rate = |updates: u64, before: u64| (updates - before) as f64 / seconds;
        for (name, group) in by_size {
            let earlier = before.groups.get(name).map_or(0, |group| group.updates);
            rows.push(row(name, group.keys, group.amount, rate(group.updates, earlier)));
        }
        if more > 0 {
            rows.push(format!("and {more} more"));
        }
        let sum = |groups: &Groups| groups.values().map(|group| group.updates).sum::<u64>();
        let amount = now.groups.values().map(|group| group.amount).sum();
        let updates = rate(sum(&now.groups), sum(&before.groups));
        rows.push(row("all", now.keys as u64, amount, updates));
        rows
    }
}

/// State, revisions, rates and times, each in a short line.
fn numbers(before: &Moment, now: &Moment, delays: &Option<[Delays; 2]>) -> Vec<String> {
    let Status { state, revision, confirmed, counters, .. } = &now.status;
    let seconds = (now.at - before.at).as_secs_f64().max(FRAME.as_secs_f64());
    let earlier = &before.status.counters;
    let rate = |of: fn(&Counters) -> u64| (of(counters) - of(earlier)) as f64 / seconds;
    let age = match now.status.current_as_of {
        Some(age) => format!("{:.1} s ago", age.as_secs_f64()),
        None => "no time known".to_owned(),
    };
    let mut lines = vec![
        format!("{state}, current as of {age}"),
        format!("revision {revision}, confirmed {confirmed}"),
    ];
    if let Some(error) = now.status.last_error.as_ref().filter(|_| *state != State::Live) {
        lines.push(format!("last error: {}", in_full(&**error)));
    }
    let (events, batches) = (rate(|c| c.events), rate(|c| c.batches));
    match delays {
        Some([mirror, bare]) => {
            let writes = (now.writes - before.writes) as f64 / seconds;
            lines.push(format!(
                "{writes:.0} writes/s, {events:.0} events/s in {batches:.0} batches/s"
            ));
            lines.push(format!("put to visible {}", P(mirror)));
            lines.push(format!("bare watch     {}", P(bare)));
        }
        None => lines.push(format!("{events:.0} events/s in {batches:.0} batches/s")),
    }
    lines
}

async fn failed(load: &mut Option<(Writers, Arc<Stopwatch>)>) -> Failure {
    match load {
        Some((writers, _)) => writers.failed().await,
        None => std::future::pending().await,
    }
}

/// Shows percentiles.
struct P<'a>(&'a Delays);

impl fmt::Display for P<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:<8}  p99 {}", time(self.0.percentile(50)), time(self.0.percentile(99)))
    }
}

fn time(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..100_000 => format!("{:.2} ms", duration.as_secs_f64() * 1e3),
        100_000..1_000_000 => format!("{:.0} ms", duration.as_secs_f64() * 1e3),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

/// A number with separators.
pub(crate) fn count(number: impl TryInto<u64>) -> String {
    HumanCount(number.try_into().unwrap_or(u64::MAX)).to_string()
}

/// `text` without what would move a terminal's cursor.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
