//! The table of promises names a test, or a reason, for each id; the tests it names exist.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A row: what stands in the third column.
fn rows() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("docs/promises.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| GZ-")) {
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
fn every_inherited_promise_has_a_test_or_a_reason() {
    let rows = rows();
    let ids = (1..=48).map(|n| format!("GZ-{n}")).chain((1..=11).map(|n| format!("GZ-C{n}")));
    for id in ids {
        let proof = rows.get(&id).unwrap_or_else(|| panic!("{id} has no row"));
        let reasoned = proof.starts_with("Not here:") && proof.len() > 30;
        assert!(reasoned || !tests_in(proof).is_empty(), "{id} names no test and no reason");
    }
}

#[test]
fn the_tests_that_the_table_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (id, proof) in rows() {
        for (file, test) in tests_in(&proof) {
            let path = root.join(format!("{file}.rs"));
            let code = fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{id} names {}: {error}", path.display()));
            assert!(code.contains(&format!("fn {test}(")), "{id}: {file}.rs has no test {test}");
        }
    }
}
