//! The index tables of the embedded store: written behind the log, and in the end what the log says.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is the report of a test")]

#[path = "conformance/keys.rs"]
#[allow(dead_code, reason = "shared with the conformance suite, which uses more of it")]
mod keys;
#[path = "conformance/place.rs"]
#[allow(dead_code, reason = "shared with the conformance suite, which uses more of it")]
mod place;

use std::{path::Path, sync::Arc};

use relay_proto::Filter;
use relay_store::{
    EventQuery, Retention, SqliteOptions, SqliteStore, Store, StoreError, SystemClock,
};
use rusqlite::Connection;

use keys::event;
use place::{Heard, all, ns};

/// Opens the store; a store that was dropped may need a moment to go.
async fn open(dir: &Path, index_every: usize) -> Store {
    loop {
        let options = SqliteOptions {
            dir: dir.to_owned(),
            new_log_id: 7,
            readers: 2,
            lease_limits: relay_proto::lease::LeaseLimits::default(),
            backup_before_migrate: false,
            index_every: Some(index_every),
        };
        match SqliteStore::open(options, Arc::new(SystemClock), Arc::<Heard>::default()).await {
            Ok(store) => return Store::Sqlite(store),
            Err(StoreError::InUse) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Some of every class, with tags, and a few that expire.
fn events(round: u64) -> Vec<relay_proto::Event> {
    (0..23)
        .map(|n| {
            let (kind, at) = ([1, 7, 10_000, 30_001][(n % 4) as usize], round * 100 + n);
            let t = format!("t{}", n % 3);
            let tags: [&[&str]; 4] = [
                &["d", "x"],
                &["t", &t],
                &["t", &t],
                if n % 11 == 0 { &["expiration", "10"] } else { &["u", "v"] },
            ];
            event(1 + (n % 5) as u8, kind, at, &tags, "")
        })
        .collect()
}

fn rows(conn: &Connection, sql: &str) -> Vec<Vec<i64>> {
    let mut select = conn.prepare(sql).unwrap();
    let columns = select.column_count();
    let row = |row: &rusqlite::Row<'_>| (0..columns).map(|n| row.get(n)).collect();
    select.query_map([], row).unwrap().map(|row| row.unwrap()).collect()
}

fn assert_tables_follow_the_log(dir: &Path) {
    let conn = Connection::open(dir.join("relay.db")).unwrap();
    for (table, columns) in [
        ("event_ids", "id_prefix, seq"),
        ("events_by_author", "ns, author, kind, superseded, created_at_ns, seq"),
        ("events_by_kind", "ns, kind, superseded, created_at_ns, seq"),
    ] {
        let found = rows(&conn, &format!("SELECT {columns} FROM {table} ORDER BY seq"));
        let told = rows(&conn, &format!("SELECT {columns} FROM events ORDER BY seq"));
        assert_eq!(found, told, "{table}");
    }
    let tagged = "SELECT count(*) FROM event_tags WHERE NOT EXISTS
         (SELECT 1 FROM events WHERE events.seq = event_tags.seq
          AND events.superseded = event_tags.superseded)";
    assert_eq!(rows(&conn, tagged), [[0]], "a tag of no event");
    let through =
        "SELECT value - (SELECT max(seq) FROM events) FROM meta WHERE key = 'indexed_seq'";
    assert!(rows(&conn, through)[0][0] >= 0, "a clean stop leaves nothing to do");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_follow_the_log_through_crashes_and_deletions() {
    let dir = tempfile::tempdir().unwrap();
    let mut stored = 0;
    for round in 0..12_u64 {
        let store = open(dir.path(), [1, 5, 40, 1_000][(round % 4) as usize]).await;
        for some in events(round).chunks(1 + round as usize) {
            stored += store.append(some.to_vec(), round).await.unwrap().len() as u64;
        }
        assert_eq!(store.committed_seq(), stored);
        let policy =
            Retention { received_before_ns: Some(round.saturating_sub(1)), ..Retention::default() };
        match round % 3 {
            // Entries that wait in memory and those that are in the tables.
            0 => while store.prune(ns("default"), policy.clone()).await.unwrap() > 0 {},
            1 => while store.sweep_expired(10).await.unwrap() > 0 {},
            _ => {}
        }
        let query = EventQuery { history: true, limit: 1_000, ..all(&["default"]) };
        let page = store.page(query.clone()).await.unwrap();
        let newest = page.events.iter().filter(|event| event.created_at_ns >= round * 100).count();
        assert!(newest >= 20, "what was stored last is found: {newest}");
        assert_eq!(store.count(query).await.unwrap(), page.events.len() as u64);
        if round % 2 == 0 {
            // As a crash would: nothing of what waits is written.
            drop(store);
        } else {
            store.close().await;
            drop(store);
            assert_tables_follow_the_log(dir.path());
        }
    }
}

#[tokio::test]
async fn indexes_of_an_older_schema_become_tables() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 10).await;
    store.append(events(1), 1).await.unwrap();
    let by_tag = Filter { tags: vec![("t".into(), vec!["t1".into()])], ..Filter::default() };
    let query = EventQuery { filters: vec![by_tag], ..all(&["default"]) };
    let asked = [all(&["default"]), EventQuery { history: true, ..all(&["default"]) }, query];
    let mut before = Vec::new();
    for query in &asked {
        before.push(store.page(query.clone()).await.unwrap().events);
    }
    store.close().await;
    drop(store);
    let now = dir.path().join("relay.db");
    let old = dir.path().join("old.db");
    let conn = Connection::open(&old).unwrap();
    for step in [
        include_str!("../migrations/sqlite/V1__events.sql"),
        include_str!("../migrations/sqlite/V2__leases.sql"),
        include_str!("../migrations/sqlite/V3__sessions.sql"),
    ] {
        conn.execute_batch(step).unwrap();
    }
    conn.execute("ATTACH ?1 AS now", [now.to_str().unwrap()]).unwrap();
    for table in ["namespaces", "authors", "events", "event_tags", "heads"] {
        let copy = format!("INSERT INTO main.{table} SELECT * FROM now.{table}");
        assert!(conn.execute(&copy, []).unwrap() > 0);
    }
    conn.execute_batch(
        "INSERT INTO main.meta SELECT * FROM now.meta WHERE key = 'log_id'; DETACH now;
         PRAGMA user_version = 3",
    )
    .unwrap();
    drop(conn);
    std::fs::rename(&old, &now).unwrap();
    let store = open(dir.path(), 10).await;
    for (query, before) in asked.into_iter().zip(before) {
        assert_eq!(store.page(query).await.unwrap().events, before);
    }
    store.close().await;
    drop(store);
    assert_tables_follow_the_log(dir.path());
}
