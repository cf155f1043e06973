//! One door for both stores.

use relay_proto::{
    Event, EventId, Namespace,
    lease::{LeaseAnswer, LeaseOp, LeaseRefusal},
};

use crate::{
    batch::Coordinate,
    error::Result,
    event::{Appended, EventQuery, FoundEvent, NamespaceInfo, Page, Retention},
    lease::{HistoryQuery, HistoryRow},
    postgres::PostgresStore,
    sqlite::SqliteStore,
};

/// The store of a relay. Cloning shares it.
#[derive(Debug, Clone)]
pub enum Store {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
}

/// Calls the same method of whichever store it is.
macro_rules! each {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            Self::Sqlite($store) => $call,
            Self::Postgres($store) => $call,
        }
    };
}

pub(crate) use each;

impl Store {
    /// Names the log; part of every cursor.
    pub fn log_id(&self) -> u32 {
        each!(self, store => store.log_id())
    }

    /// The newest committed `seq`, 0 where there is none.
    pub fn committed_seq(&self) -> u64 {
        each!(self, store => store.committed_seq())
    }

    /// Stores verified events in their order; answered in the same order when they are durable.
    pub async fn append(&self, events: Vec<Event>, received_at_ns: u64) -> Result<Vec<Appended>> {
        each!(self, store => store.append(events, received_at_ns).await)
    }

    /// As [`Self::append`] from a thread that is not async; waits while the writer's queue is full.
    /// `reply` runs on the writer's thread and must be quick.
    pub fn submit(
        &self,
        events: Vec<Event>,
        received_at_ns: u64,
        reply: impl FnOnce(Result<Vec<Appended>>) + Send + 'static,
    ) {
        each!(self, store => store.submit(events, received_at_ns, Box::new(reply)));
    }

    /// Runs a lock operation in the writer's order. Dropping the future leaves the line of waiters.
    pub async fn lease(&self, op: LeaseOp) -> Result<Result<LeaseAnswer, LeaseRefusal>> {
        each!(self, store => store.lease(op).await)
    }

    /// One page of events.
    pub async fn page(&self, query: EventQuery) -> Result<Page> {
        each!(self, store => store.page(query).await)
    }

    /// How many events match; `from`, `order` and `limit` do not matter.
    pub async fn count(&self, query: EventQuery) -> Result<u64> {
        each!(self, store => store.count(query).await)
    }

    /// Events by id, in the order asked.
    pub async fn find(&self, ids: Vec<EventId>) -> Result<Vec<Option<FoundEvent>>> {
        each!(self, store => store.find(ids).await)
    }

    /// The latest version of a coordinate.
    pub async fn latest(&self, coordinate: Coordinate) -> Result<Option<FoundEvent>> {
        each!(self, store => store.latest(coordinate).await)
    }

    /// Every namespace that ever held an event.
    pub async fn namespaces(&self) -> Result<Vec<NamespaceInfo>> {
        each!(self, store => store.namespaces().await)
    }

    /// Deletes some events that expired by `now_s` (unix seconds); 0 means that none are left.
    pub async fn sweep_expired(&self, now_s: u64) -> Result<usize> {
        each!(self, store => store.sweep_expired(now_s).await)
    }

    /// Deletes some events by the policy of a namespace; 0 means that it is met.
    pub async fn prune(&self, ns: Namespace, policy: Retention) -> Result<usize> {
        each!(self, store => store.prune(ns, policy).await)
    }

    /// Deletes some lock history from before a time (unix nanoseconds); 0 means that none is left.
    pub async fn prune_lock_history(&self, ns: Namespace, before_ns: u64) -> Result<usize> {
        each!(self, store => store.prune_lock_history(ns, before_ns).await)
    }

    /// The history of locks, newest first.
    pub async fn lock_history(&self, query: HistoryQuery) -> Result<Vec<HistoryRow>> {
        each!(self, store => store.lock_history(query).await)
    }

    /// Writes what waits and closes.
    pub async fn close(&self) {
        each!(self, store => store.close().await)
    }
}
