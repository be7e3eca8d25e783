//! Where the mirror's data goes: the writer and the load under way.
//!
//! Owns executing the actions that change the key space. They end at once and answer the machine.
//! Must not do I/O.

use crate::edits::Loading;
use crate::event::RawKeyValue;
use crate::mirror::machine::{Action, Input, Known};
use crate::writer::{LoadError, Writer};

pub(crate) struct Sink<T: Send + Sync + 'static> {
    pub(crate) writer: Writer<T>,
    loading: Option<Loading<T>>,
}

impl<T: Send + Sync + 'static> Sink<T> {
    pub(crate) fn new(writer: Writer<T>) -> Self {
        Sink { writer, loading: None }
    }

    /// What the machine is told of the view.
    pub(crate) fn known(&self) -> Known {
        let view = self.writer.view();
        Known {
            loaded: view.revision() > 0,
            cursor: view.confirmed(),
            cluster_id: view.cluster_id(),
            keys: view.known_keys(),
        }
    }

    /// Executes an action on the key space and gives its answer; gives other actions back.
    pub(crate) fn execute(&mut self, action: Action) -> Result<Option<Input>, Action> {
        let waits = &self.writer.shared().waits;
        Ok(match action {
            Action::Watching => {
                waits.watching();
                None
            }
            Action::Synced { ticket, revision } => {
                waits.synced(ticket, revision);
                None
            }
            Action::BeginLoad { same_history } => {
                self.loading = Some(self.writer.begin_load(same_history));
                None
            }
            Action::TakeKeys(kvs) => Some(Input::KeysTaken(self.take_keys(kvs))),
            Action::FinishLoad { header, same_history } => self.loading.take().map(|loading| {
                Input::Loaded(self.writer.finish_load(loading, header, same_history))
            }),
            Action::Apply(batch, newest) => Some(Input::Applied(newest, self.writer.apply(batch))),
            Action::Confirm(revision) => {
                self.writer.confirm(revision);
                Some(Input::Tick)
            }
            other => return Err(other),
        })
    }

    /// Forgets a load under way.
    pub(crate) fn abandon(&mut self) {
        self.loading = None;
    }

    fn take_keys(&mut self, kvs: Vec<RawKeyValue>) -> Result<(), LoadError> {
        match &mut self.loading {
            Some(loading) => {
                loading.page(kvs).map_err(|unordered| LoadError::Unordered { key: unordered.key })
            }
            None => Ok(()),
        }
    }
}
