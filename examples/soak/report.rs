//! What was counted, measured and found, as text and as JSON.
//!
//! Owns the ledger everybody writes to, and the verdict. Must not ask anybody anything.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use etcd_keyspace::Counters;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::world::lock;

/// Findings kept with their evidence; all are counted.
const FINDINGS_MAX: usize = 40;

/// Where every part notes what it did and saw.
pub(crate) struct Ledger {
    began: Instant,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    times: Mutex<BTreeMap<&'static str, Histogram<u64>>>,
    incidents: Mutex<Vec<Incident>>,
    findings: Mutex<Vec<Finding>>,
    restarted: Mutex<Counters>,
}

/// One fault and what it took to recover from it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Incident {
    pub(crate) fault: &'static str,
    pub(crate) at_s: f64,
    pub(crate) lasted_s: f64,
    pub(crate) recovery_s: f64,
    /// The mirror that took longest.
    pub(crate) slowest: String,
}

/// Something that must not be.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    pub(crate) kind: &'static str,
    pub(crate) mirror: String,
    pub(crate) at_s: f64,
    pub(crate) during: &'static str,
    pub(crate) evidence: Vec<String>,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Ledger {
            began: Instant::now(),
            counts: Mutex::default(),
            times: Mutex::default(),
            incidents: Mutex::default(),
            findings: Mutex::default(),
            restarted: Mutex::default(),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn count(&self, what: &'static str, by: u64) {
        *lock(&self.counts).entry(what).or_default() += by;
    }

    pub(crate) fn counted(&self, what: &str) -> u64 {
        lock(&self.counts).get(what).copied().unwrap_or(0)
    }

    pub(crate) fn time(&self, what: &'static str, time: Duration) {
        let mut times = lock(&self.times);
        let histogram = times
            .entry(what)
            .or_insert_with(|| Histogram::new(3).expect("three digits are allowed"));
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        histogram.record(micros).expect("it grows to what it is given");
    }

    pub(crate) fn incident(&self, incident: Incident) {
        lock(&self.incidents).push(incident);
    }

    pub(crate) fn incidents(&self) -> usize {
        lock(&self.incidents).len()
    }

    pub(crate) fn finding(
        &self,
        kind: &'static str,
        mirror: &str,
        during: &'static str,
        evidence: Vec<String>,
    ) {
        self.count("findings", 1);
        let at_s = self.elapsed().as_secs_f64();
        eprintln!("FOUND after {at_s:.1} s: {kind}, {mirror}, during {during}");
        for line in evidence.iter().take(12) {
            eprintln!("    {line}");
        }
        let mut findings = lock(&self.findings);
        if findings.len() < FINDINGS_MAX {
            findings.push(Finding { kind, mirror: mirror.to_owned(), at_s, during, evidence });
        }
    }

    /// Adds the counters of a mirror that has come to its wanted end.
    pub(crate) fn add_restarted(&self, counters: &Counters) {
        add(&mut lock(&self.restarted), counters);
    }

    pub(crate) fn restarted(&self) -> Counters {
        *lock(&self.restarted)
    }
}

fn add(sum: &mut Counters, more: &Counters) {
    sum.loads += more.loads;
    sum.load_restarts += more.load_restarts;
    sum.compactions += more.compactions;
    sum.discontinuities += more.discontinuities;
    sum.history_changes += more.history_changes;
    sum.connects += more.connects;
    sum.watches += more.watches;
    sum.failures += more.failures;
    sum.batches += more.batches;
    sum.events += more.events;
    sum.duplicates += more.duplicates;
    sum.changes += more.changes;
    sum.progress += more.progress;
}

/// What is told at the end.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) etcd: String,
    pub(crate) seconds: f64,
    pub(crate) interrupted: bool,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) mirrors: Vec<MirrorReport>,
    pub(crate) faults: Vec<FaultReport>,
    pub(crate) times: Vec<TimeReport>,
    pub(crate) bounds: Vec<Bound>,
    pub(crate) findings_total: u64,
    pub(crate) findings: Vec<Finding>,
    pub(crate) incidents: Vec<Incident>,
    pub(crate) passed: bool,
}

/// One mirror: what it went through and how old its data has been.
#[derive(Debug, Serialize)]
pub(crate) struct MirrorReport {
    pub(crate) name: String,
    pub(crate) keys: usize,
    pub(crate) events: u64,
    pub(crate) batches: u64,
    pub(crate) reloads: u64,
    pub(crate) load_restarts: u64,
    pub(crate) compactions: u64,
    pub(crate) reconnects: u64,
    pub(crate) failures: u64,
    pub(crate) discontinuities: u64,
    pub(crate) history_changes: u64,
    pub(crate) duplicates: u64,
    /// The oldest its data has been, as far as good conditions lasted; not known of a series.
    pub(crate) stale_healthy_s: Option<f64>,
    pub(crate) stale_overall_s: Option<f64>,
    /// The fault during which the first of the two was reached.
    pub(crate) stalest_during: &'static str,
}

impl MirrorReport {
    /// Of a mirror, or of a series of `starts` mirrors.
    pub(crate) fn new(name: &str, keys: usize, counters: &Counters, starts: u64) -> Self {
        MirrorReport {
            name: name.to_owned(),
            keys,
            events: counters.events,
            batches: counters.batches,
            reloads: counters.loads.saturating_sub(starts),
            load_restarts: counters.load_restarts,
            compactions: counters.compactions,
            reconnects: counters.watches.saturating_sub(starts),
            failures: counters.failures,
            discontinuities: counters.discontinuities,
            history_changes: counters.history_changes,
            duplicates: counters.duplicates,
            stale_healthy_s: None,
            stale_overall_s: None,
            stalest_during: "",
        }
    }
}

/// All faults of one kind.
#[derive(Debug, Serialize)]
pub(crate) struct FaultReport {
    fault: &'static str,
    times: usize,
    recovery_median_s: f64,
    recovery_max_s: f64,
    slowest: String,
}

/// One histogram, in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct TimeReport {
    what: &'static str,
    count: u64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
}

/// A promise of the run and what was reached.
#[derive(Debug, Serialize)]
pub(crate) struct Bound {
    what: &'static str,
    limit_s: f64,
    worst_s: f64,
    held: bool,
}

impl Report {
    pub(crate) fn new(
        ledger: &Ledger,
        (seed, etcd, interrupted): (u64, &str, bool),
        mirrors: Vec<MirrorReport>,
        (recovery_max, stale_max): (Duration, Duration),
    ) -> Self {
        let incidents = lock(&ledger.incidents).clone();
        let recovery = incidents.iter().map(|incident| incident.recovery_s).fold(0.0, f64::max);
        let stale = mirrors.iter().filter_map(|mirror| mirror.stale_healthy_s).fold(0.0, f64::max);
        let bound = |what, limit: Duration, worst_s: f64| Bound {
            what,
            limit_s: limit.as_secs_f64(),
            worst_s,
            held: worst_s <= limit.as_secs_f64(),
        };
        let bounds = vec![
            bound("recovery from a fault", recovery_max, recovery),
            bound("age of the data in good conditions", stale_max, stale),
        ];
        let findings_total = ledger.counted("findings");
        let mut counts = lock(&ledger.counts).clone();
        counts.remove("findings");
        Report {
            seed,
            etcd: etcd.to_owned(),
            seconds: ledger.elapsed().as_secs_f64(),
            interrupted,
            counts,
            faults: by_kind(&incidents),
            times: lock(&ledger.times).iter().map(|(what, times)| quantiles(what, times)).collect(),
            passed: findings_total == 0 && bounds.iter().all(|bound| bound.held),
            bounds,
            findings_total,
            findings: lock(&ledger.findings).clone(),
            mirrors,
            incidents,
        }
    }
}

fn by_kind(incidents: &[Incident]) -> Vec<FaultReport> {
    let mut kinds: BTreeMap<&'static str, Vec<&Incident>> = BTreeMap::new();
    for incident in incidents {
        kinds.entry(incident.fault).or_default().push(incident);
    }
    let report = |(fault, mut incidents): (&'static str, Vec<&Incident>)| {
        incidents.sort_by(|a, b| a.recovery_s.total_cmp(&b.recovery_s));
        let worst = incidents[incidents.len() - 1];
        FaultReport {
            fault,
            times: incidents.len(),
            recovery_median_s: incidents[(incidents.len() - 1) / 2].recovery_s,
            recovery_max_s: worst.recovery_s,
            slowest: worst.slowest.clone(),
        }
    };
    kinds.into_iter().map(report).collect()
}

fn quantiles(what: &'static str, times: &Histogram<u64>) -> TimeReport {
    let millis = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1e3;
    TimeReport {
        what,
        count: times.len(),
        p50_ms: millis(times.value_at_quantile(0.5)),
        p90_ms: millis(times.value_at_quantile(0.9)),
        p99_ms: millis(times.value_at_quantile(0.99)),
        p999_ms: millis(times.value_at_quantile(0.999)),
        max_ms: millis(times.max()),
    }
}

impl Report {
    /// The report for people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("a string takes everything");
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let ended = if self.interrupted { ", ended early" } else { "" };
        writeln!(
            out,
            "\nsoak of {:.0} s with etcd {}, seed {}{ended}",
            self.seconds, self.etcd, self.seed
        )?;
        writeln!(out, "\nCOUNTED")?;
        for (what, count) in &self.counts {
            writeln!(out, "  {what:<46}{count:>12}")?;
        }
        self.write_mirrors(out)?;
        writeln!(out, "\nFAULT                      TIMES  RECOVERY MEDIAN       MAX  SLOWEST")?;
        for fault in &self.faults {
            let FaultReport { fault, times, recovery_median_s, recovery_max_s, slowest } = fault;
            writeln!(
                out,
                "  {fault:<25}{times:>5}{recovery_median_s:>15.2} s{recovery_max_s:>8.2} s  {slowest}"
            )?;
        }
        writeln!(
            out,
            "\nTIMES IN MS{:>41}{:>9}{:>9}{:>9}{:>9}{:>10}",
            "N", "P50", "P90", "P99", "P99.9", "MAX"
        )?;
        for time in &self.times {
            let TimeReport { what, count, p50_ms, p90_ms, p99_ms, p999_ms, max_ms } = time;
            writeln!(
                out,
                "  {what:<42}{count:>8}{p50_ms:>9.1}{p90_ms:>9.1}{p99_ms:>9.1}{p999_ms:>9.1}{max_ms:>10.1}"
            )?;
        }
        writeln!(out, "\nBOUNDS")?;
        for Bound { what, limit_s, worst_s, held } in &self.bounds {
            let held = if *held { "held" } else { "NOT HELD" };
            writeln!(out, "  {what:<40} worst {worst_s:.2} s of {limit_s:.0} s: {held}")?;
        }
        self.write_findings(out)
    }

    fn write_mirrors(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\nMIRROR        KEYS     EVENTS  BATCHES RELOADS COMPACT. RECONN. FAILURES DISCONT. \
             DUPLICATES  OLDEST DATA    EVER"
        )?;
        for m in &self.mirrors {
            write!(out, "  {:<10}{:>6}{:>11}{:>9}", m.name, m.keys, m.events, m.batches)?;
            write!(out, "{:>8}{:>9}{:>8}", m.reloads, m.compactions, m.reconnects)?;
            write!(out, "{:>9}{:>9}{:>11}", m.failures, m.discontinuities, m.duplicates)?;
            match (m.stale_healthy_s, m.stale_overall_s) {
                (Some(healthy), Some(overall)) => {
                    writeln!(out, "{healthy:>12.2} s{overall:>8.2} s  ({})", m.stalest_during)?;
                }
                _ => writeln!(out)?,
            }
        }
        Ok(())
    }

    fn write_findings(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\nFINDINGS: {}", self.findings_total)?;
        for Finding { kind, mirror, at_s, during, evidence } in &self.findings {
            writeln!(out, "  {kind}, {mirror}, after {at_s:.1} s, during {during}")?;
            for line in evidence {
                writeln!(out, "    {line}")?;
            }
        }
        let verdict = if self.passed { "PASSED" } else { "FAILED" };
        writeln!(out, "\n{verdict}")
    }
}
