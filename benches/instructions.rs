//! R7: instructions of single operations, which do not depend on the load of the machine.
//!
//! `cargo bench --bench instructions` runs itself under callgrind, once for each operation and once with
//! nothing in its place; the difference counts. Without valgrind it counts nothing and ends with success. A bar's
//! ratio is the number of instructions to their limit, so its own limit is 1. The numbers depend on the compiler.
//! Only `counted` is observed, since the instructions of a load differ from run to run.

#[path = "side_by_side/data.rs"]
#[allow(dead_code, reason = "other benches use the rest")]
mod data;
#[path = "side_by_side/report.rs"]
#[allow(dead_code, reason = "other benches use the rest")]
mod report;

use std::hint::black_box;
use std::process::Command;

use etcd_keyspace::{KeyRange, KeySpace, Writer, bytes};

use data::{Dataset, PREFIX, Shape, Writes, header};
use report::Report;

/// Reads in one run.
const READS: usize = 100_000;
/// Events in one run, each a batch of its own.
const EVENTS: usize = 5_000;
/// Instructions of one event applied before snapshots were taken without a lock; Rust 1.95.
const EVENT_BEFORE: f64 = 15_852.0;
/// Its instructions are those of `get_many` for 100 keys, divided by 100.
const MANY: &str = "a key of get_many";
/// The first argument of a run under callgrind.
const COUNTED: &str = "counted";

/// Something whose instructions are counted.
struct Operation {
    id: &'static str,
    what: &'static str,
    /// The loop with nothing in the place of the operation.
    empty: &'static str,
    keys: usize,
    times: usize,
    /// Instructions.
    limit: f64,
}

const fn reading(id: &'static str, what: &'static str, keys: usize, limit: f64) -> Operation {
    Operation { id, what, empty: "no read", keys, times: READS, limit }
}

const OPERATIONS: [Operation; 8] = [
    reading("R7@snapshot", "snapshot()", 1_000, 80.0),
    reading("R7@read", "read()", 1_000, 125.0),
    reading("R7@get-1000", "get", 1_000, 300.0),
    reading("R7@get-10000", "get", 10_000, 325.0),
    reading("R7@get-100000", "get", 100_000, 390.0),
    // No more than single look-ups, per key.
    reading("R7@get_many-1000", MANY, 1_000, 300.0),
    reading("R7@get_many-100000", MANY, 100_000, 390.0),
    Operation {
        id: "R7@event",
        what: "one event applied",
        empty: "no apply",
        keys: 1_000,
        times: EVENTS,
        limit: 1.15 * EVENT_BEFORE,
    },
];

fn key_space(data: Dataset) -> (KeySpace<Vec<u8>>, Writer<Vec<u8>>) {
    let builder = KeySpace::builder(KeyRange::prefix(PREFIX)).expect("a range");
    let (ks, mut writer) = builder.decoder(bytes()).writer();
    writer.load(header(data.revision), data.kvs).expect("a sorted load");
    (ks, writer)
}

/// Callgrind counts in this function only, which it finds by its name.
#[inline(never)]
fn counted(work: impl FnOnce()) {
    work();
}

fn each(keys: &[Vec<u8>], read: impl Fn(&[u8]) -> usize) {
    counted(|| _ = black_box(keys.iter().map(|key| black_box(read(key))).sum::<usize>()));
}

/// One run under callgrind: repeats the operation, or the loop of an operation with nothing in it.
fn run(what: &str, keys: usize) {
    let data = Dataset::new(Shape::Plain, keys, 1);
    let mut writes = Writes::new(Shape::Plain, &data, 2);
    let hits = writes.hits(READS);
    let (ks, mut writer) = key_space(data);
    let view = ks.snapshot();
    match what {
        "snapshot()" => each(&hits, |_| ks.snapshot().len()),
        "read()" => each(&hits, |_| ks.read().len()),
        "get" => each(&hits, |key| view.get(key).map_or(0, |entry| entry.value().len())),
        MANY => counted(|| hits.chunks(100).for_each(|keys| _ = black_box(view.get_many(keys)))),
        "no read" => each(&hits, <[u8]>::len),
        "one event applied" => {
            drop(view);
            for _ in 0..EVENTS {
                let batch = writes.batch(1);
                counted(|| _ = writer.apply(batch.responses).expect("a continuous batch"));
            }
        }
        "no apply" => {
            drop(view);
            for _ in 0..EVENTS {
                let batch = writes.batch(1);
                counted(|| _ = black_box(batch.responses));
            }
        }
        what => panic!("no operation has the name {what}"),
    }
}

/// The instructions of a run, as callgrind prints them at its end.
fn count(what: &str, keys: usize) -> f64 {
    let program = std::env::current_exe().expect("the path of this program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(["--collect-atstart=no", "--toggle-collect=*instructions*counted*"])
        .arg(program)
        .args([COUNTED, what, &keys.to_string()])
        .output()
        .expect("valgrind starts");
    let printed = String::from_utf8_lossy(&output.stderr);
    let collected = printed.lines().find_map(|line| line.split_once("Collected :"));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    // Zero means that callgrind did not find `counted`.
    count
        .filter(|count| *count > 0.0)
        .unwrap_or_else(|| panic!("callgrind counts the instructions of {what}: {printed}"))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, what, keys] = &args[..]
        && first == COUNTED
    {
        return run(what, keys.parse().expect("a number of keys"));
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("valgrind is not installed: no instructions are counted");
        return;
    }
    let mut report = Report::default();
    let mut empties = Vec::new();
    for Operation { id, what, empty, keys, times, limit } in OPERATIONS {
        let known = empties.iter().find(|(of, _)| *of == (empty, keys));
        let nothing = known.map_or_else(|| count(empty, keys), |(_, count)| *count);
        empties.push(((empty, keys), nothing));
        let each = (count(what, keys) - nothing) / times as f64;
        println!("{id} {what} at {keys} keys: {each:.0} instructions, limit {limit:.0}");
        report.bar(id, each / limit, 1.0);
    }
    report.finish();
}
