//! Operators' tokens, the audit log and the counters of tenants on PostgreSQL.

use relay_proto::auth::TokenHash;
use tokio_postgres::Row;

use super::{PostgresStore, log::bytes32, sessions::plain};
use crate::{
    access::{AccessTokenRow, TokenPurpose},
    audit::{AuditEntry, AuditRow},
    error::{Result, StoreError},
};

const COLUMNS: &str = "id, token, purpose, pattern, uses_left, created_by, created_at_ms,
     expires_at_ms, last_used_at_ms";
/// Audit entries deleted in one transaction.
const PRUNE_SLICE: i64 = 1_000;

impl PostgresStore {
    pub(crate) async fn insert_access_token(&self, row: AccessTokenRow) -> Result<()> {
        let sql = format!(
            "INSERT INTO access_tokens ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        );
        let client = self.client().await?;
        client
            .execute(
                &sql,
                &[
                    &row.id,
                    &&row.token.as_bytes()[..],
                    &row.purpose.as_str(),
                    &row.pattern.as_deref().map(plain),
                    &row.uses_left.map(i64::from),
                    &plain(&row.created_by),
                    &(row.created_at_ms as i64),
                    &row.expires_at_ms.map(|ms| ms as i64),
                    &row.last_used_at_ms.map(|ms| ms as i64),
                ],
            )
            .await?;
        Ok(())
    }

    pub(crate) async fn find_access_token(
        &self,
        token: TokenHash,
    ) -> Result<Option<AccessTokenRow>> {
        let sql = format!("SELECT {COLUMNS} FROM access_tokens WHERE token = $1");
        let client = self.client().await?;
        let statement = client.prepare_cached(&sql).await?;
        let found = client.query_opt(&statement, &[&&token.as_bytes()[..]]).await?;
        found.as_ref().map(token_row).transpose()
    }

    pub(crate) async fn use_access_token(
        &self,
        token: TokenHash,
        now_ms: u64,
    ) -> Result<Option<AccessTokenRow>> {
        let sql = format!(
            "UPDATE access_tokens SET uses_left = uses_left - 1, last_used_at_ms = $2
             WHERE token = $1 AND (uses_left IS NULL OR uses_left > 0)
                 AND (expires_at_ms IS NULL OR expires_at_ms > $2)
             RETURNING {COLUMNS}"
        );
        let client = self.client().await?;
        let statement = client.prepare_cached(&sql).await?;
        let used =
            client.query_opt(&statement, &[&&token.as_bytes()[..], &(now_ms as i64)]).await?;
        used.as_ref().map(token_row).transpose()
    }

    pub(crate) async fn access_tokens(&self) -> Result<Vec<AccessTokenRow>> {
        let sql = format!("SELECT {COLUMNS} FROM access_tokens ORDER BY created_at_ms DESC, id");
        let rows = self.client().await?.query(&sql, &[]).await?;
        rows.iter().map(token_row).collect()
    }

    pub(crate) async fn delete_access_token(&self, id: String) -> Result<bool> {
        let sql = "DELETE FROM access_tokens WHERE id = $1";
        Ok(self.client().await?.execute(sql, &[&plain(&id)]).await? > 0)
    }

    pub(crate) async fn append_audit(&self, entries: Vec<AuditEntry>) -> Result<()> {
        fn texts<'a>(
            entries: &'a [AuditEntry],
            of: impl Fn(&'a AuditEntry) -> &'a str,
        ) -> Vec<std::borrow::Cow<'a, str>> {
            entries.iter().map(|entry| plain(of(entry))).collect()
        }
        let times: Vec<i64> = entries.iter().map(|entry| entry.times as i64).collect();
        let at: Vec<i64> = entries.iter().map(|entry| entry.at_ms as i64).collect();
        let details: Vec<_> =
            entries.iter().map(|entry| entry.detail.as_deref().map(plain)).collect();
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "INSERT INTO audit (at_ms, actor, action, subject, outcome, times, detail)
                 SELECT at_ms, actor, action, subject, outcome, times, detail
                 FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[])
                     WITH ORDINALITY AS new (at_ms, actor, action, subject, outcome, times, detail, at)
                 ORDER BY at",
            )
            .await?;
        client
            .execute(
                &statement,
                &[
                    &at,
                    &texts(&entries, |entry| &entry.actor),
                    &texts(&entries, |entry| &entry.action),
                    &texts(&entries, |entry| &entry.subject),
                    &texts(&entries, |entry| &entry.outcome),
                    &times,
                    &details,
                ],
            )
            .await?;
        Ok(())
    }

    pub(crate) async fn audit_page(
        &self,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<AuditRow>> {
        let before = before.and_then(|id| i64::try_from(id).ok()).unwrap_or(i64::MAX);
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT id, at_ms, actor, action, subject, outcome, times, detail FROM audit
                 WHERE id < $1 ORDER BY id DESC LIMIT $2",
            )
            .await?;
        let rows = client.query(&statement, &[&before, &i64::from(limit)]).await?;
        Ok(rows.iter().map(audit_row).collect())
    }

    pub(crate) async fn prune_audit(&self, before_ms: u64) -> Result<usize> {
        let sql = "DELETE FROM audit WHERE id IN (
                       SELECT id FROM audit WHERE at_ms < $1 ORDER BY at_ms LIMIT $2)";
        let gone = self.client().await?.execute(sql, &[&(before_ms as i64), &PRUNE_SLICE]).await?;
        Ok(gone as usize)
    }

    pub(crate) async fn save_tenant_events(&self, mut rows: Vec<(String, u64, u64)>) -> Result<()> {
        // A later row of the same tenant counts.
        rows.reverse();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows.dedup_by(|a, b| a.0 == b.0);
        let tenants: Vec<&str> = rows.iter().map(|(tenant, ..)| tenant.as_str()).collect();
        let days: Vec<i64> = rows.iter().map(|&(_, day, _)| day as i64).collect();
        let events: Vec<i64> = rows.iter().map(|&(.., events)| events as i64).collect();
        let sql = "INSERT INTO tenant_usage (tenant, day, events)
                   SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[])
                   ON CONFLICT (tenant) DO UPDATE SET day = excluded.day, events = excluded.events";
        self.client().await?.execute(sql, &[&tenants, &days, &events]).await?;
        Ok(())
    }

    pub(crate) async fn tenant_events(&self) -> Result<Vec<(String, u64, u64)>> {
        let sql = "SELECT tenant, day, events FROM tenant_usage";
        let rows = self.client().await?.query(sql, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), number(row, 1), number(row, 2))).collect())
    }
}

fn token_row(row: &Row) -> Result<AccessTokenRow> {
    let optional = |column| row.get::<_, Option<i64>>(column).map(|number| number as u64);
    Ok(AccessTokenRow {
        id: row.get(0),
        token: TokenHash::from_bytes(bytes32(row, 1)?),
        purpose: TokenPurpose::parse(row.get(2))
            .ok_or_else(|| StoreError::Corrupt("the purpose of a token".into()))?,
        pattern: row.get(3),
        uses_left: optional(4).map(|left| left as u32),
        created_by: row.get(5),
        created_at_ms: number(row, 6),
        expires_at_ms: optional(7),
        last_used_at_ms: optional(8),
    })
}

fn audit_row(row: &Row) -> AuditRow {
    AuditRow {
        id: number(row, 0),
        entry: AuditEntry {
            at_ms: number(row, 1),
            actor: row.get(2),
            action: row.get(3),
            subject: row.get(4),
            outcome: row.get(5),
            times: number(row, 6),
            detail: row.get(7),
        },
    }
}

fn number(row: &Row, column: usize) -> u64 {
    row.get::<_, i64>(column) as u64
}
