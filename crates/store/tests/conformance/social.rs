//! The social layer: what is held, found and counted, against plain lists.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use relay_proto::{
    SigningKey,
    polycentric::{
        Body, Claim, ClaimFieldEntry, Draft, Event, EventWriter, ProcessId, Ranges, Reference,
        Subject, SystemKey, content, opinion,
    },
};
use relay_store::{
    Censored, ClaimsQuery, Count, IndexQuery, Ingest, IngestReport, Ingested, ModerationState,
    Note, Over, OverWhat, RefsQuery, SocialEvent, Store, Words,
};

use crate::{keys::key, place::Place};

/// One device of somebody.
pub struct Device {
    pub key: SigningKey,
    pub writer: EventWriter,
}

impl Device {
    pub fn new(person: u8, process: u8) -> Self {
        let writer = EventWriter::new(ProcessId::from_bytes([process; 16]));
        Self { key: key(person), writer }
    }

    pub fn write(&mut self, draft: Draft, unix_ms: u64) -> Event {
        self.writer.write(&self.key, draft, unix_ms).unwrap()
    }

    pub fn post(&mut self, text: &str, unix_ms: u64) -> Event {
        self.write(Draft::post(text, None), unix_ms)
    }

    pub fn system(&self) -> SystemKey {
        SystemKey::from(self.key.node_id())
    }
}

pub fn about(event: &Event) -> Reference {
    Reference::Event(event.pointer())
}

pub async fn ingest(store: &Store, events: &[Event]) -> IngestReport {
    let given = Ingest {
        events: events.to_vec(),
        max_system_bytes: None,
        max_bytes_of: BTreeMap::default(),
        notes: BTreeMap::default(),
    };
    match store.social_ingest(given).await.unwrap() {
        Ingested::Done(report) => report,
        refused => panic!("{refused:?}"),
    }
}

fn clocks(events: &[SocialEvent]) -> Vec<u64> {
    events.iter().map(|event| event.parse().unwrap().clock()).collect()
}

pub async fn held(store: &Store, system: SystemKey) -> Vec<(ProcessId, Vec<(u64, u64)>)> {
    let all = store.social_ranges(system).await.unwrap();
    let pairs = |ranges: &Ranges| {
        ranges.intervals().iter().map(|interval| (interval.low, interval.high)).collect()
    };
    all.iter().map(|(process, ranges)| (*process, pairs(ranges))).collect()
}

async fn likes(store: &Store, subject: Subject) -> (u64, u64) {
    let count = |value: &'static [u8]| {
        (vec![subject], Count::Values { value: Bytes::from_static(value), from_type: None })
    };
    let counts = store.social_counts(vec![count(opinion::LIKE), count(opinion::DISLIKE)]).await;
    let counts = counts.unwrap();
    (counts[0], counts[1])
}

async fn references(store: &Store, subject: Subject, from_type: Option<u64>) -> u64 {
    let asked = vec![(vec![subject], Count::References { from_type })];
    store.social_counts(asked).await.unwrap()[0]
}

async fn feed(
    store: &Store,
    system: SystemKey,
    before_ms: Option<u64>,
    limit: usize,
) -> Vec<SocialEvent> {
    let query = IndexQuery { system, content_type: content::POST, before_ms, limit };
    store.social_index(query).await.unwrap().events
}

pub async fn events_come_back_byte_for_byte(place: Place) {
    let store = place.open().await;
    let mut alice = Device::new(1, 1);
    let written: Vec<Event> = (0..5).map(|n| alice.post(&format!("post {n}"), 100 + n)).collect();
    let report = ingest(&store, &written).await;
    assert_eq!((report.stored, report.duplicates), (5, 0));
    assert_eq!(report.changes.len(), 5);
    let again = ingest(&store, &written[1..3]).await;
    assert_eq!((again.stored, again.duplicates, again.version), (0, 2, 0));
    store.close().await;

    let store = place.open().await;
    let wanted = vec![(alice.writer.process(), (2..=9).collect())];
    let found = store.social_events(alice.system(), wanted).await.unwrap();
    assert_eq!(clocks(&found), [2, 3, 4, 5]);
    for (found, written) in found.iter().zip(&written[1..]) {
        assert_eq!(found.bytes, *written.bytes());
        assert_eq!(found.signature, *written.signature());
    }
    assert_eq!(held(&store, alice.system()).await, [(alice.writer.process(), vec![(1, 5)])]);
    assert_eq!(clocks(&store.social_heads(alice.system()).await.unwrap()), [5]);
    let version = store.social_version(alice.system()).await.unwrap();
    assert_eq!(version, Some(report.version));
    assert_eq!(store.social_version(SystemKey::from_bytes([9; 32])).await.unwrap(), None);
    assert_eq!(store.social_last_version().await.unwrap(), report.version);
    assert!(held(&store, SystemKey::from_bytes([9; 32])).await.is_empty());
    store.close().await;
}

pub async fn a_delete_takes_its_subject_out(place: Place) {
    let store = place.open().await;
    let (mut alice, mut bob) = (Device::new(1, 1), Device::new(2, 2));
    let first = alice.post("first", 100);
    let second = alice.write(Draft::post("second", Some(about(&first))), 200);
    let like = bob.write(Draft::opinion(about(&second), opinion::LIKE, 210), 210);
    ingest(&store, &[first.clone(), second.clone(), like]).await;
    assert_eq!(references(&store, first.subject(), Some(content::POST)).await, 1);

    let delete = alice.write(Draft::delete(&second).unwrap(), 300);
    let report = ingest(&store, std::slice::from_ref(&delete)).await;
    assert_eq!((report.stored, report.deleted), (1, 1));
    assert_eq!(references(&store, first.subject(), None).await, 0);
    // The Delete stands in the place of what it deleted.
    assert_eq!(clocks(&feed(&store, alice.system(), None, 10).await), [3, 1]);
    assert_eq!(held(&store, alice.system()).await[0].1, [(1, 3)]);
    assert_eq!(
        ingest(&store, std::slice::from_ref(&second)).await.stored,
        0,
        "it does not come back"
    );

    // A second Delete of the same, and a Delete of a Delete, are kept and change nothing.
    let again = alice.write(Draft::delete(&second).unwrap(), 301);
    let of_delete = alice.write(Draft::delete(&delete).unwrap(), 302);
    let report = ingest(&store, &[again, of_delete]).await;
    assert_eq!((report.stored, report.deleted), (2, 0));
    assert_eq!(held(&store, alice.system()).await[0].1, [(1, 5)]);
    assert_eq!(clocks(&feed(&store, alice.system(), None, 10).await), [3, 1]);

    // A Delete that comes first, or with its subject.
    let mut carol = Device::new(3, 3);
    let gone = carol.post("gone", 10);
    let delete = carol.write(Draft::delete(&gone).unwrap(), 20);
    ingest(&store, std::slice::from_ref(&delete)).await;
    assert_eq!(held(&store, carol.system()).await[0].1, [(1, 2)]);
    assert_eq!(ingest(&store, &[gone]).await.stored, 0);
    let both = carol.post("both", 30);
    let delete = carol.write(Draft::delete(&both).unwrap(), 40);
    let report = ingest(&store, &[delete, both]).await;
    assert_eq!((report.stored, report.deleted, report.duplicates), (1, 1, 1));
    assert_eq!(held(&store, carol.system()).await[0].1, [(1, 4)]);
    store.close().await;
}

pub async fn feeds_are_paged_without_a_gap(place: Place) {
    let store = place.open().await;
    let (mut phone, mut laptop) = (Device::new(1, 1), Device::new(1, 2));
    // Times with many ties, over two devices.
    let mut all = Vec::new();
    for n in 0..40_u64 {
        let device = if n % 3 == 0 { &mut phone } else { &mut laptop };
        all.push(device.post(&n.to_string(), 1_000 + n / 4));
    }
    ingest(&store, &all).await;
    let mut wanted: Vec<_> =
        all.iter().map(|event| (event.unix_ms(), event.process(), event.clock())).collect();
    wanted.sort_unstable_by(|a, b| b.cmp(a));
    for limit in [1, 2, 3, 5, 7, 40, 100] {
        let (mut seen, mut before) = (Vec::new(), None);
        loop {
            let page = feed(&store, phone.system(), before, limit).await;
            let Some(last) = page.last() else { break };
            before = last.unix_ms;
            seen.extend(page.iter().map(|event| {
                let event = event.parse().unwrap();
                (event.unix_ms(), event.process(), event.clock())
            }));
        }
        assert_eq!(seen, wanted, "limit {limit}");
    }
    assert!(feed(&store, phone.system(), Some(1_000), 10).await.is_empty());
    let page = IndexQuery {
        system: phone.system(),
        content_type: content::POST,
        before_ms: Some(1_005),
        limit: 1,
    };
    let page = store.social_index(page).await.unwrap();
    let processes: BTreeSet<_> =
        page.proof.iter().map(|event| event.parse().unwrap().process()).collect();
    assert!(!processes.is_empty() && page.events.len() == 4);
    let latest = store.social_latest(phone.system(), vec![content::POST, 77]).await.unwrap();
    assert_eq!(clocks(&latest), [14, 26]);
    store.close().await;
}

/// Opinions of several people and devices in any order, repeated, deleted: counts and order are those of a plain list.
pub async fn counters_are_those_of_a_plain_list(place: Place) {
    let store = place.open().await;
    let mut random = Random(42);
    let mut author = Device::new(9, 9);
    let topic = Reference::Bytes(Bytes::from_static(b"/topic"));
    let posts: Vec<Event> =
        (0..4).map(|n| author.write(Draft::post("x", Some(topic.clone())), 10 + n)).collect();
    let mut devices: Vec<Device> =
        [(1, 1), (1, 2), (2, 3), (3, 4)].map(|(who, on)| Device::new(who, on)).into();
    let mut opinions: Vec<Event> = Vec::new();
    let mut deleted: BTreeSet<usize> = BTreeSet::new();
    let mut pending: Vec<Event> = Vec::new();
    for _ in 0..120 {
        let device = &mut devices[random.below(4)];
        let value = [opinion::LIKE, opinion::DISLIKE, opinion::NEUTRAL][random.below(3)];
        // Times that do not grow with the clock, and meet.
        let at = 1_000 + random.below(12) as u64;
        let event = device.write(Draft::opinion(about(&posts[random.below(4)]), value, at), at);
        opinions.push(event.clone());
        pending.push(event);
        if random.below(5) == 0 {
            let victim = random.below(opinions.len());
            let device = devices
                .iter_mut()
                .find(|device| device.writer.process() == opinions[victim].process())
                .unwrap();
            let delete = device.write(Draft::delete(&opinions[victim]).unwrap(), 5_000);
            deleted.insert(victim);
            pending.push(delete);
        }
    }
    pending.extend(posts.iter().cloned());
    random.shuffle(&mut pending);
    while !pending.is_empty() {
        let size = (1 + random.below(9)).min(pending.len());
        let batch: Vec<Event> = pending.drain(..size).collect();
        ingest(&store, &batch).await;
        ingest(&store, &batch[..batch.len() / 2]).await;
    }
    let mut scores = HashMap::new();
    for post in &posts {
        let mut winners: BTreeMap<SystemKey, (u64, ProcessId, u64, Bytes)> = BTreeMap::new();
        let mut live = 0;
        for (n, event) in opinions.iter().enumerate() {
            if deleted.contains(&n) || event.references() != [about(post)] {
                continue;
            }
            live += 1;
            let lww = event.lww().unwrap();
            let vote = (lww.unix_ms, event.process(), event.clock(), lww.value.clone());
            let best = winners.entry(event.system()).or_insert_with(|| vote.clone());
            *best = vote.max(best.clone());
        }
        let count = |value: &[u8]| winners.values().filter(|vote| vote.3 == value).count() as u64;
        let wanted = (count(opinion::LIKE), count(opinion::DISLIKE));
        assert_eq!(likes(&store, post.subject()).await, wanted);
        assert_eq!(references(&store, post.subject(), Some(content::OPINION)).await, live);
        scores.insert(post.clock(), wanted.0 as i64 - wanted.1 as i64);
    }
    let query = RefsQuery {
        subjects: vec![topic.subject().unwrap()],
        from_type: Some(content::POST),
        offset: 0,
        limit: 20,
    };
    let found = clocks(&store.social_refs(query.clone()).await.unwrap());
    let order: Vec<i64> = found.iter().map(|clock| scores[clock]).collect();
    assert!(order.is_sorted_by(|a, b| a >= b), "{order:?}");
    assert_eq!(found.len(), 4);
    let any = RefsQuery { from_type: None, offset: 1, ..query };
    assert_eq!(clocks(&store.social_refs(any).await.unwrap()), found[1..]);

    // Purging everybody who has an opinion leaves none.
    for device in &devices {
        store.social_purge(device.system()).await.unwrap();
        assert!(held(&store, device.system()).await.is_empty());
    }
    for post in &posts {
        assert_eq!(likes(&store, post.subject()).await, (0, 0));
        assert_eq!(references(&store, post.subject(), None).await, 0);
    }
    let report = ingest(&store, &opinions[..10]).await;
    assert_eq!(report.stored, 10, "what was purged can be sent again");
    store.close().await;
}

/// xorshift64*: small, and all that is asked of it is variety.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at + 1));
        }
    }
}

pub async fn claims_are_found_with_their_vouch(place: Place) {
    let store = place.open().await;
    let (mut alice, mut root, mut other) =
        (Device::new(1, 1), Device::new(2, 2), Device::new(3, 3));
    let claim = |fields: &[(u64, &str)]| Claim {
        claim_type: 21,
        claim_fields: fields
            .iter()
            .map(|(key, value)| ClaimFieldEntry { key: *key, value: (*value).into() })
            .collect(),
    };
    let job =
        alice.write(Draft::of_message(content::CLAIM, &claim(&[(0, "forge"), (1, "smith")])), 10);
    let unvouched = alice.write(Draft::of_message(content::CLAIM, &claim(&[(1, "smith")])), 11);
    let vouch = root.write(Draft::vouch(about(&job)), 20);
    let later = root.write(Draft::vouch(about(&job)), 21);
    let foreign = other.write(Draft::vouch(about(&unvouched)), 22);
    ingest(&store, &[job.clone(), unvouched, vouch, later.clone(), foreign]).await;
    let query = |fields: &[(Option<u64>, &str)]| ClaimsQuery {
        claim_type: 21,
        root: root.system(),
        claimer: None,
        fields: fields.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
        limit: 10,
    };
    let found = store.social_claims(query(&[(None, "smith")])).await.unwrap();
    assert_eq!(found.len(), 2, "one for each vouch");
    assert_eq!(found[0].0.bytes, *job.bytes());
    assert_eq!(found[0].1.bytes, *later.bytes(), "the newest vouch first");
    let all = [(Some(0), "forge"), (Some(1), "smith")];
    assert_eq!(store.social_claims(query(&all)).await.unwrap().len(), 2);
    assert!(store.social_claims(query(&[(Some(0), "smith")])).await.unwrap().is_empty());
    assert!(store.social_claims(query(&[(None, "nobody")])).await.unwrap().is_empty());
    let of = |claimer| ClaimsQuery { claimer: Some(claimer), ..query(&all) };
    assert_eq!(store.social_claims(of(alice.system())).await.unwrap().len(), 2);
    assert!(store.social_claims(of(other.system())).await.unwrap().is_empty());
    let delete = alice.write(Draft::delete(&job).unwrap(), 30);
    ingest(&store, &[delete]).await;
    assert!(store.social_claims(query(&[(None, "smith")])).await.unwrap().is_empty());
    store.close().await;
}

pub async fn texts_are_found_while_they_are_current(place: Place) {
    let store = place.open().await;
    let mut alice = Device::new(1, 1);
    let posts: Vec<Event> =
        (0..11).map(|n| alice.post(&format!("blue \"heron\" no {n}"), 100 + n)).collect();
    let name = |device: &mut Device, text: &'static str, at| {
        device.write(Draft::element(content::USERNAME, text.as_bytes(), at), at)
    };
    let old = name(&mut alice, "wren", 50);
    let new = name(&mut alice, "kestrel of the moor", 60);
    // The newer one comes first; the older one never counts.
    ingest(&store, std::slice::from_ref(&new)).await;
    ingest(&store, &[old]).await;
    ingest(&store, &posts).await;
    let found = |words, text: &'static str, offset, limit| {
        let store = store.clone();
        async move { store.social_search(words, text.into(), offset, limit).await.unwrap() }
    };
    assert_eq!(found(Words::Posts, "HERON blue", 0, 10).await.len(), 10);
    assert_eq!(found(Words::Posts, "heron", 10, 10).await.len(), 1);
    assert!(found(Words::Posts, "heron gull", 0, 10).await.is_empty());
    assert!(found(Words::Posts, "\" OR *", 0, 10).await.is_empty());
    assert!(found(Words::Posts, "kestrel", 0, 10).await.is_empty());
    assert_eq!(found(Words::Profiles, "kestrel", 0, 10).await.len(), 1);
    assert!(found(Words::Profiles, "wren", 0, 10).await.is_empty());
    // A deleted name gives way to the one before it.
    let delete = alice.write(Draft::delete(&new).unwrap(), 70);
    let gone = alice.write(Draft::delete(&posts[0]).unwrap(), 71);
    ingest(&store, &[delete, gone]).await;
    assert_eq!(found(Words::Profiles, "wren", 0, 10).await.len(), 1);
    assert_eq!(found(Words::Posts, "heron", 0, 20).await.len(), 10);
    let explored = store.social_explore(None, 108, 3).await.unwrap();
    assert_eq!(clocks(&explored), [9, 8, 7]);
    let place = explored.last().map(|event| (event.unix_ms.unwrap(), event.seq));
    assert_eq!(clocks(&store.social_explore(place, 108, 10).await.unwrap()), [6, 5, 4, 3, 2]);
    store.close().await;
}

pub async fn topics_are_counted_by_the_hour(place: Place) {
    let store = place.open().await;
    let mut alice = Device::new(1, 1);
    let hour = 3_600_000;
    let mut posts = Vec::new();
    for (topic, at) in [("/a", 10), ("/b", 10), ("/b", 11), ("/c", 2), ("/b", 12)] {
        let about = Reference::Bytes(Bytes::from_static(topic.as_bytes()));
        posts.push(alice.write(Draft::post("x", Some(about)), at * hour));
    }
    ingest(&store, &posts).await;
    let top = |since, until| {
        let store = store.clone();
        async move { store.social_topics(since * hour, until * hour, 10).await.unwrap() }
    };
    let named = |list: Vec<(Bytes, u64)>| -> Vec<(String, u64)> {
        list.into_iter().map(|(topic, n)| (String::from_utf8(topic.into()).unwrap(), n)).collect()
    };
    assert_eq!(named(top(5, 11).await), [("/b".into(), 2), ("/a".into(), 1)]);
    let delete = alice.write(Draft::delete(&posts[1]).unwrap(), 13 * hour);
    ingest(&store, &[delete]).await;
    let wanted = [("/b".into(), 2), ("/a".into(), 1), ("/c".into(), 1)];
    assert_eq!(named(top(0, 20).await), wanted);
    store.close().await;
}

pub async fn operators_and_owners_are_obeyed(place: Place) {
    let store = place.open().await;
    let (mut alice, mut bob) = (Device::new(1, 1), Device::new(2, 2));
    let first = alice.post("first", 1);
    let name = alice.write(Draft::element(content::USERNAME, "alice", 2), 2);
    ingest(&store, &[first.clone(), name, bob.post("hers", 3)]).await;
    let claim = |system, handle: &str| {
        let (store, handle) = (store.clone(), handle.to_owned());
        async move { store.social_claim_handle(system, handle).await.unwrap().0 }
    };
    assert!(claim(alice.system(), "al").await);
    assert!(claim(alice.system(), "al").await, "one's own");
    assert!(!claim(bob.system(), "al").await);
    assert!(claim(alice.system(), "alice").await);
    assert_eq!(store.social_handle("al".into()).await.unwrap(), None, "one handle a system");
    assert_eq!(store.social_handle("alice".into()).await.unwrap(), Some(alice.system()));

    assert_eq!(store.social_some_systems(5, 10).await.unwrap(), [alice.system()]);
    store.social_censor(Censored::System(alice.system()), false).await.unwrap();
    assert!(store.social_some_systems(5, 10).await.unwrap().is_empty());
    assert_eq!(ingest(&store, &[alice.post("still", 4)]).await.stored, 1);
    store.social_censor(Censored::System(alice.system()), true).await.unwrap();
    let refused = ingest(&store, &[alice.post("refused", 5)]).await;
    assert_eq!(refused.stored, 0);
    assert_eq!(
        held(&store, alice.system()).await[0].1,
        [(1, 4)],
        "or clients would send it for ever"
    );
    assert_eq!(store.social_censored().await.unwrap(), [(Censored::System(alice.system()), true)]);
    assert!(store.social_uncensor(Censored::System(alice.system())).await.unwrap().0);
    assert!(!store.social_uncensor(Censored::System(alice.system())).await.unwrap().0);

    let next = bob.post("judged", 6);
    let note = Note { state: ModerationState::Waiting, tags: Vec::new() };
    let given = Ingest {
        events: vec![next.clone()],
        max_system_bytes: None,
        max_bytes_of: BTreeMap::default(),
        notes: [(next.key(), note)].into(),
    };
    store.social_ingest(given).await.unwrap();
    let queue = store.social_waiting(0, 10).await.unwrap();
    assert_eq!(queue.len(), 1);
    let seq = queue[0].event.seq;
    let tags = vec![relay_proto::polycentric::ModerationTag { name: "hate".into(), level: 2 }];
    assert!(store.social_moderate(seq, ModerationState::Approved, tags.clone()).await.unwrap().0);
    assert!(store.social_waiting(0, 10).await.unwrap().is_empty());
    let shown = feed(&store, bob.system(), None, 1).await;
    assert_eq!((shown[0].moderation, &shown[0].tags), (Some(ModerationState::Approved), &tags));
    assert!(!store.social_moderate(999, ModerationState::Hidden, Vec::new()).await.unwrap().0);

    let over = Ingest {
        events: vec![bob.post("too much", 7)],
        max_system_bytes: Some(100),
        max_bytes_of: BTreeMap::default(),
        notes: BTreeMap::default(),
    };
    let refused = store.social_ingest(over).await.unwrap();
    let wanted = Over { system: bob.system(), what: OverWhat::Bytes };
    assert_eq!(refused, Ingested::Over(wanted));
    assert_eq!(held(&store, bob.system()).await[0].1, [(1, 2)]);
    let (systems, events, waiting) = store.social_totals().await.unwrap();
    assert_eq!((systems, events, waiting), (2, 5, 0));
    assert!(matches!(first.body(), Body::Text(_)));
    store.close().await;
}

pub async fn a_large_purge_tells_every_change(place: Place) {
    let store = place.open().await;
    let (mut alice, mut bob) = (Device::new(1, 1), Device::new(2, 2));
    let posts: Vec<Event> = (0..1_200).map(|n| alice.post("a post", n)).collect();
    let likes: Vec<Event> = posts
        .iter()
        .map(|post| bob.write(Draft::opinion(about(post), opinion::LIKE, 5), 5))
        .collect();
    ingest(&store, &posts).await;
    ingest(&store, &likes).await;
    // It takes several transactions; whoever remembers versions has to hear of all of them.
    let report = store.social_purge(bob.system()).await.unwrap();
    assert_eq!(report.deleted, 1_200);
    let told: BTreeSet<Subject> = report.subjects.iter().map(|(subject, _)| *subject).collect();
    assert!(posts.iter().all(|post| told.contains(&post.subject())));
    store.close().await;
}
