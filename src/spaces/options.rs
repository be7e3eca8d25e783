//! Making a cache of key spaces: what feeds it, how many it holds and for how long.
//!
//! Owns [`KeySpacesBuilder`] with the documentation of every option. Must not start anything.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use super::KeySpaces;
use crate::mirror::Builder;
use crate::model::KeyRange;
use crate::publish::MAX_DURATION;
use crate::source::Source;
use crate::view::Decoder;

/// Makes the builder of one key space what the application wants it to be.
pub(super) type Configure<T> = dyn Fn(&KeyRange, Builder<T>) -> Builder<T> + Send + Sync;

#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) idle_ttl: Duration,
    pub(super) max: usize,
    pub(super) backoff_min: Duration,
    pub(super) backoff_max: Duration,
    pub(super) cut_timeout: Duration,
    pub(super) seed: u64,
}

/// A [`KeySpaces`] about to be made, with all its options.
///
/// # Defaults
/// | option | default |
/// |---|---|
/// | [`idle_ttl`](KeySpacesBuilder::idle_ttl) | 5 min |
/// | [`max`](KeySpacesBuilder::max) | 64 |
/// | [`start_backoff`](KeySpacesBuilder::start_backoff) | 100 ms to 10 s |
/// | [`cut_timeout`](KeySpacesBuilder::cut_timeout) | 10 s |
/// | [`each`](KeySpacesBuilder::each) | the defaults of [`Builder`] |
#[must_use = "a builder does nothing until it is built"]
pub struct KeySpacesBuilder<T: Send + Sync + 'static> {
    pub(super) source: Arc<dyn Source>,
    pub(super) decoder: Arc<dyn Decoder<T>>,
    pub(super) configure: Box<Configure<T>>,
    pub(super) options: Options,
}

impl<T: Send + Sync + 'static> KeySpaces<T> {
    /// Begins to build a cache of key spaces that are all fed by `source` and decoded by `decoder`:
    /// any `Fn(RawKeyValue) -> Result<T, E>`, [`json()`](crate::json), [`bytes()`](crate::bytes), or a
    /// type of your own.
    ///
    /// Each mirror has connections of its own, two with [`Etcd::new`](crate::Etcd::new).
    pub fn builder(source: impl Source, decoder: impl Decoder<T>) -> KeySpacesBuilder<T> {
        let options = Options {
            idle_ttl: Duration::from_secs(300),
            max: 64,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            cut_timeout: Duration::from_secs(10),
            seed: RandomState::new().hash_one(()),
        };
        KeySpacesBuilder {
            source: Arc::new(source),
            decoder: Arc::new(decoder),
            configure: Box::new(|_, builder| builder),
            options,
        }
    }
}

impl<T: Send + Sync + 'static> KeySpacesBuilder<T> {
    /// How long a key space is kept, loaded and watching, after its last handle was dropped. Zero
    /// stops it at once.
    pub fn idle_ttl(mut self, ttl: Duration) -> Self {
        self.options.idle_ttl = ttl.min(MAX_DURATION);
        self
    }

    /// How many key spaces are held at most, idle ones included; zero counts as one.
    ///
    /// When one more is asked for, the one that has been idle for longest is stopped. When none is
    /// idle, the caller gets [`GetError::Full`](crate::GetError::Full). Handles keep their key space
    /// alive and in its place, so this bounds mirrors, not handles. As many failed starts are
    /// remembered.
    pub fn max(mut self, max: usize) -> Self {
        self.options.max = max.max(1);
        self
    }

    /// The delay after the first failed start of a range in a row, and the greatest: it doubles from
    /// one to the other and starts over after a good start. Each delay is shortened by up to half at
    /// random. A `max` below `min` is raised to it.
    ///
    /// Only what ends a mirror is a failed start, such as refused rights or a
    /// [`load_timeout`](Builder::load_timeout): an etcd that does not answer is asked again by the
    /// mirror itself.
    pub fn start_backoff(mut self, min: Duration, max: Duration) -> Self {
        let bounded = |time: Duration| time.clamp(Duration::from_millis(1), MAX_DURATION);
        self.options.backoff_min = bounded(min);
        self.options.backoff_max = bounded(max);
        self
    }

    /// How long a [`cut`](KeySpaces::cut) may take, once its key spaces are started; a mirror holds back
    /// for a fifth of that at most. Raise it where a round trip to etcd takes a large part of a second.
    pub fn cut_timeout(mut self, limit: Duration) -> Self {
        self.options.cut_timeout = limit.clamp(Duration::from_millis(1), MAX_DURATION);
        self
    }

    /// Sets the options of each key space: `configure` is called for every start, with its range, and
    /// takes the place of one given before.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use etcd_keyspace::{bytes, Etcd, EtcdOptions, KeySpaces};
    /// # let etcd = Etcd::new(["http://127.0.0.1:2379"], EtcdOptions::new());
    /// let tenants = KeySpaces::builder(etcd, bytes())
    ///     .each(|range, builder| {
    ///         builder.name(format!("tenant {range}")).load_timeout(Duration::from_secs(10))
    ///     })
    ///     .build();
    /// # let _ = tenants;
    /// ```
    pub fn each(
        mut self,
        configure: impl Fn(&KeyRange, Builder<T>) -> Builder<T> + Send + Sync + 'static,
    ) -> Self {
        self.configure = Box::new(configure);
        self
    }

    /// Makes the delays after failed starts repeatable, for tests.
    pub fn seed(mut self, seed: u64) -> Self {
        self.options.seed = seed;
        self
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for KeySpacesBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySpacesBuilder")
            .field("source", &self.source)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
