//! BW-19, BW-22: objects as bytes, and the doubles for applications' tests.

use std::time::SystemTime;

use etcd_keyspace::BoxError;
use etcd_keyspace::journal::{
    DeserializationError, NewEvent, Operation, RegisterError, SerializationError, Serializer, Types,
};
#[cfg(feature = "test-util")]
use etcd_keyspace::journal::{Recorder, Registry, WatcherOptions, handler_fn, replay};
use serde::{Deserialize, Serialize};

use super::{all, in_memory};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Job {
    id: u32,
    tags: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Node(String);

/// A format of its own, which refuses some objects both ways.
struct Plain;

impl Serializer<Node> for Plain {
    fn serialize(&self, node: &Node) -> Result<Vec<u8>, BoxError> {
        if node.0.is_empty() { Err("no name".into()) } else { Ok(node.0.clone().into_bytes()) }
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<Node, BoxError> {
        Ok(Node(String::from_utf8(bytes.to_vec())?))
    }
}

fn types() -> Types {
    let mut types = Types::new();
    types.register_json::<Job>("job").unwrap();
    types.register::<Node>("node", Plain).unwrap();
    types
}

#[tokio::test]
async fn bw19_objects_of_registered_types_go_through_the_journal() {
    let types = types();
    let job = Job { id: 7, tags: vec!["a".into(), "ü".into()] };
    let journal = in_memory().await;
    journal.store_event(types.event(Operation::Create, &job).unwrap()).await.unwrap();
    let node = Node("n1".into());
    journal.store_event(types.event(Operation::Delete, &node).unwrap()).await.unwrap();
    let events = all(&journal).await;
    assert_eq!(events[0].object_type, "job");
    assert_eq!(events[0].object, r#"{"id":7,"tags":["a","ü"]}"#.as_bytes());
    assert_eq!(types.object::<Job>(&events[0]).unwrap(), job);
    assert_eq!((events[1].operation, events[1].object.as_slice()), (Operation::Delete, &b"n1"[..]));
    assert_eq!(types.object::<Node>(&events[1]).unwrap(), node);
    let any = types.any_object(&events[1]).unwrap();
    assert_eq!(any.downcast_ref::<Node>(), Some(&node));
}

#[test]
fn bw19_a_type_or_name_that_is_taken_or_invalid_is_refused() {
    let mut types = types();
    let refused = types.register_json::<String>("job").unwrap_err();
    assert!(matches!(refused, RegisterError::NameTaken { .. }), "{refused:?}");
    let refused = types.register_json::<Job>("another").unwrap_err();
    assert!(matches!(refused, RegisterError::TypeTaken { .. }), "{refused:?}");
    for name in [String::new(), "n".repeat(256)] {
        let refused = types.register_json::<String>(name).unwrap_err();
        assert!(matches!(refused, RegisterError::Name { .. }), "{refused:?}");
    }
    types.register_json::<String>("text").unwrap();
}

#[test]
fn bw18_serialization_errors_are_typed_and_keep_their_cause() {
    let types = types();
    let refused = types.event(Operation::Create, &5_u8).unwrap_err();
    assert!(matches!(refused, SerializationError::Unregistered { .. }), "{refused:?}");
    let refused = types.event(Operation::Create, &Node(String::new())).unwrap_err();
    assert_eq!(std::error::Error::source(&refused).unwrap().to_string(), "no name");
    let stored = |object_type: &str, object: &[u8]| {
        NewEvent::new(Operation::Create, object_type, object).stored(3, SystemTime::now())
    };
    let refused = types.object::<Job>(&stored("other", b"{}")).unwrap_err();
    assert!(matches!(refused, DeserializationError::Unregistered { sequence: 3, .. }));
    let refused = types.object::<Job>(&stored("node", b"n1")).unwrap_err();
    assert!(matches!(refused, DeserializationError::OtherType { sequence: 3, .. }));
    let refused = types.object::<Job>(&stored("job", b"{")).unwrap_err();
    assert!(matches!(refused, DeserializationError::Failed { sequence: 3, .. }));
    assert!(std::error::Error::source(&refused).is_some());
}

#[cfg(feature = "test-util")]
#[tokio::test]
async fn bw22_the_recorder_records_fails_and_waits_as_told() {
    let journal = in_memory().await;
    let recorder = Recorder::new();
    recorder.succeed_next(1);
    recorder.fail_next(2);
    let quick = std::time::Duration::from_millis(1);
    let options =
        WatcherOptions::new().handler(recorder.clone()).backoff(quick, quick).auto_start(true);
    let registry = Registry::new(&journal);
    let watcher = registry.watch("tested", options).await.unwrap();
    journal.store_batch(super::events(1..=2)).await.unwrap();
    recorder.called(4).await;
    assert_eq!(recorder.sequences(), [1, 2, 2, 2]);
    assert_eq!(watcher.stats().failures, 2);
    recorder.hold();
    journal.store_batch(super::events(3..=4)).await.unwrap();
    recorder.called(5).await;
    assert_eq!(recorder.events().len(), 5, "the next one waits for its turn");
    recorder.release();
    recorder.called(6).await;
    assert_eq!(recorder.sequences()[4..], [3, 4]);
}

#[cfg(feature = "test-util")]
#[tokio::test]
async fn bw22_a_handler_can_be_called_without_a_journal() {
    let recorder = Recorder::new();
    replay(recorder.clone(), super::events(1..=3)).await.unwrap();
    assert_eq!(recorder.sequences(), [1, 2, 3]);
    let panics = handler_fn(|event| -> Result<(), BoxError> {
        assert!(event.sequence < 2, "too many");
        Ok(())
    });
    let failure = replay(panics, super::events(1..=3)).await.unwrap_err();
    assert_eq!(failure.sequence, 2);
}
