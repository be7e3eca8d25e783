//! The settings of a server, and starting it. Belongs to `etcd.rs`.

use super::*;

/// Settings of a server, and of every member of a cluster.
#[derive(Clone, Default)]
#[must_use]
pub struct EtcdBuilder {
    args: Vec<String>,
    data_dir: Option<PathBuf>,
    durable: bool,
    progress: Option<Duration>,
    connect: Option<ConnectOptions>,
}

impl EtcdBuilder {
    /// One more argument of the command line, such as `--max-request-bytes=1000`. Of two with one
    /// name the later wins, and these come after the harness's own.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Several arguments, as [`EtcdBuilder::arg`].
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Keeps the data in this directory and leaves it there at the end. Not for a cluster.
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// Lets etcd call fsync. Needed by a test that takes the machine's disk into account; a write
    /// acknowledged before `kill -9` survives either way, as the page cache is not the process's.
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// How often an idle watch is told the store revision (etcd: 10 minutes, and never less than
    /// 100 ms), under the name this version of etcd has for it.
    pub fn progress_interval(mut self, interval: Duration) -> Self {
        self.progress = Some(interval);
        self
    }

    /// Serves clients at `https://` only, who connect as `options` say. The certificates of the
    /// server are arguments of etcd: `--cert-file`, `--key-file` and what else it takes.
    pub fn tls(mut self, options: ConnectOptions) -> Self {
        self.connect = Some(options);
        self
    }

    /// Starts one server and waits until it answers.
    ///
    /// # Errors
    /// [`StartError`], as for [`EtcdServer::start`].
    pub async fn start(&self) -> Result<EtcdServer, StartError> {
        let mut servers = self.started(1).await?;
        Ok(servers.remove(0))
    }

    /// Starts a cluster of `members` servers and waits until each answers.
    ///
    /// # Errors
    /// [`StartError`], as for [`EtcdServer::start`].
    ///
    /// # Panics
    /// If a data directory was given: members cannot share one.
    pub async fn cluster(&self, members: usize) -> Result<Cluster, StartError> {
        assert!(self.data_dir.is_none(), "members of a cluster cannot share a data directory");
        Ok(Cluster { members: self.started(members).await? })
    }

    /// Adds a member without a vote to `cluster`, starts it and waits until it answers: a learner
    /// refuses everything but reads that need not be linearizable.
    ///
    /// # Errors
    /// [`StartError`], also when the cluster refuses the member.
    pub async fn learner_of(&self, cluster: &Cluster) -> Result<EtcdServer, StartError> {
        let (name, peer) = (unique("etcd"), format!("http://127.0.0.1:{}", free_port()?));
        let options = MemberAddOptions::new().with_is_learner();
        let added = cluster.client().await.member_add([&peer], Some(options)).await;
        let added = added.map_err(io::Error::other)?;
        let members = added.member_list().iter().flat_map(|member| {
            // A member has no name before it has run.
            let name = if member.name().is_empty() { name.as_str() } else { member.name() };
            member.peer_urls().iter().map(move |url| format!("{name}={url}"))
        });
        let members: Vec<_> = members.collect();
        let mut args = member_args(&name, &peer, &members.join(","), members.len());
        args.push("--initial-cluster-state=existing".into());
        let token = lock(&cluster.members[0].spec).token.clone().unwrap_or_default();
        let learner = self.server(name, token, args)?;
        learner.run().await?;
        Ok(learner)
    }

    async fn started(&self, members: usize) -> Result<Vec<EtcdServer>, StartError> {
        for _ in 1..CLASHES_MAX {
            match self.start_once(members).await {
                Err(error) if error.is_clash() => {}
                done => return done,
            }
        }
        self.start_once(members).await
    }

    async fn start_once(&self, members: usize) -> Result<Vec<EtcdServer>, StartError> {
        let token = unique_token();
        let mut names = Vec::new();
        for _ in 0..members {
            names.push((unique("etcd"), format!("http://127.0.0.1:{}", free_port()?)));
        }
        let cluster: Vec<String> =
            names.iter().map(|(name, url)| format!("{name}={url}")).collect();
        let cluster = cluster.join(",");
        let mut servers = Vec::new();
        for (name, peer) in names {
            let args = member_args(&name, &peer, &cluster, members);
            servers.push(self.server(name, token.clone(), args)?);
        }
        // All run before any is waited for, as none is ready without a majority.
        for server in &servers {
            server.launch()?;
        }
        for server in &servers {
            server.ready().await?;
        }
        Ok(servers)
    }

    /// A server without a process. `args` are those that come from its place in the cluster.
    fn server(
        &self,
        name: String,
        token: String,
        mut args: Vec<String>,
    ) -> Result<EtcdServer, StartError> {
        let binary = Binary::get()?;
        let home = tempfile::Builder::new().prefix("etcd-keyspace-").tempdir()?;
        let data_dir = self.data_dir.clone().unwrap_or_else(|| home.path().join("data"));
        let log = home.path().join("etcd.log");
        let scheme = if self.connect.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://127.0.0.1:{}", free_port()?);
        args.extend([
            format!("--data-dir={}", data_dir.display()),
            format!("--listen-client-urls={endpoint}"),
            format!("--advertise-client-urls={endpoint}"),
            "--logger=zap".into(),
            "--log-level=warn".into(),
            "--log-outputs=stderr".into(),
        ]);
        if !self.durable {
            args.push("--unsafe-no-fsync".into());
        }
        if let Some(interval) = self.progress {
            args.push(format!("--{}={}ms", binary.progress_flag(), interval.as_millis()));
        }
        args.extend(self.args.iter().cloned());
        let spec = Spec { binary: binary.path.clone(), args, token: Some(token) };
        Ok(EtcdServer {
            name,
            spec: Mutex::new(spec),
            process: Mutex::new(None),
            endpoint,
            connect: self.connect.clone(),
            version: binary.version.clone(),
            data_dir,
            log,
            home,
        })
    }
}
