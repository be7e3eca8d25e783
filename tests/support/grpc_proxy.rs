//! etcd's own gRPC proxy as a child process: what stands between many watchers and a cluster.
//!
//! Belongs to `etcd.rs`. Owns the process and its port; what the proxy does to requests and watches
//! is its own affair, and the reason to have it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use etcd_client::Client;
use tempfile::TempDir;

use super::process::{Binary, Process, Spec, free_port};
use super::{CLASHES_MAX, PROBE_MAX, READY_MAX, StartError, tail};

/// A running `etcd grpc-proxy`. Dropping it kills the process.
#[derive(Debug)]
pub struct GrpcProxy {
    process: Process,
    endpoint: String,
    log: PathBuf,
    // Dropped last, when the process that writes into it is gone.
    _home: TempDir,
}

impl GrpcProxy {
    /// Starts a proxy of `endpoints` and waits until a read passes through it.
    ///
    /// # Errors
    /// [`StartError`], as for [`EtcdServer::start`](super::EtcdServer::start).
    pub async fn start(endpoints: &[String]) -> Result<Self, StartError> {
        for _ in 1..CLASHES_MAX {
            match Self::start_once(endpoints).await {
                Err(error) if error.is_clash() => {}
                done => return done,
            }
        }
        Self::start_once(endpoints).await
    }

    async fn start_once(endpoints: &[String]) -> Result<Self, StartError> {
        let home = tempfile::Builder::new().prefix("etcd-keyspace-").tempdir()?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let args = vec![
            "grpc-proxy".to_owned(),
            "start".to_owned(),
            format!("--endpoints={}", endpoints.join(",")),
            format!("--listen-addr={address}"),
            format!("--advertise-client-url={address}"),
            format!("--data-dir={}", home.path().join("data").display()),
        ];
        let spec = Spec { binary: Binary::get()?.path.clone(), args, token: None };
        let log = home.path().join("proxy.log");
        let process = Process::launch(&spec, &log, home.path())?;
        let endpoint = format!("http://{address}");
        let mut proxy = GrpcProxy { process, endpoint, log, _home: home };
        proxy.ready().await?;
        Ok(proxy)
    }

    /// Its client URL.
    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until a linearizable read passes.
    async fn ready(&mut self) -> Result<(), StartError> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.exited() {
                return Err(StartError::Exited { status, log: tail(&self.log) });
            }
            let read = async {
                let mut client = Client::connect([&self.endpoint], None).await?;
                client.get("ready", None).await
            };
            let last = match tokio::time::timeout(PROBE_MAX, read).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer in {PROBE_MAX:?}"),
            };
            if begun.elapsed() > READY_MAX {
                return Err(StartError::NotReady { last, log: tail(&self.log) });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
