//! The keeper by hand: what it asks the mirror for, and when.

use super::*;
use crate::journal::{Filter, JournalOptions, Position};
use crate::model::RawKeyValue;
use crate::publish::{FeedSender, tap};

fn place(epoch: u64, revision: i64) -> Through {
    Through { cluster_id: 7, epoch, revision }
}

fn page() -> FeedItem {
    let kv = RawKeyValue { key: b"/a".to_vec(), mod_revision: 3, ..RawKeyValue::default() };
    FeedItem::Page(vec![kv])
}

fn load(tap: &FeedSender, to: Through) {
    tap.send(FeedItem::LoadBegins);
    tap.send(page());
    tap.send(FeedItem::LoadEnds { to, refused: Vec::new() });
}

/// A keeper that runs, and what it is told by.
async fn begin() -> (Journal, FeedSender) {
    let journal = Journal::in_memory(JournalOptions::new()).await.unwrap();
    let tap = keep(&journal);
    (journal, tap)
}

fn keep(journal: &Journal) -> FeedSender {
    let (tap, tapping) = tap(1 << 20);
    let (name, options) = ("things".to_owned(), MirrorOptions::default());
    let keeper = Appender::new(journal.clone(), "m".to_owned(), name, options, OnBadStore::Stop);
    tokio::spawn(keeper.run(tapping));
    tap
}

async fn asks(tap: &FeedSender, within: Duration) {
    let asked = tokio::time::timeout(within, tap.reload_requested()).await;
    asked.expect("a complete read is asked for");
}

async fn stored(journal: &Journal, expected: Through) {
    let stored = async {
        while journal.cursor("m").await.unwrap().is_none_or(|it| it.cursor != expected.into()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), stored).await.expect("it is stored");
}

/// A read that had begun before it was asked for is not the one that was asked for.
#[tokio::test]
async fn a_read_that_does_not_serve_is_asked_for_again_when_it_ends() {
    let (journal, tap) = begin().await;
    load(&tap, place(1, 3));
    stored(&journal, place(1, 3)).await;
    tap.send(FeedItem::LoadBegins);
    // It does not go on from where the last one ended.
    tap.send(FeedItem::Progress { from: place(1, 5), to: place(1, 6) });
    asks(&tap, Duration::from_secs(10)).await;
    // The mirror takes it for the read that is under way.
    tap.send(page());
    tap.send(FeedItem::LoadEnds { to: place(1, 9), refused: Vec::new() });
    asks(&tap, RETRY_MAX / 2).await;
    load(&tap, place(1, 10));
    stored(&journal, place(1, 10)).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), tap.reload_requested()).await.is_err());
}

/// It is asked for once, however late it is known what else has ended meanwhile.
#[tokio::test]
async fn a_read_is_not_asked_for_twice() {
    let (journal, tap) = begin().await;
    load(&tap, place(1, 3));
    stored(&journal, place(1, 3)).await;
    tap.send(FeedItem::LoadBegins);
    tap.send(FeedItem::Progress { from: place(1, 5), to: place(1, 6) });
    let asked = async {
        while !tap.shared().wanted() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), asked).await.expect("it is asked for");
    // The one under way has ended when the mirror hears of it.
    tap.send(FeedItem::LoadEnds { to: place(1, 9), refused: Vec::new() });
    asks(&tap, Duration::ZERO).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), tap.reload_requested()).await.is_err());
    load(&tap, place(1, 10));
    stored(&journal, place(1, 10)).await;
}

/// What is stored has its own count of epochs.
#[tokio::test]
async fn c5_a_start_without_what_is_stored_is_another_epoch_and_one_with_it_is_not() {
    let (journal, tap) = begin().await;
    load(&tap, place(1, 3));
    stored(&journal, place(1, 3)).await;
    load(&tap, place(2, 4));
    stored(&journal, place(2, 4)).await;
    let tap = keep(&journal);
    load(&tap, place(1, 5));
    stored(&journal, place(3, 5)).await;
    tap.send(FeedItem::Events {
        from: place(1, 5),
        to: place(1, 6),
        events: Vec::new(),
        refused: Vec::new(),
    });
    stored(&journal, place(3, 6)).await;
    load(&tap, place(2, 7));
    stored(&journal, place(4, 7)).await;
    let tap = keep(&journal);
    tap.send(FeedItem::Restored);
    load(&tap, place(5, 8));
    stored(&journal, place(5, 8)).await;
}

/// A write of a key, whose value is refused if `shows` tells what is shown instead.
fn write(key: &str, revision: i64, shows: Option<Option<i64>>) -> FeedItem {
    let kv = RawKeyValue {
        key: key.into(),
        value: revision.to_string().into(),
        create_revision: 1,
        mod_revision: revision,
        ..RawKeyValue::default()
    };
    let refused = shows.map(|shows| Refused {
        key: key.into(),
        since: std::time::UNIX_EPOCH + Duration::from_secs(revision.unsigned_abs()),
        shows,
    });
    FeedItem::Events {
        from: place(1, revision - 1),
        to: place(1, revision),
        events: vec![Event::Put(kv)],
        refused: refused.into_iter().collect(),
    }
}

/// One transaction stores what was given before the task had its turn, as if one after the other.
#[tokio::test]
async fn j4_events_that_wait_are_stored_together() {
    let (journal, tap) = begin().await;
    load(&tap, place(1, 3));
    stored(&journal, place(1, 3)).await;
    tap.send(write("/a", 4, None));
    tap.send(write("/a", 5, Some(Some(4))));
    tap.send(write("/b", 6, Some(None)));
    tap.send(FeedItem::Progress { from: place(1, 6), to: place(1, 7) });
    tap.send(write("/c", 8, Some(None)));
    tap.send(write("/a", 9, Some(Some(4))));
    tap.send(write("/b", 10, None));
    tap.send(FeedItem::Progress { from: place(1, 10), to: place(1, 11) });
    stored(&journal, place(1, 11)).await;
    let page = journal.events(Position::At(2), 100, &Filter::all()).await.unwrap();
    let revisions: Vec<_> = page.events.iter().map(|event| event.revision.unwrap()).collect();
    assert_eq!(revisions, [4, 5, 6, 8, 9, 10]);
    // A transaction has one time.
    assert!(page.events.iter().all(|event| event.time == page.events[0].time));
    let mut reader = journal.state("m").await.unwrap().unwrap();
    let refused = reader.refused().unwrap();
    let refused: Vec<_> = refused
        .iter()
        .map(|it| (&it.key[..], it.last_good.as_ref().map(|kv| kv.mod_revision)))
        .collect();
    assert_eq!(refused, [(&b"/a"[..], Some(4)), (&b"/c"[..], None)]);
    let state = reader.page(100).unwrap();
    assert_eq!(state.iter().map(|kv| kv.mod_revision).collect::<Vec<_>>(), [9, 10, 8]);
}

/// What came in order before a gap is stored as it came; the rest is read.
#[tokio::test]
async fn j2_what_waits_before_a_gap_is_stored() {
    let (journal, tap) = begin().await;
    load(&tap, place(1, 3));
    stored(&journal, place(1, 3)).await;
    tap.send(write("/a", 4, None));
    tap.send(write("/a", 6, None));
    asks(&tap, Duration::from_secs(10)).await;
    stored(&journal, place(1, 4)).await;
    // Something else ends what waits, too.
    load(&tap, place(1, 7));
    tap.send(write("/b", 8, None));
    tap.send(FeedItem::LoadBegins);
    stored(&journal, place(1, 8)).await;
}
