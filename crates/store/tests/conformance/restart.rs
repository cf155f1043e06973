//! Opening, closing, opening again.

use std::sync::Arc;

use relay_store::{Appended, SCHEMA_VERSION, Store, StoreError, SystemClock};

use crate::{
    keys::event,
    place::{Place, all},
};

/// Drops a store without closing it and waits until it is gone, as far as the process goes on living.
async fn reopen(place: &Place, store: Store) -> Store {
    drop(store);
    for _ in 0..500 {
        match place.open_with(Arc::new(SystemClock), Arc::default()).await {
            Ok(store) => return store,
            Err(StoreError::InUse) => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the dropped store is still there");
}

pub async fn what_was_acknowledged_survives_without_a_close(place: Place) {
    let mut store = place.open().await;
    let mut kept = Vec::new();
    for round in 0..3_u64 {
        let events: Vec<_> =
            (0..5).map(|n| event(1, 1, round * 5 + n, &[&["t", "x"]], "x")).collect();
        for (event, answer) in events.iter().zip(store.append(events.clone(), 1).await.unwrap()) {
            let Appended::Stored { seq, .. } = answer else { panic!("{answer:?}") };
            kept.push((seq, event.json().clone()));
        }
        store = reopen(&place, store).await;
        let mut found = store.page(all(&["default"])).await.unwrap().events;
        found.sort_by_key(|event| event.seq);
        let found: Vec<_> = found.into_iter().map(|event| (event.seq, event.json)).collect();
        assert_eq!(found, kept);
        assert_eq!(store.committed_seq(), kept.len() as u64);
        assert_eq!(store.log_id(), 7);
    }
    store.close().await;
}

pub async fn a_second_process_is_refused(place: Place) {
    let store = place.open().await;
    let second = place.open_with(Arc::new(SystemClock), Arc::default()).await;
    assert!(matches!(second, Err(StoreError::InUse)), "{second:?}");
    let appended = store.append(vec![event(1, 1, 1, &[], "x")], 1).await.unwrap();
    assert_eq!(appended.len(), 1, "the first goes on");
    store.close().await;
    place.open().await.close().await;
}

pub async fn a_newer_schema_is_refused(place: Place) {
    place.open().await.close().await;
    let newer = SCHEMA_VERSION + 1;
    match &place {
        Place::Sqlite(dir) => {
            let conn = rusqlite::Connection::open(dir.path().join("relay.db")).unwrap();
            conn.pragma_update(None, "user_version", newer).unwrap();
        }
        Place::Postgres(database) => {
            database.sql(&format!("UPDATE meta SET value = {newer} WHERE key = 'schema_version'"));
        }
    }
    let opened = place.open_with(Arc::new(SystemClock), Arc::default()).await;
    assert!(
        matches!(opened, Err(StoreError::TooNew { found, known }) if (found, known) == (newer, newer - 1)),
        "{opened:?}"
    );
}

pub async fn a_closed_store_says_so(place: Place) {
    let store = place.open().await;
    let again = store.clone();
    store.close().await;
    store.close().await;
    let answer = again.append(vec![event(1, 1, 1, &[], "x")], 1).await;
    assert!(matches!(answer, Err(StoreError::Closed)), "{answer:?}");
}
