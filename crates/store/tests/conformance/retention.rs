//! What goes: expired events, and what a policy lets go.

use relay_proto::{Event, Filter};
use relay_store::{Appended, Coordinate, EventQuery, NamespaceInfo, Retention, Store};

use crate::{
    keys::{author, event},
    place::{Place, all, ns},
};

async fn store_all(store: &Store, events: &[Event], received_at_ns: u64) -> Vec<u64> {
    let answers = store.append(events.to_vec(), received_at_ns).await.unwrap();
    let seq = |answer: &Appended| match answer {
        Appended::Stored { seq, .. } => *seq,
        other => panic!("{other:?}"),
    };
    answers.iter().map(seq).collect()
}

async fn info(store: &Store, name: &str) -> NamespaceInfo {
    let known = store.namespaces().await.unwrap();
    known.into_iter().find(|info| info.name == ns(name)).unwrap()
}

async fn seqs(store: &Store, query: EventQuery) -> Vec<u64> {
    let mut seqs: Vec<u64> =
        store.page(query).await.unwrap().events.iter().map(|event| event.seq).collect();
    seqs.sort_unstable();
    seqs
}

async fn prune(store: &Store, policy: Retention) -> usize {
    let mut gone = 0;
    loop {
        match store.prune(ns("default"), policy.clone()).await.unwrap() {
            0 => return gone,
            some => gone += some,
        }
    }
}

pub async fn expired_events_go(place: Place) {
    let store = place.open().await;
    let expiring = |by: u8, at: &str| {
        event(by, 30_001, 1, &[&["d", at], &["expiration", at], &["t", "x"]], "")
    };
    let events = [expiring(1, "100"), expiring(1, "200"), event(1, 1, 1, &[&["t", "x"]], "stays")];
    store_all(&store, &events, 1).await;
    let by_tag = Filter { tags: vec![("t".into(), vec!["x".into()])], ..Filter::default() };
    let at = |now_s| EventQuery { filters: vec![by_tag.clone()], now_s, ..all(&["default"]) };
    assert_eq!(seqs(&store, at(99)).await, [1, 2, 3]);
    assert_eq!(seqs(&store, at(100)).await, [2, 3], "gone from the second on that it names");
    assert_eq!(store.sweep_expired(99).await.unwrap(), 0);
    assert_eq!(store.sweep_expired(100).await.unwrap(), 1);
    assert_eq!(store.sweep_expired(100).await.unwrap(), 0);
    assert_eq!(seqs(&store, at(0)).await, [2, 3], "really gone");
    assert!(store.find(vec![events[0].id()]).await.unwrap()[0].is_none());
    let coordinate =
        Coordinate { namespace: ns("default"), author: author(1), kind: 30_001, d: "100".into() };
    assert!(store.latest(coordinate).await.unwrap().is_none());
    let left = info(&store, "default").await;
    assert_eq!(left.events, 2);
    assert_eq!(left.bytes, (events[1].json().len() + events[2].json().len()) as u64);
    assert_eq!(left.pruned_through_seq, 0, "expiry is no gap: those were announced to go");
    store.close().await;
}

pub async fn old_events_go_and_the_cursor_knows(place: Place) {
    let store = place.open().await;
    for round in 0..4_u64 {
        let events: Vec<_> =
            (0..200).map(|n| event(1, 1, n, &[&["t", "x"]], &format!("{round}"))).collect();
        store_all(&store, &events, 1_000 + round).await;
        store_all(&store, &[event(2, 1, round, &[&["ns", "other"]], "other")], 1_000 + round).await;
    }
    let policy = Retention { received_before_ns: Some(1_003), ..Retention::default() };
    assert_eq!(prune(&store, policy).await, 600);
    let left = info(&store, "default").await;
    assert_eq!((left.events, left.pruned_through_seq), (200, 602));
    assert_eq!(info(&store, "other").await.events, 4);
    let by_tag = Filter { tags: vec![("t".into(), vec!["x".into()])], ..Filter::default() };
    let query = EventQuery { filters: vec![by_tag], limit: 1_000, ..all(&["default"]) };
    assert_eq!(seqs(&store, query).await, (604..=803).collect::<Vec<_>>());
    store.close().await;
}

pub async fn the_oldest_bytes_go(place: Place) {
    let store = place.open().await;
    let events: Vec<_> = (0..20).map(|n| event(1, 1, 100 - n, &[], "same length")).collect();
    store_all(&store, &events, 1).await;
    let size = |range: std::ops::Range<usize>| -> u64 {
        events[range].iter().map(|event| event.json().len() as u64).sum()
    };
    let policy = Retention { max_bytes: Some(size(15..20)), ..Retention::default() };
    assert_eq!(
        prune(&store, policy.clone()).await,
        15,
        "the first that arrived, not the oldest by date"
    );
    assert_eq!(seqs(&store, all(&["default"])).await, [16, 17, 18, 19, 20]);
    let left = info(&store, "default").await;
    assert_eq!((left.events, left.bytes, left.pruned_through_seq), (5, size(15..20), 15));
    assert_eq!(prune(&store, policy).await, 0);
    store.close().await;
}

pub async fn what_was_read_before_is_gone_too(place: Place) {
    let store = place.open().await;
    let events: Vec<_> = (0..400).map(|n| event(1, 1, n, &[&["t", "x"]], "read")).collect();
    let by_tag = Filter { tags: vec![("t".into(), vec!["x".into()])], ..Filter::default() };
    let by_author = Filter { authors: vec![author(1)], kinds: vec![1], ..Filter::default() };
    let by_id = Filter { ids: vec![events[0].id(), events[399].id()], ..Filter::default() };
    let queries = [by_tag, by_author, by_id].map(|filter| EventQuery {
        filters: vec![filter],
        limit: 1_000,
        ..all(&["default"])
    });
    // Half of it while newer events have not come, half with them: index entries in memory, and in the tables.
    for (some, at) in [(&events[..200], 1_000), (&events[200..], 1_001)] {
        store_all(&store, some, at).await;
        for query in &queries {
            let first = seqs(&store, query.clone()).await;
            assert_eq!(seqs(&store, query.clone()).await, first, "twice the same");
        }
    }
    let policy = Retention { received_before_ns: Some(1_001), ..Retention::default() };
    assert_eq!(prune(&store, policy).await, 200);
    let left: Vec<u64> = (201..=400).collect();
    assert_eq!(seqs(&store, queries[0].clone()).await, left);
    assert_eq!(seqs(&store, queries[1].clone()).await, left);
    assert_eq!(seqs(&store, queries[2].clone()).await, [400]);
    let policy = Retention { received_before_ns: Some(1_002), ..Retention::default() };
    assert_eq!(prune(&store, policy).await, 200);
    for query in &queries {
        assert!(seqs(&store, query.clone()).await.is_empty());
    }
    store.close().await;
}

pub async fn old_versions_go_and_the_latest_stays(place: Place) {
    let store = place.open().await;
    let version = |d: &str, at: u64| event(1, 30_001, at, &[&["d", d]], "");
    let mut events = Vec::new();
    for at in [3, 9, 1, 7, 5] {
        events.push(version("many", at));
        if at > 6 {
            events.push(version("few", at));
        }
        events.push(event(1, 1, at, &[], "regular events are no versions"));
        events.push(event(2, 10_000, at, &[], "replaceable"));
    }
    store_all(&store, &events, 1).await;
    let policy = Retention { keep_versions: Some(2), ..Retention::default() };
    assert_eq!(prune(&store, policy).await, 6);
    let page = store.page(EventQuery { history: true, ..all(&["default"]) }).await.unwrap();
    let mut left: Vec<(String, u64)> = page
        .events
        .iter()
        .map(|found| {
            let event = Event::from_stored(found.json.clone()).unwrap();
            (format!("{} {}", event.kind(), event.d()), event.created_at_ns())
        })
        .filter(|(name, _)| name != "1 ")
        .collect();
    left.sort();
    let expected = [
        ("10000 ", 7),
        ("10000 ", 9),
        ("30001 few", 7),
        ("30001 few", 9),
        ("30001 many", 7),
        ("30001 many", 9),
    ];
    assert_eq!(left, expected.map(|(name, at)| (name.to_owned(), at)));
    assert_eq!(info(&store, "default").await.pruned_through_seq, 0, "a tail is not torn by it");
    store.close().await;
}

pub async fn a_seq_is_never_used_twice(place: Place) {
    let store = place.open().await;
    let expiring = |n: u64| event(1, 1, n, &[&["expiration", "10"]], "");
    store_all(&store, &[event(1, 1, 0, &[], ""), expiring(1), expiring(2)], 1).await;
    assert_eq!(store.sweep_expired(10).await.unwrap(), 2);
    assert_eq!(store_all(&store, &[expiring(3)], 1).await, [4]);
    assert_eq!(store.sweep_expired(10).await.unwrap(), 1);
    store.close().await;
    let store = place.open().await;
    assert_eq!(store.committed_seq(), 4);
    assert_eq!(store.page(all(&["default"])).await.unwrap().through_seq, 4);
    assert_eq!(store_all(&store, &[expiring(4)], 1).await, [5]);
    store.close().await;
}
