//! Answers and messages of the store that the machine is tried with: true ones, and lies.

use super::*;

impl Chaos {
    pub(super) fn error(&mut self) -> SourceError {
        SourceError::new(self.random.pick(&KINDS), "made up")
    }

    pub(super) fn answer(&mut self, request: Action) -> Input {
        let lie = self.random.chance(self.lies);
        let failed = lie && self.random.chance(60);
        match request {
            Action::Connect(_) if failed => Input::Connected(Err(self.error())),
            Action::Connect(_) => Input::Connected(Ok(())),
            Action::Version if failed => Input::Version(Err(self.error())),
            Action::Version => {
                let minor = self.random.pick(&[4, 5, 6, 7]);
                Input::Version(Ok(ServerVersion { major: 3, minor, patch: 2 }))
            }
            Action::RefreshToken if failed => Input::TokenRefreshed(Err(self.error())),
            Action::RefreshToken => Input::TokenRefreshed(Ok(())),
            Action::Range(asked, _) if failed => Input::Range(asked, Err(self.error())),
            Action::Range(asked, request) => {
                Input::Range(asked, Ok(self.page(asked.purpose, &request, lie)))
            }
            Action::RangeStream if failed => Input::Chunk(Err(self.error())),
            Action::RangeStream => {
                self.streaming = true;
                self.chunked = false;
                Input::Tick
            }
            Action::Watch(_) if failed => Input::WatchOpened(Err(self.error())),
            Action::Watch(start) => {
                self.watching = true;
                self.created = false;
                self.next_event = self.log.partition_point(|event| event.mod_revision() < start);
                Input::WatchOpened(Ok(()))
            }
            other => panic!("no request: {other:?}"),
        }
    }

    pub(super) fn header(&mut self, lie: bool) -> Option<Header> {
        let honest = Header { cluster_id: CLUSTER, revision: self.revision(), ..Header::default() };
        if !lie {
            return Some(honest);
        }
        match self.random.below(4) {
            0 => None,
            1 => Some(Header { cluster_id: 8, ..honest }),
            2 => Some(Header { revision: self.any_revision(), ..honest }),
            _ => Some(honest),
        }
    }

    pub(super) fn any_revision(&mut self) -> Revision {
        match self.random.below(10) {
            0 => self.random.pick(&[0, -1, Revision::MIN, Revision::MAX]),
            _ => i64::try_from(self.random.below(12)).unwrap() + self.revision() - 8,
        }
    }

    pub(super) fn any_kv(&mut self) -> RawKeyValue {
        let key = self.random.pick(&["/k/a", "/k/b", "/k/c", "/k/", "/j", "/l", ""]);
        RawKeyValue {
            key: key.into(),
            value: self.random.pick(&["v", "!", ""]).into(),
            create_revision: self.any_revision(),
            mod_revision: self.any_revision(),
            version: self.random.pick(&[1, 2, 0, -1, i64::MIN, i64::MAX]),
            lease: 0,
        }
    }

    pub(super) fn page(
        &mut self,
        purpose: Purpose,
        request: &RangeRequest,
        lie: bool,
    ) -> RangePage {
        let index = usize::try_from(request.revision).ok().and_then(|at| at.checked_sub(1));
        let pinned = index.and_then(|index| self.history.get(index)).map(Vec::as_slice);
        let mut kvs = pinned.unwrap_or(self.store()).to_vec();
        kvs.retain(|kv| request.range.contains(&kv.key));
        let count = i64::try_from(kvs.len()).unwrap();
        kvs.retain(|kv| kv.mod_revision >= request.min_mod_revision);
        let limit = usize::try_from(self.random.below(3) + 1).unwrap();
        let mut more = false;
        if matches!(purpose, Purpose::Page) && kvs.len() > limit {
            kvs.truncate(limit);
            more = true;
        }
        let mut page = RangePage { header: self.header(lie), kvs, count, more };
        if lie && self.random.chance(50) {
            let kv = self.any_kv();
            page.kvs.push(kv);
            page.more = self.random.chance(50);
            page.count = self.random.pick(&[0, 1, -1, i64::MIN, i64::MAX]);
        }
        page
    }

    pub(super) fn chunk(&mut self) -> Result<Option<RangeChunk>, SourceError> {
        let lie = self.random.chance(self.lies);
        if lie && self.random.chance(50) {
            self.streaming = false;
            return if self.random.chance(50) { Ok(None) } else { Err(self.error()) };
        }
        if self.chunked && !lie {
            self.streaming = false;
            return Ok(None);
        }
        self.chunked = true;
        let kvs = self.store().to_vec();
        let count = i64::try_from(kvs.len()).unwrap();
        Ok(Some(RangeChunk { kvs, header: self.header(lie), count }))
    }

    /// The store goes on by one transaction.
    pub(super) fn mutate(&mut self) {
        if self.random.chance(50) {
            return;
        }
        let revision = self.revision() + 1;
        let mut store = self.store().to_vec();
        let key = self.random.pick(&["/k/a", "/k/b", "/k/c"]).as_bytes().to_vec();
        let value = self.random.pick(&["v", "!"]).as_bytes().to_vec();
        let found = store.iter().position(|kv| kv.key == key);
        let event = match found {
            Some(index) if self.random.chance(40) => {
                store.remove(index);
                Event::Delete { key, mod_revision: revision }
            }
            Some(index) => {
                let kv = &mut store[index];
                kv.mod_revision = revision;
                kv.version += 1;
                kv.value = value;
                Event::Put(kv.clone())
            }
            None => {
                let (create_revision, mod_revision) = (revision, revision);
                let kv =
                    RawKeyValue { key, value, create_revision, mod_revision, version: 1, lease: 0 };
                store.push(kv.clone());
                store.sort_by(|a, b| a.key.cmp(&b.key));
                Event::Put(kv)
            }
        };
        self.log.push(event);
        self.history.push(store);
    }

    pub(super) fn message(&mut self) -> Result<Option<WatchResponse>, SourceError> {
        let lie = self.random.chance(self.lies);
        if lie && self.random.chance(20) {
            self.watching = false;
            return if self.random.chance(50) { Ok(None) } else { Err(self.error()) };
        }
        let header = self.header(lie);
        let mut response = WatchResponse { header, watch_id: 0, ..WatchResponse::default() };
        if !self.created {
            self.created = true;
            response.created = true;
        } else if self.next_event < self.log.len() {
            let most = usize::try_from(self.random.below(3)).unwrap() + 1;
            let events = self.log[self.next_event..].iter().take(most);
            response.events.extend(events.cloned());
            self.next_event += response.events.len();
            response.fragment = self.next_event < self.log.len() && self.random.chance(30);
        } else {
            response.watch_id = -1;
        }
        if lie {
            for _ in 0..self.random.below(4) {
                let kv = self.any_kv();
                let event = match self.random.chance(70) {
                    true => Event::Put(kv),
                    false => Event::Delete { key: kv.key, mod_revision: kv.mod_revision },
                };
                response.events.push(event);
            }
            response.fragment ^= self.random.chance(20);
            response.canceled = self.random.chance(10);
            response.compact_revision = self.random.pick(&[0, 0, 0, 0, 0, 3, -1, i64::MAX]);
            response.cancel_reason = self
                .random
                .pick(&["", "permission denied", "etcdserver: no leader", "compacted", "\u{0}"])
                .into();
        }
        Ok(Some(response))
    }
}
