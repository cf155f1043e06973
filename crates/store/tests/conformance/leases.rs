//! Locks through the writer: durable, in one order with events.

use std::{sync::Arc, time::Duration};

use relay_proto::{
    NodeId,
    lease::{
        Acquire, Grant, LeaseAction, LeaseAnswer, LeaseOp, LeaseRefusal, LockState, Release, Renew,
    },
};
use relay_store::{Appended, HistoryQuery, Store};

use crate::{
    keys::{author, event},
    place::{Heard, Place, TestClock, ns},
};

const LEASE_MS: u64 = 10_000;

fn acquire(resource: &str, owner: NodeId, wait_ms: u64) -> LeaseOp {
    LeaseOp::Acquire(Acquire {
        ns: ns("default"),
        resource: resource.parse().unwrap(),
        owner,
        lease_ms: LEASE_MS,
        wait_ms,
        request_id: Some("req\0uest".into()),
        meta: Some(r#"{"host":"a"}"#.into()),
    })
}

fn release(grant: &Grant) -> LeaseOp {
    let Grant { resource, owner, token, .. } = grant.clone();
    LeaseOp::Release(Release { ns: ns("default"), resource, owner, token })
}

fn renew(grant: &Grant) -> LeaseOp {
    let Grant { resource, owner, token, lease_ms, .. } = grant.clone();
    LeaseOp::Renew(Renew { ns: ns("default"), resource, owner, token, lease_ms })
}

async fn grant(store: &Store, op: LeaseOp) -> Grant {
    match store.lease(op).await.unwrap() {
        Ok(LeaseAnswer::Acquired(grant) | LeaseAnswer::Renewed(grant)) => grant,
        other => panic!("{other:?}"),
    }
}

async fn refusal(store: &Store, op: LeaseOp) -> LeaseRefusal {
    store.lease(op).await.unwrap().unwrap_err()
}

async fn inspect(store: &Store, resource: &str) -> LockState {
    let op = LeaseOp::Inspect { ns: ns("default"), resource: resource.parse().unwrap() };
    match store.lease(op).await.unwrap() {
        Ok(LeaseAnswer::State(state)) => state,
        other => panic!("{other:?}"),
    }
}

async fn history(store: &Store, resource: Option<&str>) -> Vec<(LeaseAction, u64)> {
    let query = HistoryQuery {
        ns: ns("default"),
        resource: resource.map(|name| name.parse().unwrap()),
        before_id: None,
        limit: 100,
    };
    let rows = store.lock_history(query).await.unwrap();
    rows.iter().map(|found| (found.row.action, found.row.token)).collect()
}

pub async fn grants_are_kept_and_tokens_grow(place: Place) {
    let heard = Arc::new(Heard::default());
    let clock = TestClock::new();
    let store = place.open_with(clock.clone(), heard.clone()).await.unwrap();
    let first = grant(&store, acquire("deploy", author(1), 0)).await;
    assert!(matches!(
        refusal(&store, acquire("deploy", author(2), 0)).await,
        LeaseRefusal::LockHeld { .. }
    ));
    let again = grant(&store, acquire("deploy", author(1), 0)).await;
    assert_eq!(again.token, first.token, "the same request gets the same grant");
    clock.advance_ms(LEASE_MS / 2);
    assert_eq!(grant(&store, renew(&first)).await.token, first.token);
    for _ in 0..2 {
        assert!(
            store.lease(release(&first)).await.unwrap().is_ok(),
            "a repeated release is harmless"
        );
    }
    let second = grant(&store, acquire("deploy", author(2), 0)).await;
    assert!(second.token > first.token);
    assert_eq!(refusal(&store, renew(&first)).await, LeaseRefusal::StaleToken);
    assert_eq!(refusal(&store, release(&first)).await, LeaseRefusal::StaleToken);
    assert!(inspect(&store, "deploy").await.held.is_some());
    use LeaseAction as A;
    let told = [
        (A::Acquire, second.token),
        (A::Release, first.token),
        (A::Renew, first.token),
        (A::Acquire, first.token),
    ];
    assert_eq!(history(&store, Some("deploy")).await, told);
    let heard: Vec<_> =
        heard.leases.lock().unwrap().iter().rev().map(|row| (row.action, row.token)).collect();
    assert_eq!(heard, told);
    store.close().await;
}

pub async fn a_held_lock_survives_a_restart(place: Place) {
    let clock = TestClock::new();
    let store = place.open_with(clock.clone(), Arc::default()).await.unwrap();
    let mine = grant(&store, acquire("held", author(1), 0)).await;
    let done = grant(&store, acquire("released", author(1), 0)).await;
    store.lease(release(&done)).await.unwrap().unwrap();
    clock.advance_ms(LEASE_MS - 1);
    // Once from what closing wrote down, once from that and rows after it.
    for round in 0..2 {
        if round == 1 {
            let store = place.open_with(clock.clone(), Arc::default()).await.unwrap();
            grant(&store, acquire(&format!("other-{round}"), author(3), 0)).await;
            store.close().await;
        } else {
            store.close().await;
        }
        let store = place.open_with(clock.clone(), Arc::default()).await.unwrap();
        let state = inspect(&store, "held").await;
        assert_eq!((state.token, state.held.unwrap().owner), (mine.token, author(1)));
        // Nobody watched the clock, so the lease counts in full again.
        clock.advance_ms(LEASE_MS - 1);
        assert!(matches!(
            refusal(&store, acquire("held", author(2), 0)).await,
            LeaseRefusal::LockHeld { .. }
        ));
        assert_eq!(grant(&store, renew(&mine)).await.token, mine.token);
        let retried = grant(&store, acquire("held", author(1), 0)).await;
        assert_eq!(retried.token, mine.token, "a retry after a lost answer");
        assert_eq!(
            refusal(&store, acquire("released", author(1), 0)).await,
            LeaseRefusal::RequestEnded
        );
        let state = inspect(&store, "held").await;
        assert_eq!(state.held.unwrap().meta.as_deref(), Some(r#"{"host":"a"}"#));
        store.close().await;
    }
    let store = place.open_with(clock.clone(), Arc::default()).await.unwrap();
    clock.advance_ms(LEASE_MS);
    let next = grant(&store, acquire("held", author(2), 0)).await;
    assert!(next.token > mine.token);
    store.close().await;
}

pub async fn a_waiter_gets_the_lock(place: Place) {
    let store = place.open().await;
    let first = grant(&store, acquire("line", author(1), 0)).await;
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { grant(&store, acquire("line", author(2), 60_000)).await }
    });
    while inspect(&store, "line").await.waiting == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let given_up = tokio::spawn({
        let store = store.clone();
        async move { grant(&store, acquire("line", author(3), 60_000)).await }
    });
    while inspect(&store, "line").await.waiting < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    store.lease(release(&first)).await.unwrap().unwrap();
    let second = waiting.await.unwrap();
    assert!(second.token > first.token);
    store.lease(release(&second)).await.unwrap().unwrap();
    let state = inspect(&store, "line").await;
    assert!(state.held.is_none(), "the one who went away does not get it: {state:?}");
    store.close().await;
}

pub async fn a_fence_is_judged_at_its_place_in_the_order(place: Place) {
    let clock = TestClock::new();
    let heard = Arc::new(Heard::default());
    let store = place.open_with(clock.clone(), heard.clone()).await.unwrap();
    let mine = grant(&store, acquire("site", author(1), 0)).await;
    let fenced = |by: u8, token: u64, at: u64| {
        event(by, 30_001, at, &[&["d", "current"], &["fence", "site", &token.to_string()]], "")
    };
    let stored = |seq| Appended::Stored { seq, latest: true };
    let (good, plain) = (fenced(1, mine.token, 1), event(1, 1, 1, &[], ""));
    let batch = vec![fenced(2, mine.token, 1), good.clone(), fenced(1, mine.token + 1, 2), plain];
    let answers = store.append(batch, 1).await.unwrap();
    assert_eq!(answers, [Appended::Fenced, stored(1), Appended::Fenced, stored(2)]);
    clock.advance_ms(LEASE_MS);
    let late = store.append(vec![fenced(1, mine.token, 3), good], 1).await.unwrap();
    assert_eq!(
        late,
        [Appended::Fenced, Appended::Duplicate { seq: 1, latest: true }],
        "what is stored is not judged again"
    );
    // The refusal told that the lease is over, so it must be over for ever.
    assert_eq!(history(&store, Some("site")).await[0], (LeaseAction::Expire, mine.token));
    store.close().await;
    let store = place.open_with(clock, Arc::default()).await.unwrap();
    assert_eq!(refusal(&store, renew(&mine)).await, LeaseRefusal::LeaseExpired);
    let page = store.page(crate::place::all(&["default"])).await.unwrap();
    assert_eq!(page.events.len(), 2);
    store.close().await;
}

pub async fn tokens_grow_after_history_is_deleted(place: Place) {
    let clock = TestClock::new();
    let store = place.open_with(clock.clone(), Arc::default()).await.unwrap();
    let mut last = 0;
    for _ in 0..3 {
        let mine =
            grant(&store, LeaseOp::Acquire(Acquire { request_id: None, ..plain("gone") })).await;
        store.lease(release(&mine)).await.unwrap().unwrap();
        last = mine.token;
    }
    let held = grant(&store, acquire("held", author(1), 0)).await;
    store.close().await;
    clock.advance_ms(1);
    let store = place.open_with(clock.clone(), Arc::default()).await.unwrap();
    let end = u64::MAX >> 1;
    while store.prune_lock_history(ns("default"), end).await.unwrap() > 0 {}
    assert_eq!(history(&store, None).await.len(), 2, "the last row of each lock stays");
    assert_eq!(store.prune_lock_history(ns("other"), end).await.unwrap(), 0);
    store.close().await;
    let store = place.open_with(clock, Arc::default()).await.unwrap();
    assert_eq!(inspect(&store, "held").await.token, held.token);
    let next = grant(&store, acquire("gone", author(2), 0)).await;
    assert!(next.token > held.token && held.token > last);
    store.close().await;
}

pub async fn tokens_are_raised_for_a_restored_store(place: Place) {
    let store = place.open().await;
    let before = grant(&store, acquire("a", author(1), 0)).await;
    store.close().await;
    let floor = place.raise_tokens().await;
    assert_eq!(floor, 1 << 40, "a new epoch");
    assert_eq!(place.raise_tokens().await, 2 << 40);
    let store = place.open().await;
    assert_eq!(inspect(&store, "a").await.token, before.token, "the holder keeps its grant");
    assert_eq!(grant(&store, acquire("b", author(1), 0)).await.token, (2 << 40) + 1);
    store.close().await;
}

fn plain(resource: &str) -> Acquire {
    match acquire(resource, author(1), 0) {
        LeaseOp::Acquire(acquire) => acquire,
        _ => unreachable!(),
    }
}

pub async fn history_is_read_in_pages(place: Place) {
    let store = place.open().await;
    for n in 0..7 {
        grant(&store, acquire(&format!("r{n}"), author(1), 0)).await;
    }
    let mut query = HistoryQuery { ns: ns("default"), resource: None, before_id: None, limit: 3 };
    let mut names = Vec::new();
    loop {
        let rows = store.lock_history(query.clone()).await.unwrap();
        let Some(last) = rows.last() else { break };
        query.before_id = Some(last.id);
        names.extend(rows.iter().map(|found| found.row.resource.to_string()));
    }
    assert_eq!(names, ["r6", "r5", "r4", "r3", "r2", "r1", "r0"]);
    let other = HistoryQuery { ns: ns("other"), before_id: None, ..query };
    assert!(store.lock_history(other).await.unwrap().is_empty());
    store.close().await;
}

pub async fn history_of_a_lock_is_whole_after_a_restart(place: Place) {
    let mut expected = Vec::new();
    for round in 0..3 {
        let store = place.open().await;
        for name in ["mine", "other", "mine"] {
            let held = grant(&store, acquire_anew(name)).await;
            assert!(store.lease(release(&held)).await.unwrap().is_ok());
            if name == "mine" {
                let told = [(LeaseAction::Acquire, held.token), (LeaseAction::Release, held.token)];
                expected.splice(0..0, told.into_iter().rev());
            }
        }
        assert_eq!(history(&store, Some("mine")).await, expected, "in round {round}");
        let mut query = HistoryQuery {
            ns: ns("default"),
            resource: Some("mine".parse().unwrap()),
            before_id: None,
            limit: 3,
        };
        let mut paged = Vec::new();
        loop {
            let rows = store.lock_history(query.clone()).await.unwrap();
            let Some(last) = rows.last() else { break };
            query.before_id = Some(last.id);
            paged.extend(rows.iter().map(|found| (found.row.action, found.row.token)));
        }
        assert_eq!(paged, expected, "in pages, in round {round}");
        store.close().await;
    }
    let store = place.open().await;
    while store.prune_lock_history(ns("default"), u64::MAX >> 1).await.unwrap() > 0 {}
    assert_eq!(history(&store, Some("mine")).await, expected[..1]);
    store.close().await;
}

fn acquire_anew(resource: &str) -> LeaseOp {
    LeaseOp::Acquire(Acquire { request_id: None, ..plain(resource) })
}

pub async fn a_told_expiry_is_durable(place: Place) {
    let clock = TestClock::new();
    let store = place.open_with(clock.clone(), Arc::default()).await.unwrap();
    let mine = grant(&store, acquire("gone", author(1), 0)).await;
    clock.advance_ms(LEASE_MS);
    assert!(inspect(&store, "gone").await.held.is_none());
    drop(store);
    let store = loop {
        match place.open_with(clock.clone(), Arc::default()).await {
            Ok(store) => break store,
            Err(relay_store::StoreError::InUse) => {
                tokio::time::sleep(Duration::from_millis(10)).await
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert!(inspect(&store, "gone").await.held.is_none(), "a dead lease does not come back");
    assert_eq!(refusal(&store, renew(&mine)).await, LeaseRefusal::LeaseExpired);
    store.close().await;
}
