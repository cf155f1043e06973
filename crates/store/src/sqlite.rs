//! The embedded store: one SQLite database in WAL mode with `synchronous=FULL`.
//!
//! One thread writes (see [`crate::writer`]), a few connections read, one connection checkpoints.

mod access;
mod dictionary;
mod events;
mod index;
mod leases;
mod log;
mod migrate;
mod query;
mod readers;
mod retention;
mod sessions;
mod social;
mod wal;
mod writer;

use std::{
    fmt,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use relay_proto::lease::LeaseLimits;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use crate::{
    clock::Clock,
    error::{Result, StoreError},
    schema::SchemaStatus,
    writer::{CommitObserver, Writer, WriterHandle},
};
use index::{DEFAULT_EVERY, IndexWriter, Recent, View};
use readers::Readers;
pub(crate) use writer::PutOff;
use writer::{SqliteWriter, Write};

/// How the store is opened.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The directory that holds `relay.db`; made if it is not there.
    pub dir: PathBuf,
    /// Names the log if the database is new; random, so that cursors of another relay are known as such.
    pub new_log_id: u32,
    /// Connections for reading, at least 1.
    pub readers: usize,
    /// Bounds of the lock table.
    pub lease_limits: LeaseLimits,
    /// Copy the database before a migration changes it.
    pub backup_before_migrate: bool,
    /// Events whose index entries are collected in memory before they are written, at least 1; `None` for the
    /// usual number. Fewer make writing slower, more need memory and a longer start after a crash.
    pub index_every: Option<usize>,
}

/// The embedded store. Cloning shares it.
#[derive(Clone)]
pub struct SqliteStore {
    shared: Arc<Shared>,
    writer: WriterHandle<Write>,
}

struct Shared {
    path: PathBuf,
    log_id: u32,
    readers: Readers,
    recent: Arc<Recent>,
    wal: wal::Checkpointer,
    writer_thread: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Held while the process uses the database.
    lock: std::sync::Mutex<Option<File>>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens or creates the database, migrates it, and starts the writer.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::TooNew`], [`StoreError::Corrupt`], [`StoreError::Full`] …
    pub async fn open(
        options: SqliteOptions,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn CommitObserver>,
    ) -> Result<Self> {
        let path = options.dir.join("relay.db");
        let lock = lock_dir(&options.dir)?;
        let conn = open_connection(&path, Role::Writer)?;
        migrate::migrate(&conn, &path, &options)?;
        migrate::check_complete(&conn)?;
        wal::reserve(&conn, &path)?;
        let log_id = migrate::log_id(&conn)?;
        let readers = Readers::open(&path, options.readers)?;
        let wal = wal::Checkpointer::start(&path)?;
        let index = IndexWriter::open(&conn, options.index_every.unwrap_or(DEFAULT_EVERY))?;
        let recent = index.recent().clone();
        let backend = SqliteWriter::new(conn, index, options.lease_limits, wal.signal());
        let (writer_thread, writer) = start_writer(backend, clock, observer).await?;
        let shared = Shared {
            path,
            log_id,
            readers,
            recent,
            wal,
            writer_thread: std::sync::Mutex::new(Some(writer_thread)),
            lock: std::sync::Mutex::new(Some(lock)),
        };
        Ok(Self { shared: Arc::new(shared), writer })
    }

    /// The schema of the database in `dir`, which is not changed; `None` where there is none.
    ///
    /// # Errors
    /// The file is there and is no database.
    pub fn schema_status(dir: &Path) -> Result<Option<SchemaStatus>> {
        let path = dir.join("relay.db");
        if !path.exists() {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        migrate::status(&Connection::open_with_flags(path, flags)?).map(Some)
    }

    /// Makes every later fencing token greater than any given before, also by what a restored backup has
    /// forgotten. For a database that no relay uses. Returns the new floor.
    ///
    /// # Errors
    /// As [`Self::open`], and where no tokens are left.
    pub fn raise_tokens(dir: &Path) -> Result<u64> {
        let _lock = lock_dir(dir)?;
        let path = dir.join("relay.db");
        if !path.exists() {
            return Err(StoreError::Database(format!("{} is not there", path.display())));
        }
        leases::raise_tokens(&open_connection(&path, Role::Writer)?)
    }

    /// Names the log; part of every cursor.
    pub fn log_id(&self) -> u32 {
        self.shared.log_id
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Runs statements in the group transaction under a savepoint; answered when they are durable.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.writer.domain(Write::new(run, reply)).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// As [`Self::write`]; statements may be put off to the end of the group transaction.
    pub(crate) async fn write_and_put_off<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Connection, &PutOff) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.writer.domain(Write::that_puts_off(run, reply)).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs a read on one of the reading connections.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.shared.readers.run(run).await
    }

    /// As [`Self::read`], with what is in memory at the time.
    async fn read_recent<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Connection, &View) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let recent = self.shared.recent.clone();
        self.read(move |conn| run(conn, &recent.view())).await
    }

    /// Writes what waits and closes. Calls after it answer [`StoreError::Closed`].
    pub async fn close(&self) {
        self.writer.stop().await;
        let thread = self.shared.writer_thread.lock().map(|mut held| held.take());
        if let Ok(Some(thread)) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        self.shared.wal.stop().await;
        if let Ok(mut lock) = self.shared.lock.lock() {
            lock.take();
        }
    }
}

async fn start_writer(
    backend: SqliteWriter,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn CommitObserver>,
) -> Result<(std::thread::JoinHandle<()>, WriterHandle<Write>)> {
    let (opened, ready) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build()
            {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = opened.send(Err(StoreError::Database(error.to_string())));
                    return;
                }
            };
            runtime.block_on(async {
                match Writer::open(backend, clock, observer).await {
                    Ok((writer, handle)) => {
                        let _ = opened.send(Ok(handle));
                        writer.run().await;
                    }
                    Err(error) => {
                        let _ = opened.send(Err(error));
                    }
                }
            });
        })
        .map_err(|error| StoreError::Database(error.to_string()))?;
    let handle = ready.await.map_err(|_| StoreError::Closed)??;
    Ok((thread, handle))
}

/// Opens and migrates the database in `dir`, which nobody else can use while the file is held. Its index tables are
/// complete.
pub(crate) fn exclusive(dir: &Path, new_log_id: u32) -> Result<(File, Connection)> {
    let lock = lock_dir(dir)?;
    let path = dir.join("relay.db");
    let conn = open_connection(&path, Role::Writer)?;
    let options = SqliteOptions {
        dir: dir.to_owned(),
        new_log_id,
        readers: 1,
        lease_limits: LeaseLimits::default(),
        backup_before_migrate: true,
        index_every: None,
    };
    migrate::migrate(&conn, &path, &options)?;
    let transaction = conn.unchecked_transaction()?;
    IndexWriter::open(&transaction, usize::MAX)?.settle(&transaction)?;
    transaction.commit()?;
    Ok((lock, conn))
}

/// Fills the index tables of a database that was filled with rows.
pub(crate) fn rebuild_indexes(conn: &Connection) -> Result<()> {
    index::rebuild(conn)
}

fn lock_dir(dir: &Path) -> Result<File> {
    let failed =
        |error: std::io::Error| StoreError::Database(format!("{}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(failed)?;
    let lock = File::create(dir.join("relay.lock")).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::InUse),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Statements that a connection keeps prepared: more than there are.
const STATEMENTS: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Writer,
    Reader,
    Checkpointer,
}

fn open_connection(path: &Path, role: Role) -> Result<Connection> {
    let flags = match role {
        Role::Writer => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        Role::Reader => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Role::Checkpointer => OpenFlags::SQLITE_OPEN_READ_WRITE,
    } | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(Duration::from_secs(5))?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    if role == Role::Writer {
        // Only for a new database: lets retention give space back.
        conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        conn.pragma_update(None, "journal_mode", "WAL")?;
        // The checkpointer does it; an automatic checkpoint would stall the commit it falls into.
        conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    }
    if role != Role::Reader {
        // Durable on commit, promised to every caller.
        conn.pragma_update(None, "synchronous", "FULL")?;
    }
    let cache_kib = if role == Role::Writer { 64 << 10 } else { 8 << 10 };
    conn.pragma_update(None, "cache_size", -cache_kib)?;
    if role == Role::Reader {
        conn.pragma_update(None, "mmap_size", 1_i64 << 30)?;
        rusqlite::vtab::array::load_module(&conn)?;
    }
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(conn)
}
