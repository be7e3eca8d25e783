//! Tables in Markdown, so that what is printed can be put into a document.
//!
//! Owns how numbers are written. Must not measure.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Prints a row of cells.
pub(crate) fn row<C: AsRef<str>>(cells: impl IntoIterator<Item = C>) {
    let cells: Vec<String> = cells.into_iter().map(|cell| format!(" {} ", cell.as_ref())).collect();
    println!("|{}|", cells.join("|"));
}

/// Prints a heading of a table.
pub(crate) fn head(title: &str, columns: &[&str]) {
    println!("\n{title}\n");
    row(columns);
    row(columns.iter().map(|_| "---"));
}

pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / 1_048_576.0)
}

/// Milliseconds at quantiles of times in microseconds; a quantile of one is the greatest.
pub(crate) fn millis(times: &Histogram<u64>, quantiles: &[f64]) -> String {
    if times.is_empty() {
        return "-".to_owned();
    }
    let at = |quantile: &f64| times.value_at_quantile(*quantile) as f64 / 1000.0;
    let texts: Vec<String> =
        quantiles.iter().map(|quantile| format!("{:.1}", at(quantile))).collect();
    texts.join(" / ")
}
