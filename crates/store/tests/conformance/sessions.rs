//! Sessions, operators' tokens, the audit log.

use relay_proto::{
    NodeId,
    auth::{DeviceId, SessionId, TokenHash},
};
use relay_store::{
    AccessTokenRow, AuditEntry, AuthTokenRow, Ending, NewSession, Opened, ProofFacts, Resumption,
    SessionLimits, SessionRow, Store, TokenPurpose,
};

use crate::{keys::author, place::Place};

fn hash(n: u8) -> TokenHash {
    TokenHash::from_bytes([n; 32])
}

fn id(n: u8) -> SessionId {
    SessionId::from_bytes([n; 16])
}

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

/// Session `n`, with tokens `n` and `n + 100`.
fn session(n: u8, user: NodeId, on: &str, proof: ProofFacts) -> NewSession {
    let row = SessionRow {
        id: id(n),
        user,
        device: device(on),
        client_label: "label".into(),
        token: hash(n),
        previous: None,
        resume: hash(n + 100),
        generation: 0,
        created_at_ms: 1_000 + u64::from(n),
        expires_at_ms: 5_000,
        last_seen_at_ms: 1_000 + u64::from(n),
        grant: Some(format!("grant {n}")),
    };
    let limits = SessionLimits { per_user: 3, per_device: 2 };
    NewSession { row, proof, credential: None, limits }
}

fn auth_token(n: u8, user: NodeId, created_at_ms: u64) -> AuthTokenRow {
    AuthTokenRow {
        token: hash(n),
        user,
        device: device("laptop"),
        credential: None,
        created_at_ms,
        expires_at_ms: 4_000,
    }
}

async fn open(store: &Store, new: NewSession) -> Opened {
    store.open_session(new).await.unwrap()
}

const STARTED: Opened = Opened::Started { ended: Vec::new() };

pub async fn proofs_start_sessions_until_they_are_revoked(place: Place) {
    let store = place.open().await;
    let (user, other) = (author(1), author(2));
    let minted = |n| ProofFacts::Minted(hash(n));
    store.insert_auth_token(auth_token(50, user, 900)).await.unwrap();
    assert_eq!(store.find_auth_token(hash(50)).await.unwrap(), Some(auth_token(50, user, 900)));
    assert_eq!(store.find_auth_token(hash(51)).await.unwrap(), None);
    assert_eq!(open(&store, session(1, user, "laptop", minted(50))).await, STARTED);
    assert_eq!(open(&store, session(2, other, "laptop", minted(50))).await, Opened::ProofRefused);
    assert_eq!(open(&store, session(2, user, "phone", minted(50))).await, Opened::ProofRefused);
    assert_eq!(open(&store, session(2, user, "laptop", minted(51))).await, Opened::ProofRefused);

    let signed = |jti: &str| ProofFacts::Signed { jti: jti.into(), issued_at_ms: 950 };
    store.revoke_signed_token(user, "revoked \0".into(), 9_000).await.unwrap();
    store.revoke_signed_token(user, "revoked \0".into(), 9_000).await.unwrap();
    assert_eq!(
        open(&store, session(2, user, "laptop", signed("revoked \0"))).await,
        Opened::ProofRefused
    );
    assert_eq!(open(&store, session(2, user, "laptop", signed("good"))).await, STARTED);
    let found = store.find_session(hash(2)).await.unwrap().unwrap();
    assert_eq!(found, session(2, user, "laptop", ProofFacts::Fresh).row);

    let mut ended = store.revoke_user(user, 960).await.unwrap();
    ended.sort_by_key(|id| *id.as_bytes());
    assert_eq!(ended, [id(1), id(2)]);
    assert_eq!(store.find_session(hash(2)).await.unwrap(), None);
    assert_eq!(open(&store, session(3, user, "laptop", minted(50))).await, Opened::ProofRefused);
    assert_eq!(
        open(&store, session(3, user, "laptop", signed("good"))).await,
        Opened::ProofRefused
    );
    assert_eq!(open(&store, session(3, user, "laptop", ProofFacts::Fresh)).await, STARTED);
    store.close().await;
}

pub async fn a_resume_token_is_good_once(place: Place) {
    let store = place.open().await;
    let user = author(1);
    open(&store, session(1, user, "laptop", ProofFacts::Fresh)).await;
    let resumption = |used: u8, n: u8| Resumption {
        used: hash(used),
        token: hash(n),
        resume: hash(n + 100),
        now_ms: 2_000,
        ttl_ms: 3_500,
        grace_ms: 30,
        max_age_ms: 4_000,
        grant: None,
    };
    let tries = (2..12).map(|n| {
        let store = store.clone();
        async move { store.resume_session(resumption(101, n)).await.unwrap() }
    });
    let results: Vec<_> =
        futures_util::future::join_all(tries).await.into_iter().flatten().collect();
    let [row] = &results[..] else { panic!("one of them gets it: {results:?}") };
    assert_eq!((row.id, row.generation, row.last_seen_at_ms), (id(1), 1, 2_000));
    assert_eq!(row.previous, Some((hash(1), 2_030)));
    assert_eq!(row.grant.as_deref(), Some("grant 1"), "it stays until another comes");
    assert_eq!(row.expires_at_ms, 5_001, "no longer than its greatest age");
    assert_eq!(
        store.find_session(hash(1)).await.unwrap().as_ref(),
        Some(row),
        "by the former token"
    );
    assert_eq!(store.find_session(row.token).await.unwrap().as_ref(), Some(row));
    assert_eq!(store.resume_session(resumption(1, 50)).await.unwrap(), None);
    let newer = Some("a newer grant".to_owned());
    let again = Resumption { used: row.resume, grant: newer.clone(), ..resumption(0, 60) };
    assert_eq!(store.resume_session(again).await.unwrap().unwrap().grant, newer);
    assert_eq!(store.find_session(hash(60)).await.unwrap().unwrap().grant, newer);
    store.close().await;
}

pub async fn the_oldest_sessions_make_room(place: Place) {
    let store = place.open().await;
    let user = author(1);
    let fresh = |n, on: &'static str| session(n, user, on, ProofFacts::Fresh);
    open(&store, fresh(1, "a")).await;
    open(&store, fresh(2, "a")).await;
    store.touch_sessions(vec![(id(1), 3_000), (id(2), 5), (id(9), 1)]).await.unwrap();
    assert_eq!(open(&store, fresh(3, "a")).await, Opened::Started { ended: vec![id(2)] });
    assert_eq!(open(&store, fresh(4, "b")).await, STARTED);
    assert_eq!(open(&store, fresh(5, "c")).await, Opened::Started { ended: vec![id(3)] });
    let mut left: Vec<_> =
        store.user_sessions(user, 2_000).await.unwrap().iter().map(|row| row.id).collect();
    left.sort_by_key(|id| *id.as_bytes());
    assert_eq!(left, [id(1), id(4), id(5)]);
    assert!(store.user_sessions(user, 5_000).await.unwrap().is_empty(), "all have expired then");
    assert_eq!(store.end_sessions(author(2), Ending::One(id(1))).await.unwrap(), []);
    let keep = Ending::Device { device: device("b"), except: Some(id(4)) };
    assert_eq!(store.end_sessions(user, keep).await.unwrap(), []);
    assert_eq!(store.end_sessions(user, Ending::One(id(4))).await.unwrap(), [id(4)]);
    let all = Ending::All { except: Some(id(1)) };
    assert_eq!(store.end_sessions(user, all).await.unwrap(), [id(5)]);
    store.close().await;
}

pub async fn a_device_keeps_its_credential(place: Place) {
    let store = place.open().await;
    let user = author(1);
    let with = |n: u8, proof, credential: u8| NewSession {
        credential: Some([credential; 32]),
        ..session(n, user, "laptop", proof)
    };
    let signed = || ProofFacts::Signed { jti: "t".into(), issued_at_ms: 1 };
    assert_eq!(open(&store, with(1, signed(), 7)).await, STARTED, "the first is remembered");
    assert_eq!(open(&store, with(2, signed(), 8)).await, Opened::CredentialRefused);
    assert_eq!(
        open(&store, with(2, ProofFacts::Fresh, 8)).await,
        STARTED,
        "a fresh proof replaces it"
    );
    assert_eq!(open(&store, with(3, signed(), 7)).await, Opened::CredentialRefused);
    store.close().await;
}

pub async fn what_expired_is_swept(place: Place) {
    let store = place.open().await;
    let user = author(1);
    store.insert_auth_token(auth_token(50, user, 1)).await.unwrap();
    open(&store, session(1, user, "laptop", ProofFacts::Fresh)).await;
    assert_eq!(store.sweep_sessions(3_999).await.unwrap(), []);
    assert!(store.find_auth_token(hash(50)).await.unwrap().is_some());
    assert_eq!(store.sweep_sessions(5_000).await.unwrap(), [id(1)]);
    assert_eq!(store.find_auth_token(hash(50)).await.unwrap(), None);
    assert_eq!(store.find_session(hash(1)).await.unwrap(), None);
    store.close().await;
}

pub async fn operators_tokens_are_counted(place: Place) {
    let store = place.open().await;
    let row = |n: u8, uses_left, expires_at_ms| AccessTokenRow {
        id: format!("token-{n}"),
        token: hash(n),
        purpose: TokenPurpose::Spoke,
        pattern: Some("*.home".into()),
        uses_left,
        created_by: "operator".into(),
        created_at_ms: u64::from(n),
        expires_at_ms,
        last_used_at_ms: None,
    };
    for row in [row(1, Some(2), None), row(2, None, Some(1_000))] {
        store.insert_access_token(row).await.unwrap();
    }
    assert_eq!(store.find_access_token(hash(1)).await.unwrap(), Some(row(1, Some(2), None)));
    assert_eq!(store.find_access_token(hash(9)).await.unwrap(), None);
    let uses = (0..6).map(|_| {
        let store = store.clone();
        async move { store.use_access_token(hash(1), 10).await.unwrap() }
    });
    let used = futures_util::future::join_all(uses).await.into_iter().flatten().count();
    assert_eq!(used, 2);
    let second = store.use_access_token(hash(2), 999).await.unwrap().unwrap();
    assert_eq!(second, AccessTokenRow { last_used_at_ms: Some(999), ..row(2, None, Some(1_000)) });
    assert_eq!(store.use_access_token(hash(2), 1_000).await.unwrap(), None);
    let ids: Vec<_> = store.access_tokens().await.unwrap().into_iter().map(|row| row.id).collect();
    assert_eq!(ids, ["token-2", "token-1"]);
    assert!(store.delete_access_token("token-1".into()).await.unwrap());
    assert!(!store.delete_access_token("token-1".into()).await.unwrap());
    store.close().await;
}

pub async fn the_audit_log_is_read_backwards(place: Place) {
    let store = place.open().await;
    let entry = |at_ms: u64| AuditEntry {
        at_ms,
        actor: "some\0body".into(),
        action: "event.write".into(),
        subject: "default".into(),
        outcome: "forbidden".into(),
        times: 3,
        detail: at_ms.is_multiple_of(2).then(|| "{}".into()),
    };
    store.append_audit((1..=5).map(entry).collect()).await.unwrap();
    store.append_audit((6..=7).map(entry).collect()).await.unwrap();
    let page = store.audit_page(None, 3).await.unwrap();
    let times = |rows: &[relay_store::AuditRow]| -> Vec<u64> {
        rows.iter().map(|row| row.entry.at_ms).collect()
    };
    assert_eq!(times(&page), [7, 6, 5]);
    assert_eq!((page[1].entry.detail.as_deref(), page[1].entry.times), (Some("{}"), 3));
    let page = store.audit_page(Some(page[2].id), 10).await.unwrap();
    assert_eq!(times(&page), [4, 3, 2, 1]);
    assert_eq!(store.prune_audit(4).await.unwrap(), 3);
    assert_eq!(store.prune_audit(4).await.unwrap(), 0);
    store
        .save_tenant_events(vec![("a".into(), 1, 5), ("b".into(), 1, 6), ("a".into(), 2, 7)])
        .await
        .unwrap();
    store.save_tenant_events(vec![("b".into(), 2, 1)]).await.unwrap();
    let mut kept = store.tenant_events().await.unwrap();
    kept.sort();
    assert_eq!(kept, [("a".into(), 2, 7), ("b".into(), 2, 1)]);
    store.close().await;
}

pub async fn a_revocation_beats_sessions_that_start_beside_it(place: Place) {
    let store = place.open().await;
    let user = author(1);
    for round in 0..5_u8 {
        let issued_at_ms = 100 * u64::from(round) + 50;
        let starts = (0..4).map(|n| {
            let store = store.clone();
            let proof = ProofFacts::Signed { jti: format!("{round}"), issued_at_ms };
            async move {
                store.open_session(session(round * 8 + n, user, "laptop", proof)).await.unwrap()
            }
        });
        let (_, revoked) = tokio::join!(
            futures_util::future::join_all(starts),
            store.revoke_user(user, issued_at_ms),
        );
        revoked.unwrap();
        assert!(store.user_sessions(user, 0).await.unwrap().is_empty(), "round {round}");
    }
    store.close().await;
}
