//! The tables of promises and hazards name a test, or a reason, for each id; the tests they name exist.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Each table with the ids that it must have. Those found in use (`H`) are numbered with gaps.
fn tables() -> [(&'static str, Vec<String>); 2] {
    let ids = |prefix: &str, last: u32| -> Vec<String> {
        (1..=last).map(|n| format!("{prefix}{n}")).collect()
    };
    let followers = [ids("MO-", 13), ids("CN-", 10)].concat();
    let promises = [ids("GZ-", 48), ids("GZ-C", 11), ids("MI-", 17), followers, ids("BW-", 22)];
    [
        ("docs/promises.md", promises.concat()),
        ("docs/hazards.md", [ids("B", 34), ids("T-", 72)].concat()),
    ]
}

/// The rows of a table: what stands in the third column.
fn rows(table: &str) -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(table)).unwrap();
    let mut rows = BTreeMap::new();
    let headings = ["| id |", "|---"];
    let is_row =
        |line: &&str| line.starts_with('|') && !headings.iter().any(|h| line.starts_with(h));
    for line in text.lines().filter(is_row) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [id, promise, proof] = cells[..] else { panic!("not three columns: {line}") };
        assert!(promise.len() > 20, "{id} has no words of its own");
        assert!(rows.insert(id.to_owned(), proof.to_owned()).is_none(), "{id} stands twice");
    }
    rows
}

/// `path::test` pairs in a proof, each between backticks.
fn tests_in(proof: &str) -> Vec<(&str, &str)> {
    let quoted = proof.split('`').skip(1).step_by(2);
    quoted.filter_map(|name| name.split_once(".rs::")).collect()
}

#[test]
fn every_promise_and_every_hazard_has_a_test_or_a_reason() {
    for (table, ids) in tables() {
        let rows = rows(table);
        let found =
            |id: &&String| id.strip_prefix('H').is_some_and(|number| number.parse::<u32>().is_ok());
        let found: Vec<_> = rows.keys().filter(found).cloned().collect();
        assert_eq!(rows.len(), ids.len() + found.len(), "{table} has rows of other ids");
        for id in ids.into_iter().chain(found) {
            let proof = rows.get(&id).unwrap_or_else(|| panic!("{id} has no row"));
            let reasoned = proof.starts_with("Not here:") && proof.len() > 30;
            assert!(reasoned || !tests_in(proof).is_empty(), "{id} names no test and no reason");
        }
    }
}

#[test]
fn the_tests_that_the_tables_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rows = tables().into_iter().flat_map(|(table, _)| rows(table));
    for (id, proof) in rows {
        for (file, test) in tests_in(&proof) {
            // A published package has no other package in it.
            if file.starts_with("races/") && !root.join("races").exists() {
                continue;
            }
            let path = root.join(format!("{file}.rs"));
            let code = fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{id} names {}: {error}", path.display()));
            assert!(code.contains(&format!("fn {test}(")), "{id}: {file}.rs has no test {test}");
        }
    }
}
