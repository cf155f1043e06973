//! The writer's connection: a session that holds the writer's lock and an epoch.
//!
//! A transaction is two round trips (begin and look up; write and commit), one where only locks change.
//! Every transaction locks the row of its epoch first, so of two processes that both think they are the
//! writer only the later one commits. After a lost connection the fate of the last commit is unknown;
//! taking a new epoch waits for the old transaction to end, and then everything is read anew.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::{FutureExt, future::LocalBoxFuture, future::join};
use relay_proto::{
    Event,
    lease::{LeaseLimits, LeaseRow, LeaseTable, Now},
};
use tokio::time::Instant;
use tokio_postgres::{Client, Statement};

use super::{
    connect::{Server, Session, check},
    leases,
    log::{self, Names},
    migrate,
    pipeline::{self, Queued},
    social::SocialWrite,
};
use crate::{
    batch::Batch,
    error::{Result, StoreError},
    schema::NEXT_SEQ_FLOOR,
    social::{self, SocialDone, SocialOp},
    sql::{Prepared, Sql, WriterSql},
    writer::{DomainWrite, WriteBackend},
};

/// Held by the session of the writer; the number is "relay" in ASCII, then 1.
const WRITER_LOCK: i64 = 0x7265_6c61_7901;
/// How long a new process waits for the lock: the server needs a moment to see that a killed one is gone.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// A transaction that takes longer counts as lost.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Pauses between attempts to connect again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub(super) struct PostgresWriter {
    server: Server,
    new_log_id: u32,
    limits: LeaseLimits,
    lead: Option<Lead>,
    names: Names,
    /// The server process of the last session, which may outlive a broken connection.
    last_pid: Option<i32>,
    pause: Duration,
    retry_at: Option<Instant>,
    /// Whether `BEGIN` was sent.
    begun: bool,
    queued: Vec<Queued>,
}

/// A session that is the writer.
struct Lead {
    session: Session,
    epoch: i64,
    hold: Statement,
    log: log::Statements,
    leases: leases::Statements,
    social: Prepared,
}

impl Lead {
    fn begin(&self) -> LocalBoxFuture<'_, Result<(), tokio_postgres::Error>> {
        let client = &self.session.client;
        async move {
            let (begun, held) =
                join(client.batch_execute("BEGIN"), client.execute(&self.hold, &[&self.epoch]))
                    .await;
            begun?;
            held.map(drop)
        }
        .boxed_local()
    }
}

impl PostgresWriter {
    pub async fn open(server: Server, new_log_id: u32, limits: LeaseLimits) -> Result<Self> {
        let mut writer = Self {
            server,
            new_log_id,
            limits,
            lead: None,
            names: Names::default(),
            last_pid: None,
            pause: FIRST_PAUSE,
            retry_at: None,
            begun: false,
            queued: Vec::new(),
        };
        writer.lead = Some(writer.become_writer().await?);
        Ok(writer)
    }

    pub async fn log_id(&self) -> Result<u32> {
        migrate::check_complete(self.client()?).await?;
        migrate::log_id(self.client()?).await
    }

    pub async fn raise_tokens(&self) -> Result<u64> {
        leases::raise_tokens(self.client()?).await
    }

    async fn become_writer(&mut self) -> Result<Lead> {
        let mut session = Session::open(&self.server).await?;
        check(&self.server, &session).await?;
        self.lock(&session).await?;
        migrate::migrate(&mut session.client, self.new_log_id).await?;
        let client = &session.client;
        // Waits for a transaction that an earlier session may still have open.
        let epoch = client
            .query_one("UPDATE writer SET epoch = epoch + 1 RETURNING epoch", &[])
            .await?
            .get(0);
        if session.warned.load(Ordering::Acquire) {
            return Err(unconfirmed());
        }
        let hold = client.prepare("SELECT hold_epoch($1)").await?;
        let log = log::Statements::prepare(client).await?;
        let leases = leases::Statements::prepare(client).await?;
        self.last_pid = Some(session.backend_pid().await?);
        tracing::debug!(epoch, "this process is the writer of the database");
        Ok(Lead { session, epoch, hold, log, leases, social: Prepared::default() })
    }

    /// Takes the lock that only one session of the database can hold.
    async fn lock(&self, session: &Session) -> Result<()> {
        let until = Instant::now() + LOCK_PATIENCE;
        loop {
            if let Some(pid) = self.last_pid {
                // Ours, on the other side of a connection that broke.
                let end = "SELECT pg_terminate_backend(pid) FROM pg_locks
                           WHERE locktype = 'advisory' AND pid = $1";
                session.client.execute(end, &[&pid]).await?;
            }
            let taken = "SELECT pg_try_advisory_lock($1)";
            if session.client.query_one(taken, &[&WRITER_LOCK]).await?.get(0) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(StoreError::InUse);
            }
            tokio::time::sleep(FIRST_PAUSE).await;
        }
    }

    /// Connects again where the connection is gone, with growing pauses between attempts.
    async fn ensure_lead(&mut self) -> Result<&Lead> {
        if self.lead.as_ref().is_some_and(|lead| lead.session.client.is_closed()) {
            self.lead = None;
        }
        if self.lead.is_none() {
            if self.retry_at.is_some_and(|at| Instant::now() < at) {
                return Err(not_connected());
            }
            match self.become_writer().await {
                Ok(lead) => {
                    tracing::info!("connected to the database again");
                    self.lead = Some(lead);
                    self.pause = FIRST_PAUSE;
                    self.retry_at = None;
                }
                Err(error) => {
                    self.retry_at = Some(Instant::now() + self.pause);
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                    return Err(error);
                }
            }
        }
        self.lead()
    }

    fn lead(&self) -> Result<&Lead> {
        self.lead.as_ref().ok_or_else(not_connected)
    }

    pub fn client(&self) -> Result<&Client> {
        Ok(&self.lead()?.session.client)
    }
}

fn not_connected() -> StoreError {
    StoreError::Lost("there is no connection to the database; connecting again".into())
}

fn unconfirmed() -> StoreError {
    StoreError::Lost("the server did not confirm that the commit reached its standby".into())
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(TRANSACTION_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| Err(StoreError::Lost("the database does not answer".into())))
}

impl WriteBackend for PostgresWriter {
    type Domain = SocialWrite;

    fn is_lost(&self) -> bool {
        self.lead.as_ref().is_none_or(|lead| lead.session.client.is_closed())
    }

    async fn begin(&mut self) -> Result<()> {
        self.lead()?.session.warned.store(false, Ordering::Release);
        self.begun = false;
        self.queued.clear();
        Ok(())
    }

    async fn look_up(&mut self, next_seq: u64, events: &[Event]) -> Result<Batch> {
        self.begun = true;
        self.names.trim();
        let lead = self.lead.as_ref().ok_or_else(not_connected)?;
        let client = &lead.session.client;
        in_time(log::look_up(client, lead.begin(), &lead.log, &mut self.names, next_seq, events))
            .await
    }

    async fn write_events(&mut self, batch: &Batch) -> Result<()> {
        let queued = log::write(&self.lead()?.log, &self.names, batch)?;
        self.queued.extend(queued);
        Ok(())
    }

    async fn write_leases(&mut self, rows: &[LeaseRow]) -> Result<()> {
        let queued = leases::append(&self.lead()?.leases, rows);
        self.queued.push(queued);
        Ok(())
    }

    async fn checkpoint_leases(&mut self, table: &LeaseTable) -> Result<()> {
        let queued = leases::checkpoint(&self.lead()?.leases, table);
        self.queued.extend(queued);
        Ok(())
    }

    async fn commit(&mut self) -> Result<()> {
        let lead = self.lead.as_ref().ok_or_else(not_connected)?;
        let begin = (!self.begun).then(|| lead.begin());
        let sent = pipeline::send(&lead.session.client, begin, &self.queued, "COMMIT");
        in_time(async { Ok(sent.await?) }).await?;
        if lead.session.warned.load(Ordering::Acquire) {
            return Err(unconfirmed());
        }
        self.queued.clear();
        Ok(())
    }

    async fn rollback(&mut self, error: &StoreError) {
        self.queued.clear();
        self.names.forget();
        let alive = match error {
            // Its fate is unknown, or somebody else is the writer: only a new session brings certainty.
            StoreError::Lost(_) | StoreError::InUse => false,
            _ => match self.client() {
                Ok(client) => {
                    in_time(async { Ok(client.batch_execute("ROLLBACK").await?) }).await.is_ok()
                }
                Err(_) => false,
            },
        };
        if !alive {
            self.lead = None;
        }
    }

    async fn load_leases(&mut self, now: Now) -> Result<LeaseTable> {
        let limits = self.limits.clone();
        let client = &self.ensure_lead().await?.session.client;
        in_time(leases::load(client, &limits, now)).await
    }

    async fn next_seq(&mut self) -> Result<u64> {
        let client = self.client()?;
        let floor = migrate::meta(client, NEXT_SEQ_FLOOR).await?.unwrap_or(1) as u64;
        Ok((super::query::head_seq(client).await? + 1).max(floor))
    }
}

impl PostgresWriter {
    /// A connection inside the group's transaction, begun if nothing else has.
    async fn in_transaction(&mut self) -> Result<&Client> {
        let lead = self.lead.as_ref().ok_or_else(not_connected)?;
        if !self.begun {
            self.begun = true;
            in_time(async { Ok(lead.begin().await?) }).await?;
        }
        Ok(&lead.session.client)
    }

    /// The connection for the social tables, as it is.
    pub fn social(&self) -> Result<WriterSql<'_>> {
        let lead = self.lead()?;
        Ok(WriterSql::new(&lead.session.client, &lead.social))
    }

    /// Runs an operation under a savepoint, so that its failure is its own.
    async fn run_social(&mut self, op: SocialOp) -> Result<SocialDone> {
        self.in_transaction().await?;
        let lead = self.lead()?;
        let client = &lead.session.client;
        let sql = WriterSql::new(client, &lead.social);
        in_time(async {
            client.batch_execute("SAVEPOINT domain").await?;
            let done = match social::apply(&sql, op).await {
                Ok(done) => sql.settle().await.map(|()| done),
                Err(error) => Err(error),
            };
            let end =
                if done.is_ok() { "RELEASE domain" } else { "ROLLBACK TO domain; RELEASE domain" };
            client.batch_execute(end).await?;
            done
        })
        .await
    }
}

/// The social layer writes in the group's transaction; the domains that do not write with events use the pool.
impl DomainWrite<PostgresWriter> for SocialWrite {
    async fn run(&mut self, backend: &mut PostgresWriter) {
        if let Some(op) = self.op.take() {
            self.result = Some(backend.run_social(op).await);
        }
    }

    fn finish(self, committed: Result<()>) {
        let result = self.result.unwrap_or(Err(StoreError::Closed));
        let _ = self.reply.send(committed.and(result));
    }
}
