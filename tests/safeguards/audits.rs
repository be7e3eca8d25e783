//! Comparing with etcd, and mending what is found.

use super::*;

/// A mirror that audits every minute.
async fn audited(etcd: &FakeEtcd) -> KeySpace<Vec<u8>> {
    builder().audit_interval(60 * SECOND).start(etcd.clone()).await.unwrap()
}

async fn until_audits(ks: &KeySpace<Vec<u8>>, audits: u64) {
    while ks.status().counters.audits < audits {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn t71_an_audit_finds_lost_events_and_repairs_by_the_difference() {
    let etcd = etcd();
    fill(&etcd, 3_000);
    let ks = audited(&etcd).await;
    let kept = ks.snapshot();
    etcd.faults().lose_events(3);
    etcd.put("/k/001", "lost");
    etcd.delete("/k/002");
    etcd.put("/k/new", "lost");
    let last = etcd.put("/k/003", "seen");
    ks.wait_for_revision(last).await.unwrap();
    assert_eq!(ks.status().counters.discontinuities, 0, "nothing that came shows the loss");
    assert!(ks.read().contains("/k/002"));

    until_audits(&ks, 1).await;
    assert_eq!(ks.status().counters.drift, 3);
    while ks.status().counters.loads < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_same(&ks, &etcd).await;
    assert_eq!(ks.snapshot().diff(&kept).len(), 4);
    until_audits(&ks, 3).await;
    let counters = ks.status().counters;
    assert_eq!((counters.drift, counters.loads), (3, 2), "once mended it stays mended");
}

#[tokio::test(start_paused = true)]
async fn t71_no_audit_gives_a_false_alarm_during_writes_faults_and_compactions() {
    for name in ["3.7.2", "3.5.1", "3.4.23"] {
        let etcd = etcd();
        etcd.set_version(version(name));
        fill(&etcd, 500);
        let ks = builder().audit_interval(SECOND).audit_values(2 * SECOND);
        let ks = ks.start(etcd.clone()).await.unwrap();
        etcd.faults().delay_call(Call::Range, Duration::from_millis(40));
        for round in 0..3_000_u64 {
            let key = format!("/k/{:03}", etcd.random(600));
            match etcd.random(3) {
                0 => etcd.delete(key),
                _ => etcd.put(key, "changed"),
            };
            match round % 500 {
                100 => etcd.compact(etcd.revision()),
                250 => etcd.faults().cut(),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(etcd.random(20))).await;
        }
        let counters = ks.status().counters;
        assert!(counters.audits > 5, "{name}: {counters:?}");
        assert_eq!((counters.drift, counters.discontinuities), (0, 0), "{name}");
        assert_same(&ks, &etcd).await;
    }
}

#[tokio::test(start_paused = true)]
async fn c10_t71_audits_work_on_known_keys() {
    let etcd = etcd();
    fill(&etcd, 5);
    let decoder = |kv: etcd_keyspace::RawKeyValue| match kv.value.as_slice() {
        b"bad" => Err("bad"),
        _ => Ok(kv.value),
    };
    let ks = KeySpace::builder(PREFIX).unwrap().decoder(decoder).seed(7);
    let ks = ks.audit_interval(SECOND).start(etcd.clone()).await.unwrap();
    etcd.put("/k/001", "bad"); // shows the older value
    let last = etcd.put("/k/new", "bad"); // shows nothing
    ks.wait_for_revision(last).await.unwrap();
    until_audits(&ks, 3).await;
    let status = ks.status();
    assert_eq!((status.counters.drift, status.rejected), (0, 2));
    assert_eq!((status.counters.rejected, ks.read().len()), (2, 5));
    etcd.faults().lose_events(1);
    etcd.put("/k/new", "bad");
    while ks.status().counters.loads < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(ks.status().counters.drift, 1);
}

/// A repair that no event and no new revision announces: what was shown at this revision was wrong, so
/// the same revision must not name two states within one epoch.
#[tokio::test(start_paused = true)]
async fn c1_t71_a_repair_at_an_unchanged_revision_begins_a_new_epoch() {
    let etcd = etcd();
    fill(&etcd, 10);
    let ks = audited(&etcd).await;
    etcd.faults().lose_events(1);
    etcd.put("/k/001", "lost");
    let last = etcd.put("/k/002", "seen");
    ks.wait_for_revision(last).await.unwrap();
    let before = ks.snapshot();
    until_audits(&ks, 1).await;
    reaches(&ks, State::Live).await;
    assert_same(&ks, &etcd).await;
    let view = ks.read();
    assert_eq!((view.revision(), view.epoch()), (before.revision(), before.epoch() + 1));
}

/// Lost events leave other keys in etcd than are known; that is no other history, though to the proof
/// of identity it looks like one.
#[tokio::test(start_paused = true)]
async fn b9_b16_t71_mending_lost_history_is_not_mistaken_for_another_history() {
    for lost in ["delete", "create", "put", "probe"] {
        let etcd = etcd();
        fill(&etcd, 10);
        let ks = builder()
            .audit_interval(60 * SECOND)
            .on_history_change(OnHistoryChange::Stop)
            .start(etcd.clone())
            .await
            .unwrap();
        let seen = etcd.put("/k/005", "the last that is known");
        ks.wait_for_revision(seen).await.unwrap();
        etcd.faults().lose_events(1);
        match lost {
            "delete" => etcd.delete("/k/001"),
            "create" => etcd.put("/k/new", "1"),
            "put" => etcd.put("/k/001", "2"),
            _ => etcd.put("/k/005", "2"),
        };
        // Progress moves the cursor beyond what is known.
        let elsewhere = etcd.put("/elsewhere", "1");
        ks.wait_for_revision(elsewhere).await.unwrap();
        until_audits(&ks, 1).await;
        etcd.put("/k/after", "1");
        assert_same(&ks, &etcd).await;
        let counters = ks.status().counters;
        assert_eq!((counters.drift, counters.history_changes), (1, 0), "{lost}");
    }
}

#[tokio::test(start_paused = true)]
async fn t71_audits_are_made_although_the_watch_is_reopened_all_the_time() {
    let etcd = etcd();
    fill(&etcd, 10);
    let ks = audited(&etcd).await;
    for _ in 0..20 {
        etcd.faults().cut();
        tokio::time::sleep(20 * SECOND).await;
    }
    assert!(ks.status().counters.audits >= 5, "{:?}", ks.status().counters);
}

#[tokio::test(start_paused = true)]
async fn t71_an_audit_that_cannot_be_made_is_put_off_and_leaves_the_watch_alone() {
    let etcd = etcd();
    fill(&etcd, 10);
    // The checks of the watch come later, so that only the audit is refused.
    let builder = builder().audit_interval(60 * SECOND).check_interval(700 * SECOND);
    let ks = builder.page_timeout(SECOND).start(etcd.clone()).await.unwrap();
    for kind in [SourceErrorKind::Compacted, SourceErrorKind::Timeout, SourceErrorKind::TooLarge] {
        // An audit comes a quarter before its time at the earliest.
        tokio::time::sleep(44 * SECOND).await;
        let keys_only = etcd.counts().keys_only;
        etcd.faults().refuse(Call::Range, kind);
        etcd.until(|counts| counts.keys_only > keys_only).await;
        etcd.faults().allow(Call::Range);
    }
    assert_eq!(ks.status().counters.audits, 0);
    until_audits(&ks, 1).await;
    assert_same(&ks, &etcd).await;
    let counts = etcd.counts();
    assert_eq!((counts.connects, counts.watches, counts.range_streams), (1, 1, 1));
}
