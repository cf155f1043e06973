//! Operators' tokens, the audit log and the counters of tenants on the embedded store.

use relay_proto::auth::TokenHash;
use rusqlite::{OptionalExtension, Row, params};

use super::SqliteStore;
use crate::{
    access::{AccessTokenRow, TokenPurpose},
    audit::{AuditEntry, AuditRow},
    error::{Result, StoreError},
};

const COLUMNS: &str = "id, token, purpose, pattern, uses_left, created_by, created_at_ms,
     expires_at_ms, last_used_at_ms";
/// Audit entries deleted in one transaction.
const PRUNE_SLICE: i64 = 1_000;

impl SqliteStore {
    pub(crate) async fn insert_access_token(&self, row: AccessTokenRow) -> Result<()> {
        self.write(move |conn| {
            let sql = format!(
                "INSERT INTO access_tokens ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
            );
            conn.prepare_cached(&sql)?.execute(params![
                row.id,
                row.token.as_bytes(),
                row.purpose.as_str(),
                row.pattern,
                row.uses_left,
                row.created_by,
                row.created_at_ms as i64,
                row.expires_at_ms.map(|ms| ms as i64),
                row.last_used_at_ms.map(|ms| ms as i64),
            ])?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn find_access_token(
        &self,
        token: TokenHash,
    ) -> Result<Option<AccessTokenRow>> {
        self.read(move |conn| {
            let sql = format!("SELECT {COLUMNS} FROM access_tokens WHERE token = ?1");
            conn.prepare_cached(&sql)?
                .query_row([token.as_bytes()], |row| Ok(token_row(row)))
                .optional()?
                .transpose()
        })
        .await
    }

    pub(crate) async fn use_access_token(
        &self,
        token: TokenHash,
        now_ms: u64,
    ) -> Result<Option<AccessTokenRow>> {
        self.write(move |conn| {
            let sql = format!(
                "UPDATE access_tokens SET uses_left = uses_left - 1, last_used_at_ms = ?2
                 WHERE token = ?1 AND (uses_left IS NULL OR uses_left > 0)
                     AND (expires_at_ms IS NULL OR expires_at_ms > ?2)
                 RETURNING {COLUMNS}"
            );
            conn.prepare_cached(&sql)?
                .query_row(params![token.as_bytes(), now_ms as i64], |row| Ok(token_row(row)))
                .optional()?
                .transpose()
        })
        .await
    }

    pub(crate) async fn access_tokens(&self) -> Result<Vec<AccessTokenRow>> {
        self.read(|conn| {
            let sql =
                format!("SELECT {COLUMNS} FROM access_tokens ORDER BY created_at_ms DESC, id");
            conn.prepare_cached(&sql)?
                .query_map([], |row| Ok(token_row(row)))?
                .map(|row| row?)
                .collect()
        })
        .await
    }

    pub(crate) async fn delete_access_token(&self, id: String) -> Result<bool> {
        self.write(move |conn| {
            Ok(conn.execute("DELETE FROM access_tokens WHERE id = ?1", [id])? > 0)
        })
        .await
    }

    pub(crate) async fn append_audit(&self, entries: Vec<AuditEntry>) -> Result<()> {
        self.write(move |conn| {
            let mut add = conn.prepare_cached(
                "INSERT INTO audit (at_ms, actor, action, subject, outcome, times, detail)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            for entry in entries {
                add.execute(params![
                    entry.at_ms as i64,
                    entry.actor,
                    entry.action,
                    entry.subject,
                    entry.outcome,
                    entry.times as i64,
                    entry.detail,
                ])?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn audit_page(
        &self,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<AuditRow>> {
        self.read(move |conn| {
            let before = before.and_then(|id| i64::try_from(id).ok()).unwrap_or(i64::MAX);
            conn.prepare_cached(
                "SELECT id, at_ms, actor, action, subject, outcome, times, detail FROM audit
                 WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
            )?
            .query_map(params![before, limit], |row| Ok(audit_row(row)))?
            .map(|row| row?)
            .collect()
        })
        .await
    }

    pub(crate) async fn prune_audit(&self, before_ms: u64) -> Result<usize> {
        self.write(move |conn| {
            Ok(conn.execute(
                "DELETE FROM audit WHERE id IN (
                     SELECT id FROM audit WHERE at_ms < ?1 ORDER BY at_ms LIMIT ?2)",
                params![before_ms as i64, PRUNE_SLICE],
            )?)
        })
        .await
    }

    pub(crate) async fn save_tenant_events(&self, rows: Vec<(String, u64, u64)>) -> Result<()> {
        self.write(move |conn| {
            let mut save = conn.prepare_cached(
                "INSERT OR REPLACE INTO tenant_usage (tenant, day, events) VALUES (?1, ?2, ?3)",
            )?;
            for (tenant, day, events) in rows {
                save.execute(params![tenant, day as i64, events as i64])?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn tenant_events(&self) -> Result<Vec<(String, u64, u64)>> {
        self.read(|conn| {
            conn.prepare_cached("SELECT tenant, day, events FROM tenant_usage")?
                .query_map([], |row| {
                    Ok((row.get(0)?, row.get::<_, i64>(1)? as u64, row.get::<_, i64>(2)? as u64))
                })?
                .map(|row| Ok(row?))
                .collect()
        })
        .await
    }
}

fn token_row(row: &Row<'_>) -> Result<AccessTokenRow> {
    let purpose: String = row.get(2)?;
    Ok(AccessTokenRow {
        id: row.get(0)?,
        token: TokenHash::from_bytes(row.get(1)?),
        purpose: TokenPurpose::parse(&purpose)
            .ok_or_else(|| StoreError::Corrupt("the purpose of a token".into()))?,
        pattern: row.get(3)?,
        uses_left: row.get(4)?,
        created_by: row.get(5)?,
        created_at_ms: row.get::<_, i64>(6)? as u64,
        expires_at_ms: row.get::<_, Option<i64>>(7)?.map(|ms| ms as u64),
        last_used_at_ms: row.get::<_, Option<i64>>(8)?.map(|ms| ms as u64),
    })
}

fn audit_row(row: &Row<'_>) -> Result<AuditRow> {
    Ok(AuditRow {
        id: row.get::<_, i64>(0)? as u64,
        entry: AuditEntry {
            at_ms: row.get::<_, i64>(1)? as u64,
            actor: row.get(2)?,
            action: row.get(3)?,
            subject: row.get(4)?,
            outcome: row.get(5)?,
            times: row.get::<_, i64>(6)? as u64,
            detail: row.get(7)?,
        },
    })
}
