//! Where a store lives during a test, and how it is opened there.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use relay_proto::{
    Namespace,
    lease::{LeaseLimits, LeaseRow},
};
use relay_store::{
    Clock, CommitObserver, Committed, EventQuery, PostgresOptions, PostgresStore, Result,
    SqliteOptions, SqliteStore, Store, SystemClock, WriteStats,
};
use relay_testkit::{Database, Postgres};

pub enum Place {
    Sqlite(tempfile::TempDir),
    Postgres(Database),
}

impl Place {
    pub fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub fn postgres() -> Self {
        Self::Postgres(Postgres::shared().database())
    }

    pub async fn open(&self) -> Store {
        self.open_with(Arc::new(SystemClock), Arc::default()).await.unwrap()
    }

    pub async fn raise_tokens(&self) -> u64 {
        match self {
            Self::Sqlite(dir) => SqliteStore::raise_tokens(dir.path()).unwrap(),
            Self::Postgres(database) => PostgresStore::raise_tokens(&database.url()).await.unwrap(),
        }
    }

    pub async fn open_with(&self, clock: Arc<dyn Clock>, heard: Arc<Heard>) -> Result<Store> {
        let lease_limits = LeaseLimits { min_lease_ms: 1, ..LeaseLimits::default() };
        match self {
            Self::Sqlite(dir) => {
                let options = SqliteOptions {
                    dir: dir.path().to_owned(),
                    new_log_id: 7,
                    readers: 2,
                    lease_limits,
                    backup_before_migrate: false,
                    // Few, so that tests meet entries in memory, half written and written.
                    index_every: Some(50),
                };
                SqliteStore::open(options, clock, heard).await.map(Store::Sqlite)
            }
            Self::Postgres(database) => {
                let options = PostgresOptions {
                    url: database.url(),
                    new_log_id: 7,
                    readers: 2,
                    lease_limits,
                };
                PostgresStore::open(options, clock, heard).await.map(Store::Postgres)
            }
        }
    }
}

/// Everything that the store told its observer.
#[derive(Debug, Default)]
pub struct Heard {
    pub events: Mutex<Vec<Committed>>,
    pub leases: Mutex<Vec<LeaseRow>>,
}

impl CommitObserver for Heard {
    fn committed(&self, events: &[Committed]) {
        self.events.lock().unwrap().extend_from_slice(events);
    }

    fn leases_changed(&self, rows: &[LeaseRow]) {
        self.leases.lock().unwrap().extend_from_slice(rows);
    }

    fn wrote(&self, _: WriteStats) {}
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct TestClock(AtomicU64);

impl TestClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(1_000_000_000_000)))
    }

    pub fn advance_ms(&self, ms: u64) {
        self.0.fetch_add(ms * 1_000_000, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn wall_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn mono_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

pub fn ns(name: &str) -> Namespace {
    name.parse().unwrap()
}

/// A question that everything in `namespaces` answers.
pub fn all(namespaces: &[&str]) -> EventQuery {
    EventQuery {
        namespaces: namespaces.iter().map(|name| ns(name)).collect(),
        limit: 100,
        ..EventQuery::default()
    }
}
