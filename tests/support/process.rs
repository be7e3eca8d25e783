//! The process of one etcd: the binary, the launch, the signals, and the end under all circumstances.
//!
//! Belongs to `etcd.rs` and what that brings. Blocks for milliseconds at most; knows nothing about
//! clients, clusters or readiness.

use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use super::StartError;

/// A running etcd and its watchdog.
///
/// The watchdog is a shell that reads from a pipe whose other end only this process holds. When this
/// process ends in any way, the kernel closes the pipe, and the shell kills etcd and removes the
/// directory. (Linux could do it with `PR_SET_PDEATHSIG`, which needs unsafe code, is tied to the
/// *thread* that spawned, and leaves the directory.) No moment is without a guard: etcd's process is
/// at first a shell too, which becomes etcd only when told to, and by then the watchdog runs.
#[derive(Debug)]
pub(super) struct Process {
    etcd: Child,
    watchdog: Child,
    leash: Option<ChildStdin>,
}

impl Process {
    pub(super) fn launch(spec: &Spec, log: &Path, home: &Path) -> io::Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new("sh");
        command.args(["-c", r#"read -r go && exec "$0" "$@" </dev/null"#]);
        command.arg(&spec.binary).args(&spec.args).args(&spec.token);
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        // A process group of its own: Ctrl-C is for us, and we decide what becomes of etcd.
        command.process_group(0);
        for (name, _) in std::env::vars_os() {
            // etcd takes options from its environment, where they would count like arguments.
            if name.as_encoded_bytes().starts_with(b"ETCD_") && name != "ETCD_UNSUPPORTED_ARCH" {
                command.env_remove(name);
            }
        }
        let mut etcd = command.spawn()?;
        let mut go = etcd.stdin.take();
        let guard = r#"read -r off || { kill -9 "$0"; rm -rf "$1" || { sleep 1; rm -rf "$1"; }; }"#;
        let watchdog = Command::new("sh")
            .args(["-c", guard, &etcd.id().to_string()])
            .arg(home)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        let mut watchdog = watchdog.inspect_err(|_| {
            let _ = etcd.kill();
            let _ = etcd.wait();
        })?;
        let leash = watchdog.stdin.take();
        let process = Self { etcd, watchdog, leash };
        go.as_mut().map_or(Ok(()), |go| go.write_all(b"go\n"))?;
        Ok(process)
    }

    pub(super) fn id(&self) -> u32 {
        self.etcd.id()
    }

    pub(super) fn exited(&mut self) -> Option<ExitStatus> {
        self.etcd.try_wait().expect("our own child can be waited for")
    }

    /// Sends a signal that std does not send, without unsafe code. A process that has ended and was
    /// not reaped takes it too.
    pub(super) fn signal(&self, name: &str) {
        let pid = self.etcd.id().to_string();
        let sent = Command::new("sh").args(["-c", r#"kill -s "$0" "$1""#, name, &pid]).output();
        sent.expect("it was started by a shell");
    }

    /// Every thread of the process has stopped. Without `/proc`: the process as `ps` shows it.
    pub(super) fn is_stopped(&self) -> bool {
        let pid = self.etcd.id().to_string();
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            let state = Command::new("ps").args(["-o", "stat=", "-p", &pid]).output();
            return state.is_ok_and(|state| state.stdout.starts_with(b"T"));
        };
        // A thread that ended meanwhile runs no more.
        let stopped = |stat: io::Result<String>| stat.map_or(true, |stat| stat.contains(") T "));
        threads.flatten().all(|thread| stopped(fs::read_to_string(thread.path().join("stat"))))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.etcd.kill();
        // Off the leash before etcd is reaped: until then its process id belongs to nobody else.
        if let Some(mut leash) = self.leash.take() {
            let _ = leash.write_all(b"off\n");
        }
        let _ = self.watchdog.wait();
        let _ = self.etcd.wait();
    }
}

/// What a process is launched with.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) binary: PathBuf,
    pub(super) args: Vec<String>,
    /// The last argument, for a member of a cluster: what makes it another cluster when changed.
    pub(super) token: Option<String>,
}

/// Finds etcd: `$ETCD`, else the one bundled by a crate, else the first in `PATH`. A set `$ETCD`
/// that is not a file is an error, so that a wrong path does not silently test another version.
///
/// # Errors
/// [`StartError::NoBinary`] names all three places.
pub fn find_binary(
    env: Option<OsString>,
    bundle: Option<PathBuf>,
    path: Option<OsString>,
) -> Result<PathBuf, StartError> {
    if let Some(named) = env {
        if Path::new(&named).is_file() {
            return Ok(named.into());
        }
        let else_ = "unset it, and the bundled etcd is taken, or else the first in $PATH";
        let tried = format!("$ETCD names {named:?}, which is not a file ({else_})");
        return Err(StartError::NoBinary { tried });
    }
    if let Some(bundled) = bundle.filter(|bundled| bundled.is_file()) {
        return Ok(bundled);
    }
    let path = path.unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|dir| dir.join("etcd")).find(|etcd| etcd.is_file());
    let tried = "$ETCD is not set, the bundle (crate etcd-bin-vendored) has none for this platform, \
                 and no directory of $PATH holds an `etcd`";
    found.ok_or_else(|| StartError::NoBinary { tried: tried.into() })
}

/// The etcd of this test process.
#[derive(Debug)]
pub(super) struct Binary {
    pub(super) path: PathBuf,
    pub(super) version: String,
}

impl Binary {
    pub(super) fn get() -> Result<&'static Self, StartError> {
        static BINARY: OnceLock<Binary> = OnceLock::new();
        if let Some(binary) = BINARY.get() {
            return Ok(binary);
        }
        let bundle = etcd_bin_vendored::etcd_bin_path().ok().map(Path::to_owned);
        let path = find_binary(std::env::var_os("ETCD"), bundle, std::env::var_os("PATH"))?;
        // Absolute, as a shell takes a name without a slash from `PATH`.
        let path = std::path::absolute(path)?;
        let output = Command::new(&path).arg("--version").stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
        let tried = || format!("`{} --version` answers {text:?}", path.display());
        let version = version.ok_or_else(|| StartError::NoBinary { tried: tried() })?.to_owned();
        Ok(BINARY.get_or_init(|| Self { path, version }))
    }

    /// etcd 3.6 dropped the word from the names of its proven options.
    pub(super) fn progress_flag(&self) -> &'static str {
        if self.version.starts_with("3.4.") || self.version.starts_with("3.5.") {
            "experimental-watch-progress-notify-interval"
        } else {
            "watch-progress-notify-interval"
        }
    }
}

/// A loopback port that nobody listens on, outside the ranges from which systems take the local
/// ports of outgoing connections (Linux 32768, others 49152 and above). Inside, any connection may
/// take the port while its server is down, and a client that knocks at the closed door of a port in
/// the range can even meet itself there.
///
/// # Errors
/// If a hundred random ports in a row cannot be bound.
pub fn free_port() -> io::Result<u16> {
    let mut last = None;
    for _ in 0..100 {
        let random = RandomState::new().hash_one(std::process::id());
        let port = 15_000 + u16::try_from(random % 15_000).expect("less than 15 000");
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("a hundred errors"))
}
