//! Messages of a watch as no server would send them.
//!
//! Owns how a message is forged; must not know when, or what comes of it.

use etcd_keyspace::testing::FakeEtcd;
use etcd_keyspace::{Event, WatchResponse};

/// A message as no server would send it; `None` swallows it.
pub(crate) fn forged(etcd: &FakeEtcd, mut message: WatchResponse) -> Option<WatchResponse> {
    let number = [-1, 0, 1, 7, 1 << 40, i64::MAX][usize::try_from(etcd.random(6)).unwrap()];
    let reasons = ["", "etcdserver: mvcc: required revision has been compacted", "no idea"];
    match etcd.random(13) {
        0 => return None,
        1 => message.header = None,
        2 => message.header.iter_mut().for_each(|header| header.revision = number),
        3 => message.header.iter_mut().for_each(|header| header.cluster_id ^= 1),
        4 => message.fragment = !message.fragment,
        5 => message.canceled = true,
        6 => message.compact_revision = number,
        7 => message.events.reverse(),
        8 => message.events.extend(message.events.clone()),
        9 => message.created = !message.created,
        10 => message.events.clear(),
        11 => message.cancel_reason = reasons[usize::try_from(etcd.random(3)).unwrap()].to_owned(),
        _ => {
            for event in &mut message.events {
                forge_event(etcd, event, number);
            }
        }
    }
    Some(message)
}

fn forge_event(etcd: &FakeEtcd, event: &mut Event, number: i64) {
    match event {
        Event::Delete { mod_revision, .. } => *mod_revision = number,
        Event::Put(kv) => match etcd.random(5) {
            0 => kv.mod_revision = number,
            1 => kv.create_revision = number,
            2 => kv.version = number,
            3 => kv.key = b"/elsewhere".to_vec(),
            _ => (kv.create_revision, kv.mod_revision, kv.version) = (number, number, 1),
        },
    }
}
