//! Which events somebody wants.
//!
//! Owns [`Filter`]. Pure; judges by type and operation only, so that the rest of an event need not
//! be read.

use std::collections::BTreeSet;

use super::event::Operation;

/// Object types and operations. An empty list restricts nothing; both must match.
///
/// ```
/// use etcd_keyspace::journal::{Filter, Operation};
///
/// let filter = Filter::all().types(["job", "node"]).operations([Operation::Create]);
/// assert!(filter.matches("job", Operation::Create));
/// assert!(!filter.matches("job", Operation::Delete));
/// assert!(Filter::all().matches("anything", Operation::Delete));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    types: BTreeSet<String>,
    operations: BTreeSet<Operation>,
}

impl Filter {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Filter::default()
    }

    /// These types, besides those named before.
    #[must_use]
    pub fn types<S: Into<String>>(mut self, types: impl IntoIterator<Item = S>) -> Self {
        self.types.extend(types.into_iter().map(Into::into));
        self
    }

    /// These operations, besides those named before.
    #[must_use]
    pub fn operations(mut self, operations: impl IntoIterator<Item = Operation>) -> Self {
        self.operations.extend(operations);
        self
    }

    /// Whether an event of this type and operation is wanted.
    #[must_use]
    pub fn matches(&self, object_type: &str, operation: Operation) -> bool {
        (self.types.is_empty() || self.types.contains(object_type))
            && (self.operations.is_empty() || self.operations.contains(&operation))
    }
}
