//! Results in a SQLite file: one writer thread, what waits goes into one transaction.

use std::{path::Path, thread::JoinHandle};

use futures_util::future::BoxFuture;
use relay_proto::{CallError, call::Json};
use rusqlite::{Connection, TransactionBehavior, params};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use super::{KeptResult, ResultKey, ResultStore, ResultStoreError};

/// One row is one idempotency key: `state` is 0 while its call runs, 1 with a result, 2 with an
/// error. Rows are deleted when they expire or make room for newer ones.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS results (
  key           TEXT    NOT NULL PRIMARY KEY,
  fingerprint   INTEGER NOT NULL,
  expires_at_ms INTEGER NOT NULL,
  state         INTEGER NOT NULL CHECK (state IN (0, 1, 2)),
  outcome       TEXT
) STRICT, WITHOUT ROWID;
";

/// Writes joined in one transaction at most.
const MAX_BATCH: usize = 256;

type Answer<T> = oneshot::Sender<Result<T, ResultStoreError>>;

enum Job {
    Load(u64, Answer<Vec<KeptResult>>),
    Put(Box<KeptResult>, Answer<()>),
    Forget(Vec<ResultKey>),
}

/// The embedded store of results.
#[derive(Debug)]
pub struct SqliteResults {
    /// Bounded by the calls with keys that may run at once.
    jobs: Option<mpsc::UnboundedSender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl SqliteResults {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// Where it cannot be opened, or is no database of this version.
    pub fn open(path: &Path) -> Result<Self, ResultStoreError> {
        let connection = Connection::open(path).map_err(failed)?;
        // FULL: a key whose call starts is on the disk.
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000;",
            )
            .and_then(|()| connection.execute_batch(SCHEMA))
            .map_err(failed)?;
        let (jobs, wanted) = mpsc::unbounded_channel();
        let writer = std::thread::Builder::new()
            .name("call-results".to_owned())
            .spawn(move || write(connection, wanted))
            .map_err(|error| ResultStoreError(error.to_string()))?;
        Ok(Self { jobs: Some(jobs), writer: Some(writer) })
    }

    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(Answer<T>) -> Job,
    ) -> BoxFuture<'static, Result<T, ResultStoreError>> {
        let (reply, answer) = oneshot::channel();
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job(reply)).is_ok());
        Box::pin(async move {
            let gone = || ResultStoreError("the writer has ended".to_owned());
            if !sent {
                return Err(gone());
            }
            answer.await.unwrap_or_else(|_| Err(gone()))
        })
    }
}

impl Drop for SqliteResults {
    /// Waits until what was handed over is written.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl ResultStore for SqliteResults {
    fn load(&self, now_ms: u64) -> BoxFuture<'static, Result<Vec<KeptResult>, ResultStoreError>> {
        self.ask(|reply| Job::Load(now_ms, reply))
    }

    fn put(&self, kept: KeptResult) -> BoxFuture<'static, Result<(), ResultStoreError>> {
        self.ask(|reply| Job::Put(Box::new(kept), reply))
    }

    fn forget(&self, keys: Vec<ResultKey>) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(Job::Forget(keys));
        }
    }
}

fn failed(error: rusqlite::Error) -> ResultStoreError {
    ResultStoreError(error.to_string())
}

fn write(mut connection: Connection, mut wanted: mpsc::UnboundedReceiver<Job>) {
    while let Some(job) = wanted.blocking_recv() {
        let mut batch = vec![job];
        while batch.len() < MAX_BATCH
            && let Ok(job) = wanted.try_recv()
        {
            batch.push(job);
        }
        let done = run(&mut connection, &batch);
        for job in batch {
            match job {
                Job::Put(_, reply) => {
                    let _ = reply.send(done.clone());
                }
                Job::Load(now_ms, reply) => {
                    let _ = reply.send(load(&connection, now_ms).map_err(failed));
                }
                Job::Forget(_) => {}
            }
        }
    }
}

/// Everything that is written, in one transaction.
fn run(connection: &mut Connection, batch: &[Job]) -> Result<(), ResultStoreError> {
    let written = (|| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for job in batch {
            match job {
                Job::Put(kept, _) => put(&transaction, kept)?,
                Job::Forget(keys) => {
                    let mut delete =
                        transaction.prepare_cached("DELETE FROM results WHERE key = ?1")?;
                    for key in keys {
                        delete.execute([key_text(key)])?;
                    }
                }
                Job::Load(now_ms, _) => {
                    transaction
                        .prepare_cached("DELETE FROM results WHERE expires_at_ms <= ?1")?
                        .execute([*now_ms as i64])?;
                }
            }
        }
        transaction.commit()
    })();
    written.map_err(failed)
}

fn put(connection: &Connection, kept: &KeptResult) -> rusqlite::Result<()> {
    let (state, outcome) = match &kept.outcome {
        None => (0, None),
        Some(Ok(value)) => (1, Some(value.get().to_owned())),
        Some(Err(error)) => (2, Some(error_text(error))),
    };
    connection
        .prepare_cached("INSERT OR REPLACE INTO results VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![
            key_text(&kept.key),
            kept.fingerprint as i64,
            kept.expires_at_ms as i64,
            state,
            outcome
        ])?;
    Ok(())
}

fn load(connection: &Connection, now_ms: u64) -> rusqlite::Result<Vec<KeptResult>> {
    let mut select = connection.prepare(
        "SELECT key, fingerprint, expires_at_ms, state, outcome FROM results
         WHERE expires_at_ms > ?1 ORDER BY expires_at_ms",
    )?;
    let rows = select.query_map([now_ms as i64], |row| {
        let (key, fingerprint, expires): (String, i64, i64) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        let outcome = read_outcome(row.get(3)?, row.get(4)?);
        Ok((key, fingerprint as u64, expires as u64, outcome))
    })?;
    let mut all = Vec::new();
    for row in rows {
        let (key, fingerprint, expires_at_ms, outcome) = row?;
        let Ok(key) = serde_json::from_str(&key) else { continue };
        all.push(KeptResult { key, fingerprint, expires_at_ms, outcome });
    }
    Ok(all)
}

/// A row that cannot be read counts as interrupted: it must not run again.
fn read_outcome(state: i64, text: Option<String>) -> Option<Result<Json, CallError>> {
    let text = text?;
    match state {
        1 => RawValue::from_string(text).ok().map(Ok),
        2 => {
            let mut error: serde_json::Value = serde_json::from_str(&text).ok()?;
            let message = error["message"].as_str()?.to_owned();
            Some(Err(CallError::from_wire(
                error["code"].as_i64()?,
                message,
                Some(error["data"].take()),
            )))
        }
        _ => None,
    }
}

fn error_text(error: &CallError) -> String {
    let (code, data) = (error.code.number(), error.wire_data());
    serde_json::json!({ "code": code, "message": error.message, "data": data }).to_string()
}

fn key_text(key: &ResultKey) -> String {
    // A struct of texts always serialises.
    serde_json::to_string(key).unwrap_or_default()
}
