//! What a script's service keeps: its state, its timers, and how far it read its subscriptions.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::future::BoxFuture;
use relay_proto::ServiceName;

/// Everything kept of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// Counts commits; 0 before the first.
    pub revision: u64,
    /// The script's own `state_version` at the last commit.
    pub state_version: u32,
    /// JSON text; `None` before the first commit.
    pub state: Option<Arc<str>>,
    /// By name.
    pub timers: BTreeMap<String, Timer>,
    /// The cursor of each subscription, by its name under `on`.
    pub cursors: BTreeMap<String, String>,
}

/// A durable timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// Unix milliseconds.
    pub due_ms: u64,
    pub every_ms: Option<u64>,
    /// JSON text.
    pub payload: String,
    /// How often its handler failed since it was last due.
    pub attempts: u32,
}

/// What one message changed: stored as one, or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub service: ServiceName,
    /// The revision this builds on; another one in the store means another writer.
    pub on_revision: u64,
    pub state_version: u32,
    /// The new state, where it changed.
    pub state: Option<Arc<str>>,
    /// Timers set (`Some`) or removed.
    pub timers: Vec<(String, Option<Timer>)>,
    /// The subscription whose event was handled, and its cursor.
    pub cursor: Option<(String, String)>,
}

/// Why a service's state was not read or kept.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StateError {
    #[error("another process changed the state of '{0}'; one service runs in one place")]
    OtherWriter(ServiceName),
    #[error("the state of scripts cannot be stored: {0}")]
    Storage(String),
}

/// Where state is kept. A commit that is answered `Ok` is durable.
pub trait StateStore: Send + Sync + 'static {
    fn load(&self, service: &ServiceName) -> BoxFuture<'static, Result<Stored, StateError>>;

    /// Stores a commit. Commits of one service are stored in the order of the calls.
    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<(), StateError>>;
}

impl Stored {
    /// Applies a commit that builds on this.
    pub(crate) fn apply(&mut self, commit: &Commit) {
        self.revision = commit.on_revision + 1;
        self.state_version = commit.state_version;
        if let Some(state) = &commit.state {
            self.state = Some(state.clone());
        }
        for (name, timer) in &commit.timers {
            match timer {
                Some(timer) => self.timers.insert(name.clone(), timer.clone()),
                None => self.timers.remove(name),
            };
        }
        if let Some((name, cursor)) = &commit.cursor {
            self.cursors.insert(name.clone(), cursor.clone());
        }
    }
}

/// Keeps state in memory: for tests, and for scripts that are to forget.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<HashMap<ServiceName, Stored>>>);

impl MemoryStore {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ServiceName, Stored>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for MemoryStore {
    fn load(&self, service: &ServiceName) -> BoxFuture<'static, Result<Stored, StateError>> {
        let stored = self.lock().get(service).cloned().unwrap_or_default();
        Box::pin(std::future::ready(Ok(stored)))
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<(), StateError>> {
        let mut all = self.lock();
        let stored = all.entry(commit.service.clone()).or_default();
        let result = if stored.revision == commit.on_revision {
            stored.apply(&commit);
            Ok(())
        } else {
            Err(StateError::OtherWriter(commit.service))
        };
        Box::pin(std::future::ready(result))
    }
}
