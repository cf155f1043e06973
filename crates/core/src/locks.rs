//! The domain of locks (`locks.md`): requests as callers make them, in front of the store's lease table.
//!
//! The rules themselves are [`relay_proto::lease`]; the store's writer applies them in its one order. Here it is
//! decided what a request may say; who may lock is asked by the door before.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use dashmap::DashMap;
use relay_proto::{
    Namespace, Problem,
    lease::{
        Acquire, Break, Grant, LeaseAction, LeaseAnswer, LeaseOp, LeaseRow, LockList, LockState,
        Release, Renew, Resource,
    },
};
use relay_store::{HistoryQuery, HistoryRow, Store};

use crate::failure::store_problem;

/// Longest page of a list or a history.
pub const MAX_PAGE: usize = 1_000;

/// The domain. Shared by all doors.
#[derive(Debug)]
pub struct Locks {
    store: Store,
    /// Locks held by tenant, for quotas.
    held: Arc<HeldCounts>,
    stats: LockStats,
}

/// How many locks each tenant holds; kept by what the writer commits.
#[derive(Debug, Default)]
pub struct HeldCounts(DashMap<String, AtomicI64, ahash::RandomState>);

/// Counters, for metrics.
#[derive(Debug, Default)]
pub struct LockStats {
    pub acquired: AtomicI64,
    /// Acquires that found the lock held by somebody else.
    pub contended: AtomicI64,
    pub takeovers: AtomicI64,
}

impl HeldCounts {
    /// Notes committed changes.
    pub fn committed(&self, rows: &[LeaseRow]) {
        for row in rows {
            let change = match row.action {
                LeaseAction::Acquire | LeaseAction::TakeOver => 1,
                LeaseAction::Release | LeaseAction::Expire | LeaseAction::Break => -1,
                LeaseAction::Renew => continue,
            };
            let tenant = row.ns.tenant();
            match self.0.get(tenant) {
                Some(count) => {
                    count.fetch_add(change, Ordering::Relaxed);
                }
                None => {
                    self.0
                        .entry(tenant.to_owned())
                        .or_default()
                        .fetch_add(change, Ordering::Relaxed);
                }
            }
        }
    }

    /// Locks that the tenant holds now.
    pub fn of(&self, tenant: &str) -> u64 {
        self.0.get(tenant).map_or(0, |count| count.load(Ordering::Relaxed).max(0) as u64)
    }
}

impl Locks {
    pub fn new(store: Store, held: Arc<HeldCounts>) -> Self {
        Self { store, held, stats: LockStats::default() }
    }

    pub fn stats(&self) -> &LockStats {
        &self.stats
    }

    /// Locks that a tenant holds.
    pub fn held_by(&self, tenant: &str) -> u64 {
        self.held.of(tenant)
    }

    /// Takes the lock, waiting in line up to `wait_ms`. Dropping the future leaves the line.
    ///
    /// # Errors
    /// `lock_held`, `conflict`, `invalid_request`, `rate_limited`.
    pub async fn acquire(&self, request: Acquire) -> Result<Grant, Problem> {
        match self.run(LeaseOp::Acquire(request)).await {
            Ok(LeaseAnswer::Acquired(grant)) => {
                self.stats.acquired.fetch_add(1, Ordering::Relaxed);
                Ok(grant)
            }
            Ok(other) => Err(unexpected(&other)),
            Err(problem) => {
                if problem.code == relay_proto::Code::LockHeld {
                    self.stats.contended.fetch_add(1, Ordering::Relaxed);
                }
                Err(problem)
            }
        }
    }

    /// Lengthens a lease; never shortens it.
    ///
    /// # Errors
    /// `lease_expired`, `stale_token`, `forbidden`, `invalid_request`.
    pub async fn renew(&self, request: Renew) -> Result<Grant, Problem> {
        match self.run(LeaseOp::Renew(request)).await? {
            LeaseAnswer::Renewed(grant) => Ok(grant),
            other => Err(unexpected(&other)),
        }
    }

    /// Gives the lock back; the first in line has it at once.
    ///
    /// # Errors
    /// `lease_expired`, `stale_token`, `forbidden`.
    pub async fn release(&self, request: Release) -> Result<(), Problem> {
        match self.run(LeaseOp::Release(request)).await? {
            LeaseAnswer::Released { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends somebody's lease now. The caller has checked that an administrator asks, and audits it.
    ///
    /// # Errors
    /// `stale_token`, `lease_expired`.
    pub async fn break_lease(&self, request: Break) -> Result<(), Problem> {
        match self.run(LeaseOp::Break(request)).await? {
            LeaseAnswer::Broken { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Who holds the lock.
    ///
    /// # Errors
    /// Only those of the store.
    pub async fn inspect(&self, ns: Namespace, resource: Resource) -> Result<LockState, Problem> {
        match self.run(LeaseOp::Inspect { ns, resource }).await? {
            LeaseAnswer::State(state) => Ok(state),
            other => Err(unexpected(&other)),
        }
    }

    /// Held locks by name.
    ///
    /// # Errors
    /// Only those of the store.
    pub async fn list(
        &self,
        ns: Namespace,
        prefix: String,
        after: Option<Resource>,
        limit: usize,
    ) -> Result<LockList, Problem> {
        let limit = limit.clamp(1, MAX_PAGE);
        match self.run(LeaseOp::List { ns, prefix, after, limit }).await? {
            LeaseAnswer::List(list) => Ok(list),
            other => Err(unexpected(&other)),
        }
    }

    /// What happened, newest first.
    ///
    /// # Errors
    /// Only those of the store.
    pub async fn history(&self, query: HistoryQuery) -> Result<Vec<HistoryRow>, Problem> {
        self.store.lock_history(query).await.map_err(|error| store_problem(&error))
    }

    async fn run(&self, op: LeaseOp) -> Result<LeaseAnswer, Problem> {
        let answer = self.store.lease(op).await.map_err(|error| store_problem(&error))?;
        answer.map_err(Problem::from)
    }
}

fn unexpected(answer: &LeaseAnswer) -> Problem {
    tracing::error!(?answer, "the lease table answered another question");
    Problem::new(relay_proto::Code::InternalError, "the relay answered another question")
}
