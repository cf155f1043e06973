//! Reading: every filter, every order, page by page, against a plain list of the same events.

use std::collections::HashMap;

use bytes::Bytes;
use relay_proto::{Cursor, Event, Filter, Namespace};
use relay_store::{Appended, Coordinate, EventQuery, Order, Store};

use crate::{
    keys::{author, event},
    place::{Place, all, ns},
};

/// A small generator: the same numbers in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len() as u64) as usize]
    }

    /// None of them most times, else one or more.
    fn some<T: Clone>(&mut self, from: &[T]) -> Vec<T> {
        if !self.one_in(3) {
            return Vec::new();
        }
        (0..=self.roll(2)).map(|_| self.pick(from).clone()).collect()
    }
}

const NAMESPACES: [&str; 3] = ["default", "a", "b/c"];
const KINDS: [u16; 5] = [1, 2, 10_000, 30_001, 30_002];
const NOW_S: u64 = 1_000;

struct Kept {
    seq: u64,
    event: Event,
    superseded: bool,
}

/// The plain list.
#[derive(Default)]
struct Model(Vec<Kept>);

impl Model {
    fn extend(&mut self, new: impl IntoIterator<Item = (u64, Event)>) {
        let kept = |(seq, event)| Kept { seq, event, superseded: false };
        self.0.extend(new.into_iter().map(kept));
        let mut latest = HashMap::new();
        for Kept { event, .. } in &self.0 {
            if let Some(coordinate) = Coordinate::of(event) {
                let best = latest.entry(coordinate).or_insert(event.version());
                *best = event.version().max(*best);
            }
        }
        for Kept { event, superseded, .. } in &mut self.0 {
            let best = Coordinate::of(event).and_then(|coordinate| latest.get(&coordinate));
            *superseded = best.is_some_and(|best| *best > event.version());
        }
    }

    fn answer(&self, query: &EventQuery) -> Vec<u64> {
        let mut found: Vec<&Kept> = self
            .0
            .iter()
            .filter(|kept| {
                let event = &kept.event;
                query.namespaces.contains(event.namespace())
                    && (query.history || !kept.superseded)
                    && event.expires_at_s().is_none_or(|at| at > query.now_s)
                    && (query.filters.is_empty()
                        || query.filters.iter().any(|filter| filter.matches(event)))
            })
            .collect();
        let time = |kept: &&Kept| (kept.event.created_at_ns(), kept.seq);
        match query.order {
            Order::Seq => found.sort_by_key(|kept| kept.seq),
            Order::SeqDescending => found.sort_by_key(|kept| std::cmp::Reverse(kept.seq)),
            Order::Time => found.sort_by_key(time),
            Order::TimeDescending => found.sort_by_key(|kept| std::cmp::Reverse(time(kept))),
        }
        found.iter().map(|kept| kept.seq).collect()
    }
}

fn random_event(dice: &mut Dice, number: u64) -> Event {
    let kind = *dice.pick(&KINDS);
    let mut tags: Vec<Vec<String>> = Vec::new();
    let mut tag = |name: &str, value: &str| tags.push(vec![name.to_owned(), value.to_owned()]);
    let name = *dice.pick(&NAMESPACES);
    if name != "default" {
        tag("ns", name);
    }
    if kind >= 30_000 {
        tag("d", dice.pick::<&str>(&["1", "2"]));
    }
    for _ in 0..dice.roll(3) {
        tag("t", dice.pick::<&str>(&["x", "y", "z"]));
    }
    if dice.one_in(2) {
        tag("u", dice.pick::<&str>(&["p", "q", ""]));
    }
    if dice.one_in(6) {
        tag("expiration", &(NOW_S - 1 + dice.roll(3)).to_string());
    }
    let tags: Vec<Vec<&str>> =
        tags.iter().map(|tag| tag.iter().map(String::as_str).collect()).collect();
    let tags: Vec<&[&str]> = tags.iter().map(|tag| &tag[..]).collect();
    event(1 + dice.roll(3) as u8, kind, dice.roll(12), &tags, &number.to_string())
}

fn random_filter(dice: &mut Dice, model: &Model) -> Filter {
    let mut filter = Filter {
        authors: dice.some(&[author(1), author(2), author(3), author(9)]),
        kinds: dice.some(&[1, 2, 10_000, 30_001, 30_002, 7]),
        ns: dice.some(&[ns("default"), ns("a"), ns("b/c"), ns("unknown")]),
        ..Filter::default()
    };
    if dice.one_in(6) {
        let ids: Vec<_> = model.0.iter().map(|kept| kept.event.id()).collect();
        filter.ids = (0..=dice.roll(4)).map(|_| *dice.pick(&ids)).collect();
    }
    let tags: [(&str, &[&str]); 5] = [
        ("t", &["x", "y", "z", "none"]),
        ("u", &["p", "q", ""]),
        ("d", &["1", "2"]),
        ("ns", &["a", "b/c"]),
        ("v", &["-"]),
    ];
    for (name, values) in tags {
        if dice.one_in(5) {
            let values: Vec<_> =
                (0..=dice.roll(2)).map(|_| (*dice.pick(values)).to_owned()).collect();
            filter.tags.push((name.into(), values));
        }
    }
    if dice.one_in(4) {
        filter.since_ns = Some(dice.roll(12));
    }
    if dice.one_in(4) {
        filter.until_ns = Some(dice.roll(12));
    }
    filter
}

fn random_query(dice: &mut Dice, model: &Model) -> EventQuery {
    let readable: Vec<Namespace> =
        NAMESPACES.iter().filter(|_| !dice.one_in(4)).map(|name| ns(name)).collect();
    EventQuery {
        filters: (0..dice.roll(4)).map(|_| random_filter(dice, model)).collect(),
        namespaces: readable,
        history: dice.one_in(2),
        order: *dice.pick(&[Order::Seq, Order::SeqDescending, Order::Time, Order::TimeDescending]),
        from: None,
        limit: 1 + dice.roll(9) as usize,
        now_s: NOW_S,
    }
}

/// Reads all pages.
async fn read(store: &Store, mut query: EventQuery) -> Vec<u64> {
    let mut seqs = Vec::new();
    loop {
        let page = store.page(query.clone()).await.unwrap();
        assert!(page.events.len() <= query.limit);
        seqs.extend(page.events.iter().map(|event| event.seq));
        let Some(next) = page.next else {
            assert!(page.through_seq >= store.committed_seq(), "everything was looked at");
            return seqs;
        };
        assert_eq!(page.events.len(), query.limit, "a page with a next one is full");
        // As a client carries it.
        let cursor = Cursor { log: store.log_id(), position: next }.encode();
        query.from = Some(Cursor::decode(&cursor, store.log_id()).unwrap().position);
    }
}

pub async fn answers_are_those_of_a_plain_list(place: Place) {
    let store = place.open().await;
    let mut model = Model::default();
    for seed in 1..=2_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut number = seed * 1_000;
        for _ in 0..10 {
            let batch: Vec<Event> = (0..1 + dice.roll(12))
                .map(|_| {
                    number += 1;
                    random_event(&mut dice, number)
                })
                .collect();
            let answers = store.append(batch.clone(), 1).await.unwrap();
            let seq = |answer| match answer {
                Appended::Stored { seq, .. } => seq,
                other => panic!("{other:?}"),
            };
            model.extend(answers.into_iter().map(seq).zip(batch));
            for _ in 0..10 {
                let query = random_query(&mut dice, &model);
                let expected = model.answer(&query);
                let found = read(&store, query.clone()).await;
                assert_eq!(found, expected, "seed {seed}: {query:#?}");
                assert_eq!(
                    store.count(query.clone()).await.unwrap(),
                    expected.len() as u64,
                    "{query:#?}"
                );
            }
        }
        // That they are gone must make no difference to what is answered.
        while store.sweep_expired(NOW_S).await.unwrap() > 0 {}
    }
    store.close().await;
}

/// More than a store sorts by `seq`: it walks the log instead.
const LONG: u64 = 21_000;

fn unsigned(number: u64) -> Event {
    let kind = if number.is_multiple_of(500) { 2 } else { 1 };
    let at = (number * 7_919) % 25_013;
    let id = blake3::hash(&number.to_le_bytes()).to_hex();
    let tags = format!(r#"[["t","{}"]]"#, number % 2);
    let json = format!(
        r#"{{"id":"{id}","pubkey":"{}","created_at_ns":"{at}","kind":{kind},"tags":{tags},"content":"","sig":"{}"}}"#,
        author(1 + (number % 2) as u8),
        "0".repeat(128),
    );
    Event::from_stored(Bytes::from(json)).unwrap()
}

pub async fn long_runs_are_read_in_every_order(place: Place) {
    let store = place.open().await;
    let mut stored = Vec::new();
    for start in (1..=LONG).step_by(1_000) {
        let batch: Vec<Event> = (start..start + 1_000).map(unsigned).collect();
        store.append(batch.clone(), 1).await.unwrap();
        stored.extend((start..).zip(batch));
    }
    let mut model = Model::default();
    model.extend(stored);
    let tag =
        |value: &str| Filter { tags: vec![("t".into(), vec![value.into()])], ..Filter::default() };
    let kinds = |kinds: &[u16]| Filter { kinds: kinds.to_vec(), ..Filter::default() };
    let by = Filter { authors: vec![author(1)], kinds: vec![1], ..Filter::default() };
    let four = [Order::Seq, Order::SeqDescending, Order::Time, Order::TimeDescending];
    // The last ones are looked at event by event, which takes its time.
    let questions = [
        (vec![], &four[..]),
        (vec![kinds(&[1])], &four[..2]),
        (vec![kinds(&[2])], &four[..2]),
        (vec![by, tag("0")], &four[..1]),
    ];
    for (filters, orders) in questions {
        for &order in orders {
            let filters = filters.clone();
            let query = EventQuery { filters, order, limit: 4_000, ..all(&["default"]) };
            assert_eq!(read(&store, query.clone()).await, model.answer(&query), "{query:?}");
        }
        let query = EventQuery { filters, ..all(&["default"]) };
        let counted = store.count(query.clone()).await.unwrap();
        assert_eq!(counted, model.answer(&query).len() as u64);
    }
    store.close().await;
}
