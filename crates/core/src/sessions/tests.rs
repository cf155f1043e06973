use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
};

use relay_proto::{
    SigningKey,
    auth::{ChallengeId, ClientLabel, DeviceId, SessionId, signed_token::Claims},
};
use relay_store::{
    CommitObserver, Committed, SqliteOptions, SqliteStore, TokenPurpose, WriteStats,
};

use super::*;

const START_MS: u64 = 1_767_000_000_000;
const HOUR: u64 = 3_600_000;

#[derive(Debug)]
struct TestClock(AtomicU64);

impl TestClock {
    fn forward(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn wall_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst) * 1_000_000
    }
    fn mono_ns(&self) -> u64 {
        self.wall_ns()
    }
}

#[derive(Debug)]
struct NoObserver;

impl CommitObserver for NoObserver {
    fn committed(&self, _: &[Committed]) {}
    fn leases_changed(&self, _: &[relay_proto::lease::LeaseRow]) {}
    fn wrote(&self, _: WriteStats) {}
}

struct House {
    sessions: Arc<Sessions>,
    clock: Arc<TestClock>,
    store: Store,
    dir: tempfile::TempDir,
}

impl House {
    async fn new() -> Self {
        Self::with(SessionsConfig::default()).await
    }

    async fn with(config: SessionsConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock(AtomicU64::new(START_MS)));
        let store = open(dir.path(), clock.clone()).await;
        let sessions = Arc::new(Sessions::new(store.clone(), clock.clone(), config));
        Self { sessions, clock, store, dir }
    }

    /// The same relay after a restart: nothing left but what the store holds.
    async fn restarted(self) -> Self {
        let Self { sessions, clock, store, dir } = self;
        let config = sessions.config().as_ref().clone();
        drop(sessions);
        store.close().await;
        drop(store);
        let store = open(dir.path(), clock.clone()).await;
        let sessions = Arc::new(Sessions::new(store.clone(), clock.clone(), config));
        Self { sessions, clock, store, dir }
    }

    fn answer(&self, user: u8, device: &str, credential: Option<&str>) -> (String, [u8; 64]) {
        let key = key(user);
        let challenge = self.sessions.challenge(key.node_id(), dev(device)).unwrap();
        let hash = relay_proto::auth::credential_hash(credential);
        let signature = key.sign(challenge.signed_text("gw_local", &hash).as_bytes());
        (challenge.id.to_string(), signature)
    }

    fn proof(&self, user: u8, device: &str, credential: Option<&str>) -> String {
        let (id, signature) = self.answer(user, device, credential);
        format!("cr1.{id}.{}", base64url(&signature))
    }

    async fn start_with(
        &self,
        proof: &str,
        device: &str,
        credential: Option<&str>,
    ) -> Result<Started, SessionError> {
        let start = Start {
            auth_token: proof,
            device: dev(device),
            credential,
            label: label("test"),
            grant: None,
        };
        self.sessions.start(start).await
    }

    async fn start(&self, user: u8, device: &str) -> Started {
        self.start_with(&self.proof(user, device, None), device, None).await.unwrap()
    }

    async fn mint(&self, user: u8, device: &str, credential: Option<&str>) -> String {
        let (id, signature) = self.answer(user, device, credential);
        let answer = Verify {
            challenge: ChallengeId::parse(&id),
            user: key(user).node_id(),
            device: dev(device),
            signature: Some(signature),
            credential,
        };
        self.sessions.verify(answer).await.unwrap().0.reveal().to_string()
    }

    async fn is_in(&self, started: &Started) -> bool {
        self.sessions.authenticate(&started.session_token).await.is_ok()
    }
}

async fn open(dir: &std::path::Path, clock: Arc<TestClock>) -> Store {
    let options = SqliteOptions {
        dir: dir.to_owned(),
        new_log_id: 1,
        readers: 2,
        lease_limits: relay_proto::lease::LeaseLimits::default(),
        backup_before_migrate: false,
        index_every: None,
    };
    Store::Sqlite(SqliteStore::open(options, clock, Arc::new(NoObserver)).await.unwrap())
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed([n; 32])
}

fn dev(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

fn label(text: &str) -> ClientLabel {
    ClientLabel::parse(text).unwrap()
}

fn base64url(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(bytes)
}

fn is_refused(outcome: Result<Started, SessionError>) -> bool {
    matches!(outcome, Err(SessionError::Proof(_)))
}

fn signed(user: u8, device: &str, now_ms: u64, jti: &str) -> String {
    let claims = Claims {
        v: 1,
        sub: key(user).node_id(),
        aud: "gw_local".into(),
        dev: dev(device),
        iat: now_ms,
        exp: now_ms + HOUR,
        jti: jti.into(),
        crd: None,
    };
    claims.sign(&key(user))
}

#[tokio::test]
async fn a_challenge_answered_starts_a_session_once() {
    let house = House::new().await;
    let proof = house.proof(1, "d", None);
    let started = house.start_with(&proof, "d", None).await.unwrap();
    assert_eq!(started.session.user(), key(1).node_id());
    assert_eq!(started.expires_at_ms, START_MS + HOUR);
    let first = started.session_token.hash();
    assert_eq!(started.session.id(), SessionId::of_first_token(&first));
    assert!(house.is_in(&started).await);
    assert!(is_refused(house.start_with(&proof, "d", None).await), "used up");
}

#[tokio::test]
async fn a_wrong_answer_uses_the_challenge_up() {
    let house = House::new().await;
    let (id, signature) = house.answer(1, "d", None);
    let mut wrong = signature;
    wrong[0] ^= 1;
    let proof = |sig: &[u8; 64]| format!("cr1.{id}.{}", base64url(sig));
    assert!(is_refused(house.start_with(&proof(&wrong), "d", None).await));
    assert!(is_refused(house.start_with(&proof(&signature), "d", None).await));
}

#[tokio::test]
async fn an_answer_is_for_its_device_and_its_minute() {
    let house = House::new().await;
    let proof = house.proof(1, "d", None);
    assert!(is_refused(house.start_with(&proof, "other", None).await));
    let proof = house.proof(1, "d", None);
    house.clock.forward(60_000);
    assert!(is_refused(house.start_with(&proof, "d", None).await));
}

#[tokio::test]
async fn a_minted_token_starts_sessions_of_its_device_until_it_expires() {
    let house = House::new().await;
    let token = house.mint(1, "d", None).await;
    for _ in 0..2 {
        house.start_with(&token, "d", None).await.unwrap();
    }
    assert!(is_refused(house.start_with(&token, "other", None).await));
    house.clock.forward(600_000);
    assert!(is_refused(house.start_with(&token, "d", None).await));
}

#[tokio::test]
async fn a_signed_token_starts_sessions_until_it_is_revoked() {
    let house = House::new().await;
    let token = signed(1, "d", START_MS, "j1");
    house.start_with(&token, "d", None).await.unwrap();
    let parsed = relay_proto::auth::SignedToken::parse(&token).unwrap();
    let stranger = house.sessions.revoke_signed_token(key(2).node_id(), &parsed).await;
    assert!(matches!(stranger, Err(SessionError::Proof(_))));
    house.sessions.revoke_signed_token(key(1).node_id(), &parsed).await.unwrap();
    assert!(is_refused(house.start_with(&token, "d", None).await));
    let other = signed(1, "d", START_MS, "j2");
    house.start_with(&other, "d", None).await.unwrap();
}

#[tokio::test]
async fn a_device_keeps_its_credential_unless_proved_anew() {
    let house = House::new().await;
    let start = |proof, credential| house.start_with(proof, "d", credential);
    house.start_with(&house.proof(1, "d", Some("a")), "d", Some("a")).await.unwrap();
    let sat = signed(1, "d", START_MS, "j");
    assert!(is_refused(start(&sat, Some("b")).await), "a stolen token brings its own credential");
    start(&sat, Some("a")).await.unwrap();
    house.start_with(&house.proof(1, "d", Some("b")), "d", Some("b")).await.unwrap();
    assert!(is_refused(start(&sat, Some("a")).await), "the new one is remembered");
    let bound = house.mint(1, "d", Some("b")).await;
    assert!(is_refused(start(&bound, Some("a")).await));
    start(&bound, Some("b")).await.unwrap();
}

#[tokio::test]
async fn a_resume_turns_both_tokens_over() {
    let house = House::new().await;
    let first = house.start(1, "d").await;
    house.clock.forward(HOUR / 2);
    let second = house.sessions.resume(&first.resume_token.reveal(), None).await.unwrap();
    assert_eq!(second.session.id(), first.session.id());
    assert_eq!(second.expires_at_ms, START_MS + HOUR / 2 + HOUR);
    let again = house.sessions.resume(&first.resume_token.reveal(), None).await;
    assert!(matches!(again, Err(SessionError::Resume)));
    assert!(house.is_in(&first).await && house.is_in(&second).await, "requests in flight succeed");
    house.clock.forward(120_000);
    assert!(!house.is_in(&first).await && house.is_in(&second).await);
    let third = house.sessions.resume(&second.resume_token.reveal(), None).await.unwrap();
    assert!(!house.is_in(&first).await && house.is_in(&third).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_resumes_exactly_one_wins() {
    let house = House::new().await;
    let mut token = house.start(1, "d").await.resume_token.reveal();
    for _ in 0..10 {
        let mut racers = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (sessions, token) = (house.sessions.clone(), token.clone());
            racers.spawn(async move { sessions.resume(&token, None).await });
        }
        let outcomes = racers.join_all().await;
        let winners: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
        assert_eq!(winners.len(), 1);
        assert!(house.is_in(winners[0]).await);
        token = winners[0].resume_token.reveal();
    }
}

#[tokio::test]
async fn a_session_ends_unless_it_is_resumed_and_at_its_greatest_age() {
    let config = SessionsConfig { max_age_ms: 10 * HOUR, ..SessionsConfig::default() };
    let house = House::with(config).await;
    let lost = house.start(1, "d").await;
    house.clock.forward(HOUR);
    assert!(!house.is_in(&lost).await);
    let outcome = house.sessions.resume(&lost.resume_token.reveal(), None).await;
    assert!(matches!(outcome, Err(SessionError::Resume)));

    let mut kept = house.start(1, "d").await;
    let born = house.clock.wall_ns() / 1_000_000;
    let max_age_ms = house.sessions.config().max_age_ms;
    loop {
        house.clock.forward(HOUR * 9 / 10);
        match house.sessions.resume(&kept.resume_token.reveal(), None).await {
            Ok(resumed) => kept = resumed,
            Err(error) => {
                assert!(matches!(error, SessionError::Resume));
                break;
            }
        }
        assert!(kept.expires_at_ms <= born + max_age_ms);
    }
    let age_ms = house.clock.wall_ns() / 1_000_000 - born;
    assert!((max_age_ms..max_age_ms + HOUR).contains(&age_ms));
}

#[tokio::test]
async fn sessions_and_grace_survive_a_restart_and_no_text_of_a_token_is_stored() {
    let house = House::new().await;
    let first = house.start(1, "d").await;
    let second = house.sessions.resume(&first.resume_token.reveal(), None).await.unwrap();
    let minted = house.mint(1, "d", None).await;
    let house = house.restarted().await;
    assert!(house.is_in(&first).await && house.is_in(&second).await);
    house.sessions.resume(&second.resume_token.reveal(), None).await.unwrap();

    let mut stored = Vec::new();
    for entry in std::fs::read_dir(house.dir.path()).unwrap() {
        stored.extend(std::fs::read(entry.unwrap().path()).unwrap());
    }
    let finds = |text: &str| stored.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(finds("sessions_by_user"), "the search looks into the right files");
    let tokens = [first.session_token.reveal(), second.session_token.reveal()];
    for token in tokens.iter().chain([&second.resume_token.reveal()]) {
        assert!(!finds(&token[3..]));
    }
    assert!(!finds(&minted[3..]));
}

#[tokio::test]
async fn ending_a_session_reaches_its_holders() {
    let house = House::new().await;
    let (kept, other) = (house.start(1, "d").await, house.start(1, "e").await);
    let holder = house.sessions.authenticate(&other.session_token).await.unwrap();
    let clock = house.clock.clone();
    let waiting = tokio::spawn(async move { holder.over(&*clock).await });
    let target = RevokeTarget::Session(other.session.id());
    let done = house.sessions.revoke(&kept.session, target, false).await.unwrap();
    assert_eq!(done.revoked_session_ids, [other.session.id().to_string()]);
    assert_eq!(waiting.await.unwrap(), Over::Revoked);
    assert!(!house.is_in(&other).await && house.is_in(&kept).await);
    let resumed = house.sessions.resume(&other.resume_token.reveal(), None).await;
    assert!(matches!(resumed, Err(SessionError::Resume)));
}

#[tokio::test]
async fn an_expired_session_is_over_for_its_holders_after_the_sweep() {
    let house = House::new().await;
    let started = house.start(1, "d").await;
    house.clock.forward(HOUR);
    house.sessions.sweep().await.unwrap();
    let over = started.session.over(&*house.clock).await;
    assert_eq!(over, Over::Revoked);
}

#[tokio::test]
async fn nobody_ends_the_session_of_another_user() {
    let house = House::new().await;
    let (mine, theirs) = (house.start(1, "d").await, house.start(2, "d").await);
    let target = RevokeTarget::Session(theirs.session.id());
    assert_eq!(house.sessions.revoke(&mine.session, target, true).await.unwrap().revoked, 0);
    let target = RevokeTarget::Device(dev("d"));
    assert_eq!(house.sessions.revoke(&mine.session, target, false).await.unwrap().revoked, 0);
    assert_eq!(house.sessions.logout_all(&mine.session, false).await.unwrap(), 0);
    assert!(house.is_in(&theirs).await && house.is_in(&mine).await);
}

#[tokio::test]
async fn the_current_session_ends_only_when_asked() {
    let house = House::new().await;
    let (current, same_device) = (house.start(1, "d").await, house.start(1, "d").await);
    let me = RevokeTarget::Session(current.session.id());
    let refused = house.sessions.revoke(&current.session, me.clone(), false).await;
    assert!(matches!(refused, Err(SessionError::Invalid(_))));
    let device = RevokeTarget::Device(dev("d"));
    assert_eq!(house.sessions.revoke(&current.session, device, false).await.unwrap().revoked, 1);
    assert!(house.is_in(&current).await && !house.is_in(&same_device).await);
    assert_eq!(house.sessions.revoke(&current.session, me, true).await.unwrap().revoked, 1);
    assert!(!house.is_in(&current).await);
}

#[tokio::test]
async fn logging_everything_out_makes_earlier_proofs_worthless() {
    let house = House::new().await;
    let current = house.start(1, "d").await;
    house.start(1, "e").await;
    let minted = house.mint(1, "d", None).await;
    let sat = signed(1, "d", START_MS, "j");
    assert_eq!(house.sessions.logout_all(&current.session, true).await.unwrap(), 2);
    assert!(!house.is_in(&current).await);
    assert!(is_refused(house.start_with(&minted, "d", None).await));
    assert!(is_refused(house.start_with(&sat, "d", None).await));
    house.clock.forward(1);
    let later = signed(1, "d", START_MS + 1, "j");
    house.start_with(&later, "d", None).await.unwrap();
    house.start(1, "d").await;
}

#[tokio::test]
async fn the_least_recently_used_session_makes_room() {
    let config = SessionsConfig {
        sessions_per_user: 4,
        sessions_per_device: 2,
        ..SessionsConfig::default()
    };
    let house = House::with(config).await;
    let mut all = Vec::new();
    for device in ["a", "a", "a", "b", "c", "d"] {
        house.clock.forward(1_000);
        all.push(house.start(1, device).await);
    }
    let mut left = HashSet::new();
    for (index, started) in all.iter().enumerate() {
        if house.is_in(started).await {
            left.insert(index);
        }
    }
    assert_eq!(left, HashSet::from([2, 3, 4, 5]));
}

#[tokio::test]
async fn a_list_shows_only_ones_own_with_the_current_first() {
    let house = House::new().await;
    let (a, b) = (house.start(1, "a").await, house.start(1, "b").await);
    house.start(2, "c").await;
    house.clock.forward(30_000);
    house.is_in(&a).await;
    house.sessions.sweep().await.unwrap();
    let list = house.sessions.list(&b.session).await.unwrap();
    let devices: Vec<_> = list.sessions.iter().map(|view| view.device_id.as_str()).collect();
    assert_eq!(devices, ["b", "a"]);
    assert!(list.sessions[0].is_current && !list.sessions[1].is_current);
    assert_eq!(list.current_session_id, b.session.id().to_string());
    assert_eq!(list.sessions[1].last_seen_at_ms, START_MS + 30_000);
    assert_eq!(list.sessions[1].client_label, "test");
    let stored = house.store.user_sessions(key(1).node_id(), START_MS).await.unwrap();
    assert!(stored.iter().any(|row| row.last_seen_at_ms == START_MS + 30_000), "kept as well");
}

#[tokio::test]
async fn doors_without_a_proof_are_limited_by_address_and_user() {
    let config = SessionsConfig {
        auth_per_ip_per_min: 2,
        auth_per_user_per_min: 3,
        ..SessionsConfig::default()
    };
    let house = House::with(config).await;
    let sessions = &house.sessions;
    let limited = |address: &str| {
        let outcome = sessions.count_address(address.parse().unwrap());
        matches!(outcome, Err(SessionError::Limit(_)))
    };
    for _ in 0..2 {
        assert!(!limited("192.0.2.1") && !limited("2001:db8::1"));
    }
    assert!(limited("192.0.2.1") && limited("::ffff:192.0.2.1"));
    assert!(limited("2001:db8::2"), "the same network");
    assert!(!limited("2001:db8:0:1::1"));
    for _ in 0..3 {
        sessions.challenge(key(1).node_id(), dev("d")).unwrap();
    }
    assert!(sessions.challenge(key(1).node_id(), dev("d")).is_err());
    assert!(sessions.challenge(key(2).node_id(), dev("d")).is_ok());
    house.clock.forward(60_000);
    assert!(!limited("192.0.2.1"));
    assert!(sessions.challenge(key(1).node_id(), dev("d")).is_ok());
}

#[tokio::test]
async fn where_another_process_may_end_sessions_memory_is_rechecked() {
    let config = SessionsConfig { recheck_after_ms: Some(1_000), ..SessionsConfig::default() };
    let house = House::with(config).await;
    let started = house.start(1, "d").await;
    let behind_our_back = relay_store::Ending::All { except: None };
    house.store.end_sessions(key(1).node_id(), behind_our_back).await.unwrap();
    house.clock.forward(1_001);
    assert!(!house.is_in(&started).await);
    assert_eq!(started.session.over(&*house.clock).await, Over::Revoked);
}

#[tokio::test]
async fn operators_tokens_open_what_they_say_as_often_as_they_say() {
    let house = House::new().await;
    let new = NewToken {
        purpose: TokenPurpose::Spoke,
        pattern: Some("*.home".into()),
        uses: Some(2),
        expires_at_ms: Some(START_MS + HOUR),
        created_by: "operator".into(),
    };
    let created = house.sessions.create_token(new.clone()).await.unwrap();
    let house = house.restarted().await;
    let join = [TokenPurpose::Spoke];
    let wrong = house.sessions.use_token(&created.token, &[TokenPurpose::Admin]).await;
    assert!(matches!(wrong, Err(SessionError::Unknown)), "and it costs no use");
    for left in [1, 0] {
        let used = house.sessions.use_token(&created.token, &join).await.unwrap();
        assert_eq!((used.purpose, used.uses_left), (TokenPurpose::Spoke, Some(left)));
    }
    let exhausted = house.sessions.use_token(&created.token, &join).await;
    assert!(matches!(exhausted, Err(SessionError::Unknown)));

    let admin = NewToken { purpose: TokenPurpose::Admin, uses: None, ..new.clone() };
    let admin = house.sessions.create_token(admin).await.unwrap();
    for _ in 0..2 {
        house.sessions.use_token(&admin.token, &TokenPurpose::ALL).await.unwrap();
    }
    assert_eq!(house.sessions.tokens().await.unwrap().len(), 2);
    assert!(house.sessions.revoke_token(&admin.view.id).await.unwrap());
    assert!(!house.sessions.revoke_token(&admin.view.id).await.unwrap());
    assert!(house.sessions.use_token(&admin.token, &TokenPurpose::ALL).await.is_err());

    let useless = NewToken { uses: Some(0), ..new };
    assert!(matches!(house.sessions.create_token(useless).await, Err(SessionError::Invalid(_))));
    let short = NewToken {
        purpose: TokenPurpose::Metrics,
        pattern: None,
        uses: None,
        expires_at_ms: Some(START_MS + 1),
        created_by: "operator".into(),
    };
    let short = house.sessions.create_token(short).await.unwrap();
    house.clock.forward(1);
    assert!(house.sessions.use_token(&short.token, &TokenPurpose::ALL).await.is_err());
}

#[tokio::test]
async fn refusals_are_joined_and_acts_are_durable_at_once() {
    let house = House::new().await;
    let audit = crate::audit::Audit::new(house.store.clone(), house.clock.clone());
    let problem = Problem::forbidden("no");
    for _ in 0..500 {
        audit.refused("ed25519:aa", "event.write", "forge/site", &problem);
    }
    audit.done("operator", "token.create", "tok_1", None).await.unwrap();
    for n in 0..2_000 {
        audit.refused(&format!("192.0.2.{n}"), "session.start", "", &problem);
    }
    let page = audit.page(None, 5_000).await.unwrap();
    assert_eq!(page.iter().map(|row| row.entry.times).sum::<u64>(), 2_501, "none is lost");
    assert!(page.len() <= 1_027);
    let refused = page.iter().find(|row| row.entry.action == "event.write").unwrap();
    assert_eq!((refused.entry.times, refused.entry.outcome.as_str()), (500, "forbidden"));
    let oldest = page.last().unwrap();
    assert_eq!(oldest.entry.action, "token.create", "acts do not wait for the flush");
    let next = audit.page(Some(oldest.id + 1), 10).await.unwrap();
    assert_eq!(next.len(), 1, "pages go on where the last one ended");
}
