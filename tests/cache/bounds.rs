//! Bounds: how many are held and how many failures are remembered, and what is done at them.

use super::*;

fn range(n: usize) -> String {
    format!("/{n}/")
}

#[tokio::test(start_paused = true)]
async fn c9_at_the_bound_the_one_idle_for_longest_makes_room() {
    let etcd = etcd();
    let spaces = builder(&etcd).max(3).build();
    for n in [0, 1, 2, 0] {
        drop(spaces.get(range(n)).await.unwrap());
        sleep(SECOND).await;
    }
    let held = |spaces: &Spaces| -> Vec<KeyRange> {
        spaces.list().into_iter().map(|info| info.range).collect()
    };
    let ranges = |all: &[usize]| -> Vec<KeyRange> {
        all.iter().map(|n| KeyRange::prefix(range(*n))).collect()
    };
    let three = spaces.get(range(3)).await.unwrap();
    assert_eq!(held(&spaces), ranges(&[0, 2, 3]));
    drop(spaces.get(range(4)).await.unwrap());
    assert_eq!(held(&spaces), ranges(&[0, 3, 4]));
    // What is in use stays, however long ago it was asked for.
    sleep(SECOND).await;
    for n in 5..10 {
        drop(spaces.get(range(n)).await.unwrap());
        assert_eq!((spaces.stats().held, three.status().state), (3, State::Live));
    }
    watchers(&etcd, 3).await;
    assert_eq!((spaces.stats().starts, spaces.stats().evictions), (10, 7));
}

#[tokio::test(start_paused = true)]
async fn c9_when_none_is_idle_the_caller_is_told_until_one_is() {
    let etcd = etcd();
    let spaces = builder(&etcd).max(2).build();
    let (a, _b) = (spaces.get("/a/").await.unwrap(), spaces.get("/b/").await.unwrap());
    let full = spaces.get("/c/").await.unwrap_err();
    let GetError::Full { range, max: 2 } = &full else { panic!("{full:?}") };
    assert_eq!(*range, KeyRange::prefix("/c/"));
    assert!(matches!(spaces.cut(["/a/", "/c/"]).await, Err(CutError::Get(GetError::Full { .. }))));
    assert_eq!((spaces.stats().starts, spaces.stats().failures), (2, 0));
    // One that has stopped takes no place.
    a.shutdown().await;
    let c = spaces.get("/c/").await.unwrap();
    assert!(matches!(spaces.get("/a/").await, Err(GetError::Full { .. })));
    drop(c);
    assert_eq!(spaces.get("/a/").await.unwrap().status().state, State::Live);
    assert_eq!(a.status().state, State::Stopped);
}

#[tokio::test(start_paused = true)]
async fn c9_failures_are_remembered_within_the_bound_and_not_for_ever() {
    let etcd = etcd();
    etcd.faults().deny();
    let spaces = builder(&etcd).max(3).start_backoff(SECOND, SECOND).build();
    for n in 0..10 {
        assert!(matches!(spaces.get(range(n)).await, Err(GetError::Start { .. })));
        assert!(spaces.stats().failures <= 3);
    }
    assert_eq!((listed(&spaces), spaces.stats().held), ([0, 0, 0, 3], 0));
    // They take no places.
    etcd.faults().grant();
    sleep(SECOND).await;
    for n in 0..3 {
        drop(spaces.get(range(n)).await.unwrap());
    }
    assert_eq!(spaces.stats().held, 3);
    sleep(3 * SECOND).await;
    etcd.faults().deny();
    assert!(matches!(spaces.get("/x/").await, Err(GetError::Start { .. })));
    assert_eq!(spaces.stats().failures, 1);
}

#[tokio::test(start_paused = true)]
async fn a_list_says_what_each_mirror_says() {
    let etcd = etcd();
    etcd.put("/a/1", "x");
    let spaces = spaces(&etcd);
    let _a = spaces.get("/a/").await.unwrap();
    drop(spaces.get("/b/").await.unwrap());
    sleep(SECOND).await;
    etcd.faults().permit_only(&KeyRange::bytes("/a/", "/c/"));
    assert!(spaces.get("/c/").await.is_err());
    let list = spaces.list();
    let names: Vec<_> = list.iter().map(|info| info.range.start()).collect();
    assert_eq!(names, [b"/a/", b"/b/", b"/c/"]);
    assert!(matches!(list[0].state, SpaceState::InUse));
    assert!(matches!(list[1].state, SpaceState::Idle { idle_for } if idle_for == SECOND));
    let SpaceState::Failed { reason: StopReason::Refused { .. }, retry_in } = &list[2].state else {
        panic!("{:?}", list[2])
    };
    assert!(*retry_in <= 100 * MS && list[2].status.is_none());
    assert_eq!(list[0].status.as_ref().unwrap().state, State::Live);
    assert_eq!((spaces.stats().held, spaces.stats().in_use), (2, 1));
}
