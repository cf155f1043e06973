//! Connections to the server: settings that every session has, checks before the first write.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::poll_fn;
use tokio_postgres::{
    AsyncMessage, Client, Config,
    config::{Host, SslMode},
    error::SqlState,
};

use super::tls::{self, Tls};
use crate::error::{Result, StoreError};

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long sent bytes may stay unacknowledged before the connection counts as lost.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of every session. Commits wait for the disk (and for synchronous standbys, where there are any);
/// queries here name their index by their shape, so the planner is kept from scans that look cheap on a young table.
const SESSION: &str = "-c synchronous_commit=on -c jit=off -c enable_seqscan=off -c enable_bitmapscan=off \
     -c enable_hashjoin=off -c enable_mergejoin=off -c plan_cache_mode=force_generic_plan \
     -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
     -c timezone=UTC -c client_min_messages=warning -c standard_conforming_strings=on";

/// Where the server is, and how it is spoken to.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub config: Config,
    pub tls: Tls,
}

/// Reads a connection string (`postgresql://…` or `key=value …`).
pub(super) fn parse(url: &str) -> Result<Server> {
    let (url, wanted) = tls::split(url.trim());
    let tls = Tls::new(&wanted)?;
    // The parser's own message may quote what it could not read, a password included.
    let mut config: Config = url.parse().map_err(|_| {
        StoreError::Database(
            "the connection string cannot be read; it is postgresql://user@host/database".into(),
        )
    })?;
    let options = match config.get_options() {
        Some(given) => format!("{given} {SESSION}"),
        None => SESSION.to_owned(),
    };
    config.options(options);
    if config.get_application_name().is_none() {
        config.application_name("relay");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(SEND_TIMEOUT);
    }
    config.keepalives_idle(SEND_TIMEOUT);
    config.ssl_mode(if tls.is_on() { SslMode::Require } else { SslMode::Disable });
    if !tls.is_on() && config.get_hosts().iter().any(is_elsewhere) {
        tracing::warn!(
            "the database is on another machine and spoken to without TLS; say sslmode=verify-full"
        );
    }
    Ok(Server { config, tls })
}

fn is_elsewhere(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            let address = name.parse::<std::net::IpAddr>();
            name != "localhost" && !address.is_ok_and(|address| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => false,
    }
}

/// A session with a task that drives it; the task ends with the session.
pub(super) struct Session {
    pub client: Client,
    /// Set by a warning of the server. A commit with one is in doubt: the server warns when it gave up
    /// waiting for a standby, although it then reports success.
    pub warned: Arc<AtomicBool>,
    driver: tokio::task::JoinHandle<()>,
}

impl Session {
    pub async fn open(server: &Server) -> Result<Self> {
        let (client, mut connection) = server
            .config
            .connect(server.tls.clone())
            .await
            .map_err(|error| StoreError::from(error).named())?;
        let warned = Arc::new(AtomicBool::new(false));
        let driver = tokio::spawn({
            let warned = warned.clone();
            async move {
                while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
                    match message {
                        Ok(AsyncMessage::Notice(notice)) => {
                            tracing::warn!(message = notice.message(), "the database warns");
                            warned.store(true, Ordering::Release);
                        }
                        Ok(_) => {}
                        Err(error) => {
                            tracing::debug!(%error, "a database connection ended");
                            break;
                        }
                    }
                }
            }
        });
        Ok(Self { client, warned, driver })
    }

    pub async fn backend_pid(&self) -> Result<i32> {
        Ok(self.client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Refuses a server that would lose what it acknowledged, and one behind a pooler that swaps sessions.
pub(super) async fn check(server: &Server, session: &Session) -> Result<()> {
    let rows = session
        .client
        .query(
            "SELECT name, setting FROM pg_settings WHERE name IN
             ('fsync', 'full_page_writes', 'synchronous_commit', 'server_encoding')",
            &[],
        )
        .await?;
    for row in rows {
        let (name, setting): (&str, &str) = (row.get(0), row.get(1));
        match (name, setting) {
            ("fsync", "off") => {
                return Err(StoreError::Unsafe(
                    "the server runs with fsync=off and would lose acknowledged writes".into(),
                ));
            }
            ("full_page_writes", "off") => tracing::warn!(
                "the database server runs with full_page_writes=off; a power cut may damage it"
            ),
            ("synchronous_commit", "off" | "local" | "remote_write") => {
                return Err(StoreError::Unsafe(format!(
                    "synchronous_commit is {setting} although this session set it on; \
                     is a pooler between?"
                )));
            }
            ("server_encoding", encoding) if encoding != "UTF8" => {
                return Err(StoreError::Unsafe(format!(
                    "the database is encoded in {encoding}; it must be UTF8"
                )));
            }
            _ => {}
        }
    }
    check_pooler(server, session).await
}

/// Two sessions that are open at the same time have two server processes, unless a pooler hands the idle one's
/// process to the other. Prepared statements and the writer's lock cannot work there.
async fn check_pooler(server: &Server, session: &Session) -> Result<()> {
    let pooled = || {
        StoreError::Unsafe(
            "a pooler in transaction mode stands before the database; connect directly or in session mode".into(),
        )
    };
    let mine = session.backend_pid().await?;
    let other = Session::open(server).await?;
    if other.backend_pid().await? == mine || session.backend_pid().await? != mine {
        return Err(pooled());
    }
    Ok(())
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            // Everything that is not the server's own word about a statement is a broken connection, save our mistakes.
            let text = error.to_string();
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let text = source.map_or_else(|| text.clone(), |source| format!("{text}: {source}"));
            let broken = error.is_closed()
                || std::error::Error::source(&error)
                    .is_some_and(|source| source.is::<std::io::Error>());
            return if broken || text.starts_with("timeout") || text.starts_with("error connecting")
            {
                Self::Lost(text)
            } else {
                Self::Database(text)
            };
        };
        let text = match db.detail() {
            Some(_) | None => format!("{} ({})", db.message(), db.code().code()),
        };
        match db.code() {
            code if code.code() == DEPOSED => Self::InUse,
            &SqlState::DISK_FULL => Self::Full,
            &SqlState::T_R_SERIALIZATION_FAILURE
            | &SqlState::T_R_DEADLOCK_DETECTED
            | &SqlState::LOCK_NOT_AVAILABLE
            | &SqlState::TOO_MANY_CONNECTIONS => Self::Busy,
            &SqlState::DATA_CORRUPTED | &SqlState::INDEX_CORRUPTED => Self::Corrupt(text),
            // Shutdown, crash, start, cancel: the statement's fate may be unknown.
            code if code.code().starts_with("57P") || code.code().starts_with("08") => {
                Self::Lost(text)
            }
            &SqlState::QUERY_CANCELED => Self::Lost(text),
            // A standby: after a failover the address may lead to the new primary again.
            &SqlState::READ_ONLY_SQL_TRANSACTION => Self::Lost(text),
            _ => Self::Database(text),
        }
    }
}

/// Raised by `hold_epoch`.
const DEPOSED: &str = "RL001";

impl StoreError {
    /// Says that it was the connecting that failed.
    fn named(self) -> Self {
        match self {
            Self::Lost(text) | Self::Database(text) => {
                Self::Lost(format!("cannot connect to the database: {text}"))
            }
            other => other,
        }
    }
}

impl From<deadpool_postgres::PoolError> for StoreError {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        use deadpool_postgres::PoolError as E;
        match error {
            E::Backend(error) => Self::from(error).named(),
            E::Timeout(_) => Self::Busy,
            E::Closed => Self::Closed,
            other => Self::Database(other.to_string()),
        }
    }
}
