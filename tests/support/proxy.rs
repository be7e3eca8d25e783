//! A TCP proxy on loopback that misbehaves on request.
//!
//! Owns its connections and their faults. Knows nothing about etcd or HTTP/2, and must not change a
//! byte: it delays, holds, swallows and cuts.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of this")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::etcd::free_port;

/// Bytes of one read.
const CHUNK: usize = 16 * 1024;
/// Chunks between the two ends of a direction. Behind them the sender feels the stall.
const CHUNKS_MAX: usize = 64;
/// How long the system may take to give a port back.
const PORT_MAX: Duration = Duration::from_secs(5);

/// What the proxy does with connections and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Hands everything on.
    Pass,
    /// Accepts, keeps connections open and holds their bytes, both ways, until the mode changes.
    Stall,
    /// No connection is left and none is accepted.
    Cut,
    /// Connections that exist work; new ones are refused.
    Refuse,
    /// Swallows the bytes of one direction; the other works. Bytes once swallowed are lost, so a
    /// connection that met this does not recover.
    Blackhole(Direction),
    /// Hands on this many more bytes downstream, of all connections together, then is [`Mode::Cut`].
    CutAfter(u64),
    /// As [`Mode::CutAfter`], then is [`Mode::Stall`].
    StallAfter(u64),
    /// Hands everything on, each byte this much later. Adds to the distance, not to the width.
    Delay(Duration),
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// A proxy in front of one server. It belongs to the runtime it is started in; dropping it closes
/// every connection.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy in front of `upstream`: `http://127.0.0.1:2379` or `127.0.0.1:2379`. The server
    /// need not run yet.
    ///
    /// # Errors
    /// If no loopback port can be bound.
    pub async fn start(upstream: &str) -> io::Result<Self> {
        let upstream = upstream.rsplit('/').next().unwrap_or(upstream).to_owned();
        let port = free_port()?;
        let shared = Arc::new(Shared {
            wish: watch::Sender::new(Wish { mode: Mode::Pass, cuts: 0 }),
            fact: watch::Sender::new(Fact { port: Port::Open, connections: 0 }),
            budget: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
        });
        let listener = TcpListener::bind(address(port)).await?;
        let task = tokio::spawn(serve(listener, port, upstream, Arc::clone(&shared)));
        Ok(Self { port, shared, task })
    }

    /// Its URL, the same in every mode.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Changes the mode. When this returns it is in force: the port is open or closed as the mode
    /// says, and for [`Mode::Cut`] every connection is gone.
    ///
    /// # Panics
    /// If the port cannot be opened again: somebody else took it.
    pub async fn set(&self, mode: Mode) {
        let mode = match mode {
            Mode::CutAfter(0) => Mode::Cut,
            Mode::StallAfter(0) => Mode::Stall,
            mode => mode,
        };
        self.shared.set(mode);
        self.in_force(mode).await;
    }

    /// Waits until a [`Mode::CutAfter`] has been used up and every connection is gone.
    ///
    /// # Panics
    /// If the mode is another one: the wait would not end.
    pub async fn reached(&self) {
        let mode = self.mode();
        assert!(matches!(mode, Mode::CutAfter(_) | Mode::Cut), "{mode:?} cuts nothing");
        self.in_force(Mode::Cut).await;
    }

    async fn in_force(&self, mode: Mode) {
        let port = if mode.listens() { Port::Open } else { Port::Closed };
        let mut fact = self.shared.fact.subscribe();
        let fact = fact.wait_for(|fact| {
            let gone = mode != Mode::Cut || fact.connections == 0;
            fact.port == Port::Lost || (fact.port == port && gone)
        });
        let fact = *fact.await.expect("the sender is in self");
        assert!(fact.port != Port::Lost, "somebody else took port {} of the proxy", self.port);
    }

    /// [`Mode::Pass`].
    pub async fn pass(&self) {
        self.set(Mode::Pass).await;
    }

    /// [`Mode::Stall`].
    pub async fn stall(&self) {
        self.set(Mode::Stall).await;
    }

    /// [`Mode::Cut`].
    pub async fn cut(&self) {
        self.set(Mode::Cut).await;
    }

    /// [`Mode::Refuse`].
    pub async fn refuse(&self) {
        self.set(Mode::Refuse).await;
    }

    /// [`Mode::Blackhole`].
    pub async fn blackhole(&self, direction: Direction) {
        self.set(Mode::Blackhole(direction)).await;
    }

    /// [`Mode::CutAfter`]. [`Proxy::reached`] waits for the cut.
    pub async fn cut_after(&self, bytes: u64) {
        self.set(Mode::CutAfter(bytes)).await;
    }

    /// [`Mode::StallAfter`]. [`Proxy::stalled`] waits for the stall.
    pub async fn stall_after(&self, bytes: u64) {
        self.set(Mode::StallAfter(bytes)).await;
    }

    /// Waits until a [`Mode::StallAfter`] has been used up.
    ///
    /// # Panics
    /// If the mode is another one: the wait would not end.
    pub async fn stalled(&self) {
        let mut wish = self.shared.wish.subscribe();
        let mode = wish.borrow().mode;
        assert!(matches!(mode, Mode::StallAfter(_) | Mode::Stall), "{mode:?} stalls nothing");
        let stalled = wish.wait_for(|wish| wish.mode == Mode::Stall).await.map(drop);
        stalled.expect("the sender is in self");
    }

    /// [`Mode::Delay`].
    pub async fn delay(&self, delay: Duration) {
        self.set(Mode::Delay(delay)).await;
    }

    /// Closes every connection and goes on in the mode it is in.
    pub async fn reset(&self) {
        let mode = self.mode();
        self.cut().await;
        self.set(mode).await;
    }

    /// The mode it is in. Changes by itself from [`Mode::CutAfter`] to [`Mode::Cut`] and from
    /// [`Mode::StallAfter`] to [`Mode::Stall`] only.
    pub fn mode(&self) -> Mode {
        self.shared.wish.borrow().mode
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.shared.fact.borrow().connections
    }

    /// Bytes handed on from clients to the server since the start.
    pub fn bytes_up(&self) -> u64 {
        self.shared.up.load(Ordering::Relaxed)
    }

    /// Bytes handed on from the server to clients since the start.
    pub fn bytes_down(&self) -> u64 {
        self.shared.down.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The task owns the listener and the connections.
        self.task.abort();
    }
}

impl Mode {
    fn listens(self) -> bool {
        !matches!(self, Self::Cut | Self::Refuse)
    }
}

#[derive(Debug)]
struct Shared {
    wish: watch::Sender<Wish>,
    fact: watch::Sender<Fact>,
    /// What is left of `CutAfter` or `StallAfter`.
    budget: AtomicU64,
    accepted: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Wish {
    mode: Mode,
    /// How often the mode became `Cut`. A connection ends when this grows, so that a cut reaches it
    /// also when the mode has changed again before its task runs.
    cuts: u64,
}

#[derive(Debug, Clone, Copy)]
struct Fact {
    port: Port,
    connections: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    Open,
    Closed,
    /// It could not be opened again; the next change of the mode tries it again.
    Lost,
}

impl Shared {
    fn set(&self, mode: Mode) {
        self.wish.send_modify(|wish| {
            if let Mode::CutAfter(bytes) | Mode::StallAfter(bytes) = mode {
                self.budget.store(bytes, Ordering::Relaxed);
            }
            wish.mode = mode;
            wish.cuts += u64::from(mode == Mode::Cut);
        });
    }

    /// Waits until the mode is another one than [`Mode::Stall`].
    async fn unstalled(&self) {
        let mut wish = self.wish.subscribe();
        let _ = wish.wait_for(|wish| wish.mode != Mode::Stall).await;
    }

    /// Takes up to `wanted` bytes from the budget.
    fn take(&self, wanted: usize) -> usize {
        let wanted = u64::try_from(wanted).expect("a chunk is small");
        let rest = |budget: u64| Some(budget.saturating_sub(wanted));
        let had = self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        let had = had.expect("the closure never refuses");
        usize::try_from(had.min(wanted)).expect("not more than wanted")
    }

    /// Ends `CutAfter` and `StallAfter`, unless another mode has come meanwhile.
    fn budget_spent(&self) {
        self.wish.send_if_modified(|wish| {
            match wish.mode {
                Mode::CutAfter(_) => *wish = Wish { mode: Mode::Cut, cuts: wish.cuts + 1 },
                Mode::StallAfter(_) => wish.mode = Mode::Stall,
                _ => return false,
            }
            true
        });
    }
}

/// Owns the listener and all connections; ends when it is aborted.
async fn serve(listener: TcpListener, port: u16, upstream: String, shared: Arc<Shared>) {
    let mut wish = shared.wish.subscribe();
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let Wish { mode, cuts } = *wish.borrow_and_update();
        if mode.listens() && listener.is_none() {
            listener = open(port).await.ok();
            let now = if listener.is_some() { Port::Open } else { Port::Lost };
            shared.fact.send_modify(|fact| fact.port = now);
        } else if !mode.listens() && listener.is_some() {
            listener = None;
            closed(port).await;
            shared.fact.send_modify(|fact| fact.port = Port::Closed);
        }
        tokio::select! {
            biased;
            _ = wish.changed() => {}
            Some(_) = connections.join_next() => {}
            Ok((client, _)) = accept(listener.as_ref()) => {
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                shared.fact.send_modify(|fact| fact.connections += 1);
                let (upstream, shared) = (upstream.clone(), Arc::clone(&shared));
                connections.spawn(async move {
                    // A connection that fails just ends, as on any network.
                    let _ = connection(client, &upstream, &shared, cuts).await;
                    shared.fact.send_modify(|fact| fact.connections -= 1);
                });
            }
        }
    }
}

/// Opens a port of ours again. A process that another thread is just starting may hold a copy of the
/// old socket until it becomes another program; a millisecond later it is free.
async fn open(port: u16) -> io::Result<TcpListener> {
    let begun = Instant::now();
    loop {
        match TcpListener::bind(address(port)).await {
            Err(_) if begun.elapsed() < PORT_MAX => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            done => return done,
        }
    }
}

/// Waits until nobody answers at a port whose listener has been dropped, for the reason of [`open`].
async fn closed(port: u16) {
    let begun = Instant::now();
    while TcpStream::connect(address(port)).await.is_ok() && begun.elapsed() < PORT_MAX {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Runs until both directions have ended, one has failed, or a cut came after the first `cuts`.
async fn connection(
    mut client: TcpStream,
    upstream: &str,
    shared: &Shared,
    cuts: u64,
) -> io::Result<()> {
    let mut wish = shared.wish.subscribe();
    let work = async {
        let mut server = TcpStream::connect(upstream).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        tokio::try_join!(
            direction(client_read, server_write, Direction::Up, shared),
            direction(server_read, client_write, Direction::Down, shared),
        )
    };
    tokio::select! {
        biased;
        _ = wish.wait_for(|wish| wish.cuts > cuts) => Ok(()),
        done = work => done.map(drop),
    }
}

/// Copies one direction until its end. Reading and writing are apart, so that a delay does not slow
/// the stream down.
async fn direction(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    shared: &Shared,
) -> io::Result<()> {
    let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let read = async move {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            let read = from.read_buf(&mut chunk).await;
            if !matches!(read, Ok(1..)) {
                // A stalled connection stays open at the other side also when this one is gone.
                shared.unstalled().await;
                return read.map(drop);
            }
            if queue.send((Instant::now(), chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async {
        let mut wish = shared.wish.subscribe();
        while let Some((read_at, chunk)) = queued.recv().await {
            hand_on(&chunk, read_at, &mut to, direction, shared, &mut wish).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}

/// Does with one chunk what the mode says; waits here while the mode is to wait.
async fn hand_on(
    chunk: &[u8],
    read_at: Instant,
    to: &mut (impl AsyncWrite + Unpin),
    direction: Direction,
    shared: &Shared,
    wish: &mut watch::Receiver<Wish>,
) -> io::Result<()> {
    let mut chunk = chunk;
    loop {
        let mode = wish.borrow_and_update().mode;
        match mode {
            Mode::Blackhole(swallowed) if swallowed == direction => return Ok(()),
            Mode::Stall | Mode::Cut => {
                let _ = wish.changed().await;
                continue;
            }
            Mode::Delay(delay) if read_at.elapsed() < delay => {
                tokio::select! {
                    () = tokio::time::sleep_until(read_at + delay) => {}
                    _ = wish.changed() => {}
                }
                continue;
            }
            _ => {}
        }
        let counted =
            direction == Direction::Down && matches!(mode, Mode::CutAfter(_) | Mode::StallAfter(_));
        let part = if counted { shared.take(chunk.len()) } else { chunk.len() };
        to.write_all(&chunk[..part]).await?;
        let bytes = if direction == Direction::Up { &shared.up } else { &shared.down };
        bytes.fetch_add(u64::try_from(part).expect("a chunk is small"), Ordering::Relaxed);
        if counted && shared.budget.load(Ordering::Relaxed) == 0 {
            shared.budget_spent();
        }
        chunk = &chunk[part..];
        if chunk.is_empty() {
            return Ok(());
        }
    }
}
