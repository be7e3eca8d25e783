//! A fleet that runs: while nobody writes, and while somebody does.
//!
//! Owns the two measurements and what is derived from them. Each number of mirrors has an etcd of its
//! own, so that the memory of one run does not hide in that of the run before.

use std::time::Duration;

use crate::etcd::{EtcdServer, GrpcProxy};
use crate::fleet::{Fleet, Start};
use crate::host::{Asked, Usage, machine, share};
use crate::table::{head, mebibytes, millis, row, seconds};
use crate::writer::{Clock, Writer, server};
use crate::{Failure, Settings};

/// What passes before a measurement begins.
const WARM_UP: Duration = Duration::from_secs(2);

/// What etcd and the proxy have used and been asked at one moment, and this process.
struct Moment {
    etcd: Usage,
    proxy: Option<Usage>,
    ours: Usage,
    /// All processes of the machine.
    all: Duration,
    asked: Asked,
}

impl Moment {
    async fn now(server: &EtcdServer, proxy: Option<&GrpcProxy>) -> Result<Self, Failure> {
        Ok(Moment {
            etcd: Usage::of(server.pid().ok_or("etcd runs")?)?,
            proxy: proxy.map(|proxy| Usage::of(proxy.pid())).transpose()?,
            ours: Usage::of(std::process::id())?,
            all: machine()?,
            asked: Asked::of(&server.endpoint()).await?,
        })
    }

    fn since(&self, earlier: &Moment) -> Moment {
        Moment {
            etcd: self.etcd.since(earlier.etcd),
            proxy: self.proxy.zip(earlier.proxy).map(|(now, then)| now.since(then)),
            ours: self.ours.since(earlier.ours),
            all: self.all.saturating_sub(earlier.all),
            asked: self.asked.since(earlier.asked),
        }
    }
}

/// What no mirror costs, by which the others are told.
#[derive(Clone, Copy)]
struct Base {
    cpu_s: f64,
    resident: u64,
    written: f64,
}

pub(crate) async fn measure(settings: &Settings, through_proxy: bool) -> Result<(), Failure> {
    let title = format!(
        "{} {} puts/s; idle and busy for {} s each. Each mirror: beyond the row without one.",
        if through_proxy { "Through the gRPC proxy." } else { "Connected to etcd." },
        settings.rate,
        settings.seconds,
    );
    head(
        &title,
        &[
            "mirrors",
            "watchers at etcd",
            "idle: requests/s, progress/s",
            "idle: etcd CPU ms/s",
            "busy: puts/s",
            "etcd CPU s per 1,000 events",
            "of it each mirror, ms",
            "proxy CPU s per 1,000 events",
            "sent per event each mirror, B",
            "etcd RSS MiB",
            "each mirror KiB",
            "proxy RSS MiB",
            "put p50 / p99 / max ms",
            "visible p50 / p99 / max ms",
            "CPU of these, of others",
        ],
    );
    let mut base = None;
    for count in &settings.mirrors {
        one(settings, *count, through_proxy, &mut base).await?;
    }
    Ok(())
}

async fn one(
    settings: &Settings,
    count: usize,
    through_proxy: bool,
    base: &mut Option<Base>,
) -> Result<(), Failure> {
    let clock = Clock::start();
    let (server, client) = server(clock, settings).await?;
    let proxy = match through_proxy {
        true => Some(GrpcProxy::start(&[server.endpoint()]).await?),
        false => None,
    };
    let endpoint = proxy.as_ref().map_or_else(|| server.endpoint(), GrpcProxy::endpoint);
    let fleet = Fleet::start(count, &Start { endpoint, ..Start::default() }, clock).await?;
    fleet.settle(through_proxy).await;

    let window = settings.window();
    tokio::time::sleep(WARM_UP).await;
    let begun = Moment::now(&server, proxy.as_ref()).await?;
    tokio::time::sleep(window).await;
    let idle = Moment::now(&server, proxy.as_ref()).await?.since(&begun);

    let writer = Writer::start(client, clock, settings.rate, settings);
    tokio::time::sleep(WARM_UP).await;
    let begun = Moment::now(&server, proxy.as_ref()).await?;
    drop((writer.times.take(), fleet.seen.take()));
    tokio::time::sleep(window).await;
    let (puts, seen) = (writer.times.take(), fleet.seen.take());
    let busy = Moment::now(&server, proxy.as_ref()).await?.since(&begun);

    let events = puts.len().max(1) as f64;
    let per_thousand = |time: Duration| time.as_secs_f64() / events * 1000.0;
    let written = busy.etcd.written as f64 / events;
    let base = *base.get_or_insert(Base {
        cpu_s: per_thousand(busy.etcd.cpu),
        resident: busy.etcd.resident,
        written,
    });
    let each = |more: f64| match count {
        0 => "-".to_owned(),
        _ => format!("{:.2}", more / count as f64),
    };
    let of_proxy = |cell: &dyn Fn(Usage) -> String| busy.proxy.map_or_else(|| "-".to_owned(), cell);
    let these = busy.etcd.cpu + busy.ours.cpu + busy.proxy.unwrap_or_default().cpu;
    let secs = window.as_secs_f64();
    row([
        count.to_string(),
        idle.asked.watchers.to_string(),
        format!(
            "{:.1}, {:.1}",
            idle.asked.requests as f64 / secs,
            idle.asked.on_watches as f64 / secs
        ),
        format!("{:.1}", idle.etcd.cpu.as_secs_f64() * 1000.0 / secs),
        format!("{:.0}", events / secs),
        format!("{:.3}", per_thousand(busy.etcd.cpu)),
        each((per_thousand(busy.etcd.cpu) - base.cpu_s) * 1000.0),
        of_proxy(&|usage| format!("{:.3}", per_thousand(usage.cpu))),
        each(written - base.written),
        mebibytes(busy.etcd.resident),
        each(busy.etcd.resident.saturating_sub(base.resident) as f64 / 1024.0),
        of_proxy(&|usage| mebibytes(usage.resident)),
        millis(&puts, &[0.5, 0.99, 1.0]),
        millis(&seen, &[0.5, 0.99, 1.0]),
        format!("{}, {}", share(these, window)?, share(busy.all.saturating_sub(these), window)?),
    ]);
    eprintln!("  ours {} s, etcd {} s", seconds(busy.ours.cpu), seconds(busy.etcd.cpu));
    Ok(())
}
