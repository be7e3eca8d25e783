//! A storage that fails, and forgets, as told.
//!
//! Owns the faults below the engine. Bytes that were written lie in memory until they are synced;
//! [`Faulty::crash`] forgets the rest, or keeps a part of it in any order, as a disk may.

use std::collections::VecDeque;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use etcd_keyspace::journal::StorageBackend;
use redb::BackendError;

/// What a call was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    SetLen,
    Sync,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::SetLen(len) => bytes.resize(*len, 0),
            Change::Write(offset, data) => {
                let end = offset + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(data);
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    synced: Vec<u8>,
    unsynced: VecDeque<Change>,
    /// As a reader sees it.
    shown: Vec<u8>,
    calls: usize,
    /// The call from which on calls of a kind fail, and with what.
    failing: Option<(usize, Kind, io::ErrorKind)>,
    /// How often it fails; then it is mended.
    times: usize,
    /// The call from which on nothing works any more, as in a process that is gone.
    dead_from: Option<usize>,
    generation: u64,
    locked: bool,
}

/// The disk. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faulty {
    state: Arc<Mutex<State>>,
}

impl Faulty {
    pub(crate) fn opener(&self) -> impl Fn() -> io::Result<Handle> + Send + Sync + 'static {
        let disk = self.clone();
        move || {
            let generation = disk.state.lock().unwrap().generation;
            Ok(Handle { disk: disk.clone(), generation })
        }
    }

    /// The `times` calls of the kind from the `nth` call of any kind on fail.
    pub(crate) fn fail(&self, nth: usize, kind: Kind, error: io::ErrorKind, times: usize) {
        let mut state = self.state.lock().unwrap();
        state.failing = Some((state.calls + nth, kind, error));
        state.times = times;
    }

    /// Nothing fails any more; whether something had.
    pub(crate) fn mend(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        state.failing.take().is_none() || state.times == 0
    }

    pub(crate) fn calls(&self) -> usize {
        self.state.lock().unwrap().calls
    }

    /// The process is gone from the `nth` call on, counted from the first of all.
    pub(crate) fn die_at(&self, nth: usize) {
        self.state.lock().unwrap().dead_from = Some(nth);
    }

    /// The machine loses power. Of the writes since the last sync those are kept whose bit in
    /// `kept` is set, the first at the lowest bit, repeated every 64.
    pub(crate) fn crash(&self, kept: u64) {
        let mut state = self.state.lock().unwrap();
        let unsynced = std::mem::take(&mut state.unsynced);
        for (n, change) in unsynced.iter().enumerate() {
            if kept >> (n % 64) & 1 == 1 {
                change.apply(&mut state.synced);
            }
        }
        state.shown = state.synced.clone();
        (state.failing, state.dead_from) = (None, None);
        state.locked = false;
        // What the dead process still does must not reach the disk.
        state.generation += 1;
    }
}

/// The disk as one process has it open.
#[derive(Debug)]
pub(crate) struct Handle {
    disk: Faulty,
    generation: u64,
}

impl Handle {
    fn call<R>(&self, kind: Kind, run: impl FnOnce(&mut State) -> io::Result<R>) -> io::Result<R> {
        let mut state = self.disk.state.lock().unwrap();
        if self.generation != state.generation {
            return Err(io::Error::other("the process is dead"));
        }
        let call = state.calls;
        state.calls += 1;
        if state.dead_from.is_some_and(|dead| call >= dead) {
            return Err(io::Error::other("the process is dead"));
        }
        if let Some((from, failing, error)) = state.failing
            && failing == kind
            && call >= from
            && state.times > 0
        {
            state.times -= 1;
            return Err(error.into());
        }
        run(&mut state)
    }

    fn change(&self, kind: Kind, change: Change) -> io::Result<()> {
        self.call(kind, |state| {
            change.apply(&mut state.shown);
            state.unsynced.push_back(change);
            Ok(())
        })
    }
}

fn whole(start: Bound<u64>, end: Bound<u64>) -> bool {
    matches!(start, Bound::Unbounded | Bound::Included(0)) && end == Bound::Unbounded
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        self.call(Kind::Read, |state| Ok(state.shown.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.call(Kind::Read, |state| {
            let offset = usize::try_from(offset).unwrap();
            let bytes = state.shown.get(offset..offset + out.len());
            out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Kind::SetLen, Change::SetLen(usize::try_from(len).unwrap()))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.call(Kind::Sync, |state| {
            let unsynced = std::mem::take(&mut state.unsynced);
            unsynced.iter().for_each(|change| change.apply(&mut state.synced));
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        self.change(Kind::Write, Change::Write(offset, data.to_vec()))
    }

    fn close(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock().unwrap();
        if self.generation == state.generation {
            state.locked = false;
        }
        Ok(())
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        if !whole(start, end) {
            return Err(BackendError::Unsupported);
        }
        // The storage is opened again only after it was closed, so no test needs a second handle.
        let mut state = self.disk.state.lock().unwrap();
        assert!(!std::mem::replace(&mut state.locked, true), "opened twice");
        Ok(true)
    }
}
