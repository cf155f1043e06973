//! The writer's connection.

use std::{
    cell::RefCell,
    sync::{Arc, atomic::Ordering},
};

use relay_proto::{
    Event,
    lease::{LeaseLimits, LeaseRow, LeaseTable, Now},
};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{dictionary::Dictionary, index::IndexWriter, leases, log, migrate, query, wal};
use crate::{
    batch::Batch,
    error::{Result, StoreError},
    schema::NEXT_SEQ_FLOOR,
    sql::Later,
    writer::{DomainWrite, WriteBackend},
};

pub(super) struct SqliteWriter {
    conn: Connection,
    names: Dictionary,
    index: IndexWriter,
    limits: LeaseLimits,
    wal: Arc<wal::Signal>,
    put_off: PutOff,
}

/// Statements that run at the end of the group transaction: full text writes out what it has collected at each
/// savepoint, so its statements of a whole group go together.
pub(crate) type PutOff = RefCell<Vec<Later>>;

impl SqliteWriter {
    pub fn new(
        conn: Connection,
        index: IndexWriter,
        limits: LeaseLimits,
        wal: Arc<wal::Signal>,
    ) -> Self {
        Self { conn, names: Dictionary::default(), index, limits, wal, put_off: PutOff::default() }
    }

    /// Begins the log file anew where the checkpointer asked for it; it has copied nearly everything.
    fn reset_wal_if_asked(&self) {
        if self.wal.reset.swap(false, Ordering::Relaxed) {
            let reset = self.conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
            if let Err(error) = reset {
                tracing::debug!(%error, "the log could not begin anew; readers are using it");
            }
        }
    }
}

impl WriteBackend for SqliteWriter {
    type Domain = Write;

    async fn begin(&mut self) -> Result<()> {
        Ok(self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(|_| ())?)
    }

    async fn look_up(&mut self, next_seq: u64, events: &[Event]) -> Result<Batch> {
        log::look_up(&self.conn, &mut self.names, &self.index, next_seq, events.iter())
    }

    async fn write_events(&mut self, batch: &Batch) -> Result<()> {
        log::write(&self.conn, &mut self.names, &mut self.index, batch)
    }

    async fn write_leases(&mut self, rows: &[LeaseRow]) -> Result<()> {
        leases::append(&self.conn, rows)
    }

    async fn commit(&mut self) -> Result<()> {
        for later in self.put_off.take() {
            later.run(&self.conn)?;
        }
        self.conn.prepare_cached("COMMIT")?.execute([])?;
        self.index.committed();
        self.wal.commits.fetch_add(1, Ordering::Relaxed);
        self.reset_wal_if_asked();
        Ok(())
    }

    async fn rollback(&mut self, _: &StoreError) {
        self.put_off.take();
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
        self.names.forget();
        self.index.rolled_back();
    }

    async fn load_leases(&mut self, now: Now) -> Result<LeaseTable> {
        leases::load(&self.conn, &self.limits, now)
    }

    async fn next_seq(&mut self) -> Result<u64> {
        let floor = migrate::meta(&self.conn, NEXT_SEQ_FLOOR)?.unwrap_or(1) as u64;
        Ok((query::head_seq(&self.conn)? + 1).max(floor))
    }

    async fn checkpoint_leases(&mut self, table: &LeaseTable) -> Result<()> {
        leases::checkpoint(&self.conn, table)
    }

    async fn settle(&mut self) -> Result<()> {
        self.index.settle(&self.conn)
    }
}

/// A write of another domain: statements now, the answer after the commit.
pub(super) struct Write(Box<dyn Job>);

trait Job: Send {
    fn run(&mut self, conn: &Connection, put_off: &PutOff);
    fn finish(self: Box<Self>, committed: Result<()>);
}

struct JobOf<T, F> {
    run: Option<F>,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl Write {
    pub fn new<T: Send + 'static>(
        run: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
        reply: oneshot::Sender<Result<T>>,
    ) -> Self {
        Self::that_puts_off(move |conn, _| run(conn), reply)
    }

    pub fn that_puts_off<T: Send + 'static>(
        run: impl FnOnce(&Connection, &PutOff) -> Result<T> + Send + 'static,
        reply: oneshot::Sender<Result<T>>,
    ) -> Self {
        Self(Box::new(JobOf { run: Some(run), result: None, reply }))
    }
}

impl<T: Send, F: FnOnce(&Connection, &PutOff) -> Result<T> + Send> Job for JobOf<T, F> {
    fn run(&mut self, conn: &Connection, put_off: &PutOff) {
        self.result = self.run.take().map(|run| under_savepoint(conn, put_off, run));
    }

    fn finish(self: Box<Self>, committed: Result<()>) {
        let result = self.result.unwrap_or(Err(StoreError::Closed));
        let _ = self.reply.send(committed.and(result));
    }
}

impl DomainWrite<SqliteWriter> for Write {
    async fn run(&mut self, backend: &mut SqliteWriter) {
        self.0.run(&backend.conn, &backend.put_off);
    }

    fn finish(self, committed: Result<()>) {
        self.0.finish(committed);
    }
}

fn under_savepoint<T>(
    conn: &Connection,
    put_off: &PutOff,
    run: impl FnOnce(&Connection, &PutOff) -> Result<T>,
) -> Result<T> {
    let before = put_off.borrow().len();
    let execute = |sql| conn.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
    execute("SAVEPOINT domain")?;
    match run(conn, put_off) {
        Ok(done) => {
            execute("RELEASE domain")?;
            Ok(done)
        }
        Err(error) => {
            put_off.borrow_mut().truncate(before);
            conn.execute_batch("ROLLBACK TO domain; RELEASE domain")?;
            Err(error)
        }
    }
}
