//! The value type of the example: whatever is in etcd, kept as the JSON it is answered with.
//!
//! Owns decoding and the JSON of entries. Must not know requests.

use std::convert::Infallible;
use std::fmt::Write as _;

use etcd_keyspace::{Entry, RawKeyValue};

/// A value, ready to be written into an answer.
#[derive(Debug)]
pub(crate) struct Document {
    json: Box<str>,
    /// When it was written by the writer's clock, in microseconds, if it says so: writers of the
    /// example do, so that the page can show how soon a write is visible.
    pub(crate) written_us: Option<u64>,
}

/// The part of a value that the example knows.
#[derive(serde::Deserialize)]
struct Stamp {
    written_us: u64,
}

/// Keeps JSON as it is and makes a JSON string of everything else, so nothing is ever rejected. A type
/// of your own with `.json()` is less work and checks more.
pub(crate) fn decode(kv: RawKeyValue) -> Result<Document, Infallible> {
    let text = String::from_utf8_lossy(&kv.value);
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
    let json = if is_json { text.into_owned() } else { quoted(&text) };
    let written_us = serde_json::from_str(&json).ok().map(|stamp: Stamp| stamp.written_us);
    Ok(Document { json: json.into(), written_us })
}

/// A JSON string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Appends an entry as a JSON object. Keys that are no text are shown with replacement characters.
pub(crate) fn write_entry(entry: &Entry<Document>, out: &mut String) {
    let key = quoted(&entry.key_str());
    let (created, modified) = (entry.create_revision(), entry.mod_revision());
    let (version, value) = (entry.version(), &entry.value().json);
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        r#"{{"key":{key},"create_revision":{created},"mod_revision":{modified},"version":{version},"value":{value}}}"#
    );
}

/// Appends a JSON list of what `item` writes for each of `items`.
pub(crate) fn write_list<I>(
    items: impl IntoIterator<Item = I>,
    out: &mut String,
    mut item: impl FnMut(I, &mut String),
) {
    out.push('[');
    for (index, each) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        item(each, out);
    }
    out.push(']');
}
