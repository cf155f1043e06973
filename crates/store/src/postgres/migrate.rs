//! The schema and its versions: the same numbers as on SQLite.

use tokio_postgres::{Client, GenericClient};

use crate::{
    error::{Result, StoreError},
    offline::{UNFINISHED, unfinished},
    schema::{SCHEMA_VERSION, SchemaStatus},
};

const STEPS: &[&str] = &[
    include_str!("../../migrations/postgres/V1__events.sql"),
    include_str!("../../migrations/postgres/V2__leases.sql"),
    include_str!("../../migrations/postgres/V3__sessions.sql"),
    include_str!("../../migrations/postgres/V4__index_tables.sql"),
    include_str!("../../migrations/postgres/V5__lock_history_index.sql"),
    include_str!("../../migrations/postgres/V6__conversations.sql"),
    include_str!("../../migrations/postgres/V7__social.sql"),
    include_str!("../../migrations/postgres/V8__homes.sql"),
    include_str!("../../migrations/postgres/V9__grants.sql"),
    include_str!("../../migrations/postgres/V10__kind_index.sql"),
    include_str!("../../migrations/postgres/V11__social_quotas.sql"),
];
const _: () = assert!(STEPS.len() as i64 == SCHEMA_VERSION);

const VERSION: &str = "schema_version";

pub(super) async fn status(client: &impl GenericClient) -> Result<SchemaStatus> {
    let known = SCHEMA_VERSION;
    let there: bool = client.query_one("SELECT to_regclass('meta') IS NOT NULL", &[]).await?.get(0);
    let found = if there { meta(client, VERSION).await?.unwrap_or(0) } else { 0 };
    Ok(SchemaStatus { found, known })
}

/// Brings the database to the current version, each step in its own transaction.
pub(super) async fn migrate(client: &mut Client, new_log_id: u32) -> Result<()> {
    let SchemaStatus { found, known } = status(client).await?;
    if found > known {
        return Err(StoreError::TooNew { found, known });
    }
    for (index, step) in STEPS.iter().enumerate().skip(found as usize) {
        let version = index as i64 + 1;
        let tx = client.transaction().await?;
        tx.batch_execute(step).await?;
        set_meta(&tx, VERSION, version).await?;
        tx.commit().await?;
    }
    if found == 0 {
        client
            .execute(
                "INSERT INTO meta (key, value) VALUES ('log_id', $1) ON CONFLICT DO NOTHING",
                &[&i64::from(new_log_id)],
            )
            .await?;
    }
    Ok(())
}

/// Refuses what a broken-off copy has left.
pub(super) async fn check_complete(client: &impl GenericClient) -> Result<()> {
    meta(client, UNFINISHED).await?.map_or(Ok(()), |_| Err(unfinished()))
}

pub(super) async fn log_id(client: &impl GenericClient) -> Result<u32> {
    meta(client, "log_id")
        .await?
        .and_then(|id| u32::try_from(id).ok())
        .ok_or_else(|| StoreError::Corrupt("the log has no id".into()))
}

/// Reads a number from `meta`.
pub(super) async fn meta(client: &impl GenericClient, key: &str) -> Result<Option<i64>> {
    let row = client.query_opt("SELECT value FROM meta WHERE key = $1", &[&key]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// Writes a number to `meta`.
pub(super) async fn set_meta(client: &impl GenericClient, key: &str, value: i64) -> Result<()> {
    client
        .execute(
            "INSERT INTO meta (key, value) VALUES ($1, $2)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            &[&key, &value],
        )
        .await?;
    Ok(())
}

/// Writes a number to `meta` unless a greater one is there.
pub(super) async fn raise_meta(client: &impl GenericClient, key: &str, value: i64) -> Result<()> {
    client
        .execute(
            "INSERT INTO meta (key, value) VALUES ($1, $2)
             ON CONFLICT (key) DO UPDATE SET value = greatest(meta.value, excluded.value)",
            &[&key, &value],
        )
        .await?;
    Ok(())
}
