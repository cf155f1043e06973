//! The schema and its versions: one numbered file a step, never edited after a release.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::SqliteOptions;
use crate::{
    error::{Result, StoreError},
    offline::{UNFINISHED, unfinished},
    schema::{SCHEMA_VERSION, SchemaStatus},
};

const STEPS: &[&str] = &[
    include_str!("../../migrations/sqlite/V1__events.sql"),
    include_str!("../../migrations/sqlite/V2__leases.sql"),
    include_str!("../../migrations/sqlite/V3__sessions.sql"),
    include_str!("../../migrations/sqlite/V4__index_tables.sql"),
    include_str!("../../migrations/sqlite/V5__lock_history_index.sql"),
    include_str!("../../migrations/sqlite/V6__conversations.sql"),
    include_str!("../../migrations/sqlite/V7__social.sql"),
    include_str!("../../migrations/sqlite/V8__homes.sql"),
    include_str!("../../migrations/sqlite/V9__grants.sql"),
    include_str!("../../migrations/sqlite/V10__kind_index.sql"),
    include_str!("../../migrations/sqlite/V11__social_quotas.sql"),
];

const _: () = assert!(STEPS.len() as i64 == SCHEMA_VERSION);

pub(super) fn status(conn: &Connection) -> Result<SchemaStatus> {
    let found = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    Ok(SchemaStatus { found, known: SCHEMA_VERSION })
}

/// Brings the database to the current version, each step in its own transaction.
pub(super) fn migrate(conn: &Connection, path: &Path, options: &SqliteOptions) -> Result<()> {
    let SchemaStatus { found, known } = status(conn)?;
    if found > known {
        return Err(StoreError::TooNew { found, known });
    }
    if found == known {
        return Ok(());
    }
    if found > 0 && options.backup_before_migrate {
        let copy = path.with_extension(format!("db.before-v{known}"));
        tracing::info!(copy = %copy.display(), "copying the database before its migration");
        conn.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
    }
    for (index, step) in STEPS.iter().enumerate().skip(found as usize) {
        conn.execute_batch(&format!(
            "BEGIN IMMEDIATE; {step}; PRAGMA user_version = {}; COMMIT",
            index + 1
        ))
        .inspect_err(|_| {
            let _ = conn.execute_batch("ROLLBACK");
        })?;
    }
    conn.execute(
        "INSERT OR IGNORE INTO meta (key, value) VALUES ('log_id', ?1)",
        params![i64::from(options.new_log_id)],
    )?;
    Ok(())
}

/// Refuses what a broken-off copy has left.
pub(super) fn check_complete(conn: &Connection) -> Result<()> {
    meta(conn, UNFINISHED)?.map_or(Ok(()), |_| Err(unfinished()))
}

pub(super) fn log_id(conn: &Connection) -> Result<u32> {
    meta(conn, "log_id")?
        .and_then(|id| u32::try_from(id).ok())
        .ok_or_else(|| StoreError::Corrupt("the log has no id".into()))
}

/// Reads a number from `meta`.
pub(super) fn meta(conn: &Connection, key: &str) -> Result<Option<i64>> {
    Ok(conn
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?)
}

/// Writes a number to `meta`.
pub(super) fn set_meta(conn: &Connection, key: &str, value: i64) -> Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?
        .execute(params![key, value])?;
    Ok(())
}
