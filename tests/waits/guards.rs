//! Waiting with a guard in hand: where it could never end it panics, whatever runs the future.

use super::*;
use crate::common::{panic_of, until_a_writer_waits};

const REASON: &str = "waiting while this thread holds a read guard of the same key space would never end: drop the \
     guard first";

#[test]
fn t55_a_pending_wait_under_a_guard_panics_with_the_reason() {
    let (ks, mut writer, _) = at_five();
    let guard = ks.read();
    let kinds: [fn(&KeySpace<String>); 6] = [
        |ks| drop(poll_once(pin!(ks.wait_for_revision(6)))),
        |ks| drop(poll_once(pin!(ks.snapshot_at(6)))),
        |ks| drop(poll_once(pin!(ks.wait_until(|_| None::<()>)))),
        |ks| drop(poll_once(pin!(ks.updated()))),
        |ks| drop(poll_once(pin!(ks.sync()))),
        |ks| drop(poll_once(pin!(ks.closed()))),
    ];
    for wait in kinds {
        assert_eq!(panic_of(|| wait(&ks)).0, REASON);
        assert_eq!(ks.stats().waits, 0, "nothing is left behind");
    }
    drop(guard);
    // A wait begun without the guard is refused at the poll that would be pending under it.
    let mut wait = pin!(ks.wait_for_revision(6));
    assert!(poll_once(wait.as_mut()).is_pending());
    let guard = ks.read();
    assert_eq!(panic_of(|| poll_once(wait.as_mut())).0, REASON);
    drop(guard);
    writer.confirm(6);
}

#[test]
fn t55_a_wait_that_is_met_is_fine_under_a_guard() {
    let (ks, _writer, _) = at_five();
    let outer = ks.read();
    assert_eq!(now(ks.wait_for_revision(5)).unwrap(), 5);
    let inner = now(ks.read_at(4)).unwrap();
    assert_eq!(now(ks.wait_until(|view| Some(view.len()))).unwrap(), 1);
    assert_eq!((outer.revision(), inner.revision(), ks.snapshot().revision()), (5, 5, 5));
    // Not in the order of their making.
    drop(outer);
    assert!(panic_of(|| poll_once(pin!(ks.updated()))).0.contains("holds a read guard"));
    drop(inner);
    assert!(poll_once(pin!(ks.updated())).is_pending());
}

#[test]
fn t55_block_on_under_a_guard_panics() {
    let (ks, _writer, _) = at_five();
    let guard = ks.read();
    assert_eq!(panic_of(|| block_on(ks.wait_for_revision(6)).unwrap()).0, REASON);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(panic_of(|| runtime.block_on(ks.wait_for_revision(6)).unwrap()).0, REASON);
    drop(guard);
}

/// Two branches of one task: one holds the guard across its own wait, the other waits for the step
/// that this guard keeps out.
#[test]
fn t55_join_with_a_guard_in_another_branch_panics() {
    let (ks, _writer, _) = at_five();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let joined = async {
        let holding = async {
            let guard = ks.read();
            tokio::task::yield_now().await;
            guard.len()
        };
        tokio::join!(holding, ks.wait_for_revision(6))
    };
    assert_eq!(panic_of(|| drop(runtime.block_on(joined))).0, REASON);
    // The unwinding released the guard.
    assert!(poll_once(pin!(ks.updated())).is_pending());
}

#[test]
fn t55_a_local_set_with_a_guard_in_another_task_panics() {
    let (ks, _writer, _) = at_five();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let holder = ks.clone();
    local.spawn_local(async move {
        let guard = holder.read();
        // Held across an await: a local task may, the compiler does not object.
        std::future::pending::<()>().await;
        drop(guard);
    });
    let waiting = local.spawn_local({
        let ks = ks.clone();
        async move { ks.wait_for_revision(6).await }
    });
    let panic = local.block_on(&runtime, waiting).unwrap_err().into_panic();
    assert_eq!(panic.downcast_ref::<String>().map(String::as_str), Some(REASON));
}

/// Guards of other threads and of other key spaces are none of a wait's business.
#[test]
fn only_guards_of_this_thread_and_key_space_count() {
    let (ks, mut writer, _) = at_five();
    let (other, _other_writer, _) = at_five();
    let elsewhere = other.read();
    let mut wait = pin!(ks.wait_for_revision(6));
    assert!(poll_once(wait.as_mut()).is_pending());
    let guard = ks.read();
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(poll_once(pin!(ks.wait_for_revision(9))).is_pending()));
    });
    drop(guard);
    writer.confirm(6);
    assert_eq!(now(wait).unwrap(), 6);
    drop(elsewhere);
}

/// Plain reads queue behind a waiting writer; nested ones must not, or thread and writer would wait
/// for each other.
#[test]
fn t55_nested_reads_work_while_a_writer_waits() {
    let (ks, mut writer, mut store) = at_five();
    store.put("/b", "new");
    std::thread::scope(|scope| {
        let outer = ks.read();
        let writing = scope.spawn(|| writer.apply(store.after(5)).unwrap());
        until_a_writer_waits(&ks);
        for _ in 0..3 {
            let inner = ks.read();
            assert_eq!((inner.revision(), ks.snapshot().len(), inner.len()), (5, 1, 1));
            assert_eq!((ks.status().rejected, ks.rejected().len(), ks.stats().keys), (0, 0, 1));
            assert_eq!(now(ks.read_at(5)).unwrap().len(), 1);
        }
        assert!(!writing.is_finished(), "nothing changes while a guard lives");
        assert_eq!(outer.revision(), 5);
        drop(outer);
        assert_eq!(writing.join().unwrap().revision, 6);
    });
    assert_eq!(ks.read().len(), 2);
    assert!(ks.stats().longest_write_wait > std::time::Duration::ZERO);
}

/// Where a task may not give its thread away, the runtime would panic if it tried.
#[cfg(feature = "test-util")]
#[test]
fn a_mirror_in_a_local_set_waits_for_a_guard_on_its_own_thread() {
    use etcd_keyspace::{KeySpace, testing::FakeEtcd};

    let mut threads = tokio::runtime::Builder::new_multi_thread();
    let runtime = threads.worker_threads(1).enable_all().build().unwrap();
    let etcd = FakeEtcd::new();
    etcd.put("/app/a", "1");
    let text = |kv: etcd_keyspace::RawKeyValue| String::from_utf8(kv.value);
    let builder = KeySpace::builder("/app/").unwrap().decoder(text);
    let (ks, mirror) = builder.build(etcd.clone());
    let local = tokio::task::LocalSet::new();
    let running = local.spawn_local(mirror.run());
    let shown = runtime.block_on(local.run_until(async {
        ks.loaded().await.unwrap();
        let (held, holding) = tokio::sync::oneshot::channel();
        let reader = ks.clone();
        let thread = std::thread::spawn(move || {
            let view = reader.read();
            held.send(()).unwrap();
            until_a_writer_waits(&reader);
            view.len()
        });
        holding.await.unwrap();
        let revision = etcd.put("/app/b", "2");
        ks.wait_for_revision(revision).await.unwrap();
        assert_eq!(thread.join().unwrap(), 1, "nothing changes while a guard lives");
        ks.shutdown().await;
        ks.snapshot().len()
    }));
    assert_eq!(shown, 2);
    runtime.block_on(local.run_until(running)).unwrap();
}
