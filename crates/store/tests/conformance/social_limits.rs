//! How much of an identity is held: bounds for all, and quotas of single ones.

use std::collections::BTreeMap;

use relay_proto::polycentric::{Draft, Event, EventWriter, ProcessId, SystemKey};
use relay_store::{Ingest, Ingested, Over, OverWhat, SocialQuota, Store};

use crate::{
    keys::key,
    place::Place,
    social::{Device, held},
};

async fn refusal(store: &Store, events: &[Event]) -> Option<OverWhat> {
    let given = Ingest {
        events: events.to_vec(),
        max_system_bytes: None,
        max_bytes_of: BTreeMap::default(),
        notes: BTreeMap::default(),
    };
    match store.social_ingest(given).await.unwrap() {
        Ingested::Over(over) => Some(over.what),
        Ingested::Done(_) => None,
    }
}

pub async fn what_an_identity_may_hold_is_bounded(place: Place) {
    let store = place.open().await;
    let device = |n: u64| {
        let mut process = [0; 16];
        process[..8].copy_from_slice(&n.to_le_bytes());
        Device { key: key(1), writer: EventWriter::new(ProcessId::from_bytes(process)) }
    };
    let first_of = |n: u64| device(n).post("mine", 5);
    let crowd: Vec<Event> = (0..1_024).map(first_of).collect();
    let system = crowd[0].system();
    for some in crowd.chunks(256) {
        assert_eq!(refusal(&store, some).await, None);
    }
    let version = store.social_version(system).await.unwrap();
    let more = [first_of(2_000), Device::new(2, 2).post("beside it", 6)];
    assert_eq!(refusal(&store, &more).await, Some(OverWhat::Processes));
    // A Delete names a process as well.
    let delete = device(0).write(Draft::delete(&more[0]).unwrap(), 7);
    let mut late = device(0);
    late.post("mine", 5);
    let delete_of_unknown = late.write(Draft::delete(&more[0]).unwrap(), 7);
    assert_eq!(delete.clock(), 1);
    assert_eq!(refusal(&store, &[delete_of_unknown]).await, Some(OverWhat::Processes));
    assert_eq!(store.social_version(system).await.unwrap(), version, "nothing has changed");
    assert!(held(&store, more[1].system()).await.is_empty(), "a request is refused whole");
    let usage = store.social_usage(Some(system), 1).await.unwrap();
    assert_eq!((usage[0].processes, usage[0].events), (1_024, 1_024));

    // Every other clock: each leaves a gap.
    let mut scattered = Device::new(3, 3);
    let odd: Vec<Event> = (0..20_100)
        .map(|n| scattered.post("x", n))
        .filter(|event| event.clock() % 2 == 1)
        .collect();
    let mut refused = None;
    for some in odd.chunks(1_000) {
        refused = refusal(&store, some).await;
        if refused.is_some() {
            break;
        }
    }
    assert_eq!(refused, Some(OverWhat::Gaps));
    let intervals = held(&store, scattered.system()).await[0].1.len();
    assert_eq!(intervals, 10_000);
    // What joins intervals is welcome.
    let mut again = Device::new(3, 3);
    let even: Vec<Event> =
        (0..100).map(|n| again.post("x", n)).filter(|event| event.clock() % 2 == 0).collect();
    assert_eq!(refusal(&store, &even).await, None);
    store.close().await;
}

pub async fn single_identities_have_quotas_of_their_own(place: Place) {
    let store = place.open().await;
    let (mut alice, mut bob) = (Device::new(1, 1), Device::new(2, 2));
    let quota =
        |system, bytes, events_per_sec| SocialQuota { system, bytes, events_per_sec, set_at_ms: 7 };
    assert_eq!(store.social_quotas().await.unwrap(), []);
    assert!(!store.social_remove_quota(alice.system()).await.unwrap());
    store.social_set_quota(quota(alice.system(), Some(1), None)).await.unwrap();
    store.social_set_quota(quota(alice.system(), Some(1_000_000), Some(0))).await.unwrap();
    store.social_set_quota(quota(bob.system(), None, Some(u32::MAX))).await.unwrap();
    let mut wanted = [
        quota(alice.system(), Some(1_000_000), Some(0)),
        quota(bob.system(), None, Some(u32::MAX)),
    ];
    wanted.sort_by_key(|quota| quota.system);
    assert_eq!(store.social_quotas().await.unwrap(), wanted);
    store.close().await;
    let store = place.open().await;
    assert_eq!(store.social_quotas().await.unwrap(), wanted, "they outlive the process");

    // What all may, and what one may: more, less, and without a limit.
    let offer = async |events: Vec<Event>, all: Option<u64>, of: &[(SystemKey, Option<u64>)]| {
        let max_bytes_of = of.iter().copied().collect();
        let given =
            Ingest { events, max_system_bytes: all, max_bytes_of, notes: BTreeMap::default() };
        store.social_ingest(given).await.unwrap()
    };
    let over = |system| Ingested::Over(Over { system, what: OverWhat::Bytes });
    let first = vec![alice.post("hers", 1), bob.post("his", 2)];
    assert!(matches!(offer(first, Some(10_000), &[]).await, Ingested::Done(_)));
    let both = [alice.post("more of hers", 3), bob.post("more of his", 4)];
    let of = [(alice.system(), Some(100))];
    assert_eq!(offer(both.to_vec(), Some(10_000), &of).await, over(alice.system()));
    let of = [(alice.system(), None), (bob.system(), Some(100))];
    assert_eq!(offer(both.to_vec(), None, &of).await, over(bob.system()));
    let of = [(alice.system(), None), (bob.system(), Some(10_000))];
    assert!(matches!(offer(both.to_vec(), Some(100), &of).await, Ingested::Done(_)));

    assert!(store.social_remove_quota(alice.system()).await.unwrap());
    let left = store.social_quotas().await.unwrap();
    assert_eq!(left, [quota(bob.system(), None, Some(u32::MAX))]);
    store.close().await;
}
