//! Stores that are restored from a backup, or wiped and written again: cluster and member ids stay.

use super::*;

/// Far below any key space of these tests.
const NO_BUDGET: (usize, u64) = (0, 0);
const DEFAULT: (usize, u64) = (4096, 1 << 20);

/// An outage during which `replace` changes the store; returns once the mirror is live and has the
/// newest revision.
async fn outage(ks: &KeySpace<Vec<u8>>, etcd: &FakeEtcd, replace: impl FnOnce()) {
    etcd.faults().down();
    reaches(ks, State::Reconnecting).await;
    replace();
    etcd.faults().up();
    reaches(ks, State::Live).await;
    ks.sync().await.unwrap();
    assert_same(ks, etcd).await;
}

/// A lock that was taken and released is the newest change, and neither history has it.
#[tokio::test(start_paused = true)]
async fn h10_a_restore_after_an_ephemeral_key_is_found() {
    for budget in [NO_BUDGET, DEFAULT] {
        let etcd = etcd();
        for n in 0..7 {
            etcd.put(format!("/k/{n}"), "old");
        }
        let backup = etcd.revision();
        let builder = builder().proof_budget(budget.0, budget.1);
        let ks = builder.start(etcd.clone()).await.unwrap();
        etcd.put("/k/lock", "me");
        let cursor = etcd.delete("/k/lock");
        ks.wait_for_revision(cursor).await.unwrap();
        outage(&ks, &etcd, || {
            etcd.restore(backup);
            etcd.put("/k/x", "new");
            assert_eq!(etcd.put("/k/y", "new"), cursor);
            etcd.put("/k/z", "new");
        })
        .await;
        assert_eq!(ks.status().epoch, 2);
    }
}

/// Progress has moved the cursor beyond the newest change, and one key was exchanged for another.
#[tokio::test(start_paused = true)]
async fn h10_an_exchanged_key_is_found_where_all_is_compared() {
    let etcd = etcd();
    for n in 0..5 {
        etcd.put(format!("/k/{n}"), "old");
    }
    let backup = etcd.revision();
    let ks = start(&etcd).await;
    etcd.put("/k/lock", "me");
    etcd.delete("/k/lock");
    let cursor = etcd.put("/beside", "x");
    ks.wait_for_revision(cursor).await.unwrap();
    outage(&ks, &etcd, || {
        etcd.restore(backup);
        etcd.delete("/k/0");
        etcd.put("/k/y", "new");
        assert_eq!(etcd.put("/beside", "y"), cursor);
        etcd.put("/k/z", "new");
    })
    .await;
    assert_eq!(ks.status().epoch, 2);
}

/// The newest revision is a transaction that ends with a deletion; its write is compared all the same.
#[tokio::test(start_paused = true)]
async fn h10_a_write_beside_a_deletion_is_compared() {
    for budget in [NO_BUDGET, DEFAULT] {
        let etcd = etcd();
        etcd.put("/k/a", "old");
        let backup = etcd.revision();
        let builder = builder().proof_budget(budget.0, budget.1);
        let ks = builder.start(etcd.clone()).await.unwrap();
        etcd.put("/k/lock", "me");
        let cursor = etcd.txn([Op::put("/k/a", "lost"), Op::delete("/k/lock")]);
        ks.wait_for_revision(cursor).await.unwrap();
        outage(&ks, &etcd, || {
            etcd.restore(backup);
            for key in ["/k/x", "/k/y", "/k/z"] {
                etcd.put(key, "new");
            }
        })
        .await;
        assert_eq!(ks.status().epoch, 2);
    }
}

/// A store that is restored while a reload is held breaks nothing that the mirror watches, and the client
/// connects again by itself: after the reload is accepted, the store's content is compared again.
#[tokio::test(start_paused = true)]
async fn h10_a_restore_while_a_reload_is_held_is_found() {
    let etcd = etcd();
    for n in 0..20 {
        etcd.put(format!("/k/{n:02}"), "old");
    }
    let builder = builder().hold_reloads(0.1, OnHold::AcceptAfter(Duration::from_secs(1)));
    let ks = builder.start(etcd.clone()).await.unwrap();
    let backup = etcd.revision() - 10;
    etcd.restore_at_term(backup, 3);
    reaches(&ks, State::Held).await;
    etcd.restore_at_term(backup - 5, 4);
    for n in 30..34 {
        etcd.put(format!("/k/{n}"), "other");
    }
    // Neither the revision nor the term is lower than those that the mirror has seen.
    etcd.put("/beside", "x");
    while ks.status().state != State::Live {
        tokio::time::sleep(MS).await;
    }
    ks.sync().await.unwrap();
    assert_same(&ks, &etcd).await;
    assert_eq!(ks.status().epoch, 3);
}

/// The store was seen behind; that it has caught up since proves nothing, even where the newest key
/// was written with the same value again.
#[tokio::test(start_paused = true)]
async fn h11_a_revision_that_went_back_is_not_forgotten() {
    let etcd = etcd();
    for n in 0..20 {
        etcd.put(format!("/k/{n}"), "old");
    }
    let backup = etcd.revision();
    let ks = builder().proof_budget(0, 0).start(etcd.clone()).await.unwrap();
    for n in 0..5 {
        etcd.put(format!("/k/{n}"), "lost");
    }
    for key in ["/k/b", "/k/c", "/k/d", "/k/e"] {
        etcd.put(key, "same");
    }
    let cursor = etcd.revision();
    ks.wait_for_revision(cursor).await.unwrap();
    etcd.faults().down();
    reaches(&ks, State::Reconnecting).await;
    etcd.restore(backup);
    let asked = etcd.counts().reads();
    etcd.faults().up();
    etcd.until(|counts| counts.reads() > asked).await;
    // It has been asked once, and has answered with a revision below the cursor.
    for n in 5..10 {
        etcd.put(format!("/k/{n}"), "other");
    }
    for key in ["/k/b", "/k/c", "/k/d", "/k/e"] {
        etcd.put(key, "same");
    }
    assert_eq!(etcd.revision(), cursor);
    reaches(&ks, State::Live).await;
    ks.sync().await.unwrap();
    assert_same(&ks, &etcd).await;
    assert_eq!(ks.status().epoch, 2);
}

/// The same script runs again on an empty store, with one other value: all numbers are equal.
#[tokio::test(start_paused = true)]
async fn h12_a_store_written_again_with_one_other_value_is_found() {
    let etcd = etcd();
    let seed = |changed: &str| {
        for n in 0..50 {
            etcd.put(format!("/k/{n}"), if n == 20 { changed } else { "value" });
        }
    };
    seed("one");
    let ks = start(&etcd).await;
    outage(&ks, &etcd, || {
        etcd.restore(1);
        seed("other");
    })
    .await;
    assert_eq!(ks.status().epoch, 2);
}

/// What the docs say is not found: beyond the budget, the newest writes and the number of keys agree.
#[tokio::test(start_paused = true)]
async fn h12_beyond_the_budget_an_old_value_is_not_compared() {
    let etcd = etcd();
    let seed = |changed: &str| {
        for n in 0..50 {
            etcd.put(format!("/k/{n}"), if n == 20 { changed } else { "value" });
        }
    };
    seed("one");
    let builder = builder().proof_budget(49, 1 << 20);
    let ks = builder.start(etcd.clone()).await.unwrap();
    etcd.faults().down();
    reaches(&ks, State::Reconnecting).await;
    etcd.restore(1);
    seed("other");
    etcd.faults().up();
    reaches(&ks, State::Live).await;
    ks.sync().await.unwrap();
    assert_eq!(
        (ks.status().epoch, ks.read().get("/k/20").unwrap().value().as_slice()),
        (1, &b"one"[..])
    );
    // Any of the newest writes would have shown it.
    etcd.faults().down();
    reaches(&ks, State::Reconnecting).await;
    etcd.restore(47);
    for n in 46..50 {
        etcd.put(format!("/k/{n}"), if n == 46 { "other" } else { "value" });
    }
    etcd.faults().up();
    reaches(&ks, State::Live).await;
    ks.sync().await.unwrap();
    assert_same(&ks, &etcd).await;
    assert_eq!(ks.status().epoch, 2);
}

/// A stale answer raises a suspicion; equal content clears it, and the epoch stays.
#[tokio::test(start_paused = true)]
async fn h13_equal_content_clears_a_suspicion() {
    let etcd = FakeEtcd::new().with_endpoints(2);
    etcd.set_progress_interval(None);
    etcd.faults().bug(Bug::StaleReads, true);
    etcd.put("/k/a", "1");
    let ks = builder().proof_budget(0, 0).start(etcd.clone()).await.unwrap();
    let used = usize::from(ks.status().endpoint.as_deref() == Some("fake-1"));
    let (used, lagging) = (etcd.faults_at(used), 1 - used);
    etcd.faults_at(lagging).hold_back();
    let revision = etcd.put("/k/b", "1");
    ks.wait_for_revision(revision).await.unwrap();
    let asked = etcd.counts_at(lagging).reads();
    used.down();
    while etcd.counts_at(lagging).reads() == asked {
        tokio::time::sleep(MS).await;
    }
    tokio::time::sleep(MS).await;
    // The lagging member has answered; until content is compared nothing is known.
    let as_of = ks.status().current_as_of;
    assert_eq!(ks.status().state, State::Reconnecting);
    let waited = timeout(50 * MS, ks.wait_for_revision(revision)).await;
    assert!(waited.is_err(), "a revision of a suspected history is not confirmed: {waited:?}");
    assert!(ks.status().current_as_of >= as_of.map(|age| age + 50 * MS));
    used.up();
    ks.wait_for_revision(revision).await.unwrap();
    assert_same(&ks, &etcd).await;
    let status = ks.status();
    assert_eq!((status.epoch, status.counters.loads), (1, 1), "{status:?}");
}

/// Whatever the backoff, a restored store is found soon after its first answer, and a pending wait
/// has it asked within a second.
#[tokio::test(start_paused = true)]
async fn h14_a_restore_is_found_within_seconds_after_a_long_outage() {
    for seed in 0..20 {
        let etcd = etcd();
        for n in 0..100 {
            etcd.put(format!("/k/{n}"), "old");
        }
        let builder = builder().seed(seed);
        let builder = builder.backoff(100 * MS, Duration::from_secs(60));
        let ks = builder.start(etcd.clone()).await.unwrap();
        etcd.faults().down();
        tokio::time::sleep(Duration::from_secs(600)).await;
        etcd.restore(1);
        etcd.put("/k/new", "1");
        let dials = etcd.counts().connects;
        let begun = Instant::now();
        etcd.faults().up();
        // A wait for a revision that the new history may reach.
        let waited = ks.wait_for_revision(1_000).await;
        assert!(matches!(waited, Err(WaitError::HistoryChanged { was: 1, now: 2 })), "{waited:?}");
        assert!(begun.elapsed() <= 2_000 * MS, "{:?} with seed {seed}", begun.elapsed());
        assert!(etcd.counts().connects - dials <= 5);
        assert_same(&ks, &etcd).await;
    }
}

/// While etcd is away a pending wait has it dialled once a second, and without one the backoff counts.
#[tokio::test(start_paused = true)]
async fn h14_pending_waits_dial_once_a_second() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let builder = builder().backoff(100 * MS, Duration::from_secs(60));
    let ks = builder.start(etcd.clone()).await.unwrap();
    etcd.faults().down();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let dials = || etcd.counts().connects;
    let before = dials();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(dials() - before <= 3, "{} dials in a minute", dials() - before);
    let before = dials();
    let waited = timeout(Duration::from_secs(60), ks.wait_for_revision(1_000)).await;
    assert!(waited.is_err());
    let dialed = dials() - before;
    assert!((50..=61).contains(&dialed), "{dialed} dials in a minute");
}

/// Raises the term of the cluster, and lets the mirror see it.
async fn elect(ks: &KeySpace<Vec<u8>>, etcd: &FakeEtcd) {
    etcd.faults().lose_leader();
    reaches(ks, State::Reconnecting).await;
    etcd.faults().elect_leader();
    reaches(ks, State::Live).await;
    ks.sync().await.unwrap();
}

/// Beyond the budget, with the newest writes and the number of keys as before: the term shows it.
#[tokio::test(start_paused = true)]
async fn h15_an_older_term_has_everything_compared() {
    let etcd = etcd();
    let seed = |changed: &str| {
        for n in 0..50 {
            etcd.put(format!("/k/{n}"), if n == 20 { changed } else { "value" });
        }
    };
    seed("one");
    let ks = builder().proof_budget(0, 0).start(etcd.clone()).await.unwrap();
    elect(&ks, &etcd).await;
    outage(&ks, &etcd, || {
        etcd.wipe();
        seed("other");
    })
    .await;
    assert_eq!(ks.status().epoch, 2);
}

/// The backup has all that was known: the history is continued, and the lower term is the new measure.
#[tokio::test(start_paused = true)]
async fn h15_an_older_term_with_equal_content_is_the_same_history() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = builder().proof_budget(0, 0).start(etcd.clone()).await.unwrap();
    elect(&ks, &etcd).await;
    elect(&ks, &etcd).await;
    for _ in 0..3 {
        let many = etcd.counts().many;
        outage(&ks, &etcd, || etcd.restore_at_term(etcd.revision(), 2)).await;
        assert!(etcd.counts().many > many, "everything was compared");
        let many = etcd.counts().many;
        etcd.faults().cut();
        etcd.put("/k/a", "2");
        assert_same(&ks, &etcd).await;
        assert_eq!(etcd.counts().many, many, "nothing is suspected any more");
        elect(&ks, &etcd).await;
    }
    assert_eq!((ks.status().epoch, ks.status().counters.loads), (1, 1));
}

/// etcd applies an entry before it shows the entry's term: one answer with the old term is asked again.
#[tokio::test(start_paused = true)]
async fn h15_a_single_answer_with_the_old_term_is_no_evidence() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = builder().proof_budget(0, 0).start(etcd.clone()).await.unwrap();
    elect(&ks, &etcd).await;
    let many = etcd.counts().many;
    for _ in 0..5 {
        etcd.faults().late_term();
        elect(&ks, &etcd).await;
    }
    assert_eq!(etcd.counts().many, many, "not everything is compared");
    assert_eq!((ks.status().epoch, ks.status().counters.loads), (1, 1));
}

/// The token expires, and the store is restored behind a proxy, so that no stream breaks.
#[tokio::test(start_paused = true)]
async fn h13_an_expired_token_leaves_no_suspected_state_live() {
    let etcd = etcd();
    for n in 0..50 {
        etcd.put(format!("/k/{n}"), if n == 20 { "one" } else { "value" });
    }
    etcd.faults().proxy();
    let ks = builder().proof_budget(0, 0).start(etcd.clone()).await.unwrap();
    etcd.faults().elect_leader();
    etcd.faults().elect_leader();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let cursor = ks.sync().await.unwrap();
    assert_eq!(ks.status().state, State::Live);
    etcd.faults().expire_token();
    etcd.faults().delay_call(Call::Range, 2000 * MS);
    etcd.wipe();
    for n in 0..50 {
        etcd.put(format!("/k/{n}"), if n == 20 { "other" } else { "value" });
    }
    let mut wrong = Vec::new();
    let begun = Instant::now();
    while ks.status().epoch == 1 && begun.elapsed() < Duration::from_secs(60) {
        // A wait for what is confirmed is pending only under suspicion.
        let pending = timeout(Duration::ZERO, ks.wait_for_revision(cursor)).await.is_err();
        let (state, watchers) = (ks.status().state, etcd.counts().watchers);
        if pending && state == State::Live {
            wrong.push((begun.elapsed(), state, watchers));
        }
        tokio::time::sleep(100 * MS).await;
    }
    println!("epoch {} after {:?}", ks.status().epoch, begun.elapsed());
    assert!(wrong.is_empty(), "live under suspicion {} times: {:?}", wrong.len(), wrong.first());
}

/// Live though the watch is closed, while a token is refreshed.
#[tokio::test(start_paused = true)]
async fn b26_the_state_is_not_live_while_a_token_is_fetched() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let ks = start(&etcd).await;
    etcd.faults().delay_call(Call::RefreshToken, 9_000 * MS);
    etcd.faults().expire_token();
    let mut wrong = 0;
    for _ in 0..200 {
        let status = ks.status();
        wrong += u32::from(status.state == State::Live && etcd.counts().watchers == 0);
        tokio::time::sleep(50 * MS).await;
    }
    assert_eq!(wrong, 0, "50 ms each");
}

/// Under suspicion a wait for a confirmed revision is pending, and dials as any other does.
#[tokio::test(start_paused = true)]
async fn h14_waits_for_confirmed_revisions_dial_under_suspicion() {
    let etcd = etcd();
    for n in 0..20 {
        etcd.put(format!("/k/{n}"), "old");
    }
    let backup = etcd.revision();
    let builder = builder().proof_budget(0, 0).backoff(100 * MS, Duration::from_secs(60));
    let ks = builder.start(etcd.clone()).await.unwrap();
    let cursor = etcd.put("/k/0", "lost");
    ks.wait_for_revision(cursor).await.unwrap();
    etcd.faults().down();
    reaches(&ks, State::Reconnecting).await;
    etcd.restore(backup);
    let asked = etcd.counts().reads();
    etcd.faults().up();
    etcd.until(|counts| counts.reads() > asked).await;
    tokio::time::sleep(MS).await;
    etcd.faults().down();
    let pending = timeout(MS, ks.wait_for_revision(cursor)).await;
    assert!(pending.is_err(), "suspected: {pending:?}");
    tokio::time::sleep(Duration::from_secs(600)).await;
    let before = etcd.counts().connects;
    let waited = timeout(Duration::from_secs(60), ks.wait_for_revision(cursor)).await;
    assert!(waited.is_err());
    let dialed = etcd.counts().connects - before;
    assert!(dialed >= 50, "{dialed} dials in a minute");
}

/// A load that fails is not repeated without a pause because somebody waits.
#[tokio::test(start_paused = true)]
async fn h14_loads_that_fail_are_not_repeated_without_a_pause() {
    let etcd = etcd();
    for n in 0..20 {
        etcd.put(format!("/k/{n}"), "old");
    }
    let ks =
        builder().backoff(100 * MS, Duration::from_secs(60)).start(etcd.clone()).await.unwrap();
    etcd.faults().down();
    reaches(&ks, State::Reconnecting).await;
    etcd.put("/k/0", "new");
    etcd.compact(etcd.revision());
    etcd.faults().truncate_range_streams(u64::MAX);
    etcd.faults().delay_call(Call::RangeStream, 1_500 * MS);
    etcd.faults().up();
    reaches(&ks, State::Reloading).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    let before = etcd.counts().range_streams;
    let _ = timeout(Duration::from_secs(120), ks.sync()).await;
    let loads = etcd.counts().range_streams - before;
    assert!(loads < 20, "{loads} full reads in two minutes");
}

/// Mirrors that are waited for do not all dial in the same moment, again and again.
#[tokio::test(start_paused = true)]
async fn h14_mirrors_with_pending_waits_do_not_dial_in_step() {
    let etcd = etcd();
    etcd.put("/k/a", "1");
    let mut waits = tokio::task::JoinSet::new();
    for seed in 0..200 {
        let ks = builder().seed(seed).start(etcd.clone()).await.unwrap();
        waits.spawn(async move { ks.wait_for_revision(1_000).await });
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    etcd.faults().down();
    let mut before = etcd.counts().connects;
    let mut most = Vec::new();
    for _ in 0..5 {
        let mut worst = 0;
        for _ in 0..100 {
            tokio::time::sleep(10 * MS).await;
            let now = etcd.counts().connects;
            worst = worst.max(now - before);
            before = now;
        }
        most.push(worst);
    }
    assert!(most.iter().all(|most| *most < 80), "{most:?}");
}

/// A wrong backup is held, and the store is put back as it was.
#[tokio::test(start_paused = true)]
async fn h16_a_store_that_comes_back_keeps_its_epoch() {
    let etcd = FakeEtcd::new();
    etcd.set_progress_interval(None);
    etcd.faults().bug(Bug::StaleReads, true);
    etcd.put("/k/a", "1");
    etcd.faults().hold_back();
    let first = etcd.revision();
    etcd.faults().catch_up();
    for n in 0..20 {
        etcd.put(format!("/k/{n}"), "1");
    }
    let ks = builder().hold_reloads(0.1, OnHold::Wait).start(etcd.clone()).await.unwrap();
    // The same writes again after a restore are the same store, for all that a client can see.
    etcd.faults().down();
    reaches(&ks, State::Reconnecting).await;
    etcd.restore(first);
    etcd.faults().up();
    reaches(&ks, State::Held).await;
    etcd.faults().down();
    reaches(&ks, State::Reloading).await;
    for n in 0..20 {
        etcd.put(format!("/k/{n}"), "1");
    }
    etcd.faults().up();
    reaches(&ks, State::Live).await;
    assert_same(&ks, &etcd).await;
    assert_eq!(ks.status().epoch, 1, "nothing differs from what was served");
}

/// Events are known to be lost, and the store shows a lower term: the writes that are compared then carry
/// that term as well.
#[tokio::test(start_paused = true)]
async fn h15_gaps_and_an_older_term_at_once_end() {
    let etcd = etcd();
    for n in 0..10 {
        etcd.put(format!("/k/{n}"), "1");
    }
    let ks = builder().proof_budget(0, 0).start(etcd.clone()).await.unwrap();
    elect(&ks, &etcd).await;
    // No load succeeds until the store is back.
    etcd.faults().refuse_times(Call::RangeStream, SourceErrorKind::Unavailable, 1_000);
    etcd.faults().lose_events(1);
    etcd.put("/k/0", "lost");
    etcd.put("/k/0", "2");
    reaches(&ks, State::Reloading).await;
    etcd.faults().down();
    etcd.restore_at_term(etcd.revision(), 2);
    etcd.faults().heal();
    let dials = etcd.counts().connects;
    reaches(&ks, State::Live).await;
    assert_same(&ks, &etcd).await;
    assert!(etcd.counts().connects - dials <= 3, "{:?}", etcd.counts());
    assert_eq!(ks.status().epoch, 1);
}
