//! What a process has used, as Linux tells it, and what etcd has been asked, as it tells itself.
//!
//! Owns reading `/proc` and etcd's metrics. Must not measure time or conclude anything.

use std::fs;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Failure;

/// Linux counts processor time in hundredths of a second for whoever reads `/proc`.
const TICK: Duration = Duration::from_millis(10);

/// What one process has used since its start, and has now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) resident: u64,
    /// The most it had since [`forget_peak`].
    pub(crate) peak: u64,
    /// Bytes given to the system: connections, and etcd's log of writes.
    pub(crate) written: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Result<Self, Failure> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold blanks; user and system time are the 14th and 15th field.
        let fields = stat.rsplit_once(')').ok_or("no name in stat")?.1.split_whitespace();
        let ticks: u32 = fields.skip(11).take(2).map_while(|field| field.parse::<u32>().ok()).sum();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        Ok(Usage {
            cpu: TICK * ticks,
            resident: 1024 * named(&status, "VmRSS:"),
            peak: 1024 * named(&status, "VmHWM:"),
            written: named(&io, "wchar:"),
        })
    }

    /// What was used since `earlier`; memory is that of now.
    pub(crate) fn since(self, earlier: Usage) -> Usage {
        let written = self.written - earlier.written;
        Usage { cpu: self.cpu.saturating_sub(earlier.cpu), written, ..self }
    }
}

/// Processor time that all processes of the machine together have used since it started.
pub(crate) fn machine() -> Result<Duration, Failure> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().ok_or("stat is empty")?;
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // Of user, nice, system, idle, waiting for the disk, interrupts (2) and stolen time, in this order,
    // all but idling and waiting is work. What guests use is a part of the first two.
    let busy: u64 = ticks.iter().take(8).sum::<u64>() - ticks.iter().skip(3).take(2).sum::<u64>();
    Ok(Duration::from_millis(10 * busy))
}

/// The part of the machine that `time` of work in `passed` is.
pub(crate) fn share(time: Duration, passed: Duration) -> Result<String, Failure> {
    let processors = std::thread::available_parallelism()?.get() as f64;
    Ok(format!("{:.0} %", time.as_secs_f64() / passed.as_secs_f64() / processors * 100.0))
}

/// Lets the peak begin anew with what the process has now.
pub(crate) fn forget_peak(pid: u32) -> Result<(), Failure> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

/// The number behind `name` in lines of names and numbers.
fn named(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// What etcd has been asked since its start, and serves now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    /// Requests with one answer, of all kinds.
    pub(crate) requests: u64,
    /// Messages on watch streams: the openings, and questions for progress.
    pub(crate) on_watches: u64,
    /// Watchers open now.
    pub(crate) watchers: u64,
}

impl Asked {
    pub(crate) async fn of(endpoint: &str) -> Result<Self, Failure> {
        let mut stream = TcpStream::connect(endpoint.replace("http://", "")).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let sum = |name: &str, label: &str| {
            let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
            // Prometheus writes large numbers with an exponent.
            lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>()
                as u64
        };
        Ok(Asked {
            requests: sum("grpc_server_started_total", "grpc_type=\"unary\""),
            on_watches: sum("grpc_server_msg_received_total", "etcdserverpb.Watch"),
            watchers: sum("etcd_debugging_mvcc_watcher_total", ""),
        })
    }

    pub(crate) fn since(self, earlier: Asked) -> Asked {
        Asked {
            requests: self.requests - earlier.requests,
            on_watches: self.on_watches - earlier.on_watches,
            ..self
        }
    }
}
