//! The example `tail` as a process on a real etcd: what it prints, in pipes and to its end.
#![cfg(feature = "json")]

#[cfg(any(feature = "tls", feature = "tls-aws-lc"))]
#[path = "security/certificates.rs"]
#[allow(dead_code, reason = "made for the tests of TLS, of which this needs a part")]
mod certificates;
#[path = "support/example.rs"]
mod example;
mod support;

use std::process::Stdio;

use etcd_client::{Client, Permission, TxnOp};
use serde_json::Value;
use support::proxy::Proxy;
use support::real::{commit, delete, put};
use support::{EtcdServer, shared, unique_prefix, within};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// A running `tail`.
struct Tail {
    process: Child,
    out: Lines<BufReader<ChildStdout>>,
    talk: Lines<BufReader<ChildStderr>>,
}

impl Tail {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(example::built("tail"));
        command.args(args).stdin(Stdio::null()).kill_on_drop(true);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap()).lines();
        let talk = BufReader::new(process.stderr.take().unwrap()).lines();
        Tail { process, out, talk }
    }

    /// The next line of data, its columns with one space between.
    async fn line(&mut self) -> String {
        let line = within("a line", self.out.next_line()).await.unwrap().expect("it goes on");
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    async fn json(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }

    /// Waits until it says something with this in it.
    async fn says(&mut self, text: &str) -> String {
        let said = async {
            while let Some(line) = self.talk.next_line().await.unwrap() {
                if line.contains(text) {
                    return line;
                }
            }
            panic!("it ended without saying {text:?}")
        };
        within(text, said).await
    }

    async fn ends(mut self, signal: &str) {
        example::signal(&self.process, signal).await;
        let ended = within("the end", self.process.wait()).await.unwrap();
        assert!(ended.success(), "{signal}: {ended:?}");
        let rest = within("the rest", self.out.next_line()).await.unwrap();
        assert_eq!(rest, None, "nothing half printed");
    }
}

#[tokio::test]
async fn a_table_first_and_then_a_line_for_each_change_until_it_is_told_to_end() {
    let etcd = shared().await;
    let mut client = etcd.client().await;
    let prefix = unique_prefix("tail");
    let a = put(&mut client, format!("{prefix}a"), "1").await;
    let b = put(&mut client, format!("{prefix}b"), "two\x1b[2J\nlines").await;
    for signal in ["TERM", "INT"] {
        let mut tail = Tail::start(&[&prefix, "--endpoints", &etcd.endpoint()]);
        assert_eq!(tail.line().await, format!("{prefix}a {a} 1"));
        let escaped = r"two\u{1b}[2J\nlines";
        assert_eq!(tail.line().await, format!("{prefix}b {b} {escaped}"));
        tail.says("2 keys at revision").await;
        let c = put(&mut client, format!("{prefix}c"), "3").await;
        assert_eq!(tail.line().await, format!("+ {prefix}c {c} 3"));
        let c = put(&mut client, format!("{prefix}c"), "4").await;
        assert_eq!(tail.line().await, format!("~ {prefix}c {c} 4"));
        delete(&mut client, format!("{prefix}c")).await;
        assert_eq!(tail.line().await, format!("- {prefix}c"));
        tail.ends(signal).await;
    }
}

#[tokio::test]
async fn json_has_a_line_for_each_key_and_each_change() {
    let etcd = shared().await;
    let mut client = etcd.client().await;
    let prefix = unique_prefix("tail");
    let key = format!("{prefix}a");
    let first = put(&mut client, &key, "\"text\"").await;
    let mut tail = Tail::start(&[&prefix, "--json", "--endpoints", &etcd.endpoint()]);
    let line = tail.json().await;
    assert_eq!((line["op"].as_str(), line["key"].as_str()), (Some("="), Some(key.as_str())));
    assert_eq!(
        (line["value"].as_str(), line["mod_revision"].as_i64()),
        (Some("\"text\""), Some(first))
    );
    put(&mut client, &key, "2").await;
    let line = tail.json().await;
    assert_eq!((line["op"].as_str(), line["version"].as_i64()), (Some("~"), Some(2)));
    assert_eq!(line["create_revision"].as_i64(), Some(first));
    delete(&mut client, &key).await;
    assert_eq!(tail.json().await["op"], "-");
    tail.ends("TERM").await;
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_ends_it_quietly() {
    let etcd = shared().await;
    let mut client = etcd.client().await;
    let prefix = unique_prefix("tail");
    put(&mut client, format!("{prefix}a"), "1").await;
    let tail = Tail::start(&[&prefix, "--endpoints", &etcd.endpoint()]);
    let Tail { mut process, mut out, mut talk } = tail;
    within("the table", out.next_line()).await.unwrap().unwrap();
    drop(out);
    put(&mut client, format!("{prefix}b"), "1").await;
    let ended = within("the end", process.wait()).await.unwrap();
    assert!(ended.success(), "{ended:?}");
    while let Some(line) = within("the talk", talk.next_line()).await.unwrap() {
        assert!(line.starts_with("# "), "no complaint: {line}");
    }
}

#[tokio::test]
async fn a_pipeline_ends_with_its_reader_though_nothing_changes_any_more() {
    let etcd = shared().await;
    let mut client = etcd.client().await;
    let prefix = unique_prefix("tail");
    let a = put(&mut client, format!("{prefix}a"), "1").await;
    put(&mut client, format!("{prefix}b"), "2").await;
    let mut pipeline = Command::new("sh");
    let script = r#""$0" "$@" | head -n 1"#;
    pipeline.args(["-c", script]).arg(example::built("tail"));
    pipeline.args([&prefix, "--endpoints", &etcd.endpoint()]).kill_on_drop(true);
    let output = within("the end of the pipeline", pipeline.output()).await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("  {prefix}a  {a:>8}  1\n"));
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(talk.lines().all(|line| line.starts_with("# ")), "no complaint: {talk}");
}

#[tokio::test]
async fn it_ends_when_told_to_though_nobody_takes_its_output() {
    let etcd = shared().await;
    let mut client = etcd.client().await;
    let prefix = unique_prefix("tail");
    // More than a pipe holds, so that it blocks in the middle of the table.
    put(&mut client, format!("{prefix}a"), "x".repeat(300_000)).await;
    let mut tail = Tail::start(&[&prefix, "--endpoints", &etcd.endpoint()]);
    let first = within("some output", tail.out.get_mut().fill_buf()).await.unwrap();
    assert!(!first.is_empty());
    example::signal(&tail.process, "TERM").await;
    assert!(within("the end", tail.process.wait()).await.unwrap().success());
}

/// Two thousand keys behind a proxy that holds the load in its middle.
async fn held_load(etcd: &EtcdServer, prefix: &str) -> Proxy {
    let mut client = etcd.client().await;
    for n in (0..2_000).step_by(100) {
        let puts =
            (n..n + 100).map(|n| TxnOp::put(format!("{prefix}{n:04}"), "x".repeat(1_000), None));
        commit(&mut client, puts.collect::<Vec<_>>()).await;
    }
    let proxy = Proxy::start(&etcd.endpoint()).await.unwrap();
    proxy.stall_after(1_200_000).await;
    proxy
}

/// Reads what a terminal is shown until something is in it.
async fn shown(terminal: &mut ChildStdout, so_far: &mut String, text: &str) {
    let mut bytes = vec![0; 4096];
    while !so_far.contains(text) {
        let read = within(text, terminal.read(&mut bytes)).await.unwrap();
        assert!(read > 0, "it ended without {text:?}: {so_far:?}");
        so_far.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_load_shows_a_bar_on_a_terminal_and_nothing_in_a_pipe() {
    let etcd = shared().await;
    let prefix = unique_prefix("tail");
    let proxies = [held_load(etcd, &prefix).await, Proxy::start(&etcd.endpoint()).await.unwrap()];
    proxies[1].stall_after(1_200_000).await;
    let [to_pipe, to_terminal] = proxies.each_ref().map(Proxy::endpoint);
    let program = example::built("tail");

    // The first is older than the second, which has waited long enough once it shows its bar.
    let mut piped = Tail::start(&[&prefix, "--once", "--endpoints", &to_pipe]);
    proxies[0].stalled().await;
    let command = format!(
        "stty cols 100; '{}' '{prefix}' --once --endpoints {to_terminal}",
        program.display()
    );
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
    script.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut terminal = match script.spawn() {
        Ok(terminal) => terminal,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: there is no terminal to be had, for want of `script`");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let mut out = terminal.stdout.take().unwrap();
    let mut seen = String::new();
    // A range stream says only at its end how many there are; pages say so at once.
    let version: Vec<u32> = etcd.version().split('.').map_while(|n| n.parse().ok()).collect();
    let bar = if version >= vec![3, 7] { "keys so far" } else { " of 2,000 keys" };
    shown(&mut out, &mut seen, bar).await;
    assert!(seen.contains("loading"), "{seen:?}");
    assert!(!seen.contains("changes follow"), "it still loads: {seen:?}");

    for proxy in &proxies {
        proxy.pass().await;
    }
    shown(&mut out, &mut seen, "2000 keys at revision").await;
    let after = seen.rsplit_once(" keys").unwrap().0.rsplit_once(bar).unwrap().1;
    assert!(after.contains("\x1b[2K"), "the bar is taken away before the table");
    assert!(within("the end", terminal.wait()).await.unwrap().success());

    for _ in 0..2_000 {
        piped.line().await;
    }
    let talk = piped.says("").await;
    assert!(talk.starts_with("# 2000 keys at revision "), "all it has said: {talk}");
    assert_eq!(within("the end of the talk", piped.talk.next_line()).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_when_told_to_while_it_loads() {
    let etcd = shared().await;
    let prefix = unique_prefix("tail");
    let proxy = held_load(etcd, &prefix).await;
    let tail = Tail::start(&[&prefix, "--endpoints", &proxy.endpoint()]);
    proxy.stalled().await;
    tail.ends("INT").await;
}

#[tokio::test]
async fn its_help_tells_each_option() {
    let help = Command::new(example::built("tail")).arg("--help").output().await.unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let options =
        ["endpoints", "json", "stats", "at", "once", "timeout", "user", "cacert", "cert", "key"];
    for option in options {
        let line = help.lines().find(|line| line.trim().starts_with(&format!("--{option} ")));
        let words = line.unwrap_or_else(|| panic!("--{option} is not in {help}"));
        assert!(words.split_whitespace().count() > 3, "{words}");
    }
    assert_eq!(help.matches("--").count(), options.len() + 1, "and --help, and no other: {help}");
}

#[tokio::test]
async fn it_begins_at_a_revision_and_goes_on_from_there() {
    let etcd = shared().await;
    let mut client = etcd.client().await;
    let prefix = unique_prefix("tail");
    let a = put(&mut client, format!("{prefix}a"), "old").await;
    put(&mut client, format!("{prefix}a"), "new").await;
    put(&mut client, format!("{prefix}b"), "1").await;
    let at = a.to_string();
    let mut tail = Tail::start(&[&prefix, "--at", &at, "--endpoints", &etcd.endpoint()]);
    assert_eq!(tail.line().await, format!("{prefix}a {a} old"));
    let mut changes = [tail.line().await, tail.line().await];
    changes.sort();
    assert!(changes[0].starts_with(&format!("+ {prefix}b")), "{changes:?}");
    assert!(changes[1].starts_with(&format!("~ {prefix}a")), "{changes:?}");
    tail.ends("TERM").await;

    let mut once = Tail::start(&[&prefix, "--at", &at, "--once", "--endpoints", &etcd.endpoint()]);
    assert_eq!(once.line().await, format!("{prefix}a {a} old"));
    assert!(within("the end", once.process.wait()).await.unwrap().success());
}

#[tokio::test]
async fn it_says_what_happens_to_etcd_and_each_second_how_it_is() {
    let etcd = EtcdServer::builder().durable().start().await.unwrap();
    let mut client = etcd.client().await;
    put(&mut client, "/a", "1").await;
    let mut tail = Tail::start(&["--stats", "--endpoints", &etcd.endpoint()]);
    assert!(tail.line().await.starts_with("/a "));
    let stats = tail.says("events/s").await;
    assert!(stats.starts_with("# live, 1 keys, revision "), "{stats}");
    etcd.kill();
    tail.says("# reconnecting: ").await;
    etcd.restart().await.unwrap();
    tail.says("# live again").await;
    let mut client = etcd.client().await;
    put(&mut client, "/b", "2").await;
    assert!(tail.line().await.starts_with("+ /b "));
    tail.ends("TERM").await;
}

#[tokio::test]
async fn what_cannot_work_is_said_and_fails() {
    let fails = async |args: &[&str], text: &str| {
        let mut tail = Tail::start(args);
        tail.says(text).await;
        assert!(!within("the end", tail.process.wait()).await.unwrap().success());
    };
    let nobody = format!("http://127.0.0.1:{}", support::etcd::free_port().unwrap());
    fails(&["--timeout", "1", "--endpoints", &nobody], "  see that --endpoints is right").await;
    fails(&["--user", "x"], "name:password").await;
    fails(&["--endpoint", "x"], "'--endpoints'").await;
    fails(&["--cert", "x"], "--key <FILE>").await;
    fails(&["--at", "0"], "--at <REVISION>").await;
    // Causes are told once, in words for people.
    let mut tail = Tail::start(&["--timeout", "1", "--endpoints", &nobody]);
    let said = tail.says("error: ").await;
    assert!(said.contains("unavailable") && !said.contains("code:"), "{said}");

    let etcd = EtcdServer::start().await.unwrap();
    guard(&mut etcd.client().await).await;
    let endpoint = etcd.endpoint();
    fails(&["--endpoints", &endpoint], "--user").await;
    fails(&["/app/", "--user", "reader:wrong", "--endpoints", &endpoint], "--user").await;
    let with_user = ["/app/", "--user", "reader:secret", "--endpoints", &endpoint];
    let mut tail = Tail::start(&with_user);
    assert!(tail.line().await.starts_with("/app/a "));
    tail.ends("TERM").await;
}

/// A user `reader` who may read `/app/`, and nobody else.
async fn guard(client: &mut Client) {
    put(client, "/app/a", "1").await;
    client.user_add("root", "root", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("reader").await.unwrap();
    let permission = Permission::read("/app/").with_prefix();
    client.role_grant_permission("reader", permission).await.unwrap();
    client.user_add("reader", "secret", None).await.unwrap();
    client.user_grant_role("reader", "reader").await.unwrap();
    client.auth_enable().await.unwrap();
}

#[cfg(any(feature = "tls", feature = "tls-aws-lc"))]
#[tokio::test]
async fn tls_takes_an_authority_and_a_certificate_from_files() {
    let authority = certificates::Authority::new();
    let etcd = authority.start("127.0.0.1", true).await;
    put(&mut etcd.client().await, "/a", "1").await;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let client = authority.client("a person");
    let cacert = file("ca.pem", &authority.pem());
    let (cert, key) = (file("cert.pem", &client.certificate), file("key.pem", &client.key));
    let endpoint = etcd.endpoint();
    let args = ["--cacert", &cacert, "--cert", &cert, "--key", &key, "--endpoints", &endpoint];
    let mut tail = Tail::start(&args);
    assert!(tail.line().await.starts_with("/a "));
    tail.ends("TERM").await;
    let mut stranger =
        Tail::start(&["--timeout", "2", "--cacert", &cacert, "--endpoints", &endpoint]);
    stranger.says("error: ").await;
    stranger.says("--cert").await;
    let mut lost = Tail::start(&["--cacert", "/no/such/file", "--endpoints", &endpoint]);
    lost.says("give the path of a PEM file").await;
    let plain = endpoint.replace("https:", "http:");
    let mut plain = Tail::start(&["--cacert", &cacert, "--endpoints", &plain]);
    plain.says("HTTPS").await;
}
