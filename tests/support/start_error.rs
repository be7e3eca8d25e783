//! Why a server did not start, with what its log said. Belongs to `etcd.rs`.

use super::*;

/// Why a server could not be started.
#[non_exhaustive]
pub enum StartError {
    /// There is no etcd. Set `ETCD`, or install one into `PATH`.
    NoBinary {
        /// What each of the three places said.
        tried: String,
    },
    /// The system refused a directory, a port or a process.
    Io(io::Error),
    /// The process ended instead of answering.
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// The process runs but did not answer in 20 seconds. It has been killed.
    NotReady {
        /// What the last question was answered with.
        last: String,
        /// The last lines of its log.
        log: String,
    },
}

impl StartError {
    /// Somebody else took a port between our choice and etcd's use of it.
    pub(super) fn is_clash(&self) -> bool {
        matches!(self, Self::Exited { log, .. } if log.contains("address already in use"))
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBinary { tried } => write!(f, "no etcd to run: {tried}"),
            Self::Io(error) => write!(f, "etcd cannot be started: {error}"),
            Self::Exited { status, log } => {
                write!(f, "etcd ended at its start ({status}); its log ends with:\n{log}")
            }
            Self::NotReady { last, log } => write!(
                f,
                "etcd does not answer after {READY_MAX:?} ({last}); its log ends with:\n{log}"
            ),
        }
    }
}

/// The same as `Display`, as this is what `unwrap` and a failing `main` show.
impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
