//! The audit log, and the counters of tenants.

use serde::Serialize;

use crate::{
    error::Result,
    store::{Store, each},
};

/// One entry to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// Unix milliseconds.
    pub at_ms: u64,
    /// A key, `operator`, or an address where no key was proved.
    pub actor: String,
    /// What was tried: `event.write`, `lock.break`, `token.create` …
    pub action: String,
    /// In which namespace, on which thing.
    pub subject: String,
    /// `ok`, or the code of the refusal.
    pub outcome: String,
    /// How many equal ones this entry stands for.
    pub times: u64,
    /// More about it, as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// One entry as it is read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditRow {
    pub id: u64,
    #[serde(flatten)]
    pub entry: AuditEntry,
}

impl Store {
    pub async fn append_audit(&self, entries: Vec<AuditEntry>) -> Result<()> {
        each!(self, store => store.append_audit(entries).await)
    }

    /// Up to `limit` entries older than `before`, newest first.
    pub async fn audit_page(&self, before: Option<u64>, limit: u32) -> Result<Vec<AuditRow>> {
        each!(self, store => store.audit_page(before, limit).await)
    }

    /// Deletes some entries from before a time; returns how many, 0 where none is left.
    pub async fn prune_audit(&self, before_ms: u64) -> Result<usize> {
        each!(self, store => store.prune_audit(before_ms).await)
    }

    /// Keeps (tenant, day, events of that day).
    pub async fn save_tenant_events(&self, rows: Vec<(String, u64, u64)>) -> Result<()> {
        each!(self, store => store.save_tenant_events(rows).await)
    }

    /// What was kept last.
    pub async fn tenant_events(&self) -> Result<Vec<(String, u64, u64)>> {
        each!(self, store => store.tenant_events().await)
    }
}
