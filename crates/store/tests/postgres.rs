//! What only PostgreSQL can do to a relay: servers that stop, sessions that end, other writers, bad settings.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is the report of a test")]

use std::{sync::Arc, time::Duration};

use relay_proto::{
    Event, SigningKey,
    event::Draft,
    lease::{Acquire, Grant, LeaseAnswer, LeaseLimits, LeaseOp, LeaseRefusal},
};
use relay_store::{
    Appended, CommitObserver, Committed, EventQuery, PostgresOptions, PostgresStore, Result, Store,
    StoreError, SystemClock, WriteStats,
};
use relay_testkit::{Database, Postgres};

#[derive(Debug)]
struct Deaf;

impl CommitObserver for Deaf {
    fn committed(&self, _: &[Committed]) {}
    fn leases_changed(&self, _: &[relay_proto::lease::LeaseRow]) {}
    fn wrote(&self, _: WriteStats) {}
}

async fn open(url: String) -> Result<Store> {
    let lease_limits = LeaseLimits::default();
    let options = PostgresOptions { url, new_log_id: 7, readers: 2, lease_limits };
    PostgresStore::open(options, Arc::new(SystemClock), Arc::new(Deaf)).await.map(Store::Postgres)
}

fn event(n: u64) -> Event {
    let draft = Draft { kind: 1, created_at_ns: n, ..Draft::default() };
    draft.sign(&SigningKey::from_seed([1; 32])).unwrap()
}

fn acquire(resource: &str, request: &str) -> LeaseOp {
    LeaseOp::Acquire(Acquire {
        ns: "default".parse().unwrap(),
        resource: resource.parse().unwrap(),
        owner: SigningKey::from_seed([1; 32]).node_id(),
        lease_ms: 60_000,
        wait_ms: 0,
        request_id: Some(request.into()),
        meta: None,
    })
}

async fn try_acquire(store: &Store, op: LeaseOp) -> Result<Result<Grant, LeaseRefusal>> {
    Ok(store.lease(op).await?.map(|answer| match answer {
        LeaseAnswer::Acquired(grant) => grant,
        other => panic!("{other:?}"),
    }))
}

/// Repeats a call while the store says that it may be repeated.
async fn retried<T, F: Future<Output = Result<T>>>(call: impl Fn() -> F) -> T {
    for _ in 0..600 {
        match call().await {
            Ok(answer) => return answer,
            Err(error) if error.is_transient() => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the store did not come back");
}

async fn wait_until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited in vain: {what}");
}

fn shared() -> Database {
    Postgres::shared().database()
}

const WRITERS: &str = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// A commit whose answer was lost is repeated under its request id and gives the same token (P05).
#[tokio::test(flavor = "multi_thread")]
async fn p05_a_crashed_server_is_found_again_with_everything_acknowledged() {
    let server = Arc::new(Postgres::start());
    let database = server.database();
    let store = open(database.url()).await.unwrap();
    store.append(vec![event(1)], 1).await.unwrap();
    let first = try_acquire(&store, acquire("held", "a")).await.unwrap().unwrap();
    server.stop(true);
    let error = store.append(vec![event(2)], 1).await.unwrap_err();
    assert!(matches!(error, StoreError::Lost(_)), "{error}");
    let error = try_acquire(&store, acquire("held", "a")).await.unwrap_err();
    assert!(error.is_transient(), "no answer from memory while nobody can keep it: {error}");
    server.resume(&[]);
    let again = retried(|| try_acquire(&store, acquire("held", "a"))).await.unwrap();
    assert_eq!(again.token, first.token);
    let appended = retried(|| store.append(vec![event(1), event(2)], 1)).await;
    assert_eq!(appended[0], Appended::Duplicate { seq: 1, latest: true });
    assert_eq!(appended[1], Appended::Stored { seq: 2, latest: true });
    let other = retried(|| try_acquire(&store, acquire("other", "b"))).await.unwrap();
    assert!(other.token > first.token);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_server_ends_is_replaced() {
    let database = shared();
    let store = open(database.url()).await.unwrap();
    for n in 1..=5 {
        let grant = retried(|| try_acquire(&store, acquire(&format!("r{n}"), "a"))).await.unwrap();
        assert_eq!(grant.token, n);
        let answer = retried(|| store.append(vec![event(n)], 1)).await[0];
        assert!(
            matches!(answer, Appended::Stored { seq, .. } | Appended::Duplicate { seq, .. } if seq == n)
        );
        database.sql(&format!("SELECT pg_terminate_backend(pid) FROM ({WRITERS}) w"));
    }
    let query = EventQuery {
        namespaces: vec!["default".parse().unwrap()],
        limit: 10,
        ..EventQuery::default()
    };
    let page = retried(|| store.page(query.clone())).await;
    assert_eq!(page.events.len(), 5);
    store.close().await;
}

/// A writer that was replaced without knowing it stores nothing, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_writer_is_refused() {
    let database = shared();
    let store = open(database.url()).await.unwrap();
    store.append(vec![event(1)], 1).await.unwrap();
    // As another relay would that took the lock: from here on its epoch counts.
    database.sql("UPDATE writer SET epoch = epoch + 1");
    let error = store.append(vec![event(2)], 1).await.unwrap_err();
    assert!(matches!(error, StoreError::InUse), "{error}");
    assert_eq!(database.sql("SELECT count(*) FROM events"), "1");
    database.sql("UPDATE writer SET epoch = epoch + 1");
    let error = try_acquire(&store, acquire("r", "a")).await;
    // Meanwhile the store may have become the writer again, in order: over the lock.
    if let Err(error) = error {
        assert!(matches!(error, StoreError::InUse | StoreError::Lost(_)), "{error}");
        assert_eq!(database.sql("SELECT count(*) FROM lock_history"), "0");
    }
    store.close().await;
}

/// A commit that was cancelled while it waited for a standby is unknown, never granted; nobody hears of it before
/// it is confirmed (P03).
#[tokio::test(flavor = "multi_thread")]
async fn p03_a_commit_cancelled_while_it_waits_for_a_standby_is_unknown() {
    let server = Arc::new(Postgres::start());
    let database = server.database();
    let store = open(database.url()).await.unwrap();
    let before = try_acquire(&store, acquire("before", "a")).await.unwrap().unwrap();
    let standby = |name: &str| {
        server.sql("postgres", &format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"));
        server.sql("postgres", "SELECT pg_reload_conf()");
    };
    standby("nobody");
    wait_until("the setting", || database.sql("SHOW synchronous_standby_names") == "nobody").await;
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { try_acquire(&store, acquire("doubtful", "b")).await }
    });
    let stuck = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = current_database()";
    wait_until("the commit waits", || !database.sql(stuck).is_empty()).await;
    database.sql(&format!("SELECT pg_cancel_backend(pid) FROM ({stuck}) s"));
    let answer = waiting.await.unwrap();
    assert!(matches!(answer, Err(StoreError::Lost(_))), "{answer:?}");
    // Whoever asks now waits for the standby too, or hears that nothing is known.
    let asking = try_acquire(&store, acquire("doubtful", "c"));
    let asked = tokio::time::timeout(Duration::from_millis(500), asking).await;
    assert!(!matches!(asked, Ok(Ok(_))), "{asked:?}");
    standby("");
    let again = retried(|| try_acquire(&store, acquire("doubtful", "b"))).await.unwrap();
    assert_eq!(again.token, before.token + 1, "it had been committed, once");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_sync_is_refused() {
    let server = Arc::new(Postgres::start());
    let database = server.database();
    server.stop(false);
    server.resume(&["fsync=off"]);
    let error = open(database.url()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unsafe(why) if why.contains("fsync")), "{error}");
}

/// Commits are durable whatever the role or the database says.
#[tokio::test(flavor = "multi_thread")]
async fn synchronous_commit_is_on_in_our_sessions() {
    let database = shared();
    let name = database.sql("SELECT current_database()");
    database.sql(&format!("ALTER DATABASE {name} SET synchronous_commit = off"));
    let store = open(database.url()).await.unwrap();
    store.append(vec![event(1)], 1).await.unwrap();
    store.close().await;
}

/// With the words of the documentation: a pooler in transaction mode gives the idle session's server process away (P07).
#[tokio::test(flavor = "multi_thread")]
async fn p07_a_pooler_in_transaction_mode_is_refused() {
    let server = Arc::new(Postgres::start());
    let database = server.database();
    let pooler = pooler::start(database.url()).await;
    let error = open(pooler.url()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unsafe(why) if why.contains("pooler")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_no_password() {
    let secret = "hunter2-secret";
    let urls = [
        format!("postgresql://relay:{secret}@127.0.0.1:1/relay"),
        format!("postgresql://relay:{secret}@127.0.0.1:notaport/relay"),
        format!("host=127.0.0.1 port=1 user=relay password={secret} nonsense={secret}"),
        format!("postgres:/{secret}"),
    ];
    for url in urls {
        let options = PostgresOptions {
            url: url.clone(),
            new_log_id: 1,
            readers: 1,
            lease_limits: LeaseLimits::default(),
        };
        assert!(!format!("{options:?}").contains(secret));
        let error = open(url).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
    }
}

/// What a transaction pooler does to sessions, in few lines: many clients, one server connection, given to whoever
/// begins a transaction.
mod pooler {
    use std::sync::Arc;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream, UnixStream},
        sync::Mutex,
    };

    pub struct Pooler {
        port: u16,
        database: String,
        task: tokio::task::JoinHandle<()>,
    }

    impl Pooler {
        pub fn url(&self) -> String {
            format!("postgresql://postgres@127.0.0.1:{}/{}", self.port, self.database)
        }
    }

    impl Drop for Pooler {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    pub async fn start(url: String) -> Pooler {
        let config: tokio_postgres::Config = url.parse().unwrap();
        let database = config.get_dbname().unwrap().to_owned();
        let [tokio_postgres::config::Host::Unix(dir)] = config.get_hosts() else { panic!("{url}") };
        let mut server = UnixStream::connect(dir.join(".s.PGSQL.5432")).await.unwrap();
        let mut startup = Vec::new();
        startup.extend_from_slice(&196_608_i32.to_be_bytes());
        for text in ["user", "postgres", "database", &database] {
            startup.extend_from_slice(text.as_bytes());
            startup.push(0);
        }
        startup.push(0);
        server.write_i32(startup.len() as i32 + 4).await.unwrap();
        server.write_all(&startup).await.unwrap();
        let greeting = until_ready(&mut server).await;
        let shared = Arc::new(Mutex::new(server));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, shared.clone(), greeting.clone()));
            }
        });
        Pooler { port, database, task }
    }

    /// Everything up to and with ReadyForQuery.
    async fn until_ready(server: &mut UnixStream) -> Vec<u8> {
        let mut heard = Vec::new();
        loop {
            let tag = server.read_u8().await.unwrap();
            let length = server.read_i32().await.unwrap();
            let mut body = vec![0; length as usize - 4];
            server.read_exact(&mut body).await.unwrap();
            heard.push(tag);
            heard.extend_from_slice(&length.to_be_bytes());
            heard.extend_from_slice(&body);
            if tag == b'Z' {
                return heard;
            }
        }
    }

    async fn serve(mut client: TcpStream, server: Arc<Mutex<UnixStream>>, greeting: Vec<u8>) {
        loop {
            let Ok(length) = client.read_i32().await else { return };
            let mut body = vec![0; length as usize - 4];
            client.read_exact(&mut body).await.unwrap();
            if length == 8 {
                // A question for TLS.
                client.write_all(b"N").await.unwrap();
            } else {
                client.write_all(&greeting).await.unwrap();
                break;
            }
        }
        let mut pending = Vec::new();
        while let Ok(tag) = client.read_u8().await {
            let Ok(length) = client.read_i32().await else { return };
            let mut body = vec![0; length as usize - 4];
            client.read_exact(&mut body).await.unwrap();
            if tag == b'X' {
                return;
            }
            pending.push(tag);
            pending.extend_from_slice(&length.to_be_bytes());
            pending.extend_from_slice(&body);
            // Sync and simple queries end with ReadyForQuery.
            if tag == b'S' || tag == b'Q' {
                let mut server = server.lock().await;
                server.write_all(&pending).await.unwrap();
                pending.clear();
                let answer = until_ready(&mut server).await;
                if client.write_all(&answer).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// An authority, and a certificate of it for `name`, in PEM: authority, certificate, key.
fn certificate(name: &str) -> (String, String, String) {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    (ca.pem(), leaf.pem(), key.serialize_pem())
}

/// A server that speaks TLS, and nothing else, on an address of its own.
#[tokio::test]
async fn tls_is_verified_by_authority_and_name() {
    let server = Postgres::start();
    server.stop(false);
    let (ca, certificate_pem, key) = certificate("db.example.com");
    let setting = |name: &str, path: std::path::PathBuf| format!("{name}={}", path.display());
    let [a, b, ..] = std::process::id().to_le_bytes();
    let address = format!("127.83.{a}.{}", b.max(2));
    let rules = "hostnossl all all all reject\nhost all all all trust\nlocal all all trust\n";
    server.resume(&[
        &format!("listen_addresses={address}"),
        "ssl=on",
        &setting("ssl_cert_file", server.put("server.pem", &certificate_pem)),
        &setting("ssl_key_file", server.put("server.key", &key)),
        &setting("hba_file", server.put("hba.conf", rules)),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("ca.pem");
    std::fs::write(&own, ca).unwrap();
    let other = dir.path().join("other.pem");
    std::fs::write(&other, certificate("db.example.com").0).unwrap();
    let url = |host: &str, more: &str| {
        format!("postgresql://postgres@{host}/postgres?hostaddr={address}&{more}")
    };
    let with = |host: &str, mode: &str, ca: &std::path::Path| {
        url(host, &format!("sslmode={mode}&sslrootcert={}", ca.display()))
    };

    let told = |opened: Result<Store>| match opened.err() {
        Some(StoreError::Lost(text) | StoreError::Unsafe(text)) => text,
        other => panic!("{other:?}"),
    };
    let plain = told(open(url("db.example.com", "sslmode=disable")).await);
    assert!(plain.contains("pg_hba.conf"), "the server refuses what is not encrypted: {plain}");
    for mode in ["require", "verify-ca", "verify-full"] {
        let stranger = told(open(with("db.example.com", mode, &other)).await);
        assert!(stranger.contains("certificate"), "{mode}: {stranger}");
        let elsewhere = told(open(with("db.example.org", mode, &own)).await);
        assert!(elsewhere.contains("certificate"), "{mode}: {elsewhere}");
    }
    let system = told(open(url("db.example.com", "sslmode=verify-full")).await);
    assert!(system.contains("certificate"), "no authority of the system signed it: {system}");

    let store = open(with("db.example.com", "verify-full", &own)).await.unwrap();
    let stored = store.append(vec![event(1)], 1).await.unwrap();
    assert!(matches!(stored[0], Appended::Stored { .. }), "{stored:?}");
    let encrypted = server.sql(
        "postgres",
        "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
         WHERE application_name = 'relay'",
    );
    assert_eq!(encrypted, "t", "every session of the store");
    store.close().await;
}
