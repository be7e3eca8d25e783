//! R6: a load from memory whose values are decoded on all cores, against the same on one thread.
//!
//! `cargo bench --bench loads`, `-- --quick` with fewer keys. A program of its own: `side_by_side` counts
//! heap bytes, and threads that allocate at once would wait for one another's counts.

#[path = "side_by_side/data.rs"]
#[allow(dead_code, reason = "other bars use the rest")]
mod data;
#[path = "side_by_side/report.rs"]
#[allow(dead_code, reason = "other bars use the rest")]
mod report;

use std::time::Duration;

use data::{Dataset, PREFIX, Random, Shape, header};
use etcd_keyspace::{KeyRange, KeySpace, RawKeyValue, json};
use report::{Report, time};

/// What an application keeps of a backend.
#[derive(serde::Deserialize)]
#[allow(dead_code, reason = "decoded, and not read")]
struct Backend {
    name: String,
    address: String,
    port: u16,
    weight: u32,
    healthy: bool,
    zone: String,
    labels: Vec<String>,
    started: u64,
    note: String,
}

/// JSON of about 300 bytes.
fn value(random: &mut Random) -> Vec<u8> {
    let (a, b) = (random.next(), random.next());
    format!(
        "{{\"name\":\"backend-{a:016x}\",\"address\":\"10.0.{}.{}\",\"port\":{},\"weight\":{},\
         \"healthy\":true,\"zone\":\"zone-{:02}\",\"labels\":[\"production\",\"canary-{:04x}\",\
         \"team-platform\"],\"started\":{},\"note\":\"{a:064x}{b:032x}\"}}",
        b & 255,
        (b >> 8) & 255,
        a & 0x7fff,
        b % 100,
        a % 16,
        b & 0xffff,
        a >> 20,
    )
    .into_bytes()
}

/// The time of a load, on a thread of its own as a mirror's task has one.
fn load(data: &Dataset, threads: Option<usize>) -> Duration {
    let (revision, kvs): (_, Vec<RawKeyValue>) = (data.revision, data.kvs.clone());
    let load = move || {
        let builder = KeySpace::<Backend>::builder(KeyRange::prefix(PREFIX)).expect("a range");
        let builder = builder.decoder(json());
        let builder = match threads {
            Some(threads) => builder.load_threads(threads),
            None => builder,
        };
        let (ks, mut writer) = builder.writer();
        let keys = kvs.len();
        let took = time(|| drop(writer.load(header(revision), kvs).expect("a sorted load")));
        assert_eq!(ks.read().len(), keys, "every value is decoded");
        took
    };
    std::thread::spawn(load).join().expect("a load")
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let keys = if quick { 100_000 } else { 1_000_000 };
    let mut data = Dataset::new(Shape::Plain, keys, 1);
    let mut random = Random::new(6);
    data.kvs.iter_mut().for_each(|kv| kv.value = value(&mut random));
    let bytes = data.kvs[0].value.len();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{keys} keys of 41 bytes, JSON values of {bytes} bytes, {cores} cores");
    let mut report = Report::default();
    report.compare(
        "R6",
        "load from memory, decoded on all cores, against one thread",
        0.6,
        || load(&data, None),
        || load(&data, Some(1)),
    );
    report.finish();
}
