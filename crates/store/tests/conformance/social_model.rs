//! The social layer against a naive model: uploads in any order, torn, repeated and mixed, with deletes that come
//! early, late, twice, or for other deletes, and purges in between. After each step everything that clients ask is
//! compared with plain lists.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use relay_proto::polycentric::{
    Body, Draft, Event, EventKey, ProcessId, Reference, Subject, SystemKey, Target, content,
    opinion,
};
use relay_store::{Count, IndexQuery, RefsQuery, SocialEvent, Store, Words};

use crate::{
    place::Place,
    social::{Device, Random, about, held, ingest},
};

const SEEDS: u64 = 8;
const WRITTEN: usize = 90;
const TYPES: [u64; 4] = [content::POST, content::OPINION, content::USERNAME, content::DELETE];

/// What a relay holds, in the plainest form.
#[derive(Default)]
struct Model {
    held: BTreeMap<(SystemKey, ProcessId), BTreeSet<u64>>,
    live: BTreeMap<EventKey, Event>,
    /// What was deleted, with the Delete that stands for it.
    graves: BTreeMap<EventKey, (Target, Event)>,
}

impl Model {
    fn upload(&mut self, batch: &[Event]) {
        let mut fresh: BTreeMap<EventKey, Event> = BTreeMap::new();
        for event in batch {
            let key = event.key();
            let known = self.held.get(&(key.system, key.process));
            if !known.is_some_and(|clocks| clocks.contains(&key.clock)) {
                fresh.entry(key).or_insert_with(|| event.clone());
            }
        }
        let deletes: Vec<Event> =
            fresh.values().filter(|event| target(event).is_some()).cloned().collect();
        for delete in deletes {
            let Some(target) = target(&delete) else { continue };
            let key =
                EventKey { system: delete.system(), process: target.process, clock: target.clock };
            let is_delete = |event: &Event| event.content_type() == content::DELETE;
            if target.content_type == content::DELETE
                || fresh.get(&key).is_some_and(is_delete)
                || self.live.get(&key).is_some_and(is_delete)
                || self.graves.contains_key(&key)
            {
                continue;
            }
            fresh.remove(&key);
            self.live.remove(&key);
            self.hold(&key);
            self.graves.insert(key, (target, delete));
        }
        for (key, event) in fresh {
            self.hold(&key);
            self.live.insert(key, event);
        }
    }

    fn hold(&mut self, key: &EventKey) {
        self.held.entry((key.system, key.process)).or_default().insert(key.clock);
    }

    fn purge(&mut self, system: SystemKey) {
        self.held.retain(|(owner, _), _| *owner != system);
        self.live.retain(|key, _| key.system != system);
        self.graves.retain(|key, _| key.system != system);
    }

    fn ranges(&self, system: SystemKey) -> Vec<(ProcessId, Vec<(u64, u64)>)> {
        let of = self.held.iter().filter(|((owner, _), _)| *owner == system);
        of.map(|((_, process), clocks)| (*process, intervals(clocks))).collect()
    }

    fn newest(&self, system: SystemKey, content_type: Option<u64>) -> BTreeSet<EventKey> {
        let mut newest: BTreeMap<ProcessId, EventKey> = BTreeMap::new();
        for (key, event) in &self.live {
            if key.system == system
                && content_type.is_none_or(|wanted| event.content_type() == wanted)
            {
                // Keys are visited in the order of their clocks.
                newest.insert(key.process, *key);
            }
        }
        newest.into_values().collect()
    }

    /// The whole feed, newest first, as (time, what is shown).
    fn feed(&self, system: SystemKey, content_type: u64) -> Vec<(u64, EventKey)> {
        let live = self.live.iter().filter_map(|(key, event)| {
            let wanted = key.system == system && event.content_type() == content_type;
            wanted.then_some((event.unix_ms()?, key.process, key.clock, *key))
        });
        let graves = self.graves.iter().filter_map(|(key, (target, delete))| {
            let wanted = key.system == system && target.content_type == content_type;
            wanted.then_some((target.unix_ms?, key.process, key.clock, delete.key()))
        });
        let mut all: Vec<_> = live.chain(graves).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.into_iter().map(|(ms, _, _, shown)| (ms, shown)).collect()
    }

    /// The winner of each (system, type) on a subject.
    fn votes(&self, subject: Subject) -> Vec<Bytes> {
        let mut winners: BTreeMap<(SystemKey, u64), (u64, ProcessId, u64, Bytes)> = BTreeMap::new();
        for event in self.live.values() {
            let (Some(lww), Some(first)) = (event.lww(), event.references().first()) else {
                continue;
            };
            if first.subject() != Some(subject) {
                continue;
            }
            let vote = (lww.unix_ms, event.process(), event.clock(), lww.value.clone());
            let best = winners
                .entry((event.system(), event.content_type()))
                .or_insert_with(|| vote.clone());
            *best = vote.max(best.clone());
        }
        winners.into_values().map(|(.., value)| value).collect()
    }

    fn about(&self, subject: Subject, content_type: u64) -> Vec<&Event> {
        let names = |event: &&Event| {
            event.content_type() == content_type
                && event.references().iter().any(|about| about.subject() == Some(subject))
        };
        self.live.values().filter(names).collect()
    }

    fn score(&self, event: &Event) -> i64 {
        let votes = self.votes(event.subject());
        let count = |value: &[u8]| votes.iter().filter(|vote| **vote == value).count() as i64;
        count(opinion::LIKE) - count(opinion::DISLIKE)
    }

    fn username(&self, system: SystemKey) -> Option<&Event> {
        self.live
            .values()
            .filter(|event| event.system() == system && event.content_type() == content::USERNAME)
            .max_by_key(|event| (event.lww().unwrap().unix_ms, event.process(), event.clock()))
    }
}

fn target(event: &Event) -> Option<Target> {
    match event.body() {
        Body::Delete(target) => Some(*target),
        _ => None,
    }
}

fn intervals(clocks: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = Vec::new();
    for &clock in clocks {
        match all.last_mut() {
            Some(last) if last.1 + 1 == clock => last.1 = clock,
            _ => all.push((clock, clock)),
        }
    }
    all
}

fn keys(events: &[SocialEvent]) -> Vec<EventKey> {
    events.iter().map(|event| event.parse().unwrap().key()).collect()
}

/// What the devices write, in the order of writing.
fn write(devices: &mut [Device], topic: &Reference, random: &mut Random) -> Vec<Event> {
    let mut written: Vec<Event> = Vec::new();
    while written.len() < WRITTEN {
        let device = random.below(devices.len());
        // Times that meet, and do not grow with the clock.
        let at = 1_000 + random.below(40) as u64;
        let posts: Vec<Reference> = written
            .iter()
            .filter(|event| event.content_type() == content::POST)
            .map(about)
            .collect();
        let somewhere = match posts.len() {
            0 => topic.clone(),
            n => posts[random.below(n)].clone(),
        };
        let draft = match random.below(10) {
            0..3 => Draft::post("a post", Some(topic.clone())),
            3 => Draft::post("an answer", Some(somewhere)),
            4..7 => {
                let value = [opinion::LIKE, opinion::DISLIKE, opinion::NEUTRAL][random.below(3)];
                Draft::opinion(somewhere, value, at)
            }
            7 => {
                let name = format!("name{}", random.below(1 << 30));
                Draft::element(content::USERNAME, name.into_bytes(), at)
            }
            _ => {
                // Whatever this system wrote, be it a Delete.
                let own: Vec<&Event> = written
                    .iter()
                    .filter(|event| event.system() == devices[device].system())
                    .collect();
                if own.is_empty() {
                    continue;
                }
                Draft::delete(own[random.below(own.len())]).unwrap()
            }
        };
        written.push(devices[device].write(draft, at));
    }
    written
}

/// The answers are those of plain lists, whatever comes in whatever order.
pub async fn answers_are_those_of_a_naive_model(place: Place) {
    let store = place.open().await;
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        // Other people each time, in the same store.
        let person = |n: u8| 10 + seed as u8 * 3 + n;
        let mut devices: Vec<Device> = [(0, 1), (0, 2), (1, 3), (2, 4), (2, 5)]
            .map(|(who, on)| Device::new(person(who), on))
            .into();
        let topic = Reference::Bytes(format!("/topic{seed}").into());
        let written = write(&mut devices, &topic, &mut random);
        let mut pending = written.clone();
        random.shuffle(&mut pending);
        let mut model = Model::default();
        while !pending.is_empty() {
            let size = (1 + random.below(20)).min(pending.len());
            let mut batch: Vec<Event> = pending.drain(..size).collect();
            // A client sends what it sent before, too.
            batch.extend((0..random.below(4)).map(|_| written[random.below(WRITTEN)].clone()));
            ingest(&store, &batch).await;
            model.upload(&batch);
            if random.below(12) == 0 {
                let system = devices[random.below(devices.len())].system();
                store.social_purge(system).await.unwrap();
                model.purge(system);
            }
            compare(&store, &model, &devices, &topic, &mut random).await;
        }
    }
    store.close().await;
}

async fn compare(
    store: &Store,
    model: &Model,
    devices: &[Device],
    topic: &Reference,
    random: &mut Random,
) {
    let systems: BTreeSet<SystemKey> = devices.iter().map(Device::system).collect();
    for &system in &systems {
        assert_eq!(held(store, system).await, model.ranges(system));
        let heads = keys(&store.social_heads(system).await.unwrap());
        assert_eq!(BTreeSet::from_iter(heads), model.newest(system, None));
        for content_type in TYPES {
            let latest = store.social_latest(system, vec![content_type]).await.unwrap();
            let wanted = model.newest(system, Some(content_type));
            assert_eq!(BTreeSet::from_iter(keys(&latest)), wanted);
            page(store, model, system, content_type, random).await;
        }
        let name = model.username(system);
        for event in model.live.values().filter(|event| event.system() == system) {
            let Body::Text(text) = event.body() else { continue };
            if event.content_type() == content::USERNAME {
                let found =
                    store.social_search(Words::Profiles, text.clone(), 0, 10).await.unwrap();
                let is_current = name.is_some_and(|name| name.key() == event.key());
                assert_eq!(!found.is_empty(), is_current, "{text}");
            }
        }
    }
    let posts = model.live.values().filter(|event| event.content_type() == content::POST);
    let subjects = posts.map(Event::subject).chain(topic.subject());
    for subject in subjects.collect::<BTreeSet<_>>() {
        counters(store, model, subject).await;
    }
}

/// A page from anywhere is that part of the whole feed, and ends at no tie.
async fn page(
    store: &Store,
    model: &Model,
    system: SystemKey,
    content_type: u64,
    random: &mut Random,
) {
    let limit = 1 + random.below(8);
    let before = 1_000 + random.below(45) as u64;
    let query = IndexQuery { system, content_type, before_ms: Some(before), limit };
    let found = store.social_index(query).await.unwrap();
    let below: Vec<_> =
        model.feed(system, content_type).into_iter().filter(|(ms, _)| *ms < before).collect();
    let through = below.get(limit - 1).map_or(0, |(ms, _)| *ms);
    let wanted: Vec<EventKey> =
        below.iter().take_while(|(ms, _)| *ms >= through).map(|(_, shown)| *shown).collect();
    assert_eq!(keys(&found.events), wanted, "type {content_type} before {before}, {limit}");
}

async fn counters(store: &Store, model: &Model, subject: Subject) {
    let votes = model.votes(subject);
    let mut asked = Vec::new();
    let mut wanted = Vec::new();
    for value in [opinion::LIKE, opinion::DISLIKE, opinion::NEUTRAL] {
        for from_type in [None, Some(content::OPINION)] {
            let value = Bytes::from_static(value);
            wanted.push(votes.iter().filter(|vote| **vote == value).count() as u64);
            asked.push((vec![subject], Count::Values { value, from_type }));
        }
    }
    for content_type in [content::POST, content::OPINION] {
        wanted.push(model.about(subject, content_type).len() as u64);
        let from_type = Some(content_type);
        asked.push((vec![subject], Count::References { from_type }));
    }
    assert_eq!(store.social_counts(asked).await.unwrap(), wanted);

    let query = RefsQuery {
        subjects: vec![subject],
        from_type: Some(content::POST),
        offset: 0,
        limit: WRITTEN,
    };
    let found = keys(&store.social_refs(query).await.unwrap());
    let about = model.about(subject, content::POST);
    assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len());
    assert_eq!(BTreeSet::from_iter(found.iter().copied()), about.iter().map(|e| e.key()).collect());
    let scores: Vec<i64> = found.iter().map(|key| model.score(&model.live[key])).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "the best liked come first: {scores:?}");
}
