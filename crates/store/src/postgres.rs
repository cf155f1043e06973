//! The store on a PostgreSQL server, for more than one machine or where the operator wants it.
//!
//! One session writes (see [`crate::writer`]) on a thread of its own; a pool reads, deletes by policy, and serves
//! the writes of other domains. Exactly one process is the writer of a database: its session holds an advisory
//! lock, and each transaction holds the row of its epoch.

mod access;
mod connect;
mod events;
mod leases;
mod log;
mod migrate;
mod names;
mod pipeline;
#[cfg(test)]
mod plans;
mod query;
mod retention;
mod sessions;
mod social;
mod sql;
mod tls;
mod writer;

use std::{fmt, sync::Arc, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use relay_proto::lease::LeaseLimits;
use tokio::sync::oneshot;
use tokio_postgres::Client;

use crate::{
    clock::Clock,
    error::{Result, StoreError},
    schema::SchemaStatus,
    sql::Sql,
    writer::{CommitObserver, Writer, WriterHandle},
};
use connect::Server;
pub(crate) use log::array as number_list;
use names::ReadNames;
pub(crate) use sessions::{plain as plain_text, user_lock};
use social::SocialWrite;
use writer::PostgresWriter;

/// How long a read waits for a free connection.
const POOL_PATIENCE: Duration = Duration::from_secs(10);

/// How the store is opened.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgresql://user:password@host/database`, with `?sslmode=verify-full` for TLS. Never shown.
    pub url: String,
    /// Names the log if the database is new; random, so that cursors of another relay are known as such.
    pub new_log_id: u32,
    /// Connections beside the writer's, at least 1.
    pub readers: usize,
    /// Bounds of the lock table.
    pub lease_limits: LeaseLimits,
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions").field("readers", &self.readers).finish_non_exhaustive()
    }
}

/// A database that no relay can use while this is held: migrated, with the writer's lock.
pub(crate) struct Exclusive(PostgresWriter);

impl Exclusive {
    pub async fn open(url: &str, new_log_id: u32) -> Result<Self> {
        let server = connect::parse(url)?;
        PostgresWriter::open(server, new_log_id, LeaseLimits::default()).await.map(Self)
    }

    pub fn client(&self) -> Result<&Client> {
        self.0.client()
    }

    /// The connection for the social tables.
    pub fn social(&self) -> Result<impl Sql> {
        self.0.social()
    }
}

/// The store on PostgreSQL. Cloning shares it.
#[derive(Clone)]
pub struct PostgresStore {
    shared: Arc<Shared>,
    writer: WriterHandle<SocialWrite>,
}

struct Shared {
    log_id: u32,
    pool: Pool,
    names: ReadNames,
    writer_thread: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("log_id", &self.shared.log_id).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects, becomes the writer, migrates the database, and starts.
    ///
    /// # Errors
    /// [`StoreError::InUse`] where another process is the writer, [`StoreError::TooNew`], [`StoreError::Unsafe`],
    /// [`StoreError::Lost`] where no connection comes up.
    pub async fn open(
        options: PostgresOptions,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn CommitObserver>,
    ) -> Result<Self> {
        let server = connect::parse(&options.url)?;
        let (writer_thread, writer, log_id) =
            start_writer(server.clone(), &options, clock, observer).await?;
        let shared = Shared {
            log_id,
            pool: pool(server, options.readers)?,
            names: ReadNames::default(),
            writer_thread: std::sync::Mutex::new(Some(writer_thread)),
        };
        Ok(Self { shared: Arc::new(shared), writer })
    }

    /// The schema of the database, which is not changed; `None` where it is empty.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn schema_status(url: &str) -> Result<Option<SchemaStatus>> {
        let session = connect::Session::open(&connect::parse(url)?).await?;
        let status = migrate::status(&session.client).await?;
        Ok((status.found > 0).then_some(status))
    }

    /// Makes every later fencing token greater than any given before, also by what a restored backup has
    /// forgotten. For a database that no relay uses. Returns the new floor.
    ///
    /// # Errors
    /// As [`Self::open`], and where no tokens are left.
    pub async fn raise_tokens(url: &str) -> Result<u64> {
        let server = connect::parse(url)?;
        PostgresWriter::open(server, 0, LeaseLimits::default()).await?.raise_tokens().await
    }

    /// Names the log; part of every cursor.
    pub fn log_id(&self) -> u32 {
        self.shared.log_id
    }

    /// A connection for reading, or for a transaction of another domain.
    pub(crate) async fn client(&self) -> Result<Object> {
        Ok(self.shared.pool.get().await?)
    }

    /// Writes what waits and closes. Calls after it answer [`StoreError::Closed`].
    pub async fn close(&self) {
        self.writer.stop().await;
        let thread = self.shared.writer_thread.lock().map(|mut held| held.take());
        if let Ok(Some(thread)) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        self.shared.pool.close();
    }
}

fn pool(server: Server, readers: usize) -> Result<Pool> {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Pool::builder(Manager::from_config(server.config, server.tls, recycling))
        .max_size(readers.max(1))
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(POOL_PATIENCE))
        .create_timeout(Some(POOL_PATIENCE))
        .build()
        .map_err(|error| StoreError::Database(error.to_string()))
}

type Started = (std::thread::JoinHandle<()>, WriterHandle<SocialWrite>, u32);

async fn start_writer(
    server: Server,
    options: &PostgresOptions,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn CommitObserver>,
) -> Result<Started> {
    let (new_log_id, limits) = (options.new_log_id, options.lease_limits.clone());
    let (opened, ready) = oneshot::channel::<Result<(WriterHandle<SocialWrite>, u32)>>();
    let failed = |error: std::io::Error| StoreError::Database(error.to_string());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let thread = std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(move || {
            runtime.block_on(async {
                let start = async {
                    let backend = PostgresWriter::open(server, new_log_id, limits).await?;
                    let log_id = backend.log_id().await?;
                    let (writer, handle) = Writer::open(backend, clock, observer).await?;
                    Ok((writer, handle, log_id))
                };
                match start.await {
                    Ok((writer, handle, log_id)) => {
                        let _ = opened.send(Ok((handle, log_id)));
                        Box::pin(writer.run()).await;
                    }
                    Err(error) => {
                        let _ = opened.send(Err(error));
                    }
                }
            });
        })
        .map_err(failed)?;
    let (handle, log_id) = ready.await.map_err(|_| StoreError::Closed)??;
    Ok((thread, handle, log_id))
}
