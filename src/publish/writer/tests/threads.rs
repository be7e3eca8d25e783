//! Loads that are decoded on several threads lead to what one thread would make of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::view::{BadValues, DecodeError};

/// Refuses values that begin with `!`, and panics at those that begin with `?`.
fn text(kv: RawKeyValue) -> Result<String, String> {
    let value = String::from_utf8_lossy(&kv.value).into_owned();
    match value.as_bytes() {
        [b'!', ..] => Err(format!("bad value {value}")),
        // Without the hook, which would print it.
        [b'?', ..] => std::panic::resume_unwind(Box::new(value)),
        _ => Ok(value),
    }
}

/// A key space whose loads are spread over this many threads from the second chunk on.
fn space_on(threads: usize, policy: BadValues) -> (KeySpace<String>, Writer<String>) {
    let builder = KeySpace::builder("/").unwrap().decoder(text).bad_values(policy);
    let (ks, mut writer) = builder.load_threads(threads).writer();
    writer.cores.worth = Duration::ZERO;
    (ks, writer)
}

/// A store of many keys, changed at random between reads.
#[derive(Default)]
struct Store {
    keys: BTreeMap<usize, RawKeyValue>,
    revision: Revision,
}

impl Store {
    fn put(&mut self, key: usize, kind: u8) {
        self.revision += 1;
        let revision = self.revision;
        let mark = match kind % 8 {
            0 => "!",
            1 => "?",
            _ => "",
        };
        // Some values are larger than what is copied for another thread.
        let long = "v".repeat(if key.is_multiple_of(97) { 5_000 } else { 3 });
        let value = format!("{mark}{revision} {long}").into_bytes();
        let kv = self.keys.entry(key).or_insert_with(|| RawKeyValue {
            key: format!("/{key:06}").into_bytes(),
            create_revision: revision,
            ..RawKeyValue::default()
        });
        (kv.value, kv.mod_revision, kv.version) = (value, revision, kv.version + 1);
    }

    /// The pages of a read of everything.
    fn pages(&self, size: usize) -> Vec<Vec<RawKeyValue>> {
        let kvs: Vec<_> = self.keys.values().cloned().collect();
        kvs.chunks(size).map(<[RawKeyValue]>::to_vec).collect()
    }
}

fn load(writer: &mut Writer<String>, store: &Store, size: usize, same_history: bool) -> Applied {
    let mut loading = writer.begin_load(same_history, false);
    for page in store.pages(size) {
        writer.load_page(&mut loading, page).unwrap();
    }
    writer.finish_load(loading, header(store.revision), same_history).unwrap()
}

/// All that a load can be seen by, but for the time since when a value is rejected.
fn seen(ks: &KeySpace<String>) -> (Vec<String>, Vec<String>, [i64; 3]) {
    let view = ks.read();
    let entries = view.iter();
    let entries = entries.map(|entry| format!("{entry:?}"));
    let rejected = ks.rejected().into_iter().map(|rejected| {
        let error = match &*rejected.error {
            DecodeError::Refused(error) => error.to_string(),
            DecodeError::Panicked { message } => format!("panic: {message}"),
        };
        let key = rejected.key.escape_ascii().to_string();
        format!("{key} {} {} {error}", rejected.mod_revision, rejected.shows_older)
    });
    let numbers = [view.revision(), view.confirmed(), view.epoch() as i64];
    (entries.collect(), rejected.collect(), numbers)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn c6_c10_loads_on_several_threads_equal_those_on_one(
        threads in 2_usize..5,
        drop in any::<bool>(),
        size in prop_oneof![Just(usize::MAX), 3_000_usize..6_000],
        // Each round puts and removes every so many keys; the last may be of another history.
        rounds in proptest::collection::vec((1_usize..9, 2_usize..9, any::<u8>()), 1..4),
        replaced in any::<bool>(),
    ) {
        let policy = if drop { BadValues::Drop } else { BadValues::KeepLast };
        let (mut one, mut many) = (space_on(1, policy), space_on(threads, policy));
        let mut store = Store::default();
        (0..8_000).for_each(|key| store.put(key, key as u8));
        for (round, (puts, removals, kind)) in rounds.iter().enumerate() {
            let before = (one.0.snapshot(), many.0.snapshot());
            let same_history = !(replaced && round + 1 == rounds.len());
            let applied = load(&mut one.1, &store, size, same_history);
            prop_assert_eq!(&load(&mut many.1, &store, size, same_history), &applied);
            prop_assert_eq!(seen(&many.0), seen(&one.0));
            let differs = |ks: &KeySpace<String>, before: &crate::Snapshot<String>| -> Vec<_> {
                let diff = ks.snapshot().diff(before);
                diff.iter().map(|change: &Change<String>| change.key().to_vec()).collect()
            };
            prop_assert_eq!(differs(&many.0, &before.1), differs(&one.0, &before.0));
            let keys: Vec<_> = store.keys.keys().copied().collect();
            keys.iter().step_by(*puts).for_each(|key| store.put(*key, kind.wrapping_add(*key as u8)));
            keys.iter().skip(1).step_by(*removals).for_each(|key| drop_key(&mut store, *key));
        }
    }
}

fn drop_key(store: &mut Store, key: usize) {
    store.revision += 1;
    store.keys.remove(&key);
}

/// Behind the first chunk, the thread that loads waits until another one has panicked.
#[test]
fn t38_a_panic_of_the_decoder_on_another_thread_rejects_the_value() {
    let panicked = AtomicBool::new(false);
    let decoder = move |kv: RawKeyValue| {
        if thread::current().name() == Some("keyspace-load") {
            panicked.store(true, Ordering::SeqCst);
            std::panic::resume_unwind(Box::new("boom"));
        }
        while kv.key.as_slice() >= b"/000512".as_slice() && !panicked.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        Ok::<_, String>(())
    };
    let builder = KeySpace::builder("/").unwrap().decoder(decoder);
    let (ks, mut writer) = builder.load_threads(2).writer();
    writer.cores.worth = Duration::ZERO;
    let mut store = Store::default();
    (0..5_000).for_each(|key| store.put(key, 7));
    writer.load(header(store.revision), store.pages(usize::MAX).remove(0)).unwrap();
    let rejected = ks.rejected();
    assert!(!rejected.is_empty(), "a helper has decoded some");
    for rejected in &rejected {
        match &*rejected.error {
            DecodeError::Panicked { message } => assert_eq!(message, "boom"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ks.read().len() + rejected.len(), 5_000);
}

#[test]
fn a_load_inside_an_observer_of_its_key_space_is_refused_before_it_decodes() {
    static DECODED: AtomicUsize = AtomicUsize::new(0);
    let decoder = |_: RawKeyValue| {
        DECODED.fetch_add(1, Ordering::SeqCst);
        Ok::<_, String>(())
    };
    let (ks, mut writer) = KeySpace::builder("/").unwrap().decoder(decoder).writer();
    writer.load(header(2), vec![kv("/a", 2, 2, 1)]).unwrap();
    let writer = Mutex::new(writer);
    let refused = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&refused);
    ks.observe(move |_, _, _| {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            writer.lock().unwrap().load(header(9), vec![kv("/a", 2, 3, 2)])
        }));
        seen.fetch_add(usize::from(result.is_err()), Ordering::SeqCst);
    });
    assert_eq!((refused.load(Ordering::SeqCst), DECODED.load(Ordering::SeqCst)), (1, 1));
}
