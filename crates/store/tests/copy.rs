//! Copying a store into the other kind keeps everything that anybody can see, and what must not be given twice.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is the report of a test")]

#[path = "conformance/keys.rs"]
mod keys;
#[path = "conformance/place.rs"]
#[allow(dead_code, reason = "shared with the conformance suite, which uses more of it")]
mod place;

use std::sync::Arc;

use relay_proto::{
    auth::{DeviceId, SessionId, TokenHash},
    lease::{Acquire, LeaseAnswer, LeaseOp, Release},
};
use relay_store::{
    AccessTokenRow, Appended, AuditEntry, AuthTokenRow, EventQuery, HistoryQuery, NewSession,
    Order, ProofFacts, SessionLimits, SessionRow, Store, StoreError, SystemClock, TokenPurpose,
    offline::{StorePlace, copy, migrate, schema_status},
};

use keys::{author, event};
use place::{Place, all, ns};

fn at(place: &Place) -> StorePlace {
    match place {
        Place::Sqlite(dir) => StorePlace::Sqlite { dir: dir.path().to_owned() },
        Place::Postgres(database) => StorePlace::Postgres { url: database.url() },
    }
}

async fn lock(store: &Store, resource: &str) -> (LeaseOp, u64) {
    let acquire = LeaseOp::Acquire(Acquire {
        ns: ns("default"),
        resource: resource.parse().unwrap(),
        owner: author(1),
        lease_ms: 60_000,
        wait_ms: 0,
        request_id: Some("r\0".into()),
        meta: Some("{}".into()),
    });
    match store.lease(acquire).await.unwrap().unwrap() {
        LeaseAnswer::Acquired(grant) => {
            let (resource, owner, token) = (grant.resource, grant.owner, grant.token);
            (LeaseOp::Release(Release { ns: ns("default"), resource, owner, token }), token)
        }
        other => panic!("{other:?}"),
    }
}

/// Something in every table.
async fn fill(store: &Store) {
    let tagged = |n: u64, d: &str| {
        event(
            1 + (n % 3) as u8,
            30_000 + (n % 2) as u16,
            n,
            &[&["d", d], &["t", "x"], &["t", "x"], &["ns", "a/b"]],
            "é\0",
        )
    };
    let mut events: Vec<_> =
        (0..700).map(|n| tagged(n, if n % 5 == 0 { "one\0" } else { "two" })).collect();
    events.extend((0..20).map(|n| event(1, 1, n, &[&["expiration", "10"]], "")));
    for some in events.chunks(100) {
        store.append(some.to_vec(), 77).await.unwrap();
    }
    store.sweep_expired(10).await.unwrap();
    let (release, _) = lock(store, "released").await;
    store.lease(release).await.unwrap().unwrap();
    lock(store, "held").await;
    let user = author(1);
    let device = DeviceId::new("laptop").unwrap();
    let hash = |n: u8| TokenHash::from_bytes([n; 32]);
    let token = AuthTokenRow {
        token: hash(9),
        user,
        device: device.clone(),
        credential: Some([4; 32]),
        created_at_ms: 1,
        expires_at_ms: 2,
    };
    store.insert_auth_token(token).await.unwrap();
    let row = SessionRow {
        id: SessionId::from_bytes([1; 16]),
        user,
        device,
        client_label: "label".into(),
        token: hash(1),
        previous: Some((hash(2), 5)),
        resume: hash(3),
        generation: 1,
        created_at_ms: 1,
        expires_at_ms: 9,
        last_seen_at_ms: 2,
        grant: Some("a grant".into()),
    };
    let limits = SessionLimits { per_user: 3, per_device: 3 };
    let new = NewSession { row, proof: ProofFacts::Fresh, credential: None, limits };
    store.open_session(new).await.unwrap();
    store.revoke_signed_token(user, "jti".into(), 5).await.unwrap();
    let access = AccessTokenRow {
        id: "t".into(),
        token: hash(8),
        purpose: TokenPurpose::Admin,
        pattern: None,
        uses_left: Some(3),
        created_by: "operator".into(),
        created_at_ms: 1,
        expires_at_ms: None,
        last_used_at_ms: None,
    };
    store.insert_access_token(access).await.unwrap();
    let entry = AuditEntry {
        at_ms: 1,
        actor: "a".into(),
        action: "b".into(),
        subject: "c".into(),
        outcome: "ok".into(),
        times: 1,
        detail: None,
    };
    store.append_audit(vec![entry; 3]).await.unwrap();
    store.save_tenant_events(vec![("a".into(), 1, 2)]).await.unwrap();
}

/// Everything that can be read, as text.
async fn seen(store: &Store) -> Vec<String> {
    let mut seen = vec![format!("{} {}", store.log_id(), store.committed_seq())];
    let mut namespaces = store.namespaces().await.unwrap();
    namespaces.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    seen.push(format!("{namespaces:?}"));
    let mut query = EventQuery { history: true, order: Order::Seq, ..all(&["default", "a/b"]) };
    loop {
        let page = store.page(query.clone()).await.unwrap();
        seen.extend(page.events.iter().map(|event| format!("{event:?}")));
        let Some(next) = page.next else { break };
        query.from = Some(next);
    }
    let tag =
        relay_proto::Filter { tags: vec![("t".into(), vec!["x".into()])], ..Default::default() };
    for history in [true, false] {
        let query = EventQuery { filters: vec![tag.clone()], history, ..all(&["a/b"]) };
        seen.push(format!("{}", store.count(query).await.unwrap()));
    }
    let history = HistoryQuery { ns: ns("default"), resource: None, before_id: None, limit: 100 };
    seen.push(format!("{:?}", store.lock_history(history.clone()).await.unwrap()));
    let of_one = HistoryQuery { resource: Some("held".parse().unwrap()), ..history };
    let of_one = store.lock_history(of_one).await.unwrap();
    assert!(!of_one.is_empty());
    seen.push(format!("{of_one:?}"));
    let hash = |n: u8| TokenHash::from_bytes([n; 32]);
    seen.push(format!("{:?}", store.find_session(hash(2)).await.unwrap()));
    seen.push(format!("{:?}", store.find_auth_token(hash(9)).await.unwrap()));
    seen.push(format!("{:?}", store.access_tokens().await.unwrap()));
    seen.push(format!("{:?}", store.audit_page(None, 10).await.unwrap()));
    seen.push(format!("{:?}", store.tenant_events().await.unwrap()));
    seen
}

async fn there_and_back(from: Place, over: Place, back: Place) {
    let store = from.open().await;
    fill(&store).await;
    let expected = seen(&store).await;
    let error = copy(&at(&from), &at(&over), |_| {}).await.unwrap_err();
    assert!(matches!(error, StoreError::InUse), "{error}");
    store.close().await;
    for (source, target) in [(&from, &over), (&over, &back)] {
        let mut last = None;
        let rows = copy(&at(source), &at(target), |progress| last = Some(progress)).await.unwrap();
        let last = last.unwrap();
        assert_eq!((last.done, last.total), (rows, rows));
        let store = target.open().await;
        assert_eq!(seen(&store).await, expected);
        store.close().await;
        let error = copy(&at(source), &at(target), |_| {}).await.unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
    }
    let store = back.open().await;
    assert_eq!(lock(&store, "held").await.1, 2, "the holder's retry finds its grant");
    assert_eq!(lock(&store, "new").await.1, 3);
    let answer = store.append(vec![event(3, 1, 1, &[], "next")], 1).await.unwrap();
    assert_eq!(answer, [Appended::Stored { seq: 721, latest: true }], "no seq is given twice");
    let entry = store.audit_page(None, 1).await.unwrap().remove(0);
    store.append_audit(vec![entry.entry]).await.unwrap();
    assert_eq!(store.audit_page(None, 10).await.unwrap().len(), 4);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_sqlite_over_postgres_and_back() {
    there_and_back(Place::sqlite(), Place::postgres(), Place::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_postgres_over_sqlite_and_back() {
    there_and_back(Place::postgres(), Place::sqlite(), Place::postgres()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_broke_off_does_not_open() {
    for place in [Place::sqlite(), Place::postgres()] {
        assert_eq!(schema_status(&at(&place)).await.unwrap(), None);
        let status = migrate(&at(&place), 8).await.unwrap();
        assert_eq!(status.found, status.known);
        let mark = "INSERT INTO meta (key, value) VALUES ('copy_unfinished', 1)";
        match &place {
            Place::Sqlite(dir) => {
                let conn = rusqlite::Connection::open(dir.path().join("relay.db")).unwrap();
                conn.execute(mark, []).unwrap();
            }
            Place::Postgres(database) => drop(database.sql(mark)),
        }
        let error = place.open_with(Arc::new(SystemClock), Arc::default()).await.unwrap_err();
        assert!(matches!(&error, StoreError::Unsafe(why) if why.contains("copy")), "{error}");
    }
}
