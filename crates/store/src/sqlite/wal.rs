//! Checkpoints, off the writer's path.
//!
//! A checkpoint stalls the commit that it falls into, so a second connection copies pages back while the
//! writer goes on. Only to begin the log file anew does the writer have to take part, and then little is left to copy.
//! The file has its size from the start and keeps it: writing over it needs no change of its metadata, which
//! makes the sync of each commit faster.

use std::{
    fs::OpenOptions,
    io::Write,
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::Connection;

use super::{Role, open_connection};
use crate::error::{Result, StoreError};

/// What the log's file is filled to before its first use.
const RESERVED_BYTES: usize = 16 << 20;
/// Pages in the log from which the writer is asked to begin it anew: about what is reserved.
const RESET_FROM_PAGES: i64 = 4_000;
/// How often pages are copied back while there are commits.
const INTERVAL: Duration = Duration::from_millis(500);

/// What writer and checkpointer tell each other.
#[derive(Debug, Default)]
pub(super) struct Signal {
    /// Transactions committed so far.
    pub commits: AtomicU64,
    /// The writer should begin the log anew after its next commit.
    pub reset: AtomicBool,
}

/// Fills the log's file with zeros, which end a log like the end of the file does.
///
/// For the only connection of a database, before anything else is written. A file system without room for it is
/// left as it is: the log then grows as it is used.
pub(super) fn reserve(conn: &Connection, db: &Path) -> Result<()> {
    // What a crash has left goes into the database; then no part of the file is in use.
    let busy: bool = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy {
        return Ok(());
    }
    let mut name = db.as_os_str().to_owned();
    name.push("-wal");
    let filled = OpenOptions::new().write(true).open(&name).and_then(|mut file| {
        let written = file.write_all(&vec![0; RESERVED_BYTES]).and_then(|()| file.sync_data());
        if written.is_err() {
            file.set_len(0)?;
        }
        written
    });
    if let Err(error) = filled {
        tracing::warn!(%error, "no room was reserved for the database's log");
    }
    Ok(())
}

pub(super) struct Checkpointer {
    signal: Arc<Signal>,
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Checkpointer {
    pub fn start(db: &Path) -> Result<Self> {
        let conn = open_connection(db, Role::Checkpointer)?;
        let signal = Arc::new(Signal::default());
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let thread = std::thread::Builder::new()
            .name("store-checkpoint".into())
            .spawn({
                let (signal, stop) = (signal.clone(), stop.clone());
                move || run(&conn, &signal, &stop)
            })
            .map_err(|error| StoreError::Database(error.to_string()))?;
        Ok(Self { signal, stop, thread: Mutex::new(Some(thread)) })
    }

    pub fn signal(&self) -> Arc<Signal> {
        self.signal.clone()
    }

    pub async fn stop(&self) {
        if let Ok(mut stopped) = self.stop.0.lock() {
            *stopped = true;
        }
        self.stop.1.notify_all();
        let thread = self.thread.lock().ok().and_then(|mut held| held.take());
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        if let Ok(mut stopped) = self.stop.0.lock() {
            *stopped = true;
        }
        self.stop.1.notify_all();
    }
}

fn run(conn: &Connection, signal: &Signal, stop: &(Mutex<bool>, Condvar)) {
    let mut seen = 0;
    loop {
        let Ok(stopped) = stop.0.lock() else { return };
        let Ok((stopped, _)) = stop.1.wait_timeout_while(stopped, INTERVAL, |stopped| !*stopped)
        else {
            return;
        };
        if *stopped {
            // Folds the log into the database, so that a stopped relay leaves one whole file.
            copy_back(conn, "TRUNCATE");
            return;
        }
        drop(stopped);
        let commits = signal.commits.load(Ordering::Relaxed);
        if commits == seen {
            continue;
        }
        seen = commits;
        if copy_back(conn, "PASSIVE") >= RESET_FROM_PAGES {
            // What was written during the first copy; after it hardly anything is left to the writer.
            copy_back(conn, "PASSIVE");
            signal.reset.store(true, Ordering::Relaxed);
        }
    }
}

/// Copies what readers let go; returns the pages in the log.
fn copy_back(conn: &Connection, mode: &str) -> i64 {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    conn.query_row(&sql, [], |row| row.get(1)).unwrap_or_else(|error| {
        tracing::warn!(%error, "a checkpoint failed; it will be tried again");
        0
    })
}
