//! The crate's own words for what etcd sends: records, events, watch responses.
//!
//! Plain data. It names no client library, so that a new client changes no other room, and checks nothing:
//! that is done by `view::next::judge`.

/// A store-wide logical time of etcd: each successful write transaction adds one.
///
/// Signed, because etcd's protocol and its clients carry it as `int64`. Zero means "none" or, in a
/// request, "now"; real revisions start at one.
pub type Revision = i64;

/// One key and value exactly as etcd sent it (etcd: `mvccpb.KeyValue`, kv.proto).
///
/// A [`Decoder`](crate::Decoder) receives it by value, so a decoder that keeps the bytes can move
/// them out without a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct RawKeyValue {
    /// The key, any bytes.
    pub key: Vec<u8>,
    /// The value, any bytes.
    pub value: Vec<u8>,
    /// The revision of the write that created the key (since its last deletion).
    pub create_revision: Revision,
    /// The revision of the last write of the key.
    pub mod_revision: Revision,
    /// The number of writes since creation; the creating write is version 1.
    pub version: i64,
    /// The lease the key is attached to, zero for none.
    pub lease: i64,
}

impl RawKeyValue {
    /// Bytes of key and value together; what pages and queues are bounded by.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

/// One change of one key, in the order etcd made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key was created or its value was written.
    Put(RawKeyValue),
    /// The key was deleted, by a delete, a transaction or the end of its lease.
    Delete {
        /// The deleted key.
        key: Vec<u8>,
        /// The revision of the deletion.
        mod_revision: Revision,
    },
}

impl Event {
    /// The key the event is about.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Event::Put(kv) => &kv.key,
            Event::Delete { key, .. } => key,
        }
    }

    /// The revision of the transaction the event belongs to.
    #[must_use]
    pub fn mod_revision(&self) -> Revision {
        match self {
            Event::Put(kv) => kv.mod_revision,
            Event::Delete { mod_revision, .. } => *mod_revision,
        }
    }

    /// Bytes of key and value together; what queues are bounded by.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Event::Put(kv) => kv.bytes(),
            Event::Delete { key, .. } => key.len(),
        }
    }
}

/// What every answer of etcd carries (etcd: `etcdserverpb.ResponseHeader`, rpc.proto).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// The cluster that answered. A restored backup keeps it.
    pub cluster_id: u64,
    /// The member that answered.
    pub member_id: u64,
    /// The store's revision when the answer was made. On a response with events this is *not* how
    /// far the events reach: a backlog is cut into responses that all carry the current revision.
    pub revision: Revision,
    /// The raft term of the member.
    pub raft_term: u64,
}

/// One message of a watch stream (etcd: `etcdserverpb.WatchResponse`, rpc.proto).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchResponse {
    /// The header, absent when a server or proxy left it out.
    pub header: Option<Header>,
    /// The watcher the message is for; -1 for a reply to a progress request.
    pub watch_id: i64,
    /// The watcher was created, or (with `canceled`) its creation was refused.
    pub created: bool,
    /// The watcher is gone.
    pub canceled: bool,
    /// Greater than zero when the start revision is compacted: history up to it is gone.
    pub compact_revision: Revision,
    /// Why the watcher was cancelled; empty when the server gave no reason.
    pub cancel_reason: String,
    /// More messages belong to the same response.
    pub fragment: bool,
    /// The events, ascending by revision.
    pub events: Vec<Event>,
}

impl WatchResponse {
    /// Whether this is a progress notification: it says how far the watcher has been served.
    ///
    /// The server sets no flag for it, so every other kind of message is excluded one by one
    /// (etcd: `WatchResponse.IsProgressNotify`, client/v3/watch.go).
    #[must_use]
    pub fn is_progress(&self) -> bool {
        self.events.is_empty()
            && !self.created
            && !self.canceled
            && !self.fragment
            && self.compact_revision == 0
            && self.header.is_some_and(|header| header.revision > 0)
    }

    /// Bytes of all keys and values; what queues are bounded by.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.events.iter().map(Event::bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> WatchResponse {
        WatchResponse {
            header: Some(Header { revision: 7, ..Header::default() }),
            watch_id: -1,
            ..WatchResponse::default()
        }
    }

    /// B2: one predicate, and no control message passes it.
    #[test]
    fn b2_only_a_bare_header_is_progress() {
        assert!(progress().is_progress());
        let not = [
            WatchResponse { created: true, ..progress() },
            WatchResponse { canceled: true, ..progress() },
            WatchResponse { compact_revision: 3, ..progress() },
            WatchResponse { fragment: true, ..progress() },
            WatchResponse { header: None, ..progress() },
            WatchResponse { header: Some(Header::default()), ..progress() },
            WatchResponse {
                events: vec![Event::Delete { key: b"k".to_vec(), mod_revision: 7 }],
                ..progress()
            },
            WatchResponse::default(),
        ];
        for response in not {
            assert!(!response.is_progress(), "{response:?}");
        }
    }
}
