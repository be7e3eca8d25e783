//! Made-up watch responses: refused without a trace, or applied as the model says; never a panic.
//!
//! Owns the target `apply`: what a hostile or broken server may send into a writer, strict and
//! lenient, with values that do not decode. Must not assume that a batch is refused: that follows
//! from the error, which must name something true.

mod model;

use etcd_keyspace::{
    Applied, ApplyError, BadValues, Break, Continuity, Event, Header, KeySpace, LoadError,
    RawKeyValue, WatchResponse, Writer,
};

use super::check;
use super::input::Input;
use super::keys::{any_key, any_probe, mirrored};
use super::store::{CLUSTER, Store};
use model::Model;

const STEPS: usize = 40;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut run = Run::new(&mut input);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        run.step(&mut input);
    }
}

struct Run {
    ks: KeySpace<Vec<u8>>,
    writer: Writer<Vec<u8>>,
    continuity: Continuity,
    model: Model,
}

impl Run {
    fn new(input: &mut Input<'_>) -> Self {
        let range = mirrored(input);
        let bad_values = input.pick(&[BadValues::KeepLast, BadValues::Drop]);
        let continuity = input.pick(&[Continuity::Strict, Continuity::Lenient]);
        let builder = KeySpace::builder(range).expect("not empty");
        let builder = builder.decoder(model::decode).bad_values(bad_values);
        let (ks, mut writer) = builder.writer();
        writer.set_continuity(continuity);
        Run { ks, writer, continuity, model: Model::new(bad_values) }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(16) {
            0 | 1 => self.load(input),
            2 => {
                let revision = input.number(self.model.confirmed);
                self.writer.confirm(revision);
                self.model.confirmed = self.model.confirmed.max(revision);
            }
            _ => self.apply(input),
        }
        self.check();
    }

    fn check(&self) {
        let model = &self.model;
        let view = self.ks.read();
        check::shows(&view, &model.shown(), (model.revision, model.confirmed));
        assert!(view.revision() <= view.confirmed(), "C1");
        assert_eq!(view.cluster_id(), model.cluster_id);
        assert_eq!(self.writer.view().confirmed(), model.confirmed);
        let rejected = self.ks.rejected();
        let wanted = model.rejected();
        assert_eq!(rejected.len(), wanted.len());
        for (rejected, (key, revision)) in rejected.iter().zip(wanted) {
            assert_eq!((&rejected.key[..], rejected.mod_revision), (key, revision));
        }
    }

    fn apply(&mut self, input: &mut Input<'_>) {
        let batch = self.responses(input);
        let before = self.ks.snapshot();
        let shown = self.model.shown();
        match self.writer.apply(batch.clone()) {
            Ok(applied) => {
                let wanted = self.model.apply(&batch, self.continuity);
                let after = self.ks.snapshot();
                check::changes(&after.diff(&before), &shown, &self.model.shown());
                self.check_applied(&applied, wanted);
            }
            Err(error) => {
                assert!(self.ks.snapshot().diff(&before).is_empty());
                self.check_error(&error, &batch);
            }
        }
    }

    fn check_applied(&self, applied: &Applied, (events, duplicates): (usize, usize)) {
        assert_eq!((applied.events, applied.duplicates), (events, duplicates));
        let at = (applied.revision, applied.confirmed);
        assert_eq!(at, (self.model.revision, self.model.confirmed));
        assert!(self.continuity == Continuity::Lenient || applied.tolerated.is_empty());
    }

    /// The error names something that the batch has.
    fn check_error(&self, error: &ApplyError, batch: &[WatchResponse]) {
        let events = || batch.iter().flat_map(|response| &response.events);
        let lenient = self.continuity == Continuity::Lenient;
        let is_true = match error {
            ApplyError::ClusterMismatch { got, .. } => {
                batch.iter().any(|one| one.header.is_some_and(|header| header.cluster_id == *got))
            }
            ApplyError::MissingHeader => {
                !lenient && batch.iter().any(|one| one.header.is_none() && !one.events.is_empty())
            }
            ApplyError::HeaderBehind { header, event } => {
                header < event && events().any(|one| one.mod_revision() == *event)
            }
            ApplyError::OutOfOrder { previous, got } => got < previous || *got <= 0,
            ApplyError::Incomplete => batch.last().is_some_and(|last| last.fragment),
            ApplyError::Canceled { reason } => batch.iter().any(|one| {
                (one.canceled || one.compact_revision != 0) && one.cancel_reason == *reason
            }),
            ApplyError::OutsideRange { key } => {
                !self.ks.mirrored().contains(key) && events().any(|one| one.key() == key)
            }
            ApplyError::Discontinuity { key, mod_revision, reason } => {
                let named = |one: &Event| one.key() == key && one.mod_revision() == *mod_revision;
                // An event that came again, and whose effect is not there, breaks in this way only.
                let broken = *reason == Break::ModRevision || !self.model.continues(batch);
                !lenient && events().any(named) && broken
            }
            _ => false,
        };
        assert!(is_true, "{error:?} of {batch:?}");
    }

    /// A complete read, most often of what is known and then changed a little.
    fn load(&mut self, input: &mut Input<'_>) {
        let mut kvs = self.model.known();
        for _ in 0..input.below(5) {
            let kv = self.any_kv(input);
            match kvs.binary_search_by(|known| known.key.cmp(&kv.key)) {
                Ok(at) if input.chance(64) => drop(kvs.remove(at)),
                Ok(at) => kvs[at] = kv,
                Err(at) if input.chance(16) => kvs.insert(at / 2, kv),
                Err(at) => kvs.insert(at, kv),
            }
        }
        let newest = kvs.iter().map(|kv| kv.mod_revision).max().unwrap_or(0);
        let mut header = Header { revision: self.model.confirmed.max(newest), ..header(0) };
        if input.chance(48) {
            header =
                Header { revision: input.number(header.revision), ..any_header(input, header) };
        }
        match self.writer.load(header, kvs.clone()) {
            Ok(_) => self.model.load(header, kvs, self.continuity),
            Err(LoadError::NoRevision { got }) => assert!(got == header.revision && got <= 0),
            Err(LoadError::Behind { confirmed, got }) => {
                assert!(got < confirmed && confirmed == self.model.confirmed);
            }
            Err(LoadError::HeaderBehind { header: read, entry }) => {
                assert!(read == header.revision && entry == newest && entry > read);
            }
            Err(LoadError::ClusterMismatch { expected, got }) => {
                assert!(Some(expected) == self.model.cluster_id && got != expected);
            }
            Err(LoadError::Impossible { key, .. }) => {
                assert!(kvs.iter().any(|kv| kv.key == key && !model::is_possible(kv)));
            }
            Err(LoadError::Unordered { key }) => {
                let inside = self.ks.mirrored().contains(&key);
                assert!(!inside || !kvs.is_sorted_by(|a, b| a.key < b.key));
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// What an honest server would send next, with some of it changed.
    fn responses(&self, input: &mut Input<'_>) -> Vec<WatchResponse> {
        let mut store = self.model.store();
        let mut batch = Vec::new();
        for _ in 0..=input.below(3) {
            let mut events = Vec::new();
            for _ in 0..input.below(6) {
                if events.is_empty() || input.chance(160) {
                    store.begin();
                }
                self.event(&mut store, input, &mut events);
            }
            let mut response = store.response(events);
            if input.chance(48) {
                self.spoil(&mut response, input);
            }
            if input.chance(16) {
                batch.push(response.clone());
            }
            batch.push(response);
        }
        if input.chance(250)
            && let Some(last) = batch.last_mut()
        {
            last.fragment = false;
        }
        batch
    }

    fn event(&self, store: &mut Store, input: &mut Input<'_>, events: &mut Vec<Event>) {
        let key = any_key(input, self.ks.mirrored());
        let value = input.pick::<&[u8]>(&[b"v", b"w", b"!", b"", b"!!"]);
        match input.below(10) {
            0..=4 => events.push(store.put(&key, value, 0)),
            5..=7 => events.extend(store.delete(&key)),
            8 => {
                events.extend(store.delete(&key));
                events.push(store.put(&key, value, 1));
            }
            _ => {
                let kv = self.any_kv(input);
                let (key, mod_revision) = (kv.key.clone(), kv.mod_revision);
                let made_up = Event::Delete { key, mod_revision };
                events.push(if input.chance(160) { Event::Put(kv) } else { made_up });
            }
        }
    }

    fn any_kv(&self, input: &mut Input<'_>) -> RawKeyValue {
        let range = self.ks.mirrored();
        let key = if input.chance(24) { any_probe(input, range) } else { any_key(input, range) };
        let mod_revision = input.number(self.model.confirmed);
        let created_here = input.chance(128);
        RawKeyValue {
            key,
            value: input.pick::<&[u8]>(&[b"v", b"!", b""]).to_vec(),
            create_revision: if created_here { mod_revision } else { input.number(mod_revision) },
            mod_revision,
            version: input.pick(&[1, 2, 3, 0, -1, i64::MIN, i64::MAX]),
            lease: 0,
        }
    }

    /// One thing about a response that is not as it should be.
    fn spoil(&self, response: &mut WatchResponse, input: &mut Input<'_>) {
        let some = input.below(response.events.len());
        match input.below(12) {
            0 => response.header = None,
            1 | 2 => response.header = response.header.map(|header| any_header(input, header)),
            3 => response.fragment = true,
            4 => response.canceled = true,
            5 => response.compact_revision = input.number(0),
            6 => response.created = true,
            7 => response.events.reverse(),
            8 if !response.events.is_empty() => drop(response.events.remove(some)),
            9 => {
                let key = any_probe(input, self.ks.mirrored());
                let mod_revision = input.number(self.model.confirmed);
                response.events.insert(some, Event::Delete { key, mod_revision });
            }
            10 => response.events.extend(response.events.clone()),
            _ => {
                if let Some(Event::Put(kv)) = response.events.get_mut(some) {
                    kv.version = input.number(kv.version);
                    kv.create_revision = input.number(kv.create_revision);
                }
            }
        }
        response.cancel_reason = input.pick(&["", "compacted"]).to_owned();
    }
}

fn header(revision: i64) -> Header {
    Header { cluster_id: CLUSTER, revision, ..Header::default() }
}

fn any_header(input: &mut Input<'_>, honest: Header) -> Header {
    match input.below(3) {
        0 => Header { cluster_id: 8, ..honest },
        1 => Header { revision: input.number(honest.revision), ..honest },
        _ => Header { member_id: 9, raft_term: 4, ..honest },
    }
}
