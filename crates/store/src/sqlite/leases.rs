//! The journal of locks: appended by the writer, read at start and as history.

use std::{collections::HashMap, sync::Arc};

use relay_proto::{
    Namespace, NodeId,
    lease::{LeaseAction, LeaseLimits, LeaseRow, LeaseTable, Now, Snapshot},
};
use rusqlite::{Connection, Row, params};

use super::migrate::{meta, set_meta};
use crate::{
    error::{Result, StoreError},
    lease::{HistoryQuery, HistoryRow},
    schema::{LAST_TOKEN, LOCKS_THROUGH},
    tags::lock_hash,
};

const COLUMNS: &str = "id, ns, resource, action, owner, previous_owner, fencing_token, lease_ms,
     request_id, meta, at_ns, lease_expires_at_ns, reason, broken_by";

pub(super) fn append(conn: &Connection, rows: &[LeaseRow]) -> Result<()> {
    let mut add = conn.prepare_cached(
        "INSERT INTO lock_history (lock, ns, resource, action, owner, previous_owner, fencing_token,
             lease_ms, request_id, meta, at_ns, lease_expires_at_ns, reason, broken_by)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?;
    for row in rows {
        add.execute(params![
            lock_hash(&row.ns, &row.resource),
            row.ns.as_str(),
            row.resource.as_str(),
            row.action.as_str(),
            row.owner.as_bytes(),
            row.previous_owner.as_ref().map(NodeId::as_bytes),
            row.token as i64,
            row.lease_ms as i64,
            row.request_id.as_deref(),
            row.meta.as_deref(),
            row.at_wall_ns as i64,
            row.expires_wall_ns as i64,
            row.reason.as_deref(),
            row.by.as_ref().map(NodeId::as_bytes),
        ])?;
    }
    Ok(())
}

/// Notes the last row of each resource, so that the next start begins after it, and indexes the history up to there.
///
/// Grouped here and not in SQL, which would sort by names; every commit that waits for this one waits for it.
pub(super) fn checkpoint(conn: &Connection, table: &LeaseTable) -> Result<()> {
    let through = meta(conn, LOCKS_THROUGH)?.unwrap_or(0);
    let mut entries: Vec<(i64, i64)> = Vec::new();
    let mut last: HashMap<String, (i64, i64)> = HashMap::new();
    let mut name = String::new();
    let mut later = conn.prepare_cached(
        "SELECT lock, id, ns, resource FROM lock_history WHERE id > ?1 ORDER BY id",
    )?;
    let mut rows = later.query([through])?;
    while let Some(row) = rows.next()? {
        let entry = (row.get(0)?, row.get(1)?);
        entries.push(entry);
        name.clear();
        // A namespace has no such character.
        for part in [row.get_ref(2)?.as_str(), Ok("\0"), row.get_ref(3)?.as_str()] {
            name.push_str(part.map_err(damaged)?);
        }
        match last.get_mut(&name) {
            Some(found) => *found = entry,
            None => drop(last.insert(name.clone(), entry)),
        }
    }
    let newest = entries.last().map_or(through, |(_, id)| *id);
    // In the order of the index, so that each of its pages is met once.
    entries.sort_unstable();
    let mut index =
        conn.prepare_cached("INSERT INTO lock_history_index (lock, history_id) VALUES (?1, ?2)")?;
    for entry in entries {
        index.execute(entry)?;
    }
    let mut note = conn.prepare_cached(
        "INSERT OR REPLACE INTO locks (lock, ns, resource, history_id) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for (name, (lock, id)) in &last {
        let (ns, resource) = name.split_once('\0').unwrap_or_default();
        note.execute(params![lock, ns, resource, id])?;
    }
    set_meta(conn, LOCKS_THROUGH, newest)?;
    set_meta(conn, LAST_TOKEN, table.last_token() as i64)
}

/// The table as it was last committed.
pub(super) fn load(conn: &Connection, limits: &LeaseLimits, now: Now) -> Result<LeaseTable> {
    let through = meta(conn, LOCKS_THROUGH)?.unwrap_or(0);
    let last_token = meta(conn, LAST_TOKEN)?.unwrap_or(0) as u64;
    let mut states = Vec::new();
    let sql = format!(
        "SELECT {COLUMNS} FROM lock_history WHERE id IN
             (SELECT history_id FROM locks ORDER BY history_id DESC LIMIT ?1) ORDER BY id"
    );
    let known = (limits.max_held + limits.max_idle) as i64;
    for row in conn.prepare(&sql)?.query_map([known], |row| Ok(history_row(row)))? {
        states.push(row??.row.state());
    }
    let sql = format!("SELECT {COLUMNS} FROM lock_history WHERE id > ?1 ORDER BY id");
    let mut later = conn.prepare(&sql)?;
    let rows: Result<Vec<_>> = later
        .query_map([through], |row| Ok(history_row(row)))?
        .map(|row| row?.map(|found| found.row))
        .collect();
    let snapshot = Snapshot { last_token, states };
    Ok(LeaseTable::restore(limits.clone(), now, snapshot, rows?))
}

/// Makes every later token greater than any that a lost part of this store may have given.
pub(super) fn raise_tokens(conn: &Connection) -> Result<u64> {
    let now = Now { mono_ns: 0, wall_ns: 0 };
    let mut table = load(conn, &LeaseLimits::default(), now)?;
    let floor = table.raise_epoch().map_err(|error| StoreError::Database(error.to_string()))?;
    set_meta(conn, LAST_TOKEN, floor as i64)?;
    Ok(floor)
}

pub(super) fn history(conn: &Connection, query: &HistoryQuery) -> Result<Vec<HistoryRow>> {
    let before = query.before_id.unwrap_or(i64::MAX as u64) as i64;
    let ns = query.ns.as_str();
    let limit = query.limit as i64;
    match &query.resource {
        Some(resource) => {
            // What is not indexed yet, then what is.
            let sql = format!(
                "SELECT {COLUMNS} FROM (
                     SELECT {COLUMNS} FROM lock_history
                     WHERE id > coalesce((SELECT value FROM meta WHERE key = ?6), 0) AND id < ?2
                         AND lock = ?1 AND ns = ?3 AND resource = ?4 ORDER BY id DESC LIMIT ?5)
                 UNION ALL SELECT {COLUMNS} FROM (
                     SELECT {COLUMNS} FROM lock_history_index AS indexed
                     CROSS JOIN lock_history ON id = indexed.history_id
                     WHERE indexed.lock = ?1 AND indexed.history_id < ?2 AND ns = ?3 AND resource = ?4
                     ORDER BY indexed.history_id DESC LIMIT ?5)
                 ORDER BY id DESC LIMIT ?5"
            );
            let lock = lock_hash(&query.ns, resource);
            let of = params![lock, before, ns, resource.as_str(), limit, LOCKS_THROUGH];
            conn.prepare_cached(&sql)?
                .query_map(of, |row| Ok(history_row(row)))?
                .map(|row| row?)
                .collect()
        }
        None => {
            let sql = format!(
                "SELECT {COLUMNS} FROM lock_history WHERE id < ?1 AND ns = ?2
                 ORDER BY id DESC LIMIT ?3"
            );
            conn.prepare_cached(&sql)?
                .query_map(params![before, ns, limit], |row| Ok(history_row(row)))?
                .map(|row| row?)
                .collect()
        }
    }
}

/// Deletes history from before `before_wall_ns`, but never a row that a start still needs.
pub(super) fn prune_history(
    conn: &Connection,
    ns: &Namespace,
    before_wall_ns: u64,
    limit: usize,
) -> Result<usize> {
    let through = meta(conn, LOCKS_THROUGH)?.unwrap_or(0);
    let mut delete = conn.prepare_cached(
        "DELETE FROM lock_history WHERE id IN (
             SELECT id FROM lock_history WHERE id <= ?1 AND ns = ?2 AND at_ns < ?3
                 AND NOT EXISTS (SELECT 1 FROM locks WHERE history_id = lock_history.id)
             ORDER BY id LIMIT ?4)
         RETURNING lock, id",
    )?;
    let mut unindex =
        conn.prepare_cached("DELETE FROM lock_history_index WHERE lock = ?1 AND history_id = ?2")?;
    let of = params![through, ns.as_str(), before_wall_ns as i64, limit as i64];
    let mut deleted = 0;
    for row in delete.query_map(of, |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))? {
        let (lock, id) = row?;
        unindex.execute([lock, id])?;
        deleted += 1;
    }
    Ok(deleted)
}

fn history_row(row: &Row<'_>) -> Result<HistoryRow> {
    let text = |index: usize| -> Result<Option<Arc<str>>> {
        Ok(row.get::<_, Option<String>>(index)?.map(Into::into))
    };
    let key = |index: usize| -> Result<Option<NodeId>> {
        row.get::<_, Option<[u8; 32]>>(index)?
            .map(|bytes| NodeId::from_bytes(bytes).map_err(damaged))
            .transpose()
    };
    let number = |index: usize| -> Result<u64> { Ok(row.get::<_, i64>(index)? as u64) };
    let action: String = row.get(3)?;
    Ok(HistoryRow {
        id: number(0)?,
        row: LeaseRow {
            ns: row.get::<_, String>(1)?.parse().map_err(damaged)?,
            resource: row.get::<_, String>(2)?.parse().map_err(damaged)?,
            action: LeaseAction::parse(&action).ok_or_else(|| damaged(action))?,
            owner: key(4)?.ok_or_else(|| damaged("no owner"))?,
            previous_owner: key(5)?,
            token: number(6)?,
            lease_ms: number(7)?,
            request_id: text(8)?,
            meta: text(9)?,
            at_wall_ns: number(10)?,
            expires_wall_ns: number(11)?,
            reason: text(12)?,
            by: key(13)?,
        },
    })
}

fn damaged(what: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("lock history: {what}"))
}
