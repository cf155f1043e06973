//! Writing events and finding them again.

use std::{collections::HashSet, sync::Arc};

use relay_proto::{Filter, event::Draft};
use relay_store::{Appended, Coordinate, EventQuery, Order, Store, SystemClock};

use crate::{
    keys::{author, event, key},
    place::{Heard, Place, all, ns},
};

pub async fn events_are_numbered_and_found(place: Place) {
    let heard = Arc::new(Heard::default());
    let store = place.open_with(Arc::new(SystemClock), heard.clone()).await.unwrap();
    assert_eq!(store.log_id(), 7);
    assert_eq!(store.committed_seq(), 0);
    let events = vec![
        event(1, 1, 50, &[], "a"),
        event(2, 1, 40, &[&["ns", "other"]], "b"),
        event(1, 2, 60, &[], "c"),
    ];
    let appended = store.append(events.clone(), 99).await.unwrap();
    let expected: Vec<_> = (1..=3).map(|seq| Appended::Stored { seq, latest: true }).collect();
    assert_eq!(appended, expected);
    assert_eq!(store.committed_seq(), 3);
    {
        let told = heard.events.lock().unwrap();
        let told: Vec<_> =
            told.iter().map(|c| (c.seq, c.event.id(), c.latest, c.received_at_ns)).collect();
        let expected: Vec<_> =
            events.iter().zip(1..).map(|(event, seq)| (seq, event.id(), true, 99)).collect();
        assert_eq!(told, expected);
    }
    let unknown = event(3, 1, 1, &[], "never stored").id();
    let ids = vec![events[2].id(), unknown, events[1].id()];
    let found = store.find(ids).await.unwrap();
    let third = found[0].as_ref().unwrap();
    assert_eq!((third.event.seq, &third.event.json), (3, events[2].json()));
    assert_eq!(third.event.created_at_ns, 60);
    assert!(found[1].is_none());
    assert_eq!(found[2].as_ref().unwrap().namespace, ns("other"));

    let page = store.page(all(&["default"])).await.unwrap();
    let seqs: Vec<_> = page.events.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, [3, 1], "newest first, and only what may be read");
    assert_eq!(page.next, None);
    let page = store.page(EventQuery { order: Order::Seq, ..all(&["default"]) }).await.unwrap();
    assert_eq!(page.through_seq, 3);
    assert_eq!(store.page(all(&["nobody-wrote-here"])).await.unwrap().through_seq, 3);
    assert_eq!(store.count(all(&["default", "other"])).await.unwrap(), 3);

    let mut known = store.namespaces().await.unwrap();
    known.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    let bytes = |indexes: &[usize]| -> u64 {
        indexes.iter().map(|&index| events[index].json().len() as u64).sum()
    };
    let counted: Vec<_> =
        known.iter().map(|info| (info.name.as_str(), info.events, info.bytes)).collect();
    assert_eq!(counted, [("default", 2, bytes(&[0, 2])), ("other", 1, bytes(&[1]))]);
    store.close().await;
}

pub async fn a_repeat_is_answered_with_the_first_seq(place: Place) {
    let store = place.open().await;
    let (a, b) = (event(1, 1, 5, &[], "a"), event(1, 30_000, 5, &[&["d", "x"]], "b"));
    let newer = event(1, 30_000, 6, &[&["d", "x"]], "newer");
    let stored = |seq, latest| Appended::Stored { seq, latest };
    let duplicate = |seq, latest| Appended::Duplicate { seq, latest };
    let appended = store.append(vec![a.clone(), a.clone(), b.clone()], 1).await.unwrap();
    assert_eq!(appended, [stored(1, true), duplicate(1, true), stored(2, true)]);
    let appended = store.append(vec![newer.clone(), b.clone(), a.clone()], 1).await.unwrap();
    assert_eq!(appended, [stored(3, true), duplicate(2, false), duplicate(1, true)]);
    store.close().await;

    let store = place.open().await;
    let appended = store.append(vec![b, newer, a], 1).await.unwrap();
    assert_eq!(appended, [duplicate(2, false), duplicate(3, true), duplicate(1, true)]);
    let counted: u64 = store.namespaces().await.unwrap().iter().map(|info| info.events).sum();
    assert_eq!(counted, 3);
    store.close().await;
}

pub async fn the_latest_does_not_depend_on_arrival(place: Place) {
    let store = place.open().await;
    for (number, order) in orders(4).into_iter().enumerate() {
        let d = format!("thing-{number}");
        // Two of the same time: the greater id wins.
        let versions: Vec<_> = [5_u64, 9, 9, 1]
            .iter()
            .enumerate()
            .map(|(index, &at)| {
                event(1, 30_001, at, &[&["d", &d], &["t", "same"]], &index.to_string())
            })
            .collect();
        let winner = versions.iter().max_by_key(|event| event.version()).unwrap();
        // Every second order arrives one by one, the others in one batch.
        let mut answers = Vec::new();
        let arriving: Vec<_> = order.iter().map(|&index| versions[index].clone()).collect();
        if number % 2 == 0 {
            for version in &arriving {
                answers.extend(store.append(vec![version.clone()], 1).await.unwrap());
            }
        } else {
            answers = store.append(arriving.clone(), 1).await.unwrap();
        }
        let mut best = None;
        for (version, answer) in arriving.iter().zip(&answers) {
            let expected = best < Some(version.version());
            best = best.max(Some(version.version()));
            assert!(
                matches!(answer, Appended::Stored { latest, .. } if *latest == expected),
                "{order:?}: {answer:?}"
            );
        }
        check_versions(&store, &d, winner.json(), &versions).await;
    }
    let by_tag = Filter { tags: vec![("t".into(), vec!["same".into()])], ..Filter::default() };
    let query = EventQuery { filters: vec![by_tag], ..all(&["default"]) };
    assert_eq!(store.count(query.clone()).await.unwrap(), 24, "one for each coordinate");
    let query = EventQuery { history: true, ..query };
    assert_eq!(store.count(query).await.unwrap(), 96);
    store.close().await;
}

async fn check_versions(store: &Store, d: &str, winner: &[u8], versions: &[relay_proto::Event]) {
    let coordinate =
        Coordinate { namespace: ns("default"), author: author(1), kind: 30_001, d: d.into() };
    let latest = store.latest(coordinate).await.unwrap().unwrap();
    assert_eq!(latest.event.json, winner);
    let filter = Filter { tags: vec![("d".into(), vec![d.into()])], ..Filter::default() };
    let current = EventQuery { filters: vec![filter], ..all(&["default"]) };
    let page = store.page(current.clone()).await.unwrap();
    let found: Vec<_> = page.events.iter().map(|event| &event.json[..]).collect();
    assert_eq!(found, [winner]);
    let page = store.page(EventQuery { history: true, ..current }).await.unwrap();
    let times: Vec<_> = page.events.iter().map(|event| event.created_at_ns).collect();
    assert_eq!(times, [9, 9, 5, 1]);
    for version in versions {
        assert!(store.find(vec![version.id()]).await.unwrap()[0].is_some(), "readable by id");
    }
}

pub async fn an_old_version_in_a_later_batch_stays_old(place: Place) {
    let store = place.open().await;
    let version = |at: u64| event(1, 10_000, at, &[], &at.to_string());
    for (at, latest) in [(5, true), (3, false), (7, true), (6, false), (8, true)] {
        let answer = store.append(vec![version(at)], 1).await.unwrap()[0];
        assert!(matches!(answer, Appended::Stored { latest: l, .. } if l == latest), "{at}");
    }
    let by_author = Filter { authors: vec![author(1)], ..Filter::default() };
    for filters in [vec![], vec![by_author]] {
        let page = store.page(EventQuery { filters, ..all(&["default"]) }).await.unwrap();
        let times: Vec<_> = page.events.iter().map(|event| event.created_at_ns).collect();
        assert_eq!(times, [8]);
    }
    store.close().await;
}

pub async fn writers_at_once_share_one_order(place: Place) {
    let heard = Arc::new(Heard::default());
    let store = place.open_with(Arc::new(SystemClock), heard.clone()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 1..=12_u8 {
        let store = store.clone();
        tasks.spawn(async move {
            let mut seqs = Vec::new();
            for round in 0..10_u64 {
                let events = (0..4)
                    .map(|n| event(writer, 1, round * 4 + n, &[&["t", &format!("{round}")]], "x"))
                    .collect();
                for answer in store.append(events, 1).await.unwrap() {
                    let Appended::Stored { seq, .. } = answer else { panic!("{answer:?}") };
                    seqs.push(seq);
                }
            }
            assert!(seqs.is_sorted(), "each caller's events keep their order");
            seqs
        });
    }
    let seqs: HashSet<u64> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(seqs, (1..=480).collect());
    let told: Vec<u64> = heard.events.lock().unwrap().iter().map(|c| c.seq).collect();
    assert_eq!(told, (1..=480).collect::<Vec<_>>(), "observers hear them in order");
    store.close().await;
}

pub async fn odd_text_is_kept(place: Place) {
    let store = place.open().await;
    let texts = ["nul \0 inside", "quote \" \\ '", "{1,NULL}", "e\u{301} é 日本 🦀", "\u{7f}\u{1}"];
    let mut events = Vec::new();
    for (number, text) in texts.iter().enumerate() {
        let mut draft = Draft { kind: 30_005, created_at_ns: number as u64, ..Draft::default() };
        draft.tags.push(["d", *text]);
        draft.tags.push(["odd", *text]);
        draft.content = (*text).into();
        events.push(draft.sign(&key(1)).unwrap());
    }
    store.append(events.clone(), 1).await.unwrap();
    for (text, event) in texts.iter().zip(&events) {
        let coordinate = Coordinate {
            namespace: ns("default"),
            author: author(1),
            kind: 30_005,
            d: (*text).into(),
        };
        let latest = store.latest(coordinate).await.unwrap().unwrap();
        assert_eq!(&latest.event.json, event.json());
        let filter =
            Filter { tags: vec![("odd".into(), vec![(*text).into()])], ..Filter::default() };
        let page =
            store.page(EventQuery { filters: vec![filter], ..all(&["default"]) }).await.unwrap();
        assert_eq!(page.events.len(), 1);
        assert_eq!(&page.events[0].json, event.json());
    }
    store.close().await;
}

pub async fn a_thread_without_a_runtime_can_write(place: Place) {
    let store = place.open().await;
    let (tell, told) = tokio::sync::oneshot::channel();
    let writing = store.clone();
    let thread = std::thread::spawn(move || {
        writing.submit(vec![event(1, 1, 1, &[], "x")], 1, |answer| drop(tell.send(answer)));
    });
    assert_eq!(told.await.unwrap().unwrap(), [Appended::Stored { seq: 1, latest: true }]);
    thread.join().unwrap();
    store.close().await;
}

/// All orders of the numbers below `n`.
fn orders(n: usize) -> Vec<Vec<usize>> {
    let mut orders = vec![vec![]];
    for _ in 0..n {
        orders = orders
            .iter()
            .flat_map(|order: &Vec<usize>| {
                (0..n)
                    .filter(|i| !order.contains(i))
                    .map(|i| [&order[..], &[i]].concat())
                    .collect::<Vec<_>>()
            })
            .collect();
    }
    orders
}
