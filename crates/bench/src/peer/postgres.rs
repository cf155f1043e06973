//! PostgreSQL with its default `synchronous_commit=on`, one connection a client, prepared
//! statements. A lock is a row: taken by an upsert where it is free or expired, freed by an
//! update that compares the token. Waiting is an advisory lock of the session, which serves first
//! come, first served; the token's update is then the one durable write.

use anyhow::{Context, ensure};
use tokio_postgres::{Client, NoTls, Statement};

use crate::{
    scenario::{
        Run,
        locks::{Keys, Locker},
    },
    server::{Postgres, Target},
};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS locks (resource text PRIMARY KEY, owner text, \
                     token bigint NOT NULL, expires_at timestamptz NOT NULL)";
const ACQUIRE: &str = "INSERT INTO locks VALUES ($1, $2, 1, now() + interval '60 s') \
                       ON CONFLICT (resource) DO UPDATE SET owner = $2, token = locks.token + 1, \
                       expires_at = now() + interval '60 s' \
                       WHERE locks.owner IS NULL OR locks.expires_at < now() RETURNING token";
const ACQUIRE_AFTER_WAIT: &str = "INSERT INTO locks VALUES ($1, $2, 1, now()) \
                                  ON CONFLICT (resource) DO UPDATE SET owner = $2, \
                                  token = locks.token + 1 RETURNING token";
const RELEASE: &str = "UPDATE locks SET owner = NULL WHERE resource = $1 AND token = $2";

/// The server and how to connect to it.
pub async fn start(run: &Run) -> anyhow::Result<(Target, String)> {
    let database = Postgres::start(&run.servers.work_dir).await?;
    let url = database.url();
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(TABLE).await?;
    Ok((Target::of_database("PostgreSQL", database), url))
}

pub async fn connect(url: &str, count: usize, keys: Keys) -> anyhow::Result<Vec<PostgresLocker>> {
    let mut clients = Vec::with_capacity(count);
    for client in 0..count {
        let (session, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(connection);
        let waits = keys == Keys::One;
        let acquire = session.prepare(if waits { ACQUIRE_AFTER_WAIT } else { ACQUIRE }).await?;
        clients.push(PostgresLocker {
            acquire,
            release: session.prepare(RELEASE).await?,
            wait: session.prepare("SELECT pg_advisory_lock(1)").await?,
            hand_over: session.prepare("SELECT pg_advisory_unlock(1)").await?,
            waits,
            resource: if waits { "bench/hot".to_owned() } else { format!("bench/{client}") },
            owner: format!("client-{client}"),
            session,
        });
    }
    Ok(clients)
}

pub struct PostgresLocker {
    session: Client,
    acquire: Statement,
    release: Statement,
    wait: Statement,
    hand_over: Statement,
    waits: bool,
    resource: String,
    owner: String,
}

impl std::fmt::Debug for PostgresLocker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresLocker").field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl Locker for PostgresLocker {
    async fn acquire(&mut self) -> anyhow::Result<u64> {
        if self.waits {
            self.session.query(&self.wait, &[]).await?;
        }
        let rows = self.session.query(&self.acquire, &[&self.resource, &self.owner]).await?;
        let row = rows.first().with_context(|| format!("{} is held", self.resource))?;
        Ok(row.try_get::<_, i64>(0)?.try_into()?)
    }

    async fn release(&mut self, token: u64) -> anyhow::Result<()> {
        if self.waits {
            self.session.query(&self.hand_over, &[]).await?;
            return Ok(());
        }
        let token = i64::try_from(token)?;
        let freed = self.session.execute(&self.release, &[&self.resource, &token]).await?;
        ensure!(freed == 1, "{} was lost", self.resource);
        Ok(())
    }
}
