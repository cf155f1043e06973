//! Refusals and administrative acts, written down (`events.md`, Namespaces, tenants, policy).
//!
//! Acts are durable before their answer leaves. Refusals come from strangers and may come in
//! floods, so equal ones of a second are joined in one entry, and the number of different ones
//! is bounded; what does not fit is counted in an entry of its own. Nothing is dropped unseen.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ahash::AHashMap;
use relay_proto::Problem;
use relay_store::{AuditEntry, AuditRow, Clock, Store};
use tokio_util::sync::CancellationToken;

use crate::failure::store_problem;

/// Different refusals kept between two flushes.
const MAX_DIFFERENT: usize = 1_024;
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Bytes of any one text in an entry.
const MAX_TEXT: usize = 512;

/// The log. Shared by all doors.
#[derive(Debug)]
pub struct Audit {
    store: Store,
    clock: Arc<dyn Clock>,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    refusals: AHashMap<Refusal, (u64, u64)>,
    /// Refusals that found no room.
    others: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Refusal {
    actor: String,
    action: &'static str,
    subject: String,
    outcome: &'static str,
}

impl Audit {
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, pending: Mutex::default() }
    }

    /// Notes that something was refused. Never waits.
    pub fn refused(&self, actor: &str, action: &'static str, subject: &str, problem: &Problem) {
        let at_ms = self.now_ms();
        let refusal = Refusal {
            actor: clip(actor),
            action,
            subject: clip(subject),
            outcome: problem.code.as_str(),
        };
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.refusals.len() >= MAX_DIFFERENT && !pending.refusals.contains_key(&refusal) {
            pending.others += 1;
            return;
        }
        pending.refusals.entry(refusal).or_insert((at_ms, 0)).1 += 1;
    }

    /// Writes down an administrative act that was done; durable when it returns.
    ///
    /// # Errors
    /// Where the store could not write it.
    pub async fn done(
        &self,
        actor: &str,
        action: &str,
        subject: &str,
        detail: Option<serde_json::Value>,
    ) -> Result<(), Problem> {
        let entry = AuditEntry {
            at_ms: self.now_ms(),
            actor: clip(actor),
            action: action.to_owned(),
            subject: clip(subject),
            outcome: "ok".to_owned(),
            times: 1,
            detail: detail.map(|detail| detail.to_string()),
        };
        self.store.append_audit(vec![entry]).await.map_err(|error| store_problem(&error))
    }

    /// Up to `limit` entries older than `before`, newest first.
    ///
    /// # Errors
    /// Where the store could not be read.
    pub async fn page(&self, before: Option<u64>, limit: u32) -> Result<Vec<AuditRow>, Problem> {
        self.flush().await?;
        self.store.audit_page(before, limit).await.map_err(|error| store_problem(&error))
    }

    /// Writes pending refusals each second until `stop`, then once more.
    pub async fn run(&self, stop: CancellationToken) {
        let mut stopping = false;
        while !stopping {
            tokio::select! {
                () = stop.cancelled() => stopping = true,
                () = tokio::time::sleep(FLUSH_EVERY) => {}
            }
            if let Err(problem) = self.flush().await {
                tracing::warn!(%problem, "refusals could not be written to the audit log");
            }
        }
    }

    /// Writes pending refusals.
    ///
    /// # Errors
    /// Where the store could not write them; they are lost then, and their number is logged.
    pub async fn flush(&self) -> Result<(), Problem> {
        let pending =
            std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        let entries = pending.into_entries(self.now_ms());
        if entries.is_empty() {
            return Ok(());
        }
        let count: u64 = entries.iter().map(|entry| entry.times).sum();
        self.store.append_audit(entries).await.map_err(|error| {
            tracing::error!(count, "refusals are missing from the audit log");
            store_problem(&error)
        })
    }

    fn now_ms(&self) -> u64 {
        self.clock.wall_ns() / 1_000_000
    }
}

impl Pending {
    fn into_entries(self, now_ms: u64) -> Vec<AuditEntry> {
        let mut entries: Vec<_> = self
            .refusals
            .into_iter()
            .map(|(refusal, (at_ms, times))| AuditEntry {
                at_ms,
                actor: refusal.actor,
                action: refusal.action.to_owned(),
                subject: refusal.subject,
                outcome: refusal.outcome.to_owned(),
                times,
                detail: None,
            })
            .collect();
        entries.sort_by_key(|entry| entry.at_ms);
        if self.others > 0 {
            entries.push(AuditEntry {
                at_ms: now_ms,
                actor: "others".into(),
                action: "refusals".into(),
                subject: String::new(),
                outcome: "not listed one by one".into(),
                times: self.others,
                detail: None,
            });
        }
        entries
    }
}

fn clip(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
