//! Work on a store that no relay uses: its schema, its tokens, and copying it into the other kind.

mod postgres;
mod sqlite;
mod tables;

use std::{fmt, path::PathBuf};

use tokio::sync::mpsc;

use crate::{
    error::{Result, StoreError},
    postgres::PostgresStore,
    schema::SchemaStatus,
    sqlite::SqliteStore,
};
use tables::{Chunk, TABLES, Table};

/// Where a store is.
#[derive(Clone)]
pub enum StorePlace {
    /// The directory that holds `relay.db`.
    Sqlite { dir: PathBuf },
    /// A connection string; never shown.
    Postgres { url: String },
}

impl fmt::Debug for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite { dir } => f.debug_struct("Sqlite").field("dir", dir).finish(),
            Self::Postgres { .. } => f.debug_struct("Postgres").finish_non_exhaustive(),
        }
    }
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyProgress {
    pub table: &'static str,
    /// Rows written, of all tables together.
    pub done: u64,
    /// Rows to write, of all tables together.
    pub total: u64,
}

/// The schema of a store; `None` where there is none. Changes nothing.
///
/// # Errors
/// The store cannot be read.
pub async fn schema_status(place: &StorePlace) -> Result<Option<SchemaStatus>> {
    match place {
        StorePlace::Sqlite { dir } => SqliteStore::schema_status(dir),
        StorePlace::Postgres { url } => PostgresStore::schema_status(url).await,
    }
}

/// Brings a store to the schema of this program, without starting a relay on it. Makes it where there is none.
///
/// # Errors
/// [`StoreError::InUse`], [`StoreError::TooNew`], and what the database says.
pub async fn migrate(place: &StorePlace, new_log_id: u32) -> Result<SchemaStatus> {
    match place {
        StorePlace::Sqlite { dir } => drop(sqlite::open(dir, new_log_id)?),
        StorePlace::Postgres { url } => drop(postgres::open(url, new_log_id).await?),
    }
    schema_status(place).await?.ok_or(StoreError::Closed)
}

/// Makes every later fencing token greater than any given before, also by what a restored backup has forgotten.
/// Returns the new floor.
///
/// # Errors
/// [`StoreError::InUse`], and where no tokens are left.
pub async fn raise_tokens(place: &StorePlace) -> Result<u64> {
    match place {
        StorePlace::Sqlite { dir } => SqliteStore::raise_tokens(dir),
        StorePlace::Postgres { url } => PostgresStore::raise_tokens(url).await,
    }
}

/// Copies everything into an empty store: events under their `seq`, locks with their history and tokens, sessions,
/// tokens, the audit log. Cursors stay good, since the log keeps its id. The source is not changed.
/// A copy that did not finish leaves a store that does not open.
///
/// Returns how many rows were copied.
///
/// # Errors
/// One of the two is in use, the source is of another schema, the target is not empty, or a database failed.
pub async fn copy(
    from: &StorePlace,
    to: &StorePlace,
    mut progress: impl FnMut(CopyProgress),
) -> Result<u64> {
    match schema_status(from).await? {
        None => return Err(StoreError::Database("there is no store to copy from".into())),
        Some(SchemaStatus { found, known }) if found > known => {
            return Err(StoreError::TooNew { found, known });
        }
        Some(SchemaStatus { found, known }) if found < known => {
            return Err(StoreError::Database(format!(
                "the store to copy from has schema {found}, this program needs {known}: migrate it first"
            )));
        }
        Some(_) => {}
    }
    let (send, mut chunks) = mpsc::channel(CHUNKS_AHEAD);
    let (total, reading) = match from {
        StorePlace::Sqlite { dir } => sqlite::read(dir, send)?,
        StorePlace::Postgres { url } => postgres::read(url, send).await?,
    };
    let mut target = match to {
        StorePlace::Sqlite { dir } => Target::Sqlite(sqlite::Target::open(dir)?),
        StorePlace::Postgres { url } => {
            Target::Postgres(Box::new(postgres::Target::open(url).await?))
        }
    };
    let mut done = 0;
    while let Some(chunk) = chunks.recv().await {
        done += chunk.rows.len() as u64;
        let table = chunk.table.name;
        target = target.write(chunk).await?;
        progress(CopyProgress { table, done, total });
    }
    reading.await.map_err(|error| StoreError::Database(error.to_string()))??;
    if done != total {
        return Err(StoreError::Database(format!("{done} of {total} rows arrived")));
    }
    target.finish().await?;
    Ok(done)
}

/// Chunks that wait for the target.
const CHUNKS_AHEAD: usize = 4;
/// Rows of a chunk.
const CHUNK_ROWS: usize = 500;
/// Bytes of values after which a chunk ends: rows with pictures are large.
const CHUNK_BYTES: usize = 8 << 20;

fn size(values: &[tables::Value]) -> usize {
    values
        .iter()
        .map(|value| match value {
            tables::Value::Bytes(bytes) => bytes.len(),
            tables::Value::Text(text) => text.len(),
            _ => 8,
        })
        .sum()
}

/// Set in `meta` while a copy runs.
pub(crate) const UNFINISHED: &str = "copy_unfinished";

pub(crate) fn unfinished() -> StoreError {
    StoreError::Unsafe("a copy into it did not finish; delete it and copy again".into())
}

type Reading = tokio::task::JoinHandle<Result<()>>;

enum Target {
    Sqlite(sqlite::Target),
    Postgres(Box<postgres::Target>),
}

impl Target {
    async fn write(self, chunk: Chunk) -> Result<Self> {
        match self {
            Self::Sqlite(target) => tokio::task::spawn_blocking(move || {
                target.write(&chunk)?;
                Ok(Self::Sqlite(target))
            })
            .await
            .map_err(|error| StoreError::Database(error.to_string()))?,
            Self::Postgres(target) => {
                target.write(&chunk).await?;
                Ok(Self::Postgres(target))
            }
        }
    }

    async fn finish(self) -> Result<()> {
        match self {
            Self::Sqlite(target) => tokio::task::spawn_blocking(move || target.finish())
                .await
                .map_err(|error| StoreError::Database(error.to_string()))?,
            Self::Postgres(target) => target.finish().await,
        }
    }
}

fn not_empty(table: &Table) -> StoreError {
    StoreError::Database(format!("the store to copy into is not empty: {} has rows", table.name))
}

/// The tables that tell whether a store is empty.
fn telling() -> impl Iterator<Item = &'static Table> {
    TABLES.iter().filter(|table| table.name != "meta")
}
