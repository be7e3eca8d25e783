//! Imports go down the layers only: the table of rooms, and a check that the sources keep it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each room with those it may import, lowest first; a room may import only rooms that stand above it in
/// this list, so there are no cycles.
const LAYERS: &[(&str, &[&str])] = &[
    // Plain words.
    ("model", &[]),
    // Pure: no lock, no I/O, no clock, no thread, no async.
    ("view", &["model"]),
    ("source", &["model"]),
    // The lock, and what a step updates.
    ("publish", &["model", "view"]),
    ("testing", &["model", "source"]),
    // Handles and consumers.
    ("keyspace", &["model", "publish", "view"]),
    ("metrics", &["publish"]),
    ("follow", &["keyspace", "model", "publish", "view"]),
    // The driver.
    ("mirror", &["keyspace", "metrics", "model", "publish", "source", "view"]),
    // Nothing below knows of these.
    ("spaces", &["keyspace", "mirror", "model", "publish", "source", "view"]),
    ("journal", &["mirror", "model", "publish", "view"]),
];

/// What the pure layer must not name.
const PURE: &[&str] = &["model", "view"];
const IMPURE: &[&str] =
    &["parking_lot", "tokio", "std::thread", "std::io", "std::net", "Instant", "async fn"];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The code of each module without comments and unit tests.
fn modules() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut modules: BTreeMap<String, String> = BTreeMap::new();
    for file in files {
        let inner = file.strip_prefix(&root).unwrap();
        let parts: Vec<_> = inner.iter().map(|part| part.to_str().unwrap()).collect();
        let name = parts[0].trim_end_matches(".rs").to_owned();
        let is_test = parts.iter().any(|part| ["tests", "tests.rs"].contains(part));
        if name == "lib" || is_test {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let module = modules.entry(name).or_default();
        lines.for_each(|line| {
            module.push_str(line);
            module.push('\n');
        });
    }
    modules
}

fn imports(code: &str) -> Vec<String> {
    let ends = |c: char| !(c.is_alphanumeric() || c == '_');
    let after = code.split("crate::").skip(1);
    after.map(|rest| rest.split(ends).next().unwrap_or_default().to_owned()).collect()
}

/// The names that stand behind each `super::` of a file in `folder`, and behind the folder's own path, those
/// in braces included.
fn siblings_named(folder: &Path, code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    let parts: Vec<_> = folder.iter().map(|part| part.to_str().unwrap()).collect();
    let own = format!("crate::{}::", parts.join("::"));
    for rest in code.split("super::").skip(1).chain(code.split(&own).skip(1)) {
        let end = if rest.starts_with('{') { rest.find('}') } else { rest.find([':', ';', ' ']) };
        let words =
            rest[..end.unwrap_or(rest.len())].split(|c: char| !c.is_alphanumeric() && c != '_');
        named.extend(words.map(str::to_owned));
    }
    named
}

/// The files of each folder with the other files there that they import.
fn files_by_folder() -> BTreeMap<PathBuf, BTreeMap<String, BTreeSet<String>>> {
    let mut files = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    sources(&root, &mut files);
    let mut folders: BTreeMap<PathBuf, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        // What a folder shares stands in its `mod.rs`, and tests see everything.
        if ["mod", "tests"].contains(&&*name)
            || file.components().any(|part| part.as_os_str() == "tests")
        {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
        let folder = folders.entry(file.parent().unwrap().to_owned()).or_default();
        let inner = file.parent().unwrap().strip_prefix(&root).unwrap();
        folder.insert(name, siblings_named(inner, &code));
    }
    folders
}

#[test]
fn every_module_has_its_place_and_the_table_goes_down_only() {
    let modules = modules();
    let listed: Vec<_> = LAYERS.iter().map(|(name, _)| *name).collect();
    for name in modules.keys() {
        assert!(listed.contains(&name.as_str()), "src/{name} has no row in the table of layers");
    }
    for (index, (name, allowed)) in LAYERS.iter().enumerate() {
        assert!(modules.contains_key(*name), "the table lists {name}, which is not there");
        for import in *allowed {
            let below = LAYERS[..index].iter().any(|(lower, _)| lower == import);
            assert!(below, "the table lets {name} import {import}, which is not below it");
        }
    }
}

#[test]
fn modules_import_what_the_table_allows() {
    let modules = modules();
    for (name, allowed) in LAYERS {
        let imports = imports(&modules[*name]);
        for import in &imports {
            let listed = LAYERS.iter().any(|(module, _)| module == import);
            let fine = import == name || !listed || allowed.contains(&import.as_str());
            assert!(fine, "src/{name} imports {import}, which the table of layers does not allow");
        }
        for allowed in *allowed {
            assert!(
                imports.iter().any(|import| import == allowed),
                "the table lets {name} import {allowed}, which it does not need"
            );
        }
    }
}

/// A room is used through what its `mod.rs` exports, so that its files can change.
#[test]
fn no_path_goes_past_the_face_of_another_room() {
    let rooms: Vec<_> = LAYERS.iter().map(|(name, _)| *name).collect();
    for (room, code) in modules() {
        for rest in code.split("crate::").skip(1) {
            let mut parts = rest.split("::");
            let (other, next) =
                (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let is_module = next.starts_with(|c: char| c.is_lowercase()) && parts.next().is_some();
            let next = next.split(|c: char| !c.is_alphanumeric() && c != '_').next();
            // Public traits of tests and doubles seal themselves by the module of that name.
            let past = rooms.contains(&other) && other != room && is_module;
            let path = rest.split([';', ' ', '\n']).next().unwrap_or_default();
            let names_a_module = path.split("::").count() > 2;
            assert!(
                !(past && names_a_module) || next == Some("sealed"),
                "src/{room} names crate::{path}: go through the face of {other}"
            );
        }
    }
}

#[test]
fn the_pure_layer_names_nothing_impure() {
    let modules = modules();
    for name in PURE {
        for impure in IMPURE {
            assert!(!modules[*name].contains(impure), "src/{name} names {impure}");
        }
    }
}

#[test]
fn the_client_library_is_named_in_the_source_of_real_etcd_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files {
        let inner = file.strip_prefix(&root).unwrap();
        if inner.starts_with("source/etcd") || inner == Path::new("lib.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            assert!(!line.contains("etcd_client"), "{} names etcd_client", inner.display());
        }
    }
}

/// Inside a folder, too: files that import each other can only be understood together.
#[test]
fn no_files_of_a_folder_import_each_other_in_a_circle() {
    let mut checked = 0;
    for (folder, mut files) in files_by_folder() {
        checked += files.len();
        // What imports nothing that is left can be understood by itself; in a circle nothing can.
        while !files.is_empty() {
            let left: BTreeSet<String> = files.keys().cloned().collect();
            let before = files.len();
            files.retain(|name, named| {
                named.iter().any(|other| other != name && left.contains(other))
            });
            assert!(files.len() < before, "a circle in {}: {files:#?}", folder.display());
        }
    }
    assert!(checked > 100, "{checked} files were looked at");
}
