//! Objects of the application's types as bytes of events, and back.
//!
//! Owns the [`Serializer`] trait, the JSON one, and [`Types`], the table of registered types. Must not
//! touch the file: the journal stores bytes.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::event::{NewEvent, Operation, StoredEvent};
use super::file::format::NAME_MAX;
use crate::view::BoxError;

/// Turns objects of a type into bytes, and back.
pub trait Serializer<T>: Send + Sync + 'static {
    /// The bytes of an object.
    ///
    /// # Errors
    /// Any, when the object has none.
    fn serialize(&self, object: &T) -> Result<Vec<u8>, BoxError>;

    /// The object of some bytes.
    ///
    /// # Errors
    /// Any, when the bytes are those of no object.
    fn deserialize(&self, bytes: &[u8]) -> Result<T, BoxError>;
}

/// JSON, by serde.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json;

impl<T: Serialize + DeserializeOwned> Serializer<T> for Json {
    fn serialize(&self, object: &T) -> Result<Vec<u8>, BoxError> {
        Ok(serde_json::to_vec(object)?)
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<T, BoxError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// A type was not registered. Fix the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The name is empty or longer than 255 bytes.
    #[error("an object's type cannot be named {name:?}")]
    Name {
        /// The name.
        name: String,
    },
    /// The name stands for another type.
    #[error("{name:?} is registered as {registered}")]
    NameTaken {
        /// The name.
        name: String,
        /// The Rust type it stands for.
        registered: &'static str,
    },
    /// The type has another name.
    #[error("{registered} is registered as {name:?}")]
    TypeTaken {
        /// Its name.
        name: String,
        /// The Rust type.
        registered: &'static str,
    },
}

/// An object could not be turned into an event.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SerializationError {
    /// Its type is not registered. Fix the caller.
    #[error("{type_name} is not registered")]
    Unregistered {
        /// The Rust type.
        type_name: &'static str,
    },
    /// The serializer failed. Fix the object or the serializer.
    #[error("an object of type {object_type:?} could not be serialized")]
    Failed {
        /// The object's type.
        object_type: String,
        /// What the serializer gave.
        #[source]
        cause: BoxError,
    },
}

/// The object of an event could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeserializationError {
    /// Its type is not registered. Register it, or leave it out by a filter.
    #[error("event {sequence} has an object of type {object_type:?}, which is not registered")]
    Unregistered {
        /// The event.
        sequence: u64,
        /// The object's type.
        object_type: String,
    },
    /// The caller asked for another type. Fix the caller.
    #[error("event {sequence} has an object of type {object_type:?}, which is no {asked}")]
    OtherType {
        /// The event.
        sequence: u64,
        /// The object's type.
        object_type: String,
        /// The Rust type asked for.
        asked: &'static str,
    },
    /// The serializer failed. Fix the serializer, or give the event up.
    #[error("the object of event {sequence}, of type {object_type:?}, could not be deserialized")]
    Failed {
        /// The event.
        sequence: u64,
        /// The object's type.
        object_type: String,
        /// What the serializer gave.
        #[source]
        cause: BoxError,
    },
}

type AnyObject = Box<dyn Any + Send>;
type ToBytes = Arc<dyn Fn(&dyn Any) -> Result<Vec<u8>, BoxError> + Send + Sync>;
type FromBytes = Arc<dyn Fn(&[u8]) -> Result<AnyObject, BoxError> + Send + Sync>;

#[derive(Clone)]
struct Registered {
    name: String,
    type_id: TypeId,
    type_name: &'static str,
    to_bytes: ToBytes,
    from_bytes: FromBytes,
}

/// The types of objects that an application stores, each with a name and a serializer.
///
/// ```
/// use etcd_keyspace::journal::{Operation, Types};
/// use std::time::SystemTime;
///
/// #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
/// struct Job { id: u32 }
///
/// let mut types = Types::new();
/// types.register_json::<Job>("job")?;
/// let event = types.event(Operation::Create, &Job { id: 7 })?;
/// let stored = event.stored(1, SystemTime::now());
/// assert_eq!(types.object::<Job>(&stored)?, Job { id: 7 });
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct Types {
    by_name: HashMap<String, Registered>,
    names: HashMap<TypeId, String>,
}

impl Types {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Types::default()
    }

    /// Registers a type whose objects are stored as JSON.
    ///
    /// # Errors
    /// Any [`RegisterError`]; then nothing is registered.
    pub fn register_json<T>(&mut self, name: impl Into<String>) -> Result<(), RegisterError>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        self.register::<T>(name, Json)
    }

    /// Registers a type with a serializer of its own.
    ///
    /// # Errors
    /// Any [`RegisterError`]; then nothing is registered.
    pub fn register<T: Send + 'static>(
        &mut self,
        name: impl Into<String>,
        serializer: impl Serializer<T>,
    ) -> Result<(), RegisterError> {
        let name = name.into();
        if !(1..=NAME_MAX).contains(&name.len()) {
            return Err(RegisterError::Name { name });
        }
        if let Some(taken) = self.by_name.get(&name) {
            return Err(RegisterError::NameTaken { name, registered: taken.type_name });
        }
        let (type_id, type_name) = (TypeId::of::<T>(), type_name::<T>());
        if let Some(name) = self.names.get(&type_id) {
            return Err(RegisterError::TypeTaken { name: name.clone(), registered: type_name });
        }
        let serializer = Arc::new(serializer);
        let to_bytes = {
            let serializer = Arc::clone(&serializer);
            move |object: &dyn Any| match object.downcast_ref::<T>() {
                Some(object) => serializer.serialize(object),
                None => Err("an object of another type".into()),
            }
        };
        let from_bytes =
            move |bytes: &[u8]| Ok(Box::new(serializer.deserialize(bytes)?) as AnyObject);
        let (to_bytes, from_bytes) = (Arc::new(to_bytes), Arc::new(from_bytes));
        self.names.insert(type_id, name.clone());
        let registered =
            Registered { name: name.clone(), type_id, type_name, to_bytes, from_bytes };
        self.by_name.insert(name, registered);
        Ok(())
    }

    /// An event about an object.
    ///
    /// # Errors
    /// Any [`SerializationError`].
    pub fn event<T: 'static>(
        &self,
        operation: Operation,
        object: &T,
    ) -> Result<NewEvent, SerializationError> {
        let type_name = type_name::<T>();
        let name = self.names.get(&TypeId::of::<T>());
        let registered = name.and_then(|name| self.by_name.get(name));
        let registered = registered.ok_or(SerializationError::Unregistered { type_name })?;
        match (registered.to_bytes)(object) {
            Ok(bytes) => Ok(NewEvent::new(operation, registered.name.clone(), bytes)),
            Err(cause) => {
                let object_type = registered.name.clone();
                Err(SerializationError::Failed { object_type, cause })
            }
        }
    }

    /// The object of an event.
    ///
    /// # Errors
    /// Any [`DeserializationError`].
    pub fn object<T: 'static>(&self, event: &StoredEvent) -> Result<T, DeserializationError> {
        let (sequence, object_type) = (event.sequence, || event.object_type.clone());
        let other = || DeserializationError::OtherType {
            sequence,
            object_type: object_type(),
            asked: type_name::<T>(),
        };
        let registered = self.by_name.get(&event.object_type);
        if registered.is_some_and(|registered| registered.type_id != TypeId::of::<T>()) {
            return Err(other());
        }
        let object = self.any_object(event)?;
        object.downcast::<T>().map(|object| *object).map_err(|_| other())
    }

    /// The object of an event of any registered type, to be downcast.
    ///
    /// # Errors
    /// Any [`DeserializationError`].
    pub fn any_object(&self, event: &StoredEvent) -> Result<AnyObject, DeserializationError> {
        let (sequence, object_type) = (event.sequence, event.object_type.clone());
        match self.by_name.get(&event.object_type) {
            None => Err(DeserializationError::Unregistered { sequence, object_type }),
            Some(registered) => (registered.from_bytes)(&event.object)
                .map_err(|cause| DeserializationError::Failed { sequence, object_type, cause }),
        }
    }
}

impl fmt::Debug for Types {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            self.by_name.values().map(|registered| (&registered.name, registered.type_name));
        f.debug_map().entries(names).finish()
    }
}
