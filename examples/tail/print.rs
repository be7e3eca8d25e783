//! How things look: the table, a line per change, JSON, figures, the bar of a long load.
//!
//! Data goes to the standard output in one piece per step; talk goes to the standard error. Colours are
//! for terminals only. Must not decide what is shown.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_keyspace::{Change, Delta, Entry, LoadProgress, Revision, Status};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::Interest;
use tokio::net::unix::pipe;

/// Shorter loads show no bar.
const PATIENCE: Duration = Duration::from_millis(300);
/// Keys longer than this do not widen the table.
const KEY_WIDTH_MAX: usize = 60;

type Kept = Arc<Entry<Vec<u8>>>;

pub(crate) struct Printer {
    json: bool,
    colours: bool,
    /// How wide the keys of the table are.
    width: usize,
}

impl Printer {
    pub(crate) fn new(json: bool) -> Self {
        let colours = !json && io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Printer { json, colours, width: 0 }
    }

    /// What is there at first.
    pub(crate) fn table<'a>(
        &mut self,
        entries: impl Iterator<Item = &'a Kept> + Clone,
        revision: Revision,
    ) -> io::Result<()> {
        if self.json {
            return print(&entries.map(|entry| json("=", entry)).collect::<String>());
        }
        let widths = entries.clone().map(|entry| plain(entry.key()).chars().count());
        self.width = widths.filter(|width| *width <= KEY_WIDTH_MAX).max().unwrap_or(0);
        let mut text = String::new();
        let mut count = 0;
        for entry in entries {
            self.line(&mut text, ' ', entry);
            count += 1;
        }
        print(&text)?;
        talk(&format!("{count} keys at revision {revision}; changes follow"));
        Ok(())
    }

    /// What has changed since.
    pub(crate) fn delta(&self, delta: &Delta<Vec<u8>>) -> io::Result<()> {
        let mut text = String::new();
        for change in delta {
            let sign = match change {
                Change::Added(_) => '+',
                Change::Removed(_) => '-',
                _ => '~',
            };
            // Of a key that is gone the last value is told.
            let Some(entry) = change.new().or(change.old()) else { continue };
            if self.json {
                text.push_str(&json(sign.encode_utf8(&mut [0; 4]), entry));
            } else {
                self.line(&mut text, sign, entry);
            }
        }
        print(&text)
    }

    fn line(&self, out: &mut String, sign: char, entry: &Kept) {
        let (begin, end) = match (self.colours, sign) {
            (true, '+') => ("\x1b[32m", "\x1b[0m"),
            (true, '~') => ("\x1b[33m", "\x1b[0m"),
            (true, '-') => ("\x1b[31m", "\x1b[0m"),
            _ => ("", ""),
        };
        let (key, revision) = (plain(entry.key()), entry.mod_revision());
        let width = self.width;
        // Writing to a string cannot fail.
        let _ = if sign == '-' {
            writeln!(out, "{begin}{sign} {key}{end}")
        } else {
            let value = plain(entry.value());
            writeln!(out, "{begin}{sign} {key:width$}  {revision:>8}  {value}{end}")
        };
    }

    /// The figures of now, on one line.
    pub(crate) fn stats(&self, status: &Status, keys: usize, rate: f64) -> String {
        let age = status.current_as_of.map(|age| age.as_secs_f64());
        let (state, revision, confirmed) = (status.state, status.revision, status.confirmed);
        if self.json {
            let stats = serde_json::json!({
                "state": state.to_string(), "keys": keys, "revision": revision,
                "confirmed": confirmed, "age_seconds": age, "events_per_second": rate,
            });
            return stats.to_string();
        }
        let age = age.map_or_else(|| "unknown".to_owned(), |age| format!("{age:.1} s ago"));
        format!(
            "{state}, {keys} keys, revision {revision}, complete through {confirmed}, \
             current as of {age}, {rate:.0} events/s"
        )
    }
}

/// Keys and values are any bytes: what a terminal could take for a command is shown escaped.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

fn json(op: &str, entry: &Kept) -> String {
    let line = serde_json::json!({
        "op": op,
        "key": entry.key_str(),
        "value": String::from_utf8_lossy(entry.value()),
        "create_revision": entry.create_revision(),
        "mod_revision": entry.mod_revision(),
        "version": entry.version(),
        "lease": entry.lease(),
    });
    format!("{line}\n")
}

/// Writes data, at once.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Waits until nobody can read the output any more, so that `tail | head -1` ends with `head` and not at
/// the next change. What is written to a file may always be read.
///
/// It only looks: nothing is written through this end, which blocks as the output does.
pub(crate) async fn nobody_reads() {
    let out = io::stdout().as_fd().try_clone_to_owned();
    if let Ok(out) = out.and_then(pipe::Sender::from_owned_fd_unchecked)
        && out.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Says something beside the data. Nobody has to listen.
pub(crate) fn talk(text: &str) {
    let _ = writeln!(io::stderr(), "# {text}");
}

/// The bar of a load: on a terminal only, and only when the load takes long.
pub(crate) struct Bar {
    begun: Instant,
    shown: Option<ProgressBar>,
}

impl Bar {
    pub(crate) fn new() -> Self {
        Bar { begun: Instant::now(), shown: None }
    }

    pub(crate) fn show(&mut self, load: Option<LoadProgress>) {
        let Some(load) = load.filter(|_| self.begun.elapsed() > PATIENCE) else { return };
        let bar = self.shown.get_or_insert_with(|| ProgressBar::new(0));
        // Not every server says at once how many there are.
        let template = match load.expected {
            Some(_) => "loading {bar:30} {human_pos} of {human_len} keys",
            None => "loading, {human_pos} keys so far",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_length(load.expected.unwrap_or(load.keys));
        bar.set_position(load.keys);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
