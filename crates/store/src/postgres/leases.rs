//! The journal of locks: appended by the writer, read at start and as history.

use std::sync::Arc;

use relay_proto::{
    Namespace, NodeId,
    lease::{LeaseAction, LeaseLimits, LeaseRow, LeaseTable, Now, Snapshot},
};
use tokio_postgres::{Client, GenericClient, Row, Statement, types::ToSql};

use super::{
    migrate::{meta, raise_meta},
    pipeline::Queued,
};
use crate::{
    error::{Result, StoreError},
    lease::{HistoryQuery, HistoryRow},
    schema::{LAST_TOKEN, LOCKS_THROUGH},
    tags::lock_hash,
};

const COLUMNS: &str = "id, ns, resource, action, owner, previous_owner, fencing_token, lease_ms,
     request_id, meta, at_ns, lease_expires_at_ns, reason, broken_by";

pub(super) struct Statements {
    append: Statement,
    note_last_rows: Statement,
    note_through: Statement,
    note_token: Statement,
}

impl Statements {
    pub async fn prepare(client: &Client) -> Result<Self> {
        let raise = "INSERT INTO meta (key, value) VALUES ($1, $2)
                     ON CONFLICT (key) DO UPDATE SET value = greatest(meta.value, excluded.value)";
        Ok(Self {
            append: client
                .prepare(
                    "INSERT INTO lock_history (lock, ns, resource, action, owner, previous_owner,
                         fencing_token, lease_ms, request_id, meta, at_ns, lease_expires_at_ns, reason, broken_by)
                     SELECT lock, ns, resource, action, owner, previous_owner,
                         fencing_token, lease_ms, request_id, meta, at_ns, lease_expires_at_ns, reason, broken_by
                     FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[],
                         $7::bigint[], $8::bigint[], $9::bytea[], $10::bytea[], $11::bigint[], $12::bigint[],
                         $13::bytea[], $14::bytea[]) WITH ORDINALITY
                         AS new (lock, ns, resource, action, owner, previous_owner, fencing_token, lease_ms,
                             request_id, meta, at_ns, lease_expires_at_ns, reason, broken_by, at)
                     ORDER BY at",
                )
                .await?,
            note_last_rows: client
                .prepare(
                    "INSERT INTO locks (lock, ns, resource, history_id)
                     SELECT lock, ns, resource, max(id) FROM lock_history
                     WHERE id > coalesce((SELECT value FROM meta WHERE key = $1), 0)
                     GROUP BY lock, ns, resource
                     ON CONFLICT (ns, resource) DO UPDATE SET history_id = excluded.history_id",
                )
                .await?,
            note_through: client
                .prepare(
                    "INSERT INTO meta (key, value)
                     SELECT $1, coalesce(max(id), 0) FROM lock_history
                     ON CONFLICT (key) DO UPDATE SET value = greatest(meta.value, excluded.value)",
                )
                .await?,
            note_token: client.prepare(raise).await?,
        })
    }
}

pub(super) fn append(statements: &Statements, rows: &[LeaseRow]) -> Queued {
    fn list<T: ToSql + Sync + Send + 'static>(
        rows: &[LeaseRow],
        of: impl Fn(&LeaseRow) -> T,
    ) -> Box<dyn ToSql + Sync + Send> {
        Box::new(rows.iter().map(of).collect::<Vec<T>>())
    }
    let key = |key: &NodeId| key.as_bytes().to_vec();
    let text = |text: &Arc<str>| text.as_bytes().to_vec();
    Queued {
        statement: statements.append.clone(),
        values: vec![
            list(rows, |row| lock_hash(&row.ns, &row.resource)),
            list(rows, |row| row.ns.as_str().to_owned()),
            list(rows, |row| row.resource.as_str().to_owned()),
            list(rows, |row| row.action.as_str()),
            list(rows, |row| key(&row.owner)),
            list(rows, |row| row.previous_owner.as_ref().map(key)),
            list(rows, |row| row.token as i64),
            list(rows, |row| row.lease_ms as i64),
            list(rows, |row| row.request_id.as_ref().map(text)),
            list(rows, |row| row.meta.as_ref().map(text)),
            list(rows, |row| row.at_wall_ns as i64),
            list(rows, |row| row.expires_wall_ns as i64),
            list(rows, |row| row.reason.as_ref().map(text)),
            list(rows, |row| row.by.as_ref().map(key)),
        ],
    }
}

/// Notes the last row of each resource, so that the next start begins after it.
pub(super) fn checkpoint(statements: &Statements, table: &LeaseTable) -> [Queued; 3] {
    [
        Queued {
            statement: statements.note_last_rows.clone(),
            values: vec![Box::new(LOCKS_THROUGH)],
        },
        Queued {
            statement: statements.note_through.clone(),
            values: vec![Box::new(LOCKS_THROUGH)],
        },
        Queued {
            statement: statements.note_token.clone(),
            values: vec![Box::new(LAST_TOKEN), Box::new(table.last_token() as i64)],
        },
    ]
}

/// The table as it was last committed.
pub(super) async fn load(
    client: &impl GenericClient,
    limits: &LeaseLimits,
    now: Now,
) -> Result<LeaseTable> {
    let through = meta(client, LOCKS_THROUGH).await?.unwrap_or(0);
    let last_token = meta(client, LAST_TOKEN).await?.unwrap_or(0) as u64;
    let known = (limits.max_held + limits.max_idle) as i64;
    let sql = format!(
        "SELECT {COLUMNS} FROM lock_history WHERE id IN
             (SELECT history_id FROM locks ORDER BY history_id DESC LIMIT $1) ORDER BY id"
    );
    let mut states = Vec::new();
    for row in client.query(&sql, &[&known]).await? {
        states.push(history_row(&row)?.row.state());
    }
    let sql = format!("SELECT {COLUMNS} FROM lock_history WHERE id > $1 ORDER BY id");
    let mut later = Vec::new();
    for row in client.query(&sql, &[&through]).await? {
        later.push(history_row(&row)?.row);
    }
    let snapshot = Snapshot { last_token, states };
    Ok(LeaseTable::restore(limits.clone(), now, snapshot, later))
}

/// Makes every later token greater than any that a lost part of this store may have given.
pub(super) async fn raise_tokens(client: &impl GenericClient) -> Result<u64> {
    let now = Now { mono_ns: 0, wall_ns: 0 };
    let mut table = load(client, &LeaseLimits::default(), now).await?;
    let floor = table.raise_epoch().map_err(|error| StoreError::Database(error.to_string()))?;
    raise_meta(client, LAST_TOKEN, floor as i64).await?;
    Ok(floor)
}

pub(super) async fn history(
    client: &impl GenericClient,
    query: &HistoryQuery,
) -> Result<Vec<HistoryRow>> {
    let before = query.before_id.unwrap_or(i64::MAX as u64) as i64;
    let ns = query.ns.as_str();
    let limit = query.limit as i64;
    let rows = match &query.resource {
        Some(resource) => {
            let sql = format!(
                "SELECT {COLUMNS} FROM lock_history
                 WHERE lock = $1 AND id < $2 AND ns = $3 AND resource = $4 ORDER BY id DESC LIMIT $5"
            );
            let lock = lock_hash(&query.ns, resource);
            client.query(&sql, &[&lock, &before, &ns, &resource.as_str(), &limit]).await?
        }
        None => {
            let sql = format!(
                "SELECT {COLUMNS} FROM lock_history WHERE id < $1 AND ns = $2
                 ORDER BY id DESC LIMIT $3"
            );
            client.query(&sql, &[&before, &ns, &limit]).await?
        }
    };
    rows.iter().map(history_row).collect()
}

/// Deletes history from before `before_wall_ns`, but never a row that a start still needs.
pub(super) async fn prune_history(
    client: &impl GenericClient,
    ns: &Namespace,
    before_wall_ns: u64,
    limit: usize,
) -> Result<usize> {
    let through = meta(client, LOCKS_THROUGH).await?.unwrap_or(0);
    let gone = client
        .execute(
            "DELETE FROM lock_history WHERE id IN (
                 SELECT id FROM lock_history WHERE id <= $1 AND ns = $2 AND at_ns < $3
                     AND NOT EXISTS (SELECT FROM locks WHERE history_id = lock_history.id)
                 ORDER BY id LIMIT $4)",
            &[&through, &ns.as_str(), &(before_wall_ns as i64), &(limit as i64)],
        )
        .await?;
    Ok(gone as usize)
}

pub(super) fn history_row(row: &Row) -> Result<HistoryRow> {
    let text = |index: usize| -> Result<Option<Arc<str>>> {
        let bytes: Option<&[u8]> = row.get(index);
        bytes.map(|bytes| std::str::from_utf8(bytes).map(Into::into).map_err(damaged)).transpose()
    };
    let key = |index: usize| -> Result<Option<NodeId>> {
        let bytes: Option<&[u8]> = row.get(index);
        let read = |bytes: &[u8]| {
            let bytes = bytes.try_into().map_err(|_| damaged("a key is not 32 bytes long"))?;
            NodeId::from_bytes(bytes).map_err(damaged)
        };
        bytes.map(read).transpose()
    };
    let number = |index: usize| row.get::<_, i64>(index) as u64;
    let action: &str = row.get(3);
    Ok(HistoryRow {
        id: number(0),
        row: LeaseRow {
            ns: row.get::<_, &str>(1).parse().map_err(damaged)?,
            resource: row.get::<_, &str>(2).parse().map_err(damaged)?,
            action: LeaseAction::parse(action).ok_or_else(|| damaged(action))?,
            owner: key(4)?.ok_or_else(|| damaged("no owner"))?,
            previous_owner: key(5)?,
            token: number(6),
            lease_ms: number(7),
            request_id: text(8)?,
            meta: text(9)?,
            at_wall_ns: number(10),
            expires_wall_ns: number(11),
            reason: text(12)?,
            by: key(13)?,
        },
    })
}

fn damaged(what: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("lock history: {what}"))
}
