//! The programs in `examples/` as processes.
//!
//! Owns finding them, built from the sources of now: cargo builds examples for a whole test run, and
//! not for a single test. Must not know what they do.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of this")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{fs, io};

use tokio::process::Child;

/// The features that these tests were built with, so that nothing is built twice.
const FEATURES: [(&str, bool); 9] = [
    ("default", cfg!(feature = "default")),
    ("json", cfg!(feature = "json")),
    ("journal", cfg!(feature = "journal")),
    ("metrics", cfg!(feature = "metrics")),
    ("test-util", cfg!(feature = "test-util")),
    ("tls", cfg!(feature = "tls")),
    ("tls-aws-lc", cfg!(feature = "tls-aws-lc")),
    ("tls-native-roots", cfg!(feature = "tls-native-roots")),
    ("tls-webpki-roots", cfg!(feature = "tls-webpki-roots")),
];

/// The path of an example, which is built first if it is not up to date.
///
/// # Panics
/// If it cannot be built.
pub fn built(name: &str) -> PathBuf {
    // Tests of one process share what one of them builds.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock();
    // target/debug/deps/test-0123
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let path = profile.join("examples").join(name);
    if !is_current(&path).unwrap_or(false) {
        build(name, profile);
    }
    path
}

/// Whether no source that the program was built from has changed since, as cargo has listed them.
fn is_current(path: &Path) -> io::Result<bool> {
    let built = fs::metadata(path)?.modified()?;
    let list = fs::read_to_string(path.with_extension("d"))?;
    let sources = list.split_once(": ").map_or("", |(_, sources)| sources).replace("\\ ", "\0");
    for source in sources.split_whitespace() {
        if fs::metadata(source.replace('\0', " "))?.modified()? > built {
            return Ok(false);
        }
    }
    Ok(!sources.is_empty())
}

fn build(name: &str, profile: &Path) {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo has set for this process would make another build of it, of every dependency whose
    // build script looks at its environment.
    for (variable, value) in std::env::vars_os() {
        let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_PRIMARY_"];
        let named = variable.to_string_lossy();
        let own = named == "PROTOC" && Path::new(&value).ends_with("tools/protoc.sh");
        if own || of_package.iter().any(|start| named.starts_with(start)) {
            cargo.env_remove(&variable);
        }
    }
    let features: Vec<_> = FEATURES.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    cargo.args(["build", "--quiet", "--locked", "--example", name, "--no-default-features"]);
    cargo.args(["--features", &features.join(",")]);
    cargo.arg("--target-dir").arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(status.success(), "the example {name} does not build");
}

/// Sends a signal by its name.
pub async fn signal(process: &Child, name: &str) {
    let pid = process.id().expect("it runs").to_string();
    let mut kill = tokio::process::Command::new("sh");
    let sent = kill.args(["-c", r#"kill -s "$0" "$1""#, name, &pid]).status().await;
    assert!(sent.unwrap().success());
}
