//! A headless Chromium driven over its debugging pipe: pages, expressions, and what the console says.
//!
//! Owns the process and the protocol, without any library for it: messages are JSON with a zero byte
//! behind. Must not know what is on a page. There is none on many machines, so it may be `None`.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of this")]

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

const NAMES: [&str; 5] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];

/// `$CHROMIUM`, or the first browser of that family in `PATH`.
///
/// # Panics
/// If `$CHROMIUM` is set and no file, so that a wrong path does not skip a test.
pub fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CHROMIUM").filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "$CHROMIUM names {named:?}, which is not a file");
        return Some(named);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).flat_map(|dir| NAMES.map(|name| dir.join(name)));
    all.into_iter().find(|browser| browser.is_file())
}

/// A page of a browser of its own; both end when it is dropped.
pub struct Page {
    browser: Child,
    commands: File,
    messages: mpsc::UnboundedReceiver<Value>,
    session: Option<String>,
    next_id: u64,
    /// What was seen while something else was waited for.
    complaints: VecDeque<String>,
    _home: TempDir,
}

impl Page {
    /// Starts the browser with an empty page.
    ///
    /// # Panics
    /// If it does not start or breaks the protocol.
    pub async fn open(browser: PathBuf) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (to, from) = (home.path().join("to"), home.path().join("from"));
        let made = Command::new("mkfifo").args([&to, &from]).status().unwrap();
        assert!(made.success());
        // The browser reads commands from descriptor 3 and writes answers to descriptor 4.
        let script = r#"to=$1; from=$2; shift 2; exec "$0" "$@" 3<"$to" 4>"$from""#;
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(browser).args([&to, &from]);
        command.args(["--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"]);
        command.args([
            "--no-first-run",
            "--disable-background-networking",
            "--disable-dev-shm-usage",
        ]);
        command.arg(format!("--user-data-dir={}", home.path().join("profile").display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let browser = command.spawn().unwrap();
        // In the order in which the shell opens the other ends.
        let open = move || {
            let commands = OpenOptions::new().write(true).open(to)?;
            Ok::<_, std::io::Error>((commands, File::open(from)?))
        };
        let (commands, answers) = tokio::task::spawn_blocking(open).await.unwrap().unwrap();
        let (sender, messages) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for message in BufReader::new(answers).split(0) {
                let Ok(message) = message else { return };
                let parsed = serde_json::from_slice(&message);
                if sender.send(parsed.expect("the browser speaks JSON")).is_err() {
                    return;
                }
            }
        });
        let complaints = VecDeque::new();
        let mut page = Page {
            browser,
            commands,
            messages,
            session: None,
            next_id: 0,
            complaints,
            _home: home,
        };
        let target = page.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = page.call("Target.attachToTarget", attach).await;
        page.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            page.call(domain, json!({})).await;
        }
        page
    }

    /// Sends a command of the protocol and gives its result.
    ///
    /// # Panics
    /// If the browser refuses it or has gone.
    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        self.next_id += 1;
        let id = self.next_id;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.commands.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let mut message = self.messages.recv().await.expect("the browser has gone");
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            self.note(&message);
        }
    }

    /// Keeps what a developer would see in red. That a server cannot be reached is said by the browser
    /// itself and no fault of the page.
    fn note(&mut self, message: &Value) {
        let params = &message["params"];
        let complaint = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => {
                matches!(params["type"].as_str(), Some("error" | "warning" | "assert"))
            }
            Some("Log.entryAdded") => {
                let entry = &params["entry"];
                matches!(entry["level"].as_str(), Some("error" | "warning"))
                    && entry["source"] != "network"
            }
            _ => false,
        };
        if complaint {
            self.complaints.push_back(params.to_string());
        }
    }

    pub async fn go(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url})).await;
    }

    /// The value of an expression.
    ///
    /// # Panics
    /// If it throws.
    pub async fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut result = self.call("Runtime.evaluate", params).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Waits until an expression is true in the page, which looks at it after each of its turns.
    pub async fn until(&mut self, what: &str, expression: &str) {
        let looking = format!(
            "new Promise(done => {{ const look = () => ({expression}) ? done(true) : setTimeout(look, 15); look(); }})"
        );
        let found = tokio::time::timeout(super::WAIT_MAX, self.value(&looking)).await;
        if found.is_err() {
            let text = tokio::time::timeout(super::WAIT_MAX, self.value("document.body.innerText"));
            panic!("not in {:?}: {what}; the page shows: {:?}", super::WAIT_MAX, text.await);
        }
    }

    /// Errors and warnings of the page so far.
    pub async fn complaints(&mut self) -> Vec<String> {
        // What happened before this answer has been told before it.
        self.value("0").await;
        self.complaints.drain(..).collect()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.browser.kill();
        let _ = self.browser.wait();
    }
}
