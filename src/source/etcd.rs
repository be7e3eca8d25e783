//! Real etcd as a source.
