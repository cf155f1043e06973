//! State in a SQLite file of its own: one writer thread, many services' commits in one transaction.

use std::{collections::BTreeMap, path::Path, sync::Arc, thread::JoinHandle};

use futures_util::future::BoxFuture;
use relay_proto::ServiceName;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use super::state::{Commit, StateError, StateStore, Stored, Timer};

/// One row of `services` is one service and what it keeps, written whole when it changed; `timers`
/// and `cursors` hang on it. Only the writer thread writes; nothing deletes services.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS services (
  service       TEXT    NOT NULL PRIMARY KEY,
  revision      INTEGER NOT NULL,
  state_version INTEGER NOT NULL,
  state         TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS timers (
  service  TEXT    NOT NULL REFERENCES services,
  name     TEXT    NOT NULL,
  due_ms   INTEGER NOT NULL,
  every_ms INTEGER,
  payload  TEXT    NOT NULL,
  attempts INTEGER NOT NULL,
  PRIMARY KEY (service, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursors (
  service      TEXT NOT NULL REFERENCES services,
  subscription TEXT NOT NULL,
  cursor       TEXT NOT NULL,
  PRIMARY KEY (service, subscription)
) STRICT, WITHOUT ROWID;
";

/// Commits joined in one transaction at most.
const MAX_BATCH: usize = 256;

type Reply<T> = oneshot::Sender<Result<T, StateError>>;

enum Job {
    Load(ServiceName, Reply<Stored>),
    Commit(Commit, Reply<()>),
}

/// The embedded store of scripts' state.
#[derive(Debug)]
pub struct SqliteState {
    /// Bounded by its users: a service has at most a fixed number of commits under way.
    jobs: Option<mpsc::UnboundedSender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl SqliteState {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// Where it cannot be opened, or is no database of this version.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let connection = Connection::open(path).map_err(storage)?;
        // FULL: a commit that is answered is on the disk.
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000;",
            )
            .and_then(|()| connection.execute_batch(SCHEMA))
            .map_err(storage)?;
        let (jobs, wanted) = mpsc::unbounded_channel();
        let writer = std::thread::Builder::new()
            .name("script-state".to_owned())
            .spawn(move || write(connection, wanted))
            .map_err(|error| StateError::Storage(error.to_string()))?;
        Ok(Self { jobs: Some(jobs), writer: Some(writer) })
    }

    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(Reply<T>) -> Job,
    ) -> BoxFuture<'static, Result<T, StateError>> {
        let (reply, answer) = oneshot::channel();
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job(reply)).is_ok());
        Box::pin(async move {
            let gone = || StateError::Storage("the writer has ended".to_owned());
            if !sent {
                return Err(gone());
            }
            answer.await.unwrap_or_else(|_| Err(gone()))
        })
    }
}

impl Drop for SqliteState {
    /// Waits until what was handed over is written.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl StateStore for SqliteState {
    fn load(&self, service: &ServiceName) -> BoxFuture<'static, Result<Stored, StateError>> {
        let service = service.clone();
        self.ask(|reply| Job::Load(service, reply))
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<(), StateError>> {
        self.ask(|reply| Job::Commit(commit, reply))
    }
}

fn storage(error: rusqlite::Error) -> StateError {
    StateError::Storage(error.to_string())
}

fn write(mut connection: Connection, mut wanted: mpsc::UnboundedReceiver<Job>) {
    let mut next = wanted.blocking_recv();
    while let Some(job) = next.take() {
        let mut batch = Vec::new();
        let mut job = Some(job);
        while let Some(Job::Commit(commit, reply)) = job {
            batch.push((commit, reply));
            job = (batch.len() < MAX_BATCH).then(|| wanted.try_recv().ok()).flatten();
        }
        store(&mut connection, batch);
        if let Some(Job::Load(service, reply)) = job {
            let _ = reply.send(load(&connection, &service).map_err(storage));
        }
        next = wanted.blocking_recv();
    }
}

/// Stores a batch in one transaction, then answers each commit.
fn store(connection: &mut Connection, batch: Vec<(Commit, Reply<()>)>) {
    if batch.is_empty() {
        return;
    }
    let stored = (|| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut took = Vec::with_capacity(batch.len());
        for (commit, _) in &batch {
            took.push(store_one(&transaction, commit)?);
        }
        transaction.commit()?;
        Ok(took)
    })();
    match stored {
        Ok(took) => {
            for ((commit, reply), took) in batch.into_iter().zip(took) {
                let other_writer = || StateError::OtherWriter(commit.service.clone());
                let _ = reply.send(if took { Ok(()) } else { Err(other_writer()) });
            }
        }
        Err(error) => {
            let error = storage(error);
            for (_, reply) in batch {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }
}

/// Stores one commit; `false`, with nothing changed, when it builds on another revision.
fn store_one(transaction: &Transaction<'_>, commit: &Commit) -> rusqlite::Result<bool> {
    let service = commit.service.as_str();
    if commit.on_revision == 0 {
        transaction
            .prepare_cached("INSERT OR IGNORE INTO services VALUES (?1, 0, 0, NULL)")?
            .execute([service])?;
    }
    let changed = transaction
        .prepare_cached(
            "UPDATE services SET revision = revision + 1, state_version = ?3,
                                 state = coalesce(?4, state)
             WHERE service = ?1 AND revision = ?2",
        )?
        .execute(params![
            service,
            commit.on_revision as i64,
            commit.state_version,
            commit.state.as_deref()
        ])?;
    if changed == 0 {
        return Ok(false);
    }
    for (name, timer) in &commit.timers {
        store_timer(transaction, service, name, timer.as_ref())?;
    }
    if let Some((subscription, cursor)) = &commit.cursor {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO cursors VALUES (?1, ?2, ?3)")?
            .execute([service, subscription, cursor])?;
    }
    Ok(true)
}

fn store_timer(
    transaction: &Transaction<'_>,
    service: &str,
    name: &str,
    timer: Option<&Timer>,
) -> rusqlite::Result<()> {
    let Some(timer) = timer else {
        transaction
            .prepare_cached("DELETE FROM timers WHERE service = ?1 AND name = ?2")?
            .execute([service, name])?;
        return Ok(());
    };
    transaction
        .prepare_cached("INSERT OR REPLACE INTO timers VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![
            service,
            name,
            timer.due_ms as i64,
            timer.every_ms.map(|every| every as i64),
            timer.payload,
            timer.attempts
        ])?;
    Ok(())
}

fn load(connection: &Connection, service: &ServiceName) -> rusqlite::Result<Stored> {
    let service = service.as_str();
    let kept = connection
        .prepare_cached("SELECT revision, state_version, state FROM services WHERE service = ?1")?
        .query_row([service], |row| {
            Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get::<_, Option<String>>(2)?))
        })
        .optional()?;
    let Some((revision, state_version, state)) = kept else { return Ok(Stored::default()) };
    let timers = connection
        .prepare_cached(
            "SELECT name, due_ms, every_ms, payload, attempts FROM timers WHERE service = ?1",
        )?
        .query_map([service], |row| {
            let every: Option<i64> = row.get(2)?;
            let timer = Timer {
                due_ms: row.get::<_, i64>(1)? as u64,
                every_ms: every.map(|every| every as u64),
                payload: row.get(3)?,
                attempts: row.get(4)?,
            };
            Ok((row.get(0)?, timer))
        })?
        .collect::<rusqlite::Result<BTreeMap<_, _>>>()?;
    let cursors = connection
        .prepare_cached("SELECT subscription, cursor FROM cursors WHERE service = ?1")?
        .query_map([service], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<BTreeMap<_, _>>>()?;
    let state = state.map(Arc::from);
    Ok(Stored { revision: revision as u64, state_version, state, timers, cursors })
}
