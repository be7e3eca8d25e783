//! The output: lines, and on a terminal rows that change in place.
//!
//! When the output is not a terminal no escape code is ever written.

use std::io::{self, IsTerminal, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Redraws per second are bounded by the frames; this only must not drop a row of one.
const REDRAWS_MAX: u8 = 255;

pub(crate) struct Screen {
    terminal: bool,
    rows: MultiProgress,
    shown: Vec<ProgressBar>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let target = ProgressDrawTarget::stdout_with_hz(REDRAWS_MAX);
        Screen {
            terminal: io::stdout().is_terminal() && !target.is_hidden(),
            rows: MultiProgress::with_draw_target(target),
            shown: Vec::new(),
        }
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes one line that stays. Not while rows are shown.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        self.close();
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text.as_ref())?;
        out.flush()
    }

    /// A progress bar; draws nothing when the output is not a terminal.
    pub(crate) fn bar(&mut self) -> ProgressBar {
        self.close();
        let style =
            ProgressStyle::with_template("loading {bar:30} {human_pos} of {human_len} keys");
        let bar = self.rows.add(ProgressBar::new(0));
        if let Ok(style) = style {
            bar.set_style(style);
        }
        self.shown.push(bar.clone());
        bar
    }

    /// Shows `rows` in the place of the last ones, each cut to the terminal's width.
    pub(crate) fn rows(&mut self, rows: &[String]) {
        if !self.terminal {
            return;
        }
        while self.shown.len() > rows.len() {
            if let Some(row) = self.shown.pop() {
                self.rows.remove(&row);
            }
        }
        for (index, text) in rows.iter().enumerate() {
            if index == self.shown.len() {
                let row = self.rows.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                    row.set_style(style);
                }
                self.shown.push(row);
            }
            self.shown[index].set_message(text.clone());
        }
    }

    /// Takes away the bar or the rows.
    pub(crate) fn close(&mut self) {
        if self.shown.is_empty() {
            return;
        }
        // In one step: bars that end one by one leave lines behind.
        let _ = self.rows.clear();
        for row in self.shown.drain(..) {
            self.rows.remove(&row);
            row.set_draw_target(ProgressDrawTarget::hidden());
        }
    }
}
